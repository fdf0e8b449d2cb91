//! Stores that fall short of one thing that mounts need.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::*;
use crate::{Attrs, Bucket, BucketAnswer, BucketRequest, Cause, List, MemStore, Store};
use windlass_base::rt::sim::Sim;
use windlass_base::{Error, Result};

/// What a store does instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Short {
    Nothing,
    ForgetsDeletes,
    /// A page of a listing lacks its first name.
    LosesNames,
    /// A listing by directories shows all names.
    ShowsAll,
    LosesAttributes,
    LosesThoseOfDirectories,
    CopiesNothing,
    CopiesWhatever,
    /// The first part is left out of what is put together.
    LosesParts,
    CopiesNoParts,
}

#[derive(Debug)]
struct Lacking {
    inner: Arc<MemStore>,
    short: Short,
}

impl Lacking {
    fn answer(&self, request: &BucketRequest) -> Result<BucketAnswer> {
        let mut request = request.clone();
        let is_unsupported = matches!(
            (self.short, &request),
            (Short::CopiesNothing, BucketRequest::Copy { .. })
                | (Short::CopiesNoParts, BucketRequest::MultipartCopy { .. })
        );
        if is_unsupported {
            return Err(Error::new(Kind::Unsupported, "NotImplemented"));
        }
        match (self.short, &mut request) {
            (Short::ForgetsDeletes, BucketRequest::Delete { .. }) => return Ok(().into()),
            (Short::ShowsAll, BucketRequest::List(list)) => list.delimited = false,
            (Short::LosesAttributes, BucketRequest::Put { attrs: Some(attrs), .. }) => {
                *attrs = Attrs::default()
            }
            (Short::LosesThoseOfDirectories, BucketRequest::Put { key, attrs: Some(attrs), .. })
                if key.ends_with('/') =>
            {
                *attrs = Attrs::default();
            }
            (Short::CopiesWhatever, BucketRequest::Copy { from_match, .. }) => *from_match = None,
            (Short::LosesParts, BucketRequest::MultipartComplete { parts, .. }) => drop(parts.remove(0)),
            _ => {}
        }
        let answer = self.inner.answer(&request)?;
        Ok(match (self.short, answer) {
            (Short::LosesNames, BucketAnswer::Page(mut page)) if !page.objects.is_empty() => {
                page.objects.remove(0);
                BucketAnswer::Page(page)
            }
            (_, answer) => answer,
        })
    }
}

impl Store for Lacking {
    fn url(&self) -> &str {
        "mem:short"
    }
    fn call<'a>(&'a self, request: &'a Arc<BucketRequest>, _: Cause) -> BoxFuture<'a, Result<BucketAnswer>> {
        async move { self.answer(request) }.boxed()
    }
}

impl Bucket for Lacking {}

#[test]
fn what_a_store_falls_short_of_is_named_and_nothing_is_left() {
    for (short, lacks) in [
        (Short::Nothing, None),
        (Short::ForgetsDeletes, Some(FileNeed::Deletes)),
        (Short::LosesNames, Some(FileNeed::Lists)),
        (Short::ShowsAll, Some(FileNeed::Directories)),
        (Short::LosesAttributes, Some(FileNeed::Attributes)),
        (Short::LosesThoseOfDirectories, Some(FileNeed::DirectoryAttributes)),
        (Short::CopiesNothing, Some(FileNeed::Copies)),
        (Short::CopiesWhatever, Some(FileNeed::CopiesNamed)),
        (Short::LosesParts, Some(FileNeed::Parts)),
        (Short::CopiesNoParts, Some(FileNeed::PartCopies)),
    ] {
        let sim = Sim::new(1);
        let rt = sim.rt();
        sim.run(async move {
            let bucket = Arc::new(Lacking { inner: MemStore::new("short"), short });
            let tried = prove_files(&rt, &*bucket, "probe/", |_| true).await.unwrap();
            let failed: Vec<FileNeed> = tried
                .iter()
                .filter(|one| !matches!(one.verdict, Verdict::Held))
                .map(|one| one.need)
                .collect();
            assert_eq!(tried.len(), FileNeed::ALL.len());
            match lacks {
                None => assert_eq!(failed, [], "{tried:?}"),
                Some(need) => assert!(failed.contains(&need), "{short:?}: {tried:?}"),
            }
            let list = List { max: 1000, ..List::default() };
            let left = bucket.inner.list(&list, Cause::Probe).await.unwrap().objects.len();
            assert!(left == 0 || short == Short::ForgetsDeletes, "{short:?}: {left}");
        })
        .unwrap();
    }
}
