#!/usr/bin/env python3
"""Deterministic: which objects to collect (protocol 5.5, 7). Space held and blocks written under overwrite, by policy.

A volume of V blocks is written whole once, then overwritten block by block: `uniform`, or `80/20` (80 % of the writes go to 20 % of the
blocks, scattered). Objects are chunks (C blocks as they come, overwrites inside one absorbed) and packs (survivors of several objects,
at most C). When objects hold more than target x live, the best ones are packed until they don't. Policies:
greedy   fewest survivors first                        benefit  largest (1-u) * age / (1+u), u = share that survives, age of its data
apart    greedy, but 0.15 * ln(how much more slowly objects packed g times die than new ones) is taken off their share, and a pack
         takes objects of one g (0, 1, 2 and more) only: cold data is collected earlier and stays apart; without skew it is greedy
Prints for each the mean and largest space over the second half, and blocks written for each block of the user's."""
import math, random

def run(policy, load, target, V, C, passes=16, seed=1):
    r = random.Random(seed)
    hot = list(range(V)); r.shuffle(hot); cut = V // 5
    where = [None] * V; objs = {}; nxt = held = now = packed = cut_blocks = 0
    died = [0.0] * 3; colder = [0.0] * 3; draft = set(); series = []; mark = None
    def retire(o):
        nonlocal held
        held -= objs.pop(o)[0]
    def make(blocks, newest, g):
        nonlocal nxt, held
        o = nxt; nxt += 1; objs[o] = [len(blocks), set(blocks), newest, g]; held += len(blocks)
        for b in blocks:
            old = where[b]
            if old is not None and old in objs:
                objs[old][1].discard(b)
                if g == 0: died[objs[old][3]] += 1
                if not objs[old][1]: retire(old)
            where[b] = o
    def score(o):
        size, live, newest, g = objs[o]; u = len(live) / size
        if policy == 'benefit': return (1 - u) * (now - newest + 1) / (1 + u)
        return -u + (colder[g] if policy == 'apart' else 0)
    def collect():
        nonlocal packed
        live = [1e-9] * 3
        for o in objs.values(): live[o[3]] += len(o[1])
        for g in range(3):
            pace = lambda g: max(died[g] / live[g], 1e-9)
            colder[g] = 0.15 * min(3, math.log(max(1, pace(0) / pace(g)))) if g else 0
        for g in range(3): died[g] *= 0.98
        while held > target * sum(live):
            best = sorted((o for o in objs if len(objs[o][1]) < objs[o][0]), key=score, reverse=True)
            if not best: return
            if policy == 'apart': best = [o for o in best if objs[o][3] == objs[best[0]][3]]
            take, n = [], 0
            for o in best:
                if take and n + len(objs[o][1]) > C: break
                take.append(o); n += len(objs[o][1])
            blocks = [b for o in take for b in objs[o][1]]
            newest = sum(objs[o][2] * len(objs[o][1]) for o in take) / max(n, 1)
            packed += n
            make(blocks, newest, min(2, 1 + min(objs[o][3] for o in take)))
            for o in take:
                if o in objs: retire(o)
    total = V * (passes + 1)
    for now in range(total):
        b = now if now < V else r.randrange(V) if load == 'uniform' else \
            hot[r.randrange(cut)] if r.random() < .8 else hot[cut + r.randrange(V - cut)]
        draft.add(b)
        if (now + 1) % C == 0:
            cut_blocks += len(draft); make(list(draft), now, 0); draft = set(); collect()
            if now > total // 2:
                mark = mark or (now, cut_blocks, packed)
                series.append(held / V)
    return sum(series) / len(series), max(series), (cut_blocks - mark[1] + packed - mark[2]) / (now - mark[0])

if __name__ == '__main__':
    for load, targets in (('uniform', (1.4, 1.45)), ('80/20', (1.3, 1.45))):
        for policy in ('greedy', 'benefit', 'apart'):
            for t in targets:
                print(f'{load:8} {policy:8} {t:5.2f}   space %.3f (at most %.3f)   written %.2f' % run(policy, load, t, 96 * 256, 256), flush=True)
