//! What an open file is, as a value without I/O: its name, its object, which bytes count, and how far each change has
//! come.
//!
//! `FileState::apply` makes every change and says what the caller has to do then; `FileState::check` tells what always
//! holds. The handles that do I/O (stage, upload) stand beside the value, in `open_file`.
//!
//! Every change of the file has a number, `changes`. `sent` is the last one that the bucket has, `asked` the last one
//! that a close, an fsync or a send asked for. Numbers, because a file may change while it is being sent.

use std::ops::{Deref, Range};

use crate::object::{
    Attributes, Base, ByteRanges, Meta as _, MountOptions, Ns, Sighting, Source, UploadToken, merge_attrs,
};
use crate::staging::{Edits, Mark};
use windlass_base::Error;
use windlass_base::rt::Instant;
use windlass_store::{Attrs, Etag, Head, When};

/// Largest number of unanswered uploads that a file remembers.
pub const SENDS: usize = 32;

/// An object as the store said it is.
#[derive(Clone, Debug)]
pub struct Stood {
    pub base: Base,
    pub attrs: Attrs,
    pub modified: Ns,
    /// Time at which the store was asked.
    pub asked: Instant,
}

/// State of the file's name, which decides what its handles may do.
#[derive(Debug, Default)]
pub enum Life {
    /// The file has its name: its changes are sent.
    #[default]
    Linked,
    /// The name is gone: the handles go on, and nothing of the file is sent.
    Unlinked,
    /// The name is gone for good: the next mount must not find what is staged.
    Discarded,
    /// Another client's object has the name: every read, write and fsync of the handles fails. Nothing ends that.
    Failed {
        why: Error,
        /// Key of the object that has the file's bytes; `None` where they could not be stored.
        copy: Option<String>,
    },
}

/// State of the file's bytes relative to its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bytes {
    /// The object has all bytes, and this host none.
    Clean,
    /// The file was changed since a close or fsync last asked for its bytes.
    Staged,
    /// The bytes are as a close or fsync asked for them; the bucket does not have them yet.
    Closed,
    /// The object has all bytes, and this host some.
    Sent,
}

/// Purpose of a send, which decides what of the file is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// The send is for a close or an fsync, which is told what became of it.
    Close,
    /// The send takes what was closed or synced, as it was then. What is written since waits for its own close.
    ClosedVersion,
}

/// A change of the file, or of what is known of its object.
#[derive(Debug)]
pub enum Event {
    /// Bytes were staged; those between the old end and the range are zeros.
    Written {
        range: Range<u64>,
        now: Ns,
    },
    /// The file gets this length; new bytes are zeros.
    Resized {
        size: u64,
        now: Ns,
    },
    /// The store has made the object a copy of another one. The file, empty at this change, has its bytes.
    Copied {
        at: u64,
        base: Base,
        attrs: Attrs,
    },
    /// The file gets metadata that go with the next upload.
    AttrsChanged(Attrs),
    /// The object carries this now, with the same bytes. What another client set, and nobody here, is taken over into the file.
    AttrsElsewhere(Attrs),
    /// Bytes of the object are staged too.
    Fetched(Range<u64>),
    /// All bytes are staged: none of an object count.
    Detached,
    /// The store said this of the object at another open.
    Seen(Stood),
    /// The object has another etag, and the same bytes.
    Moved {
        etag: Etag,
        now: Instant,
    },
    /// The file has this name now.
    Renamed(String),
    /// The object is this one now, put there by an earlier upload of ours.
    Rebased(Base),
    /// A close, an fsync or a send asks for the file as it was at this change.
    Asked(u64),
    /// The version that was asked for stays the one at this change: a rewrite took the place of what came later.
    AskedAtMost(u64),
    /// An upload of this change gives the object these metadata.
    Signed(u64, Attrs),
    /// The store may not keep what an upload stored. That object then counts as an earlier one, over which the file is sent
    /// anew.
    NotKept,
    /// The bucket may get an object with these metadata from us.
    Uploading {
        attrs: Attrs,
        size: u64,
    },
    /// The object that was removed from the name before the file was made.
    FollowsRemoval(Sighting),
    /// The file, which is no object yet, has the name of one now.
    Replaces(Base),
    /// The object's metadata, as they were when an earlier mount looked at them.
    BaseSaid(Attrs),
    /// One of the remembered uploads has arrived and made this object; `None`: the older half of them will never arrive.
    Recalled(Option<Base>),
    /// The object has the file as it was at this change.
    Stored {
        at: u64,
        base: Base,
    },
    /// The tables show the object now: the file is clean, unless it changed since.
    Published {
        at: u64,
        attrs: Attrs,
        now: Instant,
    },
    /// The file as it was at this change is stored as a conflict copy.
    CopiedAside(u64),
    /// Nobody has the file open, or its stage can't be trusted; the object has the bytes.
    StageReleased,
    /// The object has every byte, and the stage lacks some.
    StageSpent,
    Unlinked,
    Discarded,
    /// Another client's object refused the file, or what of it was freed here is lost with its upload.
    /// `stored`: nothing that was written is only in the stage.
    Refused {
        why: Error,
        copy: Option<String>,
        stored: bool,
    },
}

