//! The last line: whether all of it is true.

use std::fmt;

use super::story::Played;
use crate::cli::ledger;

/// How the demo went.
pub struct Verdict {
    calls: usize,
    energy_uj: u64,
    gap_uj: u64,
    failures: Vec<String>,
}

impl Verdict {
    /// Judges a demo that came to its end.
    pub fn of(played: &Played) -> Self {
        let check = &played.check;
        let mut verdict = Self {
            calls: played.calls.len(),
            energy_uj: check.tenants.iter().map(|tenant| tenant.dynamic_uj).sum(),
            gap_uj: check.gap_uj,
            failures: Vec::new(),
        };
        for called in &played.calls {
            let what = || {
                format!(
                    "{} {} ({})",
                    played.tenants[called.tenant].name, called.call.deployment, called.call.input
                )
            };
            if let Some(fault) = &called.judged.fault {
                verdict.fail(format!("{}: {fault}", what()));
            } else if called.receipt.is_none() {
                verdict.fail(format!("{}: it has no receipt", what()));
            }
        }
        verdict.failures.extend(ledger::faults(check));
        if check.windows == 0 || check.roots.is_empty() {
            verdict.fail("no window was posted".to_owned());
        }
        if check.unattributed_uj != 0 {
            verdict.fail(format!("{} µJ are unattributed", check.unattributed_uj));
        }
        for (tenant, receipts) in played.tenants.iter().zip(&played.receipts) {
            let open = receipts.iter().filter(|receipt| !receipt.is_final()).count();
            if open > 0 {
                verdict.fail(format!("{open} receipts of {} are not final", tenant.name));
            }
            let dynamic = check
                .tenants
                .iter()
                .find(|row| row.tenant == tenant.id)
                .map_or(0, |row| row.dynamic_uj);
            let summed: u64 = receipts.iter().filter_map(|receipt| receipt.energy_uj).sum();
            if dynamic == 0 || summed != dynamic {
                let name = tenant.name;
                verdict.fail(format!(
                    "{name}'s receipts come to {summed} µJ, its transfers to {dynamic} µJ"
                ));
            }
        }
        verdict
    }

    /// A demo that broke off.
    pub fn broken(error: &anyhow::Error) -> Self {
        Self {
            calls: 0,
            energy_uj: 0,
            gap_uj: 0,
            failures: vec![format!("{error:#}")],
        }
    }

    /// Adds a reason why it failed.
    pub fn fail(&mut self, reason: String) {
        self.failures.push(reason);
    }

    /// Whether everything was true.
    pub fn is_ok(&self) -> bool {
        self.failures.is_empty()
    }

    /// For programs.
    pub fn as_json(&self) -> serde_json::Value {
        serde_json::json!({
            "ok": self.is_ok(),
            "calls": self.calls,
            "energy_uj": self.energy_uj,
            "ledger_gap_uj": self.gap_uj,
            "failures": self.failures,
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            let Self {
                calls,
                energy_uj,
                gap_uj,
                ..
            } = self;
            return write!(
                f,
                "demo: ok calls={calls} energy_uj={energy_uj} ledger_gap_uj={gap_uj}"
            );
        }
        write!(f, "demo: FAILED {}", self.failures.join("; "))
    }
}
