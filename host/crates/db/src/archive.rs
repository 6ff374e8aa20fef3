//! Archives: which receipt lines are to leave the database, which files have them, and letting them go.

use domain::archive::LineSum;
use domain::{Digest, InvocationId, TenantId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::{digest, from_json, load, parse, some, store, to_json, word};
use crate::storage::blob_hold;
use crate::{AdminTx, BillingTx, Cut, DbError, Page, PostingKey, WriterTx};

/// A partition of receipt lines, all of which may be archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its name.
    pub name: String,
    /// Where the first of its windows ends.
    pub first_at: OffsetDateTime,
    /// Where the last one ends.
    pub last_at: OffsetDateTime,
}

/// A posting whose lines are in no archive yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the ledger.
    pub id: i64,
    /// Its key.
    pub key: PostingKey,
    /// Where it ends.
    pub at: OffsetDateTime,
    /// How many lines it has.
    pub lines: u64,
}

/// A file that was read back and compared with its postings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewArchive {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub bytes: u64,
    /// Where the first and the last of its windows end.
    pub span: (OffsetDateTime, OffsetDateTime),
    /// The least and the greatest id of its calls.
    pub calls: (InvocationId, InvocationId),
    /// The places of its postings, each with what its lines sum up to.
    pub postings: Vec<(i64, Vec<LineSum>)>,
}

/// A file of receipt lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveRow {
    /// Its number.
    pub id: i64,
    /// The digest of its bytes, by which the blob store has it.
    pub digest: Digest,
    /// How many bytes it has.
    pub bytes: u64,
    /// How many postings.
    pub postings: u64,
    /// How many lines.
    pub lines: u64,
    /// Where the first of its windows ends.
    pub first_at: OffsetDateTime,
    /// Where the last one ends.
    pub last_at: OffsetDateTime,
    /// When it had been read back and compared.
    pub verified_at: OffsetDateTime,
    /// When its lines left the database; none while they are there still.
    pub dropped_at: Option<OffsetDateTime>,
}

struct Row {
    id: i64,
    digest: Vec<u8>,
    bytes: i64,
    postings: i64,
    lines: i64,
    first_at: OffsetDateTime,
    last_at: OffsetDateTime,
    verified_at: OffsetDateTime,
    dropped_at: Option<OffsetDateTime>,
}

impl TryFrom<Row> for ArchiveRow {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        Ok(Self {
            id: row.id,
            digest: digest("archive.digest", &row.digest)?,
            bytes: load("archive.bytes", row.bytes)?,
            postings: load("archive.postings", row.postings)?,
            lines: load("archive.lines", row.lines)?,
            first_at: row.first_at,
            last_at: row.last_at,
            verified_at: row.verified_at,
            dropped_at: row.dropped_at,
        })
    }
}

/// Archives, by what stands after the join.
macro_rules! archives {
    ($tail:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Row,
            r#"select a.id, a.digest, a.bytes, a.postings, a.lines, a.first_at, a.last_at, a.verified_at,
                   d.dropped_at as "dropped_at?"
               from archive a
               left join archive_drop d on d.archive = a.id "# + $tail,
            $($argument),*
        )
    };
}

