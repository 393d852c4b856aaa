//! `make faults`: breaks a cluster of real processes and judges what its clients saw.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use kontiki_faults::check;
use kontiki_faults::cluster::{Cluster, Footing, Target};
use kontiki_faults::disk::Disks;
use kontiki_faults::fault::Kind;
use kontiki_faults::gap::{self, Loss};
use kontiki_faults::history::History;
use kontiki_faults::ledger::{self, Line};
use kontiki_faults::report;
use kontiki_faults::rights;
use kontiki_faults::run::{self, Options};
use kontiki_faults::sweep;
use kontiki_faults::workload::Workload;
use rustix::io::Errno;

/// Breaks a cluster of real processes on this machine and judges what its clients saw
#[derive(Parser)]
#[command(after_help = "\
Examples:
  make faults
  make faults ARGS=\"--members 5 --minutes 30 --seed 7\"
  make faults ARGS=\"--faults kill,cut-leader --workload register,append --output json\"
  make faults ARGS=\"--target etcd --minutes 5\"
  make faults ARGS=\"--gap kill --rounds 20 --target kontiki,etcd\"
  make faults ARGS=\"--faults power-cut,power-cut-all,kill\"
  make faults ARGS=\"--faults power-cut-all --lying-disks\"
  make faults ARGS=\"--faults slow-disk,failing-disk,clock,damage,pause\"
  make faults ARGS=\"--sweep 50\"
  make faults ARGS=\"--judge target/faults/history.jsonl\"")]
