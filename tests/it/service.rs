//! A master under a service manager that waits to be told (systemd's `Type=notify`).

use std::process::Stdio;

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use super::support::{Master, PATIENCE, command};

#[tokio::test]
async fn a_service_manager_is_told_when_a_master_serves_and_when_it_stops() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    let hears = async || {
        let mut words = [0; 256];
        let length = timeout(PATIENCE, manager.recv(&mut words)).await.expect("told").unwrap();
        String::from_utf8(words[..length].to_vec()).unwrap()
    };
    let master = Master::new(root.path(), "m1");
    let mut command = command(master.arguments());
    command.env("NOTIFY_SOCKET", &socket).stdout(Stdio::null()).stderr(Stdio::null());
    let mut process = command.spawn().unwrap();
    assert!(hears().await.starts_with("READY=1\n"));
    let answer = master.get("/readyz").await.unwrap();
    assert_eq!((answer.0, answer.1.as_str()), (200, "ok"));
    let number = rustix::process::Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(number, rustix::process::Signal::TERM).unwrap();
    assert_eq!(hears().await, "STOPPING=1");
    assert_eq!(process.wait().await.unwrap().code(), Some(0));
}
