//! `resource.Quantity`: an exact decimal number with a suffix, such as `250m` CPU or `64Mi` of memory.
//!
//! Keeps: arithmetic is exact. What is written is the one canonical form of a number in its format, so equal
//! quantities of one format are equal texts. Finer than a billionth is rounded away from zero, as upstream
//! does; beyond ±10^28 a quantity stays at that bound (upstream has none there, its binary form is bound at
//! 2^63-1 as ours is).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// Everything is counted in billionths.
const UNIT: i128 = 1_000_000_000;
const NANOS_MAX: i128 = UNIT * 10_000_000_000_000_000_000_000_000_000;
/// How many digits count: so many that their product with any factor fits.
const DIGITS_MAX: usize = 28;
const DIGITS_BINARY_MAX: usize = 19;

const SPLIT: &str = "quantities must match the regular expression \
                     '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const SUFFIX: &str = "unable to parse quantity's suffix";

/// Which kind of suffix a quantity is written with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
}

/// Compared by value alone: `1Ki` is `1024`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSi };

    #[must_use]
    pub fn new(value: i64, format: Format) -> Quantity {
        Quantity::bounded(i128::from(value) * UNIT, format)
    }

    #[must_use]
    pub fn from_milli(milli: i64, format: Format) -> Quantity {
        Quantity::bounded(i128::from(milli) * 1_000_000, format)
    }

    fn bounded(nanos: i128, format: Format) -> Quantity {
        Quantity { nanos: nanos.clamp(-NANOS_MAX, NANOS_MAX), format }
    }

    /// From a field of an object: a string, or a number that is read as its text.
    pub fn from_json(value: &Value) -> Result<Quantity, &'static str> {
        match value {
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            Value::Null => Ok(Quantity::ZERO),
            _ => Err(SPLIT),
        }
    }

    #[must_use]
    pub fn format(self) -> Format {
        self.format
    }

    #[must_use]
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    #[must_use]
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// In whole units, a fraction rounded away from zero.
    #[must_use]
    pub fn value(self) -> i64 {
        self.scaled(UNIT)
    }

    /// In thousandths, a smaller fraction rounded away from zero.
    #[must_use]
    pub fn milli_value(self) -> i64 {
        self.scaled(1_000_000)
    }

    fn scaled(self, by: i128) -> i64 {
        let whole = round_away(self.nanos, by) / by;
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Rounded away from zero to thousandths: resource lists hold nothing finer.
    #[must_use]
    pub fn round_to_milli(self) -> Quantity {
        Quantity { nanos: round_away(self.nanos, 1_000_000), ..self }
    }

    #[must_use]
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / UNIT as f64
    }

    /// A zero takes on the other's format.
    #[must_use]
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity::bounded(self.nanos + other.nanos, format)
    }

    /// A zero takes on the other's format.
    #[must_use]
    pub fn minus(self, other: Quantity) -> Quantity {
        self.plus(Quantity { nanos: -other.nanos, ..other })
    }

    #[must_use]
    pub fn times(self, factor: i64) -> Quantity {
        Quantity::bounded(self.nanos.saturating_mul(factor.into()), self.format)
    }

    #[must_use]
    pub fn negated(self) -> Quantity {
        Quantity { nanos: -self.nanos, ..self }
    }
}

fn round_away(nanos: i128, to: i128) -> i128 {
    let rest = nanos % to;
    if rest == 0 { nanos } else { nanos - rest + to * rest.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Quantity, &'static str> {
        if text.is_empty() {
            return Err(SPLIT);
        }
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let number_end =
            unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || number.is_empty() || number == "." {
            return Err(SPLIT);
        }
        let (multiplier, exponent, mut format) = interpret(suffix)?;
        let magnitude = magnitude(whole.trim_start_matches('0'), fraction, exponent, multiplier);
        let mut nanos = magnitude;
        if format == Format::BinarySi {
            nanos = nanos.min(i128::from(i64::MAX) * UNIT);
            if nanos > 0 && nanos < UNIT {
                format = Format::DecimalSi;
            }
        }
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }
}