/// Action that the caller of `apply` has to take after an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    Nothing,
    /// The staged bytes are of no use any more: the stage is to be removed.
    DropStage,
    /// The stage's note is out of date.
    NoteStale,
    /// The stage is to be hidden from the next mount; the handles go on with it.
    HideStage,
    /// The bucket has all that is staged.
    StageSent,
}

/// An open file as a value without I/O. Everybody reads its fields, `apply` alone changes them.
#[derive(Debug)]
pub struct FileState(FileFields);

impl Deref for FileState {
    type Target = FileFields;
    fn deref(&self) -> &FileFields {
        &self.0
    }
}

#[derive(Debug, Default)]
pub struct FileFields {
    pub key: String,
    /// The object as it was opened or last stored; `None` while there is no object.
    pub base: Option<Base>,
    /// Number of the object's first bytes that still count.
    pub base_len: u64,
    pub size: u64,
    /// Ranges of bytes that are staged.
    pub local: ByteRanges,
    /// Ranges of bytes that no object has.
    pub dirty: ByteRanges,
    pub attrs: Attrs,
    /// Metadata that the object carried when it was looked at or stored; `None` where they aren't known.
    pub base_attrs: Option<Attrs>,
    pub modified: Ns,
    /// Time at which the store was asked for `base`, or took it.
    pub as_of: Instant,
    /// True if somebody set the times after the last write.
    pub dated: bool,
    pub changes: u64,
    /// Value of `changes` when the bytes changed last.
    wrote: u64,
    /// Value of `changes` when the file was emptied, or took the place of an object of which it has nothing. `None` once the
    /// bucket has had the file since.
    begun_anew: Option<u64>,
    pub asked: u64,
    pub sent: u64,
    /// The metadata that an upload gives the object, and the change to which they belong: a repeated upload gives the same.
    signed: Option<(u64, Attrs)>,
    /// Uploads whose answer has not come, the latest last.
    pub uploading: Vec<UploadToken>,
    /// The object that had the name before and was removed here. It may be there still, and then this file replaces it.
    pub removed: Option<Sighting>,
    pub life: Life,
}

impl FileState {
    /// Makes the state of a file that is an object.
    pub fn of(key: &str, stood: Stood) -> FileState {
        let Stood { base, attrs, modified, asked } = stood;
        let (base_len, size) = (base.size, base.size);
        let base_attrs = Some(attrs.clone());
        let new = FileFields::new(key, size, attrs, modified, 0);
        FileState(FileFields { base: Some(base), base_len, base_attrs, as_of: asked, ..new })
    }

    /// Makes the state of a file that is no object yet.
    pub fn fresh(key: &str, attrs: Attrs, now: Ns) -> FileState {
        FileState(FileFields::new(key, 0, attrs, now, 1))
    }

