#!/usr/bin/env python3
"""Exhaustive: a daemon is killed under a client that lives on and connects anew. It never hears of the death, and takes its next flush for all that it wrote before.

Writes are numbered in order; all sets are prefixes, so each is a count. n: in the daemon's memory; k: in the journal's files, in the kernel; t: on the medium; d: what the
daemon takes for synced; g: what was in the kernel when the sync under way began; a: acknowledged to the client; p: acknowledged to it by a flush. Segments hold two writes.
take     a write comes in (n)                   write  the next goes into the kernel (k); into a new segment only when the one before is synced
ack      of what is in the kernel               sync   begins (g) and ends beside writes: it vouches for what was in the kernel when it began
flush    all that the daemon has is synced: the client takes all that was acknowledged to it for stored
kill     memory is gone, the kernel goes on     power  a prefix between the medium's and the kernel's is left, and the client is gone too: what comes next knows only what it finds
Checks: L what a flush vouched for is there     and, the daemon being up, everything can be synced.

Second part, `anew`: a journal that is begun anew, whatever for: its disk failed, its disk took no files or takes them again (void), somebody wants another one. The stores take
writes whenever they like. n: in memory; b, k: the journal has the records behind b up to k; s: stored and confirmed; a, p as above; up: down, replaying, in (the replay is in).
take, ack, flush, kill  as above; after a kill memory has what is stored, and the replay brings the rest of the journal, one by one
store    the next record in memory is stored and confirmed          trim   the journal forgets what is stored
fail     the journal takes nothing more. Acknowledged is then what is stored (a volume that has no journal, and all in the pool, acknowledges from memory: not promised, operations.md)
anew     memory has nothing unstored, and the replay is in: an empty journal begins behind that
Checks: L what a flush vouched for is in the log, or in the journal right behind it    and everything can be stored and flushed."""
import sys, time
from explore import explore, report

def run(kernel=True, begun=True, lap=True, writes=5, kills=2, powers=1, elsewhere=False):
    #       n  k  t  d  g    a  p  up
    start = (0, 0, 0, 0, None, 0, 0, True, kills, powers)

    def nexts(st):
        n, k, t, d, g, a, p, up, ki, po = st
        def to(n=n, k=k, t=t, d=d, g=g, a=a, p=p, up=up, ki=ki, po=po): return (n, k, t, d, g, a, p, up, ki, po)
        if not up:
            yield 'finish: it starts', to(up=True, d=t if t == k else 0)
            return
        if n < writes: yield 'take', to(n=n + 1)
        new = k % 2 == 0 and k > 0
        if k < n and (d >= k or not new or not lap): yield 'finish: write', to(k=k + 1)
        if a < (k if kernel else n): yield 'ack', to(a=a + 1)
        if g is None and d < k: yield 'finish: a sync begins', to(g=k)
        if g is not None:
            first = (k - 1) // 2 * 2                                    # of the segment whose file is synced
            yield 'finish: a sync ends', to(g=None, d=g if begun else k, t=max(t, g) if t >= min(first, g) else t)
        if d >= n and a > p: yield 'flush', to(p=a)
        if ki: yield 'kill', to(n=k, g=None, up=False, ki=ki - 1)
        if po:
            for left in range(t, k + 1):
                yield f'power, {left} left', to(n=left, k=left, t=left, d=0, g=None, a=a if elsewhere else left, p=p if elsewhere else min(p, a), up=False, po=po - 1)

    def broken(st):
        return 'L' if st[6] > st[1] else None
    return explore([start], nexts, broken, finish=lambda name: name.startswith('finish'), done=lambda st: st[7] and st[3] >= st[0])

def anew(replayed=True, stored=True, past=False, writes=4, kills=2, fails=1):
    #       n  b  k  s  a  p  up    failed
    start = (0, 0, 0, 0, 0, 0, 'in', False, kills, fails)

    def nexts(st):
        n, b, k, s, a, p, up, failed, ki, fa = st
        def to(n=n, b=b, k=k, s=s, a=a, p=p, up=up, failed=failed, ki=ki, fa=fa): return (n, b, k, s, a, p, up, failed, ki, fa)
        if up == 'down':
            yield 'finish: it starts', to(n=s, up='replaying' if k > s else 'in')
            return
        if up == 'replaying':
            yield 'finish: the replay brings one', to(n=n + 1, up='in' if n + 1 >= k else up)
        if up == 'in' and n < writes: yield 'take', to(n=n + 1, k=k if failed else n + 1)
        alone = k > s                                                   # the journal has something that the pool lacks
        said = n if failed and past else max(k, s) if not failed else max(s, min(k, a))
        if up == 'in' and a < said: yield 'ack', to(a=a + 1)
        if up == 'in' and p < a and (not failed or s >= n): yield 'flush', to(p=a)
        if s < n: yield 'finish: store', to(s=s + 1)
        if b < min(s, k) and up == 'in': yield 'finish: trim', to(b=b + 1)
        if fa and not failed: yield 'fail', to(failed=True, fa=fa - 1)
        if failed and (s >= n or not stored) and (up == 'in' or not replayed):
            yield 'finish: anew', to(b=n, k=n, failed=False, up='in')
        if ki: yield 'kill', to(n=0, up='down', ki=ki - 1)

    def broken(st):
        n, b, k, s, a, p, up = st[:7]
        return 'L' if p > (k if b <= s < k else s) else None
    return explore([start], nexts, broken, finish=lambda name: name.startswith('finish'), done=lambda st: st[6] == 'in' and st[3] >= st[0] and not st[7])

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('the rule: acknowledged when the kernel has it; syncs beside writes', True, {}),
        ('k1 acknowledged in memory', False, dict(kernel=False)),
        ('k2 a sync vouches for what was written when it ends', False, dict(begun=False)),
        ('k3 a segment is begun before the one before is synced', False, dict(lap=False)),
        ('k4 the power fails under a client on another machine (not promised: semantics.md)', False, dict(elsewhere=True))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    for label, ok, kw in [
        ('begun anew: behind the replay, when all is stored; nothing acknowledged past what it alone has', True, {}),
        ('a1 begun anew before the replay is in', False, dict(replayed=False)),
        ('a2 begun anew before all in memory is stored', False, dict(stored=False)),
        ('a3 acknowledged from memory while the journal takes nothing', False, dict(past=True))]:
        t0 = time.time(); bad += not report(label, anew(**kw), ok, t0)
    sys.exit(bad > 0)
