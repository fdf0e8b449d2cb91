//! What a bucket's owner has set for it, and what time it is there.

use std::sync::Arc;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::{DefaultRetention, ExpirationStatus, LifecycleRule as Rule, Transition};
use parking_lot::Mutex;

use super::S3Store;
use super::errors::Trouble;
use crate::{Asked, BucketRules, LifecycleRule};

/// Keeps the time that an answer carries, in milliseconds since 1970.
#[derive(Clone, Debug, Default)]
struct AnswerTime(Arc<Mutex<Option<i64>>>);

impl Intercept for AnswerTime {
    fn name(&self) -> &'static str {
        "AnswerTime"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> std::result::Result<(), BoxError> {
        *self.0.lock() = date_of(context.response());
        Ok(())
    }
}

fn date_of(answer: &HttpResponse) -> Option<i64> {
    // One with an age comes from a cache.
    let headers = answer.headers();
    let text = headers.get("date").filter(|_| headers.get("age").is_none())?;
    DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?.to_millis().ok()
}

/// Returns what a refusal of a question about the bucket means. `none`: S3's code for "nothing of the kind is set".
fn unless_none<T, E>(url: &str, none: &str, nothing: T, e: SdkError<E, HttpResponse>) -> Asked<T>
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let trouble = Trouble::of(url, "asking what is set for the bucket", e);
    match (trouble.status, trouble.code.as_str()) {
        (_, code) if code == none => Ok(nothing),
        (401 | 403, _) => Err("denied"),
        (0, _) => Err("silent"),
        _ => Err("unsupported"),
    }
}

impl S3Store {
    pub(super) async fn rules_now(&self) -> BucketRules {
        let all = futures::future::join5(
            self.ahead_now(),
            self.versioning_now(),
            self.lifecycle_now(),
            self.public_now(),
            self.retention_now(),
        );
        let (ahead_ms, versioning, lifecycle, public, retention) = all.await;
        BucketRules { ahead_ms, versioning, lifecycle, public, retention }
    }

    /// Asks by how many milliseconds the server's clock is ahead. Any answer tells the time, also one that denies.
    pub(super) async fn ahead_now(&self) -> Asked<i64> {
        let now = || i64::try_from(self.trust.rt().wall_ms()).unwrap_or(i64::MAX);
        let (told, before) = (AnswerTime::default(), now());
        let ask = self.client().head_bucket().bucket(&self.place.bucket);
        // What the answer says else is told by whoever uses the bucket.
        drop(ask.customize().interceptor(told.clone()).send().await);
        let (after, theirs) = (now(), told.0.lock().take());
        // A second that has begun is told as its beginning.
        let middle = |theirs: i64| theirs + 500 - before.midpoint(after);
        theirs.map(middle).ok_or("silent")
    }

    async fn versioning_now(&self) -> Asked<Option<String>> {
        match self.client().get_bucket_versioning().bucket(&self.place.bucket).send().await {
            Ok(out) => Ok(out.status().map(|status| status.as_str().to_owned())),
            Err(e) => unless_none(&self.url, "-", None, e),
        }
    }

    async fn lifecycle_now(&self) -> Asked<Vec<LifecycleRule>> {
        match self.client().get_bucket_lifecycle_configuration().bucket(&self.place.bucket).send().await {
            Ok(out) => {
                let all = out.rules().iter().filter_map(rule);
                Ok(all.filter(|rule| rule.touches(&self.base)).collect())
            }
            Err(e) => unless_none(&self.url, "NoSuchLifecycleConfiguration", Vec::new(), e),
        }
    }

    async fn public_now(&self) -> Asked<bool> {
        match self.client().get_bucket_policy_status().bucket(&self.place.bucket).send().await {
            Ok(out) => Ok(out.policy_status().and_then(|status| status.is_public()) == Some(true)),
            Err(e) => unless_none(&self.url, "NoSuchBucketPolicy", false, e),
        }
    }

    async fn retention_now(&self) -> Asked<Option<String>> {
        match self.client().get_object_lock_configuration().bucket(&self.place.bucket).send().await {
            Ok(out) => {
                let rule = out.object_lock_configuration().and_then(|lock| lock.rule());
                Ok(rule.and_then(|rule| rule.default_retention()).and_then(retention))
            }
            Err(e) => unless_none(&self.url, "ObjectLockConfigurationNotFoundError", None, e),
        }
    }
}

fn retention(of: &DefaultRetention) -> Option<String> {
    match (of.days(), of.years()) {
        (Some(days), _) if days > 0 => Some(format!("{days} days")),
        (_, Some(years)) if years > 0 => Some(format!("{years} years")),
        _ => None,
    }
}

/// Reads what a rule does to objects; `None`: nothing, or nothing to ours, which carry no tags.
#[allow(deprecated)] // the prefix outside of a filter: old rules have it
fn rule(of: &Rule) -> Option<LifecycleRule> {
    let filter = of.filter();
    let both = filter.and_then(|filter| filter.and());
    let tagged = filter.is_some_and(|filter| filter.tag().is_some())
        || both.is_some_and(|both| !both.tags().is_empty());
    if *of.status() != ExpirationStatus::Enabled || tagged {
        return None;
    }
    let prefix = both
        .and_then(|both| both.prefix())
        .or(filter.and_then(|filter| filter.prefix()))
        .or(of.prefix())
        .unwrap_or_default();
    let when = |days: Option<i32>, date: Option<&DateTime>| match (days, date) {
        (Some(days), _) => Some(format!("after {days} days")),
        (_, Some(date)) => date.fmt(DateTimeFormat::DateTime).ok().map(|date| format!("on {date}")),
        _ => None,
    };
    let deletes = of.expiration().and_then(|end| when(end.days(), end.date()));
    let moved = |to: &Transition| {
        let class = to.storage_class().map_or("another class", |class| class.as_str());
        (class.to_owned(), when(to.days(), to.date()).unwrap_or_else(|| "at once".to_owned()))
    };
    let moves: Vec<_> = of.transitions().iter().map(moved).collect();
    let id = of.id().unwrap_or_default().to_owned();
    (deletes.is_some() || !moves.is_empty()).then(|| LifecycleRule {
        id,
        prefix: prefix.to_owned(),
        deletes,
        moves,
    })
}
