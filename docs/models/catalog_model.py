#!/usr/bin/env python3
"""Exhaustive: a catalog, a map that grows over registers (protocol 2.11). Each node is a register, an atomic cell: absent, a leaf with its
entries, splitting (a leaf that takes no change any more), or split. A full leaf is split by whoever meets it: leaf > splitting > each child
made with its part, only where there is none yet > split. A child whose entries are all gone stays there, empty.

Two keys x, y that belong into two different children, and z that fills the leaf. Clients insert x, remove x and insert y; each works on the leaf
that it finds, goes on to the child when it is split, and helps when it is splitting. Two helpers may each stop or be late between any two
steps, with what they read long before. Check: an entry whose insertion was told stays until its removal begins; one whose removal was told
never comes back; a lookup finds what a listing finds; every split can be finished."""
import sys, time
from explore import explore, report

LIMIT = 2
def run(make='if absent', freeze=True, order='children first', skip_empty=False):
    # root: ('leaf', entries) | ('splitting', entries) | ('split',); kids: None | entries; helpers: None | (entries seen, made, stage); clients: ops left
    start = (('leaf', frozenset('z')), (None, None), (None, None), ('ins', 'ins'), 'no')
    kid = lambda k: 0 if k in 'xz' else 1
    part = lambda es, i: frozenset(k for k in es if kid(k) == i)
    def nexts(st):
        root, kids, helpers, (cx, cy), told = st
        def mk(**kw): d = dict(root=root, kids=kids, helpers=helpers, cl=(cx, cy), told=told); d.update(kw); return tuple(d[n] for n in ('root', 'kids', 'helpers', 'cl', 'told'))
        def setk(i, v): return tuple(v if j == i else k for j, k in enumerate(kids))
        def cl(k, v): return (v, cy) if k == 'x' else (cx, v)
        for k, phase in (('x', cx), ('y', cy)):
            def changed(insert):                                        # the change of k, wherever its leaf is
                if root[0] == 'leaf' or (not freeze and root[0] == 'splitting'):
                    es = root[1] | {k} if insert else root[1] - {k}
                    if insert and len(es) > LIMIT and root[0] == 'leaf': return None
                    return dict(root=(root[0], es))
                if root[0] == 'split':
                    i = kid(k); have = kids[i] if kids[i] is not None else frozenset()
                    return dict(kids=setk(i, have | {k} if insert else have - {k}))
                return None
            if phase == 'ins':
                to = changed(True)
                if to: yield f'{k} inserted', mk(cl=cl(k, 'in'), **to)
            if phase == 'in' and k == 'x': yield 'x: removal begins', mk(cl=cl(k, 'rm'))
            if phase == 'rm':
                to = changed(False)
                if to: yield 'x removed', mk(cl=cl(k, 'out'), **to)
        if root[0] == 'leaf' and len(root[1]) >= LIMIT: yield 'leaf > splitting', mk(root=('splitting', root[1]))
        for h in (0, 1):
            me = helpers[h]
            def seth(v): return tuple(v if j == h else x for j, x in enumerate(helpers))
            if me is None and root[0] == 'splitting': yield f'helper {h} reads', mk(helpers=seth((root[1], frozenset())))
            if me is not None and me != 'done':
                es, made = me
                if skip_empty: made = made | {i for i in (0, 1) if not part(es, i)}
                for i in (0, 1):
                    if i in made: continue
                    p = part(es, i)
                    if make == 'if absent': new = kids[i] if kids[i] is not None else p
                    else: new = p
                    yield f'helper {h} makes child {i} of {set(p) or "{}"}', mk(kids=setk(i, new), helpers=seth((es, made | {i})))
                if len(made) == 2 or order != 'children first':
                    if root[0] == 'splitting': yield f'helper {h}: > split', mk(root=('split',), helpers=seth('done' if len(made) == 2 else me))
                    elif len(made) == 2: yield f'helper {h} is late', mk(helpers=seth('done'))
    def entries(root, kids):
        if root[0] != 'split': return root[1]
        return frozenset().union(*[k for k in kids if k is not None])
    def broken(st):
        root, kids, helpers, (cx, cy), told = st
        es = entries(root, kids)
        if 'z' not in es: return 'an entry that was there is lost'
        if cx == 'in' and 'x' not in es: return 'an inserted entry is lost'
        if cx == 'out' and 'x' in es: return 'a removed entry is back'
        if cy == 'in' and 'y' not in es: return 'an inserted entry is lost'
    return explore([start], nexts, broken, finish=lambda n: n.startswith('helper'), done=lambda st: st[0][0] != 'splitting')

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('K1 frozen, children made only where there is none, then split', True, dict()),
        ('K2 the same, and no child is made of nothing', True, dict(skip_empty=True)),
        ('k2 a child is put over what is there', False, dict(make='over')),
        ('k3 the splitting leaf takes changes', False, dict(freeze=False)),
        ('k4 split before the children are there', False, dict(order='split first'))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
