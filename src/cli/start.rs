//! `kontiki start`: everything on this machine, or one role.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Subcommand, ValueEnum};
use kontiki_raft::cryptography::provider;

use super::config::{Asked, MASTERS, NODES, Options};
use crate::failure::Failure;
use crate::hollow;
use crate::reaper;
use crate::roles::{controllers, master, node};
use crate::snapshots::BUCKETS;
use crate::telemetry;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Every flag can be an environment variable (KONTIKI_DATA_DIR) or stand in a file (--config).
Flags win over the environment, the environment over the file.

Examples:
  kontiki start
  kontiki start --data-dir ./data --api-port 0 --peer-port 0 --store-port 0
  kontiki start master --config /etc/kontiki.yaml")]
pub struct Start {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    role: Option<Role>,
}

const EXAMPLES: &str = "\
Examples:
  kontiki start master
  kontiki start master --join https://m1:6443 --token K1...
  kontiki start master api
  kontiki start master controllers --kubeconfig admin.conf --controllers '*,-ttl-controller'
  kontiki start master --write-config /etc/kontiki.yaml";

#[derive(Subcommand)]
enum Role {
    /// Start a master: store, API, controllers and scheduler
    #[command(after_help = EXAMPLES, after_long_help = examples_and_roster())]
    Master(Master),
    /// Start a node: it runs pods
    #[command(after_help = "\
Examples:
  kontiki start node --join https://m1:6443 --token K1...
  kontiki start node --join https://m1:6443 --token K1... --node-labels disk=ssd,zone=a")]
    Node(Node),
    /// Start nodes without containers, for tests and for load
    #[command(hide = true)]
    Hollow(Hollow),
}

#[derive(Args)]
struct Hollow {
    /// How to reach the API
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    kubeconfig: std::path::PathBuf,
    /// How many nodes
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// What their names begin with
    #[arg(long, default_value = "hollow")]
    prefix: String,
    #[command(flatten)]
    options: Options,
}

#[derive(Args)]
struct Master {
    /// Only this part of it; without, all of it
    part: Option<Part>,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    options: Options,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Store and API
    Api,
    /// Controllers and scheduler, against an API server
    Controllers,
}

#[derive(Args)]
struct Node {
    #[command(flatten)]
    options: Options,
}

/// What is to be started.
enum Plan {
    Master,
    Api,
    MasterAndNode,
    Node,
    Controllers,
}

impl Start {
    pub fn run(self) -> Result<(), Failure> {
        let (plan, asked, options) = match self.role {
            None => (Plan::MasterAndNode, Asked::default(), self.options),
            Some(Role::Hollow(Hollow { kubeconfig, nodes, prefix, options })) => {
                log(&options)?;
                let settings = hollow::Settings { nodes, prefix, ..hollow::Settings::default() };
                return run(crate::roles::hollow::run(&kubeconfig, settings));
            }
            Some(Role::Node(node)) => (Plan::Node, Asked::default(), node.options),
            Some(Role::Master(Master { part, asked, options })) => match part {
                Some(Part::Controllers) => (Plan::Controllers, asked, options),
                Some(Part::Api) => (Plan::Api, asked, options),
                None => (Plan::Master, asked, options),
            },
        };
        let given = options.with_file()?;
        let all = given.clone().complete()?;
        let mut settings = all.clone().master(&given)?;
        if matches!(plan, Plan::Api) {
            settings.loops = None;
        }
        let controllers = matches!(plan, Plan::Controllers)
            .then(|| all.clone().controllers(asked))
            .transpose()?;
        let node_settings = all.clone().node(&given)?;
        if let Some(path) = &all.write_config {
            return all.write(path);
        }
        log(&all)?;
        if let Some(settings) = controllers {
            return run(controllers::run(settings));
        }
        match plan {
            Plan::Node => return run(node::run(node_settings)),
            Plan::MasterAndNode => settings.node = Some(node_settings),
            Plan::Master | Plan::Api | Plan::Controllers => {}
        }
        run(master::run(settings))
    }
}

fn log(options: &Options) -> Result<(), Failure> {
    let level = options.log_level.as_deref().unwrap_or("info");
    telemetry::start(level, options.log_format.unwrap_or_default()).map_err(Failure::Usage)
}

/// Runs a role to its end.
fn run(role: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // The first random bytes take tens of milliseconds, in which the library gathers noise from the processor.
    // Whoever needs some waits for no more than what is left of that.
    let noise = std::thread::spawn(|| provider().secure_random.fill(&mut [0]));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("kontiki").build()?;
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = role => ended,
            () = reaper::run() => unreachable!("it has no end"),
        }
    });
    // What still blocks on the disk must not keep the process alive.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    // A process that ends takes the library's state from under who still gathers, and that is an abort. What
    // came of it does not matter here: whoever needed random bytes was told.
    let _ = noise.join();
    ended
}

/// The same with the list of controllers, for those who want to read long.
fn examples_and_roster() -> String {
    format!("Controllers (--controllers):\n{}\n{EXAMPLES}", crate::controllers::roster())
}

/// Leaves out of each role's help what is not its own.
pub fn tidy(cli: clap::Command) -> clap::Command {
    let hide = |role: clap::Command, headings: &'static [&'static str]| {
        role.mut_args(|arg| match arg.get_help_heading() {
            Some(found) if headings.contains(&found) => arg.hide(true),
            _ => arg,
        })
    };
    cli.mut_subcommand("start", |start| {
        start
            .mut_subcommand("master", |role| hide(role, &[NODES]))
            .mut_subcommand("node", |role| hide(role, &[MASTERS, BUCKETS]))
    })
}

/// Refuses flags of another role. In a file or in the environment they are for whoever understands them.
pub fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let Some(("start", start)) = matches.subcommand() else { return Ok(()) };
    let Some((role, typed)) = start.subcommand() else { return Ok(()) };
    let (others, other): (&[&str], &str) =
        if role == "node" { (&[MASTERS, BUCKETS], "master") } else { (&[NODES], "node") };
    let command = super::command();
    let command = command.find_subcommand("start").and_then(|it| it.find_subcommand(role));
    for arg in command.into_iter().flat_map(clap::Command::get_arguments) {
        if arg.get_help_heading().is_some_and(|heading| others.contains(&heading))
            && typed.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine)
        {
            let flag = arg.get_long().unwrap_or_default();
            return Err(Failure::Usage(format!(
                "--{flag} is a flag of `kontiki start {other}`; see `kontiki start {role} --help`"
            )));
        }
    }
    Ok(())
}
