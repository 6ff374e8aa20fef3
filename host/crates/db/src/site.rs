//! Sites: where nodes stand, as it became known.

use domain::NodeId;
use domain::carbon::{Hardware, Known, Site, Zone};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::carbon::learn_alone;
use crate::convert::{load, parse, some, store};
use crate::{DbError, WriterTx};

struct Row {
    node: Uuid,
    valid_from: OffsetDateTime,
    known_at: OffsetDateTime,
    zone: Option<String>,
    marginal_zone: Option<String>,
    pue_ppm: i32,
    pue_is_estimated: bool,
    wue_ul_per_kwh: Option<i64>,
    ewif_ul_per_kwh: Option<i64>,
    ewif_is_estimated: bool,
    cfe_ppm: i32,
    embodied_min_g: Option<i64>,
    embodied_mid_g: Option<i64>,
    embodied_max_g: Option<i64>,
    life_s: Option<i64>,
    threads: Option<i32>,
}

impl Row {
    fn known(self) -> Result<(NodeId, Known<Site>), DbError> {
        let hardware = (
            self.embodied_min_g,
            self.embodied_mid_g,
            self.embodied_max_g,
            self.life_s,
            self.threads,
        );
        let hardware = match hardware {
            (Some(min), Some(mid), Some(max), Some(life), Some(threads)) => Some(Hardware {
                min_g: load("site.embodied_min_g", min)?,
                mid_g: load("site.embodied_mid_g", mid)?,
                max_g: load("site.embodied_max_g", max)?,
                life_s: load("site.life_s", life)?,
                threads: load("site.threads", threads)?,
            }),
            _ => None,
        };
        let zone = |zone: Option<String>| some(zone.as_deref(), |zone| parse("site.zone", zone));
        let site = Site {
            from: self.valid_from,
            zone: zone(self.zone)?,
            marginal_zone: zone(self.marginal_zone)?,
            pue_ppm: load("site.pue_ppm", self.pue_ppm)?,
            pue_is_estimated: self.pue_is_estimated,
            wue_ul_per_kwh: some(self.wue_ul_per_kwh, |wue| load("site.wue_ul_per_kwh", wue))?,
            ewif_ul_per_kwh: some(self.ewif_ul_per_kwh, |ewif| load("site.ewif_ul_per_kwh", ewif))?,
            ewif_is_estimated: self.ewif_is_estimated,
            cfe_ppm: load("site.cfe_ppm", self.cfe_ppm)?,
            hardware,
        };
        let known_at = self.known_at;
        Ok((NodeId(self.node), Known { known_at, it: site }))
    }
}

impl WriterTx {
    /// Notes where a node stands, unless the row that holds at the start of `site` says the same but for the time;
    /// whether it was noted.
    pub async fn site_add(&mut self, node: NodeId, site: &Site) -> Result<bool, DbError> {
        learn_alone(&mut self.tx).await?;
        let newest = self.site_newest(node, site.from).await?;
        let same = |newest: Site| {
            Site {
                from: site.from,
                ..newest
            } == *site
        };
        if newest.is_some_and(same) {
            return Ok(false);
        }
        let hardware = site.hardware.as_ref();
        let grams =
            |of: fn(&Hardware) -> u64| some(hardware.map(of), |grams| store("site.embodied_g", grams));
        let added = sqlx::query!(
            "insert into site (node, valid_from, zone, marginal_zone, pue_ppm, pue_is_estimated, wue_ul_per_kwh,
                 ewif_ul_per_kwh, ewif_is_estimated, cfe_ppm, embodied_min_g, embodied_mid_g, embodied_max_g, life_s,
                 threads)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
            node.0,
            site.from,
            site.zone.as_ref().map(Zone::as_str),
            site.marginal_zone.as_ref().map(Zone::as_str),
            store::<u32, i32>("site.pue_ppm", site.pue_ppm)?,
            site.pue_is_estimated,
            some(site.wue_ul_per_kwh, |wue| store::<u64, i64>("site.wue_ul_per_kwh", wue))?,
            some(site.ewif_ul_per_kwh, |ewif| store::<u64, i64>("site.ewif_ul_per_kwh", ewif))?,
            site.ewif_is_estimated,
            store::<u32, i32>("site.cfe_ppm", site.cfe_ppm)?,
            grams(|hardware| hardware.min_g)? as Option<i64>,
            grams(|hardware| hardware.mid_g)? as Option<i64>,
            grams(|hardware| hardware.max_g)? as Option<i64>,
            some(hardware, |hardware| store::<u64, i64>("site.life_s", hardware.life_s))?,
            some(hardware, |hardware| store::<u32, i32>("site.threads", hardware.threads))?,
        )
        .execute(&mut *self.tx)
        .await?;
        Ok(added.rows_affected() == 1)
    }

    /// The site that holds at `at`, as far as is known now.
    async fn site_newest(&mut self, node: NodeId, at: OffsetDateTime) -> Result<Option<Site>, DbError> {
        let row = sqlx::query_as!(
            Row,
            "select node, valid_from, known_at, zone, marginal_zone, pue_ppm, pue_is_estimated, wue_ul_per_kwh,
                 ewif_ul_per_kwh, ewif_is_estimated, cfe_ppm, embodied_min_g, embodied_mid_g, embodied_max_g, life_s,
                 threads
             from site
             where node = $1 and valid_from <= $2
             order by valid_from desc, known_at desc
             limit 1",
            node.0,
            at
        )
        .fetch_optional(&mut *self.tx)
        .await?;
        some(row, |row| Ok(row.known()?.1.it))
    }
}

/// The sites of `nodes` that were known at `as_of` and begin before `to`.
pub(crate) async fn sites(
    tx: &mut PgConnection,
    nodes: &[Uuid],
    to: OffsetDateTime,
    as_of: OffsetDateTime,
) -> Result<Vec<(NodeId, Known<Site>)>, DbError> {
    let rows = sqlx::query_as!(
        Row,
        "select node, valid_from, known_at, zone, marginal_zone, pue_ppm, pue_is_estimated, wue_ul_per_kwh,
             ewif_ul_per_kwh, ewif_is_estimated, cfe_ppm, embodied_min_g, embodied_mid_g, embodied_max_g, life_s,
             threads
         from site
         where known_at <= $1 and valid_from < $2 and node = any($3)",
        as_of,
        to,
        nodes
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Row::known).collect()
}