impl BillingTx {
    /// The partitions of which all lines are of before `before`, and which have some.
    pub async fn archive_due(&mut self, before: OffsetDateTime) -> Result<Vec<Leaf>, DbError> {
        let rows = sqlx::query!(
            r#"select leaf as "leaf!", first_at as "first_at!", last_at as "last_at!" from wattle_archive_due($1)"#,
            before
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let leaves = rows.into_iter().map(|row| Leaf {
            name: row.leaf,
            first_at: row.first_at,
            last_at: row.last_at,
        });
        Ok(leaves.collect())
    }

    /// The first postings of a partition, in the order in which they end, that end at `from` or later and are in no
    /// archive; `limit` at most.
    pub async fn archive_candidates(
        &mut self,
        leaf: &Leaf,
        from: OffsetDateTime,
        limit: u32,
    ) -> Result<Vec<Candidate>, DbError> {
        let rows = sqlx::query!(
            r#"select p.id, p.node, p.epoch, p.seq, p.ended_at, l.lines as "lines!"
               from posting p
               cross join lateral (
                   select sum(b.lines) as lines
                   from receipt_block b
                   where b.at = p.ended_at and b.node = p.node and b.epoch = p.epoch and b.seq = p.seq
                       and b.tableoid = to_regclass($3)
               ) l
               where p.ended_at >= $1 and p.ended_at <= $2 and l.lines > 0
                   and not exists (select from archive_sum s where s.posting = p.id)
               order by p.ended_at, p.id
               limit $4"#,
            from,
            leaf.last_at,
            leaf.name,
            i64::from(limit)
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Candidate {
                    id: row.id,
                    key: PostingKey::load(row.node, row.epoch, row.seq)?,
                    at: row.ended_at,
                    lines: load("count of receipt lines", row.lines)?,
                })
            })
            .collect()
    }

    /// Archives in their order.
    pub async fn archives_list(&mut self, cut: &Cut<i64>) -> Result<Page<ArchiveRow, i64>, DbError> {
        let rows = archives!(
            "where a.id > coalesce($1, 0::bigint) order by a.id limit $2",
            cut.after,
            cut.rows()
        );
        Page::of(rows.fetch_all(&mut *self.tx).await?, cut, |row| Ok(row.id))
    }

    /// The archive that a posting's lines left the database for; none if they did not.
    pub async fn archive_of(&mut self, key: PostingKey) -> Result<Option<ArchiveRow>, DbError> {
        let row = archives!(
            "where d.archive is not null and a.id = (
                 select s.archive from archive_sum s join posting p on p.id = s.posting
                 where p.node = $1 and p.epoch = $2 and p.seq = $3
                 limit 1)",
            key.node.0,
            key.epoch.0,
            store::<u64, i64>("posting.seq", key.seq)?
        );
        let row = row.fetch_optional(&mut *self.tx).await?;
        row.map(ArchiveRow::try_from).transpose()
    }

    /// The archives that may have lines of a tenant's call which are not in the database any more, in their order.
    pub async fn archives_around(
        &mut self,
        tenant: TenantId,
        invocation: InvocationId,
    ) -> Result<Vec<ArchiveRow>, DbError> {
        let rows = archives!(
            "where d.archive is not null and a.first_invocation <= $2 and a.last_invocation >= $2
                 and exists (select from archive_sum s where s.archive = a.id and s.tenant = $1)
             order by a.id",
            tenant.0,
            invocation.0
        );
        let rows = rows.fetch_all(&mut *self.tx).await?;
        rows.into_iter().map(ArchiveRow::try_from).collect()
    }

    /// The sums that were kept of an archive, by posting.
    pub async fn archive_sums(&mut self, archive: i64) -> Result<Vec<(PostingKey, LineSum)>, DbError> {
        let rows = sqlx::query!(
            r#"select p.node, p.epoch, p.seq, s.tenant, s.deployment, s.release, s.kind, s.outcome, s.lines,
                   s.lines_unmetered, s.fuel::text as "fuel!", s.cpu_ns::text as "cpu_ns!",
                   s.model_ns::text as "model_ns!", s.bytes_in::text as "bytes_in!", s.bytes_out::text as "bytes_out!",
                   s.memory_byte_ns::text as "memory_byte_ns!", s.energy_uj::text as energy_uj,
                   s.work::text as "work!"
               from archive_sum s
               join posting p on p.id = s.posting
               where s.archive = $1
               order by s.posting, s.ordinal"#,
            archive
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                let sum = LineSum {
                    tenant: TenantId(row.tenant),
                    deployment: some(row.deployment, |name| parse("archive_sum.deployment", &name))?,
                    release: some(row.release, |number| load("archive_sum.release", number))?,
                    kind: word("archive_sum.kind", &row.kind)?,
                    outcome: some(row.outcome, |outcome| parse("archive_sum.outcome", &outcome))?,
                    lines: load("archive_sum.lines", row.lines)?,
                    lines_unmetered: load("archive_sum.lines_unmetered", row.lines_unmetered)?,
                    fuel: parse("archive_sum.fuel", &row.fuel)?,
                    cpu_ns: parse("archive_sum.cpu_ns", &row.cpu_ns)?,
                    model_ns: parse("archive_sum.model_ns", &row.model_ns)?,
                    bytes_in: parse("archive_sum.bytes_in", &row.bytes_in)?,
                    bytes_out: parse("archive_sum.bytes_out", &row.bytes_out)?,
                    memory_byte_ns: parse("archive_sum.memory_byte_ns", &row.memory_byte_ns)?,
                    energy_uj: some(row.energy_uj, |energy| parse("archive_sum.energy_uj", &energy))?,
                    work: from_json("archive_sum.work", &row.work)?,
                };
                Ok((PostingKey::load(row.node, row.epoch, row.seq)?, sum))
            })
            .collect()
    }
}

