//! Certificates through the room's door, with the time as an argument.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use kontiki_api::cluster::Pki as _;
use kontiki_api::cluster::wire::ClusterSettings;
use kontiki_api::listener::{Peer, TlsSource};
use kontiki_raft::network::grpc::{Identity, Tls};
use kontiki_raft::{ClusterId, NodeId};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Beginning, Hosts, Material, Origin, origin, read_peers, write_peers};

const DAY: Duration = Duration::from_secs(24 * 3600);
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const ME: Identity = Identity { cluster: ClusterId(7), node: NodeId(1) };

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn hosts() -> Hosts {
    Hosts {
        hostname: "m1".into(),
        addresses: vec![IpAddr::from([192, 0, 2, 1])],
        service: IpAddr::from([10, 43, 0, 1]),
        more: vec!["api.example.com".into()],
    }
}

fn beginning() -> Beginning {
    let settings = ClusterSettings {
        service_cidr: "10.43.0.0/16".into(),
        cluster_cidr: "10.42.0.0/16".into(),
    };
    let origin = Origin::new(ME.cluster, ME.node, "m1".into(), Vec::new(), settings);
    Beginning::found(origin, start()).unwrap()
}

fn open(directory: &Path, hosts: Hosts, now: SystemTime) -> Material {
    Material::open(directory, hosts, ME, LIFE, now).unwrap()
}

/// A directory of a new cluster.
fn founded() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    beginning().write(directory.path()).unwrap();
    directory
}

fn read(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join("pki").join(file)).unwrap()
}

/// What a certificate on the disk says, by what looks at it.
fn look<T>(pem: &str, at: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let leaf = CertificateDer::pem_slice_iter(pem.as_bytes()).next().unwrap().unwrap();
    at(&X509Certificate::from_der(&leaf).unwrap().1)
}