    /// Makes the state of a file that an earlier mount staged and that the bucket may not have.
    pub fn recovered(
        (key, base): (&str, Option<Base>),
        edits: Edits,
        (attrs, modified): (Attrs, Ns),
        mark: Mark,
        uploading: Vec<UploadToken>,
    ) -> FileState {
        let Edits { local, base_len, size } = edits;
        let signed = (mark == Mark::Closed).then(|| (1, attrs.clone()));
        let (dirty, asked) = (local.clone(), 1);
        let new = FileFields::new(key, size, attrs.clone(), modified, 1);
        let mut file = FileFields { base, base_len, local, dirty, asked, signed, uploading, ..new };
        if mark == Mark::Closed {
            // It may have been on its way, which the note of a closed file does not say once more.
            file.remember_upload(&attrs, size);
        }
        FileState(file)
    }

    pub fn apply(&mut self, event: Event) -> Effect {
        self.0.apply(event)
    }
}

impl FileFields {
    fn new(key: &str, size: u64, attrs: Attrs, modified: Ns, changes: u64) -> FileFields {
        let (key, wrote) = (key.to_owned(), changes);
        FileFields { key, size, attrs, modified, changes, wrote, ..FileFields::default() }
    }

    fn apply(&mut self, event: Event) -> Effect {
        let effect = match event {
            Event::Written { range, now } => {
                self.stage_bytes(self.size..range.start);
                self.size = self.size.max(range.end);
                self.stage_bytes(range);
                self.touch(now)
            }
            Event::Resized { size, now } => self.resized(size, now),
            Event::AttrsChanged(attrs) => {
                let times = |attrs: &Attrs| (attrs.time("mtime"), attrs.time("atime"));
                self.dated |= times(&self.attrs) != times(&attrs);
                self.attrs = attrs;
                self.changes += 1;
                Effect::Nothing
            }
            Event::AttrsElsewhere(theirs) => {
                if let Some(base) = self.base_attrs.replace(theirs.clone())
                    && merge_attrs(&base, &theirs, &mut self.attrs)
                {
                    self.signed = None;
                }
                Effect::Nothing
            }
            Event::Fetched(range) => {
                self.local.insert(range);
                Effect::Nothing
            }
            Event::Detached => {
                self.base_len = 0;
                Effect::Nothing
            }
            Event::Renamed(key) => {
                self.key = key;
                Effect::NoteStale
            }
            Event::Asked(at) => {
                self.asked = at;
                Effect::Nothing
            }
            Event::AskedAtMost(at) => {
                self.asked = self.asked.min(at);
                Effect::Nothing
            }
            Event::Signed(at, attrs) => {
                self.signed = Some((at, attrs));
                Effect::Nothing
            }
            Event::NotKept => {
                self.signed = None;
                Effect::Nothing
            }
            Event::Uploading { attrs, size } => self.remember_upload(&attrs, size),
            of_object => self.apply_of_object(of_object),
        };
        debug_assert_eq!(self.check(), Ok(()), "{self:?}");
        effect
    }

