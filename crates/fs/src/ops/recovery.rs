//! Crash recovery: what becomes of the files that an earlier mount left staged.
//!
//! A staged file is sent under its name, stored as a conflict copy, or dropped because the bucket has it. `Evidence`
//! holds all that this depends on, and `Evidence::verdict` decides: a pure function, whose test lists every case.
//! Nothing is dropped but what the bucket has, or what a later version on this disk replaces.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::filesystem::Fs;
use crate::file::{CONFLICT, OpenFile, UNFINISHED};
use crate::object::{Base, Meta as _, Ns, UploadToken};
use crate::staging::{Edits, FoundFile, FoundStages, Mark, Note, Stage, UNKNOWN, Unsent};
use windlass_base::Result;
use windlass_store::Head;

/// Object that the store has under a staged file's name, as far as it matters for the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ObjectIs {
    /// The object is the staged file as it was closed.
    ThisVersion,
    /// The object is an upload of the earlier mount whose answer was lost: the file follows it.
    OwnSend,
    /// The object is the one that the file was made of; or none, as when the file was made; or one that was
    /// removed before that.
    Base,
    /// The object is another client's, or is gone where there was one: a send would be refused.
    Other,
    /// The store did not say. A send finds out.
    Unknown,
}

/// All that a staged file's recovery depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Evidence {
    object: ObjectIs,
    /// A whole object was being rewritten when the mount ended, and no close answered for the new bytes.
    cut_off_rewrite: bool,
    /// Another staged file of this name was recovered before, or a program has the name open.
    name_taken: bool,
    /// The machine was started anew since the note was written, and the bytes were not synced.
    may_be_torn: bool,
}

/// Fate of a staged file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    /// The bucket has the file: its stage goes.
    Stored,
    /// The file is sent under its name.
    Send,
    /// The file is stored as an unfinished copy before the mount is up.
    UnfinishedCopy,
    /// The file is stored as a conflict copy in the background.
    ConflictCopy,
    /// The file is stored as an unfinished copy in the background; its name is free for others.
    TornCopy,
}

impl Evidence {
    fn verdict(self) -> Verdict {
        match self {
            Evidence { object: ObjectIs::ThisVersion, .. } => Verdict::Stored,
            Evidence { may_be_torn: true, .. } => Verdict::TornCopy,
            Evidence { object: ObjectIs::Other, cut_off_rewrite: false, .. } => Verdict::ConflictCopy,
            Evidence { object: ObjectIs::Other, .. }
            | Evidence { cut_off_rewrite: true, .. }
            | Evidence { name_taken: true, .. } => Verdict::UnfinishedCopy,
            Evidence { object: ObjectIs::OwnSend | ObjectIs::Base | ObjectIs::Unknown, .. } => Verdict::Send,
        }
    }
}

fn object_is(left: &FoundFile, head: Option<&Head>) -> ObjectIs {
    let base = left.note.base.as_ref().map(|base| &base.etag);
    match head {
        Some(head) if is_closed_version(&left.note, head) => ObjectIs::ThisVersion,
        Some(head) if is_unanswered_send(left, head) => ObjectIs::OwnSend,
        head if head.map(|head| &head.etag) == base => ObjectIs::Base,
        Some(head) if base.is_none() && left.note.removed_object.as_ref().is_some_and(|r| r.is(head)) => {
            ObjectIs::Base
        }
        // What it was made of had been removed here, and is gone by now; nothing of it counts.
        None if left.edits.base_len == 0 && base == left.note.removed_object.as_ref().map(|r| &r.etag) => {
            ObjectIs::Base
        }
        _ => ObjectIs::Other,
    }
}

/// Tells whether a rewrite of the file was cut off. The stage is looked at too: a file is emptied before its
/// note says so.
fn is_cut_off_rewrite(note: &Note, staged: &Edits) -> bool {
    let was_object = note.base.as_ref().is_some_and(|base| base.size > 0) || note.rewrites.is_some();
    let begun_anew = match note.partly {
        true => staged.base_len == 0,
        false => staged.size == 0 || note.begun_anew != Some(false),
    };
    was_object && begun_anew && note.mark == Mark::Open && !note.unsent_close
}

