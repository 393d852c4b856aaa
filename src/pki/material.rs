//! All of a master's keys and certificates, in memory and below `DIR/pki`.
//!
//! Keeps: what is in use and what lies on the disk are the same; a certificate whose names, CA or time
//! no longer fit is issued anew at the start. CAs are replaced while the master runs ([`Material::reload`]):
//! the certificates that they sign, the ports, and whoever looks at [`Material::changes`] follow.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kontiki_api::cluster;
use kontiki_api::cluster::wire;
use kontiki_api::listener::{self, Clients, TlsSource};
use kontiki_raft::network::grpc::{Identity, Tls, TlsConfig};
use parking_lot::{Mutex, RwLock};
use rcgen::KeyPair;
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::Error;
use super::authority::{Authority, Credentials, Subject, hex};
use super::files::{self, Readers};
use super::kubeconfig::kubeconfig;
use super::leaf::{ADMINISTRATORS, Hosts, Leaf, NODE_LIFE, Realm, node_subject};
use super::origin::FOLDER;
use super::pin::{Trust, client_config};

/// The CAs and what belongs to no single certificate.
pub struct Material {
    folder: PathBuf,
    kubeconfig: PathBuf,
    /// In the order of [`Realm`].
    authorities: RwLock<[Arc<Authority>; 3]>,
    service_account_key: String,
    hosts: Hosts,
    identity: Identity,
    life: Duration,
    held: Mutex<Vec<Held>>,
    ports: Mutex<Option<Ports>>,
    /// Held by whoever replaces certificates: one at a time.
    replacing: Mutex<()>,
    /// How often the CAs have changed since the start.
    changes: watch::Sender<u64>,
}

/// A certificate in use.
#[derive(Clone)]
pub(super) struct Held {
    pub leaf: Leaf,
    pub credentials: Credentials,
    pub not_after: SystemTime,
    /// When it is replaced: somewhere between half and four fifths of its life.
    pub renew_at: SystemTime,
}

/// What serves by these certificates, told of new ones.
#[derive(Clone)]
pub struct Ports {
    pub api: Arc<TlsSource>,
    pub store: Arc<TlsSource>,
    pub peers: Arc<Tls>,
    /// Where the API is reached on this machine, for the kubeconfig; known when it is bound.
    pub api_url: String,
}

impl Material {
    /// Reads the CAs below `directory`, and the certificates that still fit; issues what is missing.
    pub fn open(
        directory: &Path,
        hosts: Hosts,
        identity: Identity,
        life: Duration,
        now: SystemTime,
    ) -> Result<Material, Error> {
        let folder = directory.join(FOLDER);
        let key = folder.join(Realm::Cluster.folder()).join("service-account.key");
        let material = Material {
            kubeconfig: directory.join("kubeconfig"),
            authorities: RwLock::new(authorities(&folder)?),
            service_account_key: files::read(&key)?,
            hosts,
            identity,
            life,
            held: Mutex::default(),
            ports: Mutex::default(),
            replacing: Mutex::default(),
            changes: watch::Sender::new(0),
            folder,
        };
        let held = material.fitting(&material.authorities.read().clone(), now)?;
        *material.held.lock() = held;
        Ok(material)
    }