/// A suffix as (a factor, a power of ten, the format).
fn interpret(suffix: &str) -> Result<(i128, i32, Format), &'static str> {
    if let Some(exponent) = DECIMAL.iter().find(|(text, _)| *text == suffix).map(|(_, at)| *at) {
        return Ok((1, exponent, Format::DecimalSi));
    }
    if let Some(at) = BINARY.iter().position(|text| *text == suffix) {
        return Ok((1 << (10 * at), 0, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or_else(|| {
        let known = |c: char| "eEinumkKMGTP+-".contains(c) || c.is_ascii_digit();
        if suffix.chars().all(known) { SUFFIX } else { SPLIT }
    })?;
    let exponent: i64 = exponent.parse().map_err(|_| SUFFIX)?;
    // Beyond this, nothing but zero and the bound is left.
    let exponent = exponent.clamp(-1000, 1000) as i32;
    Ok((1, exponent, Format::DecimalExponent))
}

const DECIMAL: &[(&str, i32)] = &[
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// Each 1024 times the one before. The first is never read: no suffix is decimal.
const BINARY: &[&str] = &["(none)", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// `whole.fraction * 10^exponent * factor` in billionths, rounded up, bounded.
fn magnitude(whole: &str, fraction: &str, exponent: i32, factor: i128) -> i128 {
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').collect();
    let leading = digits.iter().take_while(|digit| **digit == 0).count();
    let significant = &digits[leading..];
    if significant.iter().all(|digit| *digit == 0) {
        return 0;
    }
    // Digits before the point once the number is counted in billionths; the rest is cut off, upwards.
    let point = whole.len() as i64 - leading as i64 + i64::from(exponent) + 9;
    let kept = significant.len().min(if factor == 1 { DIGITS_MAX } else { DIGITS_BINARY_MAX });
    let mut cut = significant[kept..].iter().any(|digit| *digit != 0);
    let mut value: i128 = 0;
    for digit in &significant[..kept] {
        value = value * 10 + i128::from(*digit);
    }
    value *= factor;
    let mut shift = point - kept as i64;
    while shift > 0 && value <= NANOS_MAX {
        value *= 10;
        shift -= 1;
    }
    while shift < 0 && value > 0 {
        cut |= value % 10 != 0;
        value /= 10;
        shift += 1;
    }
    (value + i128::from(cut)).min(NANOS_MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % UNIT == 0;
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * UNIT {
            let (mut value, mut at) = (self.nanos / UNIT, 0);
            while value % 1024 == 0 && at + 1 < BINARY.len() {
                value /= 1024;
                at += 1;
            }
            return write!(f, "{value}{}", if at == 0 { "" } else { BINARY[at] });
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        let exponent_max = if self.format == Format::DecimalExponent { i32::MAX } else { 18 };
        while value % 1000 == 0 && exponent < exponent_max {
            value /= 1000;
            exponent += 3;
        }
        write!(f, "{value}")?;
        if self.format == Format::DecimalExponent {
            return if exponent == 0 { Ok(()) } else { write!(f, "e{exponent}") };
        }
        let suffix = DECIMAL.iter().find(|(_, at)| *at == exponent).map_or("", |(text, _)| text);
        f.write_str(suffix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().map_or_else(str::to_owned, |it| it.to_string())
    }

    #[test]
    fn quantities_are_written_in_their_one_form() {
        for (text, form) in [
            ("0", "0"),
            ("0Mi", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1024Ki", "1Mi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("0.3Ki", "307200m"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e6", "12e6"),
            ("123e-2", "1230e-3"),
            ("100M", "100M"),
            ("+5", "5"),
            ("-1500m", "-1500m"),
            ("-0.1Mi", "-104857600m"),
            ("0.1n", "1n"),
            ("1.", "1"),
            (".5", "500m"),
            ("1E", "1E"),
            ("16Ei", "9223372036854775807"),
            ("00100", "100"),
            ("100000000000000000000000000000000000000000", "10000000000E"),
        ] {
            assert_eq!(canonical(text), form, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_told_in_upstreams_words() {
        for text in ["", "abc", "1.2.3", "1 Mi", ".", "0x1"] {
            assert_eq!(canonical(text), SPLIT, "{text}");
        }
        for text in ["1Mib", "1i", "1ki", "1e", "1mm"] {
            let told = canonical(text);
            assert!(told == SUFFIX || told == SPLIT, "{text}: {told}");
        }
    }

    #[test]
    fn numbers_in_json_are_quantities() {
        let read = |value: Value| Quantity::from_json(&value).map(|it| it.to_string());
        assert_eq!(read(serde_json::json!(2)), Ok("2".into()));
        assert_eq!(read(serde_json::json!(0.25)), Ok("250m".into()));
        assert_eq!(read(serde_json::json!(" 1Gi ")), Ok("1Gi".into()));
        assert!(read(serde_json::json!([])).is_err());
    }

    #[test]
    fn sums_keep_the_format_of_what_was_there_first() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(parse("1Gi").plus(parse("1M")).to_string(), "1074741824");
        assert_eq!(Quantity::ZERO.plus(parse("1Gi")).plus(parse("1Gi")).to_string(), "2Gi");
        assert_eq!(parse("1").minus(parse("250m")).to_string(), "750m");
        assert_eq!(parse("1500m").value(), 2);
        assert_eq!(parse("-1500m").value(), -2);
        assert_eq!(parse("0.1m").milli_value(), 1);
        assert_eq!(parse("0.1m").round_to_milli().to_string(), "1m");
    }

    proptest! {
        #[test]
        fn a_written_quantity_reads_back_as_itself(
            nanos in -10_i128.pow(27)..10_i128.pow(27),
            format in prop::sample::select(vec![
                Format::DecimalExponent, Format::BinarySi, Format::DecimalSi,
            ]),
        ) {
            // The binary form has its own bound.
            let nanos = nanos % (i128::from(i64::MAX) * UNIT);
            let quantity = Quantity { nanos, format };
            let text = quantity.to_string();
            let read: Quantity = text.parse().unwrap();
            prop_assert_eq!(read, quantity, "{}", text);
            prop_assert_eq!(read.to_string(), text);
        }

        #[test]
        fn any_text_is_read_or_refused(
            text in "[-+]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,25}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
            }
        }

        #[test]
        fn taking_away_what_was_added_gives_what_was_there(a in any::<i64>(), b in any::<i64>()) {
            let (a, b) = (
                Quantity::from_milli(a, Format::DecimalSi),
            Quantity::from_milli(b, Format::BinarySi),
        );
            prop_assert_eq!(a.plus(b).minus(b), a);
            prop_assert_eq!(a.cmp(&b), a.minus(b).cmp(&Quantity::ZERO));
        }
    }
}
