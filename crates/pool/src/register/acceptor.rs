//! One store as acceptor of one register: its verbs, and when an answer of it counts (protocol §1.7, §2.6).

use std::sync::Arc;

use bytes::Bytes;

use super::object::{Acceptor, OBJECT_MAX, Object, Opening};
use crate::stores::Member;
use crate::stores::PoolConfig;
use crate::stores::register_key;
use windlass_base::{Error, Generation, Kind, Nonce, RegisterId, Result};
use windlass_keys::RegisterPlace;
use windlass_store::{ByteRange, Cause, Etag, Put, When};

/// One generation of one register.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stage {
    pub generation: Generation,
    pub opening: Opening,
}

/// An acceptor's state when it was looked at. Only a put on its etag makes it more than a memory.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub etag: Option<Etag>,
    pub state: Acceptor,
    /// True if there is an object, and it is of this generation.
    pub own: bool,
}

/// An acceptor, whatever is there.
#[derive(Debug)]
pub(super) enum Shown {
    /// The acceptor's object of this generation or of an earlier one, or no object.
    Good(Seen),
    /// The acceptor is in a later generation.
    Newer(Box<Object>),
    /// An object that is not the acceptor's, and why.
    Damaged(Etag, Error),
}

impl Shown {
    pub fn good(&self) -> Option<&Seen> {
        if let Shown::Good(seen) = self { Some(seen) } else { None }
    }
}

/// One acceptor of one register. It is cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub member: Arc<Member>,
    pub register: RegisterId,
    pub stage: Arc<Stage>,
}

impl Cell {
    fn key(&self) -> String {
        register_key(self.register)
    }

    fn place(&self) -> RegisterPlace {
        let (pool, index) = (self.member.pool(), self.member.index());
        RegisterPlace { pool, register: self.register, index }
    }

    /// Names an object in the acceptor's place that is none of ours, in the error, the log and the pool's status.
    pub fn damage(&self, e: &Error) -> Error {
        let (key, url) = (self.key(), self.member.url());
        let e = Error::new(e.kind(), format!("store {url}: {key} is damaged: {e}"));
        self.member.damaged(&key, &e);
        e
    }

    pub fn is_sound(&self) {
        self.member.sound(&self.key());
    }

    fn trouble(&self, e: Error) -> Error {
        if e.to_string().contains(self.member.url()) { e } else { e.context(self.member.url()) }
    }

    /// Returns what the acceptor holds, from a store that attested afterwards that it is the listed one. Damage is an error.
    pub async fn look(&self) -> Result<Shown> {
        match self.inspect().await? {
            Shown::Damaged(_, e) => Err(e),
            seen => Ok(seen),
        }
    }

    /// Returns what the acceptor holds as `look` does, but tells damage from silence.
    pub async fn inspect(&self) -> Result<Shown> {
        let seen = self.shown().await.map_err(|e| self.trouble(e))?;
        self.member.attest().await?;
        Ok(seen)
    }

    async fn shown(&self) -> Result<Shown> {
        let range = ByteRange::Whole { max: OBJECT_MAX };
        let found = match self.member.get(&self.key(), range, Cause::Register).await {
            Ok(found) => found,
            // Larger than any of ours.
            Err(e) if e.is(Kind::Invalid) => {
                let head = self.member.head(&self.key(), Cause::Register).await?;
                return head.map_or(Err(e.share()), |head| Ok(Shown::Damaged(head.etag, self.damage(&e))));
            }
            Err(e) => return Err(e),
        };
        let not_yet = |etag| Shown::Good(Seen { etag, state: self.stage.opening.acceptor(), own: false });
        let Some(found) = found else { return Ok(not_yet(None)) };
        let etag = found.head.etag;
        match self.decode(&found.body) {
            Ok(object) => Ok(match object.generation.cmp(&self.stage.generation) {
                std::cmp::Ordering::Less => not_yet(Some(etag)),
                std::cmp::Ordering::Equal => {
                    Shown::Good(Seen { etag: Some(etag), state: object.state, own: true })
                }
                std::cmp::Ordering::Greater => Shown::Newer(Box::new(object)),
            }),
            Err(e) if matches!(e.kind(), Kind::Invalid | Kind::Corrupt) => {
                Ok(Shown::Damaged(etag, self.damage(&e)))
            }
            Err(e) => Err(e),
        }
    }

    /// Decodes the acceptor's object. One that says which stores go on is also checked for whether it can be followed: an
    /// object that nobody could have put here must not lead all others astray.
    fn decode(&self, body: &Bytes) -> Result<Object> {
        let object = Object::decode(body, self.place(), self.member.pool_key())?;
        let describes = |members: &Bytes, fits: &dyn Fn(Generation) -> bool| {
            let config = PoolConfig::decode(members)?;
            if config.pool == self.member.pool() && fits(config.generation) {
                return Ok(());
            }
            Err(Error::new(Kind::Invalid, "the object names the stores of another pool or generation"))
        };
        let (now, opening) = (object.generation, &object.opening);
        let known = now == self.stage.generation && opening.members == self.stage.opening.members;
        if now > Generation(0) && !known {
            describes(&opening.members, &|generation| generation == now)?;
        }
        if let Some(seal) = &object.state.value.seal {
            describes(seal, &|generation| generation > now)?;
        }
        Ok(object)
    }

    /// Returns the acceptor's object, of whatever generation; the store attests afterwards, as for `look`.
    pub async fn object(&self) -> Result<Option<Object>> {
        let range = ByteRange::Whole { max: OBJECT_MAX };
        let found =
            self.member.get(&self.key(), range, Cause::Register).await.map_err(|e| self.trouble(e))?;
        let object = found.map(|found| self.decode(&found.body)).transpose();
        let object = object.map_err(|e| match e.kind() {
            Kind::Invalid | Kind::Corrupt => self.damage(&e),
            _ => self.trouble(e),
        })?;
        self.member.attest().await?;
        Ok(object)
    }

    /// Puts a state over what has this etag (`None`: over nothing). `Ok(None)`: another was there first. An error says
    /// nothing about whether it was stored.
    pub async fn write(&self, state: &Acceptor, over: Option<Etag>, nonce: Nonce) -> Result<Option<Etag>> {
        let fresh = over.is_none();
        let when = over.map_or(When::Absent, When::Matches);
        let Stage { generation, opening } = Stage::clone(&self.stage);
        let object = Object { generation, opening, state: state.clone() };
        let body = object.encode(self.place(), nonce, self.member.pool_key());
        match self.member.put(&self.key(), body, when, Cause::Register).await {
            Ok(Put::Stored(etag)) => {
                if fresh {
                    // A store that was emptied takes an if-absent put as well, and has forgotten its promises.
                    self.member.attest().await?;
                }
                self.is_sound();
                Ok(Some(etag))
            }
            Ok(Put::Refused) => Ok(None),
            Ok(Put::Unknown(e)) | Err(e) => Err(self.trouble(e)),
        }
    }

    /// Tells whether the acceptor's object still has this etag, the etag of a put of ours.
    pub async fn still(&self, etag: &Etag) -> Result<bool> {
        let head = self.member.head(&self.key(), Cause::Register).await.map_err(|e| self.trouble(e))?;
        Ok(head.is_some_and(|head| head.etag == *etag))
    }
}
