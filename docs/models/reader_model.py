#!/usr/bin/env python3
"""Exhaustive: a host's note that clients use a volume there (protocol 4.11), beside its ownership, hand-overs between hosts, processes of one
host that go on with each other's clients, and another host that says that this one is gone.

Host A has clients, and a note in the pool; its process believes that the note stands, or not. Host B removes the volume where A is not the
owner and no note of A's stands. (That note and removal meet in the right order is the model `pin`'s.)
connect  at A: counted; unless A owns the volume the note is made, or looked for where the process believes that it stands (`looks`)
release  A lets go of the volume: it makes the note first, or looks for it, where it has clients (`before`)
leave    a client goes; with the last one the note, if the process believes in one
replace  A's clients leave for the next process, which believes nothing; the note stays meanwhile (`keeps`). They come again: the note is made
         in the place of what is there; by an owner what is there is taken over (`adopts`)
move     A's volume goes on as another one (4.8), of which there is no note yet: its clients are counted there, or not (`moves`)
gone     B says that A is gone, and drops A's note: A's clients are given up, until A shows that it is there, by a new client or a claim
Checks: nothing is removed under clients that are not given up; without clients no note is left."""
import sys, time
from explore import explore, report

def run(before=True, looks=True, keeps=True, adopts=True, moves=True):
    # clients, those of them that are not counted, moves left, waiting for the next process, A owns, note stands, believed, given up, replacements and takings left, removed
    start = (0, 0, 2, 0, False, False, False, False, 2, 2, False)
    def nexts(st):
        n, unc, mv, waits, owns, note, believed, given, repl, gone, removed = st
        if removed: return
        def to(**ch): return tuple(ch.get(k, v) for k, v in zip(('n', 'unc', 'mv', 'waits', 'owns', 'note', 'believed', 'given', 'repl', 'gone', 'removed'), st))
        def noted(): return dict(note=note if believed and not looks else True, believed=True)
        if not waits:
            if n < 2: yield 'a client comes', to(n=n + 1, given=False, **({} if owns else noted()))
            if n - unc: yield 'a client leaves', to(n=n - 1, **(dict(note=note and not believed, believed=False) if n - unc == 1 else {}))
            if unc: yield 'a client leaves that is not counted', to(n=n - 1, unc=unc - 1)
            if owns and mv: yield 'A moves it', to(note=False, believed=False, unc=0 if moves else n, mv=mv - 1)
            if not owns: yield 'A claims', to(owns=True, given=False)
            if owns: yield 'A releases', to(owns=False, **(noted() if before and n - unc else {}))
            if n and repl: yield 'A is replaced', to(n=0, unc=0, waits=n, repl=repl - 1, believed=False, note=note and (keeps or not believed))
        else:
            yield 'the next process has the clients', to(n=waits, waits=0, **(dict(believed=adopts and note) if owns else dict(note=True, believed=True)))
        if gone and not owns: yield 'B says that A is gone', to(note=False, given=True, gone=gone - 1)
        if not owns and not note: yield 'B removes the volume', to(removed=True)
    def broken(st):
        n, unc, mv, waits, owns, note, believed, given, repl, gone, removed = st
        if removed and n + waits and not given: return 'removed under clients'
        if note and not n + waits: return 'a note is left of clients that have gone'
        return None
    return explore([start], nexts, broken)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('R1 noted before a release, looked for, kept for the next process', True, dict()),
        ('r1 an owner lets go without a note', False, dict(before=False)),
        ('r2 a note that was made once is believed in', False, dict(looks=False)),
        ('r3 the note goes when clients leave for the next process', False, dict(keeps=False)),
        ('r4 an owner takes over no note of the process before', False, dict(adopts=False)),
        ('r5 clients that moved with their volume are not counted there', False, dict(moves=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
