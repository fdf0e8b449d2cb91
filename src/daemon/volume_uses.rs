//! The uses of volumes that are open here, or asked for: who is counted in which, by which name it is found, and what it keeps
//! others from.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::api::VolumePath;
use super::io_tally::IoTally;
use windlass_base::units::show_count;
use windlass_base::{Error, Kind, Name, PoolId, Result, VolumeId};
use windlass_volume::{Attachment, Passage, Reading, Volume, Volumes};

/// Text for what is done to a volume that one command alone may write to. Commands go on with it meanwhile, as to
/// take a snapshot.
pub const FILLED: &str = "filled by a command";

#[derive(Debug)]
pub struct Client {
    /// Name of the client in messages.
    pub name: String,
    /// Token that ends the connection when it is cancelled. A command has none, and comes to its end by itself.
    pub hang_up: Option<CancellationToken>,
    /// The volume as this client opened it. One that was opened anew since, for others, may work where this one fails.
    pub opened: Weak<Volume>,
}

/// A hold by which a volume is held alone, for as long as somebody has a guard of it.
#[derive(Debug)]
pub struct Hold {
    /// Text that tells what is being done to the volume.
    pub what: &'static str,
    pub guards: u64,
}

/// Key of a volume, whatever its name is.
pub type VolumeKey = (PoolId, VolumeId);

pub fn key_of(volume: &Volume) -> VolumeKey {
    (volume.pool(), volume.id())
}

#[derive(Debug, Default)]
pub struct Use {
    /// The volume, once one of the clients has opened it. No two uses are of one volume.
    pub of: Option<VolumeKey>,
    /// Clients by the numbers of their visits.
    pub clients: BTreeMap<u64, Client>,
    /// Number of arrivals. By it a timer that was set before a later visit does nothing.
    pub visits: u64,
    /// Hold of a command that has the volume alone.
    pub alone: Option<Hold>,
    /// Clients that have written and are still connected, each with the number of its connections that have.
    pub writers: BTreeMap<String, u64>,
    /// Is true once the log has said that several clients write.
    pub warned: bool,
    /// The volume as it is open here: it tells by which name it goes now.
    pub volume: Weak<Volume>,
    /// Counts of clients' requests to the volume.
    pub io: Arc<IoTally>,
    /// Passage by which clients' requests go to the volume.
    pub passage: Arc<Passage>,
    /// Pool that the volume was moved to while clients used it.
    pub moved: Option<(Name, Volumes)>,
    /// Marks that tell other hosts of clients who came to the volume before its move, until the last of all clients
    /// has left.
    pub by_move: Option<(Arc<Attachment>, Reading)>,
}

/// One volume in use, for listings.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    pub path: VolumePath,
    pub clients: u64,
    /// Text that tells why requests of a client fail for good, if those of one do: it holds the volume as it was opened
    /// before it failed, and others may have opened it anew since.
    #[serde(skip)]
    pub failure: Option<String>,
    /// Counts of clients' requests to the volume since the first client came.
    #[serde(skip)]
    pub io: Arc<IoTally>,
}

impl SessionInfo {
    pub fn of_nobody(path: VolumePath) -> SessionInfo {
        SessionInfo { path, clients: 0, failure: None, io: Arc::default() }
    }
}

/// Uses of volumes by their names, as far as this host knows these; several of one name where a volume took that name while
/// others asked for it, or where another host gave the name to another volume. Whoever joins or ends one holds the lock of
/// all.
pub type Uses = BTreeMap<VolumePath, Vec<Arc<Mutex<Use>>>>;

/// Puts each use of a volume that was renamed, or moved, under its new name.
pub fn follow_names(uses: &mut Uses) {
    let mut moved = Vec::new();
    for (path, all) in uses.iter_mut() {
        all.retain(|one| {
            let Some(now) = one.lock().path(path).filter(|now| now != path) else { return true };
            moved.push((now, one.clone()));
            false
        });
    }
    if moved.is_empty() {
        return;
    }
    uses.retain(|_, all| !all.is_empty());
    // Before those who asked for that name in vain: who comes next joins them.
    for (path, one) in moved {
        uses.entry(path).or_default().insert(0, one);
    }
}

impl Use {
    /// Returns what the volume is called now, once it is open.
    pub fn name(&self) -> Option<Name> {
        self.volume.upgrade().map(|volume| volume.name())
    }

