#!/usr/bin/env python3
"""Exhaustive: the data key of an encrypted volume is changed beside writes, collection, crashes, a second owner and a clone's reader (protocol 5.10).

Chunks are numbered by the log. Each is sealed by the data key of its writer's memory, and is in the log, then in the table of a checkpoint, with a
label: the oldest key that may have sealed something of it. A pack takes chunks over: sealed anew by the newest key, or as they are under a new index.
Two owners in turn: H has the volume and may crash; the next owner knows the keys of when it opened the volume inertly, until it claims. The journal holds
acknowledged records that the pool lacks. They are sealed by a key that comes from the volume key (0 here), so a rotation has nothing to do with the journal.
Variants seal them by the data key of the owner's opening; then the rotation needs another journal. After a crash the records are replayed into memory one
by one; tasks run beside that.
Checks: L  something that the log, the table or the journal needs is sealed by a key that the head does not have (after a crash it is lost)
        R  a reader with an older head meets a key that it can't learn    U  the rotation is over, and something live is sealed by the old key
        W  an acknowledged record is in no journal and not in the pool    N  the rotation can't be finished
Variants: sealed before the head is known to have the key; over by the table alone, whatever the log has behind it; a journal that is sealed by the data key,
and over whatever is in it; a pack is labelled by its index; a claim learns no keys; a journal that is sealed by the data key and retired by the rotation, which
acknowledges from memory meanwhile, or is begun anew before the replay is in; a reader looks for no keys; a chunk that had its number before is labelled by the new key."""
import sys, time
from explore import explore, report

KEYS, CHUNKS, RECORDS = 2, 3, 2

