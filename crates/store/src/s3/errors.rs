//! What a failed request means: whether it may have been acted upon, and what the user can do.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::{Put, When, keyring};
use windlass_base::{Error, Kind, Result};

/// A request that failed.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Status of the answer; 0 without an answer.
    pub status: u16,
    pub code: String,
    /// False if the request certainly never left.
    pub sent: bool,
    /// The answer came but made no sense.
    pub garbled: bool,
    pub error: Error,
}

fn sources<'a>(e: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |e: &&'a (dyn StdError + 'static)| (*e).source())
}

/// Tells whether the connection was never made, so that nothing was sent.
fn never_connected(e: &(dyn StdError + 'static)) -> bool {
    sources(e).any(|e| {
        e.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|e| e.is_connect())
            || e.downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

/// Codes that say that the keys have ended, or were taken back: whoever handed them out may have others by now.
const OLD_KEYS: &[&str] = &["ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"];

/// Marks an error by its cause: the store says that the keys have ended.
#[derive(Debug)]
struct OldKeys;

impl std::fmt::Display for OldKeys {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl StdError for OldKeys {}

pub(super) fn is_of_old_keys(e: &Error) -> bool {
    e.source().is_some_and(|cause| cause.is::<OldKeys>())
}

fn kind_of(status: u16, code: &str) -> Kind {
    match code {
        code if OLD_KEYS.contains(&code) => return Kind::Denied,
        // It says nothing of an object or a name in it: nobody may take it for their absence.
        "NoSuchBucket" => return Kind::Unavailable,
        "NoSuchKey" | "NoSuchVersion" | "NoSuchUpload" => return Kind::NotFound,
        "RequestTimeout" => return Kind::Timeout,
        // From the answer it is learned what time it is there: the next request is signed by that.
        "RequestTimeTooSkewed" => return Kind::Unavailable,
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "ServiceUnavailable"
        | "Busy" => return Kind::Throttled,
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => return Kind::NoSpace,
        "NotImplemented" => return Kind::Unsupported,
        "InvalidObjectState" => return Kind::Archived,
        "PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" => return Kind::Usage,
        _ => {}
    }
    match status {
        401 | 403 => Kind::Denied,
        // Without one of S3's codes it may be any server's, a proxy's for instance.
        404 => Kind::Unavailable,
        405 | 501 if code.is_empty() => Kind::Unavailable,
        // Another conditional write to the key is under way; this one was not stored.
        409 | 429 | 503 => Kind::Throttled,
        412 => Kind::Refused,
        405 | 501 => Kind::Unsupported,
        507 => Kind::NoSpace,
        300..=399 => Kind::Usage,
        400..=499 if code.is_empty() => Kind::Unavailable,
        400..=499 => Kind::Invalid,
        _ => Kind::Unavailable,
    }
}

/// The longest part of a provider's own words that is repeated.
const REASON_MAX: usize = 100;

/// Explains why there are no keys: who looked for them, where, and what to set.
fn no_keys(e: &(dyn StdError + 'static), url: &str) -> String {
    // What our own sources of keys say names all of this.
    if let Some(own) = sources(e).find_map(|e| e.downcast_ref::<Error>()) {
        return own.to_string();
    }
    let mut why: String = innermost(e).lines().next().unwrap_or_default().chars().take(REASON_MAX).collect();
    if why.is_empty() {
        why = "nothing was found".into();
    }
    let place = url.split('?').next().unwrap_or(url);
    format!(
        "no credentials: {} looked in {} and found none ({why}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY there, \
         name profile= or passwd_file=, or use `windlass credentials set {place}`",
        keyring().looker(),
        where_looked()
    )
}

/// Names the places where the SDK's chain looks for keys.
pub(super) fn where_looked() -> String {
    let home = std::env::var("HOME").unwrap_or_else(|_| "~".into());
    format!("its environment, {home}/.aws and the cloud's metadata service")
}

/// Returns the region of the bucket, as an answer to a request of the wrong region tells it: in a header, or in its text.
fn region_in(answer: &HttpResponse) -> Option<String> {
    let header = answer.headers().get("x-amz-bucket-region").map(str::to_owned);
    let text = || {
        let text = std::str::from_utf8(answer.body().bytes()?).ok()?;
        Some(text.split_once("<Region>")?.1.split_once("</Region>")?.0.to_owned())
    };
    let is_region = |text: &String| {
        !text.is_empty() && text.len() < 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    header.or_else(text).filter(is_region)
}

fn advice(kind: Kind, code: &str) -> &'static str {
    match (kind, code) {
        (_, code) if OLD_KEYS.contains(&code) => {
            "; the credentials have ended: `windlass credentials set` takes new ones (a provider that renews them was asked anew)"
        }
        (_, "RequestTimeTooSkewed") => "; set this host's clock",
        (Kind::Denied, _) => "; check the credentials (profile=) and their rights",
        (_, "NoSuchBucket") => "; create the bucket or correct the URL",
        (Kind::Usage, _) => "; check region= and endpoint=",
        (Kind::Archived, _) => "; it is archived: restore it first",
        (Kind::Throttled, _) => "; the store asks for fewer requests",
        (Kind::Unavailable, _) => "; check the network and endpoint=",
        _ => "",
    }
}

impl Trouble {
    pub fn of<E>(url: &str, doing: &str, e: SdkError<E, HttpResponse>) -> Trouble
    where
        E: StdError + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let status = e.raw_response().map_or(0, |r| r.status().as_u16());
        let code = e.code().unwrap_or_default().to_owned();
        let text = format!("{}", DisplayErrorContext(&e));
        let garbled = matches!(e, SdkError::ResponseError(_)) || (200..300).contains(&status);
        let (kind, sent) = match &e {
            SdkError::ConstructionFailure(_) => (Kind::Invalid, false),
            SdkError::TimeoutError(_) => (Kind::Timeout, true),
            SdkError::DispatchFailure(d) if d.is_timeout() => (Kind::Timeout, !never_connected(&e)),
            SdkError::DispatchFailure(_) => (Kind::Unavailable, !never_connected(&e)),
            SdkError::ResponseError(_) => (Kind::Unavailable, true),
            _ => (kind_of(status, &code), true),
        };
        // The chain of credentials fails before anything is sent, in several shapes.
        let before_sending = match &e {
            SdkError::ConstructionFailure(_) => true,
            SdkError::DispatchFailure(d) => !d.is_io() && !d.is_timeout(),
            _ => false,
        };
        let keys = before_sending && text.contains("redentials");
        let (kind, sent) = if keys { (Kind::Denied, false) } else { (kind, sent) };
        let no_keys = keys.then(|| no_keys(&e, url));
        let what = match e.message() {
            _ if keys => no_keys.unwrap_or_default(),
            Some(message) if !message.is_empty() => format!("{message} ({code})"),
            _ if status == 404 && !code.starts_with("NoSuch") => NOT_S3.to_owned(),
            _ if !code.is_empty() => code.clone(),
            _ if status != 0 && !garbled => format!("the store answered with status {status}"),
            _ => innermost(&e),
        };
        let its_region = e.raw_response().filter(|_| kind == Kind::Usage).and_then(region_in);
        let advice = match its_region {
            Some(region) => format!("; the bucket is in another region: set region={region}"),
            None if keys => String::new(),
            None => advice(kind, &code).to_owned(),
        };
        let error = Error::new(kind, format!("{url}: {doing}: {what}{advice}"));
        let error = if OLD_KEYS.contains(&code.as_str()) { error.because(OldKeys) } else { error };
        Trouble { status, code, sent, garbled, error }
    }

    /// Makes the trouble of an answer that is none of S3's to what was asked.
    pub fn foreign(url: &str, doing: &str, why: &str) -> Trouble {
        let advice = advice(Kind::Unavailable, "");
        let error = Error::new(Kind::Unavailable, format!("{url}: {doing}: {why}{advice}"));
        Trouble { status: 200, code: String::new(), sent: true, garbled: false, error }
    }

    /// Makes the trouble of one key of a batch whose deletion failed.
    pub fn of_one(url: &str, e: &aws_sdk_s3::types::Error) -> Trouble {
        let code = e.code().unwrap_or_default().to_owned();
        let status = match code.as_str() {
            "AccessDenied" => 403,
            "SlowDown" | "ServiceUnavailable" => 503,
            _ => 500,
        };
        let kind = kind_of(status, &code);
        let (key, message) = (e.key().unwrap_or_default(), e.message().unwrap_or(&code));
        let error = Error::new(kind, format!("{url}: deleting {key:?}: {message}{}", advice(kind, &code)));
        Trouble { status, code, sent: true, garbled: false, error }
    }

    /// Tells whether the store says that there is no such object, in S3's words: a 404 alone is any server's.
    pub fn is_absent(&self) -> bool {
        self.status == 404 && matches!(self.code.as_str(), "NoSuchKey" | "NoSuchVersion")
    }

    /// Tells whether the store says that an object has no such version: it is named wrongly, or marks that the object was
    /// deleted.
    pub fn is_no_version(&self) -> bool {
        self.is_absent()
            || self.status == 405 && self.code == "MethodNotAllowed"
            || self.status == 400 && matches!(self.code.as_str(), "InvalidArgument" | "NoSuchVersion")
    }

    /// Tells whether an answer to HEAD, which has no body that could say more, may mean that there is no such object or version.
    pub fn may_be_absent(&self, version: Option<&str>) -> bool {
        self.status == 404 || version.is_some() && matches!(self.status, 400 | 405)
    }

    /// Tells whether there is no such upload (any more).
    pub fn is_no_upload(&self) -> bool {
        self.status == 404 && self.code == "NoSuchUpload"
    }

    /// Tells whether the answer has a body of S3's that says what it means.
    fn is_told(&self) -> bool {
        !matches!(self.code.as_str(), "" | "NotFound")
    }

    /// Tells whether the request itself certainly had no effect.
    fn is_definite(&self) -> bool {
        !self.sent || (300..500).contains(&self.status)
    }

    /// Returns the outcome of a put that answered like this (docs/protocol.md §2.6).
    pub fn put(self, when: &When) -> Result<Put> {
        match self.status {
            412 if self.is_told() => Ok(Put::Refused),
            404 if matches!(when, When::Matches(_)) && self.is_absent() => Ok(Put::Refused),
            // Not S3's words: whoever said so knows nothing of what became of the put.
            404 | 412 if !self.is_told() => Ok(Put::Unknown(self.error)),
            _ if self.is_definite() => Err(self.error),
            _ => Ok(Put::Unknown(self.error)),
        }
    }

    /// Tells whether the server may not take checksums in headers: it says that it does not know something of the request, or
    /// only that the request is bad. That the body is not what its checksum says is told by other codes.
    pub fn dislikes_checksums(&self) -> bool {
        const CODES: &[&str] = &[
            "",
            "BadRequest",
            "InvalidArgument",
            "InvalidRequest",
            "NotImplemented",
            "XAmzContentSHA256Mismatch",
        ];
        matches!(self.status, 400 | 501) && CODES.contains(&self.code.as_str())
    }

    /// Tells whether the server knows no such request.
    pub fn is_not_known(&self) -> bool {
        matches!(self.code.as_str(), "NotImplemented" | "MethodNotAllowed")
            || matches!(self.status, 405 | 501) && !self.code.is_empty()
    }

    /// Tells whether this is an answer to HEAD that has no body which could say why.
    pub fn is_mute(&self) -> bool {
        matches!(self.status, 400 | 401 | 403) && !self.is_told()
    }
}

/// An answer of no S3 server, or of none that has this bucket.
const NOT_S3: &str = "what answers there (status 404) is no S3 server, or hides it";

fn innermost(e: &(dyn StdError + 'static)) -> String {
    sources(e).last().map_or_else(String::new, ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Etag;

    fn trouble(status: u16, code: &str, sent: bool) -> Trouble {
        let kind = kind_of(status, code);
        let error = Error::new(kind, "x");
        Trouble { status, code: code.into(), sent, garbled: false, error }
    }

    #[test]
    fn a_put_is_unknown_unless_the_answer_is_sure() {
        let matches = When::Matches(Etag("e".into()));
        for (status, code, when, sent) in
            [(412, "PreconditionFailed", &When::Absent, true), (404, "NoSuchKey", &matches, true)]
        {
            assert!(matches!(trouble(status, code, sent).put(when), Ok(Put::Refused)), "{status}");
        }
        for (status, code, kind) in [
            (409, "ConditionalRequestConflict", Kind::Throttled),
            (404, "NoSuchBucket", Kind::Unavailable),
            (404, "NoSuchUpload", Kind::NotFound),
            (403, "AccessDenied", Kind::Denied),
            (400, "KeyTooLongError", Kind::Invalid),
            (429, "", Kind::Throttled),
            (301, "PermanentRedirect", Kind::Usage),
            (403, "InvalidObjectState", Kind::Archived),
        ] {
            assert_eq!(trouble(status, code, true).put(&matches).unwrap_err().kind(), kind, "{status}");
        }
        assert!(trouble(404, "NoSuchKey", true).put(&When::Absent).is_err());
        for (status, code) in [(404, ""), (404, "NotFound"), (412, "")] {
            for when in [&When::Absent, &matches] {
                let out = trouble(status, code, true).put(when);
                assert!(matches!(out, Ok(Put::Unknown(_))), "{status} without S3's words: {out:?}");
            }
        }
        for status in [500, 501, 502, 503, 504, 200, 0] {
            assert!(matches!(trouble(status, "", true).put(&When::Absent), Ok(Put::Unknown(_))), "{status}");
        }
        assert!(trouble(0, "", false).put(&When::Absent).is_err());
    }
}
