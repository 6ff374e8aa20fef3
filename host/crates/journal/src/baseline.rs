//! Where the next window begins: the last reading that the sealer believed of each root.

use domain::energy::Reading;
use domain::posting::{Posting, PostingRoot};
use uuid::Uuid;

/// Moves the baseline over a sealed window that covers `slices` (their readings, in order).
///
/// The window of a crash ends at readings that are in no slice, only in its own rows, and in `newest`
/// if the next epoch's start was journalled before it.
pub(crate) fn advance(
    baseline: &mut Vec<Reading>,
    slices: impl Iterator<Item = Vec<Reading>>,
    posting: &Posting,
    newest: &[Reading],
) {
    let place = |reading: &Reading| (reading.root.name.clone(), reading.boot_id);
    let mut seen: Vec<(String, Uuid)> = baseline.iter().map(place).collect();
    for reading in slices.flatten() {
        seen.push(place(&reading));
        believe(baseline, reading);
    }
    for row in &posting.roots {
        let of_row =
            |reading: &&Reading| reading.root.name == row.root.name && reading.boot_id == row.boot_id;
        let last = baseline.iter().find(of_row);
        let left_behind = last.is_none() && seen.contains(&(row.root.name.clone(), row.boot_id));
        if left_behind || last.is_some_and(|last| last.counter_uj == row.end_uj) {
            continue;
        }
        let exact = newest
            .iter()
            .filter(of_row)
            .find(|reading| reading.counter_uj == row.end_uj);
        let end = exact.cloned().unwrap_or_else(|| at_end_of(row, last));
        believe(baseline, end);
    }
}

/// Goes on to a new epoch, which begins with `readings`. A root of the same boot stays where its last
/// window ended, or the energy between would be in no window. Returns whether there is none.
pub(crate) fn start(baseline: &mut Vec<Reading>, readings: &[Reading]) -> bool {
    let mut follows = true;
    for now in readings {
        let last = baseline
            .iter()
            .find(|last| last.root.name == now.root.name && last.boot_id == now.boot_id);
        match last {
            Some(last) if last.counter_uj < now.counter_uj => follows = false,
            _ => believe(baseline, now.clone()),
        }
    }
    follows
}

/// As the sealer does: a counter that falls within a boot is not believed.
fn believe(baseline: &mut Vec<Reading>, now: Reading) {
    match baseline.iter_mut().find(|last| last.root.name == now.root.name) {
        Some(last) if last.boot_id == now.boot_id && last.counter_uj > now.counter_uj => {}
        Some(last) => *last = now,
        None => baseline.push(now),
    }
}

fn at_end_of(row: &PostingRoot, last: Option<&Reading>) -> Reading {
    let unknown = || Reading {
        root: row.root.clone(),
        boot_id: row.boot_id,
        at_ns: 0,
        counter_uj: 0,
        floor_uw: 0,
        state: Vec::new(),
    };
    Reading {
        counter_uj: row.end_uj,
        ..last.cloned().unwrap_or_else(unknown)
    }
}
