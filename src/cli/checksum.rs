//! `windlass volume checksum`: the sum of the bytes of a volume or snapshot.

use std::process::ExitCode;
use std::sync::Arc;

use serde::Serialize;

use super::export::{Remote, State};
use super::reach_engine::{Door, or_interrupted};
use super::transfer_bar::TransferBar;
use super::{Global, output};
use crate::base::Result;
use crate::base::rt::{RealRuntime, Rt};
use crate::daemon::api::Outcome;
use crate::image::export::{Nowhere, Origin as _, Recipe, export};

#[derive(clap::Args, Debug)]
pub struct Checksum {
    /// POOL/VOLUME, POOL/VOLUME@SNAPSHOT, or POOL/VOLUME@TIME in UTC, as 2026-11-24T07:15
    of: State,
}

#[derive(Debug, Serialize)]
struct Sum {
    path: String,
    size: u64,
    blake3: String,
}

pub async fn checksum(global: &Global, args: Checksum) -> Result<ExitCode> {
    let rt = Rt::new(RealRuntime::current());
    let found = args.of.find(global).await?;
    let door = Door::open(global).await?;
    let summed = async {
        let origin = Arc::new(Remote::connect(&door, &found, None).await?);
        let size = origin.size();
        let mut bar = TransferBar::new(format!("summing {found}"), size);
        let done = export(&rt, origin, Recipe::sum(), &mut Nowhere, |at| bar.reach(at)).await?;
        Ok((size, done.sum.unwrap_or_default()))
    };
    let summed = or_interrupted(summed).await;
    let (size, blake3) = door.close(summed).await?;
    let sum = Sum { path: found.to_string(), size, blake3 };
    match global.json {
        true => output::line(&Outcome::of(&sum)?.value.to_string()),
        false => output::line(&format!("{}  {}", sum.blake3, sum.path)),
    }
    Ok(ExitCode::SUCCESS)
}
