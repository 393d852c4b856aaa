//! `kontiki ca`: new CAs for a cluster, without a moment in which somebody is not believed.
//!
//! Keeps: a step is taken on the disk and, where the master runs, in it, before the command ends. Before CAs
//! sign, or are forgotten, every other master is asked whether it is as far as that.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http::HeaderMap;
use kontiki_api::cluster::wire::{PREFIX, Status, Trust};

use super::config;
use super::operator::Operator;
use super::output::print;
use crate::failure::Failure;
use crate::pki::{self, rotation};
use crate::remote::{self, Remote};
use crate::roles::ports;

#[derive(Subcommand)]
pub enum Command {
    /// Make new CAs in a folder, to be carried to every master
    New(Folder),
    /// First step: believe the CAs of a folder beside the old ones
    Trust(Step),
    /// Second step: sign by them, when every master believes them
    Use(Step),
    /// Last step: believe nothing but the CAs that sign
    Forget(Forget),
}

#[derive(Args)]
pub struct Folder {
    folder: PathBuf,
}

#[derive(Args)]
#[command(after_help = "\
Do it for every master before the next step. Masters that run take it over at once.

Examples:
  kontiki ca new new-cas
  kontiki ca trust new-cas --data-dir /var/lib/kontiki
  kontiki ca use new-cas --data-dir /var/lib/kontiki
  kontiki ca forget --data-dir /var/lib/kontiki")]
pub struct Step {
    folder: PathBuf,
    /// The master's data directory [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

#[derive(Args)]
pub struct Forget {
    /// The master's data directory [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

impl Command {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Command::New(Folder { folder }) => {
                rotation::create(&folder, pki::now())?;
                print(&format!(
                    "{} holds new CAs and their keys: keep it as you keep pki/, and run `kontiki \
                     ca trust` with it for every master",
                    folder.display()
                ))
            }
            Command::Trust(Step { folder, data_dir }) => {
                let running = Running::find(&master(data_dir)?).await?;
                rotation::trust(&running.directory, &folder)?;
                let said = "the new CAs are believed beside the old ones";
                running.take_over(said).await
            }
            Command::Use(Step { folder, data_dir }) => {
                let running = Running::find(&master(data_dir)?).await?;
                let new = rotation::fingerprints(&folder)?;
                let others = running.others().await?;
                refuse(
                    lagging(&others, |trust| {
                        let new = new.iter().find(|(name, _)| *name == trust.name);
                        new.is_some_and(|(_, new)| trust.believed.contains(new))
                    }),
                    "does not believe the new CAs yet; run `kontiki ca trust` there first",
                )?;
                rotation::sign_by(&running.directory, &folder)?;
                running.take_over("the new CAs sign").await
            }
            Command::Forget(Forget { data_dir }) => {
                let running = Running::find(&master(data_dir)?).await?;
                let ours = rotation::signing(&running.directory)?;
                let others = running.others().await?;
                refuse(
                    lagging(&others, |trust| {
                        let ours = ours.iter().find(|(name, _)| *name == trust.name);
                        ours.is_some_and(|(_, ours)| trust.signs == *ours)
                    }),
                    "still signs by other CAs; run `kontiki ca use` there first",
                )?;
                rotation::forget(&running.directory)?;
                running.take_over("the old CAs are not believed any more").await
            }
        }
    }
}

/// The master of a directory, and the way to its process if there is one.
struct Running {
    directory: PathBuf,
    /// By the certificates of before the step.
    process: Option<(Remote, Status)>,
}

/// What another master was found to use, or why that is not known.
type Other = (String, Result<Vec<Trust>, String>);

impl Running {
    async fn find(directory: &Path) -> Result<Running, Failure> {
        let mut process = None;
        if ports::addresses(&directory.join("run")).is_some() {
            let remote = Operator::of(directory).master()?;
            process = match remote.get::<Status>(&format!("{PREFIX}/status")).await {
                Ok(status) => Some((remote, status)),
                // Its files say that it runs, and they are what it left.
                Err(remote::Error::Unreachable { .. }) => None,
                Err(error) => return Err(error.into()),
            };
        }
        Ok(Running { directory: directory.to_owned(), process })
    }

