//! What was typed.

use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "\
usage: make bench ARGS=\"[--quick] [--output json] [--only WORD] ...\"
  --quick          shorter, and without the larger half of the combinations
  --output json    one document instead of a table
  --only WORD      the parts whose name begins so: put, transaction, apply, read, list, watch,
                   lease, compact, restart; may be given more than once
  --directory DIR  where data is written (default: a temporary directory under target/)
  --restart-mib N  how much there is before the restart (default 1024, with --quick 64)";

pub struct Options {
    pub quick: bool,
    pub json: bool,
    pub directory: PathBuf,
    pub restart_mib: u64,
    only: Vec<String>,
}

impl Options {
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            quick: false,
            json: false,
            directory: PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
            restart_mib: 0,
            only: Vec::new(),
        };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value\n{USAGE}"));
            match argument.as_str() {
                // cargo says so to every bench.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--output" => match value()?.as_str() {
                    "json" => options.json = true,
                    "text" => options.json = false,
                    other => return Err(format!("output {other:?} is not known\n{USAGE}")),
                },
                "--only" => options.only.push(value()?),
                "--directory" => options.directory = value()?.into(),
                "--restart-mib" => {
                    options.restart_mib =
                        value()?.parse().map_err(|_| format!("not a number\n{USAGE}"))?;
                }
                other => return Err(format!("{other:?} is not known\n{USAGE}")),
            }
        }
        if options.restart_mib == 0 {
            options.restart_mib = if options.quick { 64 } else { 1024 };
        }
        Ok(options)
    }

    /// Whether the part of this name is to be run.
    pub fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| part.starts_with(only.as_str()))
    }

    /// How long each figure is measured.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(if self.quick { 1000 } else { 4000 })
    }

    /// How long the load runs before that.
    pub fn warm_up(&self) -> Duration {
        self.duration() / 4
    }
}
