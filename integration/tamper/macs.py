"""Tampering with a pool that has a key: what is done to everything that is signed there, labels and registers alike.

Each row takes the label and all registers of the stores in the enemy's hand at once: the pool's own, the directory, heads and
pins. The key is not known to the enemy; what was signed once is. With one store everything must be read right, and the store
be named (`Trial.names_the_stores` in `table`); with k stores it is right or refused."""

import hashlib
import hmac
import json

from formats import Register
from kinds import Row

OTHER = bytes(range(32))
TIMELESS = "a signature does not tell the time: of k stores those that set them back decide"


def _mac(key, what, pool, signed):
    """HMAC-SHA256 under the key that HKDF makes of a pool's key."""
    root = hmac.new(b"windlass pool", key, hashlib.sha256).digest()
    own = hmac.new(root, what + pool.to_bytes(16, "little") + b"\x01", hashlib.sha256).digest()
    return hmac.new(own, signed, hashlib.sha256)


def signed_register(made, key, pool, store):
    place = made.id.to_bytes(16, "little") + store.to_bytes(8, "little")
    made.mac = _mac(key, b"register", pool, place + made.unsigned()).digest()
    return made


def label_text(label):
    """As it is signed: without the signature and the brace behind it."""
    return json.dumps({name: value for name, value in label.items() if name != "mac"}, separators=(",", ":"))[:-1]


def signed_label(label, mac):
    return f'{label_text(label)},"mac":"{mac}"}}'.encode()


def both(register, label):
    """`register` gets each register, its store and the hand; `label` a label's fields. None leaves it as it is."""

    def act(hand, targets):
        for store, key, data in targets:
            if key.startswith("label-"):
                made = label(json.loads(data), store, hand)
            else:
                made = register(Register(data), store, hand)
                made = made.bytes() if isinstance(made, Register) else made
            if made is not None:
                hand.put(store, key, made)

    return act


def changed(made):
    """Another value in a later ballot, as far as it is known what a value says."""
    if made.value and made.value.startswith(b"{"):
        value = json.loads(made.value)
        if "size" in value:
            value["size"] *= 2
            value["checkpoint"] = {"position": 0, "top": 0, "last_lsn": 0, "tables": None, "nonce": f"{7:032x}"}
        if "acceptors" in value:
            value["generation"] += 1
        made.value = json.dumps(value, separators=(",", ":")).encode()
    elif made.value:
        made.value = made.value[:10] + b"\0\0"  # a catalog's node without entries
    return made.newer()


def condemned(label):
    return {**label, "destroyed": True}


def by_another_key(made, store, hand):
    return signed_register(changed(made), OTHER, hand.world.pool_id, store)


def label_by_another_key(label, _store, hand):
    label = condemned(label)
    return signed_label(label, _mac(OTHER, b"label", hand.world.pool_id, label_text(label).encode()).hexdigest())


def plain(made, _store, _hand):
    made.format, made.mac = 2, b""
    return changed(made)


def with_mac(mac):
    def change(made, _store, hand):
        made.mac = mac(made.mac, hand)
        return made

    return change


def with_label_mac(mac):
    return lambda label, _store, hand: signed_label(label, mac(bytes.fromhex(label["mac"]), hand).hex())


def noise(mac, hand):
    return hand.draw.randbytes(len(mac))


def in_turn(hand, targets):
    """The registers of a store stand in each other's places, under the numbers that belong there."""
    for store in hand.stores:
        here = [(key, data) for at, key, data in targets if at == store and not key.startswith("label-")]
        for (key, _), (_, data) in zip(here, here[1:] + here[:1]):
            made = Register(data)
            made.id = int(key.removeprefix("reg/"), 16)
            hand.put(store, key, made.newer().bytes())


def beside(hand, targets):
    """What the store beside it has under the same keys."""
    for store, key, _ in targets:
        other = hand.world.base[(store + 1) % 3].get(key)
        if other is not None:
            hand.put(store, key, other)


def set_back(hand, targets):
    for store, key, data in targets:
        hand.put(store, key, hand.world.old[store].get(key, data))


MACS = [
    Row("signed: other values under the signatures that were there", "signed", both(lambda made, *_: changed(made), lambda label, *_: signed_label(condemned(label), label["mac"]))),
    Row("signed: other values without signatures, as in a pool that has no key", "signed", both(plain, lambda label, *_: label_text({**condemned(label), "format": 1}).encode() + b"}")),
    Row("signed: other values, signed by another key", "signed", both(by_another_key, label_by_another_key)),
    Row("signed: noise for signatures", "signed", both(with_mac(noise), with_label_mac(noise))),
    Row("signed: the signatures are cut off", "signed", both(with_mac(lambda *_: b""), lambda label, *_: label_text(label).encode() + b"}")),
    Row("signed: registers in each other's places", "signed", in_turn),
    Row("signed: registers and label of the store beside it", "signed", beside),
    Row("signed: put back to an older version", "signed", set_back, ("older k", "blank k"), TIMELESS),
]
