//! What mounts need of a bucket beside what pools stand on. One writer tries it, one request after another.

use bytes::Bytes;

use super::outcome::Verdict;
use super::trial::{Trial, stored};
use crate::{Attrs, Bucket, ByteRange, Cause, Effort, List, Part, When};
use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};

/// The least that a part which is not the last may have on S3.
const PART: usize = 5 << 20;
const SMALL: usize = 1000;
/// Names of a listing that is read in pages of `PAGE`.
const NAMES: usize = 5;
const PAGE: usize = 2;

/// A need of mounts that a bucket has to meet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FileNeed {
    /// An object that was deleted is neither read nor listed.
    Deletes,
    /// A listing in pages has each name once and in order, right after it was written.
    Lists,
    /// A listing tells directories from files.
    Directories,
    /// An object keeps its metadata and its content type.
    Attributes,
    /// An object whose key ends in "/" keeps its metadata and its content type.
    DirectoryAttributes,
    /// The server copies an object.
    Copies,
    /// A copy that names another version of its source is refused.
    CopiesNamed,
    /// An object is put together of parts.
    Parts,
    /// A part is copied from another object.
    PartCopies,
}

impl FileNeed {
    pub const ALL: [FileNeed; 9] = [
        FileNeed::Deletes,
        FileNeed::Lists,
        FileNeed::Directories,
        FileNeed::Attributes,
        FileNeed::DirectoryAttributes,
        FileNeed::Copies,
        FileNeed::CopiesNamed,
        FileNeed::Parts,
        FileNeed::PartCopies,
    ];

    /// Describes what a mount does without the need; `None`: nothing can be mounted.
    pub fn without(self) -> Option<&'static str> {
        match self {
            FileNeed::Deletes | FileNeed::Lists | FileNeed::Directories | FileNeed::Parts => None,
            FileNeed::Attributes => Some("modes, owners and times of files are not kept"),
            FileNeed::DirectoryAttributes => Some("a mode of a directory is refused"),
            FileNeed::Copies => Some("a rename or chmod reads the object and sends it"),
            FileNeed::CopiesNamed => Some("a copy's source is looked at before and after"),
            FileNeed::PartCopies => Some("an edit of a large file reads all of it and sends it"),
        }
    }
}

/// One need, tried.
#[derive(Debug)]
pub struct TriedNeed {
    pub need: FileNeed,
    pub verdict: Verdict,
}

/// Tries each for as long as `goes_on` says. An error: what was written can't be removed.
pub async fn prove_files(
    rt: &Rt,
    bucket: &dyn Bucket,
    prefix: &str,
    mut goes_on: impl FnMut(&TriedNeed) -> bool,
) -> Result<Vec<TriedNeed>> {
    let (trial, mut all) = (Trial::new(rt, bucket, prefix, Effort::LEAST), Vec::new());
    for need in FileNeed::ALL {
        let verdict = match Box::pin(broken(&trial, need)).await {
            Ok(None) => Verdict::Held,
            Ok(Some(how)) => Verdict::Broken(how),
            Err(e) if matches!(e.kind(), Kind::Unsupported | Kind::Invalid | Kind::Refused) => {
                Verdict::Refused(e)
            }
            Err(e) => Verdict::Untold(e),
        };
        let one = TriedNeed { need, verdict };
        let more = goes_on(&one);
        all.push(one);
        if !more {
            break;
        }
    }
    trial.clean().await.map(|()| all)
}

/// Describes how the store falls short of the need, if it does.
async fn broken(trial: &Trial<'_>, need: FileNeed) -> Result<Option<&'static str>> {
    match need {
        FileNeed::Deletes => deletes(trial).await,
        FileNeed::Lists => lists(trial).await,
        FileNeed::Directories => directories(trial).await,
        FileNeed::Attributes => {
            let key = trial.fresh_key();
            attributes(trial, &key, "an object loses metadata, or its content type").await
        }
        FileNeed::DirectoryAttributes => {
            let key = trial.below(&trial.fresh_key(), "/");
            attributes(trial, &key, "an object whose key ends in \"/\" loses metadata").await
        }
        FileNeed::Copies => copies(trial).await,
        FileNeed::CopiesNamed => copies_named(trial).await,
        FileNeed::Parts => parts(trial).await,
        FileNeed::PartCopies => part_copies(trial).await,
    }
}

async fn deletes(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (key, bucket) = (trial.fresh_key(), trial.bucket);
    trial.make(&key, &trial.body()).await?;
    bucket.delete(std::slice::from_ref(&key), Cause::Probe).await?;
    let is_read = bucket.get(&key, ByteRange::Whole { max: 1 << 20 }, Cause::Probe).await?.is_some();
    if is_read || bucket.head(&key, Cause::Probe).await?.is_some() {
        return Ok(Some("what was deleted is read still"));
    }
    let list = List { prefix: key, max: 1, ..List::default() };
    let page = bucket.list_some(&list, Cause::Probe).await?;
    Ok((!page.is_empty()).then_some("what was deleted is listed still"))
}

/// Lists all names below a prefix, page by page. An error: the listing goes on for longer than there are names.
async fn listed(trial: &Trial<'_>, prefix: &str) -> Result<Vec<String>> {
    let mut list = List { prefix: prefix.to_owned(), max: PAGE, ..List::default() };
    let mut names = Vec::new();
    for _ in 0..4 * NAMES {
        let page = trial.bucket.list(&list, Cause::Probe).await?;
        names.extend(page.objects.into_iter().map(|object| object.key));
        match page.next {
            None => return Ok(names),
            next => list.after = next,
        }
    }
    Err(Error::new(Kind::Refused, "a listing does not come to its end"))
}

async fn lists(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let base = trial.fresh_key();
    let mut names: Vec<String> = (0..NAMES).map(|n| trial.below(&base, &format!(".{n}"))).collect();
    for name in names.iter().rev() {
        trial.make(name, &trial.body()).await?;
    }
    if listed(trial, &format!("{base}.")).await? != names {
        return Ok(Some("a listing right after writes lacks names, or has them twice or out of order"));
    }
    let gone = names.remove(1);
    trial.bucket.delete(&[gone], Cause::Probe).await?;
    let is_right = listed(trial, &format!("{base}.")).await? == names;
    Ok((!is_right).then_some("a listing right after a delete is another one"))
}

async fn directories(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let base = trial.fresh_key();
    for name in ["/d/1", "/d/2", "/f"] {
        trial.make(&trial.below(&base, name), &trial.body()).await?;
    }
    let list = List { prefix: format!("{base}/"), max: 100, delimited: true, ..List::default() };
    let page = trial.bucket.list_some(&list, Cause::Probe).await?;
    let objects: Vec<String> = page.objects.into_iter().map(|object| object.key).collect();
    let is_right = page.prefixes == [format!("{base}/d/")] && objects == [format!("{base}/f")];
    Ok((!is_right)
        .then_some("a listing by directories does not show a directory and a file for what they are"))
}

async fn attributes(trial: &Trial<'_>, key: &str, how: &'static str) -> Result<Option<&'static str>> {
    let user =
        [("mode", "33188"), ("windlass-probe", "a b%20;=c")].map(|(name, value)| (name.into(), value.into()));
    let content_type = Some("text/x-windlass".to_owned());
    let attrs = Attrs { content_type, user: user.into(), ..Attrs::default() };
    stored(trial.bucket.put_with(key, Bytes::new(), &attrs, When::Always, Cause::Probe).await?)?;
    let head = trial.bucket.head(key, Cause::Probe).await?;
    let is_kept = head
        .is_some_and(|head| head.attrs.user == attrs.user && head.attrs.content_type == attrs.content_type);
    Ok((!is_kept).then_some(how))
}

