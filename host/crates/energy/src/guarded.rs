//! Meters that the sealing loop can read without fear: one that hangs, fails or stands still takes away
//! nothing but its own roots.
//!
//! Each meter is read on a thread of its own and has a limited time to answer. One that does not is not asked
//! again until it has, so that nobody waits for it twice; its late answer is dropped, since the next one
//! covers it. Between the reads of the loop the thread itself reads a meter that must not go unread for longer
//! (see [`Meter::period`]). A counter that stands still is a fault when the machine worked for at least a CPU
//! second in the time that its meter allows ([`Meter::still_after`]): a second of any CPU takes more than the
//! smallest step of any counter, and an idle machine may take less than a coarse one shows.
//!
//! Nothing is logged here: [`Metered::changes`] says each change of a root's state once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use domain::energy::{FaultKind, MeterFault, Reading};

use crate::discover::{Chosen, Role};
use crate::{Meter, MeterError, boottime_ns};

/// CPU time of the machine, in nanoseconds, that must show in a counter.
const WORK_NS: u64 = 1_000_000_000;

/// What one look at all meters gave.
#[derive(Debug, Default)]
pub struct Metered {
    /// Of the roots that are billed, by name; one that is missing is in `faults`, and one that is in both was
    /// lost sight of since the look before.
    pub readings: Vec<Reading>,
    /// Of the meters of the whole machine.
    pub calibrating: Vec<Reading>,
    /// What was wrong with the roots that are billed, by name.
    pub faults: Vec<MeterFault>,
    /// What to tell the operator, who has not been told yet.
    pub changes: Vec<Change>,
}

/// A root has another state than at the look before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The root.
    pub root: String,
    /// What is wrong with it now; none if it is read again.
    pub fault: Option<FaultKind>,
    /// The stable code: of the error, or `meter_recovered`.
    pub code: &'static str,
    /// What happened and what to do, in words.
    pub words: String,
}

/// What a meter's thread says to a question.
struct Answer {
    meter: usize,
    round: u64,
    result: Result<Vec<Reading>, MeterError>,
}

/// A meter on its thread.
struct Guard {
    role: Role,
    asks: Sender<u64>,
    thread: JoinHandle<()>,
    /// The round of the question that it has not answered yet.
    asked: Option<u64>,
    still_after: Option<Duration>,
    roots: BTreeMap<String, Watch>,
    description: String,
}

/// What is known of a root.
#[derive(Debug, Default)]
struct Watch {
    fault: Option<FaultKind>,
    /// The counter, since when it stands there and what the machine had worked by then.
    stands: Option<(u64, u64, u64)>,
}

impl Watch {
    /// What to tell of the root, if its state is new.
    fn change(&mut self, root: &str, fault: Option<&Fault>) -> Option<Change> {
        let kind = fault.map(|fault| fault.kind);
        if std::mem::replace(&mut self.fault, kind) == kind {
            return None;
        }
        let (code, words) = match fault {
            Some(fault) => (fault.code, fault.words.clone()),
            None => ("meter_recovered", format!("root '{root}' is read again")),
        };
        Some(Change {
            root: root.to_owned(),
            fault: kind,
            code,
            words,
        })
    }

    /// How long the counter has stood still, if that is a fault.
    fn stands_ns(&mut self, now: &Reading, machine_ns: u64, still_after: Duration) -> Option<u64> {
        match self.stands {
            Some((counter_uj, since_ns, worked_ns)) if counter_uj == now.counter_uj => {
                let stands_ns = now.at_ns.saturating_sub(since_ns);
                let is_fault = u128::from(stands_ns) >= still_after.as_nanos()
                    && machine_ns.saturating_sub(worked_ns) >= WORK_NS;
                is_fault.then_some(stands_ns)
            }
            _ => {
                self.stands = Some((now.counter_uj, now.at_ns, machine_ns));
                None
            }
        }
    }
}

/// A set of meters.
pub struct Guarded {
    guards: Vec<Guard>,
    answers: Receiver<Answer>,
    patience: Duration,
    round: u64,
    /// What was wrong at the start, for the first slice to say: its spans begin before it.
    owed: Vec<MeterFault>,
}