struct Flags {
    /// What is broken; with --gap, several in turn
    #[arg(long, value_delimiter = ',', default_value = "kontiki")]
    target: Vec<Target>,
    /// The binary to start [default: kontiki beside this one, or etcd of the path]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[arg(long, default_value_t = 3)]
    members: u32,
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Chooses faults and clients' steps [default: from the clock of this process]
    #[arg(long)]
    seed: Option<u64>,
    /// What goes wrong [default: all that need no root]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Kind>,
    /// Disks say that they have synced what they have not: fails unless that is found. With power cuts
    #[arg(long)]
    lying_disks: bool,
    /// What clients do [default: everything]
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// How long each client rests between two requests, at most
    #[arg(long, value_name = "MS", default_value_t = 40)]
    rest_ms: u64,
    /// How long it is from one fault to the next, at most
    #[arg(long, value_name = "MS", default_value_t = 2500)]
    pause_ms: u64,
    #[arg(long, default_value = "text")]
    output: Output,
    /// Where the cluster lives and the report is written; emptied first
    #[arg(long, value_name = "DIR", default_value = "target/faults")]
    folder: PathBuf,
    /// Add the figures to this file
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Measure the time without writes after the leader is lost, instead
    #[arg(long, value_name = "LOSS")]
    gap: Option<Loss>,
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Let so many calls to the disk fail one after another under a lone member, instead
    #[arg(long, value_name = "CALLS")]
    sweep: Option<u32>,
    /// Change rights for --minutes while members are killed, instead
    #[arg(long)]
    rights: bool,
    /// Judge a history that was written before, instead
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
    /// Print the page that the ledger comes to, instead
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Set in a process that has its mounts to itself.
const APART: &str = "KONTIKI_FAULTS_APART";

fn main() -> ExitCode {
    let flags = Flags::parse();
    let disks = run::disks(&flags.faults);
    let done = if disks != Disks::Plain && std::env::var_os(APART).is_none() {
        apart()
    } else {
        tokio::runtime::Runtime::new()
            .map_err(|error| format!("threads: {error}"))
            .and_then(|runtime| runtime.block_on(act(&flags)))
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("faults: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// The same once more with mounts of its own: who makes namespaces meanwhile would take along what is
/// mounted here, and hold a file system whose power was cut.
fn apart() -> Result<bool, String> {
    let wrong = |error| format!("unshare: {error} (mounts need root and util-linux)");
    let own = std::env::current_exe().map_err(wrong)?;
    let mut command = std::process::Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private"])
        .arg(own)
        .args(std::env::args_os().skip(1));
    Ok(command.env(APART, "1").status().map_err(wrong)?.success())
}

fn say(line: &str) {
    // Nobody listens any more: then nothing is to be said.
    writeln!(std::io::stderr(), "{line}").ok();
}

async fn act(flags: &Flags) -> Result<bool, String> {
    if let Some(path) = &flags.page {
        print(&ledger::page(&ledger::read(path)?));
        return Ok(true);
    }
    if let Some(path) = &flags.judge {
        let verdict = check::judge(&History::read(path)?);
        print(&serde_json::to_string_pretty(&verdict).map_err(|error| error.to_string())?);
        return Ok(verdict.holds());
    }
    if let Some(loss) = flags.gap {
        for target in &flags.target {
            gap_of(flags, *target, loss).await?;
        }
        return Ok(true);
    }
    if let Some(sites) = flags.sweep {
        return sweep_of(flags, sites).await;
    }
    let mut holds = true;
    if flags.rights {
        for target in &flags.target {
            holds &= rights_of(flags, *target).await?;
        }
        return Ok(holds);
    }
    for target in &flags.target {
        holds &= Box::pin(chaos(flags, *target)).await?;
    }
    Ok(holds)
}

fn print(text: &str) {
    write!(std::io::stdout(), "{text}").ok();
}

fn binary(flags: &Flags, target: Target) -> Result<PathBuf, String> {
    if let Some(binary) = &flags.binary {
        return Ok(binary.clone());
    }
    if target == Target::Etcd {
        return Ok(PathBuf::from("etcd"));
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let binary = own.with_file_name("kontiki");
    if binary.exists() {
        return Ok(binary);
    }
    Err(format!(
        "there is no {}: build it (`make build`), or name it with --binary",
        binary.display()
    ))
}

fn emptied(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = folder.join(name);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))
}

fn name(target: Target) -> String {
    format!("{target:?}").to_lowercase()
}

async fn chaos(flags: &Flags, target: Target) -> Result<bool, String> {
    let seed = flags.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let all = |given: &[Kind]| if given.is_empty() { Kind::USUAL.to_vec() } else { given.to_vec() };
    let options = Options {
        target,
        binary: binary(flags, target)?,
        members: flags.members,
        time: Duration::from_secs_f64(flags.minutes * 60.0),
        seed,
        faults: all(&flags.faults),
        workloads: if flags.workload.is_empty() {
            Workload::value_variants().to_vec()
        } else {
            flags.workload.clone()
        },
        lying: flags.lying_disks,
        rest_max: Duration::from_millis(flags.rest_ms),
        pause_max: Duration::from_millis(flags.pause_ms),
        folder: emptied(&flags.folder, &name(target))?,
    };
    say(&format!("{} of {}, seed {seed}, {:?}", options.members, name(target), options.time));
    let ended = match run::run(&options).await {
        // A cluster that does not come back from a lie has given it away, too.
        Err(what) if flags.lying_disks => {
            say(&format!("it went no further: {what}"));
            if let Some(path) = &flags.ledger {
                ledger::add(path, &lie("it goes on", options.time))?;
            }
            return Ok(true);
        }
        ended => ended?,
    };
    report::write(&options.folder, &ended)?;
    let verdict = &ended.verdict;
    if flags.output == Output::Json {
        let path = options.folder.join("report.json");
        print(&std::fs::read_to_string(path).map_err(|error| error.to_string())?);
    } else {
        tell(&options, &ended);
    }
    if let Some(path) = &flags.ledger {
        let line = Line::Faults {
            target: name(target),
            commit: ledger::commit(),
            seed,
            members: options.members,
            seconds: options.time.as_secs(),
            faults: ended.faults.values().sum(),
            operations: verdict.operations,
            unknown: verdict.unknown,
            events: verdict.events,
            violations: verdict.violations.len(),
            kinds: ended.faults.clone(),
            fell: ended.fell,
        };
        let promise = verdict.violations.first().map_or("", |it| it.promise.as_str());
        let lie = flags.lying_disks.then(|| lie(promise, options.time));
        ledger::add(path, &lie.unwrap_or(line))?;
    }
    Ok(verdict.holds() != flags.lying_disks)
}

/// What came of disks that lie, which is one bug more to be caught.
fn lie(promise: &str, time: Duration) -> Line {
    Line::Mutant {
        name: "disks that lie, under real processes".into(),
        commit: ledger::commit(),
        caught_by: "faults".into(),
        promise: promise.to_owned(),
        seeds: 1,
        seconds: time.as_secs(),
        caught: !promise.is_empty(),
    }
}

fn tell(options: &Options, ended: &run::Ended) {
    let verdict = &ended.verdict;
    print(&format!(
        "{} faults; {} operations judged, {} refused, {} not answered; {} revisions, {} events \
         to {} watches, \
         {} of leases\n{} registers searched, {} undecided; {} violations; see {}\n",
        ended.faults.values().sum::<usize>(),
        verdict.operations,
        verdict.refused,
        verdict.unknown,
        verdict.revisions,
        verdict.events,
        verdict.sessions,
        verdict.leases,
        verdict.searched,
        verdict.undecided,
        verdict.violations.len(),
        options.folder.join("report.html").display()
    ));
    for violation in &verdict.violations {
        print(&format!("VIOLATION {}: {}\n", violation.promise, violation.what));
    }
    for failed in &ended.failed {
        print(&format!("failed: {failed}\n"));
    }
}

async fn gap_of(flags: &Flags, target: Target, loss: Loss) -> Result<(), String> {
    let folder = emptied(&flags.folder, &format!("gap-{}", name(target)))?;
    let number = std::process::id() as u16;
    let binary = binary(flags, target)?;
    let mut cluster =
        Cluster::start(target, &binary, &folder, flags.members, number, Footing::default()).await?;
    let gaps = gap::measure(&mut cluster, loss, flags.rounds).await?;
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let line = Line::Gap {
        target: name(target),
        commit: ledger::commit(),
        loss: format!("{loss:?}").to_lowercase(),
        members: flags.members,
        rounds: gaps.len(),
        p50_ms: ms(gap::quantile(&gaps, 0.5)),
        p99_ms: ms(gap::quantile(&gaps, 0.99)),
        max_ms: ms(gaps.last().copied().unwrap_or_default()),
    };
    let text = serde_json::to_string(&line).map_err(|error| error.to_string())?;
    print(&format!("{text}\n"));
    match &flags.ledger {
        Some(path) => ledger::add(path, &line),
        None => Ok(()),
    }
}

/// Errors that a disk gives: it is broken, and it is full.
async fn sweep_of(flags: &Flags, sites: u32) -> Result<bool, String> {
    let mut holds = true;
    for errno in [Errno::IO, Errno::NOSPC] {
        let folder = emptied(&flags.folder, "sweep")?;
        let number = std::process::id() as u16;
        let binary = binary(flags, Target::Kontiki)?;
        let footing = Footing { pages: true, ..Footing::default() };
        let mut cluster =
            Cluster::start(Target::Kontiki, &binary, &folder, 1, number, footing).await?;
        let swept = sweep::sweep(&mut cluster, errno.raw_os_error(), sites).await?;
        let line = Line::Sweep {
            target: name(Target::Kontiki),
            commit: ledger::commit(),
            error: format!("{errno:?}"),
            sites: swept.sites,
            stopped: swept.stopped,
            violations: swept.violations.len(),
        };
        print(&format!("{}\n", serde_json::to_string(&line).map_err(|error| error.to_string())?));
        for violation in &swept.violations {
            print(&format!("VIOLATION {violation}\n"));
        }
        holds &= swept.violations.is_empty();
        if let Some(path) = &flags.ledger {
            ledger::add(path, &line)?;
        }
    }
    Ok(holds)
}

async fn rights_of(flags: &Flags, target: Target) -> Result<bool, String> {
    let folder = emptied(&flags.folder, &format!("rights-{}", name(target)))?;
    let (number, footing) = (std::process::id() as u16, Footing::default());
    let binary = binary(flags, target)?;
    let mut cluster =
        Cluster::start(target, &binary, &folder, flags.members, number, footing).await?;
    let time = Duration::from_secs_f64(flags.minutes * 60.0);
    let tried = rights::rights(&mut cluster, time, flags.seed.unwrap_or(1)).await?;
    print(&format!("{}: {tried:?}\n", name(target)));
    Ok(tried.violations.is_empty())
}
