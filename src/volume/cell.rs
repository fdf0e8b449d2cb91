//! The head in its register: reading it, and changing it by the pure functions of `head`.

use std::time::Duration;

use bytes::Bytes;

use super::head::{Head, Move};
use crate::base::{Error, Kind, Result};
use crate::pool::{Change, Register};

/// How long a volume that has a name and no register is taken for one that is being created.
pub const CREATION: Duration = Duration::from_secs(3);

/// A volume's register, typed.
#[derive(Clone, Debug)]
pub struct HeadCell {
    register: Register,
}

fn missing() -> Error {
    Error::new(Kind::NotFound, "the volume has no description in the pool (its creation was never finished)")
}

impl HeadCell {
    pub fn new(register: Register) -> HeadCell {
        HeadCell { register }
    }

    /// The current head; `None` when the volume was never created.
    pub async fn read(&self) -> Result<Option<Head>> {
        let value = self.register.read().await?;
        value.as_deref().map(Head::decode).transpose()
    }

    /// The head as of a moment after this call began (protocol §1.5 b).
    pub async fn confirm(&self) -> Result<Head> {
        let value = self.register.confirm().await?;
        value.as_deref().map(Head::decode).transpose()?.ok_or_else(missing)
    }

    /// Applies one change; the head that is current with it. Called again with the value current then after an
    /// unknown outcome, so `step` must recognise what it has done (the functions of `Head` do).
    pub async fn change(&self, mut step: impl FnMut(&Head) -> Result<Move> + Send) -> Result<Head> {
        let apply = move |value: Option<&Bytes>| {
            let head = Head::decode(value.ok_or_else(missing)?)?;
            Ok(match step(&head)? {
                Move::Already => Change::Keep(head),
                Move::To(next) => Change::Put(next.encode()?, *next),
            })
        };
        self.register.change(apply).await
    }

    /// Creates the volume. An id is drawn once, so a head that is there already is our own unless it was cancelled.
    pub async fn create(&self, head: &Head) -> Result<()> {
        let bytes = head.encode_new()?;
        let apply = |value: Option<&Bytes>| match value {
            None => Ok(Change::Put(bytes.clone(), ())),
            Some(there) => match Head::decode(there)? {
                there if there.removed => {
                    Err(Error::new(Kind::Removed, "the volume's creation was cancelled by another"))
                }
                _ => Ok(Change::Keep(())),
            },
        };
        self.register.change(apply).await
    }

    /// Makes sure that the volume is never created. False: it exists.
    pub async fn cancel(&self, head: &Head) -> Result<bool> {
        let mut gone = head.clone();
        gone.removed = true;
        let bytes = gone.encode()?;
        let apply = |value: Option<&Bytes>| match value {
            None => Ok(Change::Put(bytes.clone(), true)),
            Some(there) => Ok(Change::Keep(Head::decode(there)?.removed)),
        };
        self.register.change(apply).await
    }
}
