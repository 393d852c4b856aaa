//! What clients of a whole master see, in real processes over TLS: its store beside etcd, its API
//! beside figures of kube-apiserver, its loops with hollow nodes, a machine with containers.
//!
//! `make bench-etcd`, `make bench-api`, `make bench-cluster` and `make bench-node` run all of one of them, with
//! `ARGS=--quick` a shorter one. `docs/benchmarks.md` says what each column means and keeps the tables.
//!
//! Keeps: etcd and the store do the same in the same run, one after the other and back again, so that
//! what the machine does beside it falls on both.
//! Never: fails because a figure is low.

mod cases;
mod kube;
mod load;
mod options;
mod processes;
mod report;
mod servers;

use std::process::ExitCode;

use options::{Options, Suite};
use report::Report;
use servers::{Server, Side};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What a part of the run hands back when the ground under it gives way.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let done = runtime.map_err(Failure::from).and_then(|runtime| {
        runtime.block_on(async {
            match options.suite {
                Suite::Etcd => run(&options).await?.print(&options),
                Suite::Api => kube::api(&options).await?.print(&options),
                Suite::Node => kube::node(&options).await?.print(&options),
                Suite::Cluster => kube::cluster(&options).await?.print(&options),
            }
        })
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            let mut cause = failure.source();
            while let Some(why) = cause {
                eprintln!("bench: because of: {why}");
                cause = why.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// The store beside etcd.
async fn run(options: &Options) -> Result<Report, Failure> {
    let peer = servers::version(&options.etcd)?;
    eprintln!("beside etcd {peer}");
    let mut report = Report::beside(peer);
    for members in [1, 3] {
        if !options.members.contains(&members) {
            continue;
        }
        let folder = tempfile::Builder::new().prefix("beside-").tempdir_in(&options.directory)?;
        let mut pair = Vec::new();
        for side in Side::BOTH {
            let (server, took) = Server::start(side, members, folder.path(), options).await?;
            if members == 1 {
                report.once("start, empty", members, side, took.as_secs_f64() * 1e3, "ms");
            }
            report.once("memory, idle", members, side, server.resident_mib(), "MiB");
            let own = server.anonymous_mib();
            report.once("memory, idle, without the program", members, side, own, "MiB");
            pair.push(server);
        }
        cases::measure(options, members, &pair, &mut report).await?;
        for server in &mut pair {
            report.once("memory, after all", members, server.side, server.resident_mib(), "MiB");
            if members == 1 {
                let took = server.restart().await?;
                let took = took.as_secs_f64() * 1e3;
                report.once("start again, after SIGKILL", members, server.side, took, "ms");
            }
        }
    }
    Ok(report)
}
