#!/usr/bin/env python3
"""Exhaustive: staged bytes of a file that is being written are freed once its upload has them, as the state folder's disk is nearly full (fs/file/freed.rs).

A file has two parts, each with a content 1 or 2. v: what the file is; f: so many parts, from the first on, were freed (the note says so from the first on); a: what the upload has of a
part; k: what the client knows it to have; w: a request for it that the server may carry out at any time. up: the upload, open, done (completed) or gone (ended by somebody else or by us).
asked: a completion that the server may carry out at any time, as the parts that it names. obj: the bucket's object: our parts, 'other', or none. told: what an fsync answered for.
sealed: a close or fsync began, and its outcome isn't known.
write     changes a part: refused where it was freed, and while sealed                 send     a part leaves, and again when it was changed since
arrive    the server has the part; the answer comes, or is lost                        free     the first part not yet freed, which the client knows to have arrived as it is
fsync     seals the file and asks for the completion, or asks again, as often as it likes; the completion names the same parts each time. A lost answer is a request that stays on its way
done      the server carries a completion out: if the upload is open, has those parts, and the name is not another client's
settle    the answer, or a look at the object, shows ours: the file is an ordinary one, of that object, and fsync answers        refuse   a look shows another's object, or the upload is gone: EIO for good
truncate  to 0: the upload is given up, another begins; refused while sealed           rename   refused where anything was freed; else the upload is given up, another begins
unlink    the upload is given up, the object deleted                                   other    another client writes the name, at any time, once
rule      the upload is ended from outside, at any time                                kill     at any time; the next mount gives the upload up and drops what is left of a freed file, sends any other
Checks: Z no zeros are stored   L what fsync answered for is in the bucket, unless another client or an unlink took it away   I what is freed is in the upload as the file is, unless it is done or gone
H half of a file never takes a name: what a killed mount leaves of a freed file is no object, unless it had been asked for as it was

notes(): the notes of that file, in three entries (staging/note.rs). An entry: what the disk surely has of it, and what was written; each as (number, says that bytes were freed).
note      a later note, into the first entry that is neither the latest nor the latest known to be durable        fsync    the same, durably
free      step by step: the note; a sync; it counts as durable; each other entry that has a note gets one too; a sync; bytes go
kill      what was written is there        power     an entry that was not synced is as it was, as it was written, or torn
Checks: N the next mount goes by a note that says so, once bytes went   O a program that knows no such note finds none that it would go by"""
import sys, time
from explore import explore, report

def run(seals=True, acked=True, as_is=True, noted=True, stays=True, looks=True, waits=True):
    #        v       f  a       k       w       up      asked sealed obj   told  at
    start = ((1, 1), 0, (0, 0), (0, 0), (0, 0), 'open', None, False, None, None, 'writing')
    names = 'v f a k w up asked sealed obj told at'.split()

    def put(t, i, x): return tuple(x if j == i else y for j, y in enumerate(t))

    def nexts(st):
        d = dict(zip(names, st))
        def to(**kw): return tuple({**d, **kw}[n] for n in names)
        v, f, a, k, w, up, asked, sealed, obj, told, at = st
        blank = dict(a=(0, 0), k=(0, 0), w=(0, 0), f=0, sealed=False)
        # What the network, the server and others do.
        for i in (0, 1):
            if w[i]:
                if up == 'open':
                    if at == 'writing': yield f'part {i} arrives', to(a=put(a, i, w[i]), k=put(k, i, w[i]), w=put(w, i, 0))
                    yield f'part {i} arrives unheard', to(a=put(a, i, w[i]), w=put(w, i, 0))
                yield f'part {i} is lost', to(w=put(w, i, 0))
        if asked:
            if up == 'open' and a == asked and obj != 'other': yield 'done', to(up='done', obj=asked, asked=None)
            yield 'completion is lost', to(asked=None)
        if up == 'open': yield 'rule', to(up='gone')
        if obj != 'other' and at in ('writing', 'dead'): yield 'other', to(obj='other', told=None)
        if at == 'writing':
            for i in (0, 1):
                if v[i] == 1 and i >= f and not (sealed and seals): yield f'write {i}', to(v=put(v, i, 2))
                if w[i] == 0 and k[i] != v[i] and up == 'open' and i >= f: yield f'send {i}', to(w=put(w, i, v[i]))
            may = f < 2 and (k[f] == v[f] and not w[f] or not acked and w[f] == v[f] or not as_is and k[f])
            if may and not sealed and told is None: yield 'free', to(f=f + 1)
            if not sealed and not asked:
                if f == 0 or not stays: yield 'rename', to(up='open', **{**blank, 'f': f})
                yield 'truncate', to(v=(1, 1), up='open', **blank)
            yield 'unlink', to(up='gone', obj=None, told=None, at='end')
            # A freed part is named as the client knows it; any other is sent before.
            named = tuple(k[i] if i < f else (k[i] if k[i] == v[i] and not w[i] else 0) for i in (0, 1))
            if not waits and f and told is None: yield 'close, answered here', to(told=v, sealed=True)
            if all(named) and not asked: yield 'fsync', to(asked=named, sealed=True)
            if f and sealed:
                ours = obj not in (None, 'other')
                if ours and (v == obj or not seals): yield 'settle', to(told=v, up='done', at='settled')
                elif not looks and up == 'gone': yield 'settle', to(told=v, at='settled')
                elif obj == 'other' or up != 'open' and not asked: yield 'refuse', to(up='gone' if up == 'open' else up, at='failed')
            if not f and sealed and obj == v: yield 'settle', to(told=v, at='settled')
            yield 'kill', to(at='dead')
        if at == 'dead':
            if f and noted: yield 'mount', to(up='gone' if up == 'open' else up, at='end')
            else:
                stage = tuple(0 if i < f else v[i] for i in (0, 1))
                yield 'mount', to(up='gone' if up == 'open' else up, obj=stage if obj != 'other' else obj, at='end')

    def broken(st):
        d = dict(zip(names, st))
        v, f, a, up, obj, told, at = (d[n] for n in 'v f a up obj told at'.split())
        ours = obj not in (None, 'other')
        if ours and 0 in obj: return 'Z'
        if told and at in ('settled', 'end') and obj != told: return 'L'
        if at == 'writing' and up == 'open' and any(a[i] != v[i] for i in range(f)): return 'I'
        if at == 'end' and ours and f and not d['sealed']: return 'H'
    return explore([start], nexts, broken)

