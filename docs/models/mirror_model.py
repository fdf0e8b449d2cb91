#!/usr/bin/env python3
"""Exhaustive: `--flush mirror`: a flush is acknowledged once a peer's journal has it beside the owner's, or the pool has it. Both die in turn, the link flaps, the old one returns.

The head is one atomic cell: epoch, owner, claim, and `mirror` = (host, session): whose journal must be asked before this volume goes elsewhere. A session is the epoch
under which a peer got its records. `log` = the writes that the pool has, in order. A host has a journal of its own (epoch, writes that the pool may lack) and those that it
keeps for others, one for each session, and one mark: the highest epoch whose sessions are closed. Writes are numbered in order and go to one block: log and replay must ascend.
begin   a peer looks at the head: unclaimed, of the owner's epoch; a new session stands beside one that the head names; none begins that the owner has asked the head to name
anew    an owner whose peer has lost such a one goes on under a new epoch; as it has its journal all the time, it hears nobody
name    CAS mirror = (peer, own epoch), once the peer's session lacks nothing; its outcome may be unknown, and it may land later
send    the peer syncs the next record, in order, if the session is the sender's and it has not closed
ack     all that was written is in the session that the owner knows to be named, or in the pool under an unclaimed head of its own epoch
end     all is in the pool: CAS mirror = none
take    the peer closes > the head names it and a session that it has: claim > replay > record, which leaves `mirror` as it is
open    the owner starts anew: claim; where the head names another host, *hear*: that host closes the session and says what it has beyond the owner's journal, which takes it in, or
        that it has no such session; replay, record, which leaves `mirror`; while that names another host no write is taken: name or end come first
put back the owner's folder is an older state of itself, as of a snapshot of its machine; what ran on the newer one may run on (a clone), and has all that it had
bare    a host without any of it claims if the head names no mirror; by force if it does, and then what only journals have is given up
Checks: L a flushed write is in the log or in what a new owner replays, but where every disk that had it was lost, or force gave it up        O log and replay ascend
        and from every state, with no more failures, some owner takes writes."""
import sys, time
from explore import explore, report

