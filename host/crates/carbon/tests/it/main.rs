//! Clients of providers against their documented answers, through a server on this machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may fail like the tests themselves"
)]

mod server;

use std::time::Duration as StdDuration;

use carbon::{
    CsvFile, ElectricityMaps, GreatBritain, IntensityProvider, Key, Options, ProviderError, Span, WattTime,
};
use domain::carbon::{Factor, Method, Signal, Zone};
use time::{Duration, OffsetDateTime};

use server::{Reply, Server, ok, status};

const ELECTRICITY_MAPS: &str = include_str!("../fixtures/electricity_maps.json");
const GB: &str = include_str!("../fixtures/gb.json");
const WATTTIME: &str = include_str!("../fixtures/watttime.json");
const SECRET: &str = "hunter2-hunter2";

/// Quick to give up.
fn options() -> Options {
    Options {
        answer_within: StdDuration::from_millis(500),
        backoff: StdDuration::from_millis(1),
        patience: StdDuration::from_secs(2),
        ..Options::default()
    }
}

/// Half past one on 1 March 2026, and a day before.
fn span() -> Span {
    let to = OffsetDateTime::from_unix_timestamp(1_772_371_800).unwrap();
    Span {
        from: to - Duration::DAY,
        to,
    }
}

fn zone(text: &str) -> Zone {
    text.parse().unwrap()
}

fn maps(server: &Server) -> ElectricityMaps {
    ElectricityMaps::new(&server.url, Key::new(SECRET), options()).unwrap()
}

fn gb(server: &Server) -> GreatBritain {
    GreatBritain::new(&server.url, options()).unwrap()
}

fn watttime(server: &Server) -> WattTime {
    WattTime::new(&server.url, "user".to_owned(), Key::new(SECRET), options()).unwrap()
}

async fn ask(provider: &dyn IntensityProvider, of: &str) -> Result<Vec<Factor>, ProviderError> {
    provider.factors(&zone(of), span()).await
}

/// Signal, method, when it begins and ends in unix minutes past noon, mg/kWh, version, and whether it is estimated.
type Shown = (Signal, Method, i64, i64, u64, String, bool);

fn shown(factors: &[Factor]) -> Vec<Shown> {
    let noon = span().to - Duration::minutes(90);
    let each = factors.iter().map(|factor| {
        let (signal, method, fact) = factor.parts();
        let after = |at: OffsetDateTime| (at - noon).whole_minutes();
        let (from, to) = (after(fact.from), after(fact.to));
        (
            signal,
            method,
            from,
            to,
            fact.intensity,
            fact.version,
            fact.is_estimated,
        )
    });
    each.collect()
}

#[tokio::test]
async fn electricity_maps_gives_averages_by_the_hour() {
    use {Method::Location, Signal::Average};
    let server = Server::start([ok(ELECTRICITY_MAPS)]);
    let factors = ask(&maps(&server), "DE").await.unwrap();
    let expected = [
        (
            Average,
            Location,
            -120,
            -60,
            302_000,
            "v3 lifecycle".to_owned(),
            false,
        ),
        // The hour without a figure is left out.
        (
            Average,
            Location,
            0,
            60,
            281_500,
            "v3 lifecycle TIME_SLICER_AVERAGE".to_owned(),
            true,
        ),
    ];
    assert_eq!(shown(&factors), expected);
    let request = &server.requests()[0];
    assert!(
        request.starts_with("GET /v3/carbon-intensity/history?zone=DE&emissionFactorType=lifecycle "),
        "{request}"
    );
    assert!(request.contains(&format!("auth-token: {SECRET}")), "{request}");
}

#[tokio::test]
async fn great_britain_gives_averages_by_the_half_hour_without_a_key() {
    use {Method::Location, Signal::Average};
    let server = Server::start([ok(GB)]);
    let factors = ask(&gb(&server), "GB").await.unwrap();
    let expected = [
        (Average, Location, -30, 0, 263_000, "actual".to_owned(), false),
        (Average, Location, 0, 30, 148_000, "forecast".to_owned(), true),
    ];
    assert_eq!(shown(&factors), expected);
    let request = &server.requests()[0];
    assert!(
        request.starts_with("GET /intensity/2026-02-28T13:30Z/2026-03-01T13:30Z "),
        "{request}"
    );
    assert_eq!(
        ask(&gb(&server), "FR").await.unwrap_err().code(),
        "intensity_unknown_zone"
    );
}