def notes(synced=True, marks=True, others=True, old=True):
    #        entries              latest durable number freeing gone  end
    start = (((None, None),) * 3, None, None, 1, 0, False, False)
    LATEST = 8

    def nexts(st):
        entries, latest, durable, n, step, gone, end = st
        if end: return
        def wrote(at, freed): return tuple((d, (n, freed)) if i == at else (d, c) for i, (d, c) in enumerate(entries))
        def firm(of): return tuple((c, c) for d, c in of)
        at = next(i for i in range(3) if i not in (latest, durable))
        for i in range(3 ** 3):
            picks = [i // 3 ** j % 3 for j in range(3)]
            left = tuple((x, x) for x in ((d, c, None)[p] if d != c else c for (d, c), p in zip(entries, picks)))
            yield f'power {picks}', (left, latest, durable, n, step, gone, True)
        yield 'kill', (entries, latest, durable, n, step, gone, True)
        if n < LATEST and step in (0, 6):
            new = wrote(at, step == 6)
            yield 'note', (new, at, durable, n + 1, step, gone, end)
            yield 'fsync', (firm(new), at, at, n + 1, step, gone, end)
        if step == 0 and n > 1: yield 'free: note', (wrote(at, True), at, durable, n + 1, 1, gone, end)
        if step == 1: yield 'free: sync', (firm(entries) if synced else entries, latest, durable, n, 2, gone, end)
        if step == 2: yield 'free: marked', (entries, latest, latest if marks else durable, n, 3, gone, end)
        if step == 3:
            rest = [i for i, (d, c) in enumerate(entries) if c and not c[1]] if others else []
            if rest: yield 'free: another entry', (wrote(rest[0], True), rest[0], durable, n + 1, 3, gone, end)
            else: yield 'free: all entries', (entries, latest, durable, n, 4, gone, end)
        if step == 4: yield 'free: sync again', (firm(entries) if synced else entries, latest, durable, n, 5, gone, end)
        if step == 5: yield 'free: bytes go', (entries, latest, durable, n, 6, True, end)

    def broken(st):
        entries, gone, end = st[0], st[5], st[6]
        if not (gone and end): return None
        there = [c for d, c in entries if c]
        if not there or not max(there)[1]: return 'N'
        if old and any(not freed for _, freed in there): return 'O'
    return explore([start], nexts, broken)

if __name__ == '__main__':
    bad = 0
    for label, ok, kw in [
        ('the rule: known to have arrived, noted, freed; sealed until it is settled', True, {}),
        ('f1 bytes are taken between a completion and its answer (lost, asked again)', False, dict(seals=False)),
        ('f2 freed while it is on its way', False, dict(acked=False)),
        ('f3 freed though it was changed since it left', False, dict(as_is=False)),
        ('f4 the note does not say that bytes were freed', False, dict(noted=False)),
        ('f5 renamed though something was freed', False, dict(stays=False)),
        ('f6 an upload that is gone is taken for a completed one, without a look', False, dict(looks=False)),
        ('f7 a close is answered by this host (flush=local) though something was freed', False, dict(waits=False))]:
        t0 = time.time(); bad += not report(label, run(**kw), ok, t0)
    for label, ok, kw in [
        ('notes: each entry says so durably before bytes go', True, {}),
        ('n1 bytes go before the note is durable', False, dict(synced=False)),
        ('n2 notes of before stay: a program of before goes by them', False, dict(others=False)),
        ('n3 notes of before stay, and later ones are written over the durable one', False, dict(marks=False, others=False, old=False))]:
        t0 = time.time(); bad += not report(label, notes(**kw), ok, t0)
    sys.exit(bad > 0)
