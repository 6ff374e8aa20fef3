//! Where a node stands, and what its building and hardware add to the energy that it uses.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::Zone;

/// What is known of a node's place since an instant, until the next such fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Since when it holds.
    pub from: OffsetDateTime,
    /// The grid that feeds it; none where nobody said.
    pub zone: Option<Zone>,
    /// The grid's name for marginal intensities, where it differs.
    pub marginal_zone: Option<Zone>,
    /// Power usage effectiveness: facility energy per IT energy, in parts per million; at least a million.
    pub pue_ppm: u32,
    /// Whether the PUE is a guess.
    pub pue_is_estimated: bool,
    /// Water that the site evaporates per kWh of IT energy (WUE), in µl; none where it is not known.
    pub wue_ul_per_kwh: Option<u64>,
    /// Water that making the grid's electricity consumes per kWh (EWIF), in µl; none where it is not known.
    pub ewif_ul_per_kwh: Option<u64>,
    /// Whether the EWIF is a guess.
    pub ewif_is_estimated: bool,
    /// The share of the facility's energy that carbon-free contracts cover, in parts per million.
    pub cfe_ppm: u32,
    /// The machine; none where what it took to make it is not known.
    pub hardware: Option<Hardware>,
}

/// What it took to make a machine, for its embodied emissions. Such figures differ by a factor of two between sources,
/// so there are always three of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hardware {
    /// Total embodied emissions, in g CO₂e: the least that is plausible.
    pub min_g: u64,
    /// The likely one.
    pub mid_g: u64,
    /// The most.
    pub max_g: u64,
    /// Expected lifespan, in seconds; above 0.
    pub life_s: u64,
    /// Threads that share it; above 0.
    pub threads: u32,
}

impl Site {
    /// The zone to look up marginal intensities by.
    pub fn marginal_zone(&self) -> Option<&Zone> {
        self.marginal_zone.as_ref().or(self.zone.as_ref())
    }
}