    /// Applies the events of the object and of the file's life.
    fn apply_of_object(&mut self, event: Event) -> Effect {
        match event {
            Event::Seen(stood) => return self.seen(stood),
            Event::Moved { etag, now } => {
                if let Some(base) = &mut self.base {
                    (base.etag, self.as_of) = (etag, now);
                }
            }
            Event::Rebased(base) => self.base = Some(base),
            Event::Replaces(base) => (self.base, self.begun_anew) = (Some(base), Some(self.changes)),
            Event::FollowsRemoval(removed) => self.removed = Some(removed),
            Event::BaseSaid(attrs) => self.base_attrs = Some(attrs),
            Event::Recalled(Some(base)) => {
                self.base = Some(base);
                self.uploading.clear();
            }
            Event::Recalled(None) => drop(self.uploading.drain(..self.uploading.len().min(SENDS / 2))),
            Event::Stored { at, base } => return self.stored(at, base),
            Event::Published { at, attrs, now } => {
                (self.sent, self.as_of) = (at, now);
                self.base_attrs = Some(attrs.clone());
                if self.changes == at {
                    self.attrs = attrs;
                }
            }
            Event::Copied { at, base, attrs } => {
                (self.base_len, self.size) = (base.size, base.size);
                (self.base, self.begun_anew) = (Some(base), None);
                self.base_attrs = Some(attrs.clone());
                self.uploading.clear();
                // Metadata that were set while the store copied are newer than those which the copy carries.
                if self.changes == at {
                    self.attrs = attrs;
                }
            }
            Event::CopiedAside(at) => self.sent = self.sent.max(at),
            // Of a file that has its name, nothing goes that the object does not have.
            Event::StageReleased if !self.is_dirty() => {
                if self.is_sent() {
                    self.local.cut(0);
                    (self.base_len, self.begun_anew) = (self.size, None);
                }
                return Effect::DropStage;
            }
            // What was changed since beside the bytes goes with the next upload.
            Event::StageSpent if self.base_len == self.size && self.dirty.is_empty() => {
                self.local.cut(0);
                return Effect::DropStage;
            }
            Event::Unlinked if matches!(self.life, Life::Linked) => self.life = Life::Unlinked,
            Event::Discarded if !self.is_failed() => {
                self.life = Life::Discarded;
                return Effect::HideStage;
            }
            Event::Refused { why, copy, stored } if !self.is_failed() => {
                self.life = Life::Failed { why, copy };
                if stored {
                    return Effect::DropStage;
                }
            }
            _ => {}
        }
        Effect::Nothing
    }

    fn resized(&mut self, size: u64, now: Ns) -> Effect {
        let (grown, emptied) = (self.size..size, size == 0 && self.size > 0);
        self.local.cut(size);
        self.dirty.cut(size);
        self.stage_bytes(grown);
        self.base_len = self.base_len.min(size);
        self.size = size;
        let effect = self.touch(now);
        if emptied {
            self.begun_anew = Some(self.changes);
        }
        effect
    }

    /// Records that the object has the file as it was at this change.
    fn stored(&mut self, at: u64, base: Base) -> Effect {
        let noted = self.begun_anew;
        (self.base, self.removed) = (Some(base), None);
        self.uploading.clear();
        self.begun_anew = noted.filter(|begun| *begun > at);
        if self.changes == at {
            self.base_len = self.size;
            self.dirty.cut(0);
            return Effect::StageSent;
        }
        if self.begun_anew != noted { Effect::NoteStale } else { Effect::Nothing }
    }

    /// Takes over what the store said of the object, unless there are changes of ours, or more is known.
    fn seen(&mut self, stood: Stood) -> Effect {
        let Stood { base, attrs, modified, asked } = stood;
        if !self.is_sent() || !matches!(self.life, Life::Linked) || asked < self.as_of {
            return Effect::Nothing;
        }
        self.base_attrs = Some(attrs.clone());
        (self.as_of, self.attrs, self.modified) = (asked, attrs, modified);
        if self.base.as_ref() == Some(&base) {
            return Effect::Nothing;
        }
        (self.base_len, self.size) = (base.size, base.size);
        self.local.cut(0);
        (self.base, self.begun_anew) = (Some(base), None);
        Effect::DropStage
    }

    /// Remembers an upload that sets out, since its answer may be lost.
    fn remember_upload(&mut self, attrs: &Attrs, size: u64) -> Effect {
        if let Some(token) = UploadToken::of(attrs, size) {
            self.uploading.retain(|other| *other != token);
            self.uploading.push(token);
            self.uploading.drain(..self.uploading.len().saturating_sub(SENDS));
        }
        Effect::Nothing
    }

    fn stage_bytes(&mut self, range: Range<u64>) {
        self.local.insert(range.clone());
        self.dirty.insert(range);
    }

    fn touch(&mut self, now: Ns) -> Effect {
        self.changes += 1;
        (self.wrote, self.dated, self.modified) = (self.changes, false, now);
        self.attrs.set_time("mtime", now);
        self.attrs.set_time("ctime", now);
        Effect::Nothing
    }

    /// Tells whether the file replaces a whole object and the bucket has had nothing of it since.
    pub fn is_begun_anew(&self) -> bool {
        self.begun_anew.is_some()
    }

