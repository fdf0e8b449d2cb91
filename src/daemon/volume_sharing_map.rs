//! A map of a volume: which parts of the disk are its own, which it shares with snapshots or with what it was cloned from, what
//! only snapshots hold, and what is nothing at all.
//!
//! It is made of maps alone, no data is read, and only of a volume that is open here. It comes in parts, each of which takes
//! about a second at most, one at a time in the whole engine, with a pause between them: however many look, stores are asked for
//! no more pages of maps than one reader of the disk would need.

use std::time::Duration;

use serde::Serialize;

use super::api::VolumePath;
use super::engine_tables::EngineState;
use windlass_base::{Error, Kind, Result};
use windlass_volume::{Since, Volume};

/// Most cells of a map, and the least size of one.
const CELLS: u64 = 512;
const CELL_MIN: u64 = 1 << 20;
/// Time for which one part is worked on, and the pause before it.
const PART: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(100);
/// Most runs of one kind that are looked at in a cell; the rest of it is taken to be alike.
const RUNS_MAX: usize = 2048;

/// Contents of one cell, in bytes. The rest of the cell is holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Cell {
    /// Bytes that are the volume's alone.
    pub own_bytes: u64,
    /// Bytes that the newest snapshot has too, or the snapshot that the volume was cloned from.
    pub shared_bytes: u64,
    /// Bytes where the newest snapshot may have something that the volume has no more.
    pub gone_bytes: u64,
    /// Is true if the cell was too torn to be looked at whole.
    pub guess: bool,
}

/// Some cells of a volume's map.
#[derive(Clone, Debug, Serialize)]
pub struct DiskMapPart {
    pub path: VolumePath,
    pub size: u64,
    pub cell_bytes: u64,
    /// The snapshot that the volume is compared to. None if the volume has none whose map is stored.
    pub snapshot: Option<String>,
    pub from: u64,
    /// Cell with which the next part begins; none if this is the last part.
    pub next: Option<u64>,
    pub cells: Vec<Cell>,
}

/// A length in bytes, and whether something holds for these bytes.
type Run = (u64, bool);

fn cell_bytes(size: u64) -> u64 {
    size.div_ceil(CELLS).next_multiple_of(CELL_MIN)
}

/// Draws the part that begins with this cell.
///
/// # Errors
/// `Unavailable`: the volume is not open here, or another map is being drawn. `Usage`: no map has so many cells.
pub async fn part(state: &EngineState, path: VolumePath, from: u64) -> Result<DiskMapPart> {
    if from > CELLS {
        return Err(Error::new(Kind::Usage, format!("a map has {CELLS} cells at most")));
    }
    let opened = state.pools.opened();
    let open = opened
        .iter()
        .find(|(name, _)| *name == path.pool)
        .and_then(|(_, open)| open.volumes.open_here(&path.volume));
    let volume = open.filter(|volume| volume.is_known()).ok_or_else(|| {
        Error::new(
            Kind::Unavailable,
            format!("{path} is not open here: its map is drawn while a client uses it"),
        )
    })?;
    let turn = state.at_work.map_turn.try_lock();
    let _turn = turn.map_err(|_| Error::new(Kind::Unavailable, "another map is being drawn: try again"))?;
    let rt = &state.host_context.rt;
    rt.sleep(PAUSE).await;
    let (size, began) = (volume.size(), rt.now());
    let (cell, newest) = (cell_bytes(size), volume.newest_stored());
    let mut cells = Vec::new();
    let mut at = from;
    while at * cell < size && (cells.is_empty() || rt.now().since(began) < PART) {
        let offset = at * cell;
        let since = newest.as_ref().map(|(_, since)| since);
        cells.push(look(&volume, since, offset, cell.min(size - offset)).await?);
        at += 1;
    }
    let snapshot = newest.map(|(name, _)| format!("{path}@{name}"));
    let next = (at * cell < size).then_some(at);
    Ok(DiskMapPart { path, size, cell_bytes: cell, snapshot, from, next, cells })
}

async fn look(volume: &Volume, since: Option<&Since>, offset: u64, len: u64) -> Result<Cell> {
    let data = volume.allocation(offset, len, RUNS_MAX).await?;
    let changed = match since {
        Some(since) => volume.changed_since(since, offset, len, RUNS_MAX).await?,
        // Whatever it has, no snapshot has it.
        None => vec![(len, true)],
    };
    let inherited = volume.inherited(offset, len, RUNS_MAX).await?;
    Ok(tally(len, [&data, &changed, &inherited], since.is_some()))
}

/// Tallies three kinds of runs over one range: data, changed since a snapshot, inherited. Where one of them ends
/// early, what is behind is taken to be as what is before.
fn tally(len: u64, runs: [&[Run]; 3], has_snapshot: bool) -> Cell {
    let mut rest = runs.map(|runs| runs.iter().copied().filter(|(bytes, _)| *bytes > 0));
    let mut heads: [Option<Run>; 3] = rest.each_mut().map(Iterator::next);
    let (mut seen, mut own, mut shared, mut gone) = (0, 0, 0, 0);
    while let [Some((a, data)), Some((b, changed)), Some((c, inherited))] = heads {
        let step = a.min(b).min(c);
        match (data, changed && !inherited) {
            (true, true) => own += step,
            (true, false) => shared += step,
            (false, _) if has_snapshot && changed => gone += step,
            _ => {}
        }
        seen += step;
        for (head, rest) in heads.iter_mut().zip(&mut rest) {
            *head = match *head {
                Some((bytes, is)) if bytes > step => Some((bytes - step, is)),
                _ => rest.next(),
            };
        }
    }
    let scaled = |bytes: u64| match seen {
        0 => 0,
        seen => (u128::from(bytes) * u128::from(len) / u128::from(seen)) as u64,
    };
    Cell { own_bytes: scaled(own), shared_bytes: scaled(shared), gone_bytes: scaled(gone), guess: seen < len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_has_a_bounded_number_of_cells() {
        for size in [1, 1 << 20, (1 << 20) + 1, 10 << 30, (16 << 40) - 512, 64 << 40] {
            let cell = cell_bytes(size);
            let cells = size.div_ceil(cell);
            assert!(cells <= CELLS && cell.is_multiple_of(CELL_MIN), "{size}: {cells} of {cell}");
            assert!((cells - 1) * cell < size);
        }
    }

    #[test]
    fn a_cell_tells_what_is_own_shared_gone_and_nothing() {
        let cell =
            |own, shared, gone, guess| Cell { own_bytes: own, shared_bytes: shared, gone_bytes: gone, guess };
        let all = |is| vec![(100, is)];
        // Data at 0..50, changed at 25..75.
        let data = [(50, true), (50, false)];
        let changed = [(25, false), (50, true), (25, false)];
        assert_eq!(tally(100, [&data, &changed, &all(false)], true), cell(25, 25, 25, false));
        // A clone without a snapshot: 0..10 is its origin's.
        let inherited = [(10, true), (90, false)];
        assert_eq!(tally(100, [&data, &all(true), &inherited], false), cell(40, 10, 0, false));
        assert_eq!(tally(100, [&all(false), &all(true), &all(false)], false), cell(0, 0, 0, false));
        // Looked at up to 50 only, of which half is data.
        let cut = [(25, true), (25, false)];
        assert_eq!(tally(100, [&cut, &all(true), &all(false)], false), cell(50, 0, 0, true));
        assert_eq!(tally(100, [&[], &all(true), &all(false)], false), cell(0, 0, 0, true));
    }
}
