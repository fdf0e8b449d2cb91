//! What every kind of bucket must do, whatever it stands on. Each check uses its own keys below `prefix`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use windlass_base::rt::Rt;
use windlass_base::{Kind, Result};
use windlass_store::{Attrs, BucketRef, ByteRange, Cause, Etag, Found, List, Page, Part, Put, When};

const WHY: Cause = Cause::Probe;
const WHOLE: ByteRange = ByteRange::Whole { max: 1 << 30 };
const MIB: usize = 1 << 20;

pub struct Suite {
    pub rt: Rt,
    pub bucket: BucketRef,
    pub prefix: String,
    /// False for a server that keeps its objects as files: no odd keys, pages in the order of a tree.
    pub exact: bool,
}

pub fn stored(out: Result<Put>) -> Etag {
    match out.unwrap() {
        Put::Stored(etag) => etag,
        other => panic!("not stored: {other:?}"),
    }
}

pub fn refused(out: Result<Put>) -> bool {
    matches!(out.unwrap(), Put::Refused)
}

fn noise(len: usize, seed: u64) -> Bytes {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Returns what is put of an object and must come back. Whether it may have tags is each server's to say.
fn described(attrs: Attrs) -> (Option<String>, BTreeMap<String, String>, BTreeMap<String, String>) {
    (attrs.content_type, attrs.user, attrs.carried.headers)
}

fn attrs() -> Attrs {
    let user =
        BTreeMap::from([("mode".to_owned(), "33188".to_owned()), ("x-odd.name_".into(), "a b%c".into())]);
    Attrs { content_type: Some("text/x-odd".into()), user, ..Attrs::default() }
}

impl Suite {
    pub async fn run(&self) {
        if self.exact {
            self.odd_keys().await;
        }
        self.objects().await;
        self.ranges().await;
        self.conditions().await;
        self.attributes().await;
        self.listing().await;
        self.paging().await;
        self.copies().await;
        self.multipart().await;
        self.multipart_conditions().await;
        self.race_to_create().await;
        self.race_to_change().await;
        windlass_store::probe(&self.rt, &*self.bucket, &self.key("probe/")).await.unwrap();
        assert_eq!(self.all(&self.key("probe/")).await, Vec::<String>::new());
    }

    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
    pub async fn put(&self, key: &str, body: impl Into<Bytes>, when: When) -> Result<Put> {
        self.bucket.put(key, body.into(), when, WHY).await
    }
    pub async fn get(&self, key: &str, range: ByteRange) -> Option<Found> {
        self.bucket.get(key, range, WHY).await.unwrap()
    }
    async fn body(&self, key: &str) -> Bytes {
        self.get(key, WHOLE).await.unwrap_or_else(|| panic!("{key:?} is not there")).body
    }
    async fn delete(&self, keys: &[String]) {
        self.bucket.delete(keys, WHY).await.unwrap();
    }
    async fn list(&self, list: &List) -> Page {
        self.bucket.list(list, WHY).await.unwrap()
    }
    /// Lists every key below a prefix, by pages of seven.
    pub async fn all(&self, prefix: &str) -> Vec<String> {
        let mut list = List { prefix: prefix.into(), max: 7, ..List::default() };
        let mut keys = Vec::new();
        loop {
            let page = self.list(&list).await;
            assert!(page.objects.len() <= 7 && page.prefixes.is_empty());
            keys.extend(page.objects.into_iter().map(|o| o.key));
            match page.next {
                Some(next) => list.after = Some(next),
                None => return self.in_order(keys),
            }
        }
    }

    /// Sorts keys as listings of an exact server are sorted already.
    fn in_order(&self, mut keys: Vec<String>) -> Vec<String> {
        if !self.exact {
            keys.sort();
        }
        keys
    }

    async fn objects(&self) {
        let key = self.key("objects/one");
        assert!(self.get(&key, WHOLE).await.is_none());
        assert!(self.bucket.head(&key, WHY).await.unwrap().is_none());
        let first = stored(self.put(&key, "hello", When::Always).await);
        let found = self.get(&key, WHOLE).await.unwrap();
        assert_eq!((&found.body[..], found.offset, found.head.size), (&b"hello"[..], 0, 5));
        assert_eq!(found.head.etag, first);
        assert!(!first.0.contains('"'));
        assert_eq!(self.bucket.head(&key, WHY).await.unwrap().unwrap(), found.head);
        let second = stored(self.put(&key, "hullo", When::Always).await);
        assert_ne!(first, second);
        assert_eq!(self.body(&key).await, "hullo");
        stored(self.put(&key, "", When::Always).await);
        let empty = self.get(&key, WHOLE).await.unwrap();
        assert_eq!((empty.body.len(), empty.head.size), (0, 0));
        self.delete(&[key.clone(), self.key("objects/never"), key.clone()]).await;
        assert!(self.get(&key, WHOLE).await.is_none());
        let many: Vec<_> = (0..12).map(|n| self.key(&format!("objects/many/{n}"))).collect();
        for key in &many {
            stored(self.put(key, "x", When::Always).await);
        }
        self.delete(&many).await;
        assert_eq!(self.all(&self.key("objects/")).await, Vec::<String>::new());
        self.delete(&[]).await;
    }

    async fn ranges(&self) {
        let key = self.key("ranges");
        let body = noise(3 * MIB + 17, 1);
        let size = body.len() as u64;
        stored(self.put(&key, body.clone(), When::Always).await);
        for (offset, len) in
            [(0, 1), (1, 4096), (MIB as u64 - 1, 2), (size - 5, 5), (size - 5, 500), (0, size)]
        {
            let found = self.get(&key, ByteRange::At { offset, len }).await.unwrap();
            let end = size.min(offset + len);
            assert_eq!((found.offset, found.head.size), (offset, size));
            assert_eq!(found.body, body.slice(offset as usize..end as usize));
        }
        for (offset, len) in [(size, 1), (size + 9, 10), (7, 0), (u64::MAX, 1)] {
            let found = self.get(&key, ByteRange::At { offset, len }).await.unwrap();
            assert_eq!((found.body.len(), found.head.size), (0, size), "{offset}+{len}");
        }
        for n in [0, 1, 4096, size, size + 1, u64::MAX] {
            let found = self.get(&key, ByteRange::Last(n)).await.unwrap();
            let from = size.saturating_sub(n);
            assert_eq!((found.offset, found.body), (from, body.slice(from as usize..)), "last {n}");
        }
        let small = self.bucket.get(&key, ByteRange::Whole { max: size - 1 }, WHY).await.unwrap_err();
        assert_eq!(small.kind(), Kind::Invalid);
        assert_eq!(self.get(&key, ByteRange::Whole { max: size }).await.unwrap().body, body);
        stored(self.put(&key, "", When::Always).await);
        for range in [ByteRange::Last(5), ByteRange::At { offset: 0, len: 5 }] {
            assert_eq!(self.get(&key, range).await.unwrap().body.len(), 0);
        }
        assert!(self.get(&self.key("ranges-none"), ByteRange::Last(5)).await.is_none());
    }

    async fn conditions(&self) {
        let key = self.key("conditions");
        let ghost = Etag("00000000000000000000000000000000".into());
        assert!(refused(self.put(&key, "x", When::Matches(ghost.clone())).await));
        let first = stored(self.put(&key, "1", When::Absent).await);
        assert!(refused(self.put(&key, "2", When::Absent).await));
        assert!(refused(self.put(&key, "2", When::Matches(ghost)).await));
        let second = stored(self.put(&key, "2", When::Matches(first.clone())).await);
        assert!(refused(self.put(&key, "3", When::Matches(first)).await));
        assert_eq!(self.body(&key).await, "2");
        self.delete(std::slice::from_ref(&key)).await;
        assert!(refused(self.put(&key, "3", When::Matches(second)).await));
        stored(self.put(&key, "4", When::Absent).await);
    }

    async fn attributes(&self) {
        let key = self.key("attributes");
        let out = self.bucket.put_with(&key, "x".into(), &attrs(), When::Always, WHY).await;
        let etag = stored(out);
        let head = self.bucket.head(&key, WHY).await.unwrap().unwrap();
        assert_eq!((described(head.attrs), &head.etag), (described(attrs()), &etag));
        assert_eq!(described(self.get(&key, WHOLE).await.unwrap().head.attrs), described(attrs()));
        stored(self.put(&key, "x", When::Always).await);
        assert_eq!(self.bucket.head(&key, WHY).await.unwrap().unwrap().attrs.user, BTreeMap::new());
    }

    async fn odd_keys(&self) {
        let odd = [
            "a",
            "a/b",
            "a/",
            "a//b",
            "a//",
            "a/./b",
            "a/../b",
            "a b+c&d=e?f#g%20%",
            "ü/é",
            "a/b/c",
            ".%f",
            ".%windlass/x",
            "\"<>\\^`{|}",
            "'",
            "*",
        ];
        let mut odd: Vec<String> = odd.iter().map(|k| self.key(&format!("odd/{k}"))).collect();
        odd.push(self.key(&format!("odd/{}/x", "n".repeat(300))));
        odd.push(self.key(&format!("odd/{}", "n".repeat(255))));
        for key in &odd {
            stored(self.put(key, key.clone(), When::Absent).await);
        }
        for key in &odd {
            assert_eq!(self.body(key).await, key.as_bytes());
            assert!(refused(self.put(key, "no", When::Absent).await));
        }
        odd.sort();
        assert_eq!(self.all(&self.key("odd/")).await, odd);
        let (some, rest) = odd.split_at(odd.len() / 2);
        self.delete(some).await;
        assert_eq!(self.all(&self.key("odd/")).await, rest);
        for key in rest {
            assert_eq!(self.body(key).await, key.as_bytes());
        }
        self.delete(rest).await;
        assert_eq!(self.all(&self.key("odd/")).await, Vec::<String>::new());
        let both = List { prefix: self.key("odd"), delimited: true, max: 10, after: None };
        assert_eq!(self.bucket.list_some(&both, WHY).await.unwrap(), Page::default());
    }

    async fn listing(&self) {
        let names = ["l/a", "l/a.b", "l/a/x", "l/a/y/z", "l/a0", "l/b/c", "l/c", "l0"];
        for name in names {
            stored(self.put(&self.key(name), name, When::Always).await);
        }
        let keys = |names: &[&str]| names.iter().map(|n| self.key(n)).collect::<Vec<_>>();
        assert_eq!(self.all(&self.key("l/")).await, keys(&names[..7]));
        assert_eq!(self.all(&self.key("l")).await, keys(&names));
        assert_eq!(self.all(&self.key("l/a/")).await, keys(&["l/a/x", "l/a/y/z"]));
        assert_eq!(self.all(&self.key("l/a/y/z")).await, keys(&["l/a/y/z"]));
        assert_eq!(self.all(&self.key("none/")).await, keys(&[]));
        for max in [1, 2, 3, 1000] {
            let prefix = self.key("l/");
            let mut list = List { prefix, delimited: true, max, after: None };
            let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
            loop {
                let page = self.list(&list).await;
                assert!(page.objects.len() + page.prefixes.len() <= max || !self.exact);
                objects.extend(page.objects.into_iter().map(|o| o.key));
                prefixes.extend(page.prefixes);
                match page.next {
                    Some(next) => list.after = Some(next),
                    None => break,
                }
            }
            let (objects, prefixes) = (self.in_order(objects), self.in_order(prefixes));
            assert_eq!(objects, keys(&["l/a", "l/a.b", "l/a0", "l/c"]), "by {max}");
            assert_eq!(prefixes, keys(&["l/a/", "l/b/"]), "by {max}");
        }
        let inside = List { prefix: self.key("l/a"), delimited: true, max: 10, after: None };
        let page = self.bucket.list_some(&inside, WHY).await.unwrap();
        assert_eq!(page.prefixes, keys(&["l/a/"]));
        let one = page.objects.iter().find(|o| o.key == self.key("l/a.b")).unwrap();
        let head = self.bucket.head(&one.key, WHY).await.unwrap().unwrap();
        assert_eq!((one.size, &one.etag), (head.size, &head.etag));
        assert_eq!(one.modified_ms.unwrap() / 1000, head.modified_ms.unwrap() / 1000);
    }

    /// Lists more objects than a server's own page limit.
    async fn paging(&self) {
        let keys: Vec<String> = (0..1100).map(|n| self.key(&format!("p/{:04}", n))).collect();
        for some in keys.chunks(20) {
            let puts = some.iter().map(|key| self.put(key, "x", When::Always));
            futures::future::join_all(puts).await.into_iter().for_each(|out| drop(stored(out)));
        }
        let list = List { prefix: self.key("p/"), max: 1000, ..List::default() };
        let page = self.bucket.list_some(&list, WHY).await.unwrap();
        assert_eq!(page.objects.len(), 1000);
        let mut rest = self.list(&List { after: page.next, ..list.clone() }).await;
        assert_eq!(rest.objects.len(), 100);
        if rest.next.is_some() {
            // Where a server does not say whether that was all, a page without names does.
            rest = self.list(&List { after: rest.next, ..list }).await;
            assert_eq!(rest.objects.len(), 0);
        }
        assert_eq!(rest.next, None);
        self.delete(&keys).await;
        assert_eq!(self.all(&self.key("p/")).await, Vec::<String>::new());
    }

    async fn copies(&self) {
        let (from, to) = (self.key("copies/from +ü%"), self.key("copies/to"));
        let put = self.bucket.put_with(&from, "body".into(), &attrs(), When::Always, WHY).await;
        let etag = stored(put);
        let copy = async |attrs: Option<&Attrs>, from_match: Option<&Etag>, when: When| {
            self.bucket.copy(&from, &to, from_match, attrs, when, WHY).await
        };
        stored(copy(None, None, When::Always).await);
        assert_eq!(self.body(&to).await, "body");
        assert_eq!(described(self.bucket.head(&to, WHY).await.unwrap().unwrap().attrs), described(attrs()));
        let ghost = Etag("00000000000000000000000000000000".into());
        assert!(refused(copy(None, Some(&ghost), When::Always).await));
        assert!(refused(copy(None, Some(&etag), When::Absent).await));
        assert!(refused(copy(None, None, When::Matches(ghost)).await));
        let other = Attrs { user: BTreeMap::from([("k".into(), "v".into())]), ..attrs() };
        let now = self.bucket.head(&to, WHY).await.unwrap().unwrap().etag;
        stored(copy(Some(&other), Some(&etag), When::Matches(now)).await);
        assert_eq!(described(self.bucket.head(&to, WHY).await.unwrap().unwrap().attrs), described(other));
        let own = self.bucket.copy(&to, &to, None, Some(&attrs()), When::Always, WHY).await;
        stored(own);
        assert_eq!(described(self.bucket.head(&to, WHY).await.unwrap().unwrap().attrs), described(attrs()));
        let none = self.bucket.copy(&self.key("copies/no"), &to, None, None, When::Always, WHY).await;
        assert_eq!(none.unwrap_err().kind(), Kind::NotFound);
    }

    async fn begin(&self, key: &str) -> String {
        self.bucket.multipart_create(key, &attrs(), WHY).await.unwrap()
    }
    async fn part(&self, key: &str, upload: &str, number: u32, body: Bytes) -> Part {
        self.bucket.multipart_put(key, upload, number, body, WHY).await.unwrap()
    }
    async fn complete(&self, key: &str, upload: &str, parts: &[Part], when: When) -> Result<Put> {
        self.bucket.multipart_complete(key, upload, parts, when, WHY).await
    }

    async fn multipart(&self) {
        let (key, source) = (self.key("multi/out"), self.key("multi/source"));
        let body = noise(6 * MIB, 3);
        let source_etag = stored(self.put(&source, body.clone(), When::Always).await);
        let upload = self.begin(&key).await;
        let listed = self.bucket.multipart_list(&self.key("multi/"), WHY).await.unwrap();
        assert_eq!(listed, [(key.clone(), upload.clone())]);
        let tail = self.part(&key, &upload, 7, Bytes::from_static(b"tail")).await;
        self.part(&key, &upload, 2, noise(10, 1)).await;
        let first = self.part(&key, &upload, 2, noise(5 * MIB, 4)).await;
        let (bucket, up) = (&self.bucket, &upload);
        let copied =
            bucket.multipart_copy(&key, up, 3, &source, Some(&source_etag), 5, 5 << 20, WHY).await.unwrap();
        assert!(self.get(&key, WHOLE).await.is_none());
        let stale = Etag("00000000000000000000000000000000".into());
        let stale = bucket.multipart_copy(&key, up, 4, &source, Some(&stale), 0, 9, WHY).await;
        assert_eq!(stale.unwrap_err().kind(), Kind::Refused);
        stored(self.complete(&key, &upload, &[first, copied, tail], When::Always).await);
        let want = [&noise(5 * MIB, 4)[..], &body[5..5 + 5 * MIB], b"tail"].concat();
        let found = self.get(&key, WHOLE).await.unwrap();
        assert!(found.body == want && described(found.head.attrs) == described(attrs()));
        assert_eq!(self.bucket.multipart_list(&self.key("multi/"), WHY).await.unwrap(), []);
        let gone = self.bucket.multipart_put(&key, &upload, 1, "x".into(), WHY).await;
        assert_eq!(gone.unwrap_err().kind(), Kind::NotFound);
        let other = self.begin(&key).await;
        let bad = Part { number: 1, etag: found.head.etag };
        // SeaweedFS says of an upload without parts that it isn't there.
        let kind = self.complete(&key, &other, &[bad], When::Always).await.unwrap_err().kind();
        assert!(kind == Kind::Invalid || !self.exact && kind == Kind::NotFound, "{kind:?}");
        let small =
            [self.part(&key, &other, 1, "s".into()).await, self.part(&key, &other, 2, "t".into()).await];
        assert_eq!(
            self.complete(&key, &other, &small, When::Always).await.unwrap_err().kind(),
            Kind::Invalid
        );
        self.bucket.multipart_abort(&key, &other, WHY).await.unwrap();
        self.bucket.multipart_abort(&key, &other, WHY).await.unwrap();
        assert_eq!(self.bucket.multipart_list(&self.key("multi/"), WHY).await.unwrap(), []);
        assert_eq!(self.body(&key).await, want);
    }

    async fn multipart_conditions(&self) {
        let key = self.key("multi-if");
        let run = async |body: &'static str, when: When| {
            let upload = self.begin(&key).await;
            let part = self.part(&key, &upload, 1, body.into()).await;
            let out = self.complete(&key, &upload, &[part], when).await;
            self.bucket.multipart_abort(&key, &upload, WHY).await.unwrap();
            out
        };
        let first = stored(run("1", When::Absent).await);
        assert!(refused(run("2", When::Absent).await));
        let second = stored(run("2", When::Matches(first.clone())).await);
        assert!(refused(run("3", When::Matches(first)).await));
        assert_eq!(self.body(&key).await, "2");
        assert_eq!(self.bucket.head(&key, WHY).await.unwrap().unwrap().etag, second);
    }

    async fn race_to_create(&self) {
        for round in 0..5 {
            let key = self.key(&format!("races/create-{round}"));
            let bodies: Vec<Bytes> =
                (0..20).map(|n| noise(if round < 4 { 100 } else { 512 << 10 }, n + 1)).collect();
            self.one_winner(&key, bodies, When::Absent).await;
        }
    }

    async fn race_to_change(&self) {
        let key = self.key("races/change");
        let mut etag = stored(self.put(&key, "start", When::Absent).await);
        for round in 0..5 {
            let bodies: Vec<Bytes> = (0..20).map(|n| format!("{round} {n}").into()).collect();
            etag = self.one_winner(&key, bodies, When::Matches(etag)).await;
        }
    }

    async fn one_winner(&self, key: &str, bodies: Vec<Bytes>, when: When) -> Etag {
        let tasks: Vec<_> = bodies
            .iter()
            .map(|body| {
                let (bucket, key, body, when) =
                    (Arc::clone(&self.bucket), key.to_owned(), body.clone(), when.clone());
                self.rt.spawn(async move { bucket.put(&key, body, when, WHY).await.unwrap() })
            })
            .collect();
        // A real server may take so long that no answer is waited for: whether that put won is read afterwards.
        let (mut won, mut unanswered) = (Vec::new(), Vec::new());
        for (task, body) in tasks.into_iter().zip(&bodies) {
            match task.await.unwrap() {
                Put::Stored(etag) => won.push((etag, body)),
                Put::Refused => {}
                Put::Unknown(e) if self.exact => panic!("{e}"),
                Put::Unknown(_) => unanswered.push(body),
            }
        }
        assert!(won.len() <= 1, "{} winners at {key}", won.len());
        let found = self.get(key, WHOLE).await.unwrap();
        match won.pop() {
            Some((etag, body)) => assert!(found.head.etag == etag && found.body == *body, "{key}"),
            None => assert!(unanswered.contains(&&found.body), "nobody won at {key}"),
        }
        found.head.etag
    }
}
