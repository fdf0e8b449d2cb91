//! One store as acceptor of one register: its verbs, and when an answer of it counts (protocol §1.7, §2.6).

use std::sync::Arc;

use bytes::Bytes;

use super::object::{Acceptor, OBJECT_MAX, Object, Opening};
use crate::base::{Error, Generation, Kind, Nonce, RegisterId, Result};
use crate::pool::config::PoolConfig;
use crate::pool::key::register_key;
use crate::pool::member::Member;
use crate::store::{ByteRange, Cause, Etag, Put, When};

/// One generation of one register.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stage {
    pub generation: Generation,
    pub opening: Opening,
}

/// What an acceptor held when it was looked at. Only a put on its etag makes it more than a memory.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub etag: Option<Etag>,
    pub state: Acceptor,
    /// There is an object, and it is of this generation.
    pub own: bool,
}

/// An acceptor, whatever is there.
#[derive(Debug)]
pub(super) enum Shown {
    /// Its object, one of an earlier generation, or nothing.
    Good(Seen),
    /// It is in a later generation.
    Newer(Etag, Box<Object>),
    /// An object that is not the acceptor's, and why.
    Damaged(Etag, Error),
}

impl Shown {
    pub fn good(&self) -> Option<&Seen> {
        if let Shown::Good(seen) = self { Some(seen) } else { None }
    }

    /// Of an object as one of ours was put.
    fn etag(&self) -> Option<&Etag> {
        match self {
            Shown::Good(seen) => seen.etag.as_ref(),
            Shown::Newer(etag, _) => Some(etag),
            // What is rotten is no put of ours: it may come again.
            Shown::Damaged(..) => None,
        }
    }
}

fn undamaged(shown: Shown) -> Result<Shown> {
    match shown {
        Shown::Damaged(_, e) => Err(e),
        seen => Ok(seen),
    }
}

/// One acceptor. Cheap to clone.
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

    fn trouble(&self, e: Error) -> Error {
        if e.to_string().contains(self.member.url()) { e } else { e.context(self.member.url()) }
    }

    /// What it holds, by a store that is known to have been the listed one then.
    pub async fn look(&self) -> Result<Shown> {
        undamaged(self.inspect().await?)
    }

    /// The same for whoever puts a promise over it next. That there is nothing needs no proof: the put that finds nothing
    /// either is proved itself.
    pub async fn look_to_promise(&self) -> Result<Shown> {
        let shown = self.shown().await.map_err(|e| self.trouble(e))?;
        if shown.etag().is_some() {
            self.prove(shown.etag()).await?;
        }
        undamaged(shown)
    }

    /// The same as `look`, telling damage from silence.
    pub async fn inspect(&self) -> Result<Shown> {
        let shown = self.shown().await.map_err(|e| self.trouble(e))?;
        self.prove(shown.etag()).await?;
        Ok(shown)
    }

    /// That the store was the listed one when it answered with this object, or with none.
    async fn prove(&self, etag: Option<&Etag>) -> Result<()> {
        match etag {
            Some(etag) => self.member.attest_by(self.register, etag).await,
            None => self.member.attest().await,
        }
    }

    /// What is read as an object of this register. One of a later generation leads there by its description of the pool, and is
    /// believed alone: one whose description can't be followed is damage of its store.
    fn decode(&self, body: &Bytes) -> Result<Object> {
        let object = Object::decode(body, self.register)?;
        if object.generation > self.stage.generation {
            let leads = match PoolConfig::decode(&object.opening.members) {
                Err(e) if e.is(Kind::Unsupported) => return Err(e),
                leads => leads,
            };
            let pool = self.member.pool();
            if !leads.is_ok_and(|config| config.generation == object.generation && config.pool == pool) {
                return Err(Error::new(Kind::Corrupt, "the object does not say which stores belong to it"));
            }
        }
        Ok(object)
    }

    async fn shown(&self) -> Result<Shown> {
        let range = ByteRange::Whole { max: OBJECT_MAX };
        let found = match self.member.get(&self.key(), range, Cause::Register).await {
            Ok(found) => found,
            // Larger than any of ours.
            Err(e) if e.is(Kind::Invalid) => {
                let head = self.member.head(&self.key(), Cause::Register).await?;
                return head.map_or(Err(e.share()), |head| Ok(Shown::Damaged(head.etag, self.trouble(e))));
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
                std::cmp::Ordering::Greater => Shown::Newer(etag, Box::new(object)),
            }),
            Err(e) if matches!(e.kind(), Kind::Invalid | Kind::Corrupt) => {
                Ok(Shown::Damaged(etag, self.trouble(e)))
            }
            Err(e) => Err(e),
        }
    }

    /// Its object, of whatever generation; counted like `look`.
    pub async fn object(&self) -> Result<Option<Object>> {
        let range = ByteRange::Whole { max: OBJECT_MAX };
        let found =
            self.member.get(&self.key(), range, Cause::Register).await.map_err(|e| self.trouble(e))?;
        let Some(found) = found else {
            self.member.attest().await?;
            return Ok(None);
        };
        let object = self.decode(&found.body).map_err(|e| self.trouble(e))?;
        self.prove(Some(&found.head.etag)).await?;
        Ok(Some(object))
    }

    /// Puts a state over what has this etag (`None`: over nothing). `Ok(None)`: another was there first. An error says
    /// nothing about whether it was stored.
    pub async fn write(&self, state: &Acceptor, over: Option<Etag>, nonce: Nonce) -> Result<Option<Etag>> {
        let fresh = over.is_none();
        let when = over.map_or(When::Absent, When::Matches);
        let Stage { generation, opening } = Stage::clone(&self.stage);
        let body = Object { generation, opening, state: state.clone() }.encode(self.register, nonce);
        match self.member.put(&self.key(), body, when, Cause::Register).await {
            Ok(Put::Stored(etag)) => {
                if fresh {
                    // A store that was emptied takes an if-absent put as well, and has forgotten its promises.
                    self.member.attest().await?;
                }
                self.member.vouch(self.register, &etag);
                Ok(Some(etag))
            }
            Ok(Put::Refused) => Ok(None),
            Ok(Put::Unknown(e)) | Err(e) => Err(self.trouble(e)),
        }
    }

    /// Whether it still has this etag, the etag of a put of ours.
    pub async fn still(&self, etag: &Etag) -> Result<bool> {
        let head = self.member.head(&self.key(), Cause::Register).await.map_err(|e| self.trouble(e))?;
        Ok(head.is_some_and(|head| head.etag == *etag))
    }
}
