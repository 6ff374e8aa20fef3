//! From energy to grams and litres.

use std::collections::{BTreeMap, BTreeSet};

use time::OffsetDateTime;

use super::{Average, Fact, Factor, Hardware, Intensity, Known, Marginal, Residual, Site, Timeline, Zone};
use crate::NodeId;

const PPM: u128 = 1_000_000;

/// µJ in a kWh.
const KWH_UJ: u128 = 3_600_000_000_000;

/// Use of one claimant on one node in `[from, to)`, taken as even over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its start.
    pub from: OffsetDateTime,
    /// Its end; after the start.
    pub to: OffsetDateTime,
    /// IT energy in microjoules; none where no reading covers it.
    pub energy_uj: Option<u64>,
    /// CPU time in nanoseconds, which embodied emissions are shared by.
    pub used_ns: u64,
}

impl Slot {
    /// How much of `total` is used before `at`: rounded down at each cut, so that pieces always add up to the total,
    /// and a cut elsewhere changes no piece.
    fn before(&self, total: u64, at: OffsetDateTime) -> u64 {
        let whole = (self.to - self.from).whole_nanoseconds();
        let part = (at - self.from).whole_nanoseconds();
        if part <= 0 {
            return 0;
        }
        if part >= whole {
            return total;
        }
        let share = u128::from(total)
            .checked_mul(part.unsigned_abs())
            .map(|product| product / whole.unsigned_abs());
        // The product stays below 2^128 for slots up to five centuries.
        share.and_then(|share| u64::try_from(share).ok()).unwrap_or(total)
    }

    fn between(&self, total: u64, from: OffsetDateTime, to: OffsetDateTime) -> u64 {
        self.before(total, to).saturating_sub(self.before(total, from))
    }
}

/// Why there is no figure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CarbonError {
    /// More than can be counted.
    #[error("the sum is over what can be counted: ask for a shorter period")]
    Overflow,
    /// Energy that no factor covers.
    #[error(
        "no {what} is known for {uncovered_uj} of {energy_uj} µJ: set the host's zone, or bring the missing factors"
    )]
    Missing {
        /// What is missing.
        what: &'static str,
        /// Energy without it, in microjoules.
        uncovered_uj: u64,
        /// All the energy, in microjoules.
        energy_uj: u64,
    },
}

impl CarbonError {
    /// The stable code of the problem.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Overflow => "carbon_overflow",
            Self::Missing { .. } => "carbon_missing",
        }
    }
}

/// What is known as of an instant: where nodes stand, and the intensities of their zones.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    sites: BTreeMap<NodeId, Vec<Site>>,
    average: BTreeMap<Zone, Timeline<Average>>,
    residual: BTreeMap<Zone, Timeline<Residual>>,
    marginal: BTreeMap<Zone, Timeline<Marginal>>,
}

impl Evidence {
    /// What `sites` and `factors` say as of an instant. A site holds until the next of its node begins; of those that
    /// begin together the one that became known last counts.
    pub fn new(
        sites: impl IntoIterator<Item = (NodeId, Known<Site>)>,
        factors: impl IntoIterator<Item = Known<Factor>>,
        as_of: OffsetDateTime,
    ) -> Self {
        let mut by_node: BTreeMap<NodeId, BTreeMap<OffsetDateTime, Known<Site>>> = BTreeMap::new();
        for (node, site) in sites.into_iter().filter(|(_, site)| site.known_at <= as_of) {
            let known = by_node.entry(node).or_default();
            if known
                .get(&site.it.from)
                .is_none_or(|other| other.known_at <= site.known_at)
            {
                known.insert(site.it.from, site);
            }
        }
        let (mut average, mut residual, mut marginal) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for Known { known_at, it } in factors {
            match it {
                Factor::Average(fact) => keep(&mut average, known_at, fact),
                Factor::Residual(fact) => keep(&mut residual, known_at, fact),
                Factor::Marginal(fact) => keep(&mut marginal, known_at, fact),
            }
        }
        let sites = by_node.into_iter();
        Self {
            sites: sites
                .map(|(node, known)| (node, known.into_values().map(|site| site.it).collect()))
                .collect(),
            average: timelines(average, as_of),
            residual: timelines(residual, as_of),
            marginal: timelines(marginal, as_of),
        }
    }

