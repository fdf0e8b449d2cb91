"""The formats of docs/formats.md as far as somebody needs them who writes to a store: take objects apart, change them, and
make their checksums right again. No key of an encrypted volume is needed for any of it."""

import ctypes
import json
import struct

SPAN = 16 << 20  # virtual bytes that a data shard covers
CHECK_SPAN = 64 << 10
FRAME_HEAD = 16
DATA, MAP, PACK = 0, 1, 2  # kinds of chunks
MASK = (1 << 128) - 1


class _Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


_xxhash = ctypes.CDLL("libxxhash.so.0")  # every Debian has it: apt stands on it
_xxhash.XXH3_64bits.restype = ctypes.c_uint64
_xxhash.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
_xxhash.XXH3_128bits.restype = _Hash128
_xxhash.XXH3_128bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]


def xxh3_64(data):
    return _xxhash.XXH3_64bits(bytes(data), len(data))


def xxh3_128(data):
    both = _xxhash.XXH3_128bits(bytes(data), len(data))
    return both.high << 64 | both.low


def _table():
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


_CRC = _table()


def _run(data, state):
    for byte in data:
        state = _CRC[(state ^ byte) & 0xFF] ^ state >> 8
    return state


def crc32c(data):
    return _run(data, 0xFFFFFFFF) ^ 0xFFFFFFFF


def crc32c_of_change(before, after):
    """What a CRC32C changes by when a part of what it covers changes. It is linear: the rest need not be known, but for
    how many bytes follow."""
    return _run(bytes(a ^ b for a, b in zip(before, after)), 0)


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


class Frame:
    """A frame in a shard, by its place there."""

    def __init__(self, body, at):
        self.at = at
        self.codec, self.slot, self.blocks, self.kind, self.length, self.contents, self.sum = struct.unpack_from("<4BIII", body, at)

    @property
    def end(self):
        return self.at + FRAME_HEAD + self.length


class Shard:
    """A shard: its bytes without the footer, and the footer's fields."""

    def __init__(self, data):
        length, _, magic = struct.unpack_from("<II8s", data, len(data) - 16)
        if magic != b"WLSHARD1":
            raise ValueError("no shard")
        foot = data[len(data) - length :]
        self.body = bytearray(data[: len(data) - length])
        (self.version, self.kind, self.k, self.m, self.index, _, volume, self.epoch, self.seq, self.era, self.toc_at, self.toc_len, count, payload, own) = struct.unpack_from("<HBBBBH16sQQQQII16s16s", foot)
        self.volume = int.from_bytes(volume, "little")
        self.payload = int.from_bytes(payload, "little")
        self.hash = int.from_bytes(own, "little")
        self.lengths = list(struct.unpack_from(f"<{self.k}I", foot, 96))
        self.checks = list(struct.unpack_from(f"<{count}I", foot, 96 + 4 * self.k))

    def seal(self):
        """The shard's own checksums, of the bytes that it has now."""
        self.hash = xxh3_128(self.body)
        self.checks = [crc32c(self.body[at : at + CHECK_SPAN]) for at in range(0, len(self.body), CHECK_SPAN)]
        return self

    def agree(self, hashes):
        """The payload hash, of data shards with these hashes."""
        told = struct.pack("<BB16sQQQQI", self.kind, self.k, self.volume.to_bytes(16, "little"), self.epoch, self.seq, self.era, self.toc_at, self.toc_len)
        for length, own in zip(self.lengths, hashes):
            told += struct.pack("<I", length) + own.to_bytes(16, "little")
        self.payload = xxh3_128(told)
        return self

    def bytes(self, count=None, length=None):
        """The object; with another number of checksums, or footer's length, than is true."""
        foot = struct.pack("<HBBBBH16sQQQQII16s16s", self.version, self.kind, self.k, self.m, self.index, 0, self.volume.to_bytes(16, "little"), self.epoch, self.seq, self.era, self.toc_at, self.toc_len, len(self.checks) if count is None else count, self.payload.to_bytes(16, "little"), self.hash.to_bytes(16, "little"))
        foot += struct.pack(f"<{len(self.lengths)}I{len(self.checks)}I", *self.lengths, *self.checks)
        foot += struct.pack("<I", len(foot) + 16 if length is None else length)
        return bytes(self.body) + foot + struct.pack("<I", crc32c(foot)) + b"WLSHARD1"

    def toc(self):
        """Where the table of contents lies in this shard, if it does."""
        if self.index < self.k and self.toc_at // SPAN == self.index and self.toc_len:
            at = self.toc_at % SPAN
            return at, at + self.toc_len
        return None

    def frames(self):
        """The frames in a data shard. Between those of a plain pack lie the indexes of its slices."""
        if self.index >= self.k:
            return
        at, end = 0, (self.toc() or (len(self.body),))[0]
        while at + FRAME_HEAD <= end:
            if bytes(self.body[at : at + 4]) in (b"WLSL", b"WLSD"):
                at = self.after_index(at)
                continue
            frame = Frame(self.body, at)
            if frame.kind > 4 or frame.end > end:
                raise ValueError(f"no frame at {at} of {self.volume:032x} {self.epoch}-{self.seq}")
            yield frame
            at = frame.end

    def after_index(self, at):
        named, start = bytes(self.body[at : at + 4]) == b"WLSD", at
        count, at = varint(self.body, at + 20)
        for _ in range(count * (4 if named else 2)):
            _, at = varint(self.body, at)
        if crc32c(self.body[start:at]) != struct.unpack_from("<I", self.body, at)[0]:
            raise ValueError("no index of a slice")
        return at + 4

    def change(self, frame, change):
        """Changes a frame's bytes, and makes its checksum right: `change` gets its head (the first 12 bytes) and body."""
        head = bytearray(self.body[frame.at : frame.at + 12])
        body = bytearray(self.body[frame.at + FRAME_HEAD : frame.end])
        before = bytes(head), bytes(body)
        change(head, body)
        place = bytes(48)
        delta = crc32c_of_change(before[0] + place + before[1], bytes(head) + place + bytes(body))
        self.body[frame.at : frame.at + 12] = head
        self.body[frame.at + 12 : frame.at + 16] = struct.pack("<I", frame.sum ^ delta)
        self.body[frame.at + FRAME_HEAD : frame.end] = body

    def move(self, frame, data, offset):
        """Puts a sealed frame's bytes in another's place, with the checksum of that place. Its address enters as 0."""
        place = self.volume.to_bytes(16, "little") + struct.pack("<QQQQ", self.epoch, self.seq, offset, 0)
        total = crc32c(bytes(data[:12]) + place + bytes(data[FRAME_HEAD:]))
        self.body[frame.at : frame.end] = data[:12] + struct.pack("<I", total) + data[FRAME_HEAD:]


