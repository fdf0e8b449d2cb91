#!/usr/bin/env python3
"""Exhaustive: plans that label new stores and then seal the pool register, several at once (protocol 2.7-2.9).

The pool register is one atomic cell {generation, which incarnation is listed at which place, plan}: any two quorums of those whom the
planners ask meet (models generation, recover). A place is a store that is to be taken in: empty, or with the label of a plan
that came to nothing. Planners, each with its places, do these steps, and begin anew with fresh incarnations, `tries` in all:
  read   the register: the generation, and what is listed           judge  each place: its label's etag, unless what it shows is listed
  plan   CAS: if the generation is the one that was read, the plan is mine
  label  each place, put if-match the judged etag (if-absent where there was none), seen by a get; a put lands late, or never
  seal   CAS: if the generation is the one that was read, and the plan mine: my incarnations are listed
Anyone may die anywhere, its puts land all the same. A place may be wiped. An incarnation stands for its label's etag: drawn once, put once.
data: the places hold data only, and keep no conditions (2.15): the label is looked at, put whatever is there by then, and looked at again.
A listed label may be put over there: the store is out, its shards are read by its other life, and it is taken in anew.
Checks: L  a listed store's label is never put over (what was acknowledged on it would be lost); not asked of data
        S  Z, alone after all others have died or ended, brings it about that its places are listed and show so."""
import sys, time
from explore import explore, report

RULE = ('read', 'judge', 'plan', 'label', 'seal')

def run(places, order=RULE, asked=True, over=True, tries=2, wipes=0, data=False, blind=False, limit=4_000_000):
    """places: planner -> its places. asked: the seal asks whether the plan is its own. over: labels of others are put over. blind: conditions are ignored, and the store counts as if they held."""
    names = sorted(places); spots = sorted({x for p in places.values() for x in p}); at = {x: i for i, x in enumerate(spots)}
    idle = (0, 0, None, None, (), frozenset())                          # step, try, generation and list read, judged, seen by a get
    start = ((0, (None,) * len(spots), None), (None,) * len(spots), tuple([idle] * len(names)), frozenset(), wipes, None)
    ended = ('over', 'done')

    def nexts(st):
        (gen, listed, plan), labels, ps, sent, left, why = st
        def lay(x, v): return labels[:at[x]] + (v,) + labels[at[x] + 1:]
        def to(cell=st[0], labels=labels, ps=ps, sent=sent, left=left, why=None): return cell, labels, ps, sent, left, why
        for put in sent:
            x, inc, etag = put
            there = labels[at[x]]
            lost = 'L a listed label is put over' if not data and there and listed[at[x]] == there else None
            if there == etag or data or blind: yield f'{inc} lands on {x}', to(labels=lay(x, inc), sent=sent - {put}, why=lost)
            else: yield f'{inc} is refused on {x}', to(sent=sent - {put})
        if left:
            for x in spots:
                if labels[at[x]]: yield f'{x} is wiped', to(labels=lay(x, None), left=left - 1)
        for i, me in enumerate(names):
            step, n, seen, known, judged, shown = ps[i]
            if step in ended or me == 'Z' and any(p[0] not in ended for p in ps[:-1]): continue
            inc = f'{me}{n}'; own = places[me]; what = order[step]
            def out(p, **ch): return to(ps=ps[:i] + (p,) + ps[i + 1:], **ch)
            def go(seen=seen, known=known, judged=judged, shown=shown, step=step + 1, **ch): return out((step, n, seen, known, judged, shown), **ch)
            anew = (0, n + 1) + idle[2:] if n + 1 < tries else ('over',) + idle[1:]
            mine = [s for s in sent if s[1] == inc]
            refused = what == 'label' and len(judged) == len(own) and any(labels[at[x]] not in (inc, e) for x, e in zip(own, judged))
            if me != 'Z' and step: yield f'{me} begins anew', out(anew)
            if me != 'Z': yield f'{me} dies', out(('over',) + idle[1:])
            if me == 'Z' and refused and not mine: yield 'Z begins anew', out((0, n + 1) + idle[2:])
            if judged and known and any(e and known[at[x]] == e for x, e in zip(own, judged)):
                yield f'{me} stops: a place is taken', out(('done',) + idle[1:]); continue
            if what == 'read': yield f'{me} reads generation {gen}', go(seen=gen, known=listed)
            if what == 'judge':
                e = labels[at[own[len(judged)]]]
                if e and not over and (not known or known[at[own[len(judged)]]] != e): continue
                yield f'{me} judges {own[len(judged)]} {e}', go(judged=judged + (e,), step=step + (len(judged) + 1 == len(own)))
            if what == 'plan':
                if gen == seen: yield f'{me} plans', go(cell=(gen, listed, inc))
                else: yield f'{me} stops: another was first', out(anew)
            if what == 'check' and (gen, plan) == (seen, inc): yield f'{me} finds its plan', go()
            if what == 'label' and not shown and not mine and not refused and not any(labels[at[x]] == inc for x in own):
                yield f'{me} sends {inc}', to(sent=sent | {(x, inc, e) for x, e in zip(own, judged)})
            if what == 'label':
                for x in own:
                    if x not in shown and labels[at[x]] == inc:
                        yield f'{me} sees {inc} on {x}', go(shown=shown | {x}, step=step + (len(shown) + 1 == len(own)))
            if what == 'seal':
                new = tuple(inc if x in own else v for x, v in zip(spots, listed))
                if gen == seen and (not asked or plan == inc): yield f'{me} SEALS', out(('done',) + idle[1:], cell=(gen + 1, new, None))
                else: yield f'{me} stops: another was first', out(anew)

    there = lambda st: all(st[1][at[x]] and st[0][1][at[x]] == st[1][at[x]] for x in places['Z'])
    fin = (lambda name: name[0] == 'Z' or name.endswith('dies')) if 'Z' in names else None
    return explore([start], nexts, lambda st: st[5], limit, fin, lambda st: there(st) or st[2][-1][0] == 'done')

