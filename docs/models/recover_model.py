#!/usr/bin/env python3
"""Exhaustive: a register (CASPaxos over conditional puts, R acceptors) whose lost stores are given up (2.8, force-recover).

O and P change the register by any majority; they reach all stores, also those that F takes for lost. F and G seal it asking
only those that F and G have left, and need a quorum of these (all of them, in the protocol). A seal is a change like any
other: v -> v + '@'; nothing is changed after it. Lost stores never answer F and G. A proposer may stop anywhere.
Check V: the values that anybody was told are chosen form one chain: nothing chosen is forgotten, nothing is chosen beside
the seal. It holds exactly as long as fewer than a majority are given up; else it is a guess, and the tool says so."""
import sys, time
from explore import explore, report
ZERO = (0, 0); ID = {'O': 1, 'F': 2, 'G': 3, 'P': 4}

def run(actors, R, left, quorum=None, limit=3_000_000):
    major = R // 2 + 1
    asked = {me: left.get(me, tuple(range(R))) for me in actors}
    needs = {me: (quorum or len(left[me])) if me in left else major for me in actors}
    start = (((ZERO, ZERO, ()),) * R, tuple([('prepare', (None,) * R, (False,) * R, ())] * len(actors)), ())

    def nexts(st):
        S, ps, told = st
        for i, me in enumerate(actors):
            ph, known, ok, val = ps[i]
            b = (ID[me], ID[me])                                         # O's is the lowest, P's the highest
            def out(p, S=S, told=told): return S, ps[:i] + (p,) + ps[i + 1:], told
            def put(a, o): return S[:a] + (o,) + S[a + 1:]
            if ph == 'prepare':
                for a in asked[me]:
                    if known[a] is None and S[a][0] < b:
                        o = (b,) + S[a][1:]
                        yield f'{me} prepares {a}', out((ph, known[:a] + (o,) + known[a + 1:], ok, val), put(a, o))
                if sum(k is not None for k in known) >= needs[me]:
                    top = max((k for k in known if k), key=lambda k: k[1])[2]
                    v = top if top[-1:] == ('@',) else top + (('@',) if me in left else (me.lower(),))
                    yield f'{me} proposes {v}', out(('accept', known, ok, v))
            if ph == 'accept':
                for a in asked[me]:
                    if known[a] is not None and not ok[a] and S[a] == known[a]:
                        yield f'{me} accept lands on {a}', out((ph, known, ok[:a] + (True,) + ok[a + 1:], val), put(a, (b, b, val)))
                if sum(ok) >= needs[me]:
                    yield f'{me} TOLD {val}', out(('done', (), (), ()), told=told if val in told else tuple(sorted(told + (val,))))

    def broken(st):
        if any(x[:len(y)] != y and y[:len(x)] != x for x in st[2] for y in st[2]): return f'V a chosen value is lost: {st[2]}'
    return explore([start], nexts, broken, limit)

if __name__ == '__main__':
    bad = 0
    for label, ok, args in [
        ('R1 two stores, one given up, changes under way', True, ('OPF', 2, {'F': (0,)})),
        ('R2 the same, two changes, and another that recovers', True, ('OPFG', 2, {'F': (0,), 'G': (0,)})),
        ('R3 four stores, two given up, changes under way', True, ('OPF', 4, {'F': (0, 1)})),
        ('R4 four stores, two recover: one has given up two, the other one', True, ('OFG', 4, {'F': (0, 1), 'G': (0, 1, 2)})),
        ('z1 three stores, two given up: a guess', False, ('OF', 3, {'F': (0,)})),
        ('z2 four stores, three given up: a guess', False, ('OF', 4, {'F': (0,)})),
        ('z3 R3 when one of those that are left is enough', False, ('OF', 4, {'F': (0, 1)}, 1)),
        ('z4 two stores, two recover, each has given up what the other has left', False, ('FGO', 2, {'F': (0,), 'G': (1,)}))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(*args), ok, t0)
    sys.exit(bad > 0)
