//! The command line: one file per command, and what they share.
//!
//! Keeps: exit code 0 for done, 1 for failed while running, 2 for wrong usage or configuration; what is
//! wrong is one line that names it and says what to do. Results go to standard output, talk to standard
//! error.

mod ca;
mod config;
mod image;
mod kubeconfig;
mod member;
mod operator;
mod output;
mod period;
mod processes;
mod snapshot;
mod start;
mod status;
mod token;
mod version;

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::failure::Failure;

/// A Kubernetes distribution in one binary, on its own replicated store
#[derive(Parser)]
#[command(name = "kontiki", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  kontiki start                            a cluster of this one machine
  kontiki status                           who leads, who lags, what is wrong
  kontiki token create --role master       invite another master
  kontiki snapshot save store.kontiki      a backup of the whole store")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start this machine's part of a cluster
    Start(Box<start::Start>),
    /// Show masters, leader, lag, certificates, and what is wrong
    Status(status::Show),
    /// List the Kontiki processes of this host
    #[command(name = "ps")]
    Processes(processes::List),
    /// Create, list and revoke join tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Print an administrator's kubeconfig
    Kubeconfig(kubeconfig::Print),
    /// List and change the members of the replicated store
    #[command(subcommand)]
    Member(member::Command),
    /// Replace the cluster's CAs, step by step
    #[command(subcommand)]
    Ca(ca::Command),
    /// Save, inspect and restore the whole store
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Bring in and list the images of this machine's node
    #[command(subcommand)]
    Image(image::Command),
    /// Print a completion script for a shell
    Completion { shell: clap_complete::Shell },
    /// Print the version
    Version(version::Print),
}

/// Does what the arguments say.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => return explain(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return explain(&error),
    };
    match cli.command {
        Command::Start(start) => {
            start::check(&matches)?;
            start.run()
        }
        Command::Status(show) => wait_for(show.run()),
        Command::Processes(list) => list.run(),
        Command::Token(command) => wait_for(command.run()),
        Command::Kubeconfig(print) => print.run(),
        Command::Member(command) => wait_for(command.run()),
        Command::Ca(command) => wait_for(command.run()),
        Command::Snapshot(command) => wait_for(command.run()),
        Command::Image(command) => wait_for(command.run()),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut command(), "kontiki", &mut std::io::stdout());
            Ok(())
        }
        Command::Version(print) => print.run(),
    }
}

fn command() -> clap::Command {
    start::tidy(Cli::command())
}

/// Runs a command that asks others, on this thread.
fn wait_for(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// Help goes out as it is; what is wrong becomes one line.
fn explain(error: &clap::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            error.print()?;
            return Ok(());
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.print()?;
            return Err(Failure::Usage("say what to do; the commands are listed above".into()));
        }
        _ => {}
    }
    let text = error.render().to_string();
    let what = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let what: Vec<&str> = what.filter(|line| !line.is_empty()).collect();
    let what = what.join("; ");
    let what = what.strip_prefix("error: ").unwrap_or(&what).replace("; tip: ", "; ");
    let help = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => command_in(&usage.to_string()),
        _ => "kontiki".into(),
    };
    let what = what.split("; For more information").next().unwrap_or_default().to_owned();
    Err(Failure::Usage(format!("{what}; see `{help} --help`")))
}

/// The words of a usage line that name the command.
fn command_in(usage: &str) -> String {
    let words = usage.trim().trim_start_matches("Usage:").split_whitespace();
    let words = words.take_while(|word| word.bytes().all(|byte| byte.is_ascii_lowercase()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(line: &str) -> String {
        match run(line.split_whitespace().map(OsString::from)) {
            Err(failure @ Failure::Usage(_)) => failure.to_string(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn what_is_wrong_is_one_line_that_names_it_and_says_where_to_look() {
        let line = failure("kontiki start --api-prot 1");
        assert!(line.contains("--api-prot") && line.contains("--api-port"), "{line}");
        assert!(line.ends_with("see `kontiki start --help`"), "{line}");
        let line = failure("kontiki start master --api-port high");
        assert!(line.contains("--api-port") && line.contains("high"), "{line}");
        let line = failure("kontiki strat");
        assert!(line.contains("strat") && line.contains("start"), "{line}");
        let line = failure("kontiki start master --join https://a:1");
        assert!(line.contains("--token"), "{line}");
    }

    #[test]
    fn a_flag_of_another_role_is_refused() {
        let line = failure("kontiki start node --api-port 1");
        assert!(line.contains("--api-port") && line.contains("master"), "{line}");
    }

    #[test]
    fn each_role_shows_its_own_flags_alone() {
        let mut command = command();
        command.build();
        let start = command.find_subcommand_mut("start").unwrap();
        let help = |role: &str, start: &mut clap::Command| {
            start.find_subcommand_mut(role).unwrap().render_long_help().to_string()
        };
        let (master, node) = (help("master", start), help("node", start));
        assert!(master.contains("--peer-port") && !master.contains("--node-labels"), "{master}");
        assert!(node.contains("--node-labels") && !node.contains("--peer-port"), "{node}");
        assert!(master.contains("Examples:") && node.contains("Examples:"));
    }
}
