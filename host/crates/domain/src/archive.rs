//! Archives: what is kept of receipt lines that leave the database, so that books and bills need not read them again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::posting::{CallKind, ReceiptLine};
use crate::{Digest, Name, Outcome, TenantId};

/// Model work on a graph. What does not fit stays at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphSum {
    /// The graph.
    pub graph: Digest,
    /// Runs of it.
    pub runs: u64,
    /// Rows over all runs.
    pub rows: u64,
    /// CPU time in nanoseconds.
    pub cpu_ns: u64,
    /// Tokens over all runs; 0 in older sums.
    #[serde(default)]
    pub tokens: u64,
}

/// What lines of one posting sum up to that are counted and charged as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineSum {
    /// Who pays.
    pub tenant: TenantId,
    /// For which deployment.
    pub deployment: Option<Name>,
    /// For which release.
    pub release: Option<u32>,
    /// What the calls were for.
    pub kind: CallKind,
    /// How they ended; none for lines that are not the last of their call.
    pub outcome: Option<Outcome>,
    /// How many lines.
    pub lines: u64,
    /// Those of them whose energy no reading covers.
    pub lines_unmetered: u64,
    /// Fuel.
    pub fuel: u128,
    /// CPU time of guests in nanoseconds.
    pub cpu_ns: u128,
    /// CPU time of models in nanoseconds.
    pub model_ns: u128,
    /// Bytes that came in.
    pub bytes_in: u128,
    /// Bytes that went out.
    pub bytes_out: u128,
    /// The most memory of each line by its CPU time, in bytes × nanoseconds.
    pub memory_byte_ns: u128,
    /// Energy in microjoules; none where no line has any.
    pub energy_uj: Option<u128>,
    /// Model work, by graph.
    pub work: Vec<GraphSum>,
}

impl LineSum {
    fn of(line: &ReceiptLine) -> Self {
        let mut sum = Self {
            tenant: line.call.tenant,
            deployment: line.call.deployment.clone(),
            release: line.call.release,
            kind: line.call.kind,
            outcome: line.outcome,
            lines: 0,
            lines_unmetered: 0,
            fuel: 0,
            cpu_ns: 0,
            model_ns: 0,
            bytes_in: 0,
            bytes_out: 0,
            memory_byte_ns: 0,
            energy_uj: None,
            work: Vec::new(),
        };
        sum.add(line);
        sum
    }

    fn add(&mut self, line: &ReceiptLine) {
        let usage = &line.usage;
        let (cpu_ns, model_ns) = (u128::from(usage.cpu_ns), u128::from(usage.model_ns()));
        self.lines += 1;
        self.lines_unmetered += u64::from(line.energy_uj.is_none());
        self.fuel += u128::from(usage.fuel);
        self.cpu_ns += cpu_ns;
        self.model_ns += model_ns;
        self.bytes_in += u128::from(usage.bytes_in);
        self.bytes_out += u128::from(usage.bytes_out);
        let memory_byte_ns = u128::from(usage.peak_memory_bytes).saturating_mul(cpu_ns + model_ns);
        self.memory_byte_ns = self.memory_byte_ns.saturating_add(memory_byte_ns);
        if let Some(energy_uj) = line.energy_uj {
            self.energy_uj = Some(self.energy_uj.unwrap_or(0) + u128::from(energy_uj));
        }
        for work in &usage.work {
            let at = self.work.iter().position(|sum| sum.graph == work.graph);
            let known = at.and_then(|at| self.work.get_mut(at));
            let Some(sum) = known else {
                self.work.push(GraphSum {
                    graph: work.graph,
                    runs: work.runs,
                    rows: work.rows,
                    cpu_ns: work.cpu_ns,
                    tokens: work.tokens,
                });
                continue;
            };
            sum.runs = sum.runs.saturating_add(work.runs);
            sum.rows = sum.rows.saturating_add(work.rows);
            sum.cpu_ns = sum.cpu_ns.saturating_add(work.cpu_ns);
            sum.tokens = sum.tokens.saturating_add(work.tokens);
        }
    }
}

/// What the lines of a posting sum up to, in a fixed order.
pub fn sums(lines: &[ReceiptLine]) -> Vec<LineSum> {
    let mut sums = BTreeMap::<_, LineSum>::new();
    for line in lines {
        let call = &line.call;
        let outcome = line.outcome.map(|outcome| outcome.as_str());
        let key = (
            call.tenant,
            call.deployment.as_ref(),
            call.release,
            call.kind.as_str(),
            outcome,
        );
        sums.entry(key)
            .and_modify(|sum| sum.add(line))
            .or_insert_with(|| LineSum::of(line));
    }
    sums.into_values().collect()
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;
    use crate::posting::Call;
    use crate::{InvocationId, Usage, Work};

    fn line(n: u128, tenant: u128, outcome: Option<Outcome>, energy_uj: Option<u64>) -> ReceiptLine {
        ReceiptLine {
            call: Call {
                invocation: InvocationId(Uuid::from_u128(n)),
                kind: CallKind::Infer,
                tenant: TenantId(Uuid::from_u128(tenant)),
                deployment: Some("echo".parse().unwrap()),
                release: Some(1),
                started_at: OffsetDateTime::UNIX_EPOCH,
            },
            ordinal: 0,
            outcome,
            usage: Usage {
                fuel: u64::MAX,
                cpu_ns: 5,
                peak_memory_bytes: 100,
                work: vec![Work {
                    graph: Digest::of(b"graph"),
                    backend: "rten".into(),
                    device: "cpu".into(),
                    precision: "exact".into(),
                    runs: 1,
                    rows: 2,
                    cpu_ns: 3,
                    busy_ns: 0,
                    tokens: u64::MAX / 2 + 1,
                }],
                ..Usage::default()
            },
            energy_uj,
        }
    }

    #[test]
    fn lines_are_summed_by_what_they_are_charged_by() {
        let ok = Some(Outcome::Ok);
        let lines = [
            line(1, 0xb, ok, Some(7)),
            line(2, 0xa, ok, Some(1)),
            line(3, 0xa, None, None),
            line(4, 0xa, ok, None),
        ];
        let sums = sums(&lines);
        let counted: Vec<_> = sums
            .iter()
            .map(|sum| {
                (
                    sum.tenant.0.as_u128(),
                    sum.outcome,
                    sum.lines,
                    sum.lines_unmetered,
                )
            })
            .collect();
        assert_eq!(
            counted,
            [(0xa, None, 1, 1), (0xa, ok, 2, 1), (0xb, ok, 1, 0)],
            "each once, in a fixed order"
        );
        let two = &sums[1];
        assert_eq!(two.fuel, 2 * u128::from(u64::MAX), "nothing wraps");
        assert_eq!(
            (two.cpu_ns, two.model_ns, two.memory_byte_ns),
            (10, 6, 2 * 100 * 8)
        );
        assert_eq!((sums[0].energy_uj, two.energy_uj), (None, Some(1)));
        assert_eq!(
            two.work,
            [GraphSum {
                graph: Digest::of(b"graph"),
                runs: 2,
                rows: 4,
                cpu_ns: 6,
                tokens: u64::MAX,
            }]
        );
    }
}
