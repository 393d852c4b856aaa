//! `kontiki kubeconfig`: how to reach the cluster, with all rights.

use std::path::PathBuf;

use clap::Args;

use super::config;
use super::output::print;
use crate::failure::Failure;
use crate::pki;

#[derive(Args)]
#[command(after_help = "\
Examples:
  kontiki kubeconfig > ~/.kube/config
  kontiki kubeconfig --server https://api.example.com:6443")]
pub struct Print {
    /// The master's data directory [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The API's address to write into it, instead of this machine's own
    #[arg(long, value_name = "URL")]
    server: Option<String>,
}

impl Print {
    pub fn run(self) -> Result<(), Failure> {
        let directory = self.data_dir.map_or_else(config::data_dir, Ok)?;
        let path = directory.join("kubeconfig");
        if !path.exists() {
            return Err(Failure::Run(format!(
                "{} is not there: no master was started from this directory; say from which \
                 (--data-dir)",
                path.display()
            )));
        }
        let text = pki::read(&path)?;
        let Some(server) = self.server else { return print(&text) };
        if !server.starts_with("https://") {
            return Err(Failure::Usage(format!(
                "--server {server:?} is no URL; give https://HOST:PORT"
            )));
        }
        let changed = text.lines().map(|line| match line.split_once("server: ") {
            Some((indent, _)) if indent.trim().is_empty() => format!("{indent}server: {server}"),
            _ => line.to_owned(),
        });
        print(&changed.collect::<Vec<_>>().join("\n"))
    }
}