impl AdminTx {
    /// The digests of all archives, which are blobs beside the uploads.
    pub async fn archive_digests(&mut self) -> Result<Vec<Digest>, DbError> {
        let rows = sqlx::query_scalar!("select digest from archive")
            .fetch_all(&mut *self.tx)
            .await?;
        rows.iter().map(|bytes| digest("archive.digest", bytes)).collect()
    }
}

/// The sums of an archive, column by column.
#[derive(Default)]
struct SumColumns {
    posting: Vec<i64>,
    ordinal: Vec<i32>,
    tenant: Vec<Uuid>,
    deployment: Vec<Option<String>>,
    release: Vec<Option<i32>>,
    kind: Vec<&'static str>,
    outcome: Vec<Option<&'static str>>,
    lines: Vec<i64>,
    lines_unmetered: Vec<i64>,
    fuel: Vec<String>,
    cpu_ns: Vec<String>,
    model_ns: Vec<String>,
    bytes_in: Vec<String>,
    bytes_out: Vec<String>,
    memory_byte_ns: Vec<String>,
    energy_uj: Vec<Option<String>>,
    work: Vec<String>,
}

impl SumColumns {
    fn of(postings: &[(i64, Vec<LineSum>)]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for (posting, sums) in postings {
            for (ordinal, sum) in sums.iter().enumerate() {
                let release = some(sum.release, |number| store("archive_sum.release", number))?;
                let unmetered = store("archive_sum.lines_unmetered", sum.lines_unmetered)?;
                columns.posting.push(*posting);
                columns.ordinal.push(store("archive_sum.ordinal", ordinal)?);
                columns.tenant.push(sum.tenant.0);
                columns
                    .deployment
                    .push(sum.deployment.as_ref().map(ToString::to_string));
                columns.release.push(release);
                columns.kind.push(sum.kind.as_str());
                columns.outcome.push(sum.outcome.map(|outcome| outcome.as_str()));
                columns.lines.push(store("archive_sum.lines", sum.lines)?);
                columns.lines_unmetered.push(unmetered);
                columns.fuel.push(sum.fuel.to_string());
                columns.cpu_ns.push(sum.cpu_ns.to_string());
                columns.model_ns.push(sum.model_ns.to_string());
                columns.bytes_in.push(sum.bytes_in.to_string());
                columns.bytes_out.push(sum.bytes_out.to_string());
                columns.memory_byte_ns.push(sum.memory_byte_ns.to_string());
                columns
                    .energy_uj
                    .push(sum.energy_uj.map(|energy| energy.to_string()));
                columns.work.push(to_json("archive_sum.work", &sum.work)?);
            }
        }
        Ok(columns)
    }
}