impl Guarded {
    /// Starts the meters where `last`, the readings of an earlier run, ended; `machine_ns` is the machine's
    /// CPU time. `patience` is how long a read may take: some part of a slice.
    ///
    /// The first readings are where the ledger goes on. A root that cannot be read now and was read earlier in
    /// this boot stands there with its last reading, so that its count has no hole. What was wrong at the start
    /// is said again with the first [`Guarded::read`], as the spans that end there begin before it.
    pub fn start(
        meters: Vec<Chosen>,
        last: &[Reading],
        machine_ns: u64,
        patience: Duration,
    ) -> Result<(Self, Metered), MeterError> {
        let mut names = BTreeSet::new();
        let (to_us, answers) = mpsc::channel();
        let mut guards = Vec::new();
        for (meter, chosen) in meters.into_iter().enumerate() {
            let guard = Guard::start(meter, chosen, last, to_us.clone())?;
            if let Some(twice) = guard.roots.keys().find(|root| !names.insert((*root).clone())) {
                return Err(MeterError::Twice(twice.clone()));
            }
            guards.push(guard);
        }
        let mut guarded = Self {
            guards,
            answers,
            patience,
            round: 0,
            owed: Vec::new(),
        };
        let mut first = guarded.read(machine_ns);
        let lost = [FaultKind::Rebased, FaultKind::Gap];
        if first.faults.iter().any(|fault| lost.contains(&fault.kind)) {
            // The count has found its new place; a second look has it.
            let before = std::mem::take(&mut first);
            first = guarded.read(machine_ns);
            first.changes.splice(0..0, before.changes);
            first.faults.extend(before.faults);
            tidy(&mut first);
        }
        guarded.owed.clone_from(&first.faults);
        guarded.stand_in(&mut first, last);
        Ok((guarded, first))
    }

    /// Puts the last readings of this boot in the place of those that are missing.
    fn stand_in(&self, first: &mut Metered, last: &[Reading]) {
        let Ok(boot_id) = crate::boot_id() else {
            return;
        };
        let billed = self.guards.iter().filter(|guard| guard.role == Role::Root);
        for root in billed.flat_map(|guard| guard.roots.keys()) {
            let was_read = first.readings.iter().any(|reading| reading.root.name == *root);
            let before = last
                .iter()
                .find(|last| last.root.name == *root && last.boot_id == boot_id);
            if let (false, Some(before)) = (was_read, before) {
                first.readings.push(before.clone());
            }
        }
        tidy(first);
    }

    /// Reads all meters that do not owe an answer and waits for them as long as patience lasts: an executor's
    /// thread should not do that itself. `machine_ns` is the CPU time of the machine since boot
    /// ([`domain::energy::Activity`]).
    pub fn read(&mut self, machine_ns: u64) -> Metered {
        self.round += 1;
        let mut results = self.ask();
        let mut metered = Metered::default();
        for (index, guard) in self.guards.iter_mut().enumerate() {
            let result = results.remove(&index);
            guard.judge(result, machine_ns, self.patience, &mut metered);
        }
        metered.faults.append(&mut self.owed);
        tidy(&mut metered);
        metered
    }

