//! Changing the settings of a volume that is open here.
//!
//! A flush that was acknowledged never means less than what was promised when it was asked for: the head says `pool` only
//! when all that was flushed before is in the pool, and as long as it says so flushes mean that. So whoever reads it, a host
//! that takes the volume over too, may rely on it.

use std::sync::Arc;

use super::volume_handle::Volume;
use crate::head::{FlushMode, Stop, VolumeSettings};
use crate::read::VolumeContext;
use crate::session::Session;
use windlass_base::Result;

/// Guard under which flushes mean `pool`, whatever the head says. What was in force before comes back when it is dropped,
/// unless it is `kept`.
struct Stricter<'a> {
    session: &'a Session,
    before: VolumeSettings,
    kept: bool,
}

impl<'a> Stricter<'a> {
    fn begin(session: &'a Session) -> Stricter<'a> {
        let before = session.context.settings();
        session.follow(VolumeSettings { flush: FlushMode::Pool, ..before });
        Stricter { session, before, kept: false }
    }
}

impl Drop for Stricter<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.session.follow(self.before);
        }
    }
}

impl Volume {
    /// Makes this engine the owner where it isn't, and changes the settings: all or none. Given up before the head is
    /// changed it changes nothing.
    pub(crate) async fn change_settings(&self, assignments: &[String]) -> Result<()> {
        let _one = self.context().changing_settings.lock().await;
        self.ask(|session| async move { change(&session, assignments).await }).await
    }

    /// Follows settings that somebody has changed while nobody owns the volume.
    pub(crate) fn settings_were_changed(&self, settings: VolumeSettings) {
        self.context().follow(settings);
    }
}

async fn change(session: &Arc<Session>, assignments: &[String]) -> Result<(), Stop> {
    let context: &VolumeContext = &session.context;
    let now = context.settings();
    let wanted = now.assigned(assignments)?;
    let mut stricter = None;
    if wanted.flush != now.flush && (wanted.flush == FlushMode::Pool || now.flush == FlushMode::Local) {
        stricter = Some(Stricter::begin(session));
        let upto = session.tip.lock().lsn;
        session.promise(upto).await?;
    }
    // It may be recorded from here on, also where the answer says that it isn't known.
    stricter.iter_mut().for_each(|stricter| stricter.kept = true);
    let (session, assignments) = (session.clone(), assignments.to_vec());
    let rt = context.rt().clone();
    let recorded = rt.spawn(async move {
        let epoch = session.epoch;
        let head = session.change(|head| head.set_settings(Some(epoch), &assignments)).await?;
        session.follow(head.settings);
        Ok(())
    });
    recorded.await?
}
