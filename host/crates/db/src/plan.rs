//! Price plans: prices from an instant on. Nothing of one is changed; a change is a further plan.

use domain::TenantId;
use domain::billing::{Plan, Plans, Prices};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::convert::parse;
use crate::{AdminTx, BillingTx, Cut, DbError, Page, TenantTx};

/// A plan and when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanRow {
    /// The plan.
    pub plan: Plan,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

struct Row {
    id: i64,
    tenant: Option<Uuid>,
    valid_from: OffsetDateTime,
    currency: String,
    per_kwh: String,
    per_gigafuel: String,
    per_gb_second: String,
    per_megatoken: String,
    per_call: String,
    per_month: String,
    created_at: OffsetDateTime,
}

impl TryFrom<Row> for PlanRow {
    type Error = DbError;
    fn try_from(row: Row) -> Result<Self, DbError> {
        let prices = Prices {
            per_kwh: parse("price_plan.per_kwh", &row.per_kwh)?,
            per_gigafuel: parse("price_plan.per_gigafuel", &row.per_gigafuel)?,
            per_gb_second: parse("price_plan.per_gb_second", &row.per_gb_second)?,
            per_megatoken: parse("price_plan.per_megatoken", &row.per_megatoken)?,
            per_call: parse("price_plan.per_call", &row.per_call)?,
            per_month: parse("price_plan.per_month", &row.per_month)?,
        };
        let plan = Plan {
            id: row.id,
            tenant: row.tenant.map(TenantId),
            from: row.valid_from,
            currency: parse("price_plan.currency", &row.currency)?,
            prices,
        };
        Ok(Self {
            plan,
            created_at: row.created_at,
        })
    }
}

impl AdminTx {
    /// Adds a plan; gives it with its number. None where `from` lies before the end of a month that is cut: what is
    /// stated has its prices. A tenant that is not there is a [`DbError::Reference`].
    pub async fn plan_insert(
        &mut self,
        tenant: Option<TenantId>,
        from: OffsetDateTime,
        currency: domain::billing::Currency,
        prices: &Prices,
    ) -> Result<Option<PlanRow>, DbError> {
        let row = sqlx::query_as!(
            Row,
            r#"insert into price_plan (tenant, valid_from, currency, per_kwh, per_gigafuel, per_gb_second,
                   per_megatoken, per_call, per_month)
               select $1::uuid, $2::timestamptz, $3::text, $4::text::numeric, $5::text::numeric, $6::text::numeric,
                   $7::text::numeric, $8::text::numeric, $9::text::numeric
               where not exists (
                   select from period_cut where (month + interval '1 month') at time zone 'UTC' > $2::timestamptz
               )
               returning id, tenant, valid_from, currency, per_kwh::text as "per_kwh!",
                   per_gigafuel::text as "per_gigafuel!", per_gb_second::text as "per_gb_second!",
                   per_megatoken::text as "per_megatoken!", per_call::text as "per_call!",
                   per_month::text as "per_month!", created_at"#,
            tenant.map(|tenant| tenant.0),
            from,
            currency.code(),
            prices.per_kwh.to_string(),
            prices.per_gigafuel.to_string(),
            prices.per_gb_second.to_string(),
            prices.per_megatoken.to_string(),
            prices.per_call.to_string(),
            prices.per_month.to_string()
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        row.map(PlanRow::try_from).transpose()
    }
}

impl TenantTx {
    /// The tenant's plans and everyone's, in the order in which they were made.
    pub async fn plans_list(&mut self, cut: &Cut<i64>) -> Result<Page<PlanRow, i64>, DbError> {
        list(&mut self.tx, None, cut).await
    }
}

impl BillingTx {
    /// Plans in the order in which they were made: of all, or of `tenant` and of everyone.
    pub async fn plans_list(
        &mut self,
        tenant: Option<TenantId>,
        cut: &Cut<i64>,
    ) -> Result<Page<PlanRow, i64>, DbError> {
        list(&mut self.tx, tenant, cut).await
    }

    /// Every plan.
    pub async fn plans(&mut self) -> Result<Plans, DbError> {
        let rows = sqlx::query_as!(
            Row,
            r#"select id, tenant, valid_from, currency, per_kwh::text as "per_kwh!",
                   per_gigafuel::text as "per_gigafuel!", per_gb_second::text as "per_gb_second!",
                   per_megatoken::text as "per_megatoken!", per_call::text as "per_call!",
                   per_month::text as "per_month!", created_at
               from price_plan
               order by id"#
        )
        .fetch_all(&mut *self.tx)
        .await?;
        let plans = rows
            .into_iter()
            .map(|row| PlanRow::try_from(row).map(|row| row.plan));
        Ok(Plans::new(plans.collect::<Result<_, _>>()?))
    }
}

async fn list(
    tx: &mut PgConnection,
    tenant: Option<TenantId>,
    cut: &Cut<i64>,
) -> Result<Page<PlanRow, i64>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, tenant, valid_from, currency, per_kwh::text as "per_kwh!",
               per_gigafuel::text as "per_gigafuel!", per_gb_second::text as "per_gb_second!",
               per_megatoken::text as "per_megatoken!", per_call::text as "per_call!",
                   per_month::text as "per_month!", created_at
           from price_plan
           where id > coalesce($1, 0::bigint) and ($2::uuid is null or tenant is null or tenant = $2)
           order by id
           limit $3"#,
        cut.after,
        tenant.map(|tenant| tenant.0),
        cut.rows()
    )
    .fetch_all(tx)
    .await?;
    Page::of(rows, cut, |row| Ok(row.id))
}