if __name__ == '__main__':
    one, cross, part = {'A': 'x', 'B': 'x'}, {'A': 'xy', 'B': 'yx'}, {'A': 'xy', 'B': 'y'}; bad = 0
    for label, ok, args, kw in [
        ('G1 two planners, one place, three tries each', True, one, dict(tries=3)),
        ('G2 three planners, one place', True, dict(one, C='x'), dict(tries=1)),
        ('G3 two planners, two places, both of both', True, cross, dict(tries=1)),
        ('G4 two planners, one has one place more', True, part, dict()),
        ('G5 G1, places are wiped', True, one, dict(wipes=2)),
        ('G6 whoever dies wherever, another goes on', True, dict(one, Z='x'), dict()),
        ('G7 the same, two places', True, dict(part, Z='xy'), dict(tries=1)),
        ('G8 judged after it planned, and its plan found again: one round more', True, one, dict(tries=3, order=('read', 'plan', 'judge', 'check', 'label', 'seal'))),
        ('G9 data only: two planners, one place, three tries each', True, one, dict(tries=3, data=True)),
        ('G10 data only: whoever dies wherever, another goes on, puts landing late', True, dict(one, Z='x'), dict(data=True)),
        ('G11 the same, two places, wiped', True, dict(part, Z='xy'), dict(tries=1, data=True)),
        ('z6 G1 on a store that ignores conditions and holds registers', False, one, dict(tries=3, blind=True)),
        ('z1 no plan is registered (as it was)', False, one, dict(order=('read', 'judge', 'label', 'seal'), asked=False)),
        ('z2 the same, judged before the register is read', False, one, dict(order=('judge', 'read', 'label', 'seal'), asked=False)),
        ('z3 judged after it planned', False, one, dict(order=('read', 'plan', 'judge', 'label', 'seal'))),
        ('z4 the seal does not ask whose plan it is', False, one, dict(asked=False)),
        ("z5 labels of plans that came to nothing are left alone", False, dict(one, Z='x'), dict(over=False)),
        ]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(args, **kw), ok, t0)
    sys.exit(bad > 0)
