//! Carbon intensities: what is known of a zone, and when it became known.

use domain::carbon::{Fact, Factor, Known, Method, Signal, Zone};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::carbon::learn_alone;
use crate::convert::{load, parse, store, word};
use crate::{AdminTx, BillingTx, Cut, DbError, Page, WriterTx};

/// A factor as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactorRow {
    /// Its place among all.
    pub id: i64,
    /// The factor and when it became known.
    pub known: Known<Factor>,
}

/// Which factors; what is none is not asked for.
#[derive(Clone, Debug, Default)]
pub struct FactorFilter {
    /// Of this zone.
    pub zone: Option<Zone>,
    /// Of this signal.
    pub signal: Option<Signal>,
    /// Of this method.
    pub method: Option<Method>,
    /// Those that hold at this instant.
    pub at: Option<OffsetDateTime>,
    /// Those that were known at this instant.
    pub as_of: Option<OffsetDateTime>,
}

pub(crate) struct Row {
    pub id: i64,
    pub zone: String,
    pub signal: String,
    pub method: String,
    pub valid_from: OffsetDateTime,
    pub valid_to: OffsetDateTime,
    pub known_at: OffsetDateTime,
    pub mg_per_kwh: i64,
    pub source: String,
    pub version: String,
    pub is_estimated: bool,
}

impl TryFrom<Row> for FactorRow {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let fact = Fact {
            zone: parse("factor.zone", &row.zone)?,
            from: row.valid_from,
            to: row.valid_to,
            intensity: load("factor.mg_per_kwh", row.mg_per_kwh)?,
            source: row.source,
            version: row.version,
            is_estimated: row.is_estimated,
        };
        let (signal, method) = (
            word("factor.signal", &row.signal)?,
            word("factor.method", &row.method)?,
        );
        let it = Factor::new(signal, method, fact).map_err(|error| DbError::inconsistent("factor", error))?;
        let known_at = row.known_at;
        Ok(Self {
            id: row.id,
            known: Known { known_at, it },
        })
    }
}

impl BillingTx {
    /// Factors in the order in which they became known, by their places in it.
    pub async fn factors_list(
        &mut self,
        filter: &FactorFilter,
        cut: &Cut<i64>,
    ) -> Result<Page<FactorRow, i64>, DbError> {
        let rows = sqlx::query_as!(
            Row,
            "select id, zone, signal, method, valid_from, valid_to, known_at, mg_per_kwh, source, version,
                 is_estimated
             from factor
             where id > coalesce($1, 0::bigint) and ($2::text is null or zone = $2)
                 and ($3::text is null or signal = $3) and ($4::text is null or method = $4)
                 and ($5::timestamptz is null or valid_from <= $5 and valid_to > $5)
                 and ($6::timestamptz is null or known_at <= $6)
             order by id
             limit $7",
            cut.after,
            filter.zone.as_ref().map(Zone::as_str),
            filter.signal.map(Signal::as_str),
            filter.method.map(Method::as_str),
            filter.at,
            filter.as_of,
            cut.rows()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        Page::of(rows, cut, |row| Ok(row.id))
    }
}

impl WriterTx {
    /// Adds what is new among `factors`; how many that are. What the newest row of the same zone, signal, method,
    /// start and source says already is not new: a provider is asked again and again, and must neither undo what
    /// someone else has said since nor take turns with another provider.
    pub async fn factors_add(&mut self, factors: &[Factor]) -> Result<u64, DbError> {
        Ok(add(&mut self.tx, factors, Beside::ItsSource).await?.len() as u64)
    }
}

impl AdminTx {
    /// Adds a factor, or revises the one of the same zone, signal, method and start. None where that one says the
    /// same already.
    pub async fn factor_add(&mut self, factor: &Factor) -> Result<Option<FactorRow>, DbError> {
        let added = add(&mut self.tx, std::slice::from_ref(factor), Beside::All);
        Ok(added.await?.pop())
    }

