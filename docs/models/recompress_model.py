#!/usr/bin/env python3
"""Exhaustive: a chunk's frames die, are packed, and are compressed anew on the way (protocol 5.5); its entry of the chunk table, and a reader
with an older table.

One chunk of three frames: LEN as maps and deaths name them, ANEW what compression makes of each. Its entry counts total and dead in lengths as
first stored, and beside that what is saved. A pack takes what was live by the recorded table; what dies meanwhile is counted in the old entry and
is dead in the new one. It may be published, or its owner dies and another packs again. A chunk is compressed anew once: then it is settled. Packs
are made for space (something is dead in the object) or for compression (not settled). A reader looks the chunk up in a table, reads the slice's
index there, then so many bytes of a frame; objects that were replaced stay for a grace.
Checks: A  total - dead is not what the maps need    S  saved is impossible    N  the object is retired while a frame of it is needed
        R  the reader reads another number of bytes than the frame has there   E  it is packed for compression again and again
Variants: a new entry counts what its frames take now; deaths are counted by that; the reader takes the map's length; nothing is settled; a pack that
was begun before a death takes its count for the newest."""
import sys, time
from explore import explore, report

LEN, ANEW, PACKS = (4, 4, 2), (1, 3, 2), 4
both = lambda frames, lens: sum(lens[f] for f in frames)

def run(total_as='first', dead_as='first', read_as='index', settles=True, carries=True):
    ALL = frozenset(range(3))
    # needed by the maps; entry (object, total, dead, saved, settled, dead frames by the recorded runs); objects: the lengths of the frames in each;
    # pack under way (object, what it took, dead bytes counted when it began, anew?); reader (frame, object) or None; retired; made for compression; why
    start = (ALL, (0, both(ALL, LEN), 0, 0, False, frozenset()), (tuple(enumerate(LEN)),), None, None, False, 0, None)
    F = ('need', 'e', 'objects', 'pack', 'reader', 'retired', 'anew', 'why')
    def nexts(st):
        need, e, objects, pack, reader, retired, anew, _ = st; at, total, dead, saved, settled, runs = e
        mk = lambda **kw: tuple(kw.get(f, x) for f, x in zip(F, st))
        here = dict(objects[at])
        for f in need:
            size = LEN[f] if dead_as == 'first' else here[f]
            yield f'a checkpoint: {f} dies', mk(need=need - {f}, e=(at, total, dead + size, saved, settled, runs | {f}))
        if not retired and dead == total:
            yield 'a checkpoint: nothing is left', mk(retired=True, why='N' if need else None)
        if pack is None and not retired and len(objects) < PACKS and dead < total:
            took = frozenset(here) - runs
            for cold in (False, True):
                tries = cold and not settled
                if not (dead or tries): continue
                lens = {f: ANEW[f] if tries else here[f] for f in took}
                count = anew + 1 if tries and not dead else anew
                made = objects + (tuple(sorted(lens.items())),)
                yield f'packs {sorted(took)}' + (', anew' if tries else ''), mk(objects=made, pack=(len(objects), took, dead, tries), anew=count)
        if pack is not None:
            to, took, then, tried = pack
            yield 'its owner dies', mk(pack=None, anew=0)
            if not retired:
                stored = sum(n for _, n in objects[to]); first = both(took, LEN)
                new = first if total_as == 'first' else stored
                less = (first if total_as == 'first' else stored) - stored
                left = dead - then if carries else 0
                entry = (to, new, left, less, (settled or tried) and settles, runs)
                yield 'a checkpoint names the pack', mk(e=entry, pack=None)
        if reader is None:
            for f in need: yield f'a reader looks {f} up', mk(reader=(f, at))
        else:
            f, o = reader; there = dict(objects[o]).get(f)
            if f not in need: yield 'the reader looks again', mk(reader=None)
            elif there is not None:
                reads = there if read_as == 'index' else LEN[f]
                yield 'the reader reads', mk(reader=None, why='R' if reads != there else None)
    def broken(st):
        need, (at, total, dead, saved, *_), objects, _, _, retired, anew, why = st
        if why: return why
        now = total_as == dead_as == 'now'
        if not retired and total - dead != both(need, dict(objects[at]) if now else LEN): return 'A'
        if not 0 <= saved <= total: return 'S'
        if anew > 1: return 'E'
    return explore([start], nexts, broken)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('R1 the rules: all is counted by first lengths, what is saved beside it', True, dict()),
        ('r1 a new entry counts what its frames take now', False, dict(total_as='now')),
        ('r2 deaths count what a frame takes now', False, dict(dead_as='now')),
        ('r3 both do: then a death that was under way with the pack is another number', False, dict(total_as='now', dead_as='now')),
        ('r4 a reader takes the length that the map names', False, dict(read_as='map')),
        ('r5 nothing is settled', False, dict(settles=False)),
        ('r6 what died while the pack was made is not dead in it', False, dict(carries=False))]:
        if sys.argv[1:] and label.split()[0] not in sys.argv[1:]: continue
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    sys.exit(bad > 0)
