//! Runs a command on both servers, and compares.

use crate::printed::{Printed, normalized};
use crate::servers::{Pair, Side};

pub struct Transcript {
    pub pair: Pair,
    /// The lease each side granted last.
    leases: [String; 2],
}

impl Transcript {
    pub fn new(pair: Pair) -> Transcript {
        Transcript { pair, leases: Default::default() }
    }

    pub fn run(&mut self, command: &str) {
        self.feed(command, "");
    }

    /// With something on its standard input.
    pub fn feed(&mut self, command: &str, input: &str) {
        let outputs = Side::BOTH.map(|side| self.pair.etcdctl(side, command, input));
        for (lease, output) in self.leases.iter_mut().zip(&outputs) {
            let out = String::from_utf8_lossy(&output.stdout);
            if let Some(rest) = out.strip_prefix("lease ") {
                *lease = rest.split(' ').next().unwrap_or_default().to_owned();
            }
        }
        let [etcd, ours] = outputs.map(|output| Printed::of(&output));
        assert_eq!(ours, etcd, "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    /// A command that any member answers by what it has heard so far: alike before long.
    pub fn at_last(&mut self, command: &str) {
        const TRIES: usize = 50;
        let asked = || Side::BOTH.map(|side| Printed::of(&self.pair.etcdctl(side, command, "")));
        let alike = |printed: &[Printed; 2]| printed[0] == printed[1];
        let [etcd, ours] = (0..TRIES).map(|_| asked()).find(alike).unwrap_or_else(asked);
        assert_eq!(ours, etcd, "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    /// A command that names the lease that was granted last, as each side calls it.
    pub fn lease(&mut self, command: &str) {
        let leases = self.leases.clone();
        let [etcd, ours] = [0, 1].map(|side| {
            let command = command.replace("LEASE", &leases[side]);
            Printed::of(&self.pair.etcdctl(Side::BOTH[side], &command, ""))
        });
        assert_eq!(ours, etcd, "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    /// A command that names the learner, or the only member there is, as each side calls it.
    pub fn member(&mut self, command: &str) {
        let [etcd, ours] = Side::BOTH.map(|side| {
            let listed = self.pair.etcdctl(side, "member list", "");
            let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
            let line = listed.lines().find(|line| line.ends_with(", true"));
            let line = line.or_else(|| listed.lines().next()).unwrap_or_default();
            let id = line.split(',').next().unwrap_or_default();
            Printed::of(&self.pair.etcdctl(side, &command.replace("MEMBER", id), ""))
        });
        assert_eq!(ours, etcd, "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    /// A command that goes on until it is stopped: its first lines.
    pub fn watch(&mut self, command: &str, lines: usize) {
        let [etcd, ours] =
            Side::BOTH.map(|side| normalized(&self.pair.first_lines(side, command, lines)));
        assert_eq!(ours, etcd, "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    /// A command that ends with a refusal. What it prints beside that hangs on how far it had come.
    pub fn fails(&mut self, command: &str) {
        let [etcd, ours] = Side::BOTH.map(|side| {
            let printed = Printed::of(&self.pair.etcdctl(side, command, ""));
            (printed.succeeded, last_line(&printed.out), last_line(&printed.error))
        });
        assert_eq!(ours, etcd, "ours (left) and etcd's answer to `etcdctl {command}`");
    }

    /// A JSON answer of which `present` is not empty on either side.
    pub fn fields(&mut self, command: &str, present: &[&str], number: &str) {
        for side in Side::BOTH {
            let output = self.pair.etcdctl(side, command, "");
            let text = String::from_utf8_lossy(&output.stdout);
            let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let status = &answer[0]["Status"];
            for field in present.iter().chain([&number]) {
                let value = status[*field].as_u64().unwrap_or(0);
                assert!(value > 0, "{side:?}: {field} of {answer}");
            }
        }
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().to_owned()
}