impl Fs {
    /// Recovers the files that an earlier mount left staged; returns those that can't be sent.
    pub(super) async fn recover_staged(self: &Arc<Self>, found: FoundStages) -> Vec<Unsent> {
        let FoundStages { files: all, lost, mut unsent, .. } = found;
        let over = self.superseded(&all, &lost).await;
        for (stage, note) in lost {
            if over.contains(&stage.id()) || self.is_stored(note.as_ref()).await {
                if !self.options().read_only {
                    stage.remove_or_warn().await;
                }
                continue;
            }
            let (key, bytes) = note.map_or((UNKNOWN.to_owned(), 0), |note| (note.key, note.size));
            let path = stage.path();
            tracing::error!(path = %path.display(), key, "this disk has lost what was staged here, as by a loss of power");
            unsent.push(Unsent { path, key, bytes });
        }
        // What nobody needs goes first: a crash must not leave it without what took its place.
        let (all, spent): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|left| left.note.mark != Mark::Sent && !over.contains(&left.stage.id()));
        for left in spent.into_iter().filter(|_| !self.options().read_only) {
            self.drop_stage(left).await;
        }
        let (freed, all): (Vec<_>, Vec<_>) = all.into_iter().partition(|left| left.note.is_freed());
        for left in freed {
            let (path, key, bytes) = (left.stage.path(), left.note.key.clone(), left.edits.size);
            if self.options().read_only || self.drop_freed(left).await.is_err() {
                unsent.push(Unsent { path, key, bytes });
            }
        }
        let (mut named, mut kept) = (BTreeSet::new(), BTreeSet::new());
        for left in self.by_precedence(all).await {
            let (path, key, bytes) = (left.stage.path(), left.note.key.clone(), left.edits.size);
            let first = !named.contains(&key);
            if self.options().read_only {
                unsent.push(Unsent { path, key, bytes });
                continue;
            }
            // The name is the first one's: those that follow wait with it.
            if kept.contains(&key) {
                self.left_staged(bytes);
                unsent.push(Unsent { path, key, bytes });
                continue;
            }
            match self.recover_file(left, first).await {
                Ok(false) => {}
                Ok(true) => {
                    named.insert(key);
                }
                Err(why) => {
                    tracing::warn!(path = %path.display(), key, %why, "what an earlier mount could not store is kept");
                    kept.insert(key.clone());
                    self.left_staged(bytes);
                    unsent.push(Unsent { path, key, bytes });
                }
            }
        }
        unsent
    }

    /// Returns the stages whose place others have taken: a version that was closed later stands on this disk.
    /// It is durable from here on, whatever the earlier mount could still do for that.
    async fn superseded(&self, all: &[FoundFile], lost: &[(Stage, Option<Note>)]) -> BTreeSet<String> {
        let lost = lost.iter().map(|(stage, _)| stage.id());
        let here: BTreeSet<String> = all.iter().map(|left| left.stage.id()).chain(lost).collect();
        let outgrown_slot: BTreeSet<&String> =
            all.iter().filter_map(|left| left.note.outgrown_slot.as_ref()).collect();
        let mut over = BTreeSet::new();
        // What may be torn takes nobody's place.
        for left in all.iter().filter(|left| !left.may_be_torn) {
            let replaced = left.note.replaces().filter(|_| !outgrown_slot.contains(&left.stage.id()));
            let gone = replaced
                .into_iter()
                .chain(left.note.outgrown_slot.as_deref())
                .filter(|id| here.contains(*id));
            let gone: Vec<String> = gone.map(str::to_owned).collect();
            if gone.is_empty() {
                continue;
            }
            let kept = if self.options().read_only { Ok(()) } else { left.stage.sync_recovered().await };
            match kept {
                Ok(()) => over.extend(gone),
                Err(why) => {
                    tracing::warn!(path = %left.stage.path().display(), %why, "what this takes the place of is kept too");
                }
            }
        }
        over
    }

    /// Sorts the files by precedence, since a loss of power may leave several of one name. The one that has
    /// the name comes first: it was closed, it follows the object that is there, and it is the latest.
    async fn by_precedence(&self, mut all: Vec<FoundFile>) -> Vec<FoundFile> {
        let (mut seen, mut there) = (BTreeSet::new(), BTreeMap::new());
        for key in all.iter().map(|left| &left.note.key) {
            if !seen.insert(key) && !there.contains_key(key) {
                let Ok(head) = self.context.remote.head(key).await else { continue };
                there.insert(key.clone(), head);
            }
        }
        all.sort_by_cached_key(|left| {
            let Note { key, base, mark, unsent_close, generation, .. } = &left.note;
            let follows = there.get(key).is_none_or(|head| {
                let etag = head.as_ref().map(|head| &head.etag);
                base.as_ref().map(|base| &base.etag) == etag
                    || head.as_ref().is_some_and(|h| is_unanswered_send(left, h))
            });
            (
                left.may_be_torn,
                *mark == Mark::Open && !unsent_close,
                !follows,
                Reverse((*generation, left.note.attrs().time("ctime"))),
            )
        });
        all
    }

    /// Tells whether the bucket has what this disk has lost.
    async fn is_stored(&self, note: Option<&Note>) -> bool {
        let Some(note) = note else { return false };
        let head = self.context.remote.head(&note.key).await;
        head.is_ok_and(|head| head.is_some_and(|head| is_closed_version(note, &head)))
    }

    /// Removes a stage that nobody needs, and gives up its upload.
    async fn drop_stage(&self, left: FoundFile) {
        if let Some(upload) = &left.note.upload {
            // Completed, it is not there any more; otherwise its parts cost money.
            self.context.remote.abort(&left.note.key, upload).await;
        }
        left.stage.remove_or_warn().await;
    }

    /// Drops what is left of a file of which bytes were freed: no close or fsync has answered for it but with
    /// its object. Its upload ends before the bucket is looked at, so that nothing comes of it afterwards.
    async fn drop_freed(&self, left: FoundFile) -> Result<()> {
        let Note { key, upload, .. } = &left.note;
        if let Some(upload) = upload {
            self.context.remote.abort(key, upload).await;
        }
        let head = self.context.remote.head(key).await?;
        let stored = head.is_some_and(|head| is_unanswered_send(&left, &head));
        left.stage.remove_or_warn().await;
        if !stored {
            tracing::error!(
                key,
                bytes = left.edits.size,
                "an earlier mount ended while this was being written: bytes of it had been freed, as the disk of the state folder \
                 was nearly full, and what was not closed is lost: write it again"
            );
        }
        Ok(())
    }

    /// Recovers one staged file. `first`: no other staged file of its name was recovered before. Returns true
    /// if the file has its name, or would have.
    async fn recover_file(self: &Arc<Self>, left: FoundFile, first: bool) -> Result<bool> {
        if let Some(upload) = &left.note.upload {
            self.context.remote.abort(&left.note.key, upload).await;
        }
        let key = left.note.key.clone();
        let (object, head) = match self.context.remote.head(&key).await {
            Ok(head) => (object_is(&left, head.as_ref()), head),
            Err(why) => {
                tracing::warn!(key, %why, "what the bucket has under this name is not known yet");
                (ObjectIs::Unknown, None)
            }
        };
        let name_taken = !first || self.inodes.lock().at(&key, false).is_some_and(|n| n.file.is_some());
        let evidence = Evidence {
            object,
            cut_off_rewrite: is_cut_off_rewrite(&left.note, &left.edits),
            name_taken,
            may_be_torn: left.may_be_torn,
        };
        let verdict = evidence.verdict();
        if verdict == Verdict::Stored {
            left.stage.remove_or_warn().await;
            return Ok(false);
        }
        // A copy is no file of the tree: nobody is to see it for what the bucket has.
        let changing = match verdict {
            Verdict::Send => {
                self.inodes.lock().meet(&key, false, &self.default_attributes(false)).changing.clone()
            }
            _ => Arc::default(),
        };
        let file = OpenFile::recovered(left, Ns::from_ms(self.context.rt.wall_ms()), changing);
        if let Some(head) = head.filter(|_| object == ObjectIs::OwnSend) {
            file.rebase(Base { etag: head.etag, size: head.size });
        }
        match verdict {
            Verdict::Stored => Ok(false),
            Verdict::TornCopy => {
                self.store_copy_behind(key, file, UNFINISHED);
                Ok(false)
            }
            Verdict::ConflictCopy => {
                self.store_copy_behind(key, file, CONFLICT);
                Ok(true)
            }
            Verdict::UnfinishedCopy => {
                let kept = file.store_conflict_copy(&self.context, UNFINISHED).await?;
                tracing::warn!(
                    key,
                    kept,
                    "an earlier mount ended while this was being written: it is stored as a conflict copy"
                );
                Ok(true)
            }
            Verdict::Send => {
                // Should the file be removed here before that, its next one is not to meet it, nor is it to stay.
                if let Some(put) = file.unheard_put() {
                    self.context.remote.expect_put(&key, &put);
                }
                self.send_recovered(&key, &file);
                Ok(true)
            }
        }
    }

    /// Gives the file its name in the tree and queues it.
    fn send_recovered(self: &Arc<Self>, key: &str, file: &Arc<OpenFile>) {
        let attributes = file.attributes(self.options());
        tracing::info!(key, bytes = attributes.size, "sending what an earlier mount could not");
        let ino = {
            let mut inodes = self.inodes.lock();
            let node = inodes.meet(key, false, &attributes);
            node.file = Some(file.clone());
            node.ino
        };
        self.queue_send(ino, file);
    }

    /// Stores a conflict copy in the background: another client's object refuses the file, or its bytes may be torn.
    fn store_copy_behind(self: &Arc<Self>, key: String, file: Arc<OpenFile>, word: &'static str) {
        let (fs, busy) = (self.clone(), self.busy());
        let work = async move {
            match file.store_conflict_copy(&fs.context, word).await {
                Ok(kept) if word == CONFLICT => {
                    tracing::error!(key, kept, "somebody else changed this object")
                }
                Ok(kept) => {
                    tracing::error!(
                        key,
                        kept,
                        "this was not synced when the machine ended, and may be torn: compare"
                    );
                }
                Err(why) => {
                    let at = file.staged_at();
                    fs.left_staged(file.size());
                    tracing::error!(key, at, %why, "a conflict copy can't be stored yet: the next mount tries again");
                }
            }
            drop(busy);
        };
        self.context.rt.spawn(work).detach();
    }
}