    /// Checks what holds after every event; the error names what does not.
    pub fn check(&self) -> Result<(), &'static str> {
        let signed = self.signed.as_ref().map_or(0, |(at, _)| *at);
        if [self.wrote, self.asked, self.sent, signed].iter().any(|at| *at > self.changes) {
            return Err("a change that never was");
        }
        if self.begun_anew.is_some_and(|at| at > self.changes || self.base_len > 0) {
            return Err("bytes of an object in a file that was emptied");
        }
        if self.base_len > self.size {
            return Err("more bytes of the object than the file has");
        }
        if self.local.within(self.size..u64::MAX).next().is_some() {
            return Err("bytes behind the end");
        }
        if !self.local.covers(self.base_len..self.size) {
            return Err("bytes that are neither staged nor in the object");
        }
        if self.dirty.within(0..self.size).any(|range| !self.local.covers(range)) {
            return Err("bytes that no object has and that are not staged");
        }
        if self.base_len > 0 && self.base.is_none() {
            return Err("bytes of an object, and no object");
        }
        if self.is_sent() && (self.base.is_none() || !self.dirty.is_empty()) {
            return Err("sent, and the object does not have it");
        }
        if self.uploading.len() > SENDS {
            return Err("too many uploads are remembered");
        }
        Ok(())
    }

    pub fn bytes(&self) -> Bytes {
        match self.changes {
            at if at == self.sent && self.local.is_empty() => Bytes::Clean,
            at if at == self.sent => Bytes::Sent,
            at if at == self.asked => Bytes::Closed,
            _ => Bytes::Staged,
        }
    }

    /// Returns what the stage's note is to say of the bytes.
    pub fn mark(&self) -> Mark {
        match self.bytes() {
            Bytes::Clean | Bytes::Sent => Mark::Sent,
            Bytes::Closed => Mark::Closed,
            Bytes::Staged => Mark::Open,
        }
    }

    /// Tells whether the bucket has the file as it is.
    pub fn is_sent(&self) -> bool {
        self.changes == self.sent
    }

    pub fn is_unlinked(&self) -> bool {
        matches!(self.life, Life::Unlinked | Life::Discarded)
    }

    pub fn is_failed(&self) -> bool {
        matches!(self.life, Life::Failed { .. })
    }

    pub fn is_dirty(&self) -> bool {
        !self.is_sent() && !self.is_unlinked()
    }

    /// Tells whether the object has every byte and the file's name: what is staged can go.
    pub fn is_whole_in_object(&self) -> bool {
        self.is_sent() && !self.is_unlinked() && self.base_len == self.size
    }

    /// Tells whether a close, an fsync or a send asked for what the bucket does not have.
    pub fn is_asked(&self) -> bool {
        self.asked > self.sent
    }

    /// Tells whether the file has its name and a close, an fsync or a send asked for what the bucket does not have.
    pub fn has_unsent_close(&self) -> bool {
        self.is_asked() && matches!(self.life, Life::Linked)
    }

    /// Tells whether no byte changed since a close, an fsync or a send asked for the bytes.
    pub fn is_unwritten_since_asked(&self) -> bool {
        self.wrote <= self.asked
    }

    /// Returns the metadata that an upload of the file as it is gives the object, if that is decided.
    pub fn signed(&self) -> Option<&Attrs> {
        self.signed.as_ref().filter(|(at, _)| *at == self.changes).map(|(_, attrs)| attrs)
    }

    /// Tells whether the object is known as it was at that time, or later.
    pub fn is_as_of(&self, asked: Instant) -> bool {
        self.as_of >= asked
    }

    /// Tells whether the store has another object there than the file is made of, and not by an upload whose answer has yet to
    /// come.
    pub fn is_other(&self, head: &Head) -> bool {
        let ours = || UploadToken::of(&head.attrs, head.size).is_some_and(|t| self.uploading.contains(&t));
        self.base.as_ref().is_some_and(|base| base.etag != head.etag) && !ours()
    }

    /// Returns the attributes that stat(2) shows.
    pub fn attributes(&self, options: &MountOptions) -> Attributes {
        let etag = self.base.as_ref().map(|base| base.etag.clone());
        Attributes::of(options, false, self.size, etag, self.modified, &self.attrs)
    }

    /// Returns the condition on the object under which the file may replace it.
    pub fn when(&self) -> When {
        self.base.as_ref().map_or(When::Absent, |b| When::Matches(b.etag.clone()))
    }

    /// Returns a value that changes when the file or its object does.
    pub fn version(&self) -> (u64, String, Option<Base>) {
        (self.changes, self.key.clone(), self.base.clone())
    }

    /// Returns the object that has the file's bytes, but for those in `local`.
    pub fn source(&self) -> Option<Source> {
        self.base.clone().map(|base| Source { key: self.key.clone(), base })
    }
}

