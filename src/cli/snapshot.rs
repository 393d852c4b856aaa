//! `kontiki snapshot`: the whole store in one file, or in one object of a bucket.
//!
//! Keeps: what was saved is whole: it is checked before it gets its name. What is there already is not
//! overwritten.

use std::fs::{self, File};
use std::io::{BufReader, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, Subcommand};
use futures::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use kontiki_api::cluster::wire::{PREFIX, SNAPSHOT_BYTES, SNAPSHOT_REVISION};
use kontiki_raft::recovery::REVISION_BUMP;
use kontiki_raft::storage::snapshot::{Manifest, archive};
use serde::Serialize;

use super::config::{self, Options};
use super::operator::Operator;
use super::output::{Output, bytes, print, table};
use crate::failure::Failure;
use crate::roles::offline;
use crate::snapshots::{self, Access, Bucket, Object, Place};

#[derive(Subcommand)]
pub enum Command {
    /// Save the store of a running cluster
    #[command(after_help = "\
Examples:
  kontiki snapshot save /backup/kontiki-$(date +%F).kontiki
  kontiki snapshot save s3://backups/prod
  kontiki snapshot save s3://backups/before-upgrade.kontiki --s3-endpoint https://minio:9000")]
    Save(Save),
    /// List the archives of a folder or a bucket
    #[command(after_help = "\
Examples:
  kontiki snapshot list
  kontiki snapshot list s3://backups/prod")]
    List(List),
    /// Check an archive and say what is in it
    Inspect(Inspect),
    /// Begin a new cluster from an archive, in an empty directory
    #[command(after_help = "\
Examples:
  kontiki snapshot restore store.kontiki --data-dir /var/lib/kontiki
  kontiki snapshot restore store.kontiki --data-dir /var/lib/kontiki --pki /backup/pki
  kontiki snapshot restore s3://backups/prod/00000000000000004711.kontiki")]
    Restore(Restore),
}

#[derive(Args)]
pub struct Save {
    /// A file; s3://BUCKET/NAME.kontiki; or s3://BUCKET/PREFIX, where it is named by its revision
    #[arg(value_name = "PLACE")]
    place: Place,
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    access: Access,
}

#[derive(Args)]
pub struct List {
    /// A folder, or s3://BUCKET/PREFIX [default: where the master of this machine makes its own]
    #[arg(value_name = "PLACE")]
    place: Option<Place>,
    /// The master's data directory [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Inspect {
    /// A file, or s3://BUCKET/NAME.kontiki
    #[arg(value_name = "ARCHIVE")]
    archive: Place,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Restore {
    /// A file, or s3://BUCKET/NAME.kontiki
    #[arg(value_name = "ARCHIVE")]
    archive: Place,
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
    #[command(flatten)]
    access: Access,
}

/// What is in an archive.
#[derive(Serialize)]
struct Contents {
    revision: u64,
    compacted: u64,
    applied: Option<u64>,
    files: usize,
    bytes: u64,
}

/// An archive in a list.
#[derive(Serialize)]
struct Listed {
    name: String,
    bytes: u64,
    written: String,
}

impl Command {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Command::Save(save) => save.run().await,
            Command::List(list) => list.run().await,
            Command::Inspect(inspect) => inspect.run().await,
            Command::Restore(restore) => restore.run().await,
        }
    }
}

impl Save {
    async fn run(self) -> Result<(), Failure> {
        let (name, manifest) = match &self.place {
            Place::File(file) => (file.display().to_string(), self.to_file(file).await?),
            Place::Bucket(place) => self.to_bucket(place).await?,
        };
        let contents = contents(&manifest);
        print(&format!("{name}: revision {}, {}", contents.revision, bytes(contents.bytes)))
    }

    async fn to_file(&self, path: &Path) -> Result<Manifest, Failure> {
        if path.exists() {
            return Err(Failure::Usage(format!(
                "{} is there already; choose another name, or remove it first",
                path.display()
            )));
        }
        let part = part_of(path);
        let saved = self.fetch(&part).await.and_then(|()| inspect(&part)).and_then(|manifest| {
            fs::rename(&part, path).map_err(|error| about(path, &error))?;
            Ok(manifest)
        });
        if saved.is_err() {
            let _ = fs::remove_file(&part);
        }
        saved
    }

    async fn to_bucket(&self, place: &Object) -> Result<(String, Manifest), Failure> {
        let bucket = Bucket::open(&place.bucket, &self.access)?;
        let (revision, pieces) = self.download().await?;
        let object = if snapshots::is_archive(place.name()) {
            place.clone()
        } else {
            place.join(&snapshots::name_of(revision))
        };
        let pieces = pieces.map(|piece| piece.map_err(|failure| failure.to_string()));
        let manifest = bucket.write(&object, pieces).await?;
        Ok((object.to_string(), manifest))
    }

    async fn fetch(&self, part: &Path) -> Result<(), Failure> {
        let (_, pieces) = self.download().await?;
        let mut pieces = std::pin::pin!(pieces);
        let mut file = File::create(part).map_err(|error| about(part, &error))?;
        while let Some(piece) = pieces.next().await {
            file.write_all(&piece?).map_err(|error| about(part, &error))?;
        }
        file.sync_all().map_err(|error| about(part, &error))
    }

