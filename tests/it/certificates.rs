//! Certificates: who is let in at which port, and their renewal while everything runs.

use std::fs;
use std::path::PathBuf;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::https::{Client, get};
use crate::support::{Cluster, Master, wait_for};

fn pki(master: &Master, file: &str) -> PathBuf {
    master.directory.join("pki").join(file)
}

fn showing(master: &Master, ca: &str, leaf: &str) -> Client {
    let (certificate, key) = (format!("{leaf}.crt"), format!("{leaf}.key"));
    Client::showing(&pki(master, ca), &pki(master, &certificate), &pki(master, &key))
}

#[tokio::test]
async fn each_port_lets_in_whom_it_is_for_and_nobody_else() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    let (api, store, peer) = (master.port("api"), master.port("store"), master.port("peer"));
    let status = "/kontiki/v1/status";

    // The API answers anybody's probe; operators have to show an administrator's certificate.
    let nobody = Client::trusting(&pki(master, "cluster/ca.crt"));
    assert_eq!(get(api, "/readyz", &nobody).await, Ok((200, "ok".into())));
    let (code, said) = get(api, status, &nobody).await.unwrap();
    assert_eq!(code, 403, "{said}");
    assert!(said.contains("system:masters"), "{said}");
    let administrator = showing(master, "cluster/ca.crt", "cluster/admin");
    assert_eq!(get(api, status, &administrator).await.unwrap().0, 200);
    // A certificate of another CA is none here.
    let stranger = showing(master, "cluster/ca.crt", "store/client");
    assert!(get(api, "/readyz", &stranger).await.is_err());

    // The store lets in its own clients alone.
    let client = showing(master, "store/ca.crt", "store/client");
    assert_eq!(get(store, status, &client).await.unwrap().0, 200);
    for wrong in [
        Client::trusting(&pki(master, "store/ca.crt")),
        showing(master, "store/ca.crt", "cluster/admin"),
        showing(master, "store/ca.crt", "peer/member"),
    ] {
        assert!(get(store, status, &wrong).await.is_err());
    }
    // Each port has a CA of its own.
    assert!(Client::trusting(&pki(master, "store/ca.crt")).connect(api).await.is_err());
    for wrong in [
        Client::trusting(&pki(master, "peer/ca.crt")),
        showing(master, "peer/ca.crt", "cluster/admin"),
        showing(master, "peer/ca.crt", "store/client"),
    ] {
        assert!(get(peer, "/", &wrong).await.is_err());
    }

    // Plain text gets an end, not an answer.
    for port in [api, store, peer] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    }
    master.until_ready().await;
}

/// A client whose certificate is of the right CA, and over.
fn expired(master: &Master, realm: &str) -> Client {
    let read = |file: &str| fs::read_to_string(pki(master, &format!("{realm}/{file}"))).unwrap();
    let ca_key = KeyPair::from_pem(&read("ca.key")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(&read("ca.crt"), ca_key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(DnType::CommonName, "root");
    (params.not_before, params.not_after) = (date_time_ymd(2001, 1, 1), date_time_ymd(2002, 1, 1));
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let path = |extension: &str| master.directory.with_extension(format!("{realm}.{extension}"));
    fs::write(path("crt"), certificate.pem()).unwrap();
    fs::write(path("key"), key.serialize_pem()).unwrap();
    Client::showing(&pki(master, &format!("{realm}/ca.crt")), &path("crt"), &path("key"))
}

#[tokio::test]
async fn a_certificate_that_is_over_is_let_in_nowhere() {
    let cluster = Cluster::of_one().await;
    let master = &cluster.masters[0];
    for (port, realm) in [("api", "cluster"), ("store", "store"), ("peer", "peer")] {
        let client = expired(master, realm);
        let answer = get(master.port(port), "/readyz", &client).await;
        assert!(answer.is_err(), "{port}: {answer:?}");
    }
    master.until_ready().await;
}

#[tokio::test]
async fn certificates_are_renewed_while_masters_run_and_speak_to_each_other() {
    let root = tempfile::tempdir().unwrap();
    let short = ["--certificate-life", "12s"];
    let mut first = Master::new(root.path(), "m1").with(short);
    first.start_ready().await;
    let token = first.token("master").await;
    let second = Master::new(root.path(), "m2").with(short);
    let mut second = second.with(["--join", &first.api(), "--token", &token]);
    second.start_ready().await;
    let cluster = Cluster { root, masters: vec![first, second] };
    cluster.masters[0].until_voters(2).await;

    let files = ["cluster/server.crt", "store/server.crt", "peer/member.crt"];
    let read = |master: &Master| files.map(|file| fs::read_to_string(pki(master, file)).unwrap());
    let before: Vec<_> = cluster.masters.iter().map(read).collect();
    for (master, before) in cluster.masters.iter().zip(&before) {
        wait_for("renewal", || async {
            let now = read(master);
            let renewed = now.iter().zip(before).all(|(now, before)| now != before);
            if renewed { Ok(()) } else { Err("not all are new".into()) }
        })
        .await;
    }
    // Beyond the life of the first ones: everything is still believed, old connections and new ones.
    wait_for("the end of the first certificates", || async {
        let status = cluster.masters[0].status().await?;
        let uptime = status["uptime_s"].as_u64().unwrap_or_default();
        if uptime > 12 { Ok(()) } else { Err(format!("{uptime} s")) }
    })
    .await;
    for master in &cluster.masters {
        master.until_ready().await;
        let status = master.status().await.unwrap();
        for certificate in status["certificates"].as_array().unwrap() {
            assert!(certificate["expires_in_s"].as_i64().unwrap() >= 0, "{certificate}");
        }
        master.ask(&["token", "create"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_name_is_in_the_certificate_after_a_restart() {
    let mut cluster = Cluster::of_one().await;
    assert_eq!(cluster.masters[0].stop().await, Some(0));
    let master = Master::new(cluster.root.path(), "m1").with(["--tls-san", "api.example.com"]);
    cluster.masters[0] = master;
    let server = pki(&cluster.masters[0], "cluster/server.crt");
    let ca = fs::read_to_string(pki(&cluster.masters[0], "cluster/ca.crt")).unwrap();
    let before = fs::read_to_string(&server).unwrap();
    cluster.masters[0].start_ready().await;
    let after = fs::read_to_string(&server).unwrap();
    assert_ne!(before, after);
    assert_eq!(fs::read_to_string(pki(&cluster.masters[0], "cluster/ca.crt")).unwrap(), ca);
    assert!(after.contains(ca.trim()), "the chain shows the CA that tokens name");

    // Nothing has changed: the certificate stays.
    assert_eq!(cluster.masters[0].stop().await, Some(0));
    cluster.masters[0].start_ready().await;
    assert_eq!(fs::read_to_string(&server).unwrap(), after);
}
