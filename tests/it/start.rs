//! Starting and stopping one master.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Cluster, Master, kontiki, refused, text};

#[tokio::test]
async fn one_command_makes_a_cluster_with_everything_in_place() {
    let root = tempfile::tempdir().unwrap();
    let mut master = Master::new(root.path(), "m1");
    let began = tokio::time::Instant::now();
    master.start().await;
    let bound = began.elapsed();
    let kubeconfig = master.directory.join("kubeconfig");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&kubeconfig), 0o600);
    master.until_ready().await;
    println!("bound after {bound:?}, ready after {:?}", began.elapsed());
    let memory = fs::read_to_string(format!("/proc/{}/status", master.pid())).unwrap();
    println!("{}", memory.lines().find(|line| line.starts_with("VmRSS")).unwrap_or_default());

    for key in
        ["cluster/ca", "cluster/server", "peer/ca", "peer/member", "store/ca", "store/client"]
    {
        assert_eq!(mode(&master.directory.join(format!("pki/{key}.key"))), 0o600, "{key}");
    }
    assert_eq!(mode(&master.directory.join("pki/cluster/service-account.key")), 0o600);
    for path in ["/livez", "/healthz"] {
        assert_eq!(master.get(path).await, Ok((200, "ok".into())));
    }
    let (_, version) = master.get("/version").await.unwrap();
    assert!(version.contains("\"gitVersion\":\"v1.37."), "{version}");

    let config = master.ask(&["kubeconfig"]).await.unwrap();
    assert_eq!(config.trim(), fs::read_to_string(&kubeconfig).unwrap().trim());
    assert!(config.contains(&format!("server: {}", master.api())), "{config}");
    let elsewhere = master.ask(&["kubeconfig", "--server", "https://lb:1"]).await.unwrap();
    assert!(elsewhere.contains("server: https://lb:1"), "{elsewhere}");

    let status = master.status().await.unwrap();
    assert_eq!((&status["role"], &status["id"]), (&"leader".into(), &"1".into()));
    let words = master.ask(&["status"]).await.unwrap();
    assert!(words.contains("all is well") && words.contains("m1 leads"), "{words}");
}

#[tokio::test]
async fn stopping_it_is_clean_and_starting_it_again_finds_everything() {
    let mut cluster = Cluster::of_one().await;
    let master = &mut cluster.masters[0];
    let ports = master.ports();
    master.token("node").await;
    assert_eq!(master.stop().await, Some(0), "{}", master.log());
    assert!(!master.directory.join("run/ports.json").exists());

    master.start_ready().await;
    assert_eq!(master.ports(), ports, "port 0 takes the port it had");
    let tokens = master.ask_json(&["token", "list"]).await.unwrap();
    assert_eq!(tokens.as_array().unwrap().len(), 1, "{tokens}");
    master.kill().await;
    master.start_ready().await;
    let tokens = master.ask_json(&["token", "list"]).await.unwrap();
    assert_eq!(tokens.as_array().unwrap().len(), 1, "{tokens}");
}

#[tokio::test]
async fn settings_of_the_cluster_stay_as_they_were_decided() {
    let root = tempfile::tempdir().unwrap();
    let mut master = Master::new(root.path(), "m1").with([
        "--service-cidr",
        "10.50.0.0/16",
        "--tls-san",
        "lb.test",
    ]);
    master.start_ready().await;
    assert_eq!(master.status().await.unwrap()["settings"]["service_cidr"], "10.50.0.0/16");
    assert_eq!(master.stop().await, Some(0));

    let mut other = Master::new(root.path(), "m1").with(["--service-cidr", "10.51.0.0/16"]);
    let output = kontiki(other.arguments()).await;
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.contains("--service-cidr 10.51.0.0/16") && said.contains("10.50.0.0/16"),
        "{said}"
    );

    // Not said is not asked for.
    other = Master::new(root.path(), "m1");
    other.start_ready().await;
    assert_eq!(other.status().await.unwrap()["settings"]["service_cidr"], "10.50.0.0/16");
}

#[tokio::test]
async fn ps_lists_it_with_its_ports() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let output = kontiki(["ps", "--output", "json"]).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let processes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = processes.as_array().unwrap().iter().find(|it| it["pid"] == master.pid());
    let ours = ours.unwrap_or_else(|| panic!("{processes}"));
    assert_eq!((&ours["role"], &ours["ports"]), (&"master".into(), &master.ports()));
}

#[tokio::test]
async fn a_directory_that_lost_its_data_or_its_certificates_is_not_begun_anew() {
    let mut cluster = Cluster::of_one().await;
    assert_eq!(cluster.masters[0].stop().await, Some(0));
    let directory = cluster.masters[0].directory.clone();
    let pki = directory.join("pki");
    let aside = cluster.root.path().join("aside");
    fs::rename(&pki, &aside).unwrap();
    let (code, said) = refused(cluster.masters[0].arguments()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("certificates (pki/) are gone"), "{said}");
    assert!(!pki.exists());

    fs::rename(&aside, &pki).unwrap();
    for gone in ["identity", "lock", "reserve", "begun"] {
        fs::remove_file(directory.join(gone)).unwrap();
    }
    for gone in ["log", "state"] {
        fs::remove_dir_all(directory.join(gone)).unwrap();
    }
    let (code, said) = refused(cluster.masters[0].arguments()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("data is gone"), "{said}");
}