    /// The revision of a moment, and its bytes from the master.
    async fn download(
        &self,
    ) -> Result<(u64, impl Stream<Item = Result<Bytes, Failure>> + use<>), Failure> {
        let answer = self.operator.master()?.stream(&format!("{PREFIX}/snapshot")).await?;
        let told = |name| {
            let value = answer.headers().get(name)?;
            value.to_str().ok()?.parse::<u64>().ok()
        };
        let revision = told(SNAPSHOT_REVISION).ok_or_else(|| {
            Failure::Run("the master is of another release and does not say its revision".into())
        })?;
        let progress = progress(told(SNAPSHOT_BYTES));
        let pieces = answer.into_body().into_data_stream().map(move |piece| {
            let broken = |error| Failure::Run(format!("the snapshot broke off: {error}"));
            piece.map_err(broken).inspect(|piece| progress.inc(piece.len() as u64))
        });
        Ok((revision, pieces))
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let listed = match &self.place {
            Some(Place::Bucket(place)) => {
                let entries = Bucket::open(&place.bucket, &self.access)?.list(place).await?;
                let listed = entries.into_iter().map(|entry| Listed {
                    name: entry.object.to_string(),
                    bytes: entry.bytes,
                    written: entry.written,
                });
                listed.collect()
            }
            Some(Place::File(folder)) => files(folder)?,
            None => {
                let directory = self.data_dir.clone().map_or_else(config::data_dir, Ok)?;
                files(&directory.join("backups"))?
            }
        };
        self.output.show(&listed, |listed: &Vec<Listed>| {
            let rows =
                listed.iter().map(|it| vec![it.name.clone(), bytes(it.bytes), it.written.clone()]);
            table(&["ARCHIVE", "SIZE", "WRITTEN"], rows)
        })
    }
}

/// The archives of a folder on this machine.
fn files(folder: &Path) -> Result<Vec<Listed>, Failure> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| about(folder, &error))? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(snapshots::is_archive) {
            continue;
        }
        let metadata = entry.metadata()?;
        let written = jiff::Timestamp::try_from(metadata.modified()?);
        found.push(Listed {
            name: entry.path().display().to_string(),
            bytes: metadata.len(),
            written: written.map_or_else(|_| "-".into(), |at| format!("{at:.0}")),
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

impl Inspect {
    async fn run(self) -> Result<(), Failure> {
        let manifest = match &self.archive {
            Place::File(file) => inspect(file)?,
            Place::Bucket(object) => {
                is_one(object)?;
                Bucket::open(&object.bucket, &self.access)?.inspect(object).await?
            }
        };
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
    async fn run(self) -> Result<(), Failure> {
        let options = Options {
            name: self.name.clone(),
            data_dir: self.data_dir.clone(),
            ..Options::default()
        };
        let settings = options.clone().complete()?.master(&options)?;
        let directory = settings.data_dir.clone();
        let (archive, name) = match &self.archive {
            Place::File(file) => (Archive::There(file.clone()), file.display().to_string()),
            Place::Bucket(object) => {
                offline::is_empty(&directory)?;
                (self.fetch(object, &directory).await?, object.to_string())
            }
        };
        let bytes =
            fs::metadata(archive.path()).map_err(|error| about(archive.path(), &error))?.len();
        let progress = progress(Some(bytes));
        let restore = offline::Restore {
            archive: archive.path().to_owned(),
            directory,
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
            "{name}: revision {} is restored into {directory} as revision {}\n\
             start it with `kontiki start master --data-dir {directory}`; other masters join it \
             with empty directories",
            restored.archived, restored.revision,
        ))
    }

    /// Brings an archive onto the disk that it is restored to, for as long as that takes.
    async fn fetch(&self, object: &Object, directory: &Path) -> Result<Archive, Failure> {
        is_one(object)?;
        let bucket = Bucket::open(&object.bucket, &self.access)?;
        let disk = directory.ancestors().find(|folder| folder.is_dir());
        let mut file = match disk {
            Some(disk) => tempfile::NamedTempFile::new_in(disk)?,
            None => tempfile::NamedTempFile::new()?,
        };
        bucket.fetch(object, file.as_file_mut()).await?;
        Ok(Archive::Fetched(file))
    }
}

/// An archive on this machine.
enum Archive {
    There(PathBuf),
    /// Gone when it is dropped.
    Fetched(tempfile::NamedTempFile),
}

impl Archive {
    fn path(&self) -> &Path {
        match self {
            Archive::There(path) => path,
            Archive::Fetched(file) => file.path(),
        }
    }
}

/// Refuses a folder where one archive is meant.
fn is_one(object: &Object) -> Result<(), Failure> {
    if snapshots::is_archive(object.name()) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "{object} is no archive but a folder of some; `kontiki snapshot list {object}` shows them"
    )))
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
        .with_finish(ProgressFinish::AndClear)
}
