#!/usr/bin/env python3
"""Exhaustive: a volume that its owner hands over to a host that asks (protocol 1.11), beside crashes, late requests and a forced take-over.

Hosts A and B (and C), each with a client that stays. The head is one atomic cell: active epoch, its owner, released, a standing claim, the ask (by whom, of which epoch).
`log` = the writes that the pool has; a host's `tail` = those that its journal alone has. A write is acknowledged from the journal (`local`), a pool flush once it is stored
and confirmed. A standby serves nothing: its client's first request waits.
ask     CAS: owned by another, and no ask of this epoch stands; its outcome may be unknown, and it may land later
heed    the owner reads the head, and an ask names its epoch > gate: no write is taken in > drain: all stored > release CAS (own epoch active, no claim) > it stands by
        the release's outcome may be unknown: then the host stands by too, and what it does next begins with a claim
claim   by a standby whose client waits: released, or its own lineage; then record, which drops the ask; then its client's request is done
give up the asker's patience ends, and the client is told; a host that is told that it was shut out (forced) fails its client for good
Checks: L a write that is acknowledged is in the log, or in the journal that the next owner replays (with force: but for those of its tail whom that shut out, and never one that a pool flush acknowledged)
        W without force never two hosts that take writes            R a read shows every acknowledged write (with force: what its own client was told)
        E an ask is answered once                                   and from every state, with no more crashes, every waiting client is answered."""
import sys, time
from explore import explore, report