#[cfg(test)]
mod tests {
    use Bytes::{Clean, Closed, Sent, Staged};

    use super::*;
    use windlass_base::Kind;

    fn base(etag: &str, size: u64) -> Base {
        Base { etag: Etag(etag.into()), size }
    }

    fn stood(etag: &str) -> Stood {
        Stood { base: base(etag, 8), attrs: Attrs::default(), modified: Ns(0), asked: Instant::default() }
    }

    fn written() -> Event {
        Event::Written { range: 2..4, now: Ns(1) }
    }

    /// The bucket gets the file as it was at this change.
    fn store(file: &mut FileState, at: u64) -> Effect {
        let effect = file.apply(Event::Stored { at, base: base("sent", file.size) });
        file.apply(Event::Published { at, attrs: Attrs::default(), now: Instant::default() });
        effect
    }

    fn file(bytes: Bytes) -> FileState {
        let mut file = FileState::of("k", stood("old"));
        if bytes != Clean {
            file.apply(written());
        }
        if matches!(bytes, Closed | Sent) {
            file.apply(Event::Asked(file.changes));
        }
        if bytes == Sent {
            let at = file.changes;
            store(&mut file, at);
        }
        assert_eq!(file.bytes(), bytes);
        file
    }

    type Step = fn(&mut FileState) -> Effect;

    /// States of the bytes after each step, from bytes that were clean, staged, closed and sent.
    const BYTES: [(&str, Step, [Bytes; 4]); 8] = [
        ("write", |f| f.apply(written()), [Staged; 4]),
        ("truncate", |f| f.apply(Event::Resized { size: 3, now: Ns(2) }), [Staged; 4]),
        ("chmod", |f| f.apply(Event::AttrsChanged(Attrs::default())), [Staged; 4]),
        ("close", |f| f.apply(Event::Asked(f.changes)), [Clean, Closed, Closed, Sent]),
        ("upload of all", |f| store(f, f.changes), [Clean, Sent, Sent, Sent]),
        ("last release", |f| f.apply(Event::StageReleased), [Clean, Staged, Closed, Clean]),
        ("open of another object", |f| f.apply(Event::Seen(stood("new"))), [Clean, Staged, Closed, Clean]),
        ("unlink", |f| f.apply(Event::Unlinked), [Clean, Staged, Closed, Sent]),
    ];

    #[test]
    fn each_step_makes_these_bytes() {
        for (name, step, wanted) in BYTES {
            for (before, after) in [Clean, Staged, Closed, Sent].into_iter().zip(wanted) {
                let mut file = file(before);
                let effect = step(&mut file);
                assert_eq!(file.bytes(), after, "{name} of {before:?}");
                let gone = effect == Effect::DropStage;
                assert!(!gone || file.is_sent(), "{name} of {before:?} drops what only the stage has");
            }
        }
    }

    #[test]
    fn an_upload_of_an_earlier_state_leaves_the_later_change() {
        let mut file = file(Closed);
        let closed = file.changes;
        file.apply(written());
        assert_eq!(store(&mut file, closed), Effect::Nothing);
        assert_eq!((file.bytes(), file.is_asked()), (Staged, false));
        file.apply(Event::Unlinked);
        assert!(!file.is_dirty(), "nothing of it is sent");
        assert_eq!(file.apply(Event::StageReleased), Effect::DropStage, "nobody needs it");
    }

