//! `kontiki snapshot`: the whole store in one file.
//!
//! Keeps: a file that was saved is whole: it is checked before it gets its name. An existing file is not
//! overwritten.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http_body_util::BodyExt as _;
use indicatif::{ProgressBar, ProgressStyle};
use kontiki_api::cluster::wire::{PREFIX, SNAPSHOT_BYTES};
use kontiki_raft::recovery::REVISION_BUMP;
use kontiki_raft::storage::snapshot::{Manifest, archive};
use serde::Serialize;

use super::config::Options;
use super::operator::Operator;
use super::output::{Output, bytes, print};
use crate::failure::Failure;
use crate::roles::offline;

#[derive(Subcommand)]
pub enum Command {
    /// Save the store of a running cluster to a file
    #[command(after_help = "\
Examples:
  kontiki snapshot save /backup/kontiki-$(date +%F).kontiki")]
    Save(Save),
    /// Check a file and say what is in it
    Inspect(Inspect),
    /// Begin a new cluster from a file, in an empty directory
    #[command(after_help = "\
Examples:
  kontiki snapshot restore store.kontiki --data-dir /var/lib/kontiki
  kontiki snapshot restore store.kontiki --data-dir /var/lib/kontiki --pki /backup/pki")]
    Restore(Restore),
}

#[derive(Args)]
pub struct Save {
    file: PathBuf,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Args)]
pub struct Inspect {
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Restore {
    file: PathBuf,
    /// The directory to fill; it must be empty or not there [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The master's name [default: the host's]
    #[arg(long, value_name = "NAME", env = "KONTIKI_NAME")]
    name: Option<String>,
    /// The pki folder of a lost master, so that its certificates and tokens stay good [default: new CAs]
    #[arg(long, value_name = "DIR")]
    pki: Option<PathBuf>,
    /// How far revisions jump, so that clients of the lost cluster notice
    #[arg(long, value_name = "COUNT", default_value_t = REVISION_BUMP)]
    bump_revisions: u64,
}

/// What is in a file.
#[derive(Serialize)]
struct Contents {
    revision: u64,
    compacted: u64,
    applied: Option<u64>,
    files: usize,
    bytes: u64,
}

impl Command {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Command::Save(save) => save.run().await,
            Command::Inspect(inspect) => inspect.run(),
            Command::Restore(restore) => restore.run(),
        }
    }
}

impl Save {
    async fn run(self) -> Result<(), Failure> {
        if self.file.exists() {
            return Err(Failure::Usage(format!(
                "{} is there already; choose another name, or remove it first",
                self.file.display()
            )));
        }
        let part = part_of(&self.file);
        let saved = self.fetch(&part).await;
        let checked = saved.and_then(|()| inspect(&part));
        let manifest = match checked {
            Ok(manifest) => manifest,
            Err(failure) => {
                let _ = fs::remove_file(&part);
                return Err(failure);
            }
        };
        fs::rename(&part, &self.file).map_err(|error| about(&self.file, &error))?;
        let contents = contents(&manifest);
        print(&format!(
            "{}: revision {}, {}",
            self.file.display(),
            contents.revision,
            bytes(contents.bytes)
        ))
    }

    async fn fetch(&self, part: &Path) -> Result<(), Failure> {
        let answer = self.operator.master()?.stream(&format!("{PREFIX}/snapshot")).await?;
        let total = answer.headers().get(SNAPSHOT_BYTES);
        let total = total.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let progress = progress(total);
        let mut file = File::create(part).map_err(|error| about(part, &error))?;
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Failure::Run(format!("the snapshot broke off: {error}")))?;
            if let Ok(data) = frame.into_data() {
                file.write_all(&data).map_err(|error| about(part, &error))?;
                progress.inc(data.len() as u64);
            }
        }
        progress.finish_and_clear();
        file.sync_all().map_err(|error| about(part, &error))
    }
}

impl Inspect {
    fn run(self) -> Result<(), Failure> {
        let manifest = inspect(&self.file)?;
        self.output.show(&contents(&manifest), |contents| {
            let applied = contents.applied.map_or("nothing".into(), |index| index.to_string());
            format!(
                "revision   {}\ncompacted  {}\napplied    {applied}\nfiles      {}\nsize       {}",
                contents.revision,
                contents.compacted,
                contents.files,
                bytes(contents.bytes),
            )
        })
    }
}

impl Restore {
    fn run(self) -> Result<(), Failure> {
        let options = Options { name: self.name, data_dir: self.data_dir, ..Options::default() };
        let settings = options.clone().complete()?.master(&options)?;
        let bytes = fs::metadata(&self.file).map_err(|error| about(&self.file, &error))?.len();
        let progress = progress(Some(bytes));
        let restore = offline::Restore {
            archive: self.file.clone(),
            directory: settings.data_dir.clone(),
            address: format!("{}:{}", settings.advertise, settings.peer_port),
            name: settings.name,
            pki: self.pki,
            bump: self.bump_revisions,
            settings: settings.cluster,
        };
        let restored = restore.run(|file| progress.wrap_read(file))?;
        progress.finish_and_clear();
        let directory = settings.data_dir.display();
        print(&format!(
            "{}: revision {} is restored into {directory} as revision {}\n\
             start it with `kontiki start master --data-dir {directory}`; other masters join it \
             with empty directories",
            self.file.display(),
            restored.archived,
            restored.revision,
        ))
    }
}

fn inspect(path: &Path) -> Result<Manifest, Failure> {
    let file = File::open(path).map_err(|error| about(path, &error))?;
    archive::inspect(BufReader::new(file))
        .map_err(|error| Failure::Run(format!("{}: {error}", path.display())))
}

fn contents(manifest: &Manifest) -> Contents {
    let facts = manifest.facts();
    Contents {
        revision: facts.revision.0,
        compacted: facts.compacted.0,
        applied: facts.applied.map(|index| index.0),
        files: manifest.files().len(),
        bytes: manifest.total(),
    }
}

/// Beside the file, so that it can be renamed.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn about(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Run(format!("{}: {error}", path.display()))
}

/// Shown on a terminal; elsewhere it would only be noise.
fn progress(total: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let style = ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes} {eta}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
