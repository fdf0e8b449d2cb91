#!/usr/bin/env python3
"""Exhaustive: a clone is flattened while it is written to, snapshotted, taken back and cut off, and its parent is removed when it may be
(protocol 4.4, 4.7).

States of the clone form a tree; each stands on the parent (some block of its map is the parent's) or not. Flattening writes the blocks of the
tip again, walks a recorded map of it, and sets `flat` in the head: that state and all later ones stand on their own. Going back to an older one
clears it in the CAS of the rollback. When no state below `flat` is left, `dropped` is set in the head, then the pin is dropped; the parent's
remover drops a pin whose clone is `dropped`, and removes the parent where there is none.
Check: while a state stands on the parent, the parent is there. Finish: what is flat for good can always let go of its parent.
Variants: who sets flat doesn't look whether the volume went back meanwhile; a rollback leaves flat as it is; the map that is walked is the
session's, which the loss of the host takes; the pin goes when the tip is flat, whatever its snapshots stand on."""
import sys, time
from explore import explore, report

STATES = 4

def run(descends=True, clears=True, recorded=True, judges=True):
    # states: tuple of (id, parent, stands on the parent), tip id, next id, flat, dropped, pin, parent there, walked (what was found flat),
    # live (the tip was written again, and no checkpoint has recorded that)
    start = (((1, 0, True),), 1, 2, 0, False, True, True, 0, False)
    def nexts(st):
        states, tip, nxt, flat, dropped, pin, there, walked, live = st
        ids = {s[0]: s for s in states}
        def put(i, stands): return tuple((s[0], s[1], stands if s[0] == i else s[2]) for s in states)
        def all_descend(f):
            good = {f}
            return all(i < f or i in good or (p in good and not good.add(i)) for i, p, _ in sorted(states))
        if ids[tip][2] and not live: yield 'the tip is written again', (states, tip, nxt, flat, dropped, pin, there, walked, True)
        if live:
            yield 'checkpoint', (put(tip, False), tip, nxt, flat, dropped, pin, there, walked, False)
            yield 'the host is lost', (states, tip, nxt, flat, dropped, pin, there, 0, False)
        if not flat and (not ids[tip][2] or live and not recorded) and walked != tip: yield 'walks the map', (states, tip, nxt, flat, dropped, pin, there, tip, live)
        if walked and not flat:
            if not descends or (walked in ids and all_descend(walked)):
                yield 'sets flat', (states, tip, nxt, walked, dropped, pin, there, 0, live)
            else: yield 'begins anew', (states, tip, nxt, flat, dropped, pin, there, 0, live)
        if nxt <= STATES and not live:
            yield 'mark', (states + ((nxt, tip, ids[tip][2]),), nxt, nxt + 1, flat, dropped, pin, there, walked, live)
            for i, p, stands in states:
                if i == tip: continue
                to = flat if i >= flat or not clears else 0
                kept = states + ((nxt, i, stands),)
                yield f'back to {i}, keeping', (kept, nxt, nxt + 1, to, dropped, pin, there, walked, live)
                gone = tuple(s for s in kept if s[0] != tip)
                yield f'back to {i}', (gone, nxt, nxt + 1, to, dropped, pin, there, walked, live)
        for i, p, _ in states:
            if i != tip and sum(s[1] == i for s in states) < 2:
                left = tuple((s[0], p if s[1] == i else s[1], s[2]) for s in states if s[0] != i)
                yield f'{i} removed', (left, tip, nxt, flat, dropped, pin, there, walked, live)
        if flat and not dropped and (not judges or all(i >= flat for i in ids)):
            yield 'none is older: sets dropped', (states, tip, nxt, flat, True, pin, there, walked, live)
        if dropped and pin: yield 'drops the pin', (states, tip, nxt, flat, dropped, False, there, walked, live)
        if there and not pin: yield 'parent removed', (states, tip, nxt, flat, dropped, pin, False, walked, live)
    def broken(st):
        states, tip, _, flat, dropped, _, there, _, _ = st
        if not there and any(s[2] for s in states): return 'a state stands on a parent that is gone'
    free = lambda st: st[3] and all(i >= st[3] for i, _, _ in st[0])
    return explore([start], nexts, broken, finish=lambda n: n.split()[0] in ('none', 'drops', 'parent'),
                   done=lambda st: not st[6] or not free(st))

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('F1 flat where all later states descend; cleared by going back', True, dict()),
        ('f1 flat is set though the volume went back meanwhile', False, dict(descends=False)),
        ('f2 going back to an older state leaves flat', False, dict(clears=False)),
        ('f3 the session\'s map is walked, not a recorded one', False, dict(recorded=False)),
        ('f4 let go while snapshots stand on the parent', False, dict(judges=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
