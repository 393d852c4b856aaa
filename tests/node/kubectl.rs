//! The system's kubectl, run where a machine of the test is.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// Far longer than anything takes on a machine that is merely busy.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Asks one master.
#[derive(Clone)]
pub struct Kubectl {
    /// A process whose network it is run in.
    pub inside: i32,
    pub kubeconfig: PathBuf,
    /// What is shown when something goes wrong.
    pub logs: Vec<PathBuf>,
}

/// A command that goes on while the test does other things.
pub struct Running {
    pub lines: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--net", "--target", &self.inside.to_string(), "--", "kubectl"])
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end.
    pub async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().expect("it was asked for");
        let talk = async {
            let write = async {
                // It may have read enough before all is written.
                let _ = stdin.write_all(input.as_bytes()).await;
                drop(stdin);
            };
            tokio::join!(write, child.wait_with_output()).1
        };
        timeout(PATIENCE, talk).await.expect("kubectl ends").expect("kubectl is installed")
    }

    /// Runs it, must succeed, and returns what it printed.
    pub async fn does(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, "").await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, error) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{error}\n{}", self.log());
        out
    }

    pub async fn apply(&self, object: &Value) {
        let output = self.run(&["apply", "-f", "-"], &object.to_string()).await;
        assert!(output.status.success(), "{output:?}");
    }

    /// Waits until what it prints for an object fits.
    pub async fn until(&self, what: &[&str], fits: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let arguments = [&["get", "-o", "json"], what].concat();
        loop {
            let output = self.run(&arguments, "").await;
            let seen = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
            if fits(&seen) {
                return seen;
            }
            if Instant::now() > until {
                let events = self.does(&["get", "events", "-A"]).await;
                panic!("{what:?} is still {:#}\n{events}\n{}", seen["status"], self.log());
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub async fn json(&self, what: &[&str]) -> Value {
        let text = self.does(&[&["get", "-o", "json"], what].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    pub fn starts(&self, arguments: &[&str]) -> Running {
        let mut child = self.command(arguments).stderr(Stdio::inherit()).spawn().unwrap();
        let out = child.stdout.take().expect("it was asked for");
        Running { lines: BufReader::new(out).lines(), child }
    }

    pub fn log(&self) -> String {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(60)..].join("\n");
            format!("== {}\n{last}\n", path.display())
        };
        self.logs.iter().map(read).collect()
    }
}

impl Running {
    pub async fn line(&mut self) -> Option<String> {
        timeout(PATIENCE, self.lines.next_line()).await.expect("a line in time").unwrap()
    }

    /// The rest of what it says, and its exit code.
    pub async fn end(mut self) -> (Vec<String>, Option<i32>) {
        let mut said = Vec::new();
        while let Some(line) = self.line().await {
            said.push(line);
        }
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        (said, ended.code())
    }
}

pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let all = object["status"]["conditions"].as_array();
    let found = all.and_then(|all| all.iter().find(|it| it["type"] == kind));
    found.and_then(|it| it["status"].as_str()).unwrap_or_default()
}

pub fn is_ready(object: &Value) -> bool {
    condition(object, "Ready") == "True"
}
