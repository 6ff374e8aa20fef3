//! The filter of one root: recursive least squares with forgetting, over floor, waking, bends and costs.
//!
//! Kept are sums of products of all terms, to which the state is fitted anew within its bounds. A filter that
//! moves the state itself from part to part and clips it loses its way: its covariance no longer fits its state.
//!
//! Units within: watts, CPUs busy (or devices), 10⁹ bytes or fuel per second, seconds. The formula is in
//! [`super`].

mod classes;
mod fit;
mod part;
mod report;
mod share;

use serde::{Deserialize, Serialize};

use super::envelope::Envelope;
use super::matrix::Symmetric;
use super::{Banded, Z95, whole_uw, whole_weights};
use crate::attribution::Span;
use crate::calibrate::Calibration;
use crate::energy::Root;
use crate::posting::Slice;
use crate::weights::{Class, ClassWeights, Feature, RootWeights, class_features, is_device};
use part::{Part, Who};
pub(super) use share::Tally;

/// Classes that one root tells apart; the others go by the common weights.
pub(super) const MAX_CLASSES: usize = 32;
/// A class that used nothing for this many slices may lose its place to a new one.
const CLASS_KEPT: u64 = 600;

// Where things stand in the state, and those up to LINEAR in the terms.
const FLOOR: usize = 0;
const OCCUPIED: usize = 1;
const TRAFFIC: usize = 2;
const FUEL: usize = 3;
const LINEAR: usize = 4;
const BEND: usize = 4;
const COST: usize = 6;
// Costs of a CPU, from COST on: the common one, and what deviates from it. Then two for each class, of its
// guests and of its models.
const COMMON: usize = 0;
const MODEL: usize = 1;
const FOREIGN: usize = 2;
const CLASSES: usize = 3;
const PER_CLASS: usize = 2;
/// Terms of a cost: as it is, and twice bent.
const PER_COST: usize = 3;

/// Costs by which a CPU goes, each with a factor.
type Costs = Vec<(usize, f64)>;

// What is expected before anything is seen, in parts of what a CPU costs on the mean: means and standard
// deviations. Assumptions, and wide ones: what slices show overrides them in minutes.
/// What wakes with the first CPU, and what each takes beside that.
const WAKING: (f64, f64) = (0.3, 0.3);
const BUSY: (f64, f64) = (0.7, 0.5);
/// What company does to the cost of a CPU: turbo and SMT take some ten percent per doubling. The two
/// coefficients have no unit.
const BENDS: [(f64, f64); 2] = [(-0.15, 0.1), (0.0, 0.03)];
/// How far guests' code, which all comes out of one compiler, differs.
const GUESTS: f64 = 0.1;
/// How far kernels of models differ, and how far they are from guests: by two or three times (Molka et al., IGCC
/// 2010). Others do anything.
const KERNELS: f64 = 0.3;
const MODELS: f64 = 0.5;
const OTHERS: f64 = 0.3;
/// On a device all is kernels.
const DEVICE: f64 = 0.5;
/// What 10⁹ bytes, and 10⁹ fuel, tell beyond time: a CPU burns and moves some 10⁹ a second.
const PER_UNIT: f64 = 0.02;
/// The parts of so many seconds err together: the model's error is that of their mix, and not new in each.
const ALIKE_S: f64 = 1.0;
/// Seconds in which the fit forgets most: a machine's curve and its releases stay, meters and mixes change.
const MEMORY_S: f64 = 3_600.0;
/// Seconds in which the floor follows what idle slices say beyond that: as fast as the air changes.
const FLOOR_MEMORY_S: f64 = 30.0;
/// Seconds for which others do the same work.
const FOREIGN_MEMORY_S: f64 = 10.0;
/// How far the model errs at first, of the dynamic power.
const FIRST_NOISE: f64 = 0.05;
/// The share of the whole power by which an idle slice can still be wrong, beside the noise.
const IDLE_DOUBT: f64 = 0.1;
/// Slices over which the noise is learnt.
const NOISE_MEMORY: f64 = 64.0;
/// A slice that is off by more than this many standard deviations counts for less, in proportion.
const OUTLIER: f64 = 4.0;
/// Slices from which on the fit is made anew with every [`FIT_EVERY`]th only.
const FIT_ALWAYS: u64 = 64;
const FIT_EVERY: u64 = 8;
/// Below this many busy CPUs a first slice says nothing of what one costs.
const LEAST_BUSY: f64 = 0.02;
/// No weight of time falls below this part of the common one: use of a CPU is never free.
const LEAST_WEIGHT: f64 = 0.05;
/// Slices over which the mix of guests is taken.
const MIX_MEMORY: f64 = 1_024.0;
/// Seconds over which Postgres's CPU time is spread: it comes in steps of the kernel's, and is little.
const SPREAD_S: f64 = 1.0;
/// More than some of the kernel's steps is no rounding.
const MOST_BEHIND_NS: u64 = 50_000_000;
/// The kernel's steps of CPU time, in seconds: what one part has too little of, the next has too much of.
const STEP_S: f64 = 0.01;
/// Seconds over which the means of power and of busy CPUs are taken.
const MEAN_S: f64 = 30.0;

