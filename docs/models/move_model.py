#!/usr/bin/env python3
"""Exhaustive: a volume moved to another pool while clients write, by hosts that crash, are lost, and take the volume over (protocol 4.6).

The source's register S: (version, epoch, owner, moved to, in the trash). Each host has a copy of its own in the other pool: (memory and journal, stored, named).
Mover: own S > copy what S holds, beside writes > hold the clients and drain > copy the rest > store the copy > CAS S: released and moved to the copy, requires the own
epoch > clients go on with the copy > name the copy > S to the trash. A CAS may be answered, or its outcome unknown: then it lands as long as S is what it was made on, or never.
Who does not know claims S anew before its clients go on there: refused, it has moved; done, the old CAS lands no more. A claim of what has moved is refused, forced or not.
A crash leaves the copy's journal; a lost host leaves what is stored. Anybody who comes by S's name and finds it moved names the copy and puts S into the trash.
Whoever gives a copy up claims S first, as its owner. A write is acknowledged by who owns S still, or by the copy that S moved to.
Check: what was acknowledged is in the volume: in S as long as it has not moved, else in what is stored of the copy; and the volume has a name in the end, whoever is left."""
import sys, time
from explore import explore, report

def run(hold=True, store=True, cas='epoch', claim='unless moved', unknown='claim', shared=False, finish='name first', give_up='claim', hosts=2, writes=2, epochs=3):
    # S, its data, copies, hosts: (phase, session's epoch, what it has copied), CAS on its way: (version, host) or None, acknowledged
    start = ((0, 1, 0, None, False), 0, tuple((-1, -1, False) for _ in range(hosts)), (('idle', 1, 0),) + tuple(('idle', 0, 0) for _ in range(hosts - 1)), None, 0)
    held = ('held', 'rest', 'stored', 'sent')
    def nexts(st):
        S, data, T, H, late, acked = st; ver, epoch, owner, moved, trash = S
        for h in range(hosts):
            phase, mine, seen = H[h]; t = 0 if shared else h
            def host(*new): return H[:h] + (new,) + H[h + 1:]
            def copy(*new): return T[:t] + (new,) + T[t + 1:]
            mem, sto, named = T[t]
            owns = mine == epoch and owner == h and (moved is None or claim != 'unless moved')
            if acked < writes:
                if owns and (phase not in held or not hold) and phase != 'moved': yield f'a write on {h} to the source', (S, data + 1, T, H, late, acked + 1)
                if phase == 'moved' or named and moved == t and phase == 'idle': yield f'a write on {h} to the copy', (S, data, copy(mem + 1, sto + 1 if sto == mem else mem + 1, named), H, late, acked + 1)
            if epoch < epochs and phase == 'idle' and not trash and not owns:
                if moved is None or claim == 'any': yield f'{h} takes the source over', ((ver + 1, epoch + 1, h, moved, trash), data, T, host('idle', epoch + 1, 0), late, acked)
            # Who was shut out does not know it yet: so may its copying be.
            if phase == 'idle' and mine and not named and (moved is None or mine != epoch): yield f'{h} copies', (S, data, copy(data, -1, False), host('copied', mine, data), late, acked)
            if phase == 'copied': yield f'{h} holds its clients', (S, data, T, host('held', mine, seen), late, acked)
            if phase == 'held' and (owns or moved is None): yield f'{h} copies the rest', (S, data, copy(data if owns else seen, sto, named), host('rest', mine, seen), late, acked)
            if phase in ('held', 'rest', 'stored'): yield f'{h} gives the switch up for now', (S, data, T, host('idle', mine, 0), late, acked)
            if phase == 'rest': yield f'{h} stores the copy', (S, data, copy(mem, mem if store else sto, named), host('stored', mine, seen), late, acked)
            if phase == 'stored':
                if moved is None and (epoch == mine and owner == h or cas == 'any'):
                    yield f'{h} moves the source', ((ver + 1, epoch, owner, t, trash), data, T, host('moved', 0, 0), late, acked)
                    if late is None: yield f'{h} moves the source, no answer', (S, data, T, host('sent', mine, seen), (ver, t), acked)
                else: yield f'{h} is shut out', (S, data, T, host('idle', 0, 0), late, acked)
            if phase == 'sent':
                if unknown == 'claim':
                    if moved == t: yield f'{h} sees that it has moved', (S, data, T, host('moved', 0, 0), late, acked)
                    elif owner != h or moved is not None: yield f'{h} is shut out', (S, data, T, host('idle', 0, 0), late, acked)
                    elif epoch < epochs: yield f'{h} claims anew', ((ver + 1, epoch + 1, h, moved, trash), data, T, host('idle', epoch + 1, 0), late, acked)
                else: yield f'{h} lets its clients go on', (S, data, T, host('idle', mine, 0), late, acked)
            if phase == 'moved' and finish == 'trash first' and not trash: yield f'{h} puts the source into the trash', ((ver, epoch, owner, moved, True), data, T, H, late, acked)
            if phase == 'moved' and not named and (trash or finish == 'name first'): yield f'{h} names its copy', (S, data, copy(mem, sto, True), H, late, acked)
            if phase == 'idle' and mem >= 0 and not named and give_up == 'look' and moved is None: yield f'{h} looks', (S, data, T, host('looked', mine, 0), late, acked)
            if phase == 'idle' and mem >= 0 and not named and give_up == 'claim' and moved is None and owner == h and epoch < epochs:
                yield f'{h} claims anew', ((ver + 1, epoch + 1, h, moved, trash), data, T, host('looked', epoch + 1, 0), late, acked)
            if phase == 'looked': yield f'{h} gives its copy up', (S, data, copy(-1, -1, False), host('idle', mine, 0), late, acked)
            if phase != 'idle' or mine: yield f'{h} crashes', (S, data, T, host('idle', 0, 0), late, acked)
            if (phase != 'idle' or mine) and sto < mem and not shared: yield f'{h} is lost', (S, data, copy(sto, sto, named), host('idle', 0, 0), late, acked)
        if late is not None:
            lands = late[0] == ver and moved is None
            yield 'the CAS on its way lands' if lands else 'the CAS on its way is refused', ((ver + 1, epoch, owner, late[1], trash) if lands else S, data, T, H, None, acked)
            yield 'the CAS on its way never lands', (S, data, T, H, None, acked)
        if moved is not None and not trash and finish == 'name first':
            mem, sto, named = T[moved]
            if not named and sto >= 0: yield 'finisher: the copy is named', (S, data, T[:moved] + ((mem, sto, True),) + T[moved + 1:], H, late, acked)
            if named: yield 'finisher: the source is in the trash', ((ver, epoch, owner, moved, True), data, T, H, late, acked)
    def broken(st):
        (ver, epoch, owner, moved, trash), data, T, H, late, acked = st
        if moved is None and data != acked: return 'an acknowledged write is not in the source'
        if moved is not None and T[moved][1] != acked: return 'an acknowledged write is not in what is stored of the copy'
    def done(st): return st[0][3] is None or st[0][4] and st[2][st[0][3]][2]
    return explore([start], nexts, broken, limit=3_000_000, finish=lambda n: n.startswith('finisher'), done=done)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('V1 hold, copy the rest, store, CAS by the own epoch, name, trash', True, dict()),
        ('V2 the same with three writes', True, dict(writes=3)),
        ('v1 clients are not held while the rest is copied', False, dict(hold=False)),
        ('v2 the source is left before the copy is stored', False, dict(store=False)),
        ('v3 the CAS does not require the own epoch', False, dict(cas='any')),
        ('v4 what has moved can be claimed', False, dict(claim='any')),
        ('v5 clients go on at the source while it is not known whether it has moved', False, dict(unknown='go on')),
        ('v6 hosts share one copy', False, dict(shared=True)),
        ('v7 the source goes into the trash before the copy has its name', False, dict(finish='trash first')),
        ('v8 a copy is given up after a look', False, dict(give_up='look'))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
