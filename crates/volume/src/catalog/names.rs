//! Names of volumes: taken, given back, changed (model `rename`).
//!
//! The directory maps a name to a volume's id and a serial; the volume's head says which entry is its name. A rename puts
//! the new entry, changes the head, and removes the old entry. Broken off before the head was changed it leaves a *pending*
//! entry, after that a *dead* one. A lookup under any of them opens the volume, and a listing shows the one that counts. A dead
//! one is removed by whoever meets it. A pending one is removed by who wants the name, or renames the volume, after the head
//! was changed so that it can't become the name any more.

use std::collections::BTreeMap;

use futures::future::BoxFuture;

use super::volumes::Volumes;
use crate::head::{CREATION, Head, Move, NameStanding, VolumeSettings};
use windlass_base::{Error, Kind, Name, Result, VolumeId};
use windlass_pool::NameEntry;

/// Number of tries while others change the same name.
const TRIES: usize = 8;

/// Puts an entry under the name. Entries that broken-off creations, removals and renames left there are taken over. `Exists`:
/// the name is a volume's.
pub fn take<'f>(volumes: &'f Volumes, name: &'f Name, new: NameEntry) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move {
        for _ in 0..TRIES {
            let has = volumes.engine.pool.insert_name(name, new, None).await?;
            if has == new {
                return Ok(());
            }
            if !free(volumes, name, has).await? {
                let why = format!("volume {} exists", volumes.engine.title(name));
                return Err(Error::new(Kind::Exists, why));
            }
        }
        Err(busy(volumes, name))
    })
}

/// Removes an entry that is no volume's name. Returns false, and keeps the entry, where it is one or may be one.
async fn free(volumes: &Volumes, name: &Name, entry: NameEntry) -> Result<bool> {
    let cell = volumes.engine.cell(entry.volume);
    let standing = |head: &Option<Head>| head.as_ref().map(|head| head.standing_of(name, entry.serial));
    let mut head = cell.read().await?;
    if matches!(standing(&head), None | Some(NameStanding::Pending)) {
        // Its creation or rename may be under way.
        volumes.engine.rt.sleep(CREATION).await;
        head = cell.read().await?;
    }
    if standing(&head) == Some(NameStanding::Pending) {
        head = Some(cell.change(|head| head.close_round(entry.serial)).await?);
    }
    match standing(&head) {
        Some(NameStanding::Current | NameStanding::Pending) => return Ok(false),
        Some(NameStanding::Dead) => {}
        None => {
            let never = volumes.new_head(entry.volume, 512, VolumeSettings::default())?;
            if !cell.cancel(&never).await? {
                return Ok(false);
            }
        }
    }
    if let Some(head) = head.filter(|head| !head.removed)
        && !has_its_name(volumes, &head).await?
    {
        return Ok(false);
    }
    volumes.engine.pool.remove_name(name, entry).await?;
    Ok(true)
}

/// Tells whether the entry that counts is in the directory. It always is, except where `force-recover` took an older head: then
/// none of the volume's other entries is removed.
async fn has_its_name(volumes: &Volumes, head: &Head) -> Result<bool> {
    let pool = &volumes.engine.pool;
    if pool.guesses() == 0 {
        return Ok(true);
    }
    let is_current = |(name, entry): &(Name, NameEntry)| {
        entry.volume == head.volume && head.standing_of(name, entry.serial) == NameStanding::Current
    };
    Ok(pool.name_entries().await?.iter().any(is_current))
}

/// Removes entries that were met and that lead to no volume, or to one that has another name by now.
pub async fn remove_dead(volumes: &Volumes, met: &[(Name, NameEntry)], head: &Head) -> Result<()> {
    if !head.removed && !has_its_name(volumes, head).await? {
        return Ok(());
    }
    for (name, entry) in met.iter().filter(|(name, entry)| {
        entry.volume == head.volume && head.standing_of(name, entry.serial) == NameStanding::Dead
    }) {
        volumes.engine.pool.remove_name(name, *entry).await?;
    }
    Ok(())
}

/// Result of putting the entry of a volume's new name.
enum Taken {
    /// The volume has the name already.
    Named,
    /// The entry that is to become the volume's name is in the directory.
    Put,
    /// Others changed the name in between: the rename begins anew.
    Anew,
}

/// Gives a volume another name; who uses it goes on. `Exists`: another volume has that.
pub fn rename<'f>(volumes: &'f Volumes, from: &'f Name, to: &'f Name) -> BoxFuture<'f, Result<()>> {
    Box::pin(async move { rename_if(volumes, from, to, |head| volumes.existing(from, head)).await })
}

/// Renames as `rename` does, but only this volume. `Owned`: another volume has the name by now.
pub async fn rename_this(volumes: &Volumes, (from, this): (&Name, VolumeId), to: &Name) -> Result<()> {
    let existing = |head: Option<Head>| {
        let head = volumes.existing(from, head)?;
        volumes.check_this(from, head.volume, Some(this)).map(|()| head)
    };
    rename_if(volumes, from, to, existing).await
}

/// Renames as `rename` does a volume that went on in another pool. `NotFound`: another volume has its name by now, or none.
pub async fn rename_moved(volumes: &Volumes, from: &Name, to: &Name) -> Result<()> {
    rename_if(volumes, from, to, |head| volumes.existing_moved(from, head)).await
}