    /// The newest row of a factor's zone, signal, method and start.
    pub async fn factor_newest(&mut self, factor: &Factor) -> Result<Option<FactorRow>, DbError> {
        let (signal, method, fact) = factor.parts();
        let row = sqlx::query_as!(
            Row,
            "select id, zone, signal, method, valid_from, valid_to, known_at, mg_per_kwh, source, version,
                 is_estimated
             from factor
             where zone = $1 and signal = $2 and method = $3 and valid_from = $4
             order by known_at desc
             limit 1",
            fact.zone.as_str(),
            signal.as_str(),
            method.as_str(),
            fact.from
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        row.map(FactorRow::try_from).transpose()
    }
}

/// The columns of many factors.
#[derive(Default)]
struct Columns {
    zone: Vec<String>,
    signal: Vec<String>,
    method: Vec<String>,
    from: Vec<OffsetDateTime>,
    to: Vec<OffsetDateTime>,
    mg_per_kwh: Vec<i64>,
    source: Vec<String>,
    version: Vec<String>,
    is_estimated: Vec<bool>,
}

impl Columns {
    fn of(factors: &[Factor]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for (signal, method, fact) in factors.iter().map(Factor::parts) {
            columns.zone.push(fact.zone.into());
            columns.signal.push(signal.as_str().to_owned());
            columns.method.push(method.as_str().to_owned());
            columns.from.push(fact.from);
            columns.to.push(fact.to);
            columns
                .mg_per_kwh
                .push(store("factor.mg_per_kwh", fact.intensity)?);
            columns.source.push(fact.source);
            columns.version.push(fact.version);
            columns.is_estimated.push(fact.is_estimated);
        }
        Ok(columns)
    }
}

/// Which rows of its zone, signal, method and start a factor must differ from to be new.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    /// The newest of all.
    All,
    /// The newest of its own source.
    ItsSource,
}

/// Of those that stand twice in `factors` the last counts. One transaction at a time, or two would both find the same
/// thing new.
async fn add(tx: &mut PgConnection, factors: &[Factor], beside: Beside) -> Result<Vec<FactorRow>, DbError> {
    let columns = Columns::of(factors)?;
    learn_alone(&mut *tx).await?;
    // Which one counts is settled before anything is compared: else the first of two, once it differs from what is
    // kept, would be added again each time.
    let rows = sqlx::query_as!(
        Row,
        "insert into factor
             (zone, signal, method, valid_from, valid_to, mg_per_kwh, source, version, is_estimated)
         select new.zone, new.signal, new.method, new.valid_from, new.valid_to, new.mg_per_kwh, new.source,
             new.version, new.is_estimated
         from (
             select distinct on (zone, signal, method, valid_from) *
             from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[],
                     $7::text[], $8::text[], $9::boolean[])
                 with ordinality as sent (zone, signal, method, valid_from, valid_to, mg_per_kwh, source, version,
                     is_estimated, place)
             order by zone, signal, method, valid_from, place desc
         ) new
         left join lateral (
             select f.* from factor f
             where f.zone = new.zone and f.signal = new.signal and f.method = new.method
                 and f.valid_from = new.valid_from and (f.source = new.source or not $10::boolean)
             order by f.known_at desc
             limit 1
         ) old on true
         where (old.valid_to, old.mg_per_kwh, old.source, old.version, old.is_estimated)
             is distinct from (new.valid_to, new.mg_per_kwh, new.source, new.version, new.is_estimated)
         order by new.zone, new.signal, new.method, new.valid_from
         returning id, zone, signal, method, valid_from, valid_to, known_at, mg_per_kwh, source, version,
             is_estimated",
        &columns.zone,
        &columns.signal,
        &columns.method,
        &columns.from,
        &columns.to,
        &columns.mg_per_kwh,
        &columns.source,
        &columns.version,
        &columns.is_estimated,
        beside == Beside::ItsSource
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(FactorRow::try_from).collect()
}
