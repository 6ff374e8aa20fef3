//! Statements: the bytes that were drawn up for a tenant and a month, and their lines for exports.

use std::collections::BTreeMap;

use domain::billing::statement::{Class, Emitted, Line};
use domain::billing::{Currency, Item, Month};
use domain::{Digest, Name, TenantId};
use sqlx::PgConnection;
use time::{Date, OffsetDateTime};
use uuid::Uuid;

use crate::convert::{digest, parse, some, store, word};
use crate::period::month;
use crate::{AdminTx, BillingTx, Cut, DbError, Page, TenantTx};

/// A statement as it was drawn up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementRow {
    /// The month.
    pub month: Month,
    /// Whose.
    pub tenant: TenantId,
    /// JSON, the same bytes for ever.
    pub body: String,
    /// Their SHA-256.
    pub digest: Digest,
}

/// A line of a statement, with its place among those of all statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// Its place, in the order in which lines were made.
    pub id: i64,
    /// The statement's month.
    pub month: Month,
    /// Whose.
    pub tenant: TenantId,
    /// The tenant's name.
    pub tenant_name: String,
    /// The digest of the postings that the month was cut with.
    pub postings_digest: Digest,
    /// The line.
    pub line: Line,
}

/// Which charges; what is none leaves all in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChargeFilter {
    /// Of a tenant.
    pub tenant: Option<TenantId>,
    /// Of a month's statements.
    pub month: Option<Month>,
}

struct StatementColumns {
    month: Date,
    tenant: Uuid,
    body: String,
    digest: Vec<u8>,
}

impl TryFrom<StatementColumns> for StatementRow {
    type Error = DbError;
    fn try_from(row: StatementColumns) -> Result<Self, DbError> {
        Ok(Self {
            month: month("statement.month", row.month)?,
            tenant: TenantId(row.tenant),
            body: row.body,
            digest: digest("statement.digest", &row.digest)?,
        })
    }
}

struct Row {
    id: i64,
    month: Date,
    tenant: Uuid,
    tenant_name: String,
    postings_digest: Vec<u8>,
    class: String,
    of_month: Date,
    deployment: Option<String>,
    item: String,
    plan: Option<i64>,
    began_at: OffsetDateTime,
    ended_at: OffsetDateTime,
    quantity: String,
    rate: String,
    currency: String,
    amount: i64,
    provenance: Option<String>,
    location_ug: Option<i64>,
    market_ug: Option<i64>,
    embodied_ug: Option<i64>,
}

impl TryFrom<Row> for Charge {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let tenant = TenantId(row.tenant);
        let of_month = month("charge.of_month", row.of_month)?;
        let deployment: Option<Name> = some(row.deployment, |name| parse("charge.deployment", &name))?;
        let item: Item = word("charge.item", &row.item)?;
        let emitted = (item == Item::Carbon).then(|| Emitted {
            tenant,
            deployment: deployment.clone(),
            month: of_month,
            location_ug: row.location_ug,
            market_ug: row.market_ug,
            embodied_ug: row.embodied_ug,
        });
        let line = Line {
            month: of_month,
            class: word("charge.class", &row.class)?,
            deployment,
            item,
            plan: row.plan,
            from: row.began_at,
            to: row.ended_at,
            quantity: parse("charge.quantity", &row.quantity)?,
            rate: parse("charge.rate", &row.rate)?,
            currency: parse("charge.currency", &row.currency)?,
            amount: row.amount,
            provenance: some(row.provenance, |text| word("charge.provenance", &text))?,
            emitted,
        };
        Ok(Self {
            id: row.id,
            month: month("charge.month", row.month)?,
            tenant,
            tenant_name: row.tenant_name,
            postings_digest: digest("period_cut.postings_digest", &row.postings_digest)?,
            line,
        })
    }
}

/// Lines of a statement, column by column.
#[derive(Default)]
struct Columns {
    ordinal: Vec<i32>,
    class: Vec<&'static str>,
    of_month: Vec<Date>,
    deployment: Vec<Option<String>>,
    item: Vec<&'static str>,
    plan: Vec<Option<i64>>,
    began_at: Vec<OffsetDateTime>,
    ended_at: Vec<OffsetDateTime>,
    quantity: Vec<String>,
    rate: Vec<String>,
    currency: Vec<String>,
    amount: Vec<i64>,
    provenance: Vec<Option<&'static str>>,
    location_ug: Vec<Option<i64>>,
    market_ug: Vec<Option<i64>>,
    embodied_ug: Vec<Option<i64>>,
}

