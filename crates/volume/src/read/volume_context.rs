//! What all of one open volume stands on: its pool's engine, its register, and its name, size and settings as heads last
//! told them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::engine_context::EngineContext;
use super::volume_reader::View;
use crate::head::Head;
use crate::head::HeadRegister;
use crate::head::Record;
use crate::head::VolumeSettings;
use windlass_base::rt::Rt;
use windlass_base::{Epoch, Name, Result, VolumeId};
use windlass_journal::JournalConfig;
use windlass_keys::{KeyAccess, VolumeKey};

/// The base on which all parts of one open volume stand.
#[derive(Debug)]
pub struct VolumeContext {
    pub engine: Arc<EngineContext>,
    pub id: VolumeId,
    /// Name for messages: as the volume was opened, then as heads tell it that were read since.
    name: Mutex<Name>,
    /// Round of the head that last told the name: an older one says nothing new.
    named_in: AtomicU64,
    pub cell: HeadRegister,
    /// Record of how far the volume is known to have come.
    pub confirmed: Record,
    pub view: View,
    /// Size in bytes, as the newest head that was seen from here tells it.
    size: AtomicU64,
    /// Index of the volume itself, in the list of its ancestors and itself.
    pub index: u16,
    /// Key of an encrypted volume, as it was when the volume was opened.
    pub key: Option<VolumeKey>,
    settings: Mutex<VolumeSettings>,
    pub settings_changed: Notify,
    /// The last ownership that began here since this volume was opened: what it wrote is in this process's
    /// journal.
    pub began: Mutex<Option<Epoch>>,
    /// Held during a change of the settings, so that there is one at a time.
    pub changing_settings: tokio::sync::Mutex<()>,
}

impl VolumeContext {
    pub fn new(
        engine: Arc<EngineContext>,
        name: Name,
        head: &Head,
        cell: HeadRegister,
    ) -> Arc<VolumeContext> {
        let view = engine.view(head);
        let key = view.keys().access(head.volume).key().ok().flatten().cloned();
        let (id, size, settings) = (head.volume, AtomicU64::new(head.size), Mutex::new(head.settings));
        let (index, confirmed) = (head.own_index(), engine.confirmed(head.volume));
        let name = Mutex::new(head.naming.name.clone().unwrap_or(name));
        let named_in = AtomicU64::new(head.naming.round);
        let (settings_changed, changing_settings, began) = Default::default();
        Arc::new(VolumeContext {
            engine,
            id,
            name,
            named_in,
            cell,
            confirmed,
            view,
            size,
            index,
            key,
            settings,
            settings_changed,
            began,
            changing_settings,
        })
    }

    /// Returns the keys by which what belongs to the volume is opened.
    pub fn access(&self) -> KeyAccess {
        self.view.keys().access(self.id).clone()
    }

    /// Takes in the volume's data keys that a newer head than that of the opening has. Returns whether some
    /// were news.
    pub fn learn_keys(&self, head: &Head) -> Result<bool> {
        let Some(root) = self.engine.volume_key(head) else { return Ok(false) };
        self.engine.learn_data_keys(head, self.view.keys(), &root)
    }

    /// Returns where the volume's journal lies, and its key.
    pub fn journal(&self) -> JournalConfig {
        let key = self.view.keys().journal_key().cloned();
        JournalConfig { key, ..self.engine.journal(self.id, &self.settings()) }
    }

    /// Returns the settings in force.
    pub fn settings(&self) -> VolumeSettings {
        *self.settings.lock()
    }

    /// Puts these settings into force.
    pub fn follow(&self, settings: VolumeSettings) {
        *self.settings.lock() = settings;
        self.settings_changed.notify_waiters();
    }

    pub fn rt(&self) -> &Rt {
        &self.engine.rt
    }

    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }

    /// Writes down that this head is known to be chosen; nobody waits for it.
    pub fn confirmed_in_time(&self, head: &Head) {
        let (record, head, guesses) = (self.confirmed.clone(), head.clone(), self.engine.pool.guesses());
        self.rt().spawn(async move { record.keep(&head, guesses).await }).detach();
    }

    pub fn name(&self) -> Name {
        self.name.lock().clone()
    }

    /// Takes in the name that a head tells, since the volume may have been renamed.
    pub fn follow_name(&self, head: &Head) {
        if let Some(name) = &head.naming.name {
            let mut known = self.name.lock();
            if head.naming.round >= self.named_in.load(Ordering::Relaxed) {
                known.clone_from(name);
                self.named_in.store(head.naming.round, Ordering::Relaxed);
            }
        }
    }

    /// Returns the name by which users know the volume.
    pub fn title(&self) -> String {
        self.engine.title(&self.name())
    }
}
