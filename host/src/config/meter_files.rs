//! Meters that a site keeps in files, in one line of text.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use energy::{Covers, FileSource, Quantity};

/// A site's own meters, as they are written: `NAME=PATH?unit=w&max_w=500`, with `;` between two.
///
/// | key | means | unless said otherwise |
/// |---|---|---|
/// | `unit` | `w` (power in watts) or `uj` (a counter of microjoules) | must be said |
/// | `max_w` | the most power that is believed | must be said |
/// | `covers` | `machine` (all of it) or `apart` (what no other meter sees) | `machine` |
/// | `idle_w` | power with nothing to do | learnt |
/// | `uncertainty_pct` | one standard deviation | 2 |
/// | `still_s` | how long the number may stand still while the machine works | 60 |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterFiles(pub Vec<FileSource>);

impl FromStr for MeterFiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(';').map(source).collect::<Result<_, _>>().map(Self)
    }
}

fn source(text: &str) -> Result<FileSource, String> {
    let form = "a meter is written NAME=PATH?unit=w&max_w=500";
    let (root, rest) = text.split_once('=').ok_or(form)?;
    let (path, settings) = rest.split_once('?').ok_or(form)?;
    if path.is_empty() {
        return Err(form.into());
    }
    let mut given = BTreeMap::new();
    for setting in settings.split('&') {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("'{setting}' is no KEY=VALUE"))?;
        if given.insert(key, value).is_some() {
            return Err(format!("'{key}' stands twice"));
        }
    }
    let mut take = |key| given.remove(key);
    let quantity = match take("unit") {
        Some("w") => Quantity::PowerW,
        Some("uj") => Quantity::EnergyUj,
        _ => return Err("say unit=w or unit=uj".into()),
    };
    let covers = match take("covers") {
        None | Some("machine") => Covers::Machine,
        Some("apart") => Covers::Apart,
        Some(_) => return Err("say covers=machine or covers=apart".into()),
    };
    // The highest of each is far beyond any machine and far below what 64 bits of micro-units hold.
    let max_w = number(
        "max_w",
        take("max_w").ok_or("say max_w, the most power that is believed")?,
        1e6,
    )?;
    let idle_w = number("idle_w", take("idle_w").unwrap_or("0"), max_w)?;
    let uncertainty_pct = number("uncertainty_pct", take("uncertainty_pct").unwrap_or("2"), 100.0)?;
    let still_s = number("still_s", take("still_s").unwrap_or("60"), 86_400.0)?;
    if let Some(unknown) = given.into_keys().next() {
        return Err(format!("there is no setting '{unknown}' of a meter"));
    }
    let micro = |value: f64| (value * 1e6).round() as u64;
    Ok(FileSource {
        root: root.to_owned(),
        path: Path::new(path).to_owned(),
        quantity,
        covers,
        floor_uw: micro(idle_w),
        most_uw: micro(max_w),
        uncertainty_ppm: (uncertainty_pct * 1e4).round() as u32,
        still_after: Duration::from_secs_f64(still_s),
    })
}

/// A number from 0 to `most`.
fn number(key: &str, text: &str, most: f64) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=most).contains(number));
    number.ok_or_else(|| format!("{key} is a number from 0 to {most}, not '{text}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meters_are_read_from_text() {
        let text = "plug=/run/plug/watts?unit=w&max_w=500;box=/run/box?max_w=2000.5&unit=uj&covers=apart\
                    &idle_w=40&uncertainty_pct=0.5&still_s=600";
        let MeterFiles(meters) = text.parse().unwrap();
        let [plug, apart] = &meters[..] else {
            panic!("{meters:?}")
        };
        assert_eq!(
            (plug.root.as_str(), plug.quantity, plug.covers),
            ("plug", Quantity::PowerW, Covers::Machine)
        );
        assert_eq!(
            (plug.most_uw, plug.floor_uw, plug.uncertainty_ppm),
            (500_000_000, 0, 20_000)
        );
        assert_eq!(
            (apart.quantity, apart.covers),
            (Quantity::EnergyUj, Covers::Apart)
        );
        assert_eq!(
            (apart.most_uw, apart.floor_uw, apart.uncertainty_ppm),
            (2_000_500_000, 40_000_000, 5_000)
        );
        assert_eq!(apart.still_after, Duration::from_secs(600));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("", "a meter is written"),
            ("plug", "a meter is written"),
            ("plug=?unit=w", "a meter is written"),
            ("plug=/p?max_w=1", "say unit"),
            ("plug=/p?unit=kw&max_w=1", "say unit"),
            ("plug=/p?unit=w", "say max_w"),
            ("plug=/p?unit=w&max_w=-1", "max_w is a number"),
            ("plug=/p?unit=w&max_w=1e7", "max_w is a number"),
            ("plug=/p?unit=w&max_w=NaN", "max_w is a number"),
            ("plug=/p?unit=w&max_w=10&idle_w=11", "idle_w is a number"),
            ("plug=/p?unit=w&max_w=10&covers=rack", "say covers"),
            ("plug=/p?unit=w&max_w=10&still_s=1e9", "still_s is a number"),
            ("plug=/p?unit=w&max_w=10&watts=1", "no setting 'watts'"),
            ("plug=/p?unit=w&max_w=10&unit=w", "'unit' stands twice"),
            ("plug=/p?unit=w&max_w", "no KEY=VALUE"),
            ("plug=/p?unit=w&max_w=10;", "a meter is written"),
        ] {
            let error = text.parse::<MeterFiles>().unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