    /// A certificate of each kind by these CAs: those on the disk that fit, the others anew.
    fn fitting(
        &self,
        authorities: &[Arc<Authority>; 3],
        now: SystemTime,
    ) -> Result<Vec<Held>, Error> {
        let one = |leaf: Leaf| {
            let signer = &authorities[leaf.realm() as usize];
            self.read(signer, leaf, now).map_or_else(|| self.issue(signer, leaf, now), Ok)
        };
        // Making keys and writing them durably takes milliseconds each.
        std::thread::scope(|scope| {
            let made = Leaf::ALL.map(|leaf| scope.spawn(move || one(leaf)));
            made.into_iter()
                .map(|made| made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        })
    }

    /// Takes over the CAs as they lie on the disk now: what they signed before is issued anew, the ports
    /// believe the new bundles, the kubeconfig names them. Connections that stand go on. On an error all
    /// stays as it was, but for what has been written. Returns whether there was anything new.
    pub fn reload(&self, now: SystemTime) -> Result<bool, Error> {
        let _alone = self.replacing.lock();
        let fresh = authorities(&self.folder)?;
        let is_new = fresh
            .iter()
            .zip(self.authorities.read().iter())
            .any(|(new, old)| new.bundle() != old.bundle() || new.key_pem() != old.key_pem());
        if !is_new {
            return Ok(false);
        }
        let held = self.fitting(&fresh, now)?;
        *self.authorities.write() = fresh;
        *self.held.lock() = held;
        self.hand_on()?;
        self.changes.send_modify(|changes| *changes += 1);
        Ok(true)
    }

    /// Changes whenever the CAs do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The certificate on the disk, if it is good for what it has to be good for, and for a while.
    fn read(&self, signer: &Authority, leaf: Leaf, now: SystemTime) -> Option<Held> {
        let (certificate, key) = self.paths(leaf);
        let credentials = Credentials {
            certificate: files::read(&certificate).ok()?,
            key: files::read(&key).ok()?,
        };
        let found = Found::read(&credentials.certificate)?;
        let fits = found.says(&leaf.subject(&self.hosts, self.identity))
            && credentials.certificate.contains(signer.bundle().lines().nth(1)?)
            && KeyPair::from_pem(&credentials.key).is_ok();
        let renew_at = renew_at(found.not_before, found.not_after);
        (fits && now < renew_at && found.not_before <= now).then_some(Held {
            leaf,
            credentials,
            not_after: found.not_after,
            renew_at,
        })
    }

    /// Issues a certificate and writes it.
    fn issue(&self, signer: &Authority, leaf: Leaf, now: SystemTime) -> Result<Held, Error> {
        let subject = leaf.subject(&self.hosts, self.identity);
        let life = leaf.life(self.life);
        let credentials = signer.issue(&subject, now, life)?;
        let (certificate, key) = self.paths(leaf);
        files::replace(&key, &credentials.key, Readers::Owner)?;
        files::replace(&certificate, &credentials.certificate, Readers::Everyone)?;
        Ok(Held { leaf, credentials, not_after: now + life, renew_at: renew_at(now, now + life) })
    }

    fn paths(&self, leaf: Leaf) -> (PathBuf, PathBuf) {
        let folder = self.folder.join(leaf.realm().folder());
        (folder.join(format!("{}.crt", leaf.file())), folder.join(format!("{}.key", leaf.file())))
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.held.lock().clone()
    }

    /// Replaces what is due, on the disk and in what serves. Returns what was replaced.
    pub(super) fn renew(&self, now: SystemTime) -> Result<Vec<Leaf>, Error> {
        let _alone = self.replacing.lock();
        let due: Vec<Leaf> =
            self.held().iter().filter(|held| held.renew_at <= now).map(|held| held.leaf).collect();
        for leaf in &due {
            let fresh = self.issue(&self.authority(leaf.realm()), *leaf, now)?;
            let mut all = self.held.lock();
            all.retain(|held| held.leaf != *leaf);
            all.push(fresh);
        }
        if !due.is_empty() {
            self.hand_on()?;
        }
        Ok(due)
    }

    /// Tells the ports, and the kubeconfig, of the certificates as they are now.
    fn hand_on(&self) -> Result<(), Error> {
        let Some(ports) = self.ports.lock().clone() else { return Ok(()) };
        ports.api.replace(&self.api_tls())?;
        ports.store.replace(&self.store_tls())?;
        ports.peers.replace(&self.peer_tls())?;
        self.write_kubeconfig(&ports.api_url)
    }

    /// Whom to tell of new certificates from now on.
    pub fn serve(&self, ports: Ports) -> Result<(), Error> {
        self.write_kubeconfig(&ports.api_url)?;
        *self.ports.lock() = Some(ports);
        Ok(())
    }

    fn credentials(&self, leaf: Leaf) -> Credentials {
        let held = self.held.lock();
        let held = held.iter().find(|held| held.leaf == leaf);
        held.expect("each certificate is there from the start").credentials.clone()
    }

    fn authority(&self, realm: Realm) -> Arc<Authority> {
        Arc::clone(&self.authorities.read()[realm as usize])
    }

    pub fn api_tls(&self) -> listener::TlsConfig {
        self.port_tls(Leaf::Server, Clients::MayProve)
    }

    pub fn store_tls(&self) -> listener::TlsConfig {
        self.port_tls(Leaf::StoreServer, Clients::MustProve)
    }

    fn port_tls(&self, leaf: Leaf, clients: Clients) -> listener::TlsConfig {
        let Credentials { certificate, key } = self.credentials(leaf);
        listener::TlsConfig {
            certificate_pem: certificate.into(),
            key_pem: key.into(),
            client_ca_pem: self.authority(leaf.realm()).bundle().into(),
            clients,
        }
    }

    pub fn peer_tls(&self) -> TlsConfig {
        let Credentials { certificate, key } = self.credentials(Leaf::Member);
        TlsConfig {
            ca_pem: self.authority(Realm::Peer).bundle().into(),
            certificate_pem: certificate.into(),
            key_pem: key.into(),
        }
    }

    /// How this master proves itself to another at the API's port.
    pub fn as_administrator(&self) -> Result<Arc<ClientConfig>, Error> {
        let ca = self.authority(Realm::Cluster).bundle().to_owned();
        client_config(Trust::Bundle(ca), Some(&self.credentials(Leaf::Administrator)))
    }

    fn write_kubeconfig(&self, api_url: &str) -> Result<(), Error> {
        let authority = self.authority(Realm::Cluster);
        let credentials = self.credentials(Leaf::Administrator);
        let text = kubeconfig(api_url, authority.bundle(), &credentials);
        files::replace(&self.kubeconfig, &text, Readers::Owner)
    }
}

impl cluster::Pki for Material {
    fn authorities(&self) -> wire::Authorities {
        let authority = |realm| {
            let authority = self.authority(realm);
            wire::Authority {
                bundle: authority.bundle().to_owned(),
                key: authority.key_pem().to_owned(),
            }
        };
        wire::Authorities {
            cluster: authority(Realm::Cluster),
            peer: authority(Realm::Peer),
            store: authority(Realm::Store),
            service_account_key: self.service_account_key.clone(),
        }
    }

