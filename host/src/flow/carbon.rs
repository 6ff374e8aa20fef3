//! Carbon: what is learnt of the grid and the site, and the days that are valued anew by it.
//!
//! A pass asks every provider, keeps what is new, and values each whole day of this node that is not valued yet or
//! rests on less than is known by now. Nothing is changed by it: what was valued before stays readable as of its time.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carbon::{
    CsvFile, ElectricityMaps, GreatBritain, IntensityProvider, Key, Options, ProviderError, Span, WattTime,
    Yearly,
};
use db::{Use, UseFilter, Valuation};
use domain::carbon::{Evidence, Zone};
use domain::{Name, TenantId};
use time::OffsetDateTime;

use super::Error;
use super::worth::Sum;
use crate::app::App;
use crate::config::{CarbonArgs, CarbonProvider};

/// The time between two passes, and until the next after one that failed.
const PERIOD: Duration = Duration::from_secs(3600);
const AGAIN: Duration = Duration::from_secs(300);

/// How far back is asked: so much may a provider revise, or have been away.
const LOOK_BACK: time::Duration = time::Duration::hours(48);

/// How long after its end a day is valued: its last windows are posted by then, and its idle energy is moved.
const SETTLED: time::Duration = time::Duration::hours(2);

/// How far back days are valued anew, and how many in a pass.
const RESTATED: time::Duration = time::Duration::days(400);
const DAYS: u32 = 31;

/// The most rows of use that are valued at once.
pub const MOST_USES: u32 = 100_000;

/// A provider with the zone that it is asked for.
type Source = (Box<dyn IntensityProvider>, Zone);

/// Passes at the start and then by the hour, until the task is aborted.
pub async fn run(app: Arc<App>) {
    let sources = match sources(&app.config.carbon) {
        Ok(sources) => sources,
        Err(error) => {
            tracing::error!(%error, code = error.code(), "no carbon intensities are learnt");
            Vec::new()
        }
    };
    loop {
        let passed = pass(&app, &sources).await;
        if let Err(error) = &passed {
            tracing::warn!(%error, "carbon is not up to date: the next pass tries again");
        }
        tokio::time::sleep(if passed.is_ok() { PERIOD } else { AGAIN }).await;
    }
}

async fn pass(app: &App, sources: &[Source]) -> Result<(), Error> {
    stand(app).await?;
    learn(app, sources).await?;
    if app.config.carbon.is_told() {
        restate(app).await?;
    }
    Ok(())
}

/// Who is asked: the provider that was chosen, WattTime where there is a region, and beneath them the yearly figures,
/// as estimates for what the others leave out.
fn sources(config: &CarbonArgs) -> Result<Vec<Source>, ProviderError> {
    let options = Options::default();
    let key = |secret: &crate::config::Secret| Key::new(secret.reveal());
    let mut sources: Vec<Source> = Vec::new();
    if let Some(zone) = &config.carbon_zone {
        if Yearly::of(zone).is_ok() {
            sources.push((Box::new(Yearly), zone.clone()));
        }
        let chosen: Option<Box<dyn IntensityProvider>> = match config.carbon_provider {
            CarbonProvider::Yearly => None,
            CarbonProvider::Csv => match &config.carbon_csv {
                Some(path) => Some(Box::new(CsvFile::new(path))),
                None => None,
            },
            CarbonProvider::Gb => Some(Box::new(GreatBritain::new(GreatBritain::URL, options)?)),
            CarbonProvider::ElectricityMaps => match &config.carbon_electricity_maps_key {
                Some(secret) => Some(Box::new(ElectricityMaps::new(
                    ElectricityMaps::URL,
                    key(secret),
                    options,
                )?)),
                None => None,
            },
        };
        sources.extend(chosen.map(|provider| (provider, zone.clone())));
    }
    if let (Some(region), Some(user), Some(password)) = (
        &config.carbon_watttime_region,
        &config.carbon_watttime_user,
        &config.carbon_watttime_password,
    ) {
        let client = WattTime::new(WattTime::URL, user.clone(), key(password), options)?;
        sources.push((Box::new(client), region.clone()));
    }
    Ok(sources)
}

