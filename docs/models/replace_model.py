#!/usr/bin/env python3
"""Exhaustive: one daemon hands its clients over to the next of the same state folder (protocol 1.13), while another host knocks, forces, renames.

Host A: daemon 1, then daemon 2, one at a time, with one journal. A client stays connected: it owns (it writes) or has only read a released volume (inert).
Volume 0 is the client's; volume 1 is made by B under its name, after 0 was renamed. `log` = what the pool has of volume 0, a host's `tail` = what its journal alone has.
knock   B opens, without force: only where 0 is released; it writes, flushes and may release     force   once, B takes the volume over; what A's tail had is not in it
write   by the client: in A's tail, acknowledged                                                 flush   acknowledged: all that was told is there
fence   A hears that it was shut out: the client's requests fail       leave   daemon 1 lets go: its journal is written out, or that fails (the tail is gone)
tell    what daemon 2 is told of the client: `by` name | id | epoch (id, and the ownership that it was shown under); whether it has failed: `failed` = of the
        client's own handle | seat (of the volume's newest handle, which the client's need not be) | no
again   daemon 2 claims if 0 is released or of A's lineage, replays the journal if the active epoch is of its lineage, and goes on with the client, or answers it errors
stay    daemon 2 does not come, and daemon 1 goes on with the client, whose next request claims. The client may be idle, or gone: as a daemon that starts does, daemon 1
        `looks` for what the head says is A's, and then opens that as it is by then; or not (`use`: when it is used); or claims it as of a session that ended (`timer`)
Checks: N a request reaches another volume     S a read or a flush is answered though a write that was acknowledged is gone
        V an inert client, or one that goes on, writes over what it has not seen     W another host gets the volume without force while its owner's client is there
        Q what was released is claimed though nobody uses it    and whatever was acknowledged comes to the pool, or its owner hears that it was shut out, if no client does anything more"""
import sys, time
from explore import explore, report

