#!/usr/bin/env python3
"""Exhaustive: a volume renamed beside other renames, a creation, a removal, and healers of what was broken off (protocol 2.12).

The directory maps a name to (volume, serial). The volume's head has {name, serial, round}: the entry of that name and serial is its *current*
one; a volume that was never renamed has serial 0 and round 0. Directory entries and heads are atomic cells. Everybody may stop or be late anywhere.
Renamer: read the head (round r) > put (volume, r+1) under the new name: where there is none, or over an entry of the same volume with a serial up to r that is not
current > CAS head: name, serial and round := new name, r+1, r+1, requires round r > remove the old entry, exactly as it was.
An entry of serial n is *dead* when n <= round and it is not current, or when its volume is removed; *pending* when n > round. Healer: read an entry > read the head > dead: remove it,
exactly as it was; pending: first CAS round + 1, then it is dead. Creator of another volume under a name: heals what is there, is refused by a current one.
Remover: CAS head: removed > remove the entry that it came by. The trash is a rename to a name of its own (B here): who removes what is there for good came by that
name, and its CAS requires that it is still the current one.
Check: a volume that is there has its current entry in the directory; what is there is found under one name alone in the end, whoever is left to heal."""
import sys, time
from explore import explore, report

NAMES = ('A', 'B')

def run(fence=True, serials=True, cas='round', order='head first', over='new serial', healers=2, back=True, creator=True, remover=True, purge='current'):
    # directory, head (alive, name, serial, round), other volume (phase), renamers, healers, remover
    R = ('B', 'A') if back else ('B',)
    start = ((('V', 0), None), (True, 'A', 0, 0), 'idle', tuple(('idle',) for _ in R), tuple(('idle',) for _ in range(healers)), ('idle',))
    def same(entry, n): return entry is not None and entry[0] == 'V' and (entry[1] == n or not serials)
    def nexts(st):
        d, h, w, rs, hs, rm = st
        alive, name, serial, rnd = h
        if rnd > 5: return
        def put(n, e): i = NAMES.index(n); return d[:i] + (e,) + d[i + 1:]
        def at(n): return d[NAMES.index(n)]
        for i, to in enumerate(R):
            def r(*ph): return rs[:i] + (ph,) + rs[i + 1:]
            ph = rs[i][0]; who = f'renamer to {to}'
            if ph == 'idle' and alive and name != to: yield f'{who} reads the head', (d, h, w, r('read', rnd, name, serial), hs, rm)
            if ph == 'read':
                _, seen, old, was = rs[i]; e = at(to); new = seen + 1
                if e is None: yield f'{who} puts the name', (put(to, ('V', new)), h, w, r('put', seen, old, was), hs, rm)
                elif e[0] == 'W': yield f'{who} is refused', (d, h, w, r('over'), hs, rm)
                elif e[1] == new: yield f'{who} finds the name put', (d, h, w, r('put', seen, old, was), hs, rm)
                elif e[1] < new:
                    if over == 'new serial': yield f'{who} puts the name over a dead one', (put(to, ('V', new)), h, w, r('put', seen, old, was), hs, rm)
                    else: yield f'{who} takes a dead one as it is', (d, h, w, r('put', e[1] - 1 if cas != 'round' else seen, old, was), hs, rm)
                else: yield f'{who} begins anew', (d, h, w, r('idle'), hs, rm)
            if ph == 'put':
                _, seen, old, was = rs[i]; e = at(to); new = seen + 1
                if over != 'new serial' and e and e[0] == 'V': new = e[1]
                if order == 'name first' and same(at(old), was): yield f'{who} removes the old name', (put(old, None), h, w, rs, hs, rm)
                if alive and (rnd == seen or cas != 'round'): yield f'{who} changes the head', (d, (True, to, new, max(rnd, seen) + 1), w, r('named', old, was), hs, rm)
                else: yield f'{who} gives up', (d, h, w, r('over'), hs, rm)
            if ph == 'named':
                _, old, was = rs[i]
                yield f'{who} removes the old name', (put(old, None) if same(at(old), was) else d, h, w, r('idle'), hs, rm)
        for i in range(len(hs)):
            def g(*ph): return hs[:i] + (ph,) + hs[i + 1:]
            ph = hs[i][0]
            if ph == 'idle':
                for n in NAMES:
                    if at(n) and at(n)[0] == 'V': yield f'healer {i} reads {n}', (d, h, w, rs, g('saw', n, at(n)[1]), rm)
            if ph == 'saw':
                _, n, s = hs[i]; current = alive and (n, s) == (name, serial)
                if current: yield f'healer {i}: {n} is current', (d, h, w, rs, g('idle'), rm)
                elif not alive or s <= rnd: yield f'healer {i}: {n} is dead', (d, h, w, rs, g('dead', n, s), rm)
                elif fence: yield f'healer {i}: {n} is pending, round + 1', (d, (alive, name, serial, rnd + 1), w, rs, g('saw', n, s), rm)
                else: yield f'healer {i}: {n} is pending', (d, h, w, rs, g('dead', n, s), rm)
            if ph == 'dead':
                _, n, s = hs[i]
                yield f'healer {i} removes {n}', (put(n, None) if same(at(n), s) else d, h, w, rs, g('idle'), rm)
        if creator and w == 'idle':
            for n in NAMES:
                if at(n) is None: yield f'another is created as {n}', (put(n, ('W', 0)), h, 'there', rs, hs, rm)
        if remover:
            if rm[0] == 'idle' and alive:
                for n in NAMES:
                    if at(n) and at(n)[0] == 'V': yield f'remover comes by {n}', (d, h, w, rs, hs, ('came', n, at(n)[1]))
            purges = rm[0] == 'came' and rm[1] == 'B' and purge is not None
            if purges and alive and purge == 'current' and (name, serial) != rm[1:]: yield 'it was brought back', (d, h, w, rs, hs, ('over',))
            elif rm[0] == 'came' and alive: yield 'volume removed', (d, (False, name, serial, rnd), w, rs, hs, ('gone',) + rm[1:])
            if rm[0] == 'gone': yield 'its name removed', (put(rm[1], None) if same(at(rm[1]), rm[2]) else d, h, w, rs, hs, ('over',))
    def broken(st):
        d, (alive, name, serial, rnd) = st[0], st[1]
        if not alive and name == 'A' and st[5][0] == 'gone' and st[5][1] == 'B' and purge is not None: return 'what was brought back from the trash is removed'
        if alive and d[NAMES.index(name)] is None or alive and d[NAMES.index(name)][0] != 'V': return 'a volume without its name'
        if alive and d[NAMES.index(name)][1] != serial and serials: return 'a volume whose current entry is another'
    def done(st):
        d, (alive, name, serial, rnd) = st[0], st[1]
        mine = [n for n, e in zip(NAMES, d) if e and e[0] == 'V']
        return mine == ([name] if alive else [])
    return explore([start], nexts, broken, limit=4_000_000, finish=lambda n: n.startswith('healer'), done=lambda st: done(st) or st[1][3] >= 5)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('N1 new name, then the head, then the old name; serials and rounds', True, dict()),
        ('n1 a pending entry is removed without a new round', False, dict(fence=False)),
        ('n2 entries without serials', False, dict(serials=False)),
        ('n3 the head is changed without a look at the round', False, dict(cas='any')),
        ('n4 the old name goes before the head is changed', False, dict(order='name first')),
        ('n6 what is removed from the trash need not be there any more', False, dict(purge='any')),
        ('n5 a dead entry of the new name is taken as it is', False, dict(over='as it is'))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