    /// What the meters say in time, by their number.
    fn ask(&mut self) -> BTreeMap<usize, Result<Vec<Reading>, MeterError>> {
        let mut results = BTreeMap::new();
        // Late ones of earlier rounds first: who has answered can be asked again.
        while let Ok(answer) = self.answers.try_recv() {
            self.take(answer, &mut results);
        }
        for guard in &mut self.guards {
            // A thread that has ended takes no question; `Guard::judge` says so.
            if guard.asked.is_none() && guard.asks.send(self.round).is_ok() {
                guard.asked = Some(self.round);
            }
        }
        let begun_ns = boottime_ns();
        while self.guards.iter().any(|guard| guard.asked == Some(self.round)) {
            let waited = Duration::from_nanos(boottime_ns().saturating_sub(begun_ns));
            match self.answers.recv_timeout(self.patience.saturating_sub(waited)) {
                Ok(answer) => self.take(answer, &mut results),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        results
    }

    fn take(&mut self, answer: Answer, results: &mut BTreeMap<usize, Result<Vec<Reading>, MeterError>>) {
        if let Some(guard) = self.guards.get_mut(answer.meter) {
            guard.asked = None;
        }
        if answer.round == self.round {
            results.insert(answer.meter, answer.result);
        }
    }

    /// The meters in one line each for people.
    pub fn describe(&self) -> Vec<String> {
        let in_words = |guard: &Guard| match guard.role {
            Role::Root => guard.description.clone(),
            Role::Calibrates => format!("{}, to calibrate only", guard.description),
        };
        self.guards.iter().map(in_words).collect()
    }
}

impl Guard {
    fn start(
        number: usize,
        chosen: Chosen,
        last: &[Reading],
        to_us: Sender<Answer>,
    ) -> Result<Self, MeterError> {
        let Chosen { mut meter, role } = chosen;
        meter.resume(last);
        let roots = meter.roots().into_iter();
        let roots: BTreeMap<_, _> = roots.map(|root| (root.name, Watch::default())).collect();
        let (still_after, description) = (meter.still_after(), meter.describe());
        let (asks, asked) = mpsc::channel();
        let name = roots.keys().next().map_or("", String::as_str);
        let thread = thread::Builder::new()
            .name(format!("meter {name}"))
            .spawn(move || answer(number, meter, &asked, &to_us))
            .map_err(MeterError::Thread)?;
        Ok(Self {
            role,
            asks,
            thread,
            asked: None,
            still_after,
            roots,
            description,
        })
    }

    /// Sorts what the meter said, or that it said nothing, into `metered`.
    fn judge(
        &mut self,
        result: Option<Result<Vec<Reading>, MeterError>>,
        machine_ns: u64,
        patience: Duration,
        metered: &mut Metered,
    ) {
        let is_ended = self.thread.is_finished();
        let (mut readings, error) = match result {
            Some(Ok(readings)) => (readings, None),
            Some(Err(error)) => (Vec::new(), Some(error)),
            None => (Vec::new(), None),
        };
        for (root, watch) in &mut self.roots {
            let reading = readings
                .iter()
                .position(|reading| reading.root.name == *root)
                .map(|at| readings.swap_remove(at));
            let root = root.clone();
            let fault = match (&reading, &error) {
                (None, Some(error)) => Some(Fault::of(error)),
                (None, None) if is_ended => Some(Fault::of(&MeterError::Ended { root: root.clone() })),
                (None, None) => Some(Fault::of(&silent(&root, patience))),
                (Some(reading), _) => self
                    .still_after
                    .and_then(|after| watch.stands_ns(reading, machine_ns, after))
                    .map(|stands_ns| {
                        Fault::of(&MeterError::StoodStill {
                            root: root.clone(),
                            span_ms: stands_ns / 1_000_000,
                        })
                    }),
            };
            metered.changes.extend(watch.change(&root, fault.as_ref()));
            match (fault, reading, self.role) {
                (Some(fault), _, Role::Root) => metered.faults.push(MeterFault {
                    root,
                    kind: fault.kind,
                }),
                (None, Some(reading), Role::Root) => metered.readings.push(reading),
                (None, Some(reading), Role::Calibrates) => metered.calibrating.push(reading),
                _ => {}
            }
        }
    }
}

/// By name, each fault once.
fn tidy(metered: &mut Metered) {
    metered.readings.sort_by(|a, b| a.root.name.cmp(&b.root.name));
    metered.faults.sort();
    metered.faults.dedup();
}

/// An error, as it is told.
struct Fault {
    kind: FaultKind,
    code: &'static str,
    words: String,
}

impl Fault {
    fn of(error: &MeterError) -> Self {
        Self {
            kind: error.fault(),
            code: error.code(),
            words: error.to_string(),
        }
    }
}

fn silent(root: &str, patience: Duration) -> MeterError {
    MeterError::Silent {
        root: root.to_owned(),
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    }
}

/// A meter's thread: answers, and reads by itself what must not go unread. What goes wrong then is the answer
/// to the next question.
fn answer(number: usize, mut meter: Box<dyn Meter>, asked: &Receiver<u64>, to_us: &Sender<Answer>) {
    let mut owed = None;
    loop {
        let round = match meter.period() {
            Some(period) => asked.recv_timeout(period),
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let round = match round {
            Ok(round) => round,
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(error) = meter.read() {
                    owed.get_or_insert(error);
                }
                continue;
            }
        };
        let result = meter.read();
        let answer = Answer {
            meter: number,
            round,
            result: owed.take().map_or(result, Err),
        };
        if to_us.send(answer).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
