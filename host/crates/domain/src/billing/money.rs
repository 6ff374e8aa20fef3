//! Money in whole minor units, prices as exact decimals, and the one rule by which both meet.
//!
//! **The rounding rule.** A line's exact value is quantity × rate, a fraction that nothing rounds. The exact
//! values of all lines of a statement in one currency are summed up, and the sum is rounded once, to whole minor
//! units, half a unit away from zero. Each line is its exact value rounded down (towards −∞), and the minor units
//! that are then missing from the total go one by one to the lines with the largest remainders; ties go to the
//! line that stands first. So the lines sum to the total to the last minor unit, no line is a whole minor unit
//! away from its exact value, and a line whose value is a whole number of minor units is exactly that.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::currency::MINOR_UNITS;

/// A currency of ISO 4217, or `XXX`, the code for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency {
    code: [u8; 3],
    digits: u8,
}

/// Text that is no currency.
#[derive(Debug, thiserror::Error)]
#[error("a currency is a code of ISO 4217 in use, such as EUR")]
pub struct ParseCurrencyError;

impl Currency {
    /// No currency: of what has no price.
    pub const NONE: Self = Self {
        code: *b"XXX",
        digits: 0,
    };

    /// The code.
    pub fn code(&self) -> &str {
        // It is of the table, which is ASCII.
        std::str::from_utf8(&self.code).unwrap_or("XXX")
    }

    /// Decimal digits of its minor unit: 2 for cents.
    pub fn digits(&self) -> u32 {
        self.digits.into()
    }

    /// Picounits in a minor unit.
    fn minor(&self) -> i128 {
        10_i128.pow(Rate::DIGITS - self.digits())
    }

    /// An amount of minor units as a decimal of the major unit, such as `-12.05`.
    pub fn decimal(&self, minor_units: i64) -> String {
        decimal(minor_units.into(), 10_i128.pow(self.digits()), self.digits())
    }
}

impl FromStr for Currency {
    type Err = ParseCurrencyError;
    fn from_str(text: &str) -> Result<Self, ParseCurrencyError> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| ParseCurrencyError)?;
        if text == Self::NONE.code() {
            return Ok(Self::NONE);
        }
        let digits = MINOR_UNITS
            .iter()
            .find(|(_, codes)| codes.split(' ').any(|known| known == text))
            .map(|(digits, _)| *digits)
            .ok_or(ParseCurrencyError)?;
        Ok(Self { code, digits })
    }
}

impl TryFrom<String> for Currency {
    type Error = ParseCurrencyError;
    fn try_from(text: String) -> Result<Self, ParseCurrencyError> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.code().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A price of one unit of something, in picounits (10⁻¹²) of a currency's major unit: from 0 to a million.
/// As text it is a plain decimal with at most 12 digits behind the point, such as `0.31`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u64);

/// Text that is no price.
#[derive(Debug, thiserror::Error)]
#[error("a price is a decimal from 0 to 1000000 with at most 12 digits behind the point, such as \"0.31\"")]
pub struct ParseRateError;

impl Rate {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Decimal digits behind the point.
    const DIGITS: u32 = 12;

    /// A million of the major unit.
    const MAX_PICO: u64 = 1_000_000_000_000_000_000;

    /// A price in picounits of the major unit; none above a million major units.
    pub fn from_pico(pico: u64) -> Option<Self> {
        (pico <= Self::MAX_PICO).then_some(Self(pico))
    }