    fn sign_node(&self, name: &str, request_pem: &str) -> Result<String, String> {
        let now = super::renewal::now();
        self.authority(Realm::Cluster)
            .sign(request_pem, &node_subject(name), now, NODE_LIFE)
            .map_err(|error| error.to_string())
    }

    fn cluster_ca(&self) -> String {
        self.authority(Realm::Cluster).bundle().to_owned()
    }

    fn fingerprint(&self) -> [u8; 32] {
        self.authority(Realm::Cluster).fingerprint()
    }

    fn trust(&self) -> Vec<wire::Trust> {
        let trust = |realm: Realm| {
            let authority = self.authority(realm);
            wire::Trust {
                name: realm.folder().into(),
                signs: hex(authority.fingerprint()),
                believed: authority.fingerprints().into_iter().map(hex).collect(),
            }
        };
        [Realm::Cluster, Realm::Peer, Realm::Store].map(trust).into()
    }

    fn reload(&self) -> Result<bool, String> {
        // It writes and syncs files: a moment, when CAs are replaced.
        tokio::task::block_in_place(|| Material::reload(self, super::renewal::now()))
            .map_err(|error| error.to_string())
    }

    fn certificates(&self) -> Vec<wire::Certificate> {
        let now = super::renewal::now();
        let until = |at: SystemTime| match at.duration_since(now) {
            Ok(left) => left.as_secs().cast_signed(),
            Err(past) => -past.duration().as_secs().cast_signed(),
        };
        let mut certificates: Vec<_> = self
            .held()
            .into_iter()
            .map(|held| wire::Certificate {
                name: held.leaf.path(),
                expires_in_s: until(held.not_after),
                renewed_in_s: until(held.renew_at),
            })
            .collect();
        certificates.sort_by(|a, b| a.name.cmp(&b.name));
        certificates
    }

    fn is_administrator(&self, peer: &listener::Peer) -> bool {
        let Some(leaf) = peer.certificates.first() else { return false };
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return false };
        let mut organizations = certificate.subject().iter_organization();
        organizations.any(|it| it.as_str().is_ok_and(|it| it == ADMINISTRATORS))
    }
}

/// The three CAs as they lie on the disk.
fn authorities(folder: &Path) -> Result<[Arc<Authority>; 3], Error> {
    let authority = |realm: Realm| {
        let folder = folder.join(realm.folder());
        let (bundle, key) =
            (files::read(&folder.join("ca.crt"))?, files::read(&folder.join("ca.key"))?);
        Authority::from_pem(&bundle, &key).map(Arc::new)
    };
    Ok([authority(Realm::Cluster)?, authority(Realm::Peer)?, authority(Realm::Store)?])
}

/// What a certificate on the disk says.
struct Found {
    common_name: String,
    organization: Option<String>,
    names: Vec<String>,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Found {
    fn read(pem: &str) -> Option<Found> {
        let leaf = CertificateDer::pem_slice_iter(pem.as_bytes()).next()?.ok()?;
        let (_, certificate) = X509Certificate::from_der(&leaf).ok()?;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().ok().map(str::to_owned)
        };
        let names = certificate.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        Some(Found {
            common_name: text(certificate.subject().iter_common_name().next()?)?,
            organization: certificate.subject().iter_organization().next().and_then(text),
            names: names.filter_map(alternative_name).collect(),
            not_before: moment(certificate.validity().not_before)?,
            not_after: moment(certificate.validity().not_after)?,
        })
    }

    fn says(&self, subject: &Subject) -> bool {
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        self.common_name == subject.common_name
            && self.organization == subject.organization
            && sorted(&self.names) == sorted(&subject.names)
    }
}

/// From when to when a certificate is good.
pub(super) fn validity(pem: &str) -> Option<(SystemTime, SystemTime)> {
    let leaf = CertificateDer::pem_slice_iter(pem.as_bytes()).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&leaf).ok()?;
    let validity = certificate.validity();
    Some((moment(validity.not_before)?, moment(validity.not_after)?))
}

fn moment(time: x509_parser::time::ASN1Time) -> Option<SystemTime> {
    let seconds = u64::try_from(time.timestamp()).ok()?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn alternative_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// When to renew: at a random point between half and four fifths of the life, so that what was issued
/// together is not renewed together.
pub(super) fn renew_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life.mul_f64(rand::random_range(0.5..0.8))
}