class Register:
    """An acceptor object."""

    FIXED = "<8sI16sQQ16sQ16s16s"

    def __init__(self, data):
        (magic, self.format, own, self.generation, self.promised, p1, self.accepted, p2, self.nonce) = struct.unpack_from(self.FIXED, data)
        if magic != b"WLREGIST":
            raise ValueError("no register")
        self.id = int.from_bytes(own, "little")
        self.proposers = p1, p2
        at = struct.calcsize(self.FIXED)
        self.value, at = self._optional(data, at)
        self.seal, at = self._long(data, at)
        self.members, at = self._long(data, at)
        self.base, at = self._optional(data, at)
        # Of a pool that has a key: the signature, whose key nobody here knows.
        self.mac = data[at:-8] if self.format == 3 else b""

    @staticmethod
    def _long(data, at):
        length = struct.unpack_from("<I", data, at)[0]
        return data[at + 4 : at + 4 + length], at + 4 + length

    def _optional(self, data, at):
        value, end = self._long(data, at + 1)
        return (value if data[at] else None), end

    def bytes(self, value_length=None):
        """The object, its checksum right; with another length of the value than is true."""
        out = self.unsigned(value_length) + self.mac
        return out + struct.pack("<Q", xxh3_64(out))

    def unsigned(self, value_length=None):
        """All before the signature."""

        def optional(value, length=None):
            value, there = (b"", 0) if value is None else (value, 1)
            return struct.pack("<BI", there, len(value) if length is None else length) + value

        out = struct.pack(self.FIXED, b"WLREGIST", self.format, self.id.to_bytes(16, "little"), self.generation, self.promised, self.proposers[0], self.accepted, self.proposers[1], self.nonce)
        out += optional(self.value, value_length)
        out += struct.pack("<I", len(self.seal)) + self.seal + struct.pack("<I", len(self.members)) + self.members
        return out + optional(self.base)

    def newer(self, by=1):
        """What was accepted in a later ballot than all others."""
        self.accepted += by
        self.promised = self.accepted + 1
        return self

    def head(self):
        return json.loads(self.value)


def key_of(tail):
    """A data object's key: two digits of a hash stand before the rest."""
    return f"{xxh3_64(tail.encode()) >> 56:02x}/{tail}"


def self_test(objects):
    """Everything that is taken apart and put together unchanged is as it was: else nothing that follows shows anything."""
    shards = registers = 0
    for key, data in objects.items():
        if "/c-" in key or "/p-" in key:
            shard = Shard(data)
            if shard.bytes() != data or shard.seal().bytes() != data:
                raise AssertionError(f"{key} is not what formats.py makes of it")
            list(shard.frames())
            if key_of(key.split("/", 1)[1]) != key:
                raise AssertionError(f"{key} has another hash")
            shards += 1
        elif key.startswith("reg/"):
            if Register(data).bytes() != data:
                raise AssertionError(f"{key} is not what formats.py makes of it")
            registers += 1
    return shards, registers