impl Columns {
    fn of(lines: &[Line]) -> Result<Self, DbError> {
        let mut columns = Self::default();
        for (ordinal, line) in lines.iter().enumerate() {
            let emitted = line.emitted.as_ref();
            columns.ordinal.push(store("charge.ordinal", ordinal)?);
            columns.class.push(Class::as_str(line.class));
            columns.of_month.push(line.month.day());
            columns
                .deployment
                .push(line.deployment.as_ref().map(ToString::to_string));
            columns.item.push(line.item.as_str());
            columns.plan.push(line.plan);
            columns.began_at.push(line.from);
            columns.ended_at.push(line.to);
            columns.quantity.push(line.quantity.to_string());
            columns.rate.push(line.rate.to_string());
            columns.currency.push(Currency::code(&line.currency).to_owned());
            columns.amount.push(line.amount);
            columns
                .provenance
                .push(line.provenance.map(|provenance| provenance.as_str()));
            columns
                .location_ug
                .push(emitted.and_then(|told| told.location_ug));
            columns.market_ug.push(emitted.and_then(|told| told.market_ug));
            columns
                .embodied_ug
                .push(emitted.and_then(|told| told.embodied_ug));
        }
        Ok(columns)
    }
}

impl AdminTx {
    /// Keeps a statement and its lines. The same month and tenant twice is a conflict (`statement_pkey`).
    pub async fn statement_insert(
        &mut self,
        statement: &StatementRow,
        lines: &[Line],
    ) -> Result<(), DbError> {
        sqlx::query!(
            "insert into statement (month, tenant, body, digest) values ($1, $2, $3, $4)",
            statement.month.day(),
            statement.tenant.0,
            statement.body,
            &statement.digest.0[..]
        )
        .execute(&mut *self.tx)
        .await?;
        let columns = Columns::of(lines)?;
        let done = sqlx::query!(
            "insert into charge (month, tenant, ordinal, class, of_month, deployment, item, plan, began_at, ended_at,
                 quantity, rate, currency, amount, provenance, location_ug, market_ug, embodied_ug)
             select $1::date, $2::uuid, t.ordinal, t.class, t.of_month, t.deployment, t.item, t.plan, t.began_at,
                 t.ended_at, t.quantity::numeric, t.rate::numeric, t.currency, t.amount, t.provenance, t.location_ug,
                 t.market_ug, t.embodied_ug
             from unnest($3::integer[], $4::text[], $5::date[], $6::text[], $7::text[], $8::bigint[],
                 $9::timestamptz[], $10::timestamptz[], $11::text[], $12::text[], $13::text[], $14::bigint[],
                 $15::text[], $16::bigint[], $17::bigint[], $18::bigint[])
                 as t (ordinal, class, of_month, deployment, item, plan, began_at, ended_at, quantity, rate, currency,
                     amount, provenance, location_ug, market_ug, embodied_ug)
             order by t.ordinal",
            statement.month.day(),
            statement.tenant.0,
            &columns.ordinal,
            &columns.class as &[&str],
            &columns.of_month,
            &columns.deployment as &[Option<String>],
            &columns.item as &[&str],
            &columns.plan as &[Option<i64>],
            &columns.began_at,
            &columns.ended_at,
            &columns.quantity,
            &columns.rate,
            &columns.currency,
            &columns.amount,
            &columns.provenance as &[Option<&str>],
            &columns.location_ug as &[Option<i64>],
            &columns.market_ug as &[Option<i64>],
            &columns.embodied_ug as &[Option<i64>]
        )
        .execute(&mut *self.tx)
        .await?;
        match usize::try_from(done.rows_affected()) == Ok(lines.len()) {
            true => Ok(()),
            false => Err(DbError::inconsistent("charge", done.rows_affected())),
        }
    }
}

/// What a tenant's statements have told of a deployment's carbon in a month, in micrograms.
pub type Told = BTreeMap<(TenantId, Option<Name>), Emitted>;

impl BillingTx {
    /// What the statements of closed months have told of the carbon of `of`, by tenant and deployment.
    pub async fn carbon_told(&mut self, of: Month) -> Result<Told, DbError> {
        let rows = sqlx::query!(
            r#"select tenant, deployment, sum(location_ug)::bigint as location_ug,
                   sum(market_ug)::bigint as market_ug, sum(embodied_ug)::bigint as embodied_ug
               from charge
               where of_month = $1 and item = 'carbon' and month in (select month from period_close)
               group by tenant, deployment"#,
            of.day()
        )
        .fetch_all(&mut *self.tx)
        .await?;
        rows.into_iter()
            .map(|row| {
                let (tenant, deployment) = (
                    TenantId(row.tenant),
                    some(row.deployment, |name| parse::<Name>("charge.deployment", &name))?,
                );
                let told = Emitted {
                    tenant,
                    deployment: deployment.clone(),
                    month: of,
                    location_ug: row.location_ug,
                    market_ug: row.market_ug,
                    embodied_ug: row.embodied_ug,
                };
                Ok(((tenant, deployment), told))
            })
            .collect()
    }
}

