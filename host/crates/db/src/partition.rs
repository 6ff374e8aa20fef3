//! Partitions by month, made ahead.

use time::OffsetDateTime;

use crate::convert::load;
use crate::{BillingTx, DbError, WriterTx};

impl WriterTx {
    /// Makes the monthly partitions through the month of `through`; how many were missing.
    pub async fn make_partitions(&mut self, through: OffsetDateTime) -> Result<u32, DbError> {
        let made = sqlx::query_scalar!(r#"select wattle_make_partitions($1) as "made!""#, through)
            .fetch_one(&mut *self.tx)
            .await?;
        load("partitions made", made)
    }
}

impl BillingTx {
    /// Rows that no partition was made for. More than 0 is an alert.
    pub async fn default_rows(&mut self) -> Result<u64, DbError> {
        let rows = sqlx::query_scalar!(r#"select wattle_default_rows() as "rows!""#)
            .fetch_one(&mut *self.tx)
            .await?;
        load("rows in default partitions", rows)
    }
}