/// Tells whether an object has just these bytes.
async fn is(trial: &Trial<'_>, key: &str, wanted: &[&[u8]]) -> Result<bool> {
    let wanted = wanted.concat();
    let found = trial.bucket.get(key, ByteRange::Whole { max: 2 * PART as u64 }, Cause::Probe).await?;
    Ok(found.is_some_and(|found| found.body == wanted))
}

async fn copies(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (from, to, body) = (trial.fresh_key(), trial.fresh_key(), trial.body());
    let etag = trial.make(&from, &body).await?;
    let put = trial.bucket.copy(&from, &to, Some(&etag), None, When::Always, Cause::Probe).await?;
    if stored(put)?.is_none() {
        return Ok(Some("a copy whose source was named rightly is refused"));
    }
    let is_right = is(trial, &to, &[&body]).await?;
    Ok((!is_right).then_some("a copy has other bytes than its source"))
}

async fn copies_named(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (from, to) = (trial.fresh_key(), trial.fresh_key());
    let old = trial.make(&from, &trial.body()).await?;
    trial.replace(&from, old.clone(), &trial.body()).await?;
    let put = trial.bucket.copy(&from, &to, Some(&old), None, When::Always, Cause::Probe).await?;
    Ok(stored(put)?.map(|_| "a copy ignores which version of its source was named"))
}

/// Makes an upload of two parts, of which `first` makes the first. The upload is taken back when it fails.
async fn put_together(
    trial: &Trial<'_>,
    key: &str,
    first: impl AsyncFnOnce(&str) -> Result<Part>,
    last: &Bytes,
) -> Result<()> {
    let bucket = trial.bucket;
    let upload = bucket.multipart_create(key, &Attrs::default(), Cause::Probe).await?;
    let done = async {
        let first = first(&upload).await?;
        let last = bucket.multipart_put(key, &upload, 2, last.clone(), Cause::Probe).await?;
        let put = bucket.multipart_complete(key, &upload, &[first, last], When::Always, Cause::Probe).await?;
        stored(put).map(drop)
    };
    let done = done.await;
    if done.is_err() {
        // It may be completed, or gone: then there is nothing to take back.
        let _ = bucket.multipart_abort(key, &upload, Cause::Probe).await;
    }
    done
}

async fn parts(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (key, first, last) =
        (trial.fresh_key(), Bytes::from(vec![b'a'; PART]), Bytes::from(vec![b'b'; SMALL]));
    let sent =
        async |upload: &str| trial.bucket.multipart_put(&key, upload, 1, first.clone(), Cause::Probe).await;
    put_together(trial, &key, sent, &last).await?;
    let is_right = is(trial, &key, &[&first, &last]).await?;
    Ok((!is_right).then_some("an object of two parts has other bytes than these"))
}

async fn part_copies(trial: &Trial<'_>) -> Result<Option<&'static str>> {
    let (from, key) = (trial.fresh_key(), trial.fresh_key());
    let body = Bytes::from([vec![b'x'; SMALL], vec![b'c'; PART]].concat());
    let etag = trial.make(&from, &body).await?;
    let copied = async |upload: &str| {
        let (offset, len) = (SMALL as u64, PART as u64);
        trial.bucket.multipart_copy(&key, upload, 1, &from, Some(&etag), offset, len, Cause::Probe).await
    };
    let last = Bytes::from(vec![b'd'; SMALL]);
    put_together(trial, &key, copied, &last).await?;
    let is_right = is(trial, &key, &[&body[SMALL..], &last]).await?;
    Ok((!is_right).then_some("a part that was copied has other bytes than its source"))
}
