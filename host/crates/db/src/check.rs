//! The audit of the ledger: SQL over the raw rows that knows nothing of attribution. For lines that are archived stand
//! the sums that were kept of them; whether their files say the same is asked of the files.

use domain::energy::Provenance;
use domain::posting::Unit;
use domain::{Digest, Name, NodeId, TenantId};
use uuid::Uuid;

use crate::convert::{digest, load, parse, some, word};
use crate::{BillingTx, DbError, PostingKey};

/// A root's counters against the transfers out of its meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The node.
    pub node: NodeId,
    /// The root.
    pub root: String,
    /// The boot; none for transfers out of a meter whose posting has no counters for it.
    pub boot_id: Option<Uuid>,
    /// How its readings come about.
    pub provenance: Option<Provenance>,
    /// Window postings with counters of this root.
    pub windows: u64,
    /// Windows that do not start where the one before them ended. 0 when all is well.
    pub breaks: u64,
    /// The first counter of the boot, in microjoules.
    pub start_uj: u64,
    /// The last one.
    pub end_uj: u64,
    /// What left the meter, in microjoules.
    pub transfers_uj: i64,
    /// Transfers less what the counters counted from first to last. 0 when all is well.
    pub gap_uj: i64,
}

/// A tenant's receipt lines against its dynamic transfers, over the whole ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantSums {
    /// The tenant.
    pub tenant: TenantId,
    /// Energy of its receipt lines, in microjoules.
    pub receipts_uj: u64,
    /// Energy of its dynamic transfers, in microjoules.
    pub dynamic_uj: u64,
    /// Fuel of its receipt lines.
    pub fuel_receipts: u64,
    /// Fuel of its dynamic transfers.
    pub fuel_transfers: u64,
}

/// A posting in which receipt lines and dynamic transfers of a release do not have the same sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The posting.
    pub posting: PostingKey,
    /// The tenant; none for a dynamic transfer that names none.
    pub tenant: Option<TenantId>,
    /// The deployment.
    pub deployment: Option<Name>,
    /// The release.
    pub release: Option<u32>,
    /// The unit.
    pub unit: Unit,
    /// The receipt lines' sum.
    pub receipts: u64,
    /// The transfers' sum.
    pub transfers: u64,
}

/// A posting that does not name the hash of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainBreak {
    /// The posting.
    pub posting: PostingKey,
    /// The hash of the node's posting before it; [`Digest::ZERO`] if there is none.
    pub expected: Digest,
    /// What it names.
    pub found: Digest,
}