/// A class with a place in the state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place {
    class: Class,
    /// The slice in which it last used anything.
    seen: u64,
    /// CPUs of its guests, a moving mean.
    guests: f64,
}

/// What is known of a root: sums of products, and what was fitted to them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Filter {
    measured: bool,
    prior_floor_w: f64,
    envelope: Envelope,
    slices: u64,
    device: bool,
    /// Σ w·z·zᵀ and Σ w·z·P over parts of slices, with forgetting: z is the terms.
    products: Symmetric,
    powers: Vec<f64>,
    /// Expected before any slice, and with which standard deviation, as parts of the unit.
    expected: Vec<(f64, f64)>,
    /// Fitted. Empty until a slice has told what a CPU costs, roughly.
    state: Vec<f64>,
    covariance: Symmetric,
    /// By how much the floor of late is above the fitted one.
    floor_offset_w: f64,
    /// By how much others' cost of late is above the fitted one, and the variance of that.
    foreign_w: f64,
    foreign_variance: f64,
    /// The lowest power that a device was seen to take.
    asleep_w: Option<f64>,
    /// Moving means of power, of busy CPUs, and of what one costs alone.
    mean_power_w: f64,
    busy: f64,
    mean_cost_w: f64,
    places: Vec<Place>,
    /// The variance of what the model does not explain, relative to the dynamic power.
    noise: f64,
    /// By how much the machine's CPU time was behind the host's, in nanoseconds.
    behind_ns: u64,
    /// Postgres's CPU time that no part has got yet, in nanoseconds.
    held_ns: f64,
}

impl Filter {
    /// A filter of a root whose meter measures, or else computes from use.
    pub(super) fn new(measured: bool, prior_floor_uw: u64) -> Self {
        Self {
            measured,
            prior_floor_w: prior_floor_uw as f64 / 1e6,
            envelope: Envelope::default(),
            slices: 0,
            device: false,
            products: Symmetric::default(),
            powers: Vec::new(),
            expected: Vec::new(),
            state: Vec::new(),
            covariance: Symmetric::default(),
            floor_offset_w: 0.0,
            foreign_w: 0.0,
            foreign_variance: 0.0,
            asleep_w: None,
            mean_power_w: 0.0,
            busy: 0.0,
            mean_cost_w: 0.0,
            places: Vec::new(),
            noise: FIRST_NOISE * FIRST_NOISE,
            behind_ns: 0,
            held_ns: 0.0,
        }
    }

    fn at(&self, index: usize) -> f64 {
        self.state.get(index).copied().unwrap_or_default()
    }

    fn set(&mut self, index: usize, value: f64) {
        if let Some(cell) = self.state.get_mut(index) {
            *cell = value;
        }
    }

    fn expect(&mut self, index: usize, mean: f64, sd: f64) {
        if let Some(cell) = self.expected.get_mut(index) {
            *cell = (mean, sd);
        }
    }

    /// Begins with a floor, give or take, in watts. All else is expected as parts of what a CPU costs, which
    /// itself is about 1.
    fn begin(&mut self, floor_w: f64, floor_sd_w: f64) {
        let size = COST + self.costs();
        self.expected = vec![(0.0, 0.0); size];
        self.expect(FLOOR, floor_w, floor_sd_w);
        if self.device {
            self.expect(COST + COMMON, 1.0, 2.0);
        } else {
            self.expect(OCCUPIED, WAKING.0, WAKING.1);
            self.expect(COST + COMMON, BUSY.0, BUSY.1);
            for (bend, (mean, sd)) in BENDS.into_iter().enumerate() {
                self.expect(BEND + bend, mean, sd);
            }
        }
        if self.measured && !self.device {
            self.expect(COST + MODEL, 0.0, MODELS);
            self.expect(COST + FOREIGN, 0.0, OTHERS);
            self.expect(TRAFFIC, 0.0, PER_UNIT);
            self.expect(FUEL, 0.0, PER_UNIT);
        }
        self.state = vec![0.0; size];
        self.set(FLOOR, floor_w);
        // Costs multiply with bends: the fit needs somewhere to begin.
        let unit_w = self.unit_w();
        for (at, (mean, _)) in self.expected.clone().into_iter().enumerate().skip(OCCUPIED) {
            let is_bend = (BEND..COST).contains(&at);
            self.set(at, if is_bend { mean } else { mean * unit_w });
        }
        let terms = LINEAR + PER_COST * self.costs();
        self.powers = vec![0.0; terms];
        self.products = Symmetric::zero(terms);
    }

