//! The part of a volume's head that holds its keys, wrapped: slots for those who may open it, and the data keys.

use std::collections::BTreeMap;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::Aad;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::data_key::{VolumeKey, expand, extract, gcm, nonce};
use super::keyring::{FamilyKeys, KeyAccess};
use super::secret::{Passphrase, Secret, hex};
use crate::base::rt::Rt;
use crate::base::{Error, Kind, Result, VolumeId};

/// Slots that a volume may have.
pub const SLOTS_MAX: usize = 8;
/// Bytes of a wrapped key: it and its tag.
const WRAPPED: usize = 48;

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

/// What a slot is opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotKind {
    /// A key of 32 bytes: a file's, or what a command prints.
    Key,
    Passphrase,
}

/// What argon2id takes to try one passphrase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Argon2Costs {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for Argon2Costs {
    /// The second choice of RFC 9106, for where memory is shared.
    fn default() -> Argon2Costs {
        Argon2Costs { memory_kib: 64 << 10, passes: 3, lanes: 4 }
    }
}

/// Whoever forges a head must not be able to ask for more.
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

/// What a user gives to open a volume.
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
    /// 1 to 8.
    pub slot: u8,
    pub kind: SlotKind,
    pub made_ms: u64,
    salt: Hex<16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argon2: Option<Argon2Costs>,
    /// The volume key.
    wrapped: Hex<WRAPPED>,
}

/// A data key under the volume key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct DataKey {
    /// Whose it is: the volume's own, or an ancestor's.
    volume: VolumeId,
    number: u8,
    salt: Hex<16>,
    wrapped: Hex<WRAPPED>,
}

/// All keys of an encrypted volume. See the module.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyTable {
    /// The volume that the volume key was drawn for: itself, or what a clone comes from, whose slots open the clone too.
    origin: VolumeId,
    slots: Vec<Slot>,
    data: Vec<DataKey>,
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

/// Under a key that is drawn with the salt, for this one message.
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

fn named(slots: &[u8]) -> String {
    slots.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

impl KeyTable {
    /// Of a new volume: a volume key and a data key are drawn, and the offer opens slot 1. With the volume key.
    pub fn drawn(
        rt: &Rt,
        volume: VolumeId,
        offered: &Offered,
        costs: Argon2Costs,
    ) -> Result<(KeyTable, Secret)> {
        let key = Secret::drawn(rt);
        let mut table = KeyTable { origin: volume, slots: Vec::new(), data: Vec::new() };
        table.add_slot(rt, &key, offered, costs)?;
        table.add_data(rt, volume, &key, (volume, 1, &Secret::drawn(rt)));
        Ok((table, key))
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn add_data(
        &mut self,
        rt: &Rt,
        holder: VolumeId,
        key: &Secret,
        (volume, number, data): (VolumeId, u8, &Secret),
    ) {
        let salt = salt(rt);
        let wrapped = wrap(key, &salt, &data_info(holder, volume, number), data);
        self.data.push(DataKey { volume, number, salt, wrapped });
    }

    /// One more way to open the volume; its number. `Refused`: there are as many as there may be.
    pub fn add_slot(&mut self, rt: &Rt, key: &Secret, offered: &Offered, costs: Argon2Costs) -> Result<u8> {
        let free = (1..=SLOTS_MAX as u8).find(|n| self.slots.iter().all(|s| s.slot != *n));
        let slot = free.ok_or_else(|| {
            Error::new(Kind::Refused, format!("all {SLOTS_MAX} key slots are in use: remove one first"))
        })?;
        self.slots.push(self.slot_of(rt, key, slot, (offered, costs))?);
        self.slots.sort_by_key(|s| s.slot);
        Ok(slot)
    }

    /// The slot takes this from now on instead of what it took.
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

    /// `Refused` when nothing would open the volume any more.
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

    /// The volume key, and the slot that gave it. `Denied` names the slots that were tried.
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

    /// The data keys, of all volumes that have some here.
    fn data_keys(&self, holder: VolumeId, key: &Secret) -> Result<BTreeMap<VolumeId, Vec<(u8, Secret)>>> {
        let mut all: BTreeMap<VolumeId, Vec<(u8, Secret)>> = BTreeMap::new();
        for d in &self.data {
            let info = data_info(holder, d.volume, d.number);
            let data = unwrap(key, &d.salt, &info, &d.wrapped).ok_or_else(|| {
                Error::new(Kind::Corrupt, "a data key of the volume's description is not what was written")
            })?;
            all.entry(d.volume).or_default().push((d.number, data));
        }
        Ok(all)
    }

    /// The access to this volume and its ancestors; without the volume key all are locked.
    pub fn keyring(&self, holder: VolumeId, key: Option<&Secret>) -> Result<FamilyKeys> {
        let Some(key) = key else {
            let locked = self.data.iter().map(|d| (d.volume, KeyAccess::Locked));
            return Ok(FamilyKeys::new(locked.chain([(holder, KeyAccess::Locked)]).collect()));
        };
        let keys = self.data_keys(holder, key)?;
        let access = |(volume, data)| Some((volume, KeyAccess::Sealed(VolumeKey::new(volume, data)?)));
        let all: BTreeMap<VolumeId, KeyAccess> = keys.into_iter().filter_map(access).collect();
        match all.contains_key(&holder) {
            true => Ok(FamilyKeys::new(all)),
            false => Err(Error::new(Kind::Corrupt, "the volume's description has no data key of its own")),
        }
    }

    /// Of a clone, which the same slots open: the volume key is its parent's, and the data key for what it writes its own.
    pub fn of_clone(&self, rt: &Rt, (parent, key): (VolumeId, &Secret), clone: VolumeId) -> Result<KeyTable> {
        let inherited = self.data_keys(parent, key)?;
        let mut table = KeyTable { origin: self.origin, slots: self.slots.clone(), data: Vec::new() };
        table.add_data(rt, clone, key, (clone, 1, &Secret::drawn(rt)));
        for (volume, keys) in &inherited {
            for (number, data) in keys {
                table.add_data(rt, clone, key, (*volume, *number, data));
            }
        }
        Ok(table)
    }

    /// What a head must hold that has these keys, or none, and a boot trace or none.
    pub fn check(keys: Option<&KeyTable>, has_trace: bool) -> Result<(), &'static str> {
        let Some(keys) = keys else { return Ok(()) };
        let ordered = keys.slots.windows(2).all(|s| s[0].slot < s[1].slot);
        let numbers = keys.slots.iter().all(|s| (1..=SLOTS_MAX as u8).contains(&s.slot));
        if !ordered || !numbers || keys.slots.is_empty() || keys.data.iter().any(|d| d.number == 0) {
            return Err("its key slots are out of order");
        }
        if has_trace { Err("it is encrypted and its boot trace is not") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rt::sim::Sim;

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
    fn golden_json() {
        let slot = Slot {
            slot: 1,
            kind: SlotKind::Passphrase,
            made_ms: 5,
            salt: Hex([0xab; 16]),
            argon2: Some(Argon2Costs::default()),
            wrapped: Hex([1; WRAPPED]),
        };
        let data = DataKey { volume: VolumeId(7), number: 1, salt: Hex([2; 16]), wrapped: Hex([3; WRAPPED]) };
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
