#!/usr/bin/env python3
"""Exhaustive: shards brought to a store that takes another's place, until the plan is settled and the old store forgotten (protocol 2.8).

C chunks on N = k+m stores, O the old store of place 0 and P the new one, which is empty. A shard is 1 there, 0 gone.
  silent, back   a store does not answer for a while, `away` times in all      loss  a store of the others loses a shard, `losses` in all
  look     for a chunk: who answers, the new store too, is heard; then it is brought (from the old one, or rebuilt), left for the next
           round, or held for damaged (more than m shards are gone for sure), which holds nothing up: scrub names it
  settle   a round in which nothing was left: the old store is forgotten, and may be deleted
Checks: L  a chunk that had k shards when the plan was settled, the old store's counted, has k without it
        S  once all stores answer again the plan can be settled."""
import sys, time
from explore import explore, report

def run(k, m, C=2, away=2, losses=1, ask_old=True, limit=600_000):
    """ask_old: the new store's 404 counts only when the old one has said that it has none either."""
    N = k + m; OLD, NEW = 0, N                                           # the others are 1..N-1
    start = (((1,) * N + (0,),) * C, frozenset(), away, losses, 0, False, None)

    def nexts(st):
        chunks, quiet, left, lose, at, short, settled = st
        def to(chunks=chunks, quiet=quiet, left=left, lose=lose, at=at, short=short, settled=settled):
            return chunks, quiet, left, lose, at, short, settled
        if settled is not None: return
        for s in range(N + 1):
            if s in quiet: yield f'store {s} is back', to(quiet=quiet - {s})
            elif left: yield f'store {s} is silent', to(quiet=quiet | {s}, left=left - 1)
        for c, shards in enumerate(chunks):
            for s in range(1, N):
                if lose and shards[s]: yield f'store {s} loses c{c}', to(chunks=put(chunks, c, s, 0), lose=lose - 1)
        if at == C:
            if short: yield 'another round', to(at=0, short=False)
            else: yield 'settle', to(settled=chunks)
            return
        shards = chunks[at]
        def heard(s): return s not in quiet
        have = [s for s in range(1, N) if heard(s) and shards[s]] + [s for s in (OLD, NEW) if heard(s) and shards[s]][:1]
        gone = sum(heard(s) and not shards[s] for s in range(1, N))
        told = heard(NEW) and not shards[NEW] and (not ask_old or heard(OLD) and not shards[OLD])
        if heard(NEW) and shards[NEW]: yield f'c{at} is there', to(at=at + 1)
        elif heard(NEW) and (OLD in have or len(have) >= k): yield f'c{at} is brought', to(chunks=put(chunks, at, NEW, 1), at=at + 1)
        elif gone + told > m: yield f'c{at} is held for damaged', to(at=at + 1)
        else: yield f'c{at} is left', to(at=at + 1, short=True)

    def put(chunks, c, s, v):
        shards = chunks[c][:s] + (v,) + chunks[c][s + 1:]
        return chunks[:c] + (shards,) + chunks[c + 1:]

    def broken(st):
        if st[-1] is None: return
        for shards in st[-1]:
            without = sum(shards[1:]); here = without + (shards[OLD] and not shards[NEW])
            if here >= k > without: return 'L a chunk is lost with the store that was replaced'

    def alone(step): return 'loses' not in step and 'silent' not in step
    return explore([start], nexts, broken, limit, finish=alone, done=lambda st: st[-1] is not None)

if __name__ == '__main__':
    bad = 0
    for label, ok, shapes, kw in [
        ('F1 as written', True, ((1, 1), (2, 1), (2, 2)), dict()),
        ('F2 more shards are lost meanwhile than the layout bears', True, ((2, 1), (1, 2)), dict(losses=3)),
        ("x1 the new store's 404 counts by itself", False, ((2, 1),), dict(ask_old=False))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        for k, m in shapes:
            t0 = time.time(); bad += not report(f'{label}: {k}+{m}', run(k, m, **kw), ok, t0)
    sys.exit(bad > 0)
