//! The part of a volume's head that holds its keys, wrapped: slots for those who may open it, and the data keys.

use std::collections::BTreeMap;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::Aad;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::data_key_ciphers::{VolumeKey, expand, extract, gcm, nonce};
use super::journal_key::JournalKey;
use super::key_access::{FamilyKeys, KeyAccess};
use super::secret::{Passphrase, Secret, hex};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result, VolumeId};

/// Most slots that a volume may have.
pub const SLOTS_MAX: usize = 8;
/// Bytes of a wrapped key: the key and its tag.
const WRAPPED: usize = 48;
/// Most data keys of one volume in a head: the one that seals, and those by which something that is left was
/// sealed.
pub const DATA_KEYS_MAX: usize = 4;

/// Bytes that JSON holds in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0.iter().map(|b| format!("{b:02x}")).collect::<String>())
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (text, mut out) = (String::deserialize(d)?, [0; N]);
        match hex(text.as_bytes(), &mut out) {
            true => Ok(Hex(out)),
            false => Err(serde::de::Error::custom(format!("{N} bytes in hexadecimal belong here"))),
        }
    }
}

fn salt(rt: &Rt) -> Hex<16> {
    Hex(rt.random128().to_le_bytes())
}

/// Kinds of secrets that open a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// A key of 32 bytes: a file's, or what a command prints.
    Key,
    Passphrase,
}

/// Memory and time that argon2id takes to try one passphrase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Argon2Costs {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for Argon2Costs {
    /// Returns the second choice of RFC 9106, for hosts where memory is shared.
    fn default() -> Argon2Costs {
        Argon2Costs { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// Highest costs that a head may ask for: whoever forges one must not be able to exhaust this host.
const COSTS_MAX: Argon2Costs = Argon2Costs { memory_kib: 1 << 20, passes: 64, lanes: 64 };

impl Argon2Costs {
    fn derive(&self, passphrase: &Passphrase, salt: &[u8]) -> Result<Secret> {
        let too_much = self.memory_kib > COSTS_MAX.memory_kib
            || self.passes > COSTS_MAX.passes
            || self.lanes > COSTS_MAX.lanes;
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).ok();
        let Some(params) = params.filter(|_| !too_much) else {
            return Err(Error::new(Kind::Invalid, "its parameters of argon2id are out of their range"));
        };
        let mut out = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.bytes(), salt, &mut out[..])
            .map_err(|e| Error::new(Kind::Internal, format!("argon2id failed: {e}")))?;
        Ok(Secret::new(*out))
    }
}

/// A secret that a user gives to open a volume.
#[derive(Clone, Debug)]
pub enum Offered {
    Key(Secret),
    Passphrase(Passphrase),
}

impl Offered {
    pub fn kind(&self) -> SlotKind {
        match self {
            Offered::Key(_) => SlotKind::Key,
            Offered::Passphrase(_) => SlotKind::Passphrase,
        }
    }

    fn secret(&self, salt: &[u8], costs: Option<Argon2Costs>) -> Result<Secret> {
        match (self, costs) {
            (Offered::Key(key), None) => Ok(key.clone()),
            (Offered::Passphrase(passphrase), Some(costs)) => costs.derive(passphrase, salt),
            _ => Err(Error::new(Kind::Invalid, "a slot's kind and its parameters contradict each other")),
        }
    }
}

/// One way to open a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Slot {
    /// Number of the slot, 1 to 8.
    pub slot: u8,
    pub kind: SlotKind,
    pub made_ms: u64,
    salt: Hex<16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2: Option<Argon2Costs>,
    /// The volume key, wrapped.
    wrapped: Hex<WRAPPED>,
}

/// A data key, wrapped by the volume key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DataKey {
    /// The volume that the data key belongs to: the head's own, or an ancestor of it.
    volume: VolumeId,
    /// Number of the data key, from 1 on. Of a volume's data keys the one of the highest number seals.
    pub number: u8,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub made_ms: u64,
    salt: Hex<16>,
    wrapped: Hex<WRAPPED>,
}

