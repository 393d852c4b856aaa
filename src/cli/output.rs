//! How results are shown: tables for people, JSON for programs.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::failure::Failure;

#[derive(Args, Clone, Copy, Debug)]
pub struct Output {
    /// table for people, json for programs
    #[arg(long, short = 'o', value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[value(alias = "text")]
    Table,
    Json,
}

impl Output {
    /// Shows `value`, in words by `say`.
    pub fn show<T: Serialize>(
        self,
        value: &T,
        say: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.output {
            Format::Table => print(&say(value)),
            Format::Json => {
                let text = serde_json::to_string_pretty(value);
                print(&text.map_err(|error| Failure::Run(error.to_string()))?)
            }
        }
    }
}

/// To standard output. A reader that has seen enough is no failure.
pub fn print(text: &str) -> Result<(), Failure> {
    match writeln!(io::stdout(), "{}", text.trim_end()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A table without lines, as kubectl's.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(head.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    let last = head.len().saturating_sub(1);
    for at in 0..head.len() {
        if let Some(column) = table.column_mut(at) {
            column.set_padding((0, if at == last { 0 } else { 3 }));
        }
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Seconds as people say them.
pub fn seconds(seconds: i64) -> String {
    let (sign, all) =
        if seconds < 0 { ("-", seconds.unsigned_abs()) } else { ("", seconds.unsigned_abs()) };
    let (days, hours, minutes) = (all / 86_400, all / 3600 % 24, all / 60 % 60);
    let text = match (days, hours, minutes) {
        (0, 0, 0) => format!("{all}s"),
        (0, 0, minutes) => format!("{minutes}m{}s", all % 60),
        (0, hours, minutes) => format!("{hours}h{minutes}m"),
        (days, hours, _) => format!("{days}d{hours}h"),
    };
    format!("{sign}{text}")
}

/// Bytes as people say them.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_said_in_the_unit_that_fits() {
        assert_eq!(seconds(59), "59s");
        assert_eq!(seconds(3661), "1h1m");
        assert_eq!(seconds(90_000), "1d1h");
        assert_eq!(seconds(-61), "-1m1s");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
    }

    #[test]
    fn a_table_lines_its_columns_up() {
        let text = table(&["ID", "NAME"], [vec!["1".into(), "m1".into()]]);
        assert_eq!(text, "ID   NAME\n1    m1");
    }
}