def run(by='epoch', failed='client', keep=True, stay='looks', writes=2, epochs=5, inert=False, force=1):
    # head (epoch, owner, released); names: the client's name leads to; log; A (phase, epoch, tail, lineage, seat); client (failed, shown, seen, told); told (by what, failed), or that daemon 1 stays (and what it is yet to open); B (phase, epoch)
    head = (1, 'A', inert)
    A = ('inert' if inert else 'up', 0 if inert else 1, (), frozenset() if inert else frozenset([1]), 1)
    start = (head, 0, (), A, (False, 1, frozenset(), frozenset()), None, ('off', 0), 0, force, None)

    def nexts(st):
        head, name, log, A, c, told, B, n, left, _ = st
        ep, own, rel = head; ph, mine, tail, lin, seat = A; cf, shown, seen, acked = c; bp, be = B
        def to(head=head, name=name, log=log, A=A, c=c, told=told, B=B, n=n, left=left, why=None): return (head, name, log, A, c, told, B, n, left, why)
        content = frozenset(log); owns = own == 'A' and ep == mine and not rel; has = content | frozenset(tail)
        # B
        if bp == 'off' and rel and ep < epochs:
            why = 'W the owner\'s volume is another host\'s without force' if not cf and not inert and own == 'A' else None
            yield 'B knocks, and claims', to(head=(ep + 1, 'B', False), B=('up', ep + 1), why=why)
        if bp == 'off' and left and not rel and own == 'A' and ep < epochs: yield 'B FORCES', to(head=(ep + 1, 'B', False), B=('up', ep + 1), left=0)
        if bp == 'up' and own == 'B':
            if n < writes: yield 'B writes and flushes', to(log=log + (('B', n),), n=n + 1)
            yield 'B releases', to(head=(ep, own, True), B=('off', 0))
        if name == 0: yield 'B renames the volume, and makes another of its name', to(name=1)
        # A's client, at whichever daemon
        if ph in ('up', 'inert') and not cf:
            if ph == 'up' and n < writes:
                lost = content - seen - frozenset(tail) - acked
                why = 'V over what it has not seen' if owns and any(w[0] == 'B' for w in lost) else None
                x = ('A', n); yield 'a write is acknowledged', to(A=(ph, mine, tail + (x,), lin, seat), c=(cf, shown, seen, acked | {x}), n=n + 1, why=why)
            if ph == 'inert' and rel and ep == shown and n < writes and ep < epochs:
                why = 'V over what it has not seen' if content - seen else None
                x = ('A', n); yield 'an inert client writes: claimed', to(head=(ep + 1, 'A', False), A=('up', ep + 1, (x,), lin | {ep + 1}, seat), c=(cf, ep + 1, seen | content, acked | {x}), n=n + 1, why=why)
            if ph == 'inert' and ep != shown: yield 'an inert client writes: refused', to(c=(True, shown, seen, acked))
            if ph == 'up' and owns and acked - has: yield 'a flush is acknowledged', to(why='S over a write that is gone')
        if ph == 'up' and tail and owns: yield 'A stores', to(log=log + tail[:1], A=(ph, mine, tail[1:], lin, seat))
        if ph == 'up' and not owns: yield 'A hears that it was shut out', to(A=('shut', mine, (), lin, seat), c=(True, shown, seen, acked))
        # A new client of A opens what is newest: the client's handle is in no seat any more.
        if ph in ('inert', 'shut') and rel and seat != ep: yield 'another client opens it anew at A', to(A=('inert', 0, (), lin if ph == 'inert' else frozenset(), ep), c=(cf or ph == 'shut', shown, seen, acked))
        # the hand-over
        if ph in ('up', 'inert', 'shut') and told is None:
            for broken in ((False, True) if tail else (False,)):
                t2 = () if broken else tail; f2 = cf or broken
                tells = f2 if failed == 'client' else (False if failed == 'no' else f2 and ph != 'inert')
                h2, l2 = head, log
                if not keep and ph == 'up' and owns and not broken: h2, l2, t2 = (ep, own, True), log + tail, ()
                yield 'daemon 1 lets go' + (', its journal can\'t be written' if broken else ''), to(head=h2, log=l2, A=('gap', mine, t2, lin, seat), c=(f2, shown, seen, acked), told=(ph, tells))
        def claims_again(what, told=told):
            lost = acked - content - frozenset(tail)
            return f'{what} claims, replays', to(head=(ep + 1, 'A', False), A=('up', ep + 1, tail, lin | {ep + 1}, ep + 1), c=(cf, ep + 1, seen, acked), told=told, why='S over a write that is gone' if lost else None)
        ours = own == 'A' and not rel and ep in lin
        if told and told[0] == 'stays':
            todo = told[1]; left = ph == 'left' and ep == mine
            if left and ep < epochs and not cf: yield claims_again('the client\'s request')
            if ph == 'left' and ep != mine: yield 'A hears that it was shut out', to(A=('shut', mine, (), lin, seat), c=(True, shown, seen, acked))
            if ph == 'up' and owns and not tail: yield 'A releases', to(head=(ep, '-', True), A=('inert', 0, (), lin, ep), c=(cf, ep, seen | content, acked))
            if todo == 'look': yield 'daemon 1 looks whose it is', to(told=('stays', 'open' if ours else None))
            if todo == 'open' and left and ep < epochs: yield claims_again('daemon 1 opens it,', ('stays', None))
            elif todo == 'open': yield 'daemon 1 opens it as it is', to(told=('stays', None))
            if todo == 'timer' and left and ep < epochs: yield claims_again('the timer', ('stays', None))
            if todo == 'timer' and ph == 'inert' and rel and ep == seat: yield 'the timer claims', to(why='Q what was released is claimed though nobody uses it')
        if ph == 'gap':
            was, f = told
            todo = {'looks': 'look', 'use': None, 'timer': 'timer' if was == 'up' and not f else None}[stay]
            yield 'daemon 1 stays', to(A=('left' if was == 'up' and not f else 'shut' if was == 'up' else was, mine, tail if was == 'up' and not f else (), lin, seat), told=('stays', todo))
            if f: yield 'daemon 2 answers errors', to(A=('over', 0, tail, lin, seat))
            elif by == 'name' and name == 1: yield 'daemon 2 opens what has the name', to(why='N the client is on another disk')
            else:
                may = rel or ep in lin; same = by != 'epoch' or ep == shown or shown in lin and ep in lin
                again = (False, shown, seen, acked)
                if not (may and same): yield 'daemon 2 refuses, answers errors', to(A=('over', 0, tail, lin, seat))
                elif rel and (was != 'up' or ep not in lin or not keep):
                    # opened as it is: what the client thinks it has seen is what it saw
                    yield 'daemon 2 opens it released', to(A=('inert', 0, tail if ep in lin else (), lin, ep), c=again, why='S over a write that is gone' if acked - content else None)
                elif ep < epochs:
                    t2 = tail if ep in lin else ()
                    why = 'S over a write that is gone' if acked - content - frozenset(t2) else None
                    yield 'daemon 2 claims, replays', to(head=(ep + 1, 'A', False), A=('up', ep + 1, t2, lin | {ep + 1}, ep + 1), c=again, why=why)

    def broken(st): return st[9]
    def done(st):
        ep, A = st[0][0], st[3]
        return ep >= epochs or A[0] in ('inert', 'shut', 'over') or A[0] == 'up' and not A[2]
    return explore([start], nexts, broken, limit=2_000_000, finish=lambda s: s.startswith(('A stores', 'A hears', 'daemon')), done=done)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('P1 by id and ownership, failed ones are told, nothing is released', True, dict()),
        ('P2 the same, three writes', True, dict(writes=3, epochs=6)),
        ('P3 the same, a client that has only read', True, dict(inert=True)),
        ('p1 by name', False, dict(by='name')),
        ('p2 by id alone', False, dict(by='id')),
        ('p3 by id alone, a client that has only read', False, dict(by='id', inert=True)),
        ('p4 a client that has failed is not told', False, dict(failed='no')),
        ('p5 what has failed is looked for in the seats', False, dict(failed='seat', by='id')),
        ('p6 the hand-over releases the volume', False, dict(keep=False)),
        ('p7 a daemon that stays claims what is used, and nothing else', False, dict(stay='use')),
        ('p8 it claims as of the session that ended, whatever came since', False, dict(stay='timer'))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