    /// Adds what `slot` on `node` is worth.
    ///
    /// Carbon is E·PUE·CI; market-based is max(0, E·PUE − CFE)·CI of the residual mix (GHG Protocol, Scope 2); water is
    /// E·(WUE + PUE·EWIF); embodied is SCI's TE·(TiR/EL)·(RR/ToR) with the CPU time used as the resources reserved.
    /// Fails only if a sum is over what can be counted.
    pub fn value(&self, node: NodeId, slot: &Slot, into: &mut Valuation) -> Result<(), CarbonError> {
        if let Some(energy_uj) = slot.energy_uj {
            let before = into.energy_uj.unwrap_or_default();
            into.energy_uj = Some(sum(before, u128::from(energy_uj))?);
        }
        into.used_ns = sum(into.used_ns, u128::from(slot.used_ns))?;
        let sites = self.sites.get(&node).map_or(&[][..], Vec::as_slice);
        for (index, site) in sites.iter().enumerate() {
            let to = sites
                .get(index + 1)
                .map_or(slot.to, |next| next.from.min(slot.to));
            let from = site.from.max(slot.from);
            if from >= to {
                continue;
            }
            if let Some(hardware) = site.hardware {
                let used = into.hardware.entry(hardware).or_default();
                *used = sum(*used, u128::from(slot.between(slot.used_ns, from, to)))?;
            }
            if let Some(total) = slot.energy_uj {
                let piece = Piece {
                    slot,
                    total,
                    from,
                    to,
                };
                self.carbon(site, &piece, into)?;
                water(site, &piece, &mut into.water)?;
            }
        }
        Ok(())
    }

    fn carbon(&self, site: &Site, piece: &Piece<'_>, into: &mut Valuation) -> Result<(), CarbonError> {
        let average = site.zone.as_ref().and_then(|zone| self.average.get(zone));
        let marginal = site.marginal_zone().and_then(|zone| self.marginal.get(zone));
        let residual = site.zone.as_ref().and_then(|zone| self.residual.get(zone));
        let guessed = site.pue_is_estimated;
        let pue = u128::from(site.pue_ppm);
        piece.priced(average, pue, guessed, &mut into.location)?;
        piece.priced(marginal, pue, guessed, &mut into.marginal)?;
        let bought = PPM.saturating_sub(u128::from(site.cfe_ppm));
        if bought == 0 {
            // All is carbon-free by contract: no residual mix is needed to say so.
            return into.market.add(piece.energy_uj(), 0, guessed, None);
        }
        piece.priced(
            residual,
            pue.checked_mul(bought).ok_or(CarbonError::Overflow)?,
            guessed,
            &mut into.market,
        )
    }
}

fn keep<I>(by_zone: &mut BTreeMap<Zone, Vec<Known<Fact<I>>>>, known_at: OffsetDateTime, it: Fact<I>) {
    let facts = by_zone.entry(it.zone.clone()).or_default();
    facts.push(Known { known_at, it });
}

fn timelines<I>(
    by_zone: BTreeMap<Zone, Vec<Known<Fact<I>>>>,
    as_of: OffsetDateTime,
) -> BTreeMap<Zone, Timeline<I>> {
    let each = by_zone.into_iter();
    each.map(|(zone, facts)| (zone, Timeline::new(facts, as_of)))
        .collect()
}

