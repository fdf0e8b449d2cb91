//! The part of a head that holds an encrypted volume's keys, and what it forbids.

use super::head_value::{Head, Move};
use windlass_base::{Epoch, Error, Kind, Result};
use windlass_keys::{DataKey, KeyTable};

impl Head {
    /// Returns this head of a volume that is being made with these keys, as an encrypted one.
    pub fn with_keys(&self, keys: KeyTable) -> Result<Head> {
        self.settings.check_for(true)?;
        match self.with(|h| h.keys = Some(keys))? {
            Move::To(head) => Ok(*head),
            Move::Already => Ok(self.clone()),
        }
    }

    /// Removes the keys, as an attacker would who wants the volume written to without its key.
    #[cfg(test)]
    pub fn forged_plain(&self) -> Result<Move> {
        self.with(|h| h.keys = None)
    }

    /// Replaces the key slots; the data keys stay as they are by now. `Refused`: the slots were changed since
    /// `before` was read.
    pub fn set_keys(&self, before: &KeyTable, keys: &KeyTable) -> Result<Move> {
        match &self.keys {
            _ if self.removed => Err(Error::new(Kind::Removed, "the volume was removed")),
            Some(now) if now.slots() == keys.slots() => Ok(Move::Already),
            Some(now) if now.slots() == before.slots() => {
                self.with(|h| h.keys = Some(now.with_slots_of(keys)))
            }
            _ => Err(Error::new(
                Kind::Refused,
                "the key slots were changed by another command meanwhile: try again",
            )),
        }
    }

    /// Adds a data key, which seals what is written from now on. Only the owner seals with it, and not before
    /// this change is known to be chosen.
    pub fn add_data_key(&self, epoch: Epoch, new: &DataKey) -> Result<Move> {
        self.owned(epoch)?;
        let Some(now) = &self.keys else {
            return Err(Error::new(Kind::Refused, "the volume is not encrypted: it has no keys"));
        };
        match now.with_data_key(self.volume, new)? {
            None => Ok(Move::Already),
            Some(keys) => self.with(|h| h.keys = Some(keys)),
        }
    }

    /// Drops the data keys whose number is lower than `below`. The caller knows that they seal nothing any
    /// more: nothing that the recorded checkpoint names, nothing of the log, and no record of the owner's
    /// journal.
    pub fn drop_data_keys(&self, epoch: Epoch, below: u8) -> Result<Move> {
        self.owned(epoch)?;
        let Some(now) = &self.keys else { return Ok(Move::Already) };
        let keys = now.without_below(self.volume, below);
        if keys == *now { Ok(Move::Already) } else { self.with(|h| h.keys = Some(keys)) }
    }

    /// Returns the number of the data key that seals, and the lowest one that there is. They differ while a
    /// rotation is under way. Both are 0 if the volume is not encrypted.
    pub fn data_keys(&self) -> (u8, u8) {
        let numbers = self.keys.iter().flat_map(|keys| keys.data_keys_of(self.volume)).map(|d| d.number);
        numbers.fold((0, 0), |(most, least), n| (n.max(most), if least == 0 { n } else { n.min(least) }))
    }
}