async fn rename_if(
    volumes: &Volumes,
    from: &Name,
    to: &Name,
    existing: impl Fn(Option<Head>) -> Result<Head> + Send + Sync,
) -> Result<()> {
    let came_by = volumes.entry(from).await?;
    let cell = volumes.engine.cell_above(from, came_by.volume).await;
    for _ in 0..TRIES {
        let head = existing(cell.read().await?)?;
        let round = head.naming.round;
        let changed = match take_for(volumes, &head, to).await? {
            // A pending entry that the volume was asked for by is given up.
            Taken::Named => cell.change(|head| head.close_round(came_by.serial)).await,
            Taken::Put => cell.change(|head| rename_from(head, from, to, round)).await,
            Taken::Anew => continue,
        };
        match changed {
            // Another rename was first.
            Err(e) if e.is(Kind::Owned) && to.trashed().is_none() => {}
            Err(e) => return Err(e.context(format!("volume {}", volumes.engine.title(from)))),
            Ok(renamed) => {
                volumes.renamed(&renamed, [from, to]);
                let before =
                    (head.naming.name, NameEntry { volume: head.volume, serial: head.naming.serial });
                let before = before.0.map(|name| (name, before.1));
                let met: Vec<_> = before.into_iter().chain([(from.clone(), came_by)]).collect();
                if let Err(error) = remove_dead(volumes, &met, &renamed).await {
                    tracing::debug!(volume = %from, %error, "the old name stays until somebody meets it");
                }
                return Ok(());
            }
        }
    }
    Err(busy(volumes, from))
}

/// Changes the name in the head. A volume that is brought back from the trash must still be there: another may have been first.
fn rename_from(head: &Head, from: &Name, to: &Name, round: u64) -> Result<Move> {
    match head.rename(to, round)? {
        Move::Already => Ok(Move::Already),
        changed => head.naming.check_trashed(from).map(|()| changed),
    }
}

/// Puts the entry that is to become the volume's name, as its head was read.
async fn take_for(volumes: &Volumes, head: &Head, to: &Name) -> Result<Taken> {
    let pool = &volumes.engine.pool;
    let new = NameEntry { volume: head.volume, serial: head.naming.round + 1 };
    let has = pool.insert_name(to, new, None).await?;
    if has.volume != head.volume {
        return take(volumes, to, new).await.map(|()| Taken::Put);
    }
    match head.standing_of(to, has.serial) {
        NameStanding::Current => Ok(Taken::Named),
        NameStanding::Pending if has == new => Ok(Taken::Put),
        NameStanding::Pending => {
            volumes.engine.cell(head.volume).change(|head| head.close_round(has.serial)).await?;
            Ok(Taken::Anew)
        }
        // It is put anew: somebody may be about to remove what is there.
        NameStanding::Dead => match pool.insert_name(to, new, Some(has)).await? == new {
            true => Ok(Taken::Put),
            false => Ok(Taken::Anew),
        },
    }
}

fn busy(volumes: &Volumes, name: &Name) -> Error {
    let why = format!("others change the name {} at the same time: try again", volumes.engine.title(name));
    Error::new(Kind::Owned, why)
}

/// Returns one name for each volume: where the directory has several, the one that its head tells. Dead entries are removed.
pub async fn one_each(volumes: &Volumes, entries: Vec<(Name, NameEntry)>) -> Vec<(Name, VolumeId)> {
    let mut by_volume: BTreeMap<VolumeId, Vec<(Name, NameEntry)>> = BTreeMap::new();
    for (name, entry) in entries {
        by_volume.entry(entry.volume).or_default().push((name, entry));
    }
    let mut names = Vec::new();
    for (id, mut of_one) in by_volume {
        of_one.sort_by_key(|(_, entry)| entry.serial);
        let shown = match of_one.len() {
            1 => None,
            _ => settled(volumes, id, &of_one).await,
        };
        // Of a head that can't be read now the newest is as good as any.
        let newest = of_one.pop().map(|(name, _)| name);
        names.extend(shown.or(newest).map(|name| (name, id)));
    }
    names.sort();
    names
}

/// Returns the one of a volume's several names that counts; `None` if its head can't be read now or tells none of them.
async fn settled(volumes: &Volumes, id: VolumeId, names: &[(Name, NameEntry)]) -> Option<Name> {
    let look = async {
        let head = volumes.engine.cell(id).read().await?;
        if let Some(head) = &head {
            remove_dead(volumes, names, head).await?;
        }
        Ok::<_, Error>(head)
    };
    let head = volumes.unless_away(look).await?.ok()??;
    let current =
        |(name, entry): &&(Name, NameEntry)| head.standing_of(name, entry.serial) == NameStanding::Current;
    names.iter().find(current).map(|(name, _)| name.clone())
}

impl Volumes {
    /// Lets whoever uses the volume of this name know it by the name that its head tells, also where another host has renamed
    /// it.
    pub fn follow<'f>(&'f self, name: &'f Name) -> BoxFuture<'f, Result<()>> {
        Box::pin(async move { self.follow_volume(self.id(name).await?).await })
    }

    /// Does as `follow` for the volume of this id, whatever its name is.
    pub fn follow_volume(&self, id: VolumeId) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if let Some(here) = self.here(id)
                && let Some(head) = self.engine.cell(id).read().await?
            {
                here.follow_name(&head);
            }
            Ok(())
        })
    }
}