impl DataKey {
    fn unwrapped(&self, holder: VolumeId, key: &Secret) -> Result<Secret> {
        let info = data_info(holder, self.volume, self.number);
        unwrap(key, &self.salt, &info, &self.wrapped).ok_or_else(|| {
            Error::new(Kind::Corrupt, "a data key of the volume's description is not what was written")
        })
    }
}

/// All keys of an encrypted volume, see the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyTable {
    /// The volume that the volume key was drawn for: this one, or the volume that a clone comes from, whose
    /// slots open the clone too.
    origin: VolumeId,
    slots: Vec<Slot>,
    data: Vec<DataKey>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn slot_info(volume: VolumeId, slot: u8, kind: SlotKind, costs: Option<Argon2Costs>) -> Vec<u8> {
    let costs = costs.unwrap_or(Argon2Costs { memory_kib: 0, passes: 0, lanes: 0 });
    let kind = if kind == SlotKind::Key { 1 } else { 2 };
    let mut info = b"windlass slot".to_vec();
    info.extend_from_slice(&volume.0.to_le_bytes());
    info.extend_from_slice(&[slot, kind]);
    for word in [costs.memory_kib, costs.passes, costs.lanes] {
        info.extend_from_slice(&word.to_le_bytes());
    }
    info
}

fn data_info(holder: VolumeId, volume: VolumeId, number: u8) -> Vec<u8> {
    let mut info = b"windlass data".to_vec();
    info.extend_from_slice(&holder.0.to_le_bytes());
    info.extend_from_slice(&volume.0.to_le_bytes());
    info.push(number);
    info
}

/// Wraps a key by one that is derived with the salt. The salt must be drawn for this one message: the nonce
/// is always 0.
fn wrap(under: &Secret, salt: &Hex<16>, info: &[u8], key: &Secret) -> Hex<WRAPPED> {
    let kek = gcm(&expand(&extract(&salt.0, under.bytes()), &[info]));
    let mut out = [0; WRAPPED];
    out[..32].copy_from_slice(key.bytes());
    let (text, end) = out.split_at_mut(32);
    let tag = kek.seal_in_place_separate_tag(nonce(0), Aad::from(info), text).expect("32 bytes are few");
    end.copy_from_slice(tag.as_ref());
    Hex(out)
}

fn unwrap(under: &Secret, salt: &Hex<16>, info: &[u8], wrapped: &Hex<WRAPPED>) -> Option<Secret> {
    let kek = gcm(&expand(&extract(&salt.0, under.bytes()), &[info]));
    let (text, tag) = wrapped.0.split_at(32);
    let mut out = Zeroizing::new([0; 32]);
    kek.open_separate_gather(nonce(0), Aad::from(info), text, tag, &mut out[..]).ok()?;
    Some(Secret::new(*out))
}

/// Wraps a data key by the volume key, for the head of `holder`.
fn wrap_data(
    rt: &Rt,
    (holder, key): (VolumeId, &Secret),
    (volume, number, made_ms): (VolumeId, u8, u64),
    data: &Secret,
) -> DataKey {
    let salt = salt(rt);
    let wrapped = wrap(key, &salt, &data_info(holder, volume, number), data);
    DataKey { volume, number, made_ms, salt, wrapped }
}

