#!/usr/bin/env python3
"""Exhaustive: staged bytes of a file that is being written are freed when its upload has them, as the state folder's disk is nearly full (fs/file/room.rs).

A file has two parts, each with a content 1 or 2. v: what the file is; s: the stage has the bytes (b) or a hole (h); a: what the upload has of the part; w: what is on its way to it;
l: written down as freed. up: the upload is open, or the bucket's rule has ended it (gone). snap: what a close is just putting together. obj: what the bucket shows. told: what a
close has answered for.
write    changes a part: refused where it was freed, and while a close puts together a file of which anything was freed
send     a part leaves, and again when it was changed since          arrive   the upload has it
log      what the upload has, just as the file is, is written down    punch    the stage's bytes of a logged part go
rename   the upload is given up, as it can't follow: refused for a file of which anything was freed
close    puts the parts together: of what the upload has, and else of what the stage has; fails where neither has it. Answers when the bucket has it
kill     at any time: what is on its way arrives or doesn't           mount    completes a logged upload, gives up any other, and sends what the stage has
rule     the bucket ends the upload, once
Checks: I whatever the stage lacks, the upload has as the file is, unless the bucket's rule took it   Z no zeros are stored for bytes   L what a close answered for is in the bucket
K what was written survives a kill, unless the rule took it"""
import sys, time
from explore import explore, report

def run(acked=True, spoils=True, logged=True, stays=True, alone=True, waits=True, resumed=True):
    #        v  s    a  w  l
    part = (1, 'b', 0, 0, False)
    #        parts        up      snap  obj   told  at
    start = ((part, part), 'open', None, None, None, 'writing')

    def bytes_of(p, up):
        v, s, a, w, l = p
        if a == v and w == 0: return v if up == 'open' else None            # complete says that there is no such upload
        if s == 'b': return v
        return None if l else 0                                             # who does not know of a hole reads zeros

    def nexts(st):
        parts, up, snap, obj, told, at = st
        def to(parts=parts, up=up, snap=snap, obj=obj, told=told, at=at): return (parts, up, snap, obj, told, at)
        def with_part(i, v=None, s=None, a=None, w=None, l=None):
            old = parts[i]; new = tuple(o if n is None else n for o, n in zip(old, (v, s, a, w, l)))
            return tuple(new if j == i else p for j, p in enumerate(parts))
        freed = any(p[4] for p in parts)
        if up == 'open' and at in ('writing', 'killed'): yield 'rule', to(up='gone')
        if at == 'killed':
            known = freed and resumed
            left = tuple(p if p[4] and known else p[:2] + (0, 0, p[4]) for p in parts)
            got = tuple(bytes_of(p, up if known else 'open') for p in left)
            yield 'finish: mount', to(parts=left, obj=got if None not in got else obj, at='mounted')
            return
        if at != 'writing': return
        for i, (v, s, a, w, l) in enumerate(parts):
            if v == 1 and s == 'b' and not (l and logged) and (snap is None or not freed or not alone): yield f'write {i}', to(parts=with_part(i, v=2))
            if snap is None and w == 0 and a != v and up == 'open' and s == 'b': yield f'send {i}', to(parts=with_part(i, w=v))
            if w: yield f'arrive {i}', to(parts=with_part(i, a=w, w=0))
            may = a == v and w == 0 or not acked and w == v or not spoils and a > 0
            if snap is None and may and not l and told is None and up == 'open': yield f'log {i}', to(parts=with_part(i, l=True))
            if s == 'b' and (l or may and not logged): yield f'punch {i}', to(parts=with_part(i, s='h'))
        if snap is None and (not freed or not stays): yield 'rename', to(parts=tuple(p[:2] + (0, 0, p[4]) for p in parts), up='open')
        if snap is None and told is None and not any(p[3] for p in parts):
            got = tuple(bytes_of(p, up) for p in parts)
            if None not in got: yield 'close', to(snap=got, told=None if waits else tuple(p[0] for p in parts))
        if snap is None and told is None and not waits: yield 'close, answered here', to(told=tuple(p[0] for p in parts))
        if snap is not None:
            now = tuple(p[0] for p in parts)
            if snap == now: yield 'finish: complete', to(snap=None, obj=snap, told=now, at='closed', parts=tuple((v, 'b', 0, 0, False) for v, *_ in parts))
            else: yield 'complete', to(snap=None, obj=snap, parts=tuple(p[:2] + (0, 0, p[4]) for p in parts))
        for arrives in (False, True):
            left = tuple(p[:2] + (p[3] if arrives and p[3] else p[2], 0) + p[4:] for p in parts)
            yield 'kill', to(parts=left, snap=None, at='killed')

    def broken(st):
        parts, up, snap, obj, told, at = st
        if at in ('writing', 'killed') and up == 'open' and any(s == 'h' and (a != v or w) for v, s, a, w, l in parts): return 'I'
        if obj and 0 in obj or snap and 0 in snap: return 'Z'
        if told and at in ('closed', 'mounted') and (obj is None or any(o < t for o, t in zip(obj, told))): return 'L'
        if at == 'mounted' and up == 'open' and obj != tuple(p[0] for p in parts): return 'K'
    return explore([start], nexts, broken)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('the rule: arrived, written down, then freed; the name stays; a close waits', True, {}),
        ('f1 freed while it is on its way', False, dict(acked=False)),
        ('f2 freed though it was changed since it left', False, dict(spoils=False)),
        ('f3 freed before it is written down', False, dict(logged=False)),
        ('f4 the next mount gives the upload up, as it does with any other', False, dict(resumed=False)),
        ('f5 renamed though something was freed', False, dict(stays=False)),
        ('f6 written to while a close puts together what is partly freed', False, dict(alone=False)),
        ('f7 a close is answered by this host (flush=local) though something was freed', False, dict(waits=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
