//! Carbon: what is learnt of the grid and the site, and the days that are valued anew by it.
//!
//! A pass asks every provider, keeps what is new, and values each whole day of this node that is not valued yet or
//! rests on less than is known by now. Nothing is changed by it: what was valued before stays readable as of its time.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carbon::{
    CsvFile, ElectricityMaps, GreatBritain, IntensityProvider, Key, Options, ProviderError, Span, WattTime,
    Yearly,
};
use db::{DbError, Use, UseFilter, Valuation};
use domain::carbon::{Evidence, Factor, Zone};
use domain::{Name, TenantId};
use futures::FutureExt as _;
use time::OffsetDateTime;

use super::Error;
use super::worth::{Sum, bounded, few};
use crate::app::App;
use crate::config::{CarbonArgs, CarbonProvider};

/// The time between two passes, and until the next after one that found Postgres away.
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

/// The most factors that are read for that: two zones by five minutes over ten months.
pub const MOST_FACTORS: u32 = 200_000;

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
    let mut failed = BTreeSet::new();
    loop {
        let passed = guarded(pass(&app, &sources, &mut failed)).await;
        tokio::time::sleep(wait(&passed)).await;
    }
}

/// What `pass` comes to; where it panics that is said, and the next pass is made all the same.
async fn guarded(pass: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let passed = AssertUnwindSafe(pass).catch_unwind().await;
    let passed = passed.unwrap_or(Err(Error::Internal));
    if let Err(error) = &passed {
        tracing::error!(%error, "a pass over carbon was cut short: the next one tries again");
    }
    passed
}

/// Soon again only where that may help and costs nobody else anything: providers are not asked while Postgres is away.
fn wait(passed: &Result<(), Error>) -> Duration {
    match passed {
        Err(error) if is_away(error) => AGAIN,
        _ => PERIOD,
    }
}

fn is_away(error: &Error) -> bool {
    matches!(error, Error::Db(DbError::Unavailable(_)))
}

/// What a step came to, or none where it failed: that is said, and keeps no other step from being made. An error only
/// where Postgres is away, because the others would then fail as well.
fn alone<T>(result: Result<T, Error>, step: &str) -> Result<Option<T>, Error> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_away(&error) => Err(error),
        Err(error) => {
            tracing::error!(%error, step, "a step of the pass over carbon failed: the others are made");
            Ok(None)
        }
    }
}

async fn pass(app: &App, sources: &[Source], failed: &mut BTreeSet<OffsetDateTime>) -> Result<(), Error> {
    alone(stand(app).await, "note the site")?;
    for source in sources {
        alone(learn(app, source).await, "keep what a provider says")?;
    }
    if app.config.carbon.is_told() {
        alone(restate(app, failed).await, "find the days to value")?;
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

/// Asks a source and keeps what is new. That it fails is said, and is no error of the pass.
async fn learn(app: &App, (provider, zone): &Source) -> Result<(), Error> {
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
            return Ok(());
        }
    };
    provider.check_age(&factors, to).unwrap_or_else(failed);
    let added = keep(app, &factors).await?;
    tracing::info!(provider = provider.name(), %zone, added, "asked for carbon intensities");
    Ok(())
}

async fn keep(app: &App, factors: &[Factor]) -> Result<u64, Error> {
    let mut tx = app.db.writer_tx().await?;
    let added = tx.factors_add(factors).await?;
    tx.commit().await?;
    Ok(added)
}

/// Values the days of this node that need it. One that cannot be valued goes to `failed` and is left out from then on:
/// the same use and factors would fail again, and keep the days after it waiting.
pub async fn restate(app: &App, failed: &mut BTreeSet<OffsetDateTime>) -> Result<(), Error> {
    let settled = super::worth::day(app.clock.now() - SETTLED);
    let skip: Vec<_> = failed.iter().copied().collect();
    let mut tx = app.db.billing_tx().await?;
    let days = tx
        .days_to_value(app.node, settled - RESTATED, settled, DAYS, &skip)
        .await?;
    drop(tx);
    for day in days {
        match value_day(app, day).await {
            Ok(rows) => tracing::info!(%day, rows, "a day is valued"),
            Err(error) if is_away(&error) => return Err(error),
            Err(error) => {
                tracing::error!(%error, %day, "a day cannot be valued: it is left out until the host is restarted");
                failed.insert(day);
            }
        }
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
    let uses = few(tx.carbon_use(&filter, MOST_USES + 1).await?)?;
    let evidence = bounded(tx.carbon_evidence(&uses, as_of, MOST_FACTORS).await?)?;
    drop(tx);
    let sums = blocking(move || by_deployment(&evidence, &uses)).await?;
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

/// Values on a thread of its own: what takes long there keeps no call waiting.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|_| Error::Internal)?
}

type ByDeployment = BTreeMap<(TenantId, Option<Name>), Sum>;

fn by_deployment(evidence: &Evidence, uses: &[Use]) -> Result<ByDeployment, Error> {
    let mut sums = ByDeployment::new();
    for used in uses {
        let key = (used.tenant, used.deployment.clone());
        sums.entry(key).or_default().add(evidence, used)?;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_while_postgres_is_away_is_it_tried_soon_again() {
        assert_eq!(wait(&Ok(())), PERIOD);
        assert_eq!(wait(&Err(Error::Internal)), PERIOD);
        assert_eq!(wait(&Err(Error::Db(DbError::NotFound("x")))), PERIOD);
    }

    #[tokio::test]
    async fn while_postgres_is_away_it_is_tried_every_five_minutes() {
        // Nobody listens there.
        let nowhere = "postgres://nobody@127.0.0.1:1/nothing";
        let away = db::Db::open(nowhere, nowhere, &db::Options::default())
            .await
            .unwrap_err();
        assert!(matches!(away, DbError::Unavailable(_)), "{away:?}");
        let passed = guarded(async { Err(Error::Db(away)) }).await;
        assert_eq!(wait(&passed), Duration::from_secs(300));
        // A step that finds it away ends the pass: the others would find the same.
        assert!(matches!(
            alone(passed, "x"),
            Err(Error::Db(DbError::Unavailable(_)))
        ));
    }

    #[test]
    fn a_step_that_fails_stops_no_other() {
        assert!(matches!(alone(Ok(1), "x"), Ok(Some(1))));
        for error in [Error::Internal, domain::carbon::CarbonError::Overflow.into()] {
            assert!(matches!(alone::<()>(Err(error), "x"), Ok(None)));
        }
    }

    #[tokio::test]
    async fn a_panic_ends_a_pass_and_not_the_task() {
        let passed = guarded(async { panic!("a pass that panics") }).await;
        assert!(matches!(passed, Err(Error::Internal)));
        assert_eq!(wait(&passed), PERIOD);
    }
}
