//! Both sides of a mirror show each other that they know one secret. HMAC-SHA-256 over what both have drawn for this connection;
//! the words `owner` and `peer` in it keep an answer from being sent back as the other side's.
//!
//! | from | bytes | field |
//! |---|---:|---|
//! | owner | 8 | `wlMirro1` |
//! | owner | 32 | drawn for the connection |
//! | peer | 32 | drawn for the connection |
//! | peer | 32 | HMAC of `peer`, the owner's 32 bytes, the peer's |
//! | owner | 32 | HMAC of `owner`, the owner's 32 bytes, the peer's |
//! | peer | 1 | 1: let in |

use std::path::Path;

use aws_lc_rs::hmac;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use windlass_base::rt::{Disk, Rt};
use windlass_base::{Error, Kind, Result, ResultExt as _};

const MAGIC: &[u8; 8] = b"wlMirro1";
const NONCE: usize = 32;
const TAG: usize = 32;
/// Least and largest size of a secret, in bytes.
const SECRET_MIN: usize = 16;
const SECRET_MAX: usize = 4096;

/// The secret that both sides know.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    fn new(bytes: &[u8]) -> Secret {
        Secret(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Reads the secret of a file that is its owner's alone; white space around the secret does not count.
    pub async fn read(disk: &dyn Disk, file: &str) -> Result<Secret> {
        let bytes = disk.read(Path::new(file), SECRET_MAX).await.context(|| format!("reading {file}"))?;
        let secret = bytes.trim_ascii();
        if secret.len() < SECRET_MIN {
            let why = format!("{file} has {} bytes of a secret: give it {SECRET_MIN} at least", secret.len());
            return Err(Error::new(Kind::Usage, why));
        }
        let mode = rustix::fs::stat(file).map(|stat| stat.st_mode & 0o077).unwrap_or(0);
        if mode != 0 {
            let why = format!("{file} can be read by others than its owner: `chmod 600 {file}`");
            return Err(Error::new(Kind::Refused, why));
        }
        Ok(Secret::new(secret))
    }

    fn said(who: &[u8], owner: &[u8; NONCE], peer: &[u8; NONCE]) -> Vec<u8> {
        [who, owner, peer].concat()
    }

    fn tag(&self, said: &[u8]) -> hmac::Tag {
        hmac::sign(&self.0, said)
    }

    /// Tells whether the tag is right, in constant time.
    fn check(&self, said: &[u8], tag: &[u8; TAG]) -> bool {
        hmac::verify(&self.0, said, tag).is_ok()
    }
}

fn draw(rt: &Rt) -> [u8; NONCE] {
    let mut out = [0; NONCE];
    out[..16].copy_from_slice(&rt.random128().to_le_bytes());
    out[16..].copy_from_slice(&rt.random128().to_le_bytes());
    out
}

async fn take<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> Result<[u8; N]> {
    let mut out = [0; N];
    stream.read_exact(&mut out).await.context(|| "showing that both know the secret".into())?;
    Ok(out)
}

/// Shows the peer that this side knows the secret, and sees that the peer does: the owner's side.
pub async fn knock<S: AsyncRead + AsyncWrite + Unpin>(
    rt: &Rt,
    stream: &mut S,
    secret: &Secret,
) -> Result<()> {
    let own = draw(rt);
    stream.write_all(&[&MAGIC[..], &own].concat()).await?;
    let (drawn, tag) = (take::<NONCE>(stream).await?, take::<TAG>(stream).await?);
    if !secret.check(&Secret::said(b"peer", &own, &drawn), &tag) {
        return Err(Error::new(Kind::Denied, "it does not know the secret of `mirror_key`"));
    }
    stream.write_all(secret.tag(&Secret::said(b"owner", &own, &drawn)).as_ref()).await?;
    match take::<1>(stream).await? {
        [1] => Ok(()),
        _ => Err(Error::new(Kind::Denied, "it does not let this host in")),
    }
}

/// Admits an owner that knows the secret: the peer's side. Who does not know the secret learns nothing but that there
/// is one.
pub async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
    rt: &Rt,
    stream: &mut S,
    secret: &Secret,
) -> Result<()> {
    if take::<8>(stream).await? != *MAGIC {
        return Err(Error::new(Kind::Invalid, "who connected wants something else than a mirror"));
    }
    let (theirs, own) = (take::<NONCE>(stream).await?, draw(rt));
    let tag = secret.tag(&Secret::said(b"peer", &theirs, &own));
    stream.write_all(&[&own[..], tag.as_ref()].concat()).await?;
    let shown = take::<TAG>(stream).await?;
    if !secret.check(&Secret::said(b"owner", &theirs, &own), &shown) {
        return Err(Error::new(Kind::Denied, "who connected does not know the secret of `mirror_key`"));
    }
    stream.write_all(&[1]).await?;
    Ok(())
}

/// Targets of fuzzing.
#[cfg(any(test, fuzzing))]
pub mod fuzz {
    use futures::FutureExt as _;

    use super::*;
    use windlass_base::rt::sim::Sim;

    pub fn some_knocks() -> Vec<Vec<u8>> {
        vec![[&MAGIC[..], &[7; NONCE], &[9; TAG]].concat(), MAGIC.to_vec()]
    }

    /// Asserts that whoever knows no secret is not let in, whatever is sent.
    pub fn admit_bytes(data: &[u8]) {
        let (sim, secret) = (Sim::new(1), Secret::new(b"of this run alone"));
        let mut stream = tokio::io::join(data, Vec::new());
        let admitted = admit(&sim.rt(), &mut stream, &secret).now_or_never();
        assert!(admitted.is_some_and(|done| done.is_err()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_base::rt::RealRuntime;

    async fn meet(owner: &Secret, peer: &Secret) -> (Result<()>, Result<()>) {
        let rt = Rt::new(RealRuntime::current());
        let (mut a, mut b) = tokio::io::duplex(256);
        let owner = async {
            let done = knock(&rt, &mut a, owner).await;
            drop(a);
            done
        };
        let peer = async {
            let done = admit(&rt, &mut b, peer).await;
            drop(b);
            done
        };
        futures::join!(owner, peer)
    }

    #[tokio::test]
    async fn both_must_know_the_secret() {
        let (good, bad) = (Secret::new(b"0123456789abcdef"), Secret::new(b"fedcba9876543210"));
        let (owner, peer) = meet(&good, &good).await;
        owner.unwrap();
        peer.unwrap();
        let (owner, peer) = meet(&good, &bad).await;
        assert!(owner.unwrap_err().is(Kind::Denied) && peer.is_err());
        fuzz::some_knocks().iter().for_each(|bytes| fuzz::admit_bytes(bytes));
    }

    /// Checks that who sends the peer's answer back is not taken for an owner.
    #[tokio::test]
    async fn an_answer_is_no_other_answer() {
        let secret = Secret::new(b"0123456789abcdef");
        let (own, drawn) = ([1; NONCE], [2; NONCE]);
        let mut tag = [0; TAG];
        tag.copy_from_slice(secret.tag(&Secret::said(b"peer", &own, &drawn)).as_ref());
        assert!(secret.check(&Secret::said(b"peer", &own, &drawn), &tag));
        assert!(!secret.check(&Secret::said(b"owner", &own, &drawn), &tag));
        assert!(!secret.check(&Secret::said(b"peer", &drawn, &own), &tag));
    }
}
