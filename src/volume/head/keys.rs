//! The part of a head that holds an encrypted volume's keys, and what it forbids.

use super::transitions::{Head, Move};
use crate::base::{Error, Kind, Result};
use crate::keys::KeyTable;

impl Head {
    /// Of a volume that is made, encrypted.
    pub fn with_keys(&self, keys: KeyTable) -> Result<Head> {
        self.settings.check_for(true)?;
        match self.with(|h| h.keys = Some(keys))? {
            Move::To(head) => Ok(*head),
            Move::Already => Ok(self.clone()),
        }
    }

    /// As somebody writes it who wants the volume written to without its key.
    #[cfg(test)]
    pub fn forged_plain(&self) -> Result<Move> {
        self.with(|h| h.keys = None)
    }

    /// Other slots open the volume. `Refused`: they were changed since `before` was read.
    pub fn set_keys(&self, before: &KeyTable, keys: &KeyTable) -> Result<Move> {
        match &self.keys {
            _ if self.removed => Err(Error::new(Kind::Removed, "the volume was removed")),
            Some(now) if now == keys => Ok(Move::Already),
            Some(now) if now == before => self.with(|h| h.keys = Some(keys.clone())),
            _ => Err(Error::new(
                Kind::Refused,
                "the key slots were changed by another command meanwhile: try again",
            )),
        }
    }
}
