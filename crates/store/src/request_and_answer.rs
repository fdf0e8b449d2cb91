//! A request to a bucket and its answer as values: what stands around a bucket (retries, counters, faults) is written
//! once for all verbs. `Store` and `Bucket` say what each verb promises.

use std::sync::Arc;

use super::{
    Attrs, ByteRange, Cause, Etag, Found, Head, List, Page, Part, Put, Restore, Store, VersionList,
    VersionPage, When,
};
use windlass_base::{Error, Kind, Result};

/// A request to a bucket. `version` names one of an object's versions, `None` the object itself.
#[derive(Clone, Debug)]
pub enum BucketRequest {
    Get {
        key: String,
        version: Option<String>,
        range: ByteRange,
    },
    Head {
        key: String,
        version: Option<String>,
        checksums: bool,
    },
    /// A put. Without `attrs` the object is a pool's.
    Put {
        key: String,
        body: bytes::Bytes,
        attrs: Option<Attrs>,
        when: When,
    },
    Delete {
        keys: Vec<String>,
    },
    DeleteSame {
        objects: Vec<(String, Etag)>,
    },
    List(List),
    Copy {
        from: String,
        to: String,
        from_match: Option<Etag>,
        attrs: Option<Attrs>,
        when: When,
    },
    MultipartCreate {
        key: String,
        attrs: Attrs,
    },
    MultipartPut {
        key: String,
        upload: String,
        number: u32,
        body: bytes::Bytes,
    },
    MultipartCopy {
        key: String,
        upload: String,
        number: u32,
        from: String,
        from_match: Option<Etag>,
        offset: u64,
        len: u64,
    },
    MultipartComplete {
        key: String,
        upload: String,
        parts: Vec<Part>,
        when: When,
    },
    MultipartAbort {
        key: String,
        upload: String,
    },
    MultipartList {
        prefix: String,
    },
    Versioned,
    ListVersions(VersionList),
    Restore {
        key: String,
        version: Option<String>,
        how: Restore,
    },
}

/// The variants, each with the type that typed verbs give for it.
macro_rules! responses {
    ($($variant:ident($of:ty),)*) => {
        /// The answer of a bucket: its variant belongs to the request's verb.
        #[derive(Debug)]
        pub enum BucketAnswer {
            $($variant($of),)*
        }
        $(
            impl From<$of> for BucketAnswer {
                fn from(of: $of) -> BucketAnswer {
                    BucketAnswer::$variant(of)
                }
            }
            impl From<BucketAnswer> for $of {
                fn from(answer: BucketAnswer) -> $of {
                    match answer {
                        BucketAnswer::$variant(of) => of,
                        other => unreachable!("a bucket answers what it was asked, not {other:?}"),
                    }
                }
            }
        )*
    };
}

responses! {
    Done(()),
    Is(bool),
    Upload(String),
    Found(Option<Found>),
    Head(Option<Head>),
    Put(Put),
    Page(Page),
    Part(Part),
    Uploads(Vec<(String, String)>),
    Versions(VersionPage),
}

impl BucketRequest {
    /// Returns the outcome of an attempt that nobody answered, or whose answer says nothing. Of a put it is unknown.
    pub fn unanswered(&self, e: Error) -> Result<BucketAnswer> {
        match self {
            BucketRequest::Put { .. }
            | BucketRequest::Copy { .. }
            | BucketRequest::MultipartComplete { .. } => Ok(Put::Unknown(e).into()),
            _ => Err(e),
        }
    }

    /// Returns the same put without its condition. None: the request is no put, or has no condition.
    pub(super) fn without_condition(&self) -> Option<BucketRequest> {
        match self {
            BucketRequest::Put { when: When::Always, .. } => None,
            BucketRequest::Put { key, body, attrs, .. } => Some(BucketRequest::Put {
                key: key.clone(),
                body: body.clone(),
                attrs: attrs.clone(),
                when: When::Always,
            }),
            _ => None,
        }
    }

    /// Returns the key of the object that the request is about, of the first of several, or the beginning of their keys.
    pub(super) fn key(&self) -> &str {
        match self {
            BucketRequest::Get { key, .. }
            | BucketRequest::Head { key, .. }
            | BucketRequest::Put { key, .. }
            | BucketRequest::MultipartCreate { key, .. }
            | BucketRequest::MultipartPut { key, .. }
            | BucketRequest::MultipartCopy { key, .. }
            | BucketRequest::MultipartComplete { key, .. }
            | BucketRequest::MultipartAbort { key, .. }
            | BucketRequest::Restore { key, .. } => key,
            BucketRequest::Copy { to, .. } => to,
            BucketRequest::Delete { keys } => keys.first().map_or("", String::as_str),
            BucketRequest::DeleteSame { objects } => objects.first().map_or("", |(key, _)| key),
            BucketRequest::List(List { prefix, .. })
            | BucketRequest::ListVersions(VersionList { prefix, .. })
            | BucketRequest::MultipartList { prefix } => prefix,
            BucketRequest::Versioned => "",
        }
    }

    /// Returns the answer of a place that keeps no versions and archives nothing; `None` when the request is about neither.
    pub(super) fn without_versions(&self, url: &str) -> Option<Result<BucketAnswer>> {
        let unsupported = |why| Some(Err(Error::new(Kind::Unsupported, why)));
        match self {
            BucketRequest::Versioned => Some(Ok(false.into())),
            BucketRequest::ListVersions(_)
            | BucketRequest::Get { version: Some(_), .. }
            | BucketRequest::Head { version: Some(_), .. } => Some(Err(no_versions(url))),
            BucketRequest::Restore { key, .. } => {
                unsupported(format!("{url} archives nothing, so {key:?} needs no restoring"))
            }
            _ => None,
        }
    }
}

/// Asks and unwraps the answer, for the typed verbs.
pub(super) async fn ask<T: From<BucketAnswer>>(
    of: &(impl Store + ?Sized),
    request: BucketRequest,
    cause: Cause,
) -> Result<T> {
    of.call(&Arc::new(request), cause).await.map(T::from)
}

pub(super) fn no_versions(url: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{url} keeps no versions of its objects"))
}