    /// Returns where the volume is now that was asked for by this path, once it is open.
    pub fn path(&self, asked: &VolumePath) -> Option<VolumePath> {
        let pool = self.moved.as_ref().map_or(&asked.pool, |(pool, _)| pool).clone();
        Some(VolumePath { pool, volume: self.name()? })
    }

    pub fn visit(&mut self) -> u64 {
        self.visits += 1;
        self.visits
    }

    /// Tells whether nobody is there, and nobody has the volume alone.
    pub fn is_over(&self) -> bool {
        self.clients.is_empty() && self.alone.is_none()
    }

    /// Returns why requests of a client fail for good, if those of one do.
    pub fn failure(&self) -> Option<String> {
        let opened = self.clients.values().filter_map(|client| client.opened.upgrade());
        // A client of a volume that has moved goes on with the other one.
        opened.map(|volume| self.passage.leads_to(&volume)).find_map(|volume| volume.failure())
    }

    pub fn hang_up(&self) -> usize {
        self.clients.values().flat_map(|c| &c.hang_up).map(CancellationToken::cancel).count()
    }
}

/// Returns the use of this volume: that in which its users are counted, else `counted` where that is of no volume
/// yet, else a new one.
pub fn use_of(
    uses: &mut Uses,
    counted: &Arc<Mutex<Use>>,
    path: &VolumePath,
    volume: &Arc<Volume>,
) -> Arc<Mutex<Use>> {
    let key = key_of(volume);
    let found = use_by_key(uses, key).unwrap_or_else(|| match counted.lock().of {
        None => counted.clone(),
        Some(_) => Arc::default(),
    });
    let is_new = {
        let mut one = found.lock();
        let is_new = one.of.is_none() && !Arc::ptr_eq(&found, counted);
        (one.of, one.volume) = (Some(key), Arc::downgrade(volume));
        is_new
    };
    if is_new {
        // Before the volume that had the name: who comes next by the name joins this one.
        uses.entry(path.clone()).or_default().insert(0, found.clone());
    }
    found
}

/// Returns the use in which users of this volume are counted.
pub fn use_by_key(uses: &Uses, of: VolumeKey) -> Option<Arc<Mutex<Use>>> {
    uses.values().flatten().find(|one| one.lock().of == Some(of)).cloned()
}

/// Returns the use in which to hold a volume that is in no use yet, by its name. It is never the use of another
/// volume.
pub fn use_to_hold(uses: &mut Uses, path: &VolumePath, of: Option<VolumeKey>) -> Arc<Mutex<Use>> {
    let all = uses.entry(path.clone()).or_default();
    let fits = |one: &&Arc<Mutex<Use>>| of.is_none() || one.lock().of.is_none();
    if let Some(one) = all.first().filter(fits) {
        return one.clone();
    }
    let new: Arc<Mutex<Use>> = Arc::default();
    // Who comes next by the name joins this one.
    all.insert(0, new.clone());
    new
}

/// Fails with `Owned` if a command has the volume alone. The error names the command, where it is a client.
pub fn check_free(path: &VolumePath, all: &[Arc<Mutex<Use>>], is_command: bool) -> Result<()> {
    for one in all {
        let one = one.lock();
        let Some(Hold { what, .. }) = one.alone else { continue };
        if what == FILLED && is_command {
            continue;
        }
        let names = one.clients.values().map(|client| client.name.as_str()).collect::<Vec<_>>().join(", ");
        let who = if names.is_empty() { names } else { format!(" ({names})") };
        return Err(Error::new(Kind::Owned, format!("{path} is being {what}{who}: try again when it is")));
    }
    Ok(())
}

/// Fails with `Owned`, by their names, while somebody uses the volume, but for those who will be hung up on.
pub fn check_unused(path: &VolumePath, all: &[Arc<Mutex<Use>>], hang_up: bool) -> Result<()> {
    let mut names = Vec::new();
    for one in all {
        let one = one.lock();
        let stays = one.clients.values().filter(|c| !hang_up || c.hang_up.is_none());
        names.extend(stays.map(|c| c.name.clone()));
    }
    if names.is_empty() {
        return Ok(());
    }
    let many = show_count(names.len() as u64, "client");
    let why = format!("{path} has {many} connected ({}): disconnect first", names.join(", "));
    Err(Error::new(Kind::Owned, why))
}

/// Returns the number of one volume's clients.
pub fn clients(all: &[Arc<Mutex<Use>>]) -> u64 {
    all.iter().map(|one| one.lock().clients.len() as u64).sum()
}