impl WriterTx {
    /// Waits until no other transaction adds an archive, and keeps others from it.
    pub async fn archives_lock(&mut self) -> Result<(), DbError> {
        sqlx::query!("select pg_advisory_xact_lock(hashtextextended('wattle archives', 0))")
            .fetch_one(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Keeps the collector off the bytes of a digest until the transaction ends, as an upload does.
    pub async fn blob_hold(&mut self, digest: Digest) -> Result<(), DbError> {
        blob_hold(&mut self.tx, digest).await
    }

    /// Adds an archive and what was kept of it; its number. Commit afterwards. A posting that is in another one is a
    /// [`DbError::Conflict`].
    pub async fn archive_insert(&mut self, archive: &NewArchive) -> Result<i64, DbError> {
        let lines = archive.postings.iter().flat_map(|(_, sums)| sums);
        let lines: u64 = lines.map(|sum| sum.lines).sum();
        let id = sqlx::query_scalar!(
            "insert into archive (digest, bytes, postings, lines, first_at, last_at, first_invocation, last_invocation)
             values ($1, $2, $3, $4, $5, $6, $7, $8)
             returning id",
            &archive.digest.0[..],
            store::<u64, i64>("archive.bytes", archive.bytes)?,
            store::<usize, i64>("archive.postings", archive.postings.len())?,
            store::<u64, i64>("archive.lines", lines)?,
            archive.span.0,
            archive.span.1,
            archive.calls.0.0,
            archive.calls.1.0
        )
        .fetch_one(&mut *self.tx)
        .await?;
        let columns = SumColumns::of(&archive.postings)?;
        sqlx::query!(
            "insert into archive_sum (archive, posting, ordinal, tenant, deployment, release, kind, outcome, lines,
                 lines_unmetered, fuel, cpu_ns, model_ns, bytes_in, bytes_out, memory_byte_ns, energy_uj, work)
             select $1::bigint, t.posting, t.ordinal, t.tenant, t.deployment, t.release, t.kind, t.outcome, t.lines,
                 t.lines_unmetered, t.fuel::numeric, t.cpu_ns::numeric, t.model_ns::numeric, t.bytes_in::numeric,
                 t.bytes_out::numeric, t.memory_byte_ns::numeric, t.energy_uj::numeric, t.work::jsonb
             from unnest($2::bigint[], $3::integer[], $4::uuid[], $5::text[], $6::integer[], $7::text[], $8::text[],
                 $9::bigint[], $10::bigint[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[],
                 $16::text[], $17::text[], $18::text[])
                 as t (posting, ordinal, tenant, deployment, release, kind, outcome, lines, lines_unmetered, fuel,
                     cpu_ns, model_ns, bytes_in, bytes_out, memory_byte_ns, energy_uj, work)",
            id,
            &columns.posting,
            &columns.ordinal,
            &columns.tenant,
            &columns.deployment as &[Option<String>],
            &columns.release as &[Option<i32>],
            &columns.kind as &[&str],
            &columns.outcome as &[Option<&str>],
            &columns.lines,
            &columns.lines_unmetered,
            &columns.fuel,
            &columns.cpu_ns,
            &columns.model_ns,
            &columns.bytes_in,
            &columns.bytes_out,
            &columns.memory_byte_ns,
            &columns.energy_uj as &[Option<String>],
            &columns.work
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(id)
    }

    /// Drops the lines of a partition, all of which are of before `before` and in archives as they are: how many went.
    /// Commit at once. What is not so is a [`DbError::Check`] by the name of what it breaks.
    pub async fn archive_drop(&mut self, leaf: &str, before: OffsetDateTime) -> Result<u64, DbError> {
        let dropped = sqlx::query_scalar!(
            r#"select wattle_archive_drop($1, $2) as "dropped!""#,
            leaf,
            before
        )
        .fetch_one(&mut *self.tx)
        .await?;
        load("receipt lines dropped", dropped)
    }
}