    /// In picounits of the major unit.
    pub fn pico(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = ParseRateError;
    fn from_str(text: &str) -> Result<Self, ParseRateError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str, most| {
            (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        if !digits(whole, 7) || !digits(part, Self::DIGITS as usize) {
            return Err(ParseRateError);
        }
        let pico: u64 = format!("{whole}{part:0<12}")
            .parse()
            .map_err(|_| ParseRateError)?;
        Self::from_pico(pico).ok_or(ParseRateError)
    }
}

impl TryFrom<String> for Rate {
    type Error = ParseRateError;
    fn try_from(text: String) -> Result<Self, ParseRateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = decimal(self.0.into(), 10_i128.pow(Self::DIGITS), Self::DIGITS);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// An amount of money beyond what is counted: over 9·10¹⁸ minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an amount of money is beyond what is counted")]
pub struct TooMuchMoney;

/// What all denominators of quantities divide: those of a kWh in µJ (3.6·10¹²), of a GB·s in byte·ns (10¹⁸), of
/// 10⁹ units of fuel, and of a month of 28 to 31 days in µs (2¹³·3³·5⁸ times the days). Below 2⁷⁹.
pub const COMMON: i128 = 1_000_000_000_000_000_000 * 81 * 7 * 29 * 31;

/// An exact amount of money: `pico` + `part` / [`COMMON`] picounits, with `part` in `[0, COMMON)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    pico: i128,
    part: i128,
}

impl Value {
    /// What `quantity` is worth at `rate` for each `per` of it. `per` must divide [`COMMON`] and be at most 10¹⁸.
    pub fn of(rate: Rate, quantity: i128, per: i128) -> Result<Self, TooMuchMoney> {
        if per <= 0 || per > 1_000_000_000_000_000_000 || COMMON % per != 0 {
            return Err(TooMuchMoney);
        }
        let rate = i128::from(rate.0);
        let whole = rate.checked_mul(quantity.div_euclid(per)).ok_or(TooMuchMoney)?;
        // Both factors are at most 10¹⁸.
        let rest = rate * quantity.rem_euclid(per);
        let pico = whole.checked_add(rest / per).ok_or(TooMuchMoney)?;
        Ok(Self {
            pico,
            part: rest % per * (COMMON / per),
        })
    }

    /// The sum of both.
    pub fn plus(self, other: Self) -> Result<Self, TooMuchMoney> {
        let part = self.part + other.part;
        let pico = self
            .pico
            .checked_add(other.pico)
            .and_then(|pico| pico.checked_add(part / COMMON));
        Ok(Self {
            pico: pico.ok_or(TooMuchMoney)?,
            part: part % COMMON,
        })
    }

    /// Whole minor units below it, and what is left, in parts of a picounit.
    fn floor(self, currency: Currency) -> Result<(i64, i128), TooMuchMoney> {
        let minor = currency.minor();
        let whole = i64::try_from(self.pico.div_euclid(minor)).map_err(|_| TooMuchMoney)?;
        // Below 10¹² · 2⁷⁹.
        Ok((whole, self.pico.rem_euclid(minor) * COMMON + self.part))
    }

    /// Rounded to whole minor units, half a unit away from zero.
    pub fn rounded(self, currency: Currency) -> Result<i64, TooMuchMoney> {
        let (whole, rest) = self.floor(currency)?;
        let unit = currency.minor() * COMMON;
        let up = match (rest * 2).cmp(&unit) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => whole >= 0,
            std::cmp::Ordering::Greater => true,
        };
        whole.checked_add(i64::from(up)).ok_or(TooMuchMoney)
    }
}

/// The lines of a statement in whole minor units, in the order of `values`, and their sum, by the rounding rule of
/// this module.
pub fn settle(values: &[Value], currency: Currency) -> Result<(i64, Vec<i64>), TooMuchMoney> {
    let sum = values
        .iter()
        .try_fold(Value::default(), |sum, value| sum.plus(*value))?;
    let total = sum.rounded(currency)?;
    let floors = values.iter().map(|value| value.floor(currency));
    let floors: Vec<(i64, i128)> = floors.collect::<Result<_, _>>()?;
    let given: i128 = floors.iter().map(|(whole, _)| i128::from(*whole)).sum();
    let mut left = i128::from(total) - given;
    let mut lines: Vec<i64> = floors.iter().map(|(whole, _)| *whole).collect();
    let mut order: Vec<usize> = (0..lines.len()).collect();
    // A stable sort: ties stay in their order.
    order.sort_by_key(|index| Reverse(floors.get(*index).map_or(0, |(_, rest)| *rest)));
    for index in order {
        if left == 0 {
            break;
        }
        if let Some(line) = lines.get_mut(index) {
            *line = line.checked_add(1).ok_or(TooMuchMoney)?;
            left -= 1;
        }
    }
    Ok((total, lines))
}

/// `numerator` / `denominator` as a decimal with `digits` digits behind the point, rounded half away from zero.
/// The denominator is above 0; what would not fit 128 bits loses digits from the right first.
pub fn decimal(numerator: i128, denominator: i128, digits: u32) -> String {
    let denominator = denominator.max(1);
    let (whole, mut rest) = (
        numerator.unsigned_abs() / denominator.unsigned_abs(),
        numerator.unsigned_abs() % denominator.unsigned_abs(),
    );
    let mut fraction = Vec::new();
    for _ in 0..digits {
        rest *= 10;
        fraction.push((rest / denominator.unsigned_abs()) as u8);
        rest %= denominator.unsigned_abs();
    }
    let mut carry = rest * 2 >= denominator.unsigned_abs();
    for digit in fraction.iter_mut().rev() {
        if !carry {
            break;
        }
        *digit += 1;
        carry = *digit == 10;
        if carry {
            *digit = 0;
        }
    }
    let whole = whole + u128::from(carry);
    let is_zero = whole == 0 && fraction.iter().all(|digit| *digit == 0);
    let sign = if numerator < 0 && !is_zero { "-" } else { "" };
    let fraction: String = fraction
        .into_iter()
        .map(|digit| char::from(b'0' + digit))
        .collect();
    match digits {
        0 => format!("{sign}{whole}"),
        _ => format!("{sign}{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::billing::{BYTE_NS_PER_GB_S, FUEL_PER_GIGAFUEL, UJ_PER_KWH};

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    fn currency(text: &str) -> Currency {
        text.parse().unwrap()
    }

    #[test]
    fn prices_are_exact_decimals() {
        for (text, pico) in [
            ("0", 0),
            ("0.31", 310_000_000_000),
            ("1.000000000001", 1_000_000_000_001),
            ("1000000", Rate::MAX_PICO),
            ("007.50", 7_500_000_000_000),
        ] {
            assert_eq!(rate(text).pico(), pico, "{text}");
        }
        for bad in [
            "",
            ".",
            "1.",
            ".5",
            "-1",
            "+1",
            "1e3",
            "1,5",
            "0.0000000000001",
            "1000000.000000000001",
            "10000000",
            " 1",
            "٣",
        ] {
            assert!(bad.parse::<Rate>().is_err(), "{bad:?}");
        }
        for text in ["0", "0.31", "1.000000000001", "1000000"] {
            assert_eq!(rate(text).to_string(), text);
        }
    }

    #[test]
    fn currencies_know_their_minor_units() {
        for (code, shown) in [
            ("EUR", "-12.05"),
            ("JPY", "-1205"),
            ("KWD", "-1.205"),
            ("CLF", "-0.1205"),
        ] {
            assert_eq!(currency(code).decimal(-1_205), shown);
        }
        for bad in ["", "eur", "EU", "EURO", "ABC", "€€€", "E R"] {
            assert!(bad.parse::<Currency>().is_err(), "{bad:?}");
        }
        assert_eq!(currency("XXX"), Currency::NONE);
    }

    #[test]
    fn a_sum_is_rounded_once_and_the_lines_follow() {
        let cents = |text: &str| Value::of(rate(text), 1, 1).unwrap();
        let eur = currency("EUR");
        for (values, expected) in [
            (vec!["0.004", "0.004", "0.004"], (1, vec![1, 0, 0])),
            (vec!["0.005"], (1, vec![1])),
            (vec!["0.004"], (0, vec![0])),
            (vec!["0.009", "1", "0.002"], (101, vec![1, 100, 0])),
            (vec![], (0, vec![])),
        ] {
            let values: Vec<_> = values.into_iter().map(cents).collect();
            assert_eq!(settle(&values, eur).unwrap(), expected);
        }
        // What is taken back is rounded as what was charged.
        let back = Value::of(rate("0.005"), -1, 1).unwrap();
        assert_eq!(back.rounded(eur).unwrap(), -1);
        assert_eq!(settle(&[back], eur).unwrap(), (-1, vec![-1]));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let most = Rate(Rate::MAX_PICO);
        assert_eq!(Value::of(most, i128::MAX, 1), Err(TooMuchMoney));
        assert_eq!(Value::of(most, 1, 7_919), Err(TooMuchMoney));
        assert_eq!(Value::of(most, 1, 0), Err(TooMuchMoney));
        let much = Value::of(most, 1_000_000_000_000, 1).unwrap();
        assert_eq!(settle(&[much], currency("EUR")), Err(TooMuchMoney));
    }

    #[test]
    fn decimals_are_rounded_half_away_from_zero() {
        for (numerator, denominator, digits, text) in [
            (1, 3, 4, "0.3333"),
            (2, 3, 4, "0.6667"),
            (-1, 2, 0, "-1"),
            (-1, 3, 0, "0"),
            (1_999, 1_000, 2, "2.00"),
            (0, 7, 2, "0.00"),
        ] {
            assert_eq!(decimal(numerator, denominator, digits), text);
        }
    }

    /// Rates, quantities and what they are for, of every item.
    fn lines() -> impl Strategy<Value = Vec<(Rate, i128, i128)>> {
        let per = prop_oneof![
            Just(UJ_PER_KWH),
            Just(FUEL_PER_GIGAFUEL),
            Just(BYTE_NS_PER_GB_S),
            Just(1),
            (28_i128..=31).prop_map(|days| days * 86_400_000_000),
        ];
        let rate = prop_oneof![Just(0), 0..1_000_000_u64, 0..=1_000_000_000_000_000_u64].prop_map(Rate);
        let line = (rate, -1_000_000_000_000_000..=1_000_000_000_000_000_i128, per);
        // A price for one of anything would leave what is counted at once.
        let line = line.prop_map(|(rate, quantity, per)| {
            (
                rate,
                if per == 1 {
                    quantity / 1_000_000_000
                } else {
                    quantity
                },
                per,
            )
        });
        proptest::collection::vec(line, 0..40)
    }

    fn values(lines: &[(Rate, i128, i128)]) -> Vec<Value> {
        lines
            .iter()
            .map(|(rate, quantity, per)| Value::of(*rate, *quantity, *per).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn lines_sum_to_the_total_to_the_last_minor_unit(lines in lines(), code in prop_oneof![Just("EUR"), Just("JPY"), Just("KWD")]) {
            let (values, currency) = (values(&lines), currency(code));
            let (total, settled) = settle(&values, currency).unwrap();
            prop_assert_eq!(settled.iter().sum::<i64>(), total);
            let unit = currency.minor() * COMMON;
            for (value, line) in values.iter().zip(&settled) {
                let (whole, rest) = value.floor(currency).unwrap();
                // Never a whole minor unit away, and exact where the value is.
                prop_assert!(*line == whole || (*line == whole + 1 && rest > 0));
            }
            // Half a minor unit at most between the total and the exact sum.
            let sum = values.iter().try_fold(Value::default(), |sum, value| sum.plus(*value)).unwrap();
            let (whole, rest) = sum.floor(currency).unwrap();
            let off = if total == whole { rest } else { unit - rest };
            prop_assert!(off * 2 <= unit, "{} of {}", off, unit);
        }

        #[test]
        fn what_is_charged_and_taken_back_comes_to_nothing(lines in lines()) {
            let back: Vec<_> = lines.iter().map(|(rate, quantity, per)| (*rate, -quantity, *per)).collect();
            let both = values(&[lines, back].concat());
            let eur = currency("EUR");
            prop_assert_eq!(settle(&both, eur).unwrap().0, 0);
        }

        #[test]
        fn cutting_a_line_in_two_leaves_the_total(rate in 0..=Rate::MAX_PICO, one in 0..1_000_000_000_i128, other in 0..1_000_000_000_i128) {
            let of = |quantity| Value::of(Rate(rate), quantity, UJ_PER_KWH).unwrap();
            let eur = currency("EUR");
            let cut = settle(&[of(one), of(other)], eur).unwrap().0;
            prop_assert_eq!(cut, settle(&[of(one + other)], eur).unwrap().0);
        }

        #[test]
        fn the_total_does_not_depend_on_the_order(mut lines in lines()) {
            let eur = currency("EUR");
            let total = settle(&values(&lines), eur).unwrap().0;
            lines.reverse();
            prop_assert_eq!(settle(&values(&lines), eur).unwrap().0, total);
        }

        #[test]
        fn a_price_reads_as_it_is_written(pico in 0..=Rate::MAX_PICO) {
            prop_assert_eq!(Rate(pico).to_string().parse::<Rate>().unwrap(), Rate(pico));
        }
    }
}