#[test]
fn a_beginning_is_there_as_a_whole_and_never_twice() {
    let directory = founded();
    let found = origin(directory.path()).unwrap().unwrap();
    assert_eq!((found.cluster().unwrap(), found.node().unwrap()), (ME.cluster, ME.node));
    assert!(!found.joined());
    for key in ["cluster/ca.key", "peer/ca.key", "store/ca.key", "cluster/service-account.key"] {
        let mode =
            fs::metadata(directory.path().join("pki").join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let before = read(directory.path(), "cluster/ca.crt");
    beginning().write(directory.path()).unwrap_err();
    assert_eq!(read(directory.path(), "cluster/ca.crt"), before);
    assert_eq!(fs::read_dir(directory.path().join("run")).unwrap().count(), 0);
}

#[test]
fn the_api_proves_every_name_under_which_it_is_reached() {
    let directory = founded();
    open(directory.path(), hosts(), start());
    let names = look(&read(directory.path(), "cluster/server.crt"), |certificate| {
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        format!("{:?}", names.value.general_names)
    });
    for name in [
        "localhost",
        "m1",
        "api.example.com",
        "kubernetes",
        "kubernetes.default.svc.cluster.local",
        "[127, 0, 0, 1]",
        "[192, 0, 2, 1]",
        "[10, 43, 0, 1]",
    ] {
        assert!(names.contains(name), "{name} is missing in {names}");
    }
}

#[test]
fn what_still_fits_stays_and_what_does_not_is_issued_anew() {
    let directory = founded();
    let all = ["cluster/server", "cluster/admin", "peer/member", "store/server", "store/client"];
    let read_all = || all.map(|leaf| read(directory.path(), &format!("{leaf}.crt")));
    open(directory.path(), hosts(), start());
    let first = read_all();
    open(directory.path(), hosts(), start() + DAY);
    assert_eq!(read_all(), first);

    // Another name concerns those who carry names.
    let moved = Hosts { more: Vec::new(), ..hosts() };
    open(directory.path(), moved.clone(), start() + DAY);
    let second = read_all();
    let anew: Vec<&str> = all
        .iter()
        .zip(first.iter().zip(&second))
        .filter(|(_, (a, b))| a != b)
        .map(|it| *it.0)
        .collect();
    assert_eq!(anew, ["cluster/server", "store/server"]);

    // Time concerns those whose life is short.
    open(directory.path(), moved.clone(), start() + 29 * DAY);
    let third = read_all();
    assert!(third[0] != second[0] && third[2] != second[2] && third[3] != second[3]);
    assert!(third[1] == second[1] && third[4] == second[4]);

    // A certificate of a CA that is no longer ours is none.
    fs::remove_dir_all(directory.path().join("pki/store")).unwrap();
    let other = founded();
    fs::rename(other.path().join("pki/store"), directory.path().join("pki/store")).unwrap();
    fs::write(directory.path().join("pki/store/client.crt"), &third[4]).unwrap();
    open(directory.path(), moved, start() + 29 * DAY);
    assert_ne!(read_all()[4], third[4]);
}

#[test]
fn certificates_are_renewed_between_half_and_four_fifths_of_their_life() {
    let directory = founded();
    let material = open(directory.path(), hosts(), start());
    material
        .serve(super::Ports {
            api: TlsSource::new(&material.api_tls()).unwrap(),
            store: TlsSource::new(&material.store_tls()).unwrap(),
            peers: Tls::new(&material.peer_tls()).unwrap(),
            api_url: "https://127.0.0.1:6443".into(),
        })
        .unwrap();
    let kubeconfig = || fs::read_to_string(directory.path().join("kubeconfig")).unwrap();
    let before = (read(directory.path(), "cluster/server.crt"), kubeconfig());
    assert!(material.renew(start() + 15 * DAY - Duration::from_secs(1)).unwrap().is_empty());
    assert_eq!(read(directory.path(), "cluster/server.crt"), before.0);
    let renewed = material.renew(start() + 24 * DAY).unwrap();
    assert_eq!(renewed.len(), 3, "{renewed:?}");
    assert_ne!(read(directory.path(), "cluster/server.crt"), before.0);
    assert_eq!(kubeconfig(), before.1, "the administrator's lasts longer");
    assert_eq!(material.renew(start() + 300 * DAY).unwrap().len(), 5);
    assert_ne!(kubeconfig(), before.1);
    assert!(material.renew(start() + 300 * DAY).unwrap().is_empty());
}

#[test]
fn a_node_gets_the_name_it_was_given_and_nothing_that_it_asks_for() {
    let directory = founded();
    let material = open(directory.path(), hosts(), start());
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(["kubernetes".to_owned()]).unwrap();
    wish.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    wish.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = wish.serialize_request(&key).unwrap().pem().unwrap();
    let signed = material.sign_node("edge-1", &request).unwrap();
    look(&signed, |certificate| {
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:edge-1");
        assert!(!certificate.is_ca());
        assert!(certificate.subject_alternative_name().unwrap().is_none());
        let uses = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(uses.client_auth && !uses.server_auth);
    });
    let peer = |pem: &str| Peer {
        certificates: CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect(),
        address: "127.0.0.1:1".parse().unwrap(),
    };
    assert!(!material.is_administrator(&peer(&signed)));
    assert!(material.is_administrator(&peer(&read(directory.path(), "cluster/admin.crt"))));
    assert!(!material.is_administrator(&peer("")));
    assert!(material.sign_node("edge-1", "nonsense").unwrap_err().contains("signing request"));
}

#[test]
fn where_the_others_are_is_remembered() {
    let directory = founded();
    assert_eq!(read_peers(directory.path()).unwrap(), None);
    let peer = kontiki_api::cluster::wire::Address {
        id: "2".into(),
        name: "m2".into(),
        address: "192.0.2.2:2380".into(),
    };
    write_peers(directory.path(), std::slice::from_ref(&peer)).unwrap();
    assert_eq!(read_peers(directory.path()).unwrap(), Some(vec![peer.clone()]));
    let again = origin(directory.path()).unwrap().unwrap().anew(NodeId(9), vec![peer]);
    again.write(directory.path()).unwrap();
    let found = origin(directory.path()).unwrap().unwrap();
    assert!(found.joined());
    assert_eq!(found.node().unwrap(), NodeId(9));
}
