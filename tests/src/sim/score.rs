//! What a run of a scenario has shown.

use std::fmt;

use domain::estimator::RootModel;

/// One claimant's figures over all roots, in joules.
#[derive(Clone, Debug)]
pub struct Row {
    /// The tenant, `system` or `foreign`.
    pub name: String,
    /// The Shapley share.
    pub truth_j: f64,
    /// What was charged.
    pub charged_j: f64,
    /// What equal weights for all CPU time would have charged, over the same floor.
    pub by_time_j: f64,
    /// Half the 95 % band of the sampled truth, relative, in percent.
    pub sampling_pct: f64,
}

impl Row {
    /// By how much the charge is off, in percent of the truth.
    pub fn error_pct(&self) -> f64 {
        off_pct(self.charged_j, self.truth_j)
    }

    /// The same for equal weights.
    pub fn by_time_pct(&self) -> f64 {
        off_pct(self.by_time_j, self.truth_j)
    }
}

/// One root's figures, in joules.
#[derive(Clone, Debug)]
pub struct RootRow {
    /// The root.
    pub name: String,
    /// All that was metered.
    pub metered_j: f64,
    /// What the machine truly took for nothing, where readings cover it.
    pub true_idle_j: f64,
    /// What was charged as idle.
    pub idle_j: f64,
    /// What was placed with nobody.
    pub unattributed_j: f64,
}

/// What a run has shown.
#[derive(Clone, Debug)]
pub struct Score {
    /// The scenario.
    pub scenario: String,
    /// Whether its meter is good enough for the bar.
    pub good_meter: bool,
    /// Tenants.
    pub tenants: Vec<Row>,
    /// System and foreign load, those that used something.
    pub others: Vec<Row>,
    /// Roots.
    pub roots: Vec<RootRow>,
    /// Calls under 5 ms of CPU: charged over true energy, less 1, in percent; none if there were none.
    pub short_bias_pct: Option<f64>,
    /// How many those were.
    pub short_calls: u64,
    /// Calls with a provisional figure, and those whose charge was within its upper end.
    pub provisional: (u64, u64),
    /// All provisional figures over all charges of these calls, less 1, in percent.
    pub provisional_bias_pct: f64,
    /// Microjoules between what was moved and what the counters say: 0, or the ledger is wrong.
    pub leak_uj: u64,
    /// Calls turned away because the machine was full.
    pub refused: u64,
    /// What the estimator knows in the end.
    pub models: Vec<RootModel>,
}

/// `found` against `truth` in percent.
pub fn off_pct(found: f64, truth: f64) -> f64 {
    if truth > 0.0 {
        (found / truth - 1.0) * 100.0
    } else {
        0.0
    }
}

/// The mean of the absolute values; 0 of none.
pub fn mean_abs(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u32), |(sum, count), value| (sum + value.abs(), count + 1));
    sum / f64::from(count.max(1))
}

impl Score {
    /// The mean error of tenants, in percent.
    pub fn mean_abs_pct(&self) -> f64 {
        mean_abs(self.tenants.iter().map(Row::error_pct))
    }

    /// The largest, in percent.
    pub fn max_pct(&self) -> f64 {
        self.tenants
            .iter()
            .map(|row| row.error_pct().abs())
            .fold(0.0, f64::max)
    }

    /// The mean error that equal weights would have had, in percent.
    pub fn by_time_pct(&self) -> f64 {
        mean_abs(self.tenants.iter().map(Row::by_time_pct))
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bar = if self.good_meter {
            ""
        } else {
            "  (poor meter: not held to the bar)"
        };
        writeln!(f, "{}{bar}", self.scenario)?;
        writeln!(
            f,
            "  {:<16}{:>12}{:>12}{:>9}{:>14}{:>10}",
            "claimant", "true J", "charged J", "error %", "by CPU time %", "± truth %"
        )?;
        for row in self.tenants.iter().chain(&self.others) {
            writeln!(
                f,
                "  {:<16}{:>12.1}{:>12.1}{:>9.2}{:>14.2}{:>10.3}",
                row.name,
                row.truth_j,
                row.charged_j,
                row.error_pct(),
                row.by_time_pct(),
                row.sampling_pct
            )?;
        }
        for root in &self.roots {
            writeln!(
                f,
                "  root {:<11}{:>12.1} J metered, idle {:+.2} % of the true {:.1} J, unattributed {:.2} %",
                root.name,
                root.metered_j,
                off_pct(root.idle_j, root.true_idle_j),
                root.true_idle_j,
                100.0 * root.unattributed_j / root.metered_j.max(1e-9)
            )?;
        }
        if let Some(bias) = self.short_bias_pct {
            writeln!(
                f,
                "  calls under 5 ms: {} of them, bias {bias:+.2} %",
                self.short_calls
            )?;
        }
        let (all, within) = self.provisional;
        writeln!(
            f,
            "  provisional: bias {:+.2} %, upper end holds for {:.1} % of {all} calls",
            self.provisional_bias_pct,
            100.0 * within as f64 / all.max(1) as f64
        )?;
        if self.refused > 0 {
            writeln!(f, "  {} calls found the machine full", self.refused)?;
        }
        write!(
            f,
            "  mean {:.2} %, max {:.2} %, by CPU time alone {:.2} %, leak {} µJ",
            self.mean_abs_pct(),
            self.max_pct(),
            self.by_time_pct(),
            self.leak_uj
        )
    }
}