/// Notes where this node stands, if that is new: from the hour on in which the host was told so.
async fn stand(app: &App) -> Result<(), Error> {
    let threads = energy::ModelledMeter::threads(Path::new("/proc")).unwrap_or_else(|error| {
        tracing::warn!(%error, "the machine's threads are taken for those that the host may use");
        let allowed = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(allowed).unwrap_or(u32::MAX)
    });
    let hour = super::worth::hour(app.clock.now());
    let mut tx = app.db.writer_tx().await?;
    if tx
        .site_add(app.node, &app.config.carbon.site(hour, threads))
        .await?
    {
        tx.commit().await?;
        tracing::info!(
            zone = app.config.carbon.carbon_zone.as_ref().map(Zone::as_str),
            "the site is noted"
        );
    }
    Ok(())
}

/// Asks each source and keeps what is new. One that fails keeps no other from being asked.
async fn learn(app: &App, sources: &[Source]) -> Result<(), Error> {
    for (provider, zone) in sources {
        let to = app.clock.now();
        let from = to - LOOK_BACK;
        let failed = |error: ProviderError| {
            let code = error.code();
            tracing::warn!(%error, code, provider = provider.name(), %zone, "a provider of carbon intensities failed");
        };
        let factors = match provider.factors(zone, Span { from, to }).await {
            Ok(factors) => factors,
            Err(error) => {
                failed(error);
                continue;
            }
        };
        provider.check_age(&factors, to).unwrap_or_else(failed);
        let mut tx = app.db.writer_tx().await?;
        let added = tx.factors_add(&factors).await?;
        tx.commit().await?;
        tracing::info!(provider = provider.name(), %zone, added, "asked for carbon intensities");
    }
    Ok(())
}

/// Values the days of this node that need it.
async fn restate(app: &App) -> Result<(), Error> {
    let settled = super::worth::day(app.clock.now() - SETTLED);
    let mut tx = app.db.billing_tx().await?;
    let days = tx
        .days_to_value(app.node, settled - RESTATED, settled, DAYS)
        .await?;
    drop(tx);
    for day in days {
        let rows = value_day(app, day).await?;
        tracing::info!(%day, rows, "a day is valued");
    }
    Ok(())
}

/// Keeps a valuation of a day of this node by all that is known now; of how many rows it is.
pub async fn value_day(app: &App, day: OffsetDateTime) -> Result<usize, Error> {
    let as_of = app.db.carbon_as_of().await?;
    let to = day + time::Duration::DAY;
    let filter = UseFilter {
        tenant: None,
        deployment: None,
        node: Some(app.node),
        from: day,
        to,
        now: app.clock.now(),
    };
    let mut tx = app.db.billing_tx().await?;
    let uses = tx.carbon_use(&filter, MOST_USES + 1).await?;
    let evidence = tx.carbon_evidence(day - time::Duration::DAY, to, as_of).await?;
    drop(tx);
    let sums = by_deployment(&evidence, &uses)?;
    let mut tx = app.db.writer_tx().await?;
    for ((tenant, deployment), sum) in &sums {
        let valuation = Valuation {
            day,
            node: app.node,
            as_of,
            tenant: *tenant,
            deployment: deployment.clone(),
            lines: sum.lines,
            lines_unmetered: sum.lines_unmetered,
            valued: sum.valued()?,
        };
        tx.valuation_insert(&valuation).await?;
    }
    tx.commit().await?;
    Ok(sums.len())
}

type ByDeployment = BTreeMap<(TenantId, Option<Name>), Sum>;

fn by_deployment(evidence: &Evidence, uses: &[Use]) -> Result<ByDeployment, Error> {
    if uses.len() > MOST_USES as usize {
        return Err(Error::TooMuchUse { limit: MOST_USES });
    }
    let mut sums = ByDeployment::new();
    for used in uses {
        let key = (used.tenant, used.deployment.clone());
        sums.entry(key).or_default().add(evidence, used)?;
    }
    Ok(sums)
}
