#!/usr/bin/env python3
"""Exhaustive: all stores of a register are put back from a backup, once, while a host that wrote it last runs on (protocol 2.3, 2.12): what does it bring to a store that missed its write?

Three acceptors (promised, accepted, value), changed by conditional put; ballots are counts. Start: host O's write 5 is on two of them, the third was away and holds the backup's. O stays idle, and
brings its write to the third: it looks there, asks (by the rule) whether a majority still has what it wrote, and puts, if-match, where nothing above is promised. Hosts B and D change the register once
the stores are put back: two rounds each, above what they read, of whatever majority answers.
back    all three hold the backup again         `underway`: O's put may be on its way all the while (else nobody reaches the stores while they are put back, for longer than a request takes)
Check: L what two were told is chosen forms one chain (no chosen change is lost)"""
import sys, time
from itertools import combinations
from explore import explore, report

OLD, NEW = (1, 1, ()), (6, 5, ('o',))

def run(asks=True, underway=False, proposers=2, limit=3_000_000):
    # acceptors, O's step at the third: None, ('saw', state), ('goes', state), 'done'; put back?; proposers (step, ballot, {acceptor: seen}, {acceptor: put}, value); told
    idle = (0, 0, (None,) * 3, (False,) * 3, None)
    start = ((NEW, NEW, OLD), None, False, (idle,) * proposers, (), None)

    def nexts(st):
        acc, o, back, ps, told, _ = st
        def to(acc=acc, o=o, back=back, ps=ps, told=told, why=None): return (acc, o, back, ps, told, why)
        def put(a, new): return acc[:a] + (new,) + acc[a + 1:]
        if not back: yield 'the stores are put back', to(acc=(OLD,) * 3, back=True, o=o if underway or not (o and o[0] == 'goes') else None)
        if o is None and acc[2][1] < NEW[1] and acc[2][0] <= NEW[1]: yield 'O looks at the third', to(o=('saw', acc[2]))
        if o and o[0] == 'saw':
            if asks and sum(a == NEW for a in acc) < 2: yield 'O asks: others have written, or it was put back', to(o=('done',))
            else: yield 'O asks: a majority has it' if asks else 'O goes on', to(o=('goes', o[1]))
        if o and o[0] == 'goes':
            yield 'O puts on the third', to(acc=put(2, NEW) if acc[2] == o[1] else acc, o=('done',))
        if not back: return
        for i, (step, b, seen, ok, val) in enumerate(ps):
            name = 'BD'[i]
            def me(p, **kw): return to(ps=ps[:i] + (p,) + ps[i + 1:], **kw)
            if step == 0:
                for two in combinations(range(3), 2):
                    known = tuple(acc[a] if a in two else None for a in range(3))
                    yield f'{name} reads {two}', me((1, (max(max(x[0], x[1]) for x in known if x) + 1) * 2 + i, known, ok, None))
            if step == 1:
                for a in range(3):
                    if seen[a] and not ok[a] and acc[a] == seen[a]:
                        yield f'{name} prepares {a}', me((1, b, seen, ok[:a] + (True,) + ok[a + 1:], None), acc=put(a, (b, seen[a][1], seen[a][2])))
                if sum(ok) == 2:
                    top = max((x for x in seen if x), key=lambda x: x[1])
                    promised = tuple((b, x[1], x[2]) if x else None for x in seen)
                    yield f'{name} proposes over {top[2]}', me((2, b, promised, (False,) * 3, top[2] + (name.lower(),)))
            if step == 2:
                for a in range(3):
                    if seen[a] and not ok[a] and acc[a] == seen[a]:
                        yield f'{name} accept lands on {a}', me((2, b, seen, ok[:a] + (True,) + ok[a + 1:], val), acc=put(a, (b, b, val)))
                if sum(ok) == 2:
                    lost = val[:len(told)] != told and told[:len(val)] != val
                    yield f'{name} TOLD {val}', me((3, b, (None,) * 3, (False,) * 3, None), told=max(told, val, key=len), why=f'L {told} and {val} are told' if lost else None)
            if 0 < step < 3: yield f'{name} gives up', me((3, 0, (None,) * 3, (False,) * 3, None))

    return explore([start], nexts, lambda st: st[5], limit)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('C1 asked right before, nothing on its way', True, dict()),
        ('c1 not asked', False, dict(asks=False)),
        ('c2 asked, a put on its way while all stores are put back', False, dict(underway=True))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
