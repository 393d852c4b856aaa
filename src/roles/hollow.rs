//! Nodes without containers in a process of their own.

use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::master::Signals;
use crate::failure::Failure;
use crate::hollow::{self, Settings};
use crate::kubeconfig::Access;

/// Runs until a signal.
pub async fn run(kubeconfig: &Path, settings: Settings) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let wrong = |error: String| Failure::Usage(format!("--kubeconfig: {error}"));
    let client = Access::read(kubeconfig).map_err(wrong)?.client("hollow").map_err(wrong)?;
    let stop = CancellationToken::new();
    let running = hollow::run(client, settings, stop.clone());
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
