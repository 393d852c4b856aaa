//! `kontiki ca`: new CAs for a cluster, without a moment in which somebody is not believed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::config;
use super::output::print;
use crate::failure::Failure;
use crate::pki::{self, rotation};

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
Do it for every master, restart each, and wait until `kontiki status` is content before the next
step.

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
    pub fn run(self) -> Result<(), Failure> {
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
                let directory = master(data_dir)?;
                rotation::trust(&directory, &folder)?;
                print("the new CAs are believed from the next start of this master on")
            }
            Command::Use(Step { folder, data_dir }) => {
                let directory = master(data_dir)?;
                rotation::sign_by(&directory, &folder)?;
                print("the new CAs sign from the next start of this master on")
            }
            Command::Forget(Forget { data_dir }) => {
                let directory = master(data_dir)?;
                rotation::forget(&directory)?;
                print("the old CAs are not believed any more from the next start of this master on")
            }
        }
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
