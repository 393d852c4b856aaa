//! Waiting for what comes, and watching it come.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use crate::tour::tour;

#[tokio::test]
async fn kubectl_waits_for_what_is_to_be() {
    tour(|kubectl| {
        kubectl.run(&["run", "p", "--image=i"]).good();
        let phase = "--for=jsonpath={.status.phase}=Pending";
        kubectl.says(&["wait", phase, "pod/p", "--timeout=20s"], "pod/p condition met");
        kubectl.fails(
            &["wait", "--for=condition=Ready", "pod/p", "--timeout=1s"],
            &["timed out waiting for the condition on pods/p"],
        );
        kubectl.says(&["wait", "--for=delete", "pod/none", "--timeout=20s"], "");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                kubectl.run(&["wait", "--for=condition=Ready", "pod/p", "--timeout=50s"]).good();
                kubectl.run(&["wait", "--for=create", "cm/m", "--timeout=50s"]).good();
            });
            let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
            kubectl.run(&["patch", "pod", "p", "--subresource=status", "-p", ready]).good();
            kubectl.run(&["create", "configmap", "m"]).good();
            waits.join().unwrap();
        });
    })
    .await;
}

/// Of an event, and of the object in it.
const COLUMNS: &str = "custom-columns=TYPE:.type,NAME:.object.metadata.name,A:.object.data.a";

#[tokio::test]
async fn every_change_of_what_is_watched_is_printed() {
    tour(|kubectl| {
        kubectl.run(&["create", "configmap", "m", "--from-literal=a=0"]).good();
        let command = ["get", "cm", "-w", "--output-watch-events", "-l", "!hidden"];
        let columns = ["-o", COLUMNS, "--no-headers"];
        let mut watch = kubectl.command(&[]);
        watch.args(command).args(columns).arg("--request-timeout=0");
        let mut child = watch.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut until = |wanted: [&str; 3]| {
            loop {
                let line = lines.next().expect("the watch goes on").unwrap();
                if line.split_whitespace().eq(wanted) {
                    return;
                }
            }
        };
        until(["ADDED", "m", "0"]);
        for value in ["1", "2"] {
            let patch = format!("{{\"data\":{{\"a\":\"{value}\"}}}}");
            kubectl.run(&["patch", "cm", "m", "-p", &patch]).good();
            until(["MODIFIED", "m", value]);
        }
        // What is chosen no more is gone for who chose it.
        kubectl.run(&["label", "cm", "m", "hidden=yes"]).good();
        until(["DELETED", "m", "2"]);
        kubectl.run(&["label", "cm", "m", "hidden-"]).good();
        until(["ADDED", "m", "2"]);
        kubectl.run(&["delete", "cm", "m"]).good();
        until(["DELETED", "m", "2"]);
        child.kill().unwrap();
        child.wait().unwrap();
    })
    .await;
}

/// What the API lists at its root, asked for through a proxy.
fn versions(mut proxy: impl Read + Write) -> String {
    proxy.write_all(b"GET /api/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    proxy.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_proxy_of_kubectl_passes_everything_on() {
    tour(|kubectl| {
        let socket = kubectl.folder.join("proxy.sock");
        let by_socket = format!("--unix-socket={}", socket.display());
        for how in ["--port=0", &by_socket] {
            let mut proxy = kubectl.command(&["proxy", how]);
            let mut child = proxy.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let line = lines.next().expect("it says where it is").unwrap();
            let place = line.trim_start_matches("Starting to serve on ");
            let answer = match how {
                "--port=0" => versions(TcpStream::connect(place).unwrap()),
                _ => versions(UnixStream::connect(place).unwrap()),
            };
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(answer.contains("\"kind\":\"APIVersions\""), "{answer}");
        }
    })
    .await;
}
