//! A memory store in which single requests are held, answered late, cut, refused or never done, by verb and key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use windlass_base::rt::Rt;
use windlass_base::{Error, Kind, Result};
use windlass_store::{Bucket, BucketAnswer, BucketRequest, Cause, MemStore, Store};

/// Fate of a request that a rule is about. Times are milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    /// Done after this time, and answered.
    Hold(u64),
    /// Done at once, and answered after this time.
    Late(u64),
    /// Done, and not answered.
    Lose,
    /// Done, and not answered; what was done shows after this time.
    LoseAfter(u64),
    /// Cut at once, and done after this time.
    CutAndCome(u64),
    /// Never done, never answered.
    Hang,
    /// Refused.
    Deny,
    /// Not done: the store asks for fewer requests.
    SlowDown,
    /// Done twice, as by a proxy that repeats it; the second answer comes.
    Twice,
}

#[derive(Debug)]
struct Rule {
    verb: &'static str,
    key: String,
    act: Act,
    times: usize,
}

#[derive(Debug)]
pub struct Ruled {
    contents: Arc<MemStore>,
    rt: Rt,
    rules: Mutex<Vec<Rule>>,
    reached: Mutex<usize>,
    /// All is stored in one second, as far as anybody is told.
    one_second: AtomicBool,
}

/// The verb, and the keys that it changes or looks at.
fn about(request: &BucketRequest) -> (&'static str, Vec<&str>) {
    match request {
        BucketRequest::Put { key, .. } => ("put", vec![key]),
        BucketRequest::Copy { to, .. } => ("copy", vec![to]),
        BucketRequest::MultipartCreate { key, .. } => ("begin", vec![key]),
        BucketRequest::MultipartPut { key, .. } => ("part", vec![key]),
        BucketRequest::MultipartComplete { key, .. } => ("complete", vec![key]),
        BucketRequest::Head { key, .. } => ("head", vec![key]),
        BucketRequest::Delete { keys } => ("delete", keys.iter().map(String::as_str).collect()),
        BucketRequest::DeleteSame { objects } => {
            ("delete", objects.iter().map(|(key, _)| key.as_str()).collect())
        }
        _ => ("", Vec::new()),
    }
}

impl Ruled {
    pub fn new(rt: &Rt) -> Arc<Ruled> {
        let (rules, reached, one_second) = Default::default();
        Arc::new(Ruled { contents: MemStore::new("ruled"), rt: rt.clone(), rules, reached, one_second })
    }

    pub fn contents(&self) -> &Arc<MemStore> {
        &self.contents
    }

    /// The next requests of this verb about a key that begins so.
    pub fn rule(&self, verb: &'static str, key: &str, act: Act, times: usize) {
        self.rules.lock().push(Rule { verb, key: key.into(), act, times });
    }

    pub fn clear(&self) {
        self.rules.lock().clear();
    }

    pub fn in_one_second(&self) {
        self.one_second.store(true, Ordering::Relaxed);
    }

    fn told(&self, mut answer: BucketAnswer) -> BucketAnswer {
        let told = |at: &mut Option<u64>| *at = at.map(|_| 1000);
        if self.one_second.load(Ordering::Relaxed) {
            match &mut answer {
                BucketAnswer::Head(Some(head)) => told(&mut head.modified_ms),
                BucketAnswer::Found(Some(found)) => told(&mut found.head.modified_ms),
                BucketAnswer::Page(page) => page.objects.iter_mut().for_each(|o| told(&mut o.modified_ms)),
                _ => {}
            }
        }
        answer
    }

    /// Returns when so many requests have met a rule.
    pub async fn reached(&self, times: usize) {
        while *self.reached.lock() < times {
            self.rt.sleep(Duration::from_millis(1)).await;
        }
    }

    fn act_for(&self, request: &BucketRequest) -> Option<Act> {
        let (verb, keys) = about(request);
        let mut rules = self.rules.lock();
        let its = |rule: &&mut Rule| {
            rule.times > 0 && rule.verb == verb && keys.iter().any(|key| key.starts_with(&rule.key))
        };
        let rule = rules.iter_mut().find(its)?;
        rule.times -= 1;
        *self.reached.lock() += 1;
        Some(rule.act)
    }
}

impl Store for Ruled {
    fn url(&self) -> &str {
        self.contents.url()
    }
    fn call<'a>(
        &'a self,
        request: &'a Arc<BucketRequest>,
        cause: Cause,
    ) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move {
            let act = self.act_for(request);
            let pause = |ms| self.rt.sleep(Duration::from_millis(ms));
            let cut = || request.unanswered(Error::new(Kind::Unavailable, "the connection was cut"));
            pause(2).await;
            if let Some(Act::Hold(ms)) = act {
                pause(ms).await;
            }
            match act {
                Some(Act::Deny) => return Err(Error::new(Kind::Denied, "access denied")),
                Some(Act::SlowDown) => {
                    return request.unanswered(Error::new(Kind::Throttled, "SlowDown"));
                }
                Some(Act::CutAndCome(ms)) => {
                    let (contents, request, rt) = (self.contents.clone(), request.clone(), self.rt.clone());
                    let work = async move {
                        rt.sleep(Duration::from_millis(ms)).await;
                        let _ = contents.call(&request, cause).await;
                    };
                    self.rt.spawn(work).detach();
                    return cut();
                }
                Some(Act::Hang) => {
                    pause(1000 * 3600).await;
                    return cut();
                }
                _ => {}
            }
            if act == Some(Act::Twice) {
                let _ = self.contents.call(request, cause).await;
            }
            let done = self.contents.call(request, cause).await.map(|answer| self.told(answer));
            match act {
                Some(Act::Lose) => return cut(),
                Some(Act::LoseAfter(ms)) => {
                    pause(ms).await;
                    return cut();
                }
                Some(Act::Late(ms)) => pause(ms).await,
                _ => {}
            }
            pause(2).await;
            done
        }
        .boxed()
    }
}

impl Bucket for Ruled {}