def run(close=True, whole=True, session=True, gate=True, named=True, synced=True, stored=True, keep=True, beside=True, looks=True, hears=True, shuts=True, out=False, twice=False, hosts=2, writes=2, crashes=1, disks=1, epochs=3, force=0, late=False, backs=0, clone=False):
    # host: phase, epoch, own journal (epoch, writes), sessions kept for others ((epoch, writes), ...), closed, the mirror that it knows to be named
    def H(ph, mine=0, j=(0, ()), kept=(), shut=0, knows=None): return (ph, mine, j, kept, shut, knows)
    start = ((1, 0, None, None), (), (H('up', 1, (1, ())),) + tuple(H('standby') for _ in range(hosts - 1)), 0, frozenset(), frozenset(), crashes, disks, force, None, None, backs, None)

    def nexts(st):
        head, log, hs, n, acked, gone, cr, dk, fo, lost, _, bk, gh = st
        ep, own, cl, mir = head
        def to(*changes, head=head, log=log, n=n, acked=acked, gone=gone, cr=cr, dk=dk, fo=fo, lost=lost, why=None, bk=bk, gh=gh):
            new = list(hs)
            for i, h in changes: new[i] = h
            return (head, log, tuple(new), n, acked, gone, cr, dk, fo, lost, why, bk, gh)
        def left_without(i, j):                                  # who has what was acknowledged, by the head, when host i has no more than this
            left = set(log)
            if own == i and j[0] == ep: left |= set(j[1])
            if own != i and hs[own][2][0] == ep: left |= set(hs[own][2][1])
            if mir and mir[0] != i: left |= set(dict(hs[mir[0]][3]).get(mir[1], ()))
            return left
        if gh:                                                         # another process of host i's name, on what was its folder
            i, mine, j, knows = gh
            if ep != mine or own != i: yield 'finish: the clone is shut out', to(gh=None)
            if n < writes: yield 'the clone takes a write', to(gh=(i, mine, (j[0], j[1] + (n,)), knows), n=n + 1)
            if ep == mine and own == i and cl is None:
                rest = tuple(w for w in j[1] if w not in log)
                if rest: yield 'finish: the clone stores', to(log=log + (rest[0],))
                elif set(j[1]) - acked: yield 'the clone acknowledges by the pool', to(acked=acked | set(j[1]))
            for p, (pph, pm, pj, pkept, pshut, pknows) in enumerate(hs):
                has = dict(pkept).get(mine)
                if p == i or pph != 'standby' or has is None: continue
                todo = [w for w in j[1] if w not in has and w not in log]
                if todo and (mine > pshut or not close): yield f"the clone sends to {'ABC'[p]}", to((p, (pph, pm, pj, tuple((s, w + (todo[0],)) if s == mine else (s, w) for s, w in pkept), pshut, pknows)))
                if knows == (p, mine) and not todo and set(j[1]) - acked: yield f"the clone acknowledges by {'ABC'[p]}", to(acked=acked | set(j[1]))
        if lost:                                                       # a CAS without an answer: it lands, or never does
            i, of, value = lost
            yield 'finish: the request on its way never lands', to(lost=None)
            if ep == of and own == i and cl is None: yield 'the late CAS lands', to(head=(ep, own, cl, value), lost=None)
        for i, (ph, mine, j, kept, shut, knows) in enumerate(hs):
            def me(ph=ph, mine=mine, j=j, kept=kept, shut=shut, knows=knows): return (i, (ph, mine, j, kept, shut, knows))
            name, live = 'ABC'[i], ph in ('up', 'opening')
            owns = live and ep == mine and own == i and cl is None
            rest = tuple(w for w in j[1] if w not in log)
            if ph != 'off' and cr:
                yield f'{name} crashes', to(me('off', 0, knows=None), cr=cr - 1)
                if j[1] and j[1][-1] not in acked and not any(j[1][-1] in w for _, w in kept): yield f'{name} crashes, and its last write with it', to(me('off', 0, (j[0], j[1][:-1]), knows=None), cr=cr - 1)
                if not synced and kept and kept[-1][1]: yield f'{name} crashes, and a record that it had for another', to(me('off', 0, kept=kept[:-1] + ((kept[-1][0], kept[-1][1][:-1]),), knows=None), cr=cr - 1)
            if dk and (j[1] or kept):
                yield f"{name}'s disk is lost", to((i, H('off')), dk=dk - 1, gone=gone | (acked - left_without(i, (0, ()))))
            if bk and j[1] and not gh and ph in ('up', 'off'):
                for cut in range(len(j[1])):
                    old = (j[0], j[1][:cut])
                    def less(): return gone | ((set(range(n)) if mir and mir[0] == own else acked) - left_without(i, old))   # who took over by its mirror had all of it alone
                    if ph == 'off': yield f"{name}'s folder is put back", to((i, ('off', 0, old, kept, shut, None)), bk=bk - 1, gone=less())
                    elif clone: yield f"{name}'s folder is put back elsewhere", to((i, ('off', 0, old, kept, shut, None)), bk=bk - 1, gh=(i, mine, j, knows), gone=less())
            if ph == 'off': yield f'finish: {name} starts', to(me('standby'))
            if live and (ep != mine or own != i): yield f'finish: {name} is shut out', to(me('standby', 0, knows=None))
            if ph == 'up' and n < writes: yield f'{name} takes a write', to(me(j=(j[0], j[1] + (n,))), n=n + 1)
            if owns and rest: yield f'finish: {name} stores', to(log=log + (rest[0],))
            if owns and not rest and set(j[1]) - acked: yield f'{name} acknowledges by the pool', to(acked=acked | set(j[1]))
            if owns and ph == 'opening' and (mir is None or mir[0] == i or not gate): yield f'finish: {name} takes writes', to(me('up'))
            if owns and mir and not lost and (not rest or not stored):
                yield f'finish: {name} ends the mirror', to(me('up', knows=None), head=(ep, own, cl, None))
                if late: yield f'{name} ends the mirror, no answer', to(me(knows=None), lost=(i, mine, None))
            for p, (pph, _, pj, pkept, pshut, _) in enumerate(hs):
                if p == i or pph != 'standby' or not live: continue
                def peer(kept): return (p, (pph, 0, pj, kept, pshut, None))
                has, to_whom = dict(pkept).get(mine), 'ABC'[p]
                if has is None and owns and (mir == (p, mine) or lost and lost[1:] == (mine, (p, mine))) and not twice: yield f'finish: {name} goes on anew', to(me('again', 0, knows=None))
                elif has is None and mine > pshut and (owns or not looks):
                    yield f'finish: {name} begins with {to_whom}', to(peer((tuple(k for k in pkept if mir == (p, k[0])) if beside else ()) + ((mine, ()),)))
                if has is None: continue
                todo = [w for w in j[1] if w not in has and w not in log]
                if todo and (mine > pshut or not close): yield f'finish: {name} sends to {to_whom}', to(peer(tuple((s, w + (todo[0],)) if s == mine else (s, w) for s, w in pkept)))
                if ph == 'up' and (knows == (p, mine) or not named) and not todo and set(j[1]) - acked: yield f'{name} acknowledges by {to_whom}', to(acked=acked | set(j[1]), gone=gone | set(j[1]) - set(log) if fo < force and own != i else gone)
                if owns and not lost and knows != (p, mine) and (not todo or not whole):
                    yield f'finish: {name} names {to_whom}', to(me('up', knows=(p, mine)), head=(ep, own, cl, (p, mine)))
                    if late: yield f'{name} names {to_whom}, no answer', to(me(knows=None), lost=(i, mine, (p, mine)))
            dead = cl is not None and hs[cl[1]][1] != cl[0]             # its claimant has died: it is claimed over
            alone = hs[own][2][0] != ep                                 # the owner's journal is lost
            if ep < epochs and (ph in ('standby', 'again') and (cl is None or dead) or live and dead and own == i and ep == mine):
                last = mir[1] if session and mir else kept[-1][0] if kept else 0
                def claim(how, **more): return to(me(how, cl[0] + 1 if cl else ep + 1), head=(ep, own, (cl[0] + 1 if cl else ep + 1, i), mir), **more)
                mirrored = mir is not None and mir[0] == i and mir[1] in dict(kept) or not session and bool(kept)
                if own == i and j[0] == ep: yield f'finish: {name} claims its own', claim('heard' if ph == 'again' else 'own')
                elif mirrored and (shut >= last or not close): yield f'{"finish: " if cl or alone else ""}{name} claims by its mirror', claim('mirror')
                elif mirrored: yield f'{"finish: " if cl or alone else ""}{name} closes', to(me(shut=max(shut, last)))
                elif own != i and mir is None: yield f'{"finish: " if cl else ""}{name} claims: nothing is lost', claim('bare')
                elif own != i and fo: yield f'{name} FORCES', claim('forced', fo=fo - 1)
            if ph in ('own', 'heard', 'alone', 'mirror', 'bare', 'forced'):
                if cl != (mine, i): yield f'finish: {name} lost the claim', to(me('standby', 0)); continue
                if ph == 'own' and hears and mir and mir[0] != i:
                    pph, pm, pj, pkept, pshut, pknows = hs[mir[0]]
                    has = dict(pkept).get(mir[1], ())
                    if pph != 'off': yield f"finish: {name} hears from {'ABC'[mir[0]]}", to(me('heard', j=(j[0], tuple(sorted(set(j[1]) | (set(has) - set(log)))))), (mir[0], (pph, pm, pj, pkept, max(pshut, mir[1]) if shuts else pshut, pknows)))
                    yield f'{name} withdraws', to(me('standby', 0), head=(ep, own, None, mir))
                    if fo: yield f'{name} GIVES THE MIRROR UP', to(me('alone'), fo=fo - 1)
                    continue
                held = j[1] if ph in ('own', 'heard', 'alone') else () if ph in ('bare', 'forced') else dict(kept).get(mir[1] if session else kept[-1][0], ())
                again = tuple(w for w in held if w not in log)
                seen, why = log + again, None
                lose = gone | frozenset(range(n)) - set(log) - set(held) if ph in ('forced', 'alone') else gone
                if acked - lose - set(seen): why = 'L a flushed write is lost'
                if any(a > b for a, b in zip(seen, seen[1:])): why = 'O what is old comes over what is newer'
                left = None if ph in ('bare', 'forced') or ph == 'alone' and out or ph == 'mirror' and not keep else mir
                yield f'finish: {name} records', to(me('opening' if left and left[0] != i else 'up', mine, (mine, again), knows=None), head=(mine, i, None, left), gone=lose, why=why)

    def broken(st): return st[10]
    def done(st):
        (ep, own, cl, mir), hs = st[0], st[2]
        return ep >= epochs or cl is not None and cl[0] >= epochs or cl is None and hs[own][0] == 'up' or hs[own][2][0] != ep and (mir is None or mir[0] == own or not hs[mir[0]][3] or disks - st[7] > 1)   # both disks that had it are lost
    return explore([start], nexts, broken, limit=1_500_000, finish=lambda s: s.startswith('finish'), done=done)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('M1 two hosts that die in turn, one disk lost', True, dict()),
        ('M2 the same, and both disks may be lost', True, dict(crashes=2, disks=2, writes=1)),
        ('M3 answers that are lost, requests that land late', True, dict(writes=1, late=True)),
        ('M4 a third host, which has nothing, by force too', True, dict(hosts=3, writes=1, force=1, crashes=0)),
        ('M5 a folder that is put back, by force too', True, dict(backs=1, force=1, crashes=1, disks=0)),
        ('M6 a folder that is put back while another runs on it', True, dict(backs=1, clone=True, crashes=0, disks=1)),
        ('m1 the peer takes records after it has begun to take over', False, dict(close=False)),
        ('m2 the head names a peer that lacks what the journal has', False, dict(whole=False)),
        ('m3 a peer takes over whatever session it has', False, dict(session=False)),
        ('m4 an owner that gave its mirror up takes writes while the head names it', False, dict(gate=False, backs=1, force=1, disks=0)),
        ('m5 the owner counts on a peer that the head does not name', False, dict(named=False)),
        ('m6 the peer answers before its disk has it', False, dict(synced=False)),
        ('m7 the mirror is ended before the pool has all', False, dict(stored=False)),
        ('m8 who took over by its mirror leaves nobody named', False, dict(keep=False, hosts=3, writes=1)),
        ('m9 a new session takes the place of the one that the head names', False, dict(beside=False)),
        ('m10 a peer that has lost its disk begins with an owner who is shut out', False, dict(looks=False, crashes=2, disks=2, writes=1)),
        ('m11 an owner whose folder was put back opens by itself', False, dict(hears=False, backs=1)),
        ('m12 who gives the mirror up takes its name out at once', False, dict(out=True, backs=1, force=1)),
        ('m14 a peer that lost the session that the head names begins it again', False, dict(twice=True, disks=2)),
        ('m13 the peer goes on taking records after it was heard', False, dict(shuts=False, backs=1, clone=True, crashes=0))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