/// Tells whether the object is the file as it was closed.
fn is_closed_version(note: &Note, head: &Head) -> bool {
    let token = UploadToken::of(&note.attrs(), note.size);
    note.mark == Mark::Closed && token.is_some() && UploadToken::of(&head.attrs, head.size) == token
}

/// Tells whether the store got one of the last sends, though nobody was told.
pub(super) fn is_unanswered_send(left: &FoundFile, head: &Head) -> bool {
    UploadToken::of(&head.attrs, head.size).is_some_and(|token| left.note.sending.contains(&token))
}

#[cfg(test)]
mod tests {
    use super::ObjectIs::{Base, Other, OwnSend, ThisVersion, Unknown};
    use super::Verdict::{ConflictCopy, Send, Stored, TornCopy, UnfinishedCopy};
    use super::*;

    /// Verdicts for each object, in order: the file was closed; its name is taken; a rewrite was cut off;
    /// such a rewrite's name is taken.
    const VERDICTS: [(ObjectIs, [Verdict; 4]); 5] = [
        (ThisVersion, [Stored, Stored, Stored, Stored]),
        (OwnSend, [Send, UnfinishedCopy, UnfinishedCopy, UnfinishedCopy]),
        (Base, [Send, UnfinishedCopy, UnfinishedCopy, UnfinishedCopy]),
        (Unknown, [Send, UnfinishedCopy, UnfinishedCopy, UnfinishedCopy]),
        (Other, [ConflictCopy, ConflictCopy, UnfinishedCopy, UnfinishedCopy]),
    ];

