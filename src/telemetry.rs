//! What the process says of itself while it runs: events to standard error, as text or as JSON.
//!
//! Keeps: standard output belongs to what a command was asked for. Colours only where a terminal shows
//! them.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// How events look.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    clap::ValueEnum,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Speaks from now on. A level is ours alone (`debug`); directives (`info,kontiki_raft=trace`) are taken
/// as they are.
pub fn start(level: &str, format: Format) -> Result<(), String> {
    let filter = filter(level)?;
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        Format::Text => events.with_ansi(std::io::stderr().is_terminal()).try_init(),
        Format::Json => events.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| format!("cannot start logging: {error}"))
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let is_level = ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .any(|known| known.eq_ignore_ascii_case(level));
    // The libraries below say at "info" what only their authors want to know.
    let directives = if is_level {
        format!(
            "warn,kontiki={level},kontiki_api={level},kontiki_raft={level},kontiki_storage={level}"
        )
    } else {
        level.to_owned()
    };
    if !is_level && !level.contains(['=', ',']) {
        return Err(format!(
            "--log-level {level:?} is none; give off, error, warn, info, debug or trace, or \
             directives such as info,kontiki_raft=debug"
        ));
    }
    EnvFilter::try_new(&directives).map_err(|error| format!("--log-level {level:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn a_level_or_directives_are_understood_and_nothing_else() {
        for good in ["info", "DEBUG", "off", "info,kontiki_raft=trace", "kontiki_raft=debug"] {
            assert!(filter(good).is_ok(), "{good}");
        }
        for bad in ["loud", "", "kontiki=loud"] {
            assert!(filter(bad).unwrap_err().contains("--log-level"), "{bad}");
        }
    }
}
