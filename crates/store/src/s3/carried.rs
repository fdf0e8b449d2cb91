//! What describes an object beside its bytes, on its way out of an answer and into the request that replaces the object.
//!
//! Replacing an object drops whatever the request does not say: so each such request says all that the object had. Of
//! headers the value goes back as it came, also where it is no date, no ASCII or no UTF-8. Tags stand in no header of
//! the answers: they are asked for just before, unless the server is known to tell how many there are and told none.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;

use aws_sdk_s3::types::StorageClass;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::S3Store;
use super::errors::Trouble;
use crate::{Attrs, Carried, Head};
use windlass_base::{Error, Kind, Result};

/// Headers of a request beside those that the SDK writes. They are signed with them.
pub(super) type Extra = Vec<(String, String)>;

/// User metadata as the SDK takes it.
pub(super) type User = Option<HashMap<String, String>>;

/// The description that a request gives to the object which it makes.
#[derive(Clone, Debug, Default)]
pub(super) struct Description {
    pub content_type: Option<String>,
    pub user: User,
    pub extra: Extra,
    pub class: Option<StorageClass>,
    pub tags: Option<String>,
}

impl Description {
    pub fn of(attrs: &Attrs, carried: &Carried) -> Result<Description> {
        let (user, mut extra) = user_out(attrs)?;
        extra.extend(carried.headers.clone());
        let class = carried.storage_class.as_deref().and_then(class_of);
        Ok(Description { content_type: attrs.content_type.clone(), user, extra, class, tags: None })
    }
}

/// Returns user metadata for the SDK, and as headers what the SDK does not take: text that is no ASCII.
fn user_out(attrs: &Attrs) -> Result<(User, Extra)> {
    let (mut user, mut extra) = (HashMap::new(), Extra::new());
    for (name, value) in &attrs.user {
        let is_name = !name.is_empty() && name.bytes().all(|b| (0x21..0x7f).contains(&b));
        if !is_name || value.bytes().any(|b| b.is_ascii_control()) || value.trim() != value {
            return Err(Error::new(
                Kind::Invalid,
                format!("the attribute {name:?} can't be kept by an S3 store: only printable text can"),
            ));
        }
        if value.is_ascii() {
            user.insert(name.clone(), value.clone());
        } else {
            extra.push((format!("x-amz-meta-{name}"), value.clone()));
        }
    }
    Ok(((!user.is_empty()).then_some(user), extra))
}

/// Returns the class of what takes an object's place. One of an archive is not kept: what was restored would be unreadable
/// again.
pub(super) fn class_of(class: &str) -> Option<StorageClass> {
    (!matches!(class, "GLACIER" | "DEEP_ARCHIVE")).then(|| class.into())
}

/// Returns the encoding of an object's bytes. `aws-chunked` is left out: it is of an upload's transport, and some servers keep
/// it by mistake.
fn encoding(told: &str) -> Option<String> {
    let kept: Vec<&str> =
        told.split(',').map(str::trim).filter(|e| *e != "aws-chunked" && !e.is_empty()).collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// Returns the headers of an answer that whatever replaces the object has to carry.
pub(super) fn headers<'a>(
    all: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> BTreeMap<String, String> {
    let kept = |(name, value): (&str, Option<&str>)| {
        let value = if name == "content-encoding" { encoding(value?)? } else { value?.to_owned() };
        Some((name.to_owned(), value))
    };
    all.into_iter().filter_map(kept).collect()
}

/// `Carried` of an answer to HEAD or GET.
macro_rules! carried_in {
    ($store:expr, $out:expr) => {
        crate::Carried {
            headers: crate::s3::carried::headers([
                ("cache-control", $out.cache_control()),
                ("content-disposition", $out.content_disposition()),
                ("content-encoding", $out.content_encoding()),
                ("content-language", $out.content_language()),
                ("expires", $out.expires_string()),
            ]),
            storage_class: $out.storage_class().map(|class| class.as_str().to_owned()),
            may_have_tags: $store.may_have_tags($out.tag_count()),
        }
    };
}
pub(super) use carried_in;

impl S3Store {
    /// Tells whether an object whose answer tells so many tags may have some; notes whether this server tells them.
    pub(super) fn may_have_tags(&self, told: Option<i32>) -> bool {
        let tags = &self.tags;
        match told {
            Some(count) => {
                tags.told.store(true, Ordering::Relaxed);
                count != 0
            }
            None => !tags.told.load(Ordering::Relaxed) && !tags.none_here.load(Ordering::Relaxed),
        }
    }

    /// Returns the description with which a request puts `key` anew.
    pub(super) async fn describe(&self, key: &str, attrs: &Attrs) -> Result<Description> {
        let mut description = Description::of(attrs, &attrs.carried)?;
        if attrs.carried.may_have_tags {
            description.tags = self.tags_of(key).await?;
        }
        Ok(description)
    }

    /// Returns the description of a copy of an object: the object's own, as far as `attrs` does not say otherwise.
    pub(super) async fn describe_like(
        &self,
        key: &str,
        head: &Head,
        attrs: Option<&Attrs>,
    ) -> Result<Description> {
        let mut description = Description::of(attrs.unwrap_or(&head.attrs), &head.attrs.carried)?;
        if head.attrs.carried.may_have_tags {
            description.tags = self.tags_of(key).await?;
        }
        Ok(description)
    }

    /// Returns an object's tags as a header has them; none where it has none.
    async fn tags_of(&self, key: &str) -> Result<Option<String>> {
        if self.tags.none_here.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let ask = self.client().get_object_tagging().bucket(&self.place.bucket).key(self.full(key));
        let doing = format!("asking for the tags of {key:?}");
        let trouble = match ask.send().await {
            Ok(out) => {
                let coded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                let tags =
                    out.tag_set().iter().map(|tag| format!("{}={}", coded(tag.key()), coded(tag.value())));
                let tags: Vec<String> = tags.collect();
                return Ok((!tags.is_empty()).then(|| tags.join("&")));
            }
            Err(e) => Trouble::of(&self.url, &doing, e),
        };
        match trouble {
            // It was removed meanwhile: the write's own condition tells.
            t if t.is_absent() => Ok(None),
            // Its right is another than that to read objects.
            t if t.error.is(Kind::Denied) => {
                if !self.tags.none_here.swap(true, Ordering::Relaxed) {
                    tracing::warn!(why = %t.error, "tags can't be read: an object that is changed loses those that it has");
                }
                Ok(None)
            }
            // A server without tags says so, or answers something else.
            t if t.garbled && t.status == 200 || matches!(t.status, 400 | 404 | 405 | 501) => {
                self.tags.none_here.store(true, Ordering::Relaxed);
                Ok(None)
            }
            t => Err(t.error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_the_transport_is_not_carried() {
        let all =
            [("content-encoding", Some("aws-chunked")), ("expires", Some("0")), ("cache-control", None)];
        let kept: Vec<_> = headers(all).into_iter().collect();
        assert_eq!(kept, [("expires".to_owned(), "0".to_owned())]);
        let both = headers([("content-encoding", Some("gzip, aws-chunked"))]);
        assert_eq!(both["content-encoding"], "gzip");
        assert!(class_of("GLACIER").is_none() && class_of("STANDARD_IA").is_some());
    }
}
