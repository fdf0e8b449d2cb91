//! What a failed request means: whether it may have been acted upon, and what the user can do.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};

use crate::base::{Error, Kind, Result};
use crate::store::{Put, When};

/// A request that failed.
#[derive(Debug)]
pub(super) struct Trouble {
    /// 0 without an answer.
    pub status: u16,
    pub code: String,
    /// False: it certainly never left.
    pub sent: bool,
    /// The answer came but made no sense.
    pub garbled: bool,
    pub error: Error,
}

fn sources<'a>(e: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |e: &&'a (dyn StdError + 'static)| (*e).source())
}

/// The connection was never made, so nothing was sent.
fn never_connected(e: &(dyn StdError + 'static)) -> bool {
    sources(e).any(|e| {
        e.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|e| e.is_connect())
            || e.downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    })
}

fn kind_of(status: u16, code: &str) -> Kind {
    match code {
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
        // Another conditional write to the key is under way; this one was not stored.
        409 | 429 | 503 => Kind::Throttled,
        412 => Kind::Refused,
        501 => Kind::Unsupported,
        507 => Kind::NoSpace,
        300..=399 => Kind::Usage,
        400..=499 => Kind::Invalid,
        _ => Kind::Unavailable,
    }
}

fn advice(kind: Kind, code: &str) -> &'static str {
    match (kind, code) {
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
        let what = match e.message() {
            Some(message) if !message.is_empty() => format!("{message} ({code})"),
            _ if status == 404 && !code.starts_with("NoSuch") => NOT_S3.to_owned(),
            _ if !code.is_empty() => code.clone(),
            _ if status != 0 && !garbled => format!("the store answered with status {status}"),
            _ => innermost(&e),
        };
        let error = Error::new(kind, format!("{url}: {doing}: {what}{}", advice(kind, &code)));
        Trouble { status, code, sent, garbled, error }
    }

    /// An answer that is none of S3's to what was asked.
    pub fn foreign(url: &str, doing: &str, why: &str) -> Trouble {
        let advice = advice(Kind::Unavailable, "");
        let error = Error::new(Kind::Unavailable, format!("{url}: {doing}: {why}{advice}"));
        Trouble { status: 200, code: String::new(), sent: true, garbled: false, error }
    }

    /// The failure of one key of a batch.
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

    /// The store says that there is no such object, in S3's words: a 404 alone is any server's.
    pub fn is_absent(&self) -> bool {
        self.status == 404 && matches!(self.code.as_str(), "NoSuchKey" | "NoSuchVersion")
    }

    /// The same of one of its versions: that is named wrongly, or marks that the object was deleted.
    pub fn is_no_version(&self) -> bool {
        self.is_absent()
            || self.status == 405 && self.code == "MethodNotAllowed"
            || self.status == 400 && matches!(self.code.as_str(), "InvalidArgument" | "NoSuchVersion")
    }

    /// An answer to HEAD, which has no body that could say more, may mean that there is no such object or version.
    pub fn may_be_absent(&self, version: Option<&str>) -> bool {
        self.status == 404 || version.is_some() && matches!(self.status, 400 | 405)
    }

    /// There is no such upload (any more).
    pub fn is_no_upload(&self) -> bool {
        self.status == 404 && self.code == "NoSuchUpload"
    }

    /// The answer has a body of S3's that says what it means.
    fn is_told(&self) -> bool {
        !matches!(self.code.as_str(), "" | "NotFound")
    }

    /// The request itself certainly had no effect.
    fn is_definite(&self) -> bool {
        !self.sent || (300..500).contains(&self.status)
    }

    /// What became of a put that answered like this (docs/architecture.md, conditional puts).
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

    /// A server that doesn't take checksums in headers.
    pub fn dislikes_checksums(&self) -> bool {
        let codes = ["XAmzContentSHA256Mismatch", "InvalidArgument", "InvalidRequest", "NotImplemented"];
        self.status == 400 && codes.contains(&self.code.as_str())
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
    use crate::store::Etag;

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
