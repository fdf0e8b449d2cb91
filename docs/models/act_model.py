#!/usr/bin/env python3
"""Exhaustive: a directory of files renamed from d to e, seen at one of its files, on a store that knows only copy, put and delete (protocol 9).

An object is (content, identity, of): the identity stands for etag, time and metadata together; `of` is the identity of the object that a copy of the
act is a copy of, which the copy's metadata say beside the act's token. A copy without a token (a store whose copies keep their etag) is the
same object once more: its identity is its source's. Two objects are a *pair* when the one at e is a copy of the one at d, by one of the two.
The act: note `copying` > close the gate > copy what is not a pair (turn back where somebody else has the new name) > look again > note `moved` > the mount's names change > delete at d what is a pair >
remove the note. A failure while it copies: note `back` > delete at e what is a pair. A mount that finds a note goes on from it before it is up;
where that fails it comes up, and a pass goes on later, with the gate closed. A delete looks at both names first and carries the
condition that the object is the one that was looked at; a store without that condition leaves the moment between look and delete to others.
Everything sent may be done and answered, done and unanswered, done late, or never done. Anybody may be killed anywhere.
Own calls (write, unlink, copy by hand) come while the gate is open. Another client puts at either name, or renames the file the opposite way by the same rule.
Check: what was stored with success and that nobody has replaced or removed is at one of the two names; what was removed here does not come back; what
was made here since is not moved or deleted; in the end no pair is left, and no note."""
import sys, time
from explore import explore, report

D, E = 0, 1