fn water(site: &Site, piece: &Piece<'_>, into: &mut Tally) -> Result<(), CarbonError> {
    let (Some(wue), Some(ewif)) = (site.wue_ul_per_kwh, site.ewif_ul_per_kwh) else {
        return Ok(());
    };
    let grid = u128::from(site.pue_ppm).checked_mul(u128::from(ewif));
    let own = u128::from(wue).checked_mul(PPM);
    let rate = own.zip(grid).and_then(|(own, grid)| own.checked_add(grid));
    let is_estimated = site.pue_is_estimated || site.ewif_is_estimated;
    into.add(
        piece.energy_uj(),
        rate.ok_or(CarbonError::Overflow)?,
        is_estimated,
        None,
    )
}

/// A part of a slot in which the site stays the same.
struct Piece<'a> {
    slot: &'a Slot,
    total: u64,
    from: OffsetDateTime,
    to: OffsetDateTime,
}

impl Piece<'_> {
    fn energy_uj(&self) -> u64 {
        self.slot.between(self.total, self.from, self.to)
    }

    /// Adds the piece at the intensities of `timeline`, each times `factor`.
    fn priced<I: Intensity>(
        &self,
        timeline: Option<&Timeline<I>>,
        factor: u128,
        guessed: bool,
        into: &mut Tally,
    ) -> Result<(), CarbonError> {
        let Some(timeline) = timeline else { return Ok(()) };
        for (from, to, fact) in timeline.within(self.from, self.to) {
            let rate = factor.checked_mul(u128::from(fact.intensity.mg_per_kwh()));
            into.add(
                self.slot.between(self.total, from, to),
                rate.ok_or(CarbonError::Overflow)?,
                guessed || fact.is_estimated,
                Some((&fact.source, &fact.version)),
            )?;
        }
        Ok(())
    }
}

fn sum(a: u128, b: u128) -> Result<u128, CarbonError> {
    a.checked_add(b).ok_or(CarbonError::Overflow)
}

/// An exact sum of energy times a rate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tally {
    product: u128,
    covered_uj: u128,
    estimated_uj: u128,
    /// Whether anything was known at all: energy of 0 that a factor covers is worth 0, and not unknown.
    known: bool,
    versions: BTreeSet<(String, String)>,
}

impl Tally {
    fn add(
        &mut self,
        energy_uj: u64,
        rate: u128,
        is_estimated: bool,
        version: Option<(&String, &String)>,
    ) -> Result<(), CarbonError> {
        let energy = u128::from(energy_uj);
        let product = energy.checked_mul(rate).ok_or(CarbonError::Overflow)?;
        self.product = sum(self.product, product)?;
        self.covered_uj = sum(self.covered_uj, energy)?;
        if is_estimated {
            self.estimated_uj = sum(self.estimated_uj, energy)?;
        }
        self.known = true;
        if let Some((source, version)) = version {
            let version = (source.clone(), version.clone());
            self.versions.insert(version);
        }
        Ok(())
    }

    fn figure(&self, per: u128) -> Result<Figure, CarbonError> {
        let amount = self.known.then(|| rounded(self.product, per)).transpose()?;
        Ok(Figure {
            amount,
            covered_uj: counted(self.covered_uj)?,
            estimated_uj: counted(self.estimated_uj)?,
            versions: self.versions.iter().cloned().collect(),
        })
    }
}

/// The one rounding rule: to the nearest, halves up.
fn rounded(product: u128, per: u128) -> Result<u64, CarbonError> {
    let (whole, rest) = (product / per, product % per);
    counted(whole + u128::from(rest >= per - rest))
}

fn counted(amount: u128) -> Result<u64, CarbonError> {
    // A column holds 63 bits.
    let amount = i64::try_from(amount).map_err(|_| CarbonError::Overflow)?;
    Ok(amount.unsigned_abs())
}

/// Exact sums of what slots are worth. Add up as many as there are, then take the [`Valued`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Valuation {
    /// None until a slot was metered.
    energy_uj: Option<u128>,
    used_ns: u128,
    location: Tally,
    market: Tally,
    marginal: Tally,
    water: Tally,
    hardware: BTreeMap<Hardware, u128>,
}

