#!/usr/bin/env python3
"""Exhaustive: a copy that is brought up to date in rounds, cut off anywhere, and who connects to it (protocol 4.10).

The source has the states 1, 2, …, each of two blocks. A round writes them one after the other over what the copy has, and ends with a
mark. The head's note is set before the first write and taken away after the mark; a rollback to the newest mark takes it away in the same
change. A note on the copying host's own disk says how far it came. Who connects reads, and may write.
A client of another host may have the copy attached (`handover=ask`), without a look at it; its first use gets the volume, in the middle of a round
too: claimed where the head has no note (`claim`), and not while the copying host has it to itself (`holds`), from its look at the copy on. It lets go again, and a round goes on.
Check: nobody reads a mix of two states; a mark is of one state; what a client wrote is never written over unasked.
Variants: no note; one behind the first write; one that goes before the mark; a rollback that leaves it; a host that goes on by the note on
its own disk alone; one that is handed over in the middle, with and without a look at the note."""
import sys, time
from explore import explore, report

STATES, GUEST = 3, 9

def run(noted=True, before=True, until=True, cleared=True, heeds=True, claim=True, holds=True):
    # tip: two blocks; marks: newest whole state; note in the head: the state that a round brings, or 0; on the host's disk: (state, base,
    # position) or None; at: the running round's (state, next step) or None; client: what it reads now; guest: it has written; by: attached
    start = ((1, 1), 1, 0, None, None, None, False, False, '')
    def nexts(st):
        tip, mark, note, own, at, client, guest, by, bad = st
        whole = not note or not noted
        if not by and client is None and at is None and whole: yield 'attaches', (tip, mark, note, own, at, client, guest, True, bad)
        if by and client is None and (at is None or not holds) and (whole or not claim):
            yield 'gets the volume', (tip, mark, note, own, at, tip, guest, by, bad)
        if client is not None and at is not None:
            yield 'lets go', (tip, mark, note, own, at, None, guest, by, bad)
            if not guest: yield 'writes', ((GUEST, tip[1]), mark, note, own, at, (GUEST, tip[1]), True, by, bad)
            return                                                             # the round waits: it has asked for the volume
        if at is None:
            if client is None and (not note or not noted):
                yield 'connects', (tip, mark, note, own, at, tip, guest, by, bad)
            if client is not None:
                yield 'leaves', (tip, mark, note, own, at, None, guest, by, bad)
                if not guest: yield 'writes', ((GUEST, tip[1]), mark, note, own, at, (GUEST, tip[1]), True, by, bad)
            if client is None and note:
                yield 'rolls back', ((mark, mark), mark, 0 if cleared else note, own, at, client, False, by, bad)
            if client is None:
                for state in range(mark + 1, STATES + 1):
                    ours = own is not None and own[1] == mark and (bool(note) or not heeds)
                    same = ours and own[0] == state and (note == state or not heeds)
                    if not ours and tip != (mark, mark): continue          # refused: somebody has changed it
                    yield f'round {state} begins', (tip, mark, note, own, (state, 'note', own[2] if same else 0), client, guest, by, bad)
        else:
            state, step, pos = at
            yield 'cut off', (tip, mark, note, own, None, client, guest, by, bad)
            if step == 'note':
                set_ = state if noted and before else note
                yield 'notes', (tip, mark, set_, (state, mark, pos), (state, 'write', pos), client, guest, by, bad)
            elif step == 'write' and pos < 2:
                lost = 'a client\'s write is gone' if guest and tip[pos] == GUEST else bad
                new = tuple(state if i == pos else b for i, b in enumerate(tip))
                late = noted and not before and note != state
                yield 'writes a block', (new, mark, note, (state, mark, pos + 1), (state, 'late' if late else 'write', pos + 1), client, guest, by, lost)
            elif step == 'late':
                yield 'notes late', (tip, mark, state, own, (state, 'write', pos), client, guest, by, bad)
            elif step == 'write':
                if not until: yield 'note goes', (tip, mark, 0, own, (state, 'mark', pos), client, guest, by, bad)
                else: yield 'all is written', (tip, mark, note, own, (state, 'mark', pos), client, guest, by, bad)
            elif step == 'mark':
                wrong = bad if tip == (state, state) else 'a mark is of no state'
                yield 'mark', (tip, state, note, own, (state, 'end', pos), client, guest, by, wrong)
            elif step == 'end':
                yield 'done', (tip, mark, 0, None, None, client, guest, by, bad)
    def broken(st):
        tip, mark, note, own, at, client, guest, by, bad = st
        if bad: return bad
        if client is not None and GUEST not in client and client[0] != client[1]: return 'a client reads what never was'
        return None
    return explore([start], nexts, broken)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('C1 noted before the first write, until the mark; heeded by the next round', True, dict()),
        ('c1 no note in the head', False, dict(noted=False)),
        ('c2 noted behind the first write', False, dict(before=False)),
        ('c3 the note goes before the mark: no worse', True, dict(until=False)),
        ('c4 a rollback leaves the note', False, dict(cleared=False)),
        ('c5 the copying host goes by its own note alone', False, dict(heeds=False)),
        ('c6 who has it attached gets it without a look at the note', False, dict(claim=False)),
        ('c7 who has it attached gets it between the look at the copy and the note', False, dict(holds=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