/// Both kinds of transactions that read statements. Only those of closed months are there.
macro_rules! reads_statements {
    ($($tx:ty: $own:expr;)*) => {$(
        impl $tx {
            /// A tenant's statement for a month, if that is closed.
            pub async fn statement(
                &mut self,
                month: Month,
                tenant: TenantId,
            ) -> Result<Option<StatementRow>, DbError> {
                let own: fn(&Self) -> Option<TenantId> = $own;
                let tenant = own(self).unwrap_or(tenant);
                statement(&mut self.tx, month, tenant).await
            }

            /// Statements, the latest month first, then by tenant; their bodies are left out.
            pub async fn statements_list(
                &mut self,
                filter: ChargeFilter,
                cut: &Cut<(Month, TenantId)>,
            ) -> Result<Page<StatementRow, (Month, TenantId)>, DbError> {
                let own: fn(&Self) -> Option<TenantId> = $own;
                let tenant = own(self).or(filter.tenant);
                statements(&mut self.tx, ChargeFilter { tenant, ..filter }, cut).await
            }

            /// Charges after a place, in their order, at most `limit`.
            pub async fn charges(
                &mut self,
                filter: ChargeFilter,
                after: i64,
                limit: u32,
            ) -> Result<Vec<Charge>, DbError> {
                let own: fn(&Self) -> Option<TenantId> = $own;
                let tenant = own(self).or(filter.tenant);
                charges(&mut self.tx, ChargeFilter { tenant, ..filter }, after, limit).await
            }

            /// Whether a month is closed.
            pub async fn is_closed(&mut self, month: Month) -> Result<bool, DbError> {
                is_closed(&mut self.tx, month).await
            }
        }
    )*};
}

reads_statements! {
    TenantTx: |tx| Some(tx.tenant);
    BillingTx: |_| None;
}

async fn is_closed(tx: &mut PgConnection, month: Month) -> Result<bool, DbError> {
    let closed = sqlx::query_scalar!(
        r#"select exists (select from period_close where month = $1) as "closed!""#,
        month.day()
    );
    Ok(closed.fetch_one(tx).await?)
}

async fn statement(
    tx: &mut PgConnection,
    month: Month,
    tenant: TenantId,
) -> Result<Option<StatementRow>, DbError> {
    let row = sqlx::query_as!(
        StatementColumns,
        "select month, tenant, body, digest from statement join period_close using (month)
         where month = $1 and tenant = $2",
        month.day(),
        tenant.0
    );
    some(row.fetch_optional(tx).await?, StatementRow::try_from)
}

async fn statements(
    tx: &mut PgConnection,
    filter: ChargeFilter,
    cut: &Cut<(Month, TenantId)>,
) -> Result<Page<StatementRow, (Month, TenantId)>, DbError> {
    let (after, tenant) = cut.after.unzip();
    let rows = sqlx::query_as!(
        StatementColumns,
        r#"select month, tenant, '' as "body!", digest
           from statement join period_close using (month)
           where ($1::uuid is null or tenant = $1) and ($2::date is null or month = $2)
               and ($3::date is null or month < $3 or (month = $3 and tenant > $4))
           order by month desc, tenant
           limit $5"#,
        filter.tenant.map(|tenant| tenant.0),
        filter.month.map(Month::day),
        after.map(Month::day),
        tenant.map(|tenant| tenant.0),
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, |row| {
        Ok((month("statement.month", row.month)?, TenantId(row.tenant)))
    })
}

async fn charges(
    tx: &mut PgConnection,
    filter: ChargeFilter,
    after: i64,
    limit: u32,
) -> Result<Vec<Charge>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select c.id, c.month, c.tenant, coalesce(t.name, '') as "tenant_name!", cut.postings_digest, c.class,
               c.of_month, c.deployment, c.item, c.plan, c.began_at, c.ended_at, c.quantity::text as "quantity!",
               c.rate::text as "rate!", c.currency, c.amount, c.provenance, c.location_ug, c.market_ug, c.embodied_ug
           from charge c
           join period_cut cut on cut.month = c.month
           join period_close closed on closed.month = c.month
           left join tenant t on t.id = c.tenant
           where c.id > $1 and ($2::uuid is null or c.tenant = $2) and ($3::date is null or c.month = $3)
           order by c.id
           limit $4"#,
        after,
        filter.tenant.map(|tenant| tenant.0),
        filter.month.map(Month::day),
        i64::from(limit)
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Charge::try_from).collect()
}