/// One figure, and how much of the energy it speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// In µg CO₂e, or in µl of water; none where nothing is known. Energy that is not covered is not in it.
    pub amount: Option<u64>,
    /// Energy that it covers, in microjoules.
    pub covered_uj: u64,
    /// The part of that which rests on a guess, in microjoules.
    pub estimated_uj: u64,
    /// Source and version of every factor in it.
    pub versions: Vec<(String, String)>,
}

impl Figure {
    /// The amount for all of `energy_uj`, or which of it `what` is missing for.
    pub fn whole(&self, what: &'static str, energy_uj: u64) -> Result<u64, CarbonError> {
        let uncovered_uj = energy_uj.saturating_sub(self.covered_uj);
        self.amount
            .filter(|_| uncovered_uj == 0)
            .ok_or(CarbonError::Missing {
                what,
                uncovered_uj,
                energy_uj,
            })
    }
}

/// A mass with its bounds, in µg CO₂e.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The least that is plausible.
    pub min_ug: u64,
    /// The likely one.
    pub mid_ug: u64,
    /// The most.
    pub max_ug: u64,
}

/// What use was worth, rounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Valued {
    /// IT energy in microjoules; none where no reading covers any of it.
    pub energy_uj: Option<u64>,
    /// CPU time in nanoseconds.
    pub used_ns: u64,
    /// Location-based carbon in µg: at the average intensity.
    pub location: Figure,
    /// Market-based carbon in µg: at the residual mix, without what contracts cover.
    pub market: Figure,
    /// What the same energy would have changed in µg: at the marginal intensity. Never to be added to the others.
    pub marginal: Figure,
    /// Water in µl.
    pub water: Figure,
    /// Embodied carbon; none where nothing is known of the hardware.
    pub embodied: Option<Range>,
    /// CPU time on hardware of which that is known, in nanoseconds.
    pub embodied_ns: u64,
}

impl Valuation {
    /// The figures, each rounded once.
    pub fn valued(&self) -> Result<Valued, CarbonError> {
        // µJ·ppm·mg/kWh in a µg; market-based has the share that was not bought on top.
        let per_ug = PPM * KWH_UJ / 1_000;
        Ok(Valued {
            energy_uj: self.energy_uj.map(counted).transpose()?,
            used_ns: counted(self.used_ns)?,
            location: self.location.figure(per_ug)?,
            market: self.market.figure(per_ug * PPM)?,
            marginal: self.marginal.figure(per_ug)?,
            water: self.water.figure(PPM * KWH_UJ)?,
            embodied: self.embodied()?,
            embodied_ns: self
                .hardware
                .values()
                .try_fold(0, |all, used| sum(all, *used))
                .and_then(counted)?,
        })
    }

    /// TE·(TiR/EL)·(RR/ToR), where time and threads reserved are the CPU time used: rounded once per machine.
    fn embodied(&self) -> Result<Option<Range>, CarbonError> {
        let mut total: Option<Range> = None;
        for (hardware, used_ns) in &self.hardware {
            // g·ns in a µg: 10^6 µg/g over 10^9 ns/s.
            let per = u128::from(hardware.life_s.max(1)) * u128::from(hardware.threads.max(1)) * 1_000;
            let part = |grams: u64| {
                let product = u128::from(grams).checked_mul(*used_ns);
                product
                    .ok_or(CarbonError::Overflow)
                    .and_then(|product| rounded(product, per))
            };
            let before = total.unwrap_or(Range {
                min_ug: 0,
                mid_ug: 0,
                max_ug: 0,
            });
            let add = |a: u64, b: u64| a.checked_add(b).ok_or(CarbonError::Overflow);
            total = Some(Range {
                min_ug: add(before.min_ug, part(hardware.min_g)?)?,
                mid_ug: add(before.mid_ug, part(hardware.mid_g)?)?,
                max_ug: add(before.max_ug, part(hardware.max_g)?)?,
            });
        }
        Ok(total)
    }
}