    /// What the other masters use. Where this one does not run, nobody is asked.
    async fn others(&self) -> Result<Vec<Other>, Failure> {
        let Some((_, status)) = &self.process else { return Ok(Vec::new()) };
        let remotes = Operator::of(&self.directory).others();
        let others = status.members.iter().filter(|member| member.id != status.id);
        let asked = others.map(|member| async {
            let remote = remotes.as_ref().and_then(|make| make(member.api.as_deref()?));
            let answer = match remote {
                Some(remote) => remote.get(&format!("{PREFIX}/authorities")).await,
                None => {
                    return (name(member), Err("where its API is served is not known".to_owned()));
                }
            };
            (name(member), answer.map_err(|error| error.to_string()))
        });
        Ok(futures::future::join_all(asked).await)
    }

    /// Has the process use what lies on the disk now, and says so.
    async fn take_over(&self, said: &str) -> Result<(), Failure> {
        let Some((process, _)) = &self.process else {
            return print(&format!("{said}, from the next start of this master on"));
        };
        let path = format!("{PREFIX}/authorities");
        let trust: Vec<Trust> =
            process.post(&path, HeaderMap::new(), &()).await.map_err(|error| {
                Failure::Run(format!(
                    "it is written down, and the master does not use it yet: {error}; repeat this \
                     command, or restart the master"
                ))
            })?;
        let mut lines = vec![format!("{said}, in the master that runs as well")];
        lines.extend(trust.iter().map(|it| {
            let signs: String = it.signs.chars().take(16).collect();
            format!("{:<8} {signs}… signs, {} believed", it.name, it.believed.len())
        }));
        print(&lines.join("\n"))
    }
}

fn name(member: &kontiki_api::cluster::wire::Member) -> String {
    format!("{} ({})", member.name, member.id)
}

/// Which others are not as far as `is_there` asks, and why it is not known of some. Pure.
fn lagging(others: &[Other], is_there: impl Fn(&Trust) -> bool) -> Vec<(String, Option<String>)> {
    let behind = |(name, answer): &Other| match answer {
        Ok(trust) if trust.iter().all(&is_there) => None,
        Ok(_) => Some((name.clone(), None)),
        Err(reason) => Some((name.clone(), Some(reason.clone()))),
    };
    others.iter().filter_map(behind).collect()
}

fn refuse(lagging: Vec<(String, Option<String>)>, what: &str) -> Result<(), Failure> {
    match lagging.into_iter().next() {
        None => Ok(()),
        Some((name, None)) => Err(Failure::Usage(format!("{name} {what}"))),
        Some((name, Some(reason))) => Err(Failure::Run(format!(
            "{name} cannot be asked how far it is: {reason}; start it, or remove it from the \
             cluster (`kontiki member remove`)"
        ))),
    }
}

fn master(data_dir: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let directory = data_dir.map_or_else(config::data_dir, Ok)?;
    if !rotation::has_authorities(&directory) {
        return Err(Failure::Usage(format!(
            "{} holds no master's CAs; say which data directory is meant (--data-dir)",
            directory.display()
        )));
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_behind_is_named_with_what_to_do() {
        let trust = |signs: &str| {
            ["cluster", "peer", "store"].map(|name| Trust {
                name: name.into(),
                signs: signs.into(),
                believed: vec!["old".into(), signs.into()],
            })
        };
        let others: Vec<Other> = vec![
            ("m1 (1)".into(), Ok(trust("new").into())),
            ("m2 (2)".into(), Ok(trust("old").into())),
            ("m3 (3)".into(), Err("no answer".into())),
        ];
        let found = lagging(&others, |trust| trust.signs == "new");
        assert_eq!(found, [("m2 (2)".into(), None), ("m3 (3)".into(), Some("no answer".into()))]);
        assert!(lagging(&others[..1], |trust| trust.believed.contains(&"new".into())).is_empty());
        let said = refuse(found, "still signs by other CAs").unwrap_err().to_string();
        assert_eq!(said, "m2 (2) still signs by other CAs");
        let said = refuse(lagging(&others[2..], |_| true), "").unwrap_err().to_string();
        assert!(said.contains("no answer") && said.contains("kontiki member remove"), "{said}");
    }
}
