//! The script that an operator could paste, as it stands.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::{PATIENCE, text};

#[tokio::test]
async fn a_cluster_lives_through_its_losses_by_commands_alone() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/script/cluster.sh");
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(script);
    command
        .arg(folder.path())
        .env("KONTIKI", env!("CARGO_BIN_EXE_kontiki"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE * 5, command.output()).await;
    let output = ended.expect("the script ends").expect("bash is there");
    let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && said.contains("== done"), "{said}");
}
