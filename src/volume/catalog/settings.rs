//! Changing the settings of a volume, whoever owns it.

use super::volumes::{OpenMode, Volumes};
use crate::base::{Kind, Name, Result, VolumeId};
use crate::volume::handle::Known;
use crate::volume::head::{Head, VolumeSettings};

impl Volumes {
    /// All of the assignments (`KEY=VALUE`) or none. The owner changes them in its session, which follows at once; of a
    /// released volume anybody changes them. `Owned`: another host owns it.
    pub async fn set(&self, name: &Name, assignments: &[String]) -> Result<()> {
        VolumeSettings::default().assigned(assignments)?;
        let id = self.id_in_an_outage(name).await?;
        match self.set_released(name, id, assignments).await? {
            Some(changed) => {
                if let Some(here) = self.here(id) {
                    here.settings_were_changed(changed.settings);
                }
            }
            None => self.open(name, OpenMode::Normal).await?.change_settings(assignments).await?,
        }
        Ok(())
    }

    /// `None`: somebody owns it.
    async fn set_released(&self, name: &Name, id: VolumeId, assignments: &[String]) -> Result<Option<Head>> {
        let owned = |head: &Head| !head.active.released || head.standing().is_some();
        if matches!(self.here(id).map(|v| v.known()), Some(Known::Live(_)))
            || owned(&self.head(name, id).await?)
        {
            return Ok(None);
        }
        let cell = self.engine.cell_above(name, id).await;
        match cell.change(|head| head.set_settings(None, assignments)).await {
            Err(e) if e.is(Kind::Owned) => Ok(None),
            done => done.map(Some),
        }
    }
}