def run(token=True, cond=True, pair='identity', looks='both', blind=False, gate=True, exempt=True, back='pairs', notes=True, own=True, other='put', waits=True, kills=1, fails=1, lost=1):
    # names (d, e), next identity, note, act's phase, what it saw (d, e), requests on their way, owed contents, own calls left, other's (phase, saw), kills, failures, losses, up
    start = ((('A', 0, None), None), 1, None, 'idle', (None, None), (), frozenset('A'), own and 1 or 0, ('idle', None), kills, fails, lost, frozenset())
    def is_pair(d, e):
        if not d or not e: return False
        if pair == 'content': return d[0] == e[0]
        if pair == 'token only': return e[2] is not None
        return e[2] == d[1] or e[1] == d[1]
    def put(ns, n, o): return (o, ns[1]) if n == D else (ns[0], o)
    def replaced(owed, ns, n, moved):
        "whoever replaces or removes what is at n knows it; what is at the other name is owed if the file is there by now"
        o = ns[n]; rest = ns[1 - n]
        return owed - {o[0]} if o and not (rest and rest[0] == o[0] and moved == (n == D)) else owed
    def lands(req, ns, nid):
        kind = req[0]
        if kind == 'copy':                      # copy what is at d, if it is `src`, to e, if that is `over`
            _, src, over = req
            if not ns[D] or ns[D][1] != src or (ns[E] and ns[E][1]) != over: return ns, nid, False
            made = (ns[D][0], nid, src) if token else (ns[D][0], src, None)
            return put(ns, E, made), nid + (1 if token else 0), True
        _, n, ident = req                       # delete
        if cond and (not ns[n] or ns[n][1] != ident): return ns, nid, True
        return put(ns, n, None), nid, True
    def nexts(st):
        ns, nid, note, ph, saw, net, owed, calls, oth, kl, fl, ls, gone = st
        if nid > 5: return
        def mk(**k):
            v = dict(ns=ns, nid=nid, note=note, ph=ph, saw=saw, net=net, owed=owed, calls=calls, oth=oth, kl=kl, fl=fl, ls=ls, gone=gone); v.update(k)
            return tuple(v[x] for x in ('ns', 'nid', 'note', 'ph', 'saw', 'net', 'owed', 'calls', 'oth', 'kl', 'fl', 'ls', 'gone'))
        def send(who, req, then, lost_to):
            "the four fates of a request; `then(done)` is the phase after an answer, `lost_to` the one after none"
            n2, i2, ok = lands(req, ns, nid)
            yield f'{who}, answered', mk(ns=n2, nid=i2, ph=then(ok), saw=(saw[0], n2[E]) if req[0] == 'copy' and ok else saw)
            if ls:
                yield f'{who}, done, no answer', mk(ns=n2, nid=i2, ph=lost_to, ls=ls - 1)
                yield f'{who}, comes late', mk(net=net + (req,), ph=lost_to, ls=ls - 1)
                yield f'{who}, never comes', mk(ph=lost_to, ls=ls - 1)
        for i, req in enumerate(net):
            n2, i2, _ = lands(req, ns, nid)
            yield 'what was late comes', mk(ns=n2, nid=i2, net=net[:i] + net[i + 1:])
        running = ph not in ('idle', 'dead', 'waits', 'over')
        if kl and ph not in ('dead',): yield 'kill', mk(ph='dead', saw=(None, None), kl=kl - 1)
        # the act, and whoever goes on with it
        if ph == 'idle': yield 'mount begins', mk(ph='list', note='copying' if notes else None)
        if ph in ('dead', 'waits'):
            first = ph == 'dead'
            go = {'copying': 'list', 'moved': 'look', 'back': 'look back', None: 'over'}[note]
            if note == 'copying' and not first: go = 'list'
            yield 'mount goes on', mk(ph=go, saw=(None, None))
            if fl and note: yield 'mount is up, and can not go on', mk(ph='waits', note='back' if note == 'copying' and exempt else note, fl=fl - 1)
        if ph == 'list': yield 'mount lists', mk(ph='compare', saw=ns)
        if ph == 'compare':
            d, e = saw
            if d is None: yield 'mount: nothing (more) at d', mk(ph='note moved')
            elif is_pair(d, e): yield 'mount: it is copied', mk(ph='note moved')
            elif e is not None and e[2] is None and e[1] != d[1]: yield 'mount: another has the new name: it turns back', mk(ph='look back', note='back' if notes else None)
            else: yield from send('mount copies', ('copy', d[1], e and e[1]), lambda ok: 'list', 'list')
            if fl: yield 'mount fails', mk(ph='fail', fl=fl - 1)
        if ph == 'fail': yield 'mount turns back', mk(ph='look back', note='back' if notes else None)
        if ph == 'note moved': yield 'mount notes that all is copied', mk(ph='look', note='moved' if notes else None)
        if ph == 'look':
            if looks == 'both': yield 'mount looks at both', mk(ph='delete', saw=ns)
            else: yield 'mount looks at d', mk(ph='delete', saw=(ns[D], saw[E] or ns[E]))
        if ph == 'delete':
            d, e = saw
            if d is None: yield 'mount: d is gone', mk(ph='end')
            elif is_pair(d, e): yield from send('mount deletes d', ('del', D, d[1]), lambda ok: 'end', 'delete' if blind else 'look')
            elif e is None or is_pair((None, e[2] if e[2] is not None else e[1], None), e): yield 'mount: d has changed, or its copy went: it stays', mk(ph='end')
            else: yield 'mount: both stay', mk(ph='end')
            if fl: yield 'mount can not delete', mk(ph='waits', fl=fl - 1)
        if ph == 'look back': yield 'mount looks at both, back', mk(ph='delete back', saw=ns)
        if ph == 'delete back':
            d, e = saw
            if back == 'all' and e: yield from send('mount deletes e', ('del', E, e[1]), lambda ok: 'end', 'look back')
            elif is_pair(d, e): yield from send('mount deletes e', ('del', E, e[1]), lambda ok: 'end', 'look back')
            else: yield 'mount: nothing to take back', mk(ph='end')
            if fl: yield 'mount can not take back', mk(ph='waits', fl=fl - 1)
        if ph == 'end' and waits and note and is_pair(*ns): yield 'mount looks once more', mk(ph='look' if note == 'moved' else 'look back')
        elif ph == 'end' and not (waits and net): yield 'mount ends', mk(ph='over', note=None)
        # calls of this host
        may = ph in ('waits', 'over') or not gate and running
        if calls and may:
            if ns[D] and ph == 'waits' or not gate and ns[D]:
                yield 'own write at d', mk(ns=put(ns, D, ('B', nid, None)), nid=nid + 1, owed=replaced(owed, ns, D, note == 'moved') | {'B'}, calls=calls - 1, gone=gone)
                yield 'own unlink at d', mk(ns=put(ns, D, None), owed=replaced(owed, ns, D, note == 'moved'), calls=calls - 1, gone=gone | ({ns[D][0]} if not ns[E] else set()))
            if ns[D] and not ns[E] and ph == 'waits':
                yield 'own copy by hand', mk(ns=put(ns, E, (ns[D][0], nid, None)), nid=nid + 1, calls=calls - 1, gone=gone | {'hand%d' % nid})
            if not ns[D] and ph == 'waits':
                yield 'own new file at d', mk(ns=put(ns, D, ('B', nid, None)), nid=nid + 1, owed=owed | {'B'}, calls=calls - 1)
        # another client
        op, osaw = oth
        if other == 'put' and op == 'idle' and ph != 'delete' and ph != 'delete back':
            for n in (D, E): yield f'other puts at {"de"[n]}', mk(ns=put(ns, n, ('X', nid, None)), nid=nid + 1, owed=replaced(owed, ns, n, note == 'moved') | {'X'}, oth=('over', None))
        if other == 'put any time' and op == 'idle':
            for n in (D, E): yield f'other puts at {"de"[n]}', mk(ns=put(ns, n, ('X', nid, None)), nid=nid + 1, owed=replaced(owed, ns, n, note == 'moved') | {'X'}, oth=('over', None))
        if other == 'opposite':
            if op == 'idle' and ns[E]: yield 'other copies e to d', mk(ns=put(ns, D, (ns[E][0], nid, ns[E][1])), nid=nid + 1, owed=replaced(owed, ns, D, note == 'moved') | {ns[E][0]}, oth=('copied', (nid, ns[E][1])))
            if op == 'copied':
                made, src = osaw
                if looks == 'both' and (not ns[D] or ns[D][1] != made): yield 'other: its copy is gone, it stops', mk(oth=('over', None))
                elif ns[E] and ns[E][1] == src: yield 'other deletes e', mk(ns=put(ns, E, None), oth=('over', None), gone=frozenset(g for g in gone if not g.startswith('hand')))
                else: yield 'other: e has changed, it stops', mk(oth=('over', None))
    def broken(st):
        ns, nid, note, ph, saw, net, owed, calls, oth, kl, fl, ls, gone = st
        there = {o[0] for o in ns if o}
        for c in sorted(owed - there): return f'what was stored as {c} is nowhere'
        if gone & there: return 'what was removed here is back'
        if any(g.startswith('hand') for g in gone) and ns[E] is None: return 'what was copied by hand is taken away'
        if 'B' in owed and ns[E] and ns[E][0] == 'B' and not ns[D]: return 'what was made here since is moved'
    def done(st):
        ns, nid, note, ph, saw, net, owed, calls, oth, kl, fl, ls, gone = st
        return note is None and ph in ('over', 'idle') and not is_pair(*ns)
    return explore([start], nexts, broken, limit=4_000_000, finish=lambda n: n.startswith('mount') or n.startswith('what was late'), done=lambda st: done(st) or st[1] > 5)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('A1 the act, copies with tokens; another client puts', True, dict()),
        ('A2 copies that keep their etag and carry no token', True, dict(token=False)),
        ('A3 another client renames the opposite way', True, dict(other='opposite')),
        ('A4 the same, copies without tokens', True, dict(other='opposite', token=False)),
        ('a1 copies are known by their contents', False, dict(pair='content')),
        ('a2 any copy of the act is taken for that of what is there', False, dict(pair='token only')),
        ('a3 the copy is not looked at before the delete', False, dict(looks='d', other='opposite')),
        ('a4 a delete without its condition, repeated without a look', False, dict(cond=False, blind=True)),
        ('a5 what S3 can not keep: a put between look and delete', False, dict(cond=False, other='put any time')),
        ('a6 own calls are not held', False, dict(gate=False)),
        ('a7 the way back takes all that is at e', False, dict(back='all')),
        ('a8 nothing is written down', False, dict(notes=False, own=False, other=None)),
        ('a9 the note goes while a copy may still come', False, dict(waits=False, own=False, other=None))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