impl BillingTx {
    /// Every root and boot of every node: counters from first to last against what left the meter.
    pub async fn ledger_gap(&mut self) -> Result<Vec<Gap>, DbError> {
        let rows = sqlx::query!(
            r#"with counted as (
                   select r.node, r.root, r.boot_id, r.provenance, r.start_uj, r.end_uj,
                       lag(r.end_uj, 1, r.start_uj)
                           over (partition by r.node, r.root, r.boot_id order by p.id) as last_uj
                   from posting_root r
                   join posting p using (node, epoch, seq)
               ), moved as (
                   select t.node, meter.root, r.boot_id,
                       case t.credit when meter.id then t.amount else -t.amount end as amount
                   from transfer t
                   join (select id, substr(code, 7) as root from account where starts_with(code, 'meter:')) meter
                       on meter.id in (t.credit, t.debit)
                   join unit on unit.id = t.unit and unit.code = 'uj'
                   left join posting_root r
                       on r.node = t.node and r.epoch = t.epoch and r.seq = t.seq and r.root = meter.root
               ), both_sides as (
                   select node, root, boot_id, min(provenance) as provenance, count(*) as windows,
                       count(*) filter (where start_uj <> last_uj) as breaks,
                       min(start_uj) as start_uj, max(end_uj) as end_uj, 0 as transfers_uj
                   from counted group by node, root, boot_id
                   union all
                   select node, root, boot_id, null, 0, 0, null, null, sum(amount)
                   from moved group by node, root, boot_id
               )
               select node as "node!", root as "root!", boot_id, min(provenance) as provenance,
                   sum(windows)::bigint as "windows!", sum(breaks)::bigint as "breaks!",
                   coalesce(min(start_uj), 0) as "start_uj!", coalesce(max(end_uj), 0) as "end_uj!",
                   sum(transfers_uj)::bigint as "transfers_uj!",
                   (sum(transfers_uj) - coalesce(max(end_uj) - min(start_uj), 0))::bigint as "gap_uj!"
               from both_sides
               group by node, root, boot_id
               order by node, root, boot_id"#
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Gap {
                    node: NodeId(row.node),
                    root: row.root,
                    boot_id: row.boot_id,
                    provenance: some(row.provenance, |provenance| {
                        word("posting_root.provenance", &provenance)
                    })?,
                    windows: load("count of windows", row.windows)?,
                    breaks: load("count of breaks", row.breaks)?,
                    start_uj: load("posting_root.start_uj", row.start_uj)?,
                    end_uj: load("posting_root.end_uj", row.end_uj)?,
                    transfers_uj: row.transfers_uj,
                    gap_uj: row.gap_uj,
                })
            })
            .collect()
    }

    /// Every tenant's receipts against its dynamic transfers, over the whole ledger.
    pub async fn receipts_vs_transfers(&mut self) -> Result<Vec<TenantSums>, DbError> {
        let rows = sqlx::query!(
            r#"select s.tenant as "tenant!", sum(s.receipts_uj)::bigint as "receipts_uj!",
                   sum(s.dynamic_uj)::bigint as "dynamic_uj!", sum(s.fuel_receipts)::bigint as "fuel_receipts!",
                   sum(s.fuel_transfers)::bigint as "fuel_transfers!"
               from (
                   select tenant, coalesce(energy_uj, 0) as receipts_uj, 0 as dynamic_uj, fuel as fuel_receipts,
                       0 as fuel_transfers
                   from receipt_line
                   union all
                   select tenant, coalesce(energy_uj, 0), 0, fuel, 0 from archived
                   union all
                   select t.tenant, 0, case unit.code when 'uj' then t.amount else 0 end, 0,
                       case unit.code when 'fuel' then t.amount else 0 end
                   from transfer t
                   join unit on unit.id = t.unit
                   where t.kind = 'dynamic' and t.tenant is not null
               ) s
               group by s.tenant
               order by s.tenant"#
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(TenantSums {
                    tenant: TenantId(row.tenant),
                    receipts_uj: load("sum of receipts", row.receipts_uj)?,
                    dynamic_uj: load("sum of transfers", row.dynamic_uj)?,
                    fuel_receipts: load("sum of fuel", row.fuel_receipts)?,
                    fuel_transfers: load("sum of fuel transfers", row.fuel_transfers)?,
                })
            })
            .collect()
    }

    /// Where, within one posting and release, receipts and dynamic transfers differ. None when all is
    /// well; at most `limit`, in the order of the ledger's keys.
    pub async fn receipt_mismatches(&mut self, limit: u32) -> Result<Vec<Mismatch>, DbError> {
        let rows = sqlx::query!(
            r#"select node as "node!", epoch as "epoch!", seq as "seq!", tenant, deployment, release,
                   unit as "unit!", sum(receipts)::bigint as "receipts!", sum(transfers)::bigint as "transfers!"
               from (
                   select l.node, l.epoch, l.seq, l.tenant, l.deployment, l.release, a.unit, a.amount as receipts,
                       0 as transfers
                   from receipt_line l
                   cross join lateral (values ('uj', l.energy_uj), ('fuel', l.fuel)) as a (unit, amount)
                   where a.amount is not null
                   union all
                   select s.node, s.epoch, s.seq, s.tenant, s.deployment, s.release, a.unit, a.amount, 0
                   from archived s
                   cross join lateral (values ('uj', s.energy_uj), ('fuel', s.fuel)) as a (unit, amount)
                   where a.amount is not null
                   union all
                   select t.node, t.epoch, t.seq, t.tenant, t.deployment, t.release, unit.code, 0, t.amount
                   from transfer t
                   join unit on unit.id = t.unit
                   where t.kind = 'dynamic'
               ) s
               group by node, epoch, seq, tenant, deployment, release, unit
               having sum(receipts) <> sum(transfers)
               order by node, epoch, seq, tenant, deployment, release, unit
               limit $1"#,
            i64::from(limit)
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Mismatch {
                    posting: PostingKey::load(row.node, row.epoch, row.seq)?,
                    tenant: row.tenant.map(TenantId),
                    deployment: some(row.deployment, |name| parse("deployment", &name))?,
                    release: some(row.release, |number| load("release", number))?,
                    unit: word("unit.code", &row.unit)?,
                    receipts: load("sum of receipts", row.receipts)?,
                    transfers: load("sum of transfers", row.transfers)?,
                })
            })
            .collect()
    }

    /// How many rows of the hourly roll-ups are not what their receipt lines sum up to. 0 when all is well.
    pub async fn usage_mismatches(&mut self) -> Result<u64, DbError> {
        Ok(self.call_usage_mismatches().await? + self.graph_usage_mismatches().await?)
    }

    async fn graph_usage_mismatches(&mut self) -> Result<u64, DbError> {
        let rows = sqlx::query_scalar!(
            r#"select count(*) as "rows!"
               from (
                   select from (
                       select hour, node, tenant, deployment, graph, runs, rows, cpu_ns, tokens
                       from usage_graph_hour
                       union all
                       select date_trunc('hour', l.at, 'UTC'), l.node, l.tenant, l.deployment, w.graph, -w.runs,
                           -w.rows, -w.cpu_ns, -coalesce(w.tokens, 0)
                       from (
                           select at, node, tenant, deployment, work from receipt_line
                           union all
                           select at, node, tenant, deployment, work from archived
                       ) l
                       cross join lateral jsonb_to_recordset(l.work)
                           as w (graph text, runs numeric, rows numeric, cpu_ns numeric, tokens numeric)
                   ) s
                   group by hour, node, tenant, deployment, graph
                   having sum(runs) <> 0 or sum(rows) <> 0 or sum(cpu_ns) <> 0 or sum(tokens) <> 0
               ) mismatch"#
        )
        .fetch_one(&mut *self.tx)
        .await?;
        load("count of mismatches", rows)
    }

    async fn call_usage_mismatches(&mut self) -> Result<u64, DbError> {
        let rows = sqlx::query_scalar!(
            r#"select count(*) as "rows!"
               from (
                   select from (
                       select hour, node, tenant, deployment, kind, outcome, calls, lines, lines_unmetered, fuel,
                           cpu_ns, model_ns, bytes_in, bytes_out, coalesce(energy_uj, 0) as energy_uj
                       from usage_hour
                       union all
                       select date_trunc('hour', at, 'UTC'), node, tenant, deployment, kind, outcome,
                           -count(outcome), -count(*), count(energy_uj) - count(*), -sum(fuel), -sum(cpu_ns),
                           -sum(model_ns), -sum(bytes_in), -sum(bytes_out), -coalesce(sum(energy_uj), 0)
                       from receipt_line
                       group by 1, 2, 3, 4, 5, 6
                       union all
                       select date_trunc('hour', at, 'UTC'), node, tenant, deployment, kind, outcome, -sum(calls),
                           -sum(lines), -sum(lines_unmetered), -sum(fuel), -sum(cpu_ns), -sum(model_ns),
                           -sum(bytes_in), -sum(bytes_out), -coalesce(sum(energy_uj), 0)
                       from archived
                       group by 1, 2, 3, 4, 5, 6
                   ) s
                   group by hour, node, tenant, deployment, kind, outcome
                   having sum(calls) <> 0 or sum(lines) <> 0 or sum(lines_unmetered) <> 0 or sum(fuel) <> 0
                       or sum(cpu_ns) <> 0 or sum(model_ns) <> 0 or sum(bytes_in) <> 0 or sum(bytes_out) <> 0
                       or sum(energy_uj) <> 0
               ) mismatch"#
        )
        .fetch_one(&mut *self.tx)
        .await?;
        load("count of mismatches", rows)
    }

    /// The postings that do not name the hash of the node's posting before them. None when all is well;
    /// at most `limit`, in the order of the ledger.
    pub async fn chain_breaks(&mut self, limit: u32) -> Result<Vec<ChainBreak>, DbError> {
        let rows = sqlx::query!(
            r#"select node, epoch, seq, expected as "expected!", prev_hash
               from (
                   select id, node, epoch, seq, prev_hash,
                       lag(hash, 1, decode(repeat('00', 32), 'hex'))
                           over (partition by node order by id) as expected
                   from posting
               ) p
               where prev_hash <> expected
               order by id
               limit $1"#,
            i64::from(limit)
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(ChainBreak {
                    posting: PostingKey::load(row.node, row.epoch, row.seq)?,
                    expected: digest("posting.hash", &row.expected)?,
                    found: digest("posting.prev_hash", &row.prev_hash)?,
                })
            })
            .collect()
    }
}
