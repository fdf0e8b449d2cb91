"""The kinds of tampering, one a row of the table: what it is done to, how, and what it may come to.

A row's `scope` says what it is done to: all objects of that kind, of one plain and one encrypted volume with a snapshot and a
clone each, on the stores that are in the enemy's hand; those of `POOL` scopes are the pool's own. `signed` is all that is signed in the pool that has a key (macs.py).

What may be seen: with one store (2+1 makes up for one) everything is read right; with k stores it is right or refused. What
else a row may come to, it says: a verdict, and for whom (all words must fit): `plain` or `sealed` volumes, `one` store or `k`,
the `running` daemon, a `fresh` one of the same host, or a `stranger`, a host that has never seen the pool's state. `why`
tells where docs/security.md says that this is not detected."""

import dataclasses
import json
import random
import struct

from formats import PACK, SPAN, Frame, Register, Shard, crc32c, key_of

POOL = ("label", "pool register", "names", "store", "signed")
GIB = 1 << 30
UNKEYED = "not found yet: register is not keyed"
FORGED = "plain volumes have checksums, not signatures"
PLAIN = ("forged plain", "blank plain", "refused plain")


@dataclasses.dataclass
class Row:
    name: str
    scope: str
    act: object
    may: tuple = ()
    why: str = ""


class Hand:
    """The stores in the enemy's hand, and what it knows: all that lies in them, now and in the past, and elsewhere."""

    def __init__(self, world, stores):
        self.world, self.stores, self.draw = world, stores, random.Random(7)
        self.done = []

    def put(self, store, key, data):
        data = bytes(data)
        if data != self.world.base[store].get(key):
            self.world.stores[store].put(key, data)
        self.done.append((store, key))

    def zeros(self, store, key, count):
        self.world.stores[store].put_zeros(key, count)
        self.done.append((store, key))

    def delete(self, store, key):
        self.world.stores[store].delete(key)
        self.done.append((store, key))

    def chunk(self, shard):
        """All shards of its chunk, as they were stored: who has k of them can compute the others."""
        tail = f"{shard.volume:032x}/{'p' if shard.kind == PACK else 'c'}-{shard.epoch}-{shard.seq & ~(1 << 63)}"
        found = {}
        for index in range(shard.k + shard.m):
            key = key_of(f"{tail}.{index}")
            for objects in self.world.base:
                if key in objects:
                    found[index] = Shard(objects[key])
        return found


# ---- what is done to any object -----------------------------------------------------------------------------------------------


def each(change):
    """`change` makes an object's bytes of what they are; None deletes it."""

    def act(hand, targets):
        for store, key, data in targets:
            made = change(data, hand)
            if made is None:
                hand.delete(store, key)
            else:
                hand.put(store, key, made)

    return act


def flipped(data, at, bit=4):
    data = bytearray(data)
    data[at % len(data)] ^= 1 << bit
    return data


def zeros(hand, targets):
    """A GiB of zeros in place of an object; on servers that store it, less than that for all but the first."""
    for n, (store, key, _) in enumerate(targets):
        sparse = hand.world.stores[store].url.startswith("file:")
        hand.zeros(store, key, GIB if sparse else hand.world.huge if n == 0 else 1 << 20)


def swapped(hand, targets):
    """Each object's bytes stand in the next one's place."""
    for store in hand.stores:
        here = [(key, data) for at, key, data in targets if at == store]
        for (key, _), (_, data) in zip(here, here[1:] + here[:1]):
            hand.put(store, key, data)


def replaced(source):
    """By the bytes that `source` gives for a store and key, where it has any."""

    def act(hand, targets):
        for store, key, data in targets:
            other = source(hand, store, key, data)
            if other is not None:
                hand.put(store, key, other)

    return act


