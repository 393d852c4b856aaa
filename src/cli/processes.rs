//! `kontiki ps`: which Kontiki processes run on this host, read from /proc.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::config;
use super::output::{Output, bytes, table};
use crate::failure::Failure;
use crate::roles::ports::{self, Ports};

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Process {
    pid: u32,
    role: String,
    data_dir: PathBuf,
    resident_bytes: Option<u64>,
    ports: Option<Ports>,
}

impl List {
    pub fn run(self) -> Result<(), Failure> {
        let default = config::data_dir()?;
        let mut processes: Vec<Process> = fs::read_dir("/proc")?
            .filter_map(|entry| look(&entry.ok()?.path(), &default))
            .collect();
        processes.sort_by_key(|process| process.pid);
        self.output.show(&processes, |processes| {
            let rows = processes.iter().map(|process| {
                let port = |of: fn(&Ports) -> u16| {
                    process.ports.as_ref().map_or("-".into(), |ports| of(ports).to_string())
                };
                vec![
                    process.pid.to_string(),
                    process.role.clone(),
                    port(|it| it.api),
                    port(|it| it.peer),
                    port(|it| it.store),
                    process.resident_bytes.map_or("-".into(), bytes),
                    process.data_dir.display().to_string(),
                ]
            });
            table(&["PID", "ROLE", "API", "PEER", "STORE", "MEMORY", "DATA DIRECTORY"], rows)
        })
    }
}

/// What runs under one number of /proc, if it is one of ours.
fn look(proc: &Path, default: &Path) -> Option<Process> {
    let pid = proc.file_name()?.to_str()?.parse().ok()?;
    let command = fs::read(proc.join("cmdline")).ok()?;
    let words: Vec<String> = command
        .split(|byte| *byte == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .filter(|word| !word.is_empty())
        .collect();
    let (role, told) = parse(&words)?;
    let environment = || {
        let all = fs::read(proc.join("environ")).ok()?;
        let mut all = all.split(|byte| *byte == 0);
        let found = all.find_map(|one| one.strip_prefix(b"KONTIKI_DATA_DIR="))?;
        Some(PathBuf::from(String::from_utf8_lossy(found).into_owned()))
    };
    let directory = told.or_else(environment).unwrap_or_else(|| default.to_owned());
    let here = fs::read_link(proc.join("cwd")).unwrap_or_default();
    let data_dir = here.join(directory);
    let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
    let ports = ports::read(&data_dir.join("run"));
    Some(Process { pid, role, data_dir, resident_bytes: resident(&status), ports })
}

/// The role, and the data directory if it was said, of a command line; `None` where it is not ours.
fn parse(words: &[String]) -> Option<(String, Option<PathBuf>)> {
    let (program, words) = words.split_first()?;
    if Path::new(program).file_name()? != "kontiki" || words.first()? != "start" {
        return None;
    }
    let role: Vec<&str> =
        words[1..].iter().map(String::as_str).take_while(|word| !word.starts_with('-')).collect();
    let role = if role.is_empty() { "master+node".to_owned() } else { role.join(" ") };
    let mut directory = None;
    for (at, word) in words.iter().enumerate() {
        if let Some(said) = word.strip_prefix("--data-dir=") {
            directory = Some(PathBuf::from(said));
        } else if word == "--data-dir" {
            directory = words.get(at + 1).map(PathBuf::from);
        }
    }
    Some((role, directory))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_command_line_tells_role_and_directory() {
        let told = |line: &str| parse(&words(line));
        let here = Some(PathBuf::from("/d"));
        assert_eq!(
            told("/usr/bin/kontiki start master api --data-dir /d"),
            Some(("master api".into(), here.clone()))
        );
        assert_eq!(told("kontiki start --data-dir=/d"), Some(("master+node".into(), here)));
        assert_eq!(told("kontiki start node"), Some(("node".into(), None)));
        assert_eq!(told("kontiki status"), None);
        assert_eq!(told("vim kontiki start"), None);
    }

    #[test]
    fn memory_is_read_from_the_status() {
        assert_eq!(resident("Name:\tkontiki\nVmRSS:\t   2048 kB\n"), Some(2 << 20));
        assert_eq!(resident("Name:\tkontiki\n"), None);
    }
}
