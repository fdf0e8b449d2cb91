//! What lies below a prefix, however many objects that are: listed as a stream, and deleted from the inside outwards.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use super::client::BucketClient;
use super::remover::Doomed;
use windlass_base::{Error, Result};
use windlass_store::{Etag, Listed};

const PAGE: usize = 1000;

/// Tells whether the object is the marker of a directory: it has no bytes, and its key ends in a slash.
pub fn is_marker(object: &Listed) -> bool {
    object.size == 0 && object.key.ends_with('/')
}

impl BucketClient {
    /// Lists every object below a prefix, a page at a time.
    pub fn all_below<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Listed>> {
        let pages =
            futures::stream::try_unfold(Some(None), move |after: Option<Option<String>>| async move {
                let Some(after) = after else { return Ok(None) };
                let page = self.list(prefix, after, false, PAGE).await?;
                Ok::<_, Error>(Some((page.objects, page.next.map(Some))))
            });
        pages.map_ok(|objects| futures::stream::iter(objects.into_iter().map(Ok))).try_flatten().boxed()
    }

    /// Deletes these objects, deeper ones first. Returns false when some names have other objects by now,
    /// which stay.
    pub async fn remove_listed(&self, mut objects: Vec<Listed>) -> Result<bool> {
        objects.sort_by(inner_first);
        let doomed: Vec<Doomed> = objects.into_iter().map(Doomed::of_listed).collect();
        let mut all = true;
        for doomed in doomed.chunks(PAGE) {
            all &= self.remove(doomed).await?.is_empty();
        }
        Ok(all)
    }

    /// Deletes these objects, which lie below `prefix`, as `remove_listed` does. The inner error says that the
    /// store has refused to delete any of them: all are there still, as a look shows, and none goes late.
    pub async fn remove_unless_refused(
        &self,
        prefix: &str,
        mut objects: Vec<Listed>,
    ) -> Result<Result<bool>> {
        objects.sort_by(inner_first);
        let rest = objects.split_off(objects.len().min(PAGE));
        let doomed: Vec<Doomed> = objects.iter().cloned().map(Doomed::of_listed).collect();
        let removed = self.try_remove(&doomed).await?;
        if removed.refused && removed.why.is_some() && self.are_there(prefix, &objects).await? {
            return Ok(removed.all().map(|stay| stay.is_empty()));
        }
        let all = removed.all()?.is_empty();
        Ok(Ok(self.remove_listed(rest).await? && all))
    }

    /// Tells whether these objects, which lie below `prefix`, are there as they were listed.
    async fn are_there(&self, prefix: &str, objects: &[Listed]) -> Result<bool> {
        let mut missing: BTreeMap<&str, &Etag> =
            objects.iter().map(|object| (object.key.as_str(), &object.etag)).collect();
        let mut all = self.all_below(prefix);
        while !missing.is_empty() {
            let Some(object) = all.try_next().await? else { return Ok(false) };
            if missing.get(object.key.as_str()) == Some(&&object.etag) {
                missing.remove(object.key.as_str());
            }
        }
        Ok(true)
    }

    /// Deletes the folders that a server with real folders still shows below `prefix` although no key lies in
    /// them. Other servers show none. Such a server (SeaweedFS) lists an empty folder in itself, with an
    /// empty etag, which no object has.
    pub async fn remove_empty_folders(&self, prefix: &str) -> Result<()> {
        let (mut open, mut empty, mut full) = (vec![prefix.to_owned()], Vec::new(), BTreeSet::new());
        while let Some(folder) = open.pop() {
            let (mut after, mut is_there, mut has_objects) = (None, false, false);
            loop {
                let page = self.list(&folder, after, true, PAGE).await?;
                is_there |= !page.objects.is_empty() || !page.prefixes.is_empty();
                has_objects |= page.objects.iter().any(|o| o.key != folder || !o.etag.0.is_empty());
                open.extend(page.prefixes);
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
            if has_objects {
                full.insert(folder);
            } else if is_there {
                empty.push(folder);
            }
        }
        // What somebody else has made meanwhile stays, with all that it lies in.
        empty.retain(|folder| !full.range(folder.clone()..).next().is_some_and(|f| f.starts_with(folder)));
        empty.sort_by(|a, b| b.cmp(a));
        for folder in empty {
            self.remove_named(&folder).await?;
        }
        Ok(())
    }
}

/// Orders a folder after what is in it: a server that has real folders (SeaweedFS) keeps one that is not
/// empty, and goes on listing it.
fn inner_first(a: &Listed, b: &Listed) -> std::cmp::Ordering {
    b.key.cmp(&a.key)
}