    #[test]
    fn each_staged_file_gets_its_verdict() {
        for (object, wanted) in VERDICTS {
            for (i, wanted) in wanted.into_iter().enumerate() {
                let (cut_off_rewrite, name_taken) = (i & 2 != 0, i & 1 != 0);
                let sound = Evidence { object, cut_off_rewrite, name_taken, may_be_torn: false };
                assert_eq!(sound.verdict(), wanted, "{sound:?}");
                // Bytes that may be torn take no name; what the bucket has needs none.
                let torn = Evidence { may_be_torn: true, ..sound };
                let copied = if object == ThisVersion { Stored } else { TornCopy };
                assert_eq!(torn.verdict(), copied, "{torn:?}");
            }
        }
    }

    #[test]
    fn a_rewrite_is_cut_off_when_no_close_answered_for_it() {
        let base = Some(crate::object::Base { etag: windlass_store::Etag("e".into()), size: 9 });
        let open = Note { base, mark: Mark::Open, ..Note::nobody() };
        let staged = |base_len, size| Edits { base_len, size, ..Edits::default() };
        let half = staged(0, 4);
        assert!(is_cut_off_rewrite(&open, &half), "an older note does not say");
        let partly = Note { partly: true, begun_anew: Some(false), ..open.clone() };
        assert!(!is_cut_off_rewrite(&partly, &staged(1, 4)), "bytes of the object still count");
        assert!(is_cut_off_rewrite(&partly, &half), "the edits know more");
        let appended = Note { begun_anew: Some(false), ..open.clone() };
        assert!(!is_cut_off_rewrite(&appended, &staged(0, 12)), "what it was made with, and more");
        assert!(is_cut_off_rewrite(&appended, &staged(0, 0)), "emptied since the note");
        assert!(!is_cut_off_rewrite(&Note { base: None, ..open.clone() }, &half), "a new file");
        let empty = open.base.clone().map(|base| crate::object::Base { size: 0, ..base });
        assert!(!is_cut_off_rewrite(&Note { base: empty, ..open.clone() }, &half), "nothing is lost by it");
        let over = Note { base: None, rewrites: Some("id".into()), ..open.clone() };
        assert!(is_cut_off_rewrite(&over, &half), "a closed version stands beside it");
        assert!(!is_cut_off_rewrite(&Note { mark: Mark::Closed, ..open.clone() }, &half));
        assert!(!is_cut_off_rewrite(&Note { unsent_close: true, ..open }, &half), "a close was answered");
    }
}