fn named(slots: &[u8]) -> String {
    slots.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

impl KeyTable {
    /// Makes the keys of a new volume: a volume key and a data key are drawn, and `offered` opens slot 1.
    /// Returns the volume key too.
    pub fn drawn(
        rt: &Rt,
        volume: VolumeId,
        offered: &Offered,
        costs: Argon2Costs,
    ) -> Result<(KeyTable, Secret)> {
        let key = Secret::drawn(rt);
        let mut table = KeyTable { origin: volume, slots: Vec::new(), data: Vec::new() };
        table.add_slot(rt, &key, offered, costs)?;
        table.data.push(wrap_data(rt, (volume, &key), (volume, 1, rt.wall_ms()), &Secret::drawn(rt)));
        Ok((table, key))
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Adds one more way to open the volume. Returns the slot's number. `Refused`: there are as many as there
    /// may be.
    pub fn add_slot(&mut self, rt: &Rt, key: &Secret, offered: &Offered, costs: Argon2Costs) -> Result<u8> {
        let free = (1..=SLOTS_MAX as u8).find(|n| self.slots.iter().all(|s| s.slot != *n));
        let slot = free.ok_or_else(|| {
            Error::new(Kind::Refused, format!("all {SLOTS_MAX} key slots are in use: remove one first"))
        })?;
        self.slots.push(self.slot_of(rt, key, slot, (offered, costs))?);
        self.slots.sort_by_key(|s| s.slot);
        Ok(slot)
    }

    /// Replaces what opens a slot.
    pub fn replace_slot(
        &mut self,
        rt: &Rt,
        key: &Secret,
        slot: u8,
        offered: &Offered,
        costs: Argon2Costs,
    ) -> Result<()> {
        let new = self.slot_of(rt, key, slot, (offered, costs))?;
        self.slots.iter_mut().filter(|s| s.slot == slot).for_each(|s| *s = new.clone());
        Ok(())
    }

    fn slot_of(
        &self,
        rt: &Rt,
        key: &Secret,
        slot: u8,
        (offered, costs): (&Offered, Argon2Costs),
    ) -> Result<Slot> {
        let (kind, salt) = (offered.kind(), salt(rt));
        let argon2 = (kind == SlotKind::Passphrase).then_some(costs);
        let secret = offered.secret(&salt.0, argon2)?;
        let wrapped = wrap(&secret, &salt, &slot_info(self.origin, slot, kind, argon2), key);
        Ok(Slot { slot, kind, made_ms: rt.wall_ms(), salt, argon2, wrapped })
    }

    /// Removes a slot. `Refused` when nothing would open the volume any more.
    pub fn remove_slot(&mut self, slot: u8) -> Result<()> {
        if self.slots.iter().all(|s| s.slot != slot) {
            return Err(Error::new(Kind::NotFound, format!("there is no key slot {slot}")));
        }
        if self.slots.len() == 1 {
            let why = format!("slot {slot} is the last one: without it nobody can ever read the volume");
            return Err(Error::new(Kind::Refused, why));
        }
        self.slots.retain(|s| s.slot != slot);
        Ok(())
    }

    /// Opens the volume key. Returns it, and the slot that gave it. `Denied`: no slot takes it; the message
    /// names the slots.
    pub fn unlock(&self, offered: &Offered) -> Result<(Secret, u8)> {
        let mut tried = Vec::new();
        for s in self.slots.iter().filter(|s| s.kind == offered.kind()) {
            let secret = offered.secret(&s.salt.0, s.argon2)?;
            let info = slot_info(self.origin, s.slot, s.kind, s.argon2);
            if let Some(key) = unwrap(&secret, &s.salt, &info, &s.wrapped) {
                return Ok((key, s.slot));
            }
            tried.push(s.slot);
        }
        let what = match offered.kind() {
            SlotKind::Key => "key",
            SlotKind::Passphrase => "passphrase",
        };
        let others: Vec<u8> = self.slots.iter().map(|s| s.slot).filter(|n| !tried.contains(n)).collect();
        let why = match (&tried[..], &others[..]) {
            ([], others) => {
                format!(
                    "no slot takes a {what}: those that there are ({}) are of the other kind",
                    named(others)
                )
            }
            ([one], _) => format!("the {what} does not open slot {one}"),
            (some, _) => format!("the {what} opens none of slots {}", named(some)),
        };
        Err(Error::new(Kind::Denied, why))
    }

    /// Joins the data keys of this table with the slots of the other: slots and data keys change without each
    /// other.
    #[must_use]
    pub fn with_slots_of(&self, other: &KeyTable) -> KeyTable {
        KeyTable { slots: other.slots.clone(), ..self.clone() }
    }

    /// Returns the data keys of `volume`, in order of their numbers.
    pub fn data_keys_of(&self, volume: VolumeId) -> impl Iterator<Item = &DataKey> {
        self.data.iter().filter(move |d| d.volume == volume)
    }

    /// Returns the number of the data key that seals what `volume` writes.
    pub fn current(&self, volume: VolumeId) -> u8 {
        self.data_keys_of(volume).map(|d| d.number).max().unwrap_or_default()
    }

    /// Draws a data key to follow the newest one of `holder`. `Refused`: there are as many as there may be.
    pub fn next_data_key(&self, rt: &Rt, holder: VolumeId, key: &Secret) -> Result<DataKey> {
        let (current, count) = (self.current(holder), self.data_keys_of(holder).count());
        if count >= DATA_KEYS_MAX {
            let why = format!(
                "{} older data keys still seal something: wait until what they sealed is sealed anew (`volume key list`)",
                count - 1
            );
            return Err(Error::new(Kind::Refused, why));
        }
        let number = current.checked_add(1).ok_or_else(|| {
            Error::new(Kind::Refused, "its data key was changed 254 times: copy it into a new volume")
        })?;
        Ok(wrap_data(rt, (holder, key), (holder, number, rt.wall_ms()), &Secret::drawn(rt)))
    }

    /// Returns the table with the new data key. `None`: it has that key already. `Refused`: another rotation
    /// came in between.
    pub fn with_data_key(&self, holder: VolumeId, new: &DataKey) -> Result<Option<KeyTable>> {
        if self.data.contains(new) {
            return Ok(None);
        }
        if new.volume != holder || Some(new.number) != self.current(holder).checked_add(1) {
            return Err(Error::new(Kind::Refused, "its data key was changed by another command meanwhile"));
        }
        let mut table = self.clone();
        table.data.push(new.clone());
        Ok(Some(table))
    }

    /// Returns the table without the data keys of `holder` of lower numbers than this; the newest stays.
    #[must_use]
    pub fn without_below(&self, holder: VolumeId, number: u8) -> KeyTable {
        let mut table = self.clone();
        let newest = self.current(holder);
        table.data.retain(|d| d.volume != holder || d.number >= number.min(newest));
        table
    }

    /// Returns the data keys of `volume` that stand here, in the head of `holder`.
    pub fn data_keys_for(
        &self,
        (holder, key): (VolumeId, &Secret),
        volume: VolumeId,
    ) -> Result<Vec<(u8, Secret)>> {
        self.data_keys_of(volume).map(|d| Ok((d.number, d.unwrapped(holder, key)?))).collect()
    }

    /// Opens the data keys of all volumes that have some here.
    fn data_keys(&self, holder: VolumeId, key: &Secret) -> Result<BTreeMap<VolumeId, Vec<(u8, Secret)>>> {
        let mut all: BTreeMap<VolumeId, Vec<(u8, Secret)>> = BTreeMap::new();
        for d in &self.data {
            all.entry(d.volume).or_default().push((d.number, d.unwrapped(holder, key)?));
        }
        Ok(all)
    }

    /// Returns the access to this volume and its ancestors. Without the volume key all are locked.
    pub fn keyring(&self, holder: VolumeId, key: Option<&Secret>) -> Result<FamilyKeys> {
        let Some(key) = key else {
            let locked = self.data.iter().map(|d| (d.volume, KeyAccess::Locked));
            return Ok(FamilyKeys::new(locked.chain([(holder, KeyAccess::Locked)]).collect()));
        };
        let keys = self.data_keys(holder, key)?;
        let access = |(volume, data)| Some((volume, KeyAccess::Sealed(VolumeKey::new(volume, data)?)));
        let all: BTreeMap<VolumeId, KeyAccess> = keys.into_iter().filter_map(access).collect();
        match all.contains_key(&holder) {
            true => Ok(FamilyKeys::opened(all, JournalKey::new(holder, key.clone()))),
            false => Err(Error::new(Kind::Corrupt, "the volume's description has no data key of its own")),
        }
    }

    /// Makes the keys of a clone, which the same slots open. The clone's volume key is its parent's; the data
    /// key for what the clone writes is its own.
    pub fn of_clone(&self, rt: &Rt, (parent, key): (VolumeId, &Secret), clone: VolumeId) -> Result<KeyTable> {
        let inherited = self.data_keys(parent, key)?;
        let mut table = KeyTable { origin: self.origin, slots: self.slots.clone(), data: Vec::new() };
        table.data.push(wrap_data(rt, (clone, key), (clone, 1, rt.wall_ms()), &Secret::drawn(rt)));
        for (volume, keys) in &inherited {
            for (number, data) in keys {
                table.data.push(wrap_data(rt, (clone, key), (*volume, *number, 0), data));
            }
        }
        Ok(table)
    }

    /// Checks the keys of a head, if it has any: their numbers, order and count. `has_trace`: the head has a
    /// boot trace, which an encrypted volume may not have.
    pub fn check(keys: Option<&KeyTable>, has_trace: bool) -> Result<(), &'static str> {
        let Some(keys) = keys else { return Ok(()) };
        let ordered = keys.slots.windows(2).all(|s| s[0].slot < s[1].slot);
        let numbers = keys.slots.iter().all(|s| (1..=SLOTS_MAX as u8).contains(&s.slot));
        if !ordered || !numbers || keys.slots.is_empty() || keys.data.iter().any(|d| d.number == 0) {
            return Err("its key slots are out of order");
        }
        let mut counts: BTreeMap<VolumeId, usize> = BTreeMap::new();
        keys.data.iter().for_each(|d| *counts.entry(d.volume).or_default() += 1);
        if counts.values().any(|n| *n > DATA_KEYS_MAX) {
            return Err("it has too many data keys");
        }
        if has_trace { Err("it is encrypted and its boot trace is not") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::sim::Sim;

    const CHEAP: Argon2Costs = Argon2Costs { memory_kib: 64, passes: 1, lanes: 1 };

    fn words(text: &str) -> Offered {
        Offered::Passphrase(Passphrase::read(text.as_bytes()).unwrap())
    }

    fn file(byte: u8) -> Offered {
        Offered::Key(Secret::new([byte; 32]))
    }

    /// RFC 9106, section 5.3.
    #[test]
    fn argon2id_is_the_rfcs() {
        let params = argon2::ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
            .build()
            .unwrap();
        let argon = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
        let mut out = [0; 32];
        argon.hash_password_into(&[1; 32], &[2; 16], &mut out).unwrap();
        let mut should = [0; 32];
        assert!(hex(b"0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659", &mut should));
        assert_eq!(out, should);
    }

    #[test]
    fn each_slot_opens_the_volume_and_others_do_not() {
        let rt = Sim::new(1).rt();
        let v = VolumeId(7);
        let (mut table, key) = KeyTable::drawn(&rt, v, &file(1), CHEAP).unwrap();
        assert_eq!(table.add_slot(&rt, &key, &words("correct horse"), CHEAP).unwrap(), 2);
        assert_eq!(table.add_slot(&rt, &key, &file(2), CHEAP).unwrap(), 3);
        KeyTable::check(Some(&table), false).unwrap();
        assert!(KeyTable::check(Some(&table), true).is_err());
        for (offered, slot) in [(file(1), 1), (words("correct horse"), 2), (file(2), 3)] {
            assert_eq!(table.unlock(&offered).unwrap(), (key.clone(), slot));
            let moved = KeyTable { origin: VolumeId(8), ..table.clone() };
            assert!(moved.unlock(&offered).unwrap_err().is(Kind::Denied), "a slot is bound to its volume");
        }
        let wrong = table.unlock(&file(3)).unwrap_err();
        assert!(wrong.is(Kind::Denied) && wrong.to_string().contains("none of slots 1, 3"), "{wrong}");
        let wrong = table.unlock(&words("battery")).unwrap_err();
        assert!(wrong.to_string().contains("does not open slot 2"), "{wrong}");
        table.remove_slot(2).unwrap();
        let wrong = table.unlock(&words("correct horse")).unwrap_err();
        assert!(wrong.to_string().contains("no slot takes a passphrase"), "{wrong}");
        assert_eq!(table.add_slot(&rt, &key, &words("again"), CHEAP).unwrap(), 2, "a free number is used");
        for _ in 4..=8 {
            table.add_slot(&rt, &key, &file(9), CHEAP).unwrap();
        }
        assert!(table.add_slot(&rt, &key, &file(9), CHEAP).unwrap_err().is(Kind::Refused));
        for slot in 2..=8 {
            table.remove_slot(slot).unwrap();
        }
        assert!(table.remove_slot(1).unwrap_err().is(Kind::Refused), "the last one stays");
        assert!(table.remove_slot(5).unwrap_err().is(Kind::NotFound));
    }

    #[test]
    fn a_slot_that_was_moved_or_made_cheaper_does_not_open() {
        let rt = Sim::new(2).rt();
        let v = VolumeId(7);
        let (table, _) = KeyTable::drawn(&rt, v, &words("w"), CHEAP).unwrap();
        let with = |change: fn(&mut Slot)| {
            let mut forged = table.clone();
            change(&mut forged.slots[0]);
            forged.unlock(&words("w")).unwrap_err().kind()
        };
        assert_eq!(with(|s| s.slot = 2), Kind::Denied);
        assert_eq!(with(|s| s.wrapped.0[0] ^= 1), Kind::Denied);
        assert_eq!(with(|s| s.salt.0[0] ^= 1), Kind::Denied);
        assert_eq!(with(|s| s.argon2.iter_mut().for_each(|a| a.passes += 1)), Kind::Denied);
        assert_eq!(with(|s| s.argon2.iter_mut().for_each(|a| a.memory_kib = u32::MAX)), Kind::Invalid);
        assert_eq!(with(|s| s.argon2 = None), Kind::Invalid);
    }

    #[test]
    fn a_clone_has_its_ancestors_keys_under_its_own() {
        let rt = Sim::new(3).rt();
        let (parent, clone, second) = (VolumeId(7), VolumeId(8), VolumeId(9));
        let (table, key) = KeyTable::drawn(&rt, parent, &file(1), CHEAP).unwrap();
        let of_clone = table.of_clone(&rt, (parent, &key), clone).unwrap();
        let of_second = of_clone.of_clone(&rt, (clone, &key), second).unwrap();
        let all = of_second.data_keys(second, &key).unwrap();
        assert_eq!(all[&parent], table.data_keys(parent, &key).unwrap()[&parent]);
        assert_eq!(all.len(), 3);
        assert!(all[&second] != all[&clone] && all[&clone] != all[&parent]);
        assert_eq!(of_second.unlock(&file(1)).unwrap().0, key);
        let ring = of_second.keyring(second, Some(&key)).unwrap();
        for v in [parent, clone, second] {
            assert!(matches!(ring.access(v), KeyAccess::Sealed(_)), "{v}");
        }
        let locked = of_second.keyring(second, None).unwrap();
        assert!([parent, clone, second].iter().all(|v| matches!(locked.access(*v), KeyAccess::Locked)));
        assert!(matches!(locked.access(VolumeId(1)), KeyAccess::Plain));
        assert!(of_second.keyring(second, Some(&Secret::new([1; 32]))).unwrap_err().is(Kind::Corrupt));
    }

    #[test]
    fn a_new_data_key_follows_and_old_ones_go_whatever_becomes_of_the_slots() {
        let rt = Sim::new(4).rt();
        let (v, other) = (VolumeId(7), VolumeId(8));
        let (table, key) = KeyTable::drawn(&rt, v, &file(1), CHEAP).unwrap();
        assert_eq!(table.current(v), 1);
        let mut now = table.clone();
        for number in 2..=DATA_KEYS_MAX as u8 {
            let new = now.next_data_key(&rt, v, &key).unwrap();
            assert_eq!(new.number, number);
            let next = now.with_data_key(v, &new).unwrap().unwrap();
            assert_eq!(next.with_data_key(v, &new).unwrap(), None, "it is there");
            assert!(
                next.with_data_key(v, &now.next_data_key(&rt, v, &key).unwrap()).is_err(),
                "another was first"
            );
            assert!(now.with_data_key(other, &new).is_err());
            now = next;
            KeyTable::check(Some(&now), false).unwrap();
        }
        assert!(now.next_data_key(&rt, v, &key).unwrap_err().is(Kind::Refused));
        let secrets = now.data_keys_for((v, &key), v).unwrap();
        assert_eq!(secrets.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert!(secrets.iter().all(|(n, s)| secrets.iter().all(|(m, t)| n == m || s != t)));
        assert!(now.data_keys_for((v, &Secret::new([1; 32])), v).unwrap_err().is(Kind::Corrupt));
        // A clone of now has all of them, and slots that are changed meanwhile take none away.
        let clone = now.of_clone(&rt, (v, &key), other).unwrap();
        assert_eq!(clone.data_keys_for((other, &key), v).unwrap(), secrets);
        let mut slots = table.clone();
        slots.add_slot(&rt, &key, &words("w"), CHEAP).unwrap();
        let both = now.with_slots_of(&slots);
        assert_eq!((both.slots().len(), both.current(v)), (2, 4));
        assert_eq!(both.unlock(&words("w")).unwrap().0, key);
        let left = clone.without_below(v, 4);
        assert_eq!(left.data_keys_of(v).map(|d| d.number).collect::<Vec<_>>(), [4]);
        assert_eq!(left.current(other), 1, "of others nothing goes");
        assert_eq!(left.without_below(v, 9), left, "the newest stays");
        assert_eq!(left.next_data_key(&rt, v, &key).unwrap().number, 5, "no number comes again");
        let forged = KeyTable { data: [now.data.clone(), now.data[..1].to_vec()].concat(), ..now };
        assert!(KeyTable::check(Some(&forged), false).is_err());
    }

    #[test]
    fn golden_json() {
        let slot = Slot {
            slot: 1,
            kind: SlotKind::Passphrase,
            made_ms: 5,
            salt: Hex([0xab; 16]),
            argon2: Some(Argon2Costs::default()),
            wrapped: Hex([1; WRAPPED]),
        };
        let data = DataKey {
            volume: VolumeId(7),
            number: 1,
            made_ms: 0,
            salt: Hex([2; 16]),
            wrapped: Hex([3; WRAPPED]),
        };
        let table = KeyTable { origin: VolumeId(7), slots: vec![slot], data: vec![data] };
        let text = serde_json::to_string(&table).unwrap();
        let should = format!(
            r#"{{"origin":"00000000000000000000000000000007","slots":[{{"slot":1,"kind":"passphrase","made_ms":5,"salt":"{}","argon2":{{"memory_kib":65536,"passes":3,"lanes":4}},"wrapped":"{}"}}],"data":[{{"volume":"00000000000000000000000000000007","number":1,"salt":"{}","wrapped":"{}"}}]}}"#,
            "ab".repeat(16),
            "01".repeat(WRAPPED),
            "02".repeat(16),
            "03".repeat(WRAPPED)
        );
        assert_eq!(text, should);
        assert_eq!(serde_json::from_str::<KeyTable>(&text).unwrap(), table);
    }
}