def of_another_volume(hand, store, key, data):
    """A shard of the same kind and index of a volume of another set."""
    mine = Shard(data)
    for other, held in hand.world.base[store].items():
        if other.split("/")[-1].startswith(("c-", "p-")) and other.split("/")[1] != key.split("/")[1]:
            shard = Shard(held)
            if (shard.kind, shard.index) == (mine.kind, mine.index) and shard.volume not in hand.world.family(mine.volume):
                return held
    return None


def of_another_chunk(hand, store, key, data):
    mine = Shard(data)
    for other, held in hand.world.base[store].items():
        if other != key and f"/{mine.volume:032x}/" in other and Shard(held).index == mine.index:
            return held
    return None


def of_another_pool(hand, store, key, data):
    shards = [held for other, held in hand.world.other[store].items() if "/c-" in other]
    return shards[len(key) % len(shards)]


def sibling(hand, _store, _key, data):
    mine = Shard(data)
    return hand.chunk(mine)[(mine.index + 1) % (mine.k + mine.m)].bytes()


# ---- shards ------------------------------------------------------------------------------------------------------------------


def shards(change, sealed_again=True):
    """`change` gets each shard; its own checksums are made right again after it."""

    def act(hand, targets):
        for store, key, data in targets:
            shard = Shard(data)
            change(shard)
            hand.put(store, key, (shard.seal() if sealed_again else shard).bytes())

    return act


def frame_bytes(where):
    """A bit in each frame is flipped, and nothing made right; in parity a bit in each 4 KiB."""

    def change(data, _hand):
        shard, data = Shard(data), bytearray(data)
        for frame in shard.frames():
            data[where(frame)] ^= 16
        if shard.index >= shard.k:
            for at in range(0, len(shard.body), 4096):
                data[at] ^= 16
        return data

    return each(change)


def frames(change, only=None):
    """Each frame is changed, and all checksums are right: its own, its shard's. Parity has none: it is left as it is."""

    def remake(shard):
        for frame in list(shard.frames()):
            if only is None or frame.kind in only:
                shard.change(frame, change)

    return shards(remake)


def body_byte(at):
    def change(_head, body):
        if body:
            body[at % len(body)] ^= 16

    return change


def head_field(at, form, value):
    def change(head, _body):
        struct.pack_into(form, head, at, value(struct.unpack_from(form, head, at)[0]))

    return change


