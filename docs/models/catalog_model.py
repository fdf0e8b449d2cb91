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

def guessed(split_first=True, stamped=True, look_below=True, begin_anew=True):
    """The pool is decided by guess once (protocol 2.9): each register, by itself, is what it is or what it was at some time before. A node is
    stamped with the number of guesses known to whoever split it or made it; one with a lower stamp is *doubtful*: its children may hold
    entries. Whoever looks at a doubtful leaf, or at one that is splitting, looks below it too; whoever changes one splits it first. A child that is there has all
    that its parent held when it was split, but what was removed since: it is left as it is.
    Check: what any register still holds after the guess is found; what is inserted after the guess stays; what is removed after it stays away."""
    kid = lambda k: 1 if k == 'y' else 0
    part = lambda es, i: frozenset(k for k in es if kid(k) == i)
    mark = lambda g: g if stamped else 0
    root0 = ('leaf', frozenset('z'), 0)
    # root, kids: None | (entries, stamp); helper: None | (entries, stamp, made); ever: what root and kids have been; g; w: 'no' 'ins' 'in' 'out'; owed
    start = (root0, (None, None), None, (frozenset([root0]), frozenset([None]), frozenset([None])), 0, 'no', frozenset())
    def found(root, kids, g):
        kind, es, stamp = root
        below = frozenset().union(*[k[0] for k in kids if k])
        if kind == 'split': return below
        return es | below if look_below and (stamp < mark(g) or g and kind == 'splitting') else es
    def nexts(st):
        root, kids, helper, ever, g, w, owed = st
        def mk(root=root, kids=kids, helper=helper, g=g, w=w, owed=owed):
            past = ever if g else (ever[0] | {root}, ever[1] | {kids[0]}, ever[2] | {kids[1]})
            return (root, kids, helper, past if not g else (frozenset(),) * 3, g, w, owed)
        def setk(i, v): return tuple(v if j == i else k for j, k in enumerate(kids))
        doubt = root[0] != 'split' and root[2] < mark(g)
        for k in ('x', 'y') if not g else ('w',):                       # w belongs into child 0 and fills the leaf it comes to
            i = kid(k)
            if k == 'w' and w not in ('no', 'in'): continue
            put = k != 'w' or w == 'no'
            edit = lambda es: es | {k} if put else es - {k}
            after = dict(w={'no': 'in', 'in': 'out'}[w]) if k == 'w' else {}
            if root[0] == 'leaf' and not (doubt and split_first) and (not put or k in root[1] or len(root[1]) < LIMIT): yield f'{k} {"in" if put else "out"}', mk(root=('leaf', edit(root[1]), root[2]), **after)
            if root[0] == 'split':
                have, stamp = kids[i] or (frozenset(), mark(g))
                yield f'{k} {"in" if put else "out"} below', mk(kids=setk(i, (edit(have), stamp)), **after)
        if root[0] == 'leaf' and (len(root[1]) >= LIMIT or doubt): yield '> splitting', mk(root=('splitting', root[1], mark(g)))
        if root[0] == 'splitting' and doubt: yield '> splitting again', mk(root=('splitting', root[1], mark(g)))
        if helper is None and root[0] == 'splitting' and not doubt: yield 'helper reads', mk(helper=(root[1], root[2], frozenset()))
        if helper:
            es, stamp, made = helper
            for i in {0, 1} - made:
                new = kids[i] or (part(es, i), stamp)
                yield f'child {i}', mk(kids=setk(i, new), helper=(es, stamp, made | {i}))
            if len(made) == 2: yield '> split', mk(root=('split', frozenset(), stamp) if root[0] == 'splitting' and (root[2] == stamp or not begin_anew) else root, helper=None)
        if not g:
            for r in ever[0] | {root}:
                for a in ever[1] | {kids[0]}:
                    for b in ever[2] | {kids[1]}:
                        held = (r[1] if r[0] != 'split' else frozenset()) | (a[0] if a else frozenset()) | (b[0] if b else frozenset())
                        # The put of who began before is refused: it is of a generation that is over.
                        yield f'guess {r[0]} {"".join(sorted(r[1]))} {a and "".join(sorted(a[0]))} {b and "".join(sorted(b[0]))}', (r, (a, b), None if begin_anew else helper, (frozenset(),) * 3, 1, 'no', held)
    def broken(st):
        root, kids, helper, ever, g, w, owed = st
        if not g: return None
        have = found(root, kids, g)
        if owed - have: return 'what is left after the guess is not found'
        if w == 'in' and 'w' not in have: return 'what was inserted after the guess is lost'
        if w == 'out' and 'w' in have: return 'what was removed after the guess is back'
    return explore([start], nexts, broken, finish=lambda n: n in ('helper reads', 'child 0', 'child 1', '> split', '> splitting again'), done=lambda st: st[0][0] != 'splitting')

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('K1 frozen, children made only where there is none, then split', True, dict()),
        ('K2 the same, and no child is made of nothing', True, dict(skip_empty=True)),
        ('k2 a child is put over what is there', False, dict(make='over')),
        ('k3 the splitting leaf takes changes', False, dict(freeze=False)),
        ('k4 split before the children are there', False, dict(order='split first'))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    for label, ok, kw in [
        ('G1 after a guess: stamps, looks below, a doubtful leaf is split first', True, dict()),
        ('g2 a doubtful leaf takes changes', False, dict(split_first=False)),
        ('g3 no stamps', False, dict(stamped=False)),
        ('g4 nobody looks below a leaf', False, dict(look_below=False)),
        ('g5 who began before the guess goes on', False, dict(begin_anew=False))]:
        t0 = time.time(); bad += not report(label, guessed(**kw), ok, t0)
    sys.exit(bad > 0)