    /// Begins with what known loads have shown; run time may move it as it moves all else.
    pub(super) fn calibrate(&mut self, known: &Calibration) {
        let watts = |banded: &Banded| (banded.value as f64 / 1e6, banded.band as f64 / 1e6 / Z95);
        let cost = |feature: Feature| {
            let banded = known.weights.get(feature as usize)?.as_ref()?;
            (banded.value > 0).then(|| watts(banded))
        };
        let (guest, model) = (cost(Feature::Guest), cost(Feature::Model));
        let Some((unit_w, unit_sd_w)) = guest.or(model).or(cost(Feature::Busy)) else {
            return;
        };
        let (floor_w, floor_sd_w) = watts(&known.floor_uw);
        self.prior_floor_w = floor_w;
        self.device = guest.or(model).is_none();
        self.busy = 1.0;
        self.mean_power_w = floor_w + unit_w;
        self.begin(floor_w, floor_sd_w.max(0.01 * floor_w));
        // What was measured is what one CPU takes among others: of the unit it is less than all.
        let (common, bent, part) = self.expected_of_one();
        let whole_w = unit_w / part;
        self.mean_power_w = floor_w + whole_w;
        self.mean_cost_w = common * whole_w;
        // Loads of a calibration are not those of tenants.
        let wide = |sd_w: f64| (sd_w / unit_w).hypot(GUESTS);
        self.expect(COST + COMMON, common, wide(unit_sd_w));
        if self.measured && !self.device {
            if let (Some(_), Some((model_w, sd_w))) = (guest, model) {
                self.expect(COST + MODEL, (model_w - unit_w) / (bent * whole_w), wide(sd_w));
            }
            for (at, feature) in [(TRAFFIC, Feature::Traffic), (FUEL, Feature::Fuel)] {
                if let Some((cost_w, sd_w)) = cost(feature) {
                    self.expect(at, cost_w / whole_w, wide(sd_w));
                }
            }
        }
        // Each step goes halfway.
        (0..10).for_each(|_| self.fit());
    }

    /// Before anything is seen, of one CPU (or device) in the mix of late, as parts of the unit: its own cost, the factor
    /// of company on that, and what it takes in all.
    fn expected_of_one(&self) -> (f64, f64, f64) {
        if self.device {
            return (1.0, 1.0, 1.0);
        }
        let (alone, mean, slowed) = self.typical_bends();
        (BUSY.0, mean, alone * WAKING.0 + BUSY.0 * (mean + slowed))
    }

    /// Learns from a span, whose last reading is at `to_ns`, and adds it to `tally`.
    pub(super) fn observe(&mut self, span: &Span, slice: &Slice, root: &Root, to_ns: u64, tally: &mut Tally) {
        self.slices += 1;
        self.device = is_device(root);
        let length_ns = span.length_ns.max(1);
        // µJ/ns is kW.
        let power_w = span.energy_uj as f64 / length_ns as f64 * 1e3;
        let seconds = length_ns as f64 / 1e9;
        self.envelope.note(power_w, seconds);
        let others = self.others(slice, root, seconds);
        let part = Part::of(slice, root, length_ns, others);
        let share = (1.0 / self.slices as f64).max(seconds / (seconds + MEAN_S));
        self.busy += (part.busy - self.busy) * share;
        self.mean_power_w += (power_w - self.mean_power_w) * share;
        if self.device && part.busy <= 0.0 {
            // Awake or asleep, nobody knows: it tells how low it goes and nothing else.
            self.asleep_w = Some(self.asleep_w.map_or(power_w, |lowest_w| lowest_w.min(power_w)));
        }
        let meter_floor_w = span.floor_uw as f64 / 1e6;
        if self.state.is_empty() && !self.begin_with(part.busy, meter_floor_w) {
            return;
        }
        if self.measured {
            for (class, features) in &class_features(slice, root) {
                let guests = features.get(Feature::Guest) as f64 / length_ns as f64;
                self.place(class, features.time_ns() > 0, guests);
            }
        } else {
            // The floor is the meter's own.
            self.expect(FLOOR, meter_floor_w, 0.0);
        }
        if !self.device || part.busy > 0.0 {
            self.study(&part, power_w, seconds);
        }
        self.tally(tally, &part, to_ns.saturating_sub(span.length_ns), to_ns);
    }