def noise_in_body(seed):
    """Bytes of the body are drawn anew, as somebody does who looks for a parser's faults."""
    draw = random.Random(seed)

    def change(_head, body):
        for _ in range(1 + len(body) // 64):
            body[draw.randrange(len(body))] = draw.randrange(256)

    return change


def footer(**fields):
    """Fields of the footer have other values; its checksum is right."""

    def act(hand, targets):
        for store, key, data in targets:
            shard = Shard(data)
            told = {name: fields[name] for name in ("count", "length") if name in fields}
            for name, value in fields.items():
                if name not in told:
                    setattr(shard, name, value(getattr(shard, name)) if callable(value) else value)
            hand.put(store, key, shard.bytes(**told))

    return act


def footer_byte(from_end):
    return each(lambda data, _: flipped(data, len(data) - from_end(Shard(data))))


def agreeing(hand, targets):
    """Other content in all data shards in hand, and a payload hash of it in every footer in hand: they agree."""
    made = {}
    for store, key, data in targets:
        shard = Shard(data)
        for frame in list(shard.frames()):
            shard.change(frame, body_byte(30))
        made[store, key] = shard.seal()
    for (store, key), shard in made.items():
        hashes = {index: held.hash for index, held in hand.chunk(shard).items()}
        mine = (shard.volume, shard.epoch, shard.seq)
        hashes |= {other.index: other.hash for other in made.values() if (other.volume, other.epoch, other.seq) == mine}
        hand.put(store, key, shard.agree([hashes[i] for i in range(shard.k)]).bytes())


def frames_swapped(hand, targets):
    """Two frames of a shard in each other's places, with the checksums of these places: where they are sealed, that needs
    no more than what lies in the store."""
    for store, key, data in targets:
        shard = Shard(data)
        by_length = {}
        for frame in shard.frames():
            by_length.setdefault((frame.length, frame.slot > 0), []).append(frame)
        for (_, sealed), alike in by_length.items():
            for one, two in zip(alike[::2], alike[1::2]):
                held = [bytes(shard.body[f.at : f.end]) for f in (one, two)]
                for frame, bytes_of in ((one, held[1]), (two, held[0])):
                    if sealed:
                        shard.move(frame, bytes_of, shard.index * SPAN + frame.at)
        hand.put(store, key, shard.seal().bytes())


def of_another_key(hand, targets):
    """Frames that another encrypted volume's key has sealed, with the checksums of this place."""
    for store, key, data in targets:
        shard, other = Shard(data), of_another_volume(hand, store, key, data)
        if other is None:
            continue
        other = Shard(other)
        theirs = [f for f in other.frames() if f.slot]
        for frame in list(shard.frames()):
            fitting = [f for f in theirs if f.length == frame.length and frame.slot]
            if fitting:
                shard.move(frame, bytes(other.body[fitting[0].at : fitting[0].end]), shard.index * SPAN + frame.at)
        hand.put(store, key, shard.seal().bytes())


def contents_table(change):
    """The table of contents is changed; its checksums are right, its shard's too."""

    def act(hand, targets):
        for store, key, data in targets:
            shard = Shard(data)
            if shard.toc():
                at, end = shard.toc()
                if bytes(shard.body[at : at + 4]) == b"WLTC":
                    toc = bytearray(shard.body[at : end - 4])
                    change(toc)
                    shard.body[at:end] = toc + struct.pack("<I", crc32c(toc))
                else:
                    shard.change(Frame(shard.body, at), lambda _head, body: change(body))
            hand.put(store, key, shard.seal().bytes())

    return act


def slice_index(change):
    """The index of a slice of a plain pack is changed, or the frame that it is in of a sealed one; checksums are right."""

    def act(hand, targets):
        for store, key, data in targets:
            shard = Shard(data)
            if shard.index < shard.k and bytes(shard.body[:4]) in (b"WLSL", b"WLSD"):
                end = shard.after_index(0)
                index = bytearray(shard.body[: end - 4])
                change(index)
                shard.body[:end] = index + struct.pack("<I", crc32c(index))
            elif shard.index < shard.k:
                for frame in list(shard.frames()):
                    if frame.kind == 4:
                        shard.change(frame, lambda _head, body: change(body))
            hand.put(store, key, shard.seal().bytes())

    return act


def store_byte(at, value):
    def change(data):
        if at < len(data):
            data[at] = value

    return change


# ---- registers ---------------------------------------------------------------------------------------------------------------


def register(change):
    """An acceptor object's fields are changed, its checksum is right."""

    def act(hand, targets):
        for store, key, data in targets:
            made = Register(data)
            told = change(made, hand)
            hand.put(store, key, told if isinstance(told, bytes) else made.bytes())

    return act


def value(change):
    """A value of JSON is changed, and accepted in a later ballot than all others: a register that follows the rules."""

    def act(made, hand):
        head = made.head()
        told = change(head, hand)
        made.value = told if isinstance(told, bytes) else json.dumps(head, separators=(",", ":")).encode()
        made.newer()

    return register(act)


def own_key_of(key):
    """A register's object of another one, under its key."""

    def act(made, _hand):
        made.id = int(key(f"{made.id:032x}"), 16)

    return register(act)


def older(hand, store, key, _data):
    return hand.world.old[store].get(key)


def older_with_objects(hand, targets):
    """The head of then, and all objects of the volume that were there then and have been deleted since."""
    for store, key, _ in targets:
        if key in hand.world.old[store]:
            hand.put(store, key, hand.world.old[store][key])
            volume = key.removeprefix("reg/")
            for other, data in hand.world.old[store].items():
                if f"/{volume}/" in other and other not in hand.world.base[store]:
                    hand.put(store, other, data)


def another_head(hand, store, key, data):
    """The head of the set's next volume: of a plain one an encrypted one's, and the other way."""
    ids = sorted(hand.world.family(Register(data).id))
    other = ids[(ids.index(Register(data).id) + 1) % len(ids)]
    return hand.world.base[store][f"reg/{other:032x}"]


def grown_keys(head, hand):
    if "keys" in head:
        other = next(r for r in hand.world.heads() if r.head().get("keys") and r.id not in hand.world.family(int(head["volume"], 16)))
        head["keys"] = other.head()["keys"]


def key_part(part):
    def change(head, _hand):
        for entry in head.get("keys", {}).get(part, []):
            entry["wrapped"] = ("0" if entry["wrapped"][0] != "0" else "1") + entry["wrapped"][1:]

    return change


def cheaper(head, _hand):
    for slot in head.get("keys", {}).get("slots", []):
        slot["argon2"] = {"memory_kib": 8, "passes": 1, "lanes": 1}


def costly(head, _hand):
    for slot in head.get("keys", {}).get("slots", []):
        slot["kind"], slot["argon2"] = "passphrase", {"memory_kib": 4_000_000_000, "passes": 4_000_000_000, "lanes": 1}


def without(name):
    def change(head, _hand):
        head.pop(name, None)
        if name == "keys":
            head["format"] = 2

    return change


def claimed(head, _hand):
    epoch = max(head["active"]["epoch"], head.get("claim", {}).get("epoch", 0)) + 1
    host = {"id": f"{9:032x}", "name": "mallory"}
    head["claim"] = {"epoch": epoch, "nonce": f"{9:032x}", "host": host, "since_ms": 1, "withdrawn": False}


def owned(head, _hand):
    head["active"]["released"] = False
    head["active"]["owner"] = {"id": f"{9:032x}", "name": "mallory"}


def elsewhere(head, _hand):
    head["checkpoint"]["tables"]["offset"] += 16


# ---- the pool's own ------------------------------------------------------------------------------------------------------------


def labels(change):
    def act(hand, targets):
        for store, key, data in targets:
            label = json.loads(data)
            told = change(label, store, hand)
            hand.put(store, key, told if isinstance(told, bytes) else json.dumps(label).encode())

    return act


def names_changed(change):
    """Entries of the directory's nodes are changed: `change` gets names and ids, and gives others."""

    def act(made, hand):
        data = made.value
        if data is None or data[1] != 0:
            return
        count, at, entries = struct.unpack_from("<H", data, 10)[0], 12, []
        for _ in range(count):
            length = data[at]
            entries.append((data[at + 1 : at + 1 + length], data[at + 1 + length : at + 17 + length], data[at + 17 + length : at + 25 + length]))
            at += 25 + length
        entries = change(entries, hand)
        made.value = data[:10] + struct.pack("<H", len(entries)) + b"".join(bytes([len(k)]) + k + v + s for k, v, s in sorted(entries))
        made.newer()

    return register(act)


def to_others(entries, hand):
    """Each name leads to the volume of the next name of its kind."""
    return [(k, entries[(n + 2) % len(entries)][1], s) for n, (k, _, s) in enumerate(sorted(entries))]


def store_of(source):
    """All that lies in a store is replaced by what `source` gives for it."""

    def act(hand, _targets):
        for n, store in enumerate(hand.stores):
            made = source(hand, n, store)
            for key in hand.world.base[store].keys() - made.keys():
                hand.delete(store, key)
            for key, data in made.items():
                hand.put(store, key, data)

    return act


def next_store(hand, n, store):
    """What the next store in hand has; of one alone, what the store beside it has."""
    others = hand.stores[1:] + hand.stores[:1] if len(hand.stores) > 1 else [(store + 1) % len(hand.world.stores)]
    return hand.world.base[others[n]]


def junk(hand, _targets):
    """Objects that nobody made."""
    for store in hand.stores:
        some = [(key, data) for key, data in hand.world.base[store].items() if "/c-" in key][:20]
        for key, data in some:
            stem = key.split("/", 1)[1].rsplit(".", 1)[0]
            for name in (f"{stem}.9", f"{stem}9.0", f"{stem}.x", stem.replace("c-", "c-18446744073709551615-") + ".0"):
                hand.put(store, key_of(name), data)
            hand.put(store, "zz/" + key.split("/", 1)[1], data)
        for name in ("reg/" + "f" * 32, "reg/x", "reg/" + "0" * 31, "labels", "aside/x", "a" * 200, "ä/b c"):
            hand.put(store, name, b"what nobody made")


KINDS = [
    # Objects as a whole.
    Row("a bit in the head of each frame", "data", frame_bytes(lambda f: f.at + 5)),
    Row("a bit in the body of each frame", "data", frame_bytes(lambda f: f.at + 16 + f.length // 2)),
    Row("a bit in the last byte (tag) of each frame", "data", frame_bytes(lambda f: f.end - 1)),
    Row("a bit in the footer's fields", "data", footer_byte(lambda s: 16 + 4 * len(s.checks) + 4 * s.k + 60)),
    Row("a bit in the footer's checksums", "data", footer_byte(lambda s: 20)),
    Row("a bit in the footer's magic", "data", footer_byte(lambda s: 3)),
    Row("cut by a byte", "any", each(lambda data, _: data[:-1])),
    Row("cut in the middle", "any", each(lambda data, _: data[: len(data) // 2])),
    Row("the front is cut off", "any", each(lambda data, _: data[len(data) // 2 :])),
    Row("grown by 4 KiB", "any", each(lambda data, _: data + bytes(4096))),
    Row("grown before its footer", "any", each(lambda data, _: data[: len(Shard(data).body)] + bytes(4096) + data[len(Shard(data).body) :])),
    Row("emptied", "any", each(lambda _d, _: b"")),
    Row("deleted", "any", each(lambda _d, _: None)),
    Row("noise of its length", "any", each(lambda data, hand: hand.draw.randbytes(len(data)))),
    Row("noise before a right footer", "any", each(lambda data, hand: hand.draw.randbytes(len(Shard(data).body)) + data[len(Shard(data).body) :])),
    Row("1 GiB of zeros", "data", zeros),
    Row("a map chunk is 1 GiB of zeros", "map", zeros),
    Row("its sibling's bytes", "any", replaced(sibling)),
    Row("another chunk's shard of the same volume", "any", replaced(of_another_chunk)),
    Row("another volume's shard", "any", replaced(of_another_volume)),
    Row("another pool's shard", "any", replaced(of_another_pool)),
    Row("all objects of a volume in turn in each other's places", "any", swapped),
    # Footers whose checksum is right.
    Row("footer of another format", "any", footer(version=2)),
    Row("footer of another layout", "any", footer(m=2)),
    Row("footer with k = 0", "any", footer(k=0)),
    Row("footer of another index", "any", footer(index=lambda i: (i + 1) % 3)),
    Row("footer of another kind", "any", footer(kind=lambda kind: (kind + 1) % 3)),
    Row("footer of another volume", "any", footer(volume=lambda v: v ^ 1)),
    Row("footer of another era", "any", footer(era=lambda e: e + 1)),
    Row("footer with lengths of 4 GiB", "any", footer(lengths=[0xFFFFFFFF] * 2)),
    Row("footer with 4 billion checksums", "any", footer(count=0xFFFFFFFF)),
    Row("footer of 4 GiB", "any", footer(length=0xFFFFFFFF)),
    Row("footer with a table of contents of 4 GiB", "any", footer(toc_len=0xFFFFFFFF)),
    Row("footer with a table of contents at 2^63", "any", footer(toc_at=1 << 63)),
    Row("footer of another payload", "any", footer(payload=lambda p: p ^ 1)),
    # Frames whose checksums are right, and their shard's.
    Row("other bytes under right checksums of the shard", "data", shards(lambda s: s.body.__setitem__(slice(100, 110), b"0123456789"))),
    Row("other content, all checksums right", "data", frames(body_byte(30)), PLAIN, FORGED),
    Row("other content, the shards in hand agree", "data", agreeing, PLAIN, FORGED),
    Row("another tag, all checksums right", "data", frames(body_byte(-1)), PLAIN, FORGED),
    Row("another salt, all checksums right", "data", frames(body_byte(3)), PLAIN, FORGED),
    Row("frames of a chunk swapped, checksums right", "data", frames_swapped),
    Row("frames of another encrypted volume, checksums right", "data", of_another_key),
    Row("another key number", "data", frames(head_field(1, "B", lambda n: n + 1)), PLAIN, FORGED),
    Row("key number 0 in encrypted frames", "data", frames(head_field(1, "B", lambda n: 0)), PLAIN, FORGED),
    Row("key number 255", "data", frames(head_field(1, "B", lambda n: 255)), PLAIN, FORGED),
    Row("a codec that nobody knows", "data", frames(head_field(0, "B", lambda n: 77)), PLAIN, FORGED),
    Row("another codec", "data", frames(head_field(0, "B", lambda n: (n + 1) % 3)), PLAIN, FORGED),
    Row("a frame of 255 blocks", "data", frames(head_field(2, "B", lambda n: 255)), PLAIN, FORGED),
    Row("a frame of another kind", "data", frames(head_field(3, "B", lambda n: (n + 1) % 3)), PLAIN, FORGED),
    Row("a frame whose body is 4 GiB long", "data", frames(head_field(4, "<I", lambda n: 0xFFFFFFFF)), PLAIN, FORGED),
    Row("a frame whose contents are 4 GiB long", "data", frames(head_field(8, "<I", lambda n: 0xFFFFFFFF)), PLAIN, FORGED),
    Row("a frame whose contents are shorter", "data", frames(head_field(8, "<I", lambda n: n - 4096)), PLAIN, FORGED),
    # Maps and tables.
    Row("a bit in each page and table", "map", frame_bytes(lambda f: f.at + 16 + f.length // 2)),
    Row("map pages with noise, checksums right", "map", frames(noise_in_body(1), (1,)), PLAIN, FORGED),
    Row("map pages with one other byte, checksums right", "map", frames(body_byte(-2), (1,)), PLAIN, FORGED),
    Row("tables with noise, checksums right", "map", frames(noise_in_body(2), (2,)), PLAIN, FORGED),
    Row("tables with one other byte, checksums right", "map", frames(body_byte(40), (2,)), PLAIN, FORGED),
    Row("pages and tables whose contents are 4 GiB long", "map", frames(head_field(8, "<I", lambda n: 0xFFFFFFFF)), PLAIN, FORGED),
    Row("pages say that they are tables, tables that they are pages", "map", frames(head_field(3, "B", lambda n: 3 - n)), PLAIN, FORGED),
    Row("pages of a chunk swapped, checksums right", "map", frames_swapped),
    # Packs.
    Row("a bit in each frame of a pack", "pack", frame_bytes(lambda f: f.at + 16 + f.length // 2)),
    Row("a pack's index with a huge count, checksums right", "pack", slice_index(store_byte(20, 0xFF)), PLAIN, FORGED),
    Row("a pack's index with other places, checksums right", "pack", slice_index(store_byte(23, 0x21)), PLAIN, FORGED),
    Row("a pack's index of another chunk, checksums right", "pack", slice_index(store_byte(12, 0x7F)), PLAIN, FORGED),
    Row("a pack is deleted", "pack", each(lambda _d, _: None)),
    # The tail of a log, walked by who takes a volume over.
    Row("a bit in each table of contents", "tail", each(lambda data, _: flipped(data, Shard(data).toc()[0] + 70) if Shard(data).toc() else data)),
    Row("tables of contents with other blocks, checksums right", "tail", contents_table(store_byte(76, 9)), PLAIN, FORGED),
    Row("tables of contents with 4 billion frames, checksums right", "tail", contents_table(lambda toc: toc.__setitem__(slice(64, 68), b"\xff" * 4)), PLAIN, FORGED),
    Row("tables of contents with another epoch, checksums right", "tail", contents_table(store_byte(8, 0x55)), PLAIN, FORGED),
    Row("tables of contents of a newer version, checksums right", "tail", contents_table(store_byte(4, 9)), PLAIN, FORGED),
    Row("the tail of a log is deleted", "tail", each(lambda _d, _: None), ("older k", "blank k"), "of more than m stores it also destroys"),
    Row("the tail of a log is noise", "tail", each(lambda data, hand: hand.draw.randbytes(len(data)))),
    Row("the tail's data are forged, checksums right", "tail", frames(body_byte(30)), PLAIN, FORGED),
    # Heads.
    Row("a bit in the head", "head", each(lambda data, _: flipped(data, 150))),
    Row("a bit in the head's ballots", "head", each(lambda data, _: flipped(data, 60))),
    Row("the head is cut", "head", each(lambda data, _: data[:-20])),
    Row("the head is grown", "head", each(lambda data, _: data + b"more")),
    Row("the head is emptied", "head", each(lambda _d, _: b"")),
    Row("the head is deleted", "head", each(lambda _d, _: None)),
    Row("the head is noise", "head", each(lambda data, hand: hand.draw.randbytes(len(data)))),
    Row("the head is 1 GiB of zeros", "head", zeros),
    Row("the head of another volume", "head", replaced(another_head)),
    Row("the head of another volume under its own number", "head", replaced(lambda hand, s, k, d: renumbered(another_head(hand, s, k, d), k)), ("forged", "refused"), UNKEYED),
    Row("an older head", "head", replaced(older), ("older", "refused", "blank"), UNKEYED),
    Row("an older head with the objects of then", "head", older_with_objects, ("older", "refused", "blank"), UNKEYED),
    Row("a head of another format", "head", register(lambda r, _: setattr(r, "format", 9))),
    Row("a head whose value is 4 GiB long", "head", register(lambda r, _: r.bytes(value_length=0xFFFFFFFF))),
    Row("a head without a value, in a later ballot", "head", register(lambda r, _: (setattr(r, "value", None), r.newer()) and None), ("refused", "blank"), UNKEYED),
    Row("a head in a ballot that nobody comes to", "head", register(lambda r, _: r.newer(1 << 61) and None)),
    Row("a head of a later generation", "head", register(lambda r, _: setattr(r, "generation", 7)), ("refused",), UNKEYED),
    Row("a head that is sealed for other stores", "head", register(lambda r, h: (setattr(r, "seal", h.world.foreign_members()), r.newer()) and None), ("refused",), UNKEYED),
    Row("a head of JSON that never ends", "head", value(lambda head, _: b"[" * 200_000), ("refused",), UNKEYED),
    Row("a head of a newer version", "head", value(lambda head, _: head.__setitem__("format", 99)), ("refused",), UNKEYED),
    Row("a head of another size", "head", value(lambda head, _: head.__setitem__("size", 1 << 62)), ("refused", "forged"), UNKEYED),
    Row("a head whose size is no size", "head", value(lambda head, _: head.__setitem__("size", -1)), ("refused",), UNKEYED),
    Row("a head whose checkpoint is elsewhere", "head", value(elsewhere), ("refused",), UNKEYED),
    Row("a head without its checkpoint", "head", value(without("checkpoint")), ("refused", "blank", "older"), UNKEYED),
    Row("a head with a claim that stands", "head", value(claimed), ("refused",), UNKEYED),
    Row("a head that another host owns", "head", value(owned), ("refused",), UNKEYED),
    Row("a head that was removed", "head", value(lambda head, _: head.__setitem__("removed", True)), ("refused",), UNKEYED),
    Row("a head with other wrapped volume keys", "head", value(key_part("slots")), ("refused",), UNKEYED),
    Row("a head with other wrapped data keys", "head", value(key_part("data")), ("refused",), UNKEYED),
    Row("a head with a cheaper slot", "head", value(cheaper), ("refused",), UNKEYED),
    Row("a head with a slot that takes 4 TB of memory", "head", value(costly), ("refused",), UNKEYED),
    Row("a head with another volume's keys", "head", value(grown_keys), ("refused",), UNKEYED),
    Row("a head without keys", "head", value(without("keys")), ("refused",), UNKEYED),
    Row("a head without keys and checkpoint", "head", value(lambda head, hand: (without("keys")(head, hand), without("checkpoint")(head, hand)) and None), ("refused", "blank", "older"), UNKEYED),
    Row("the pins of snapshots are noise", "pins", each(lambda data, hand: hand.draw.randbytes(len(data)))),
    Row("the pins of snapshots are deleted", "pins", each(lambda _d, _: None)),
    # The pool's own.
    Row("a bit in the pool's register", "pool register", each(lambda data, _: flipped(data, 150))),
    Row("the pool's register is deleted", "pool register", each(lambda _d, _: None)),
    Row("the pool's register is another pool's", "pool register", replaced(lambda h, s, k, d: h.world.other_pool_register(s))),
    Row("the pool's register is of a newer format", "pool register", value(lambda v, _: v.__setitem__("format", 99)), ("refused", "waits"), UNKEYED),
    Row("the pool's register has another layout", "pool register", value(lambda v, _: v.__setitem__("layout", "1+2")), ("refused", "waits"), UNKEYED),
    Row("the pool's register lists a store elsewhere", "pool register", value(lambda v, h: v["stores"][h.stores[0]].__setitem__("url", h.world.nowhere)), ("refused", "waits"), UNKEYED),
    Row("a bit in the directory", "names", each(lambda data, _: flipped(data, 150))),
    Row("the directory is deleted", "names", each(lambda _d, _: None)),
    Row("the directory is emptied in a later ballot", "names", names_changed(lambda entries, _: []), ("refused",), UNKEYED),
    Row("the directory's names lead to other volumes", "names", names_changed(to_others), ("refused", "forged"), UNKEYED),
    Row("a bit in the label", "label", each(lambda data, _: flipped(data, 20))),
    Row("the label is deleted", "label", each(lambda _d, _: None)),
    Row("the label is 1 GiB of zeros", "label", zeros),
    Row("the label of another store of the pool", "label", replaced(lambda h, s, k, d: h.world.base[(s + 1) % 3][k])),
    Row("another pool's label", "label", replaced(lambda h, s, k, d: next(data for key, data in h.world.other[s].items() if key.startswith("label-")))),
    Row("a label of another life", "label", labels(lambda label, *_: label.__setitem__("incarnation", f"{9:032x}"))),
    Row("a label that says destroyed", "label", labels(lambda label, *_: label.__setitem__("destroyed", True))),
    Row("a label of a newer format", "label", labels(lambda label, *_: label.__setitem__("format", 99))),
    Row("a label of JSON that never ends", "label", labels(lambda *_: b"[" * 100_000)),
    Row("a label whose hint names other stores", "label", labels(lambda label, s, h: [entry.__setitem__("url", h.world.nowhere) for entry in label["hint"]["stores"]] and None)),
    Row("stores in each other's places", "store", store_of(next_store)),
    Row("an empty store", "store", store_of(lambda *_: {})),
    Row("a store that was set back", "store", store_of(lambda h, _n, s: h.world.old[s]), ("older k stranger", "refused"), UNKEYED),
    Row("another pool's store", "store", store_of(lambda h, _n, s: h.world.other[s])),
    Row("objects that nobody made", "store", junk),
]


def renumbered(data, key):
    made = Register(data)
    made.id = int(key.removeprefix("reg/"), 16)
    return made.newer().bytes()
