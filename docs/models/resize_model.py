#!/usr/bin/env python3
"""Exhaustive: a volume that grows while snapshots are taken, goes back, and is cut off anywhere (protocol 4.5, 4.6).

The head holds the size (a CAS by the owner), the log the marks of snapshots, the table under the checkpoint the size of each state. Growing
is one CAS, a mark one record, a checkpoint one CAS that covers some of the log; a rollback is a checkpoint that also sets the size. A crash
forgets what the session knows; who recovers reads head and table and walks the log behind the checkpoint.
Check: each snapshot has the size that the volume had when its mark was set, and the tip has the head's; nothing acknowledged lies behind it.
Variants: a mark without a size, a tip whose size is the table's, a rollback whose size is a change of its own, a session that takes a size
from a head that was read before it grew."""
import sys, time
from explore import explore, report

SIZES = 3

def run(mark_size=True, tip_from_head=True, back_in_one=True, fresh=True):
    # head size, table: (tip size, snapshots), log: marks behind the checkpoint, session: (tip size, snapshots, read) or None, truth, told
    # truth: the size at each mark; told: the largest byte that a client was told it has written to the tip
    start = (1, (1, ()), (), None, (), 1, 0)
    def recover(head, table, log):
        tip, snaps = table
        tip = head if tip_from_head else tip
        for size in log: snaps += (size if mark_size else tip,)
        return tip, snaps, None
    def nexts(st):
        head, table, log, s, truth, told, debt = st
        if s is None:
            yield 'recovers', (head, table, log, recover(head, table, log), truth, told, debt)
            return
        tip, snaps, read = s
        yield 'crash', (head, table, log, None, truth, told, debt)
        if debt:
            yield 'the size of the rollback', (debt, table, log, (debt, snaps, None), truth, told, 0)
            return
        if head < SIZES:
            yield 'grows', (head + 1, table, log, (head + 1, snaps, read), truth, told, 0)
        if read is None: yield 'a confirm reads the head', (head, table, log, (tip, snaps, head), truth, told, 0)
        else: yield 'what it read is taken', (head, table, log, ((tip if fresh else read), snaps, None), truth, told, 0)
        if told < tip: yield 'a write at the end', (head, table, log, s, truth, tip, 0)
        if len(truth) < 2: yield 'mark', (head, table, log + (tip,), (tip, snaps + (tip,), read), truth + (tip,), told, 0)
        if log or table != (tip, snaps): yield 'checkpoint', (head, (tip, snaps), (), s, truth, told, 0)
        for size in sorted(set(snaps)):
            if back_in_one: yield f'back to {size}', (size, (size, snaps), (), (size, snaps, None), truth, size, 0)
            else: yield f'back to {size}', (head, (size, snaps), (), (size, snaps, None), truth, size, size)
    def broken(st):
        head, _, _, s, truth, told, _ = st
        if s is None: return None
        tip, snaps, _ = s
        if snaps != truth: return 'a snapshot of another size than the volume had'
        if tip != head: return 'the tip has another size than the head'
        if told > tip: return 'what was written is behind the end'
    return explore([start], nexts, broken)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('R1 size in the mark, tip of the head\'s, rollback in one change', True, dict()),
        ('r1 a mark without a size', False, dict(mark_size=False)),
        ('r2 the tip has the size that the table tells', False, dict(tip_from_head=False)),
        ('r3 a rollback sets the size by another change', False, dict(back_in_one=False)),
        ('r4 a head that was read before is taken for the newest', False, dict(fresh=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