    fn study(&mut self, part: &Part, power_w: f64, seconds: f64) {
        let terms = self.terms(part);
        let is_foreign = |player: &&part::Player| player.who == Who::Foreign;
        let foreign = part.players.iter().find(is_foreign);
        let bend = foreign.map_or(0.0, |player| self.bend(part.company(player)) * player.cpus[0]);
        self.learn(power_w, &terms, bend, seconds);
        if self.slices <= FIT_ALWAYS || self.slices.is_multiple_of(FIT_EVERY) {
            self.fit();
        }
        let costs = part
            .players
            .iter()
            .flat_map(|player| [0, 1].map(|kind| self.own_w(player, kind) * player.cpus[kind]));
        let cost_w: f64 = costs.sum::<f64>() / part.busy.max(1e-9);
        let share =
            (1.0 / self.slices as f64).max(part.busy * seconds / (part.busy * seconds + MEAN_S * self.busy));
        if part.busy > 0.0 {
            self.mean_cost_w += (cost_w - self.mean_cost_w) * share;
        }
    }

    fn begin_with(&mut self, busy: f64, meter_floor_w: f64) -> bool {
        if busy < LEAST_BUSY {
            return false;
        }
        self.prior_floor_w = meter_floor_w;
        let lowest_w = self.envelope.bound_w().unwrap_or(self.mean_power_w);
        let (floor_w, sd_w) = if !self.measured {
            (meter_floor_w, 0.0)
        } else if meter_floor_w > 0.0 {
            (meter_floor_w, 0.3 * meter_floor_w)
        } else {
            (0.5 * lowest_w, 0.5 * lowest_w)
        };
        self.begin(floor_w, sd_w);
        true
    }

    /// The scale of what is expected: mean power above the floor over mean busy CPUs, in watts.
    fn unit_w(&self) -> f64 {
        let floor_w = self.at(FLOOR).min(0.95 * self.mean_power_w);
        ((self.mean_power_w - floor_w) / self.busy.max(LEAST_BUSY)).max(1e-3)
    }

    /// Whether a slice has told what a CPU costs.
    pub(super) fn begun(&self) -> bool {
        !self.state.is_empty()
    }

    /// The power with nothing to do, in watts. A device is awake then.
    fn floor_w(&self) -> f64 {
        (self.at(FLOOR) + self.floor_offset_w).max(0.0)
    }

    /// By how much a device takes more when it is awake than when it sleeps: what works pays for that.
    fn wake_w(&self) -> f64 {
        self.asleep_w
            .map_or(0.0, |asleep_w| (self.floor_w() - asleep_w).max(0.0))
    }

    /// The floor while `busy` CPUs or devices are: a device's is that of sleep while it works.
    fn floor_while_w(&self, busy: f64) -> f64 {
        if self.device {
            self.floor_w() - self.wake_w() * busy.min(1.0)
        } else {
            self.floor_w()
        }
    }

    fn shared_by(&self, feature: Feature) -> bool {
        (feature == Feature::Busy) == self.device
    }

    /// The weights for these classes in the mix of late; none until a slice has told what a CPU costs.
    pub(super) fn weights(&self, root: &Root, classes: impl Iterator<Item = Class>) -> Option<RootWeights> {
        if self.state.is_empty() {
            return None;
        }
        let own = |class: Class| {
            self.known(&class)?;
            let [first, model] = self.class_typical(&class).map(whole_uw);
            let (guest, model, busy) = if self.device {
                (0, 0, first)
            } else {
                (first, model, 0)
            };
            Some(ClassWeights {
                class,
                guest,
                model,
                busy,
            })
        };
        Some(RootWeights {
            root: root.name.clone(),
            floor_uw: (self.floor_while_w(self.busy) * 1e6).round() as u64,
            base: whole_weights(self.typical()),
            classes: classes.filter_map(own).collect(),
        })
    }

    /// The weights of a slice of which no parts are known.
    pub(super) fn weights_alone(&self, slice: &Slice, root: &Root, length_ns: u64) -> RootWeights {
        let mut tally = Tally::default();
        self.tally(&mut tally, &Part::alone(slice, root, length_ns), 0, length_ns);
        self.tallied(&tally, root)
    }

    /// Whether its weights may differ with what was used: those of a meter that computes may not.
    pub(super) fn is_measured(&self) -> bool {
        self.measured
    }
}
