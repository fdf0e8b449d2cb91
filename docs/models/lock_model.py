#!/usr/bin/env python3
"""Exhaustive: locks of a snapshot against its removal, that of its volume, and clocks that are wrong (protocol 4.9).

A lock is an entry of the head: snapshot, and until when. Two lockers, who may be any hosts, each: look that the snapshot is there > a CAS that
sets the entry, or makes it later, never earlier > look again: the snapshot is there > told. A remover (the owner) and a remover of the volume:
read the head > where an entry stands that is over by the clocks that are asked, a CAS drops it, judged on the value that it replaces > the
CAS of the removal, which requires that no entry stands. The owner also makes checkpoints, of any head that it has read.
Clocks: the time is 0..4; the remover's clock is right or 2 ahead, the stores' are right. What counts is the earlier one.
Check: a snapshot whose lock was told to a user is there until then. A lock that is over can be dropped, so that the removal comes to its end."""
import sys, time
from explore import explore, report

END = 4
UNTIL = {'A': 2, 'B': 3}

def run(condition=True, again=True, stores=True, longer=True, judged=True, known=True, volume=True, ahead=2):
    # time, head: (snapshot there, lock until or 0), lockers: (phase), told: until or 0, removers: (phase, what it has read) of snapshot and volume
    start = (0, (True, 0), ('idle', 'idle'), (0, 0), (('idle', None), ('idle', None)))
    def nexts(st):
        t, (snap, lock), lockers, told, rs = st
        if t < END: yield 'time goes on', (t + 1, (snap, lock), lockers, told, rs)
        clock = t if stores else t + ahead                              # of the removers: the earlier one of theirs and the stores'
        for i, name in enumerate('AB'):
            until = UNTIL[name]
            def me(ph, head=(snap, lock), tell=told): return (t, head, lockers[:i] + (ph,) + lockers[i + 1:], tell, rs)
            if lockers[i] == 'idle' and snap and t < until: yield f'{name} looks: there', me('looked')
            if lockers[i] == 'looked':
                if not snap and volume_gone(rs): yield f'{name}: the volume is gone', me('over')
                elif lock > until and longer: yield f'{name}: locked for longer already', me('over')
                else: yield f'{name} locks until {until}', me('set', (snap, until))
            if lockers[i] == 'set':
                if snap or not again: yield f'{name} looks again, tells until {until}', me('over', tell=told[:i] + (until,) + told[i + 1:])
                else: yield f'{name} looks again: gone', me('over')
        for j, (ph, read) in enumerate(rs):
            what = ('the snapshot', 'the volume')[j]
            def it(ph, read, head=(snap, lock)): return (t, head, lockers, told, rs[:j] + ((ph, read),) + rs[j + 1:])
            if ph == 'idle' and snap: yield f'remover of {what} reads the head', it('read', lock)
            if ph == 'read':
                if read and clock >= read:
                    now = lock if judged else read
                    if not now or clock >= now: yield f'remover of {what}: the lock is over, dropped', it('read', 0, (snap, 0))
                    else: yield f'remover of {what}: it was made longer', it('idle', None)
                elif read and (j == 0 or volume): yield f'remover of {what} is refused', it('idle', None)
                elif snap:
                    held = lock if condition else read
                    if held and (j == 0 or volume): yield f'remover of {what}: a lock came, refused', it('idle', None)
                    else: yield f'{what} is removed', it('done', None, (False, lock))
        # The owner's checkpoint: a change of the value that is there; of who does not know locks, without them.
        if snap and lock and not known: yield 'a version that knows no locks writes the head', (t, (snap, 0), lockers, told, rs)
    def volume_gone(rs): return rs[1][0] == 'done'
    def broken(st):
        t, (snap, _), _, told, _ = st
        if not snap and t < max(told): return f'a snapshot is gone at {t} that was locked until {max(told)}'
    return explore([start], nexts, broken, finish=lambda n: n.startswith(('time', 'remover of the snapshot', 'the snapshot')), done=lambda st: not st[1][0])

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('K1 an entry that the CAS of a removal requires to be absent; a second look; the earlier clock', True, dict()),
        ('k1 the removal judges by the head that it has read', False, dict(condition=False)),
        ('k2 no second look after the lock', False, dict(again=False)),
        ('k3 the clock of the host that removes alone', False, dict(stores=False)),
        ('k4 a later lock may be made earlier', False, dict(longer=False)),
        ('k5 a lock is dropped by what was read of it', False, dict(judged=False)),
        ('k6 a version that knows no locks may write the head', False, dict(known=False)),
        ('k7 the removal of the volume looks for none', False, dict(volume=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