# journal: 'volume' key (the rule); 'data': sealed by the data key of the opening, and nobody asks what is in it; 'past': so, retired by the rotation, and what is
# acknowledged meanwhile is in memory alone; 'early': so, nothing is acknowledged meanwhile, and it is begun anew when memory has nothing unstored, whatever the replay
# has yet to bring; 'careful': nor before the replay is in.
def run(known_first=True, log_too=True, journal='volume', label='oldest', claim_learns=True, reseals=True, reader_learns=True, given='old'):
    kind, RECS = journal, RECORDS
    # head: keys; mem: the owner's keys, or None (nobody); inert: those of a host that opened it meanwhile, or None
    # chunks: number -> (sealed by, where: numbered / log / table, label)
    # journal: keys of its records that the pool lacks; how many of these are in memory; the key that it seals by; records in memory alone; whether it is retired
    # reader: keys it knows; unknown: a begin whose outcome its author does not know; over: how often a rotation ended
    start = (frozenset({1}), frozenset({1}), None, (), ((), 0, 0 if kind == 'volume' else 1, 0, False), frozenset({1}), False, None)
    F = ('head', 'mem', 'inert', 'chunks', 'journal', 'reader', 'unknown', 'why')
    def nexts(st):
        head, mem, inert, chunks, journal, reader, unknown, why = st
        mk = lambda **kw: tuple(kw.get(f, x) for f, x in zip(F, st))
        put = lambda i, c: chunks[:i] + (c,) + chunks[i + 1:]
        cur = max(mem) if mem else None
        recs, has, seal, past, retired = journal
        for i, (by, at, lab) in enumerate(chunks):
            if reader and at == 'table' and by not in reader:
                if reader_learns and by in head: yield 'the reader looks for keys', mk(reader=reader | head)
                else: yield 'the reader meets it', mk(why='R')
        if inert is None: yield 'another host opens it inertly', mk(inert=head)
        if mem is None:
            ks = head if claim_learns or inert is None else inert
            # The seal of an opening is that of the keys known then.
            seal = 0 if kind == 'volume' else max(ks) if reseals or inert is None else max(inert)
            yield 'a host claims', mk(mem=ks, inert=None, journal=(recs, 0, seal, 0, False))
            return
        yield 'the owner crashes', mk(mem=None, unknown=False, journal=(recs, 0, seal, 0, False), why='W' if past else None, chunks=tuple((by, at, lab if at == 'table' else min(head)) for by, at, lab in chunks if at != 'numbered'))
        if unknown: yield 'the change is known', mk(unknown=False, mem=mem | head); return
        if max(head) < KEYS and len(head) < 2:
            new = max(head) + 1
            yield 'begin', mk(head=head | {new}, mem=mem | {new})
            yield 'begin, no answer: it was chosen', mk(head=head | {new}, unknown=True)
            if not known_first: yield 'begin: sealed by it before that is known, and it was not chosen', mk(mem=mem | {new})
        if has == len(recs) < RECS and not retired: yield 'a record', mk(journal=(recs + (seal,), has + 1, seal, 0, False))
        if has == len(recs) and retired and kind == 'past' and not past: yield 'a record, acknowledged from memory', mk(journal=(recs, has, seal, 1, True))
        if has < len(recs): yield 'the replay brings a record', mk(journal=(recs, has + 1, seal, past, retired))
        if has: yield 'the oldest record is stored', mk(journal=(recs[1:], has - 1, seal, past, retired))
        elif past: yield 'what memory alone has is stored', mk(journal=(recs, 0, seal, 0, retired))
        if len(chunks) < CHUNKS: yield 'a chunk gets its number', mk(chunks=chunks + ((None, 'numbered', cur),))
        for i, (by, at, lab) in enumerate(chunks):
            if at == 'numbered':
                # The seal is drawn after the number: by either key, where a rotation begins between.
                yield f'chunk {i} is stored', mk(chunks=put(i, (cur, 'log', lab if given == 'old' else cur)))
                if lab != cur: yield f'chunk {i}, sealed before, is stored', mk(chunks=put(i, (lab, 'log', lab if given == 'old' else cur)))
            elif at == 'log' and all(c[1] == 'table' for c in chunks[:i]):
                yield f'a checkpoint passes {i}', mk(chunks=put(i, (by, 'table', lab)))
            elif at == 'table' and lab < cur:
                yield f'{i} is packed, sealed anew', mk(chunks=put(i, (cur, 'table', cur)))
                yield f'{i} is packed as it is', mk(chunks=put(i, (by, 'table', lab if label == 'oldest' else cur)))
        old = lambda c: c[2] < cur if c[1] == 'table' else log_too and (c[1] != 'table' and c[2] < cur)
        if len(head) > 1 and cur == max(head):
            needs = kind not in ('volume', 'data') and min(recs + (seal,)) < cur
            if needs and not any(map(old, chunks)) and not retired: yield 'the journal is retired', mk(journal=(recs, has, seal, past, True))
            if retired and not has and not past and (not recs or kind != 'careful'):
                yield 'memory has nothing unstored, the journal is begun anew', mk(journal=((), 0, cur, 0, False), why='W' if recs else None)
            if not any(map(old, chunks)) and not needs:
                yield 'the old keys go', mk(head=frozenset({cur}), mem=frozenset({cur}))
    def broken(st):
        head, mem, inert, chunks, journal, reader, unknown, why = st
        if why: return why
        if any(at != 'numbered' and by not in head for by, at, lab in chunks) or any(key and key not in head for key in journal[0]) or (mem and journal[2] and journal[2] not in head): return 'U' if head == {KEYS} else 'L'
    finish = lambda name: not name.startswith(('the owner crashes', 'another host', 'the reader', 'a record', 'a chunk gets', 'begin')) and 'as it is' not in name
    return explore([start], nexts, broken, finish=finish, done=lambda st: len(st[0]) == 1)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('K1 the rules', True, dict()),
        ('k1 sealed before the head is known to have the key', False, dict(known_first=False)),
        ('k2 over by the table alone, whatever the log has behind it', False, dict(log_too=False)),
        ('k3 the journal is sealed by the data key, and over whatever is in it', False, dict(journal='data')),
        ('k4 a pack of frames as they are is labelled by its index', False, dict(label='index')),
        ('k5 a claim learns no keys', False, dict(claim_learns=False)),
        ('k6 sealed by the data key, and opened before the claim it keeps its seal', False, dict(journal='careful', reseals=False)),
        ('k7 a reader looks for no keys', False, dict(reader_learns=False)),
        ('k8 a chunk that had its number before is labelled by the new key', False, dict(given='new')),
        ('k9 sealed by the data key, retired, and acknowledged from memory meanwhile', False, dict(journal='past')),
        ('k10 sealed by the data key, and begun anew before the replay is in', False, dict(journal='early')),
        ('K2 begun anew behind the replay, nothing acknowledged meanwhile (a flush waits)', True, dict(journal='careful'))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
