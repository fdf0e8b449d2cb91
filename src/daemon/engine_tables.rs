//! The state of a running engine: the tables that verbs and faces work on. Its life is `engine`'s.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::answers::{KeptOf, ReplicaLine};
use super::config::Config;
use super::failed_attempts::Troubles;
use super::key_places::ConfiguredKeys;
use super::mounts::Mounts;
use super::pool_capacity::Capacities;
use super::pools::Pools;
use super::replica_state::Replicas;
use super::state_dir::HostContext;
use super::volume_clients::VolumeClients;
use super::works::Works;
use windlass_base::Name;
use windlass_base::rt::Instant;
use windlass_nbd::{Access, Address};

/// Tables of a running engine. See the module.
#[derive(Debug)]
pub struct EngineState {
    pub host_context: HostContext,
    /// The configuration file as it was read last.
    pub config: Mutex<Arc<Config>>,
    /// Keys of encrypted volumes, as the configuration names them.
    pub keys: Arc<ConfiguredKeys>,
    pub pools: Pools,
    pub sessions: Arc<VolumeClients>,
    pub mounts: Arc<Mounts>,
    /// Last look at how full the pools are.
    pub capacities: Capacities,
    /// Copies of volumes that are kept up.
    pub replicas: Replicas,
    /// Attempts that were made in vain.
    pub troubles: Troubles,
    /// Rules that let NBD clients in.
    pub access: Arc<Access>,
    /// Addresses where NBD clients connect, ports resolved.
    pub nbd: Mutex<Vec<Address>>,
    /// Addresses where the metrics are read.
    pub metrics: Mutex<Vec<Address>>,
    /// Address where hosts connect whose peer this one is.
    pub mirror: Mutex<Option<Address>>,
    /// Pools that are to be open from the start on; none until it is known which.
    pub served: Mutex<Option<BTreeSet<Name>>>,
    /// Last look for `watch` at what is not looked at each time.
    pub last_look: Mutex<LastLook>,
    pub at_work: AtWork,
    /// Time at which the engine started.
    pub began: Instant,
    /// Cancelled when the engine ends.
    pub stop: CancellationToken,
}

/// Work that is being done, and the turns for work that takes much memory.
#[derive(Debug, Default)]
pub struct AtWork {
    /// Commands that are under way.
    pub works: Works,
    /// Lock that is held while a volume is summed: one at a time.
    pub sum_turn: tokio::sync::Mutex<()>,
    /// Lock that is held while a map of a volume is drawn: one at a time.
    pub map_turn: tokio::sync::Mutex<()>,
}

/// Findings that cost requests or reads of the local disk, as they were when somebody watched last.
#[derive(Clone, Debug, Default)]
pub struct LastLook {
    /// Time at which the last look began.
    pub at: Option<Instant>,
    pub found: LocalLook,
}

/// Findings on the local disk.
#[derive(Clone, Debug, Default)]
pub struct LocalLook {
    pub kept_files: Vec<KeptOf>,
    pub kept_journals: Vec<PathBuf>,
    /// Journals of volumes that stay this host's: open ones, and those that a daemon which ended has left.
    pub left_journals: Vec<PathBuf>,
    /// Bytes that are free for the state folder; none where that can't be told.
    pub room_bytes: Option<u64>,
}

impl EngineState {
    pub fn config(&self) -> Arc<Config> {
        self.config.lock().clone()
    }

    /// Returns the copies that are kept up, and how far they are behind.
    pub fn replica_lines(&self) -> Vec<ReplicaLine> {
        self.replicas.lines(&self.config().replicas(), self.host_context.rt.wall_ms())
    }

    pub fn metrics_addresses(&self) -> Vec<Address> {
        self.metrics.lock().clone()
    }

    pub fn nbd_addresses(&self) -> Vec<Address> {
        self.nbd.lock().clone()
    }
}
