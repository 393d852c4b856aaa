//! The real kubectl, against a master of the test.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::{PATIENCE, text};

/// kubectl under one kubeconfig. Lines are split at blanks: an argument holds none.
#[derive(Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    /// Where it keeps what it learns of the API.
    home: PathBuf,
}

impl Kubectl {
    pub fn new(kubeconfig: &Path, home: &Path) -> Kubectl {
        Kubectl { kubeconfig: kubeconfig.to_owned(), home: home.to_owned() }
    }

    /// Standard output of one that succeeds; what it said on either of one that does not.
    pub async fn try_run(&self, line: &str) -> Result<String, String> {
        self.feed(line, "").await
    }

    /// The same of one that must succeed.
    #[track_caller]
    pub fn run<'a>(&'a self, line: &'a str) -> impl Future<Output = String> + 'a {
        let place = std::panic::Location::caller();
        async move {
            let done = self.try_run(line).await;
            done.unwrap_or_else(|said| panic!("{place}: kubectl {line}: {said}"))
        }
    }

    /// Applies an object as a user's file would be.
    #[track_caller]
    pub fn apply(&self, object: &Value) -> impl Future<Output = String> + '_ {
        let (place, object) = (std::panic::Location::caller(), object.to_string());
        async move {
            let done = self.feed("apply -f -", &object).await;
            done.unwrap_or_else(|said| panic!("{place}: kubectl apply: {said}\n{object}"))
        }
    }

    /// Runs it with something on standard input.
    pub async fn feed(&self, line: &str, input: &str) -> Result<String, String> {
        let mut command = Command::new("kubectl");
        command.args(line.split_whitespace()).env_clear().kill_on_drop(true);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", &self.home);
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl is installed (.ci/setup)");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        let ended = tokio::time::timeout(2 * PATIENCE, child.wait_with_output()).await;
        let output = ended.unwrap_or_else(|_| panic!("kubectl {line} does not end")).unwrap();
        let said = text(&output.stdout);
        if output.status.success() { Ok(said) } else { Err(said + &text(&output.stderr)) }
    }
}