def run(gate=True, drain=True, cas=True, reads='owner', named=True, unknown='claim', shut_out='fails', claim='released', clear=True, replay=True, hosts=2, writes=2, force=0, epochs=4, crashes=1, late=True):
    # host: phase, epoch, tail, client waits, what its client was told is written, lineage; head: epoch, owner, released, claim (epoch, by), ask (by, of)
    def H(phase, mine=0, tail=(), waits=False, told=frozenset(), lin=frozenset()): return (phase, mine, tail, waits, told, lin)
    start = ((1, 0, False, None, None), (), (H('up', 1, lin=frozenset([1])),) + tuple(H('standby') for _ in range(hosts - 1)), 0, frozenset(), None, force, crashes, None, frozenset(), None)
    takes = ('up',) if gate else ('up', 'gated', 'drained')

    def nexts(st):
        head, log, hs, n, safe, lost, left, cr, ans, gone, _ = st
        ep, own, rel, cl, ask = head; forced = left < force
        def to(i=None, h=None, head=head, log=log, n=n, safe=safe, lost=lost, left=left, cr=cr, ans=ans, gone=gone, why=None):
            return (head, log, hs if i is None else hs[:i] + (h,) + hs[i + 1:], n, safe, lost, left, cr, ans, gone, why)
        if lost:                                                       # a request without an answer: it lands, or never does
            what, i, of = lost
            yield 'the request on its way never lands', to(lost=None)
            if what == 'ask' and ep == of and not rel and own != i and (ask is None or ask[1] != ep): yield 'the late ask lands', to(head=(ep, own, rel, cl, (i, of)), lost=None)
            if what == 'release' and ep == of and cl is None and not rel: yield 'the late release lands', to(head=(ep, own, True, cl, ask), lost=None)
        for i, (ph, mine, tail, waits, told, lin) in enumerate(hs):
            def me(ph=ph, mine=mine, tail=tail, waits=waits, told=told, lin=lin): return (ph, mine, tail, waits, told, lin)
            owns = ep == mine and own == i and not rel and cl is None
            name = 'ABC'[i]
            if ph in ('up', 'gated', 'drained') and cr: yield f'{name} crashes', to(i, me('off', 0, waits=False), cr=cr - 1)
            if ph == 'standby' and cr: yield f'{name} crashes', to(i, me('off', 0, waits=False), cr=cr - 1)
            if ph == 'off':                                            # another process: its clients come anew
                yield f'{name} starts', to(i, me('standby', waits=ep in lin and not rel, told=frozenset()))
            if ph in takes and n < writes: yield f'finish: {name} acknowledges a write', to(i, me(tail=tail + (n,), told=told | {n}), n=n + 1, gone=gone | {n} if forced and not owns else gone)
            if ph in takes and tail and owns: yield f'{name} stores', to(i, me(tail=tail[1:]), log=log + (tail[0],))
            if ph == 'up' and owns and not tail: yield f'{name} flushes to the pool', to(safe=safe | told)
            if reads == 'any' and ph == 'standby' or reads == 'until answered' and ph == 'drained' or ph == 'up' and (owns or not replay):
                seen = set(log) | set(tail)
                why = 'R a read shows too little' if (set(range(n)) - seen if not force else told - seen) else None
                if why: yield f'{name} reads', to(why=why)
            # The owner hears of it, by its own epoch alone.
            if ph == 'up' and owns and ask and ask[0] != i and (ask[1] == ep or not named):
                why = 'E an ask is answered again' if ans == ask else None
                yield f'finish: {name} heeds the ask', to(i, me('gated'), ans=ask, why=why)
            if ph == 'gated' and (not tail or not drain): yield f'finish: {name} has drained', to(i, me('drained'))
            if ph == 'gated' and tail and owns: yield f'finish: {name} stores the rest', to(i, me(tail=tail[1:]), log=log + (tail[0],))
            if ph == 'drained':
                if ep == mine and own == i and (cl is None or not cas) or not cas:
                    yield f'finish: {name} releases', to(i, me('standby', 0, tail if drain else (), lin=lin), head=(ep, own, True, cl, ask))
                    if late and lost is None and reads == 'until answered': yield f'{name} sends the release', to(i, me('drained'), lost=('release', i, mine))
                    if late and lost is None: yield f'{name} releases, no answer', to(i, me('standby' if unknown == 'claim' else 'up', mine if unknown != 'claim' else 0), lost=('release', i, mine))
            if ph in ('up', 'gated', 'drained') and not owns and not (rel and own == i and ph == 'drained'):
                if shut_out == 'fails': yield f'finish: {name} is shut out', to(i, me('failed', 0, waits=False, told=frozenset()))
                else: yield f'finish: {name} is shut out and stands by', to(i, me('standby', 0, (), waits))
            if ph == 'standby' and not waits and n < writes: yield f"{name}'s client asks for something", to(i, me(waits=True))
            if ph == 'standby' and waits:
                if not rel and own != i and cl is None:
                    if ask is None or ask[1] != ep and named:
                        yield f'finish: {name} asks', to(head=(ep, own, rel, cl, (i, ep)))
                        if late and lost is None: yield f'{name} asks, no answer', to(lost=('ask', i, ep))
                    if claim != 'released' and ep < epochs and ask: yield f'{name} claims though nobody has released', to(i, me('claimed', ep + 1), head=(ep, own, rel, (ep + 1, i), ask))
                    yield f'finish: {name} gives up, and says take-over', to(i, me(waits=False))
                if (rel or ep in lin) and cl is None:
                    if ep < epochs: yield f'finish: {name} claims', to(i, me('claimed', ep + 1), head=(ep, own, rel, (ep + 1, i), ask))
                    else: yield 'finish: (cut)', to(i, me(waits=False))
                if cl is not None: yield f'finish: {name} gives up, and says take-over', to(i, me(waits=False))
                if left and cl is None and not rel and own != i and ep < epochs: yield f'{name} FORCES', to(i, me('claimed', ep + 1), head=(ep, own, rel, (ep + 1, i), ask), left=left - 1, gone=gone | set(hs[own][2]))
            if ph == 'claimed':
                mineclaim = cl == (mine, i)
                if mineclaim:
                    again = tail if ep in lin else ()                  # its journal is replayed, or put aside
                    why = None
                    if set(range(n)) - set(log) - set(again) - gone: why = 'L an acknowledged write is lost'
                    if safe - set(log): why = 'L a write is lost that a pool flush acknowledged'
                    a2 = ask if not clear else None
                    yield f'finish: {name} records', to(i, me('up', mine, again, False, lin=lin | {mine}), head=(mine, i, False, None, a2), why=why)
                else: yield f'finish: {name} lost the claim', to(i, me('standby', 0))
        if not force and sum(h[0] in takes and h[1] != 0 for h in hs) > 1: yield 'look', to(why='W two hosts take writes')

    def broken(st): return st[10]
    def done(st): return not any(h[3] for h in st[2]) and not any(h[0] in ('gated', 'drained', 'claimed') for h in st[2])
    return explore([start], nexts, broken, limit=3_000_000, finish=lambda s: s.startswith('finish'), done=done)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('H1 ask, gate, drain, release, claim, record', True, dict()),
        ('H2 the same, three hosts', True, dict(hosts=3, writes=1, crashes=1, epochs=3)),
        ('H3 the same beside a forced take-over', True, dict(force=1)),
        ('h1 writes are taken in while the owner drains', False, dict(gate=False)),
        ('h2 the owner releases before all is stored', False, dict(drain=False)),
        ('h3 the release does not require the own epoch, unclaimed', False, dict(cas=False, force=1)),
        ('h4 a standby answers reads', False, dict(reads='any')),
        ('h5 an ask names no epoch, and the record leaves it', False, dict(named=False, clear=False)),
        ('h6 the owner goes on while it is not known whether it has released', False, dict(unknown='go on')),
        ('h7 who was shut out by force stands by, and goes on', False, dict(shut_out='stands by', force=1)),
        ('h8 the asker claims though the owner has not released', False, dict(claim='any')),
        ('h9 reads go on until the release is answered', False, dict(reads='until answered'))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
