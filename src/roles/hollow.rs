//! Nodes without containers in a process of their own.

use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::master::Signals;
use crate::failure::Failure;
use crate::hollow::{self, Settings};
use crate::kubeconfig::Access;

/// Runs until a signal.
pub async fn run(kubeconfig: &Path, settings: Settings) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let wrong = |error: String| Failure::Usage(format!("--kubeconfig: {error}"));
    let access = Access::read(kubeconfig).map_err(wrong)?;
    let client = access.client("hollow").map_err(wrong)?;
    let servers = vec![access.server.clone()];
    let doors = Arc::new(move |node: &str| access.door(servers.clone(), node));
    let stop = CancellationToken::new();
    let running = hollow::run(client, doors, settings, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        () = &mut running => {}
        () = signals.next() => {
            stop.cancel();
            running.await;
        }
    }
    Ok(())
}
