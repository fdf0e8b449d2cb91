//! Keys from a file as s3fs has it: `ACCESS:SECRET` for any bucket, `BUCKET:ACCESS:SECRET` for one, a line each; or
//! `AWSAccessKeyId=` and `AWSSecretKey=` on lines of their own. Like s3fs, this refuses a file that others may read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::keyring::AccessKeys;
use windlass_base::rt::{Disk, RealDisk};
use windlass_base::{Error, Kind, Result};

/// Largest file of keys, in bytes.
const FILE_MAX: usize = 1 << 20;
/// The one file whose group may read it.
const OF_ALL: &str = "/etc/passwd-s3fs";

fn wrong(file: &Path, what: impl std::fmt::Display) -> Error {
    Error::new(Kind::Usage, format!("passwd_file {}{what}", file.display()))
}

/// Returns the keys that `file` has for `bucket`. No error holds a secret.
pub async fn keys(file: &Path, bucket: &str) -> Result<AccessKeys> {
    let meta = std::fs::metadata(file).map_err(|e| wrong(file, format_args!(" can't be read: {e}")))?;
    check_mode(file, meta.permissions().mode())?;
    let read = RealDisk::start().read(file, FILE_MAX).await;
    let bytes = read.map_err(|e| wrong(file, format_args!(" can't be read: {e}")))?;
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong(file, " is not UTF-8"))?;
    chosen(file, text, bucket)
}

fn check_mode(file: &Path, mode: u32) -> Result<()> {
    let group = if file == Path::new(OF_ALL) { 0o020 } else { 0o060 };
    if mode & (0o006 | group) != 0 {
        let mode = mode & 0o777;
        let shown = file.display();
        return Err(wrong(
            file,
            format_args!(" has mode {mode:03o}, so others may read or change it: chmod 600 {shown}"),
        ));
    }
    Ok(())
}

fn pair_of(id: String, secret: String) -> AccessKeys {
    AccessKeys { id, secret, token: None, expires_ms: None }
}

/// Returns the bucket's own keys, else those of all buckets.
pub(super) fn chosen(file: &Path, text: &str, bucket: &str) -> Result<AccessKeys> {
    let (mut own, mut all, mut pair) = (None, None, (None, None));
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |what: &str| wrong(file, format_args!(", line {}: {what}", at + 1));
        if let Some((name, value)) = line.split_once('=').filter(|(name, _)| name.trim().starts_with("AWS")) {
            let place = match name.trim() {
                "AWSAccessKeyId" => &mut pair.0,
                "AWSSecretKey" => &mut pair.1,
                _ => return Err(bad("only AWSAccessKeyId= and AWSSecretKey= are known")),
            };
            *place = Some(value.trim().to_owned());
            continue;
        }
        if line.contains([' ', '\t']) {
            return Err(bad("a space or tab is no part of a key: remove it"));
        }
        let (place, keys) = match line.splitn(2, ':').collect::<Vec<_>>()[..] {
            [of, keys] if keys.contains(':') => (if of == bucket { Some(&mut own) } else { None }, keys),
            _ => (Some(&mut all), line),
        };
        let found = keys.rsplit_once(':').filter(|(id, secret)| !id.is_empty() && !secret.is_empty());
        let (id, secret) = found.ok_or_else(|| bad("write ACCESS:SECRET or BUCKET:ACCESS:SECRET"))?;
        let new = pair_of(id.to_owned(), secret.to_owned());
        if let Some(place) = place
            && place.replace(new).is_some()
        {
            return Err(bad("there are keys for this bucket on an earlier line: keep one of the two"));
        }
    }
    let pair = pair.0.zip(pair.1).map(|(id, secret)| pair_of(id, secret));
    let none = || {
        wrong(
            file,
            format_args!(" has no keys for bucket {bucket}: add ACCESS:SECRET or {bucket}:ACCESS:SECRET"),
        )
    };
    own.or(all).or(pair).ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String> {
        chosen(Path::new("/f"), text, "b").map(|k| format!("{}/{}", k.id, k.secret))
    }

    #[test]
    fn keys_are_read_as_s3fs_reads_them() {
        for (text, wanted) in [
            ("A:S\n", "A/S"),
            ("# ours\n\nA:S", "A/S"),
            ("A:S\nb:B:T\nc:C:U\n", "B/T"),
            ("c:C:U\r\nA:S\r\n", "A/S"),
            ("A:S+/=x\n", "A/S+/=x"),
            ("AWSAccessKeyId=A\nAWSSecretKey=S=\n", "A/S="),
        ] {
            assert_eq!(of(text).unwrap(), wanted, "{text}");
        }
        for (text, wanted) in [
            ("", "no keys for bucket b"),
            ("c:C:SECRET", "no keys for bucket b"),
            ("#\nSECRET", "line 2: write ACCESS:SECRET"),
            (":SECRET", "line 1: write"),
            ("A: SECRET", "line 1: a space"),
            ("A:S\nB:SECRET", "line 2: there are keys"),
            ("AWSSecret=SECRET", "line 1: only AWSAccessKeyId="),
        ] {
            let why = of(text).unwrap_err().to_string();
            assert!(why.contains(wanted) && !why.replace("ACCESS:SECRET", "").contains("SECRET"), "{why}");
        }
    }

    #[tokio::test]
    async fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        assert!(keys(&file, "b").await.unwrap_err().to_string().contains("can't be read"));
        RealDisk::start().write_atomic(&file, bytes::Bytes::from_static(b"A:S")).await.unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o602, false)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let read = keys(&file, "b").await;
            assert_eq!(read.is_ok(), fine, "{mode:o}: {read:?}");
            assert!(read.is_ok_and(|k| k.id == "A") || !fine);
        }
        let of_all = Path::new(OF_ALL);
        assert!(check_mode(of_all, 0o640).is_ok() && check_mode(of_all, 0o660).is_err());
    }
}
