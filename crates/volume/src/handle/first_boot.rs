//! A clone's first boot on a host: recorded where its template asks for that, else fetched ahead by what was recorded.
//!
//! All of it goes on in the background, for as long as the clone is open, and is a hint: an opening waits for none of it, and
//! whatever fails leaves reads as they are. What is fetched ahead goes into the shared caches and counts in the budget of
//! what is read ahead, of which it leaves half to clients' own reads.

use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;

use crate::head::{BootTrace, Head, Trace};
use crate::read::{Boot, BootTemplate, VolumeContext};
use windlass_base::format_limits::BLOCK;
use windlass_base::units::MIB;
use windlass_base::{Epoch, Held, Result, StateId, VolumeId};
use windlass_map::Tree;

/// Time for which the stores are asked for a template's head.
const PATIENCE: Duration = Duration::from_secs(30);
/// Parts of a trace that are fetched at once, and blocks of each at most.
const PARTS: usize = 32;
const PART: u64 = MIB / 4 / BLOCK;
/// Number of times that the bytes fetched ahead are counted: as stored, and as contents.
const COPIES: u64 = 2;
/// Pause between two looks at what is being recorded.
const LOOK: Duration = Duration::from_secs(1);
/// Pause between two looks at memory that others have.
const MEMORY_LOOK: Duration = Duration::from_millis(20);
/// Attempts to keep what was recorded, and the pause between them.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_secs(15);

/// A clone that nobody has written to yet, and what it is a clone of.
struct FirstBoot<T> {
    context: Arc<VolumeContext>,
    /// Handle that is gone when nobody has the clone open.
    open: Weak<T>,
    parent: VolumeId,
    snapshot: StateId,
    /// Map of what the snapshot shows.
    tree: Tree,
}

/// Attends to a clone's first boot, in the background. Nothing happens unless the head is that of a clone which nobody has
/// written to yet.
pub fn attend<T: Send + Sync + 'static>(
    context: &Arc<VolumeContext>,
    head: &Head,
    tree: Tree,
    open: Weak<T>,
) {
    let Some((parent, base)) = head.parent().filter(|_| head.active.epoch == Epoch(0)) else { return };
    // From the first read on, though it is not known yet whether anybody wants it.
    context.view.recorder().begin(head.own_index());
    let boot = FirstBoot { context: context.clone(), open, parent, snapshot: base.snapshot, tree };
    context.rt().spawn(boot.attend()).detach();
}

impl<T: Send + Sync + 'static> FirstBoot<T> {
    async fn attend(self) {
        let template = self.context.engine.memory.boots.of(self.parent);
        match template.told(self.context.rt(), self.ask()).await {
            Boot::Plain => drop(self.context.view.recorder().end()),
            Boot::Record => self.record().await,
            Boot::Fetch(trace) => {
                drop(self.context.view.recorder().end());
                self.fetch(&template, &trace).await;
            }
        }
    }

    /// Asks the template's head what is to be done. A head that is away, or gone, says nothing.
    async fn ask(&self) -> Boot {
        let cell = self.context.engine.cell(self.parent);
        let head = match self.context.rt().timeout(PATIENCE, cell.read()).await {
            Some(Ok(Some(head))) => head,
            Some(Ok(None)) | None => return Boot::Plain,
            Some(Err(error)) => {
                tracing::debug!(clone = %self.context.title(), %error, "whether there is a boot trace is not known");
                return Boot::Plain;
            }
        };
        match (head.settings.boot_trace, head.boot) {
            (BootTrace::Kept { .. }, Some(trace)) => Boot::Fetch(Arc::new(trace)),
            (BootTrace::Record, _) => Boot::Record,
            _ => Boot::Plain,
        }
    }

    fn is_open(&self) -> bool {
        self.open.strong_count() > 0
    }

    async fn record(&self) {
        let (recorder, rt) = (self.context.view.recorder(), self.context.rt());
        while self.is_open() && !recorder.is_over(rt.now()) {
            rt.sleep(LOOK).await;
        }
        let trace = recorder.end();
        if trace.is_empty() {
            return;
        }
        for _ in 0..TRIES {
            match self.keep(&trace).await {
                Ok(()) => return,
                Err(error) if error.is_transient() => {
                    tracing::debug!(clone = %self.context.title(), %error, "its boot trace is kept later");
                    rt.sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(clone = %self.context.title(), %error, "its boot trace is not kept");
                    return;
                }
            }
        }
    }

    async fn keep(&self, trace: &Trace) -> Result<()> {
        let head = self.context.engine.cell(self.parent).change(|head| head.keep_boot(trace)).await?;
        self.context.engine.memory.boots.forget(self.parent);
        if head.boot.as_ref() == Some(trace) {
            let kept = head.settings.show("boot-trace");
            tracing::info!(clone = %self.context.title(), "its first boot was recorded for other clones: {kept}");
        }
        Ok(())
    }

    /// Fetches ahead by the trace, for one clone at a time. The others find that it is done, or go on when that one was closed.
    async fn fetch(&self, template: &BootTemplate, trace: &Trace) {
        let rt = self.context.rt();
        let mut fetched = template.fetch.lock().await;
        if !self.is_open() || BootTemplate::has(*fetched, self.snapshot, rt.now()) {
            return;
        }
        let parts = stream::iter(parts(trace, self.room())).map(|blocks| self.part(blocks));
        let mut parts = parts.buffered(PARTS);
        while let Some(done) = parts.next().await {
            if let Err(error) = done {
                tracing::debug!(clone = %self.context.title(), %error, "fetching ahead by the boot trace has ended");
                return;
            }
            if !self.is_open() {
                return;
            }
        }
        *fetched = Some((self.snapshot, rt.now()));
    }

    async fn part(&self, blocks: Range<u64>) -> Result<()> {
        let Some(_held) = self.memory((blocks.end - blocks.start) * BLOCK).await else { return Ok(()) };
        self.context.view.bring(blocks, &self.tree).await
    }

    /// Takes memory for what is under way. `None`: the clone was closed, or there will never be so much.
    async fn memory(&self, bytes: u64) -> Option<Held> {
        let (budget, bytes) = (&self.context.engine.memory.ahead.budget, bytes * COPIES);
        while self.is_open() && bytes <= budget.total() / 2 {
            if budget.room() > budget.total() / 2
                && let Some(held) = budget.try_take(bytes)
            {
                return Some(held);
            }
            self.context.rt().sleep(MEMORY_LOOK).await;
        }
        None
    }

    /// Returns how many blocks caches can hold until they are read: of more, the first would be gone by then.
    fn room(&self) -> u64 {
        let memory = &self.context.engine.memory;
        let disk = memory.disk.stats().filter(|disk| disk.on).map_or(0, |disk| disk.bytes_max);
        (memory.frames.stats().bytes_max / 2).max(disk / 4) / BLOCK
    }
}

/// Returns the first blocks of a trace, in parts.
fn parts(trace: &Trace, mut room: u64) -> Vec<Range<u64>> {
    let mut parts = Vec::new();
    for range in trace.ranges() {
        let end = range.end.min(range.start.saturating_add(room));
        room -= end - range.start;
        let starts = (range.start..end).step_by(PART as usize);
        parts.extend(starts.map(|start| start..end.min(start + PART)));
    }
    parts
}
