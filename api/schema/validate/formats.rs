//! Formats of strings that are checked; a format that is not known here says nothing.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex::Regex;

use crate::object::time::Timestamp;

/// Whether a text is of this format.
pub(super) fn fits(format: &str, text: &str) -> bool {
    match format {
        "date-time" | "datetime" => Timestamp::parse(text).is_some(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "duration" => is_duration(text),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "byte" => STANDARD.decode(text).is_ok(),
        "mac" => MAC.is_match(text),
        "uuid" => UUID.is_match(text),
        "uuid3" => is_uuid(text, "3"),
        "uuid4" => is_uuid(text, "4"),
        "uuid5" => is_uuid(text, "5"),
        "email" => EMAIL.is_match(text),
        "hostname" => text.len() <= 255 && HOSTNAME.is_match(text),
        "uri" => URI.is_match(text),
        "hexcolor" => HEX_COLOR.is_match(text),
        "k8s-short-name" => text.len() <= 63 && SHORT_NAME.is_match(text),
        "k8s-long-name" => text.len() <= 253 && LONG_NAME.is_match(text),
        _ => true,
    }
}

static MAC: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}$"));
static UUID: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$")
});
static EMAIL: LazyLock<Regex> = LazyLock::new(|| pattern(r#"^([^\s@<>"]+|"[^"]+")@[^\s@<>]+$"#));
static HOSTNAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"^([a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)",
        r"(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*\.?$"
    ))
});
static URI: LazyLock<Regex> = LazyLock::new(|| pattern(r"^([A-Za-z][A-Za-z0-9+.-]*:\S+|/\S*)$"));
static HEX_COLOR: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"));
static SHORT_NAME: LazyLock<Regex> = LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"));
static LONG_NAME: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"));
/// Go's durations: `1h30m`, `1.5s`.
static DURATION: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d|w))+$"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is ours")
}

fn is_duration(text: &str) -> bool {
    DURATION.is_match(text)
}

fn is_uuid(text: &str, version: &str) -> bool {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    UUID.is_match(text) && digits.get(12..13) == Some(version)
}
