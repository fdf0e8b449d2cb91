//! Snapshots that go and clones that come: what must be seen of them.

use std::ops::Range;

use windlass_base::{Error, Kind, Result};
use windlass_volume::{OpenMode, Volumes};

use super::model::{Tag, Tags, written};
use super::site::{LANES, at, name};
use super::user::{PATIENCE, User, is_lost_peer, look};

/// A clone as its maker knows it.
#[derive(Clone, Debug)]
pub struct Cloned {
    name: String,
    /// Contents of the snapshot.
    base: Tags,
    wrote: (Range<u64>, Tag),
    /// The command that made it succeeded.
    made: bool,
    /// The clone was released after its write.
    promised: bool,
}

impl Cloned {
    fn written(&self) -> Tags {
        let mut now = self.base.clone();
        now[self.wrote.0.start as usize..self.wrote.0.end as usize].fill(self.wrote.1);
        now
    }
}

impl User {
    /// Makes a clone of a snapshot whose contents are known, looks at it, writes to it, and lets it go.
    pub async fn clone_one(&self, volumes: &Volumes) {
        let Some((snapshot, base)) = self.site.model.lock().some_snapshot(|n| self.rt.below(n)) else {
            return;
        };
        let tag = self.site.model.lock().fresh_tag();
        let start = self.rt.below(LANES[3].end - 9);
        let wrote = (start..start + 1 + self.rt.below(8), tag);
        let cloned = Cloned { name: format!("c{tag}"), base, wrote, made: false, promised: false };
        let at = {
            let mut all = self.site.clones.lock();
            all.push(cloned.clone());
            all.len() - 1
        };
        match self.rt.timeout(PATIENCE, self.clone_with(volumes, &snapshot, cloned, at)).await {
            Some(Ok(())) | None => {}
            Some(Err(error)) => self.refused(&format!("cloning {snapshot}"), &error),
        }
    }

    async fn clone_with(
        &self,
        volumes: &Volumes,
        snapshot: &str,
        cloned: Cloned,
        index: usize,
    ) -> Result<()> {
        let new = name(&cloned.name);
        volumes.clone_snapshot(&name("v"), &name(snapshot), &new).await?;
        self.site.clones.lock()[index].made = true;
        self.note(|| format!("cloned {snapshot} as {new}"));
        let volume = volumes.open(&new, OpenMode::Normal).await?;
        assert!(look(&volume).await? == cloned.base, "clone {new} is not what snapshot {snapshot} is");
        let (sectors, tag) = cloned.wrote.clone();
        volume.write(at(sectors.start), written(&sectors, tag)).await?;
        assert!(look(&volume).await? == cloned.written(), "clone {new} does not show what was written to it");
        volume.release().await?;
        self.site.clones.lock()[index].promised = true;
        Ok(())
    }

    /// Checks clones at the end: whatever became of its maker, a clone is its snapshot, or its snapshot with
    /// its one write.
    pub async fn look_at_clones(&self, volumes: &Volumes, all_well: bool) {
        let all = self.site.clones.lock().clone();
        // One that was not released promises nothing: what only another host's journal may have of it is given up.
        let accept_loss = self.site.plan.undecidable() || self.site.plan.is_mirrored();
        for cloned in all.iter().rev().take(2) {
            let seen = async {
                let new = name(&cloned.name);
                let volume = match volumes.open(&new, OpenMode::Normal).await {
                    Err(e) if e.is(Kind::Owned) || is_lost_peer(&self.site, &e.to_string()) => {
                        volumes.open(&new, OpenMode::TakeOver { accept_loss }).await?
                    }
                    other => other?,
                };
                let seen = look(&volume).await?;
                if self.site.plan.is_in_turn() && all_well {
                    // Who opens it next only reads, where too few stores are left to be its owner.
                    volumes.set(&new, &["handover=never".to_owned()]).await?;
                }
                volume.release().await?;
                Ok::<_, Error>(seen)
            };
            match seen.await {
                Ok(seen) => {
                    let fits = seen == cloned.written() || seen == cloned.base && !cloned.promised;
                    assert!(fits, "clone {} shows neither its snapshot nor its write", cloned.name);
                }
                Err(e) => assert!(e.is(Kind::NotFound) && !cloned.made, "clone {}: {e}", cloned.name),
            }
        }
    }

    /// Removes a snapshot, unless a clone needs it.
    pub async fn remove_one(&self, volumes: &Volumes) -> Result<(), Error> {
        let names: Vec<String> = self.site.model.lock().snapshots.keys().cloned().collect();
        if names.is_empty() {
            return Ok(());
        }
        let which = &names[self.rt.below(names.len() as u64) as usize];
        self.note(|| format!("removes snapshot {which}"));
        self.site.model.lock().snapshot_goes(which);
        match volumes.remove_snapshot(&name("v"), &name(which)).await {
            Ok(()) => {
                self.note(|| format!("removed snapshot {which}"));
                self.site.model.lock().snapshot_is_gone(which);
                Ok(())
            }
            // Pinned, or never made.
            Err(e) if matches!(e.kind(), Kind::Refused | Kind::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }
}
