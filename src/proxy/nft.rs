//! The two programs that speak to the kernel: `nft`, and `conntrack` where it is installed.
//!
//! Keeps: a call that hangs is given up after [`PATIENCE`], and its process ends with it.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::ruleset::{Kind, Names, TABLE};

const PATIENCE: Duration = Duration::from_secs(60);
/// Of what a program says when it fails.
const WORDS_MAX: usize = 2000;

/// How the programs are called.
#[derive(Clone, Debug, Default)]
pub struct Nft {
    /// Stands before the program's name: `ip netns exec NAME` for another network namespace.
    prefix: Vec<String>,
}

impl Nft {
    /// In the namespace of this process.
    #[must_use]
    pub fn here() -> Nft {
        Nft::default()
    }

    /// In a network namespace that has a name.
    #[must_use]
    pub fn within(namespace: &str) -> Nft {
        Nft { prefix: ["ip", "netns", "exec", namespace].map(str::to_owned).to_vec() }
    }

    /// One transaction.
    pub async fn apply(&self, text: String) -> Result<(), String> {
        self.run("nft", &["-f", "-"], text).await.map(drop)
    }

    /// What our table has; `None` if there is no such table.
    pub async fn names(&self) -> Result<Option<Names>, String> {
        let mut words = vec!["-j", "-t", "list", "table"];
        words.extend(TABLE.split(' '));
        match self.run("nft", &words, String::new()).await {
            Ok(text) => names(&text).map(Some),
            Err(error) if error.contains("No such file") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether our table is there and is entered by packets: others can flush everything.
    pub async fn is_there(&self) -> bool {
        let mut words = vec!["list", "chain"];
        words.extend(TABLE.split(' '));
        words.push("services-in");
        let listed = self.run("nft", &words, String::new()).await;
        listed.is_ok_and(|text| text.contains("jump services"))
    }

    /// Forgets flows. That there are none is no failure.
    pub async fn forget(&self, words: &[String]) -> Result<(), String> {
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        match self.run("conntrack", &words, String::new()).await {
            Err(error) if !error.contains("0 flow entries") => Err(error),
            _ => Ok(()),
        }
    }

    async fn run(&self, name: &str, words: &[&str], input: String) -> Result<String, String> {
        let mut line: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        line.push(name);
        line.extend(words);
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("there is no program {:?}; install the package that has it", line[0])
            }
            _ => format!("{}: {error}", line.join(" ")),
        };
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Debian keeps administrators' programs where other users do not look.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let mut child = command.spawn().map_err(failed)?;
        let stdin = child.stdin.take();
        let talk = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // It may have given up before it has read all; then it says why.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        let output = match timeout(PATIENCE, talk).await {
            Ok(output) => output.map_err(failed)?,
            Err(_) => return Err(format!("{} has not ended in {PATIENCE:?}", line.join(" "))),
        };
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let words = String::from_utf8_lossy(&output.stderr);
        let words: String = words.trim().chars().take(WORDS_MAX).collect();
        Err(format!("{} ({}): {words}", line.join(" "), output.status))
    }
}

/// The part of a listing that we read.
#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    set: Option<Named>,
    map: Option<Named>,
    chain: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

fn names(text: &str) -> Result<Names, String> {
    let listing: Listing = serde_json::from_str(text)
        .map_err(|error| format!("what nft lists cannot be read: {error}"))?;
    let mut names = Names::default();
    for item in listing.nftables {
        names.sets.extend(item.set.map(|it| (it.name, Kind::Set)));
        names.sets.extend(item.map.map(|it| (it.name, Kind::Map)));
        names.chains.extend(item.chain.map(|it| it.name));
    }
    Ok(names)
}