#[tokio::test]
async fn watttime_gives_marginal_intensities_for_a_token() {
    use {Method::Location, Signal::Marginal};
    let server = Server::start([ok(r#"{"token":"first"}"#), ok(WATTTIME)]);
    let factors = ask(&watttime(&server), "CAISO_NORTH").await.unwrap();
    let expected = [
        // 870 lb/MWh are 394.63 g/kWh; a 0 that is said is a figure.
        (Marginal, Location, 0, 5, 394_625, "2026-02-01".to_owned(), false),
        (Marginal, Location, 5, 10, 0, "2026-02-01".to_owned(), false),
    ];
    assert_eq!(shown(&factors), expected);
    let [login, data] = server.requests().try_into().unwrap();
    // user:hunter2-hunter2
    assert!(
        login.starts_with("GET /login ")
            && login.contains("authorization: Basic dXNlcjpodW50ZXIyLWh1bnRlcjI=")
    );
    assert!(data.contains(
        "region=CAISO_NORTH&start=2026-02-28T13%3A30Z&end=2026-03-01T13%3A30Z&signal_type=co2_moer"
    ));
    assert!(data.contains("authorization: Bearer first"), "{data}");
}

#[tokio::test]
async fn a_token_is_kept_while_it_lives_and_renewed_when_it_is_refused() {
    let token = |token: &str| ok(format!("{{\"token\":\"{token}\"}}"));
    let server = Server::start([
        token("first"),
        ok(WATTTIME),
        ok(WATTTIME),
        token("second"),
        ok(WATTTIME),
        status(401),
        token("third"),
        ok(WATTTIME),
        token("fourth"),
        status(403),
    ]);
    let client = watttime(&server);
    let zone = zone("CAISO_NORTH");
    let at = |minutes| {
        let shift = Duration::minutes(minutes);
        Span {
            from: span().from + shift,
            to: span().to + shift,
        }
    };
    for minutes in [0, 24, 25, 26] {
        client.factors(&zone, at(minutes)).await.unwrap();
    }
    // A fresh token that is refused is not tried for ever.
    let refused = client.factors(&zone, at(60)).await.unwrap_err();
    assert_eq!(refused.code(), "intensity_unauthorised");
    let tokens: Vec<_> = server
        .requests()
        .iter()
        .map(|head| {
            head.split("Bearer ")
                .nth(1)
                .map(|rest| rest.split('\r').next().unwrap().to_owned())
        })
        .collect();
    let expected = [
        None,
        Some("first"),
        Some("first"),
        None,
        Some("second"),
        Some("second"),
        None,
        Some("third"),
        None,
        Some("fourth"),
    ];
    assert_eq!(tokens, expected.map(|token| token.map(str::to_owned)));
}

#[tokio::test]
async fn what_may_pass_is_asked_again_and_no_more_often_than_that() {
    let busy = |seconds| Reply::Say(429, seconds, String::new());
    let cases: [(&str, Vec<Reply>, Option<&str>, usize); 8] = [
        ("a hiccup", vec![status(502), Reply::HangUp, ok(GB)], None, 3),
        (
            "busy for a second",
            vec![busy("retry-after: 1\r\n"), ok(GB)],
            None,
            2,
        ),
        (
            "busy until a date",
            vec![busy("retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), ok(GB)],
            None,
            2,
        ),
        (
            "busy for an hour",
            vec![busy("retry-after: 3600\r\n"), ok(GB)],
            Some("intensity_rate_limited"),
            1,
        ),
        (
            "down",
            vec![status(500), status(503), status(500), ok(GB)],
            Some("intensity_status"),
            3,
        ),
        (
            "never there",
            vec![Reply::HangUp; 3],
            Some("intensity_unreachable"),
            3,
        ),
        (
            "moved",
            vec![Reply::Say(302, "location: /elsewhere\r\n", String::new()), ok(GB)],
            Some("intensity_status"),
            1,
        ),
        (
            "no such thing",
            vec![status(404), ok(GB)],
            Some("intensity_status"),
            1,
        ),
    ];
    for (name, replies, code, times) in cases {
        let server = Server::start(replies);
        let client = gb(&server);
        let answer = ask(&client, "GB").await;
        assert_eq!(answer.as_ref().err().map(ProviderError::code), code, "{name}");
        assert_eq!(server.requests().len(), times, "{name}");
    }
}

#[tokio::test]
async fn a_wait_that_is_asked_for_is_kept() {
    let server = Server::start([Reply::Say(429, "retry-after: 1\r\n", String::new()), ok(GB)]);
    let client = gb(&server);
    let asking = ask(&client, "GB");
    let early = tokio::time::timeout(StdDuration::from_millis(800), asking).await;
    assert!(early.is_err());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_provider_that_stalls_is_given_up() {
    let once = Options {
        tries: 1,
        ..options()
    };
    let server = Server::start([Reply::Stall]);
    let client = GreatBritain::new(&server.url, once).unwrap();
    let answer = tokio::time::timeout(StdDuration::from_secs(5), ask(&client, "GB")).await;
    assert_eq!(answer.unwrap().unwrap_err().code(), "intensity_unreachable");
}

#[tokio::test]
async fn an_answer_over_the_cap_is_not_read_to_its_end() {
    for (spaces, fits) in [(0, true), (1, false)] {
        let cap = Options {
            max_bytes: GB.len(),
            ..options()
        };
        let server = Server::start([ok(format!("{GB}{}", " ".repeat(spaces)))]);
        let client = GreatBritain::new(&server.url, cap).unwrap();
        let answer = ask(&client, "GB").await;
        assert_eq!(
            answer.err().map(|error| error.code()),
            (!fits).then_some("intensity_too_large")
        );
    }
}

#[tokio::test]
async fn answers_about_something_else_are_refused() {
    let maps_cases = [
        (
            ELECTRICITY_MAPS.replace("\"zone\": \"DE\"", "\"zone\": \"FR\""),
            "intensity_other_zone",
        ),
        (
            ELECTRICITY_MAPS.replace("lifecycle", "direct"),
            "intensity_other_signal",
        ),
        (r#"{"zone":"DE","history":[]}"#.to_owned(), "intensity_missing"),
        (ELECTRICITY_MAPS.replace("302", "-302"), "intensity_malformed"),
        (ELECTRICITY_MAPS.replace("302", "\"302\""), "intensity_malformed"),
        (ELECTRICITY_MAPS.replace("302", "30200000"), "intensity_malformed"),
        (
            ELECTRICITY_MAPS.replace("isEstimated", "estimated"),
            "intensity_malformed",
        ),
        (
            ELECTRICITY_MAPS.replace("2026-03-01T10", "yesterday"),
            "intensity_malformed",
        ),
        (r#"{"error":"no such zone"}"#.to_owned(), "intensity_malformed"),
        ("<html>".to_owned(), "intensity_malformed"),
        (String::new(), "intensity_malformed"),
    ];
    for (body, code) in maps_cases {
        let server = Server::start([ok(&*body)]);
        assert_eq!(
            ask(&maps(&server), "DE").await.unwrap_err().code(),
            code,
            "{body}"
        );
    }
    let watttime_cases = [
        (
            WATTTIME.replace("CAISO_NORTH", "CAISO_SOUTH"),
            "intensity_other_zone",
        ),
        (WATTTIME.replace("co2_moer", "co2_aoer"), "intensity_other_signal"),
        (
            WATTTIME.replace("lbs_co2_per_mwh", "g_per_kwh"),
            "intensity_other_signal",
        ),
        (WATTTIME.replace("870.0", "null"), "intensity_malformed"),
    ];
    for (body, code) in watttime_cases {
        let server = Server::start([ok(r#"{"token":"t"}"#), ok(&*body)]);
        assert_eq!(
            ask(&watttime(&server), "CAISO_NORTH").await.unwrap_err().code(),
            code,
            "{body}"
        );
    }
    let server = Server::start([ok(GB
        .replace("266", "null")
        .replace("263", "null")
        .replace("148", "null"))]);
    assert_eq!(
        ask(&gb(&server), "GB").await.unwrap_err().code(),
        "intensity_missing"
    );
}

#[tokio::test]
async fn keys_are_in_no_error_and_no_debug() {
    let echo = || ok(format!("{{\"error\":\"bad key {SECRET}\"}}"));
    for reply in [status(401), status(500), echo(), Reply::HangUp] {
        let replies = vec![reply; 3];
        let server = Server::start(replies);
        let (maps, watttime) = (maps(&server), watttime(&server));
        for provider in [&maps as &dyn IntensityProvider, &watttime] {
            let error = ask(provider, "DE").await.unwrap_err();
            let mut said = format!("{error} {error:?}");
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(error) = cause {
                said += &error.to_string();
                cause = error.source();
            }
            assert!(!said.contains("hunter"), "{said}");
        }
        let shown = format!("{maps:?} {watttime:?}");
        assert!(!shown.contains("hunter") && shown.contains("hidden"), "{shown}");
    }
}

#[tokio::test]
async fn figures_that_are_too_old_are_told() {
    let server = Server::start([ok(ELECTRICITY_MAPS)]);
    let client = maps(&server);
    let factors = ask(&client, "DE").await.unwrap();
    // The newest ends at 13:00, and four hours is the most.
    let at = |hours| span().to - Duration::minutes(30) + Duration::hours(hours);
    assert!(client.check_age(&factors, at(4)).is_ok());
    let stale = client.check_age(&factors, at(4) + Duration::SECOND).unwrap_err();
    assert_eq!(stale.code(), "intensity_stale");
    assert!(client.check_age(&[], at(0)).is_err());
}

#[tokio::test]
async fn a_file_of_ones_own_is_read_each_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("factors.csv");
    let file = CsvFile::new(&path);
    assert_eq!(ask(&file, "DE").await.unwrap_err().code(), "intensity_file");
    let header = "zone,signal,method,from,to,g_per_kwh,source,version,is_estimated";
    std::fs::write(&path, format!("{header}\n")).unwrap();
    assert_eq!(ask(&file, "DE").await.unwrap_err().code(), "intensity_missing");
    let row = "DE,average,market,2026-01-01T00:00:00Z,2027-01-01T00:00:00Z,500.5,own,1,false";
    std::fs::write(&path, format!("{header}\n{row}\nbad\n")).unwrap();
    let refused = ask(&file, "DE").await.unwrap_err();
    assert_eq!(refused.code(), "intensity_rows");
    assert!(refused.to_string().contains("factors.csv: line 3: "), "{refused}");
    std::fs::write(&path, format!("{header}\n{row}\n")).unwrap();
    let factors = ask(&file, "DE").await.unwrap();
    assert_eq!(shown(&factors)[0].4, 500_500);
    assert!(matches!(factors[..], [Factor::Residual(_)]));
}
