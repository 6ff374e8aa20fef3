//! A meter that says what it is told, for tests: each brings its own.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::energy::{Provenance, Reading, Root};
use uuid::Uuid;

use crate::{Meter, MeterError, boottime_ns};

struct Script {
    root: Root,
    boot_id: Uuid,
    at_ns: Option<u64>,
    counter_uj: u64,
    floor_uw: u64,
    failing: bool,
    still_after: Option<Duration>,
}

/// Moves a scripted meter's counter. Clones move the same one.
#[derive(Clone)]
pub struct ScriptHandle {
    script: Arc<Mutex<Script>>,
    /// Whether readers wait, and what wakes them.
    hangs: Arc<(Mutex<bool>, Condvar)>,
}

/// A meter with one root that is moved by [`ScriptHandle`].
pub struct ScriptedMeter {
    script: ScriptHandle,
}

impl ScriptedMeter {
    /// A meter at 0 µJ with no floor, and what moves it.
    pub fn new(root_name: impl Into<String>) -> (Self, ScriptHandle) {
        let root = Root {
            name: root_name.into(),
            kind: "scripted".into(),
            provenance: Provenance::Measured,
            uncertainty_ppm: 0,
            model_version: 1,
        };
        // Where there is no boot id to read, any that stays will do.
        let boot_id = crate::boot_id().unwrap_or_default();
        let script = Script {
            root,
            boot_id,
            at_ns: None,
            counter_uj: 0,
            floor_uw: 0,
            failing: false,
            still_after: None,
        };
        let handle = ScriptHandle {
            script: Arc::new(Mutex::new(script)),
            hangs: Arc::default(),
        };
        (handle.meter(), handle)
    }
}

impl ScriptHandle {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another meter on the same counter, for a host that starts again.
    pub fn meter(&self) -> ScriptedMeter {
        ScriptedMeter { script: self.clone() }
    }

    /// Adds energy in microjoules.
    pub fn add_uj(&self, energy_uj: u64) {
        self.script().counter_uj += energy_uj;
    }

    /// The counter in microjoules.
    pub fn counter_uj(&self) -> u64 {
        self.script().counter_uj
    }

    /// Sets the power with nothing to do, in microwatts.
    pub fn set_floor_uw(&self, floor_uw: u64) {
        self.script().floor_uw = floor_uw;
    }

    /// Sets the time of the next readings in nanoseconds since boot; until then it is the machine's.
    pub fn set_at_ns(&self, at_ns: u64) {
        self.script().at_ns = Some(at_ns);
    }

    /// Boots anew: another boot id, and the counter at 0.
    pub fn reboot(&self, boot_id: Uuid) {
        let mut script = self.script();
        script.boot_id = boot_id;
        script.counter_uj = 0;
    }

    /// Sets how long the counter may stand still, for meters that are made after it.
    pub fn set_still_after(&self, still_after: Duration) {
        self.script().still_after = Some(still_after);
    }

    /// Makes readers wait until they are no longer made to.
    pub fn set_hanging(&self, hanging: bool) {
        let (hangs, woken) = &*self.hangs;
        *hangs.lock().unwrap_or_else(PoisonError::into_inner) = hanging;
        woken.notify_all();
    }

    fn wait(&self) {
        let (hangs, woken) = &*self.hangs;
        let hangs = hangs.lock().unwrap_or_else(PoisonError::into_inner);
        drop(woken.wait_while(hangs, |hangs| *hangs));
    }

    /// Makes readings fail, or no longer.
    pub fn set_failing(&self, failing: bool) {
        self.script().failing = failing;
    }
}

impl Meter for ScriptedMeter {
    fn read(&mut self) -> Result<Vec<Reading>, MeterError> {
        self.script.wait();
        let script = self.script.script();
        if script.failing {
            return Err(MeterError::Scripted);
        }
        Ok(vec![Reading {
            root: script.root.clone(),
            boot_id: script.boot_id,
            at_ns: script.at_ns.unwrap_or_else(boottime_ns),
            counter_uj: script.counter_uj,
            floor_uw: script.floor_uw,
            state: Vec::new(),
        }])
    }

    fn resume(&mut self, last: &[Reading]) {
        let mut script = self.script.script();
        let ours = |last: &&Reading| last.root.name == script.root.name && last.boot_id == script.boot_id;
        if let Some(last) = last.iter().find(ours) {
            // A script of a new process begins at 0, but counters do not fall within a boot.
            script.counter_uj = script.counter_uj.max(last.counter_uj);
        }
    }

    fn roots(&self) -> Vec<Root> {
        vec![self.script.script().root.clone()]
    }

    fn still_after(&self) -> Option<Duration> {
        self.script.script().still_after
    }

    fn describe(&self) -> String {
        format!("root '{}', scripted by a test", self.script.script().root.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_is_told() {
        let (mut meter, script) = ScriptedMeter::new("test");
        script.add_uj(5);
        script.clone().add_uj(7);
        script.set_floor_uw(3);
        script.set_at_ns(11);
        let reading = meter.read().unwrap().remove(0);
        assert_eq!((reading.counter_uj, reading.floor_uw, reading.at_ns), (12, 3, 11));
        script.set_failing(true);
        assert_eq!(meter.read().unwrap_err().code(), "meter_scripted");
    }

    #[test]
    fn it_goes_on_within_a_boot_only() {
        let (mut meter, script) = ScriptedMeter::new("test");
        script.add_uj(100);
        let last = meter.read().unwrap();
        let (mut fresh, script) = ScriptedMeter::new("test");
        fresh.resume(&last);
        script.add_uj(1);
        assert_eq!(fresh.read().unwrap()[0].counter_uj, 101);
        script.reboot(Uuid::from_u128(5));
        fresh.resume(&last);
        assert_eq!(fresh.read().unwrap()[0].counter_uj, 0);
    }
}