    #[test]
    fn a_chmod_beside_a_copy_is_kept() {
        let with_mode = |mode| {
            let mut attrs = Attrs::default();
            attrs.set_mode(mode);
            attrs
        };
        for beside in [false, true] {
            let mut file = FileState::fresh("k", with_mode(0o644), Ns(1));
            let at = file.changes;
            if beside {
                file.apply(Event::AttrsChanged(with_mode(0o600)));
            }
            let attrs = with_mode(0o644);
            file.apply(Event::Copied { at, base: base("copy", 8), attrs: attrs.clone() });
            file.apply(Event::Published { at, attrs, now: Instant::default() });
            let (mode, bytes) = if beside { (0o600, Staged) } else { (0o644, Clean) };
            assert_eq!((&file.attrs, file.bytes(), file.size), (&with_mode(mode), bytes, 8));
        }
    }

    #[test]
    fn the_stage_of_a_file_that_is_about_to_lose_its_name_is_needed() {
        let mut file = file(Sent);
        assert!(file.is_whole_in_object());
        file.apply(Event::Fetched(0..8));
        file.apply(Event::Detached);
        assert!(!file.is_whole_in_object(), "its object is about to be deleted");
    }

    #[test]
    fn lives_end_in_one_direction() {
        let refused =
            |stored| Event::Refused { why: Error::new(Kind::Refused, "another's"), copy: None, stored };
        let called = |file: &FileState| match file.life {
            Life::Linked => "linked",
            Life::Unlinked => "unlinked",
            Life::Discarded => "discarded",
            Life::Failed { .. } => "failed",
        };
        // For each life: what unlink, discard and a refusal make of it.
        for (before, wanted) in [
            ("linked", ["unlinked", "discarded", "failed"]),
            ("unlinked", ["unlinked", "discarded", "failed"]),
            ("discarded", ["discarded", "discarded", "failed"]),
            ("failed", ["failed", "failed", "failed"]),
        ] {
            for (i, wanted) in wanted.into_iter().enumerate() {
                let mut file = file(Closed);
                match before {
                    "unlinked" => drop(file.apply(Event::Unlinked)),
                    "discarded" => drop(file.apply(Event::Discarded)),
                    "failed" => drop(file.apply(refused(true))),
                    _ => {}
                }
                assert_eq!(called(&file), before);
                file.apply([Event::Unlinked, Event::Discarded, refused(true)].into_iter().nth(i).unwrap());
                assert_eq!(called(&file), wanted, "{before}, event {i}");
            }
        }
        assert_eq!(file(Closed).apply(refused(true)), Effect::DropStage);
        assert_eq!(file(Closed).apply(refused(false)), Effect::Nothing, "the next mount tries again");
        let mut failed = file(Closed);
        failed.apply(refused(false));
        assert_eq!(failed.apply(Event::Discarded), Effect::Nothing);
        assert_eq!(failed.apply(Event::StageReleased), Effect::Nothing);
    }

    #[test]
    fn what_cannot_be_is_told() {
        let broken = |change: fn(&mut FileState)| {
            let mut file = file(Staged);
            change(&mut file);
            file.check().is_err()
        };
        assert_eq!(file(Staged).check(), Ok(()));
        assert!(broken(|f| f.0.sent = f.changes + 1));
        assert!(broken(|f| f.0.sent = f.changes), "its bytes are dirty");
        assert!(broken(|f| f.0.base_len = 9));
        assert!(
            broken(|f| (f.0.base_len, f.0.begun_anew) = (1, Some(1))),
            "emptied, and a byte of the object counts"
        );
        assert!(broken(|f| f.0.base_len = 7), "byte 7 is nowhere");
        assert!(broken(|f| f.0.local.insert(8..9)));
        assert!(broken(|f| f.0.dirty.insert(5..6)));
        assert!(broken(|f| f.0.base = None));
    }
}
