#!/usr/bin/env python3
"""Exhaustive: all stores of a volume are put back from a backup, once, while hosts run on or start anew (protocol 1.3, 1.8): is an ownership its count?

Hosts A and B, each with a state folder (the lineage: ownerships that it has had), a cache of chunks by their names, and sessions. A chunk is named by (ownership, place
in the log); its put is if-absent. The head has the active ownership, its owner, whether it is released, and the log up to where that ownership began; what the active
one has stored since is found by a walk. A write is flushed here when its chunk is stored and the head still shows the ownership.
backup  what the stores hold     back  they hold that again: `left` = what is newer was left in place (rsync without --delete), or is gone
claim   released, or of the lineage: the next ownership. `drawn`: its number is one that no other claim ever has; else it is counted up from the head's
That a host takes no head that is behind what it confirmed (1.12) is left out: hosts that never owned the volume have nothing
to compare. An owner of the very ownership that the backup shows is ended before (docs/how-to/stores-that-tell-something-else.md).
Checks: M a session or a claim of the history that is gone goes on in the one that there is     T two contents under one name (the put is refused for good)
        L a write that was flushed in the history that there is is not in it                     R a read shows a block of the history that is gone"""
import sys, time
from explore import explore, report

def run(drawn=True, left=False, writes=3, claims=4, limit=2_000_000):
    # head (number, ghost, owner, released, log), objects {name: content}, hosts (phase, number, ghost, count, lineage, ghosts, cache), flushed, backup, n, drawn numbers
    H = ('off', 0, 0, 0, frozenset(), frozenset(), frozenset())
    start = ((0, 0, '', True, ()), frozenset(), (H, H), frozenset(), None, 0, 1, None)

    def nexts(st):
        head, objs, hs, fl, bk, n, g, _ = st
        num, gh, own, rel, log = head; there = dict(objs)
        def to(i=None, h=None, head=head, objs=objs, fl=fl, bk=bk, n=n, g=g, why=None):
            return (head, objs, hs if i is None else hs[:i] + (h,) + hs[i + 1:], fl, bk, n, g, why)
        def walk():
            k, out = len(log) + 1, ()
            while (num, k) in there: out += ((num, k),); k += 1
            return log + out
        if bk is None: yield 'a backup is made', to(bk=(head, objs, fl))
        elif bk != 'used':
            o2 = frozenset((dict(objs) | dict(bk[1])).items()) if left else bk[1]
            # Who owns the volume by the very ownership of the backup starts anew: it counts on what it has stored since.
            h2 = tuple(('off', 0, 0, 0) + h[4:] if h[2] == bk[0][1] else h for h in hs)
            yield 'the stores are put back' + (', what is newer is left' if left else ''), (bk[0], o2, h2, bk[2], 'used', n, g, None)
        for i, (ph, mine, mg, cnt, lin, gl, cache) in enumerate(hs):
            name = 'AB'[i]
            if ph != 'off': yield f'{name} is killed', to(i, ('off', 0, 0, 0, lin, gl, cache))
            if ph == 'off' and g <= claims and (rel or num in lin):
                l2 = walk(); got = {there[x] for x in l2}; e = (g if drawn else num + 1, g)
                why = None
                if not rel and gh not in gl: why = 'M a claim by the lineage of a history that is gone'
                elif fl - got: why = 'L a flushed write is lost'
                yield f'{name} claims, records', to(i, ('up', e[0], e[1], 0, lin | {e[0]}, gl | {e[1]}, cache), head=(e[0], e[1], name, False, l2), g=g + 1, why=why)
            if ph == 'up' and num != mine: yield f'{name} is fenced', to(i, ('off', 0, 0, 0, lin, gl, cache))
            if ph == 'up' and num == mine and not rel and n < writes:
                x = (mine, len(log) + cnt + 1)
                why = 'M a session of a history that is gone goes on' if mg != gh else 'T two contents under one name' if x in there else None
                yield f'{name} writes, stores, flushes', to(i, (ph, mine, mg, cnt + 1, lin, gl, cache | {(x, n)}), objs=objs | {(x, n)}, fl=fl | {n}, n=n + 1, why=why)
            if ph == 'up' and num == mine and mg == gh and not rel:
                yield f'{name} releases', to(i, ('off', 0, 0, 0, lin, gl, cache), head=(num, gh, own, True, log + tuple((mine, len(log) + k + 1) for k in range(cnt))))
            if ph == 'up' and num == mine and any(x in log and dict(objs).get(x) != c for x, c in cache): yield 'look', to(why='R a read shows what is gone')
        # Of a volume that nobody owns anybody reads.
        if rel and any(x in log and there.get(x) != c for h in hs for x, c in h[6]): yield 'look', to(why='R a read shows what is gone')

    def broken(st): return st[7]
    return explore([start], nexts, broken, limit)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('N1 numbers are drawn', True, dict()),
        ('N2 the same, what is newer was left', True, dict(left=True)),
        ('n1 numbers are counted', False, dict(drawn=False)),
        ('n2 the same, what is newer was left', False, dict(drawn=False, left=True))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
