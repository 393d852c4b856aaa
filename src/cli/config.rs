//! What was typed, in the environment and in a file, turned into what it means.
//!
//! Keeps: flags win over the environment, the environment over the file, the file over what is sensible.
//! A file has the same names as the flags; a name that is not known is refused, not passed over.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use ipnet::IpNet;
use kontiki_api::audit::{Audit, Place, Policy};
use kontiki_api::cluster::token::Token;
use kontiki_api::cluster::wire::ClusterSettings;
use kontiki_api::object::time::Clock;
use serde::{Deserialize, Serialize};

use super::period::Period;
use crate::controllers::Selection;
use crate::failure::Failure;
use crate::roles::backups::Target;
use crate::roles::controllers;
use crate::roles::master::{Join, Schedule, Settings};
use crate::roles::node;
use crate::snapshots::{Access, Bucket, Object};
use crate::telemetry::Format;

/// Headings of the help, by which a role's help leaves out what is not its own.
pub const MASTERS: &str = "Masters";
pub const NODES: &str = "Nodes";

/// What only controllers by themselves are told.
#[derive(Args, Clone, Debug, Default)]
pub struct Asked {
    /// For `controllers`: how to reach the API
    #[arg(long, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,

    /// For `controllers`: the certificate of the CA that signs certificate requests; without, nothing is signed
    #[arg(long = "cluster-signing-cert-file", value_name = "FILE", requires = "signing_key")]
    pub signing_certificate: Option<PathBuf>,

    /// For `controllers`: the key of that CA
    #[arg(
        long = "cluster-signing-key-file",
        value_name = "FILE",
        requires = "signing_certificate"
    )]
    pub signing_key: Option<PathBuf>,

    /// For `controllers`: where /healthz and /metrics are, over TLS; 0 for nowhere
    /// [default: 127.0.0.1:10257]
    #[arg(long, value_name = "ADDRESS:PORT", env = "KONTIKI_METRICS_BIND_ADDRESS")]
    pub metrics_bind_address: Option<String>,
}

/// Where controllers by themselves can be looked at.
fn metrics(asked: Option<&str>) -> Result<Option<SocketAddr>, Failure> {
    // Upstream's port.
    let asked = asked.unwrap_or("127.0.0.1:10257");
    if asked == "0" {
        return Ok(None);
    }
    asked.parse().map(Some).map_err(|_| {
        Failure::Usage(format!(
            "--metrics-bind-address {asked:?} is no address; give one such as 127.0.0.1:10257, or \
             0 for none"
        ))
    })
}

/// Everything that `start` can be told. All of it is optional: what is left out is looked for elsewhere.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Where everything is kept [default: /var/lib/kontiki, without root ~/.local/share/kontiki]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Read options from this YAML file; names are those of the flags
    #[arg(long, value_name = "FILE", env = "KONTIKI_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,

    /// Write the options as they would be used to this file, and start nothing
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub write_config: Option<PathBuf>,

    /// This machine's name in the cluster [default: the host's]
    #[arg(long, value_name = "NAME", env = "KONTIKI_NAME")]
    pub name: Option<String>,

    /// Address to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS", env = "KONTIKI_BIND_ADDRESS")]
    pub bind_address: Option<IpAddr>,

    /// Address at which others reach this machine [default: that of the default route]
    #[arg(long, value_name = "ADDRESS", env = "KONTIKI_ADVERTISE_ADDRESS")]
    pub advertise_address: Option<IpAddr>,

    /// off, error, warn, info, debug, trace, or directives such as info,kontiki_raft=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "KONTIKI_LOG_LEVEL")]
    pub log_level: Option<String>,

    /// [default: text]
    #[arg(long, value_name = "FORMAT", env = "KONTIKI_LOG_FORMAT")]
    pub log_format: Option<Format>,

    /// A master of the cluster to join, as https://HOST:6443
    #[arg(long, value_name = "URL", env = "KONTIKI_JOIN", requires = "token")]
    pub join: Option<String>,

    /// The token that lets this machine join (`kontiki token create`)
    #[arg(long, value_name = "TOKEN", env = "KONTIKI_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// Port of the Kubernetes API and of the agents; 0 takes a free one [default: 6443]
    #[arg(long, value_name = "PORT", env = "KONTIKI_API_PORT", help_heading = MASTERS)]
    pub api_port: Option<u16>,

    /// Port for the other masters; 0 takes a free one [default: 2380]
    #[arg(long, value_name = "PORT", env = "KONTIKI_PEER_PORT", help_heading = MASTERS)]
    pub peer_port: Option<u16>,

    /// Port of the etcd v3 API, for operators; 0 takes a free one [default: 2379]
    #[arg(long, value_name = "PORT", env = "KONTIKI_STORE_PORT", help_heading = MASTERS)]
    pub store_port: Option<u16>,

    /// Address at which the store port listens [default: 127.0.0.1]
    #[arg(long, value_name = "ADDRESS", env = "KONTIKI_STORE_BIND_ADDRESS", help_heading = MASTERS)]
    pub store_bind_address: Option<IpAddr>,

    /// Range of service addresses; decided when the cluster is created [default: 10.43.0.0/16]
    #[arg(long, value_name = "CIDR", env = "KONTIKI_SERVICE_CIDR", help_heading = MASTERS)]
    pub service_cidr: Option<String>,

    /// Range of pod addresses; decided when the cluster is created [default: 10.42.0.0/16]
    #[arg(long, value_name = "CIDR", env = "KONTIKI_CLUSTER_CIDR", help_heading = MASTERS)]
    pub cluster_cidr: Option<String>,

    /// More names and addresses under which the API is reached; can be repeated
    #[arg(
        long,
        value_name = "NAME",
        env = "KONTIKI_TLS_SAN",
        value_delimiter = ',',
        help_heading = MASTERS
    )]
    pub tls_san: Vec<String>,

    /// How long the certificates of ports last; each is renewed after 50-80% of it [default: 30d]
    #[arg(long, value_name = "TIME", env = "KONTIKI_CERTIFICATE_LIFE", help_heading = MASTERS)]
    pub certificate_life: Option<Period>,

    /// Controllers that run: * for those that are on by default, NAME for one more, -NAME for one less
    /// [default: *]
    #[arg(
        long,
        value_name = "NAMES",
        env = "KONTIKI_CONTROLLERS",
        value_delimiter = ',',
        allow_hyphen_values = true,
        help_heading = MASTERS
    )]
    pub controllers: Vec<String>,

    /// Write who asked for what to this file, as audit.k8s.io/v1; - for standard output
    #[arg(long, value_name = "FILE", env = "KONTIKI_AUDIT_LOG_PATH", help_heading = MASTERS)]
    pub audit_log_path: Option<PathBuf>,

    /// What of it is written (a Policy of audit.k8s.io/v1)
    #[arg(long, value_name = "FILE", env = "KONTIKI_AUDIT_POLICY_FILE", help_heading = MASTERS)]
    pub audit_policy_file: Option<PathBuf>,

    /// Days for which old audit logs are kept [default: for ever]
    #[arg(long, value_name = "DAYS", env = "KONTIKI_AUDIT_LOG_MAXAGE", help_heading = MASTERS)]
    pub audit_log_maxage: Option<u64>,

    /// How many old audit logs are kept [default: all]
    #[arg(long, value_name = "COUNT", env = "KONTIKI_AUDIT_LOG_MAXBACKUP", help_heading = MASTERS)]
    pub audit_log_maxbackup: Option<usize>,

    /// Megabytes at which another audit log is begun [default: 100]
    #[arg(long, value_name = "SIZE", env = "KONTIKI_AUDIT_LOG_MAXSIZE", help_heading = MASTERS)]
    pub audit_log_maxsize: Option<u64>,

    /// How often the store is archived below DIR/backups; 0s for never [default: 12h]
    #[arg(long, value_name = "TIME", env = "KONTIKI_SNAPSHOT_INTERVAL", help_heading = MASTERS)]
    pub snapshot_interval: Option<Period>,

    /// How many of those archives are kept [default: 5]
    #[arg(long, value_name = "COUNT", env = "KONTIKI_SNAPSHOT_RETENTION", help_heading = MASTERS)]
    pub snapshot_retention: Option<u32>,

    /// Where the master that leads keeps copies of its archives, as s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL", env = "KONTIKI_SNAPSHOT_TARGET", help_heading = MASTERS)]
    pub snapshot_target: Option<String>,

    #[command(flatten)]
    #[serde(flatten)]
    pub access: Access,

    /// The container runtime [default: unix:///run/containerd/containerd.sock]
    #[arg(
        long,
        value_name = "ENDPOINT",
        env = "KONTIKI_CONTAINER_RUNTIME_ENDPOINT",
        help_heading = NODES
    )]
    pub container_runtime_endpoint: Option<String>,

    /// Labels that the node gives itself, as key=value; can be repeated
    #[arg(
        long,
        value_name = "LABELS",
        env = "KONTIKI_NODE_LABELS",
        value_delimiter = ',',
        help_heading = NODES
    )]
    pub node_labels: Vec<String>,

    /// The node's address [default: the advertised one]
    #[arg(long, value_name = "ADDRESS", env = "KONTIKI_NODE_IP", help_heading = NODES)]
    pub node_ip: Option<IpAddr>,
}

impl Options {
    /// These options over those of the file that they name.
    pub fn with_file(self) -> Result<Options, Failure> {
        let Some(path) = self.config.clone() else { return Ok(self) };
        let wrong = |reason: String| {
            Failure::Usage(format!("config file {} (--config): {reason}", path.display()))
        };
        let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let file: Options = if text.trim().is_empty() {
            Options::default()
        } else {
            serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?
        };
        Ok(self.over(file))
    }

    /// These options where they say something, those below where they do not.
    fn over(self, below: Options) -> Options {
        let said = |options: &Options| {
            let value = serde_json::to_value(options).expect("options are plain data");
            let serde_json::Value::Object(mut map) = value else { unreachable!("a struct") };
            map.retain(|_, value| {
                !value.is_null() && value.as_array().is_none_or(|a| !a.is_empty())
            });
            map
        };
        let mut all = said(&below);
        all.extend(said(&self));
        let merged: Options = serde_json::from_value(all.into()).expect("both were options before");
        Options { config: self.config, write_config: self.write_config, ..merged }
    }

    /// All of it filled in, as it will be used.
    pub fn complete(self) -> Result<Options, Failure> {
        let bind = self.bind_address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let sensible = Options {
            data_dir: Some(data_dir()?),
            name: Some(host_name()),
            bind_address: Some(bind),
            advertise_address: Some(advertised(bind)),
            log_level: Some("info".into()),
            log_format: Some(Format::Text),
            api_port: Some(6443),
            peer_port: Some(2380),
            store_port: Some(2379),
            store_bind_address: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            service_cidr: Some("10.43.0.0/16".into()),
            cluster_cidr: Some("10.42.0.0/16".into()),
            certificate_life: Some(Period::days(30)),
            snapshot_interval: Some(Period::hours(12)),
            snapshot_retention: Some(5),
            container_runtime_endpoint: Some("unix:///run/containerd/containerd.sock".into()),
            ..Options::default()
        };
        Ok(self.over(sensible))
    }

    /// Writes the options for `--config`.
    pub fn write(&self, path: &Path) -> Result<(), Failure> {
        let all = serde_saphyr::to_string(&self.clone().over(Options::default()))
            .map_err(|error| Failure::Run(format!("cannot write the options: {error}")))?;
        // What was not said is not written, so that a later release can have another opinion.
        let said: String =
            all.lines().filter(|line| !is_empty(line)).map(|line| format!("{line}\n")).collect();
        crate::pki::replace(path, &said, crate::pki::Readers::Owner)
            .map_err(|error| Failure::Usage(format!("{error} (--write-config)")))
    }

    /// What a node makes of it. `given` is the same before it was completed: what somebody asked
    /// for.
    pub fn node(self, given: &Options) -> Result<node::Settings, Failure> {
        let taken = "complete() has filled it in";
        let advertised = self.advertise_address.expect(taken);
        Ok(node::Settings {
            join: joining(self.join.as_deref(), self.token.as_deref())?,
            data_dir: self.data_dir.expect(taken),
            name: self.name.expect(taken),
            address: self.node_ip.unwrap_or(advertised),
            labels: labels(&self.node_labels)?,
            runtime: self.container_runtime_endpoint.expect(taken),
            runtime_given: given.container_runtime_endpoint.is_some(),
        })
    }

    /// Where requests are written down. What cannot be read or opened is wrong usage.
    fn audit(&self) -> Result<Option<Arc<Audit>>, Failure> {
        let Some(path) = &self.audit_log_path else { return Ok(None) };
        let Some(file) = &self.audit_policy_file else {
            return Err(Failure::Usage(
                "an audit log needs a policy that says what is written (--audit-policy-file)"
                    .into(),
            ));
        };
        let wrong = |why: String| {
            Failure::Usage(format!("audit policy {} (--audit-policy-file): {why}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
        let place = Place {
            path: path.clone(),
            megabytes_max: self.audit_log_maxsize.unwrap_or(0),
            backups_max: self.audit_log_maxbackup.unwrap_or(0),
            days_max: self.audit_log_maxage.unwrap_or(0),
        };
        let policy = Policy::read(&text).map_err(wrong)?;
        let audit = Audit::open(policy, place, Clock::System).map_err(|error| {
            Failure::Usage(format!("audit log {} (--audit-log-path): {error}", path.display()))
        })?;
        Ok(Some(Arc::new(audit)))
    }

    /// What controllers by themselves make of it.
    pub fn controllers(self, asked: Asked) -> Result<controllers::Settings, Failure> {
        let taken = "complete() has filled it in";
        let cluster = network("--cluster-cidr", self.cluster_cidr.as_deref().expect(taken))?;
        let service = network("--service-cidr", self.service_cidr.as_deref().expect(taken))?;
        let Some(kubeconfig) = asked.kubeconfig else {
            return Err(Failure::Usage(
                "controllers by themselves need an API server; say how to reach it (--kubeconfig)"
                    .into(),
            ));
        };
        Ok(controllers::Settings {
            kubeconfig,
            signing: asked.signing_certificate.zip(asked.signing_key),
            name: self.name.expect(taken),
            selection: selection(&self.controllers)?,
            cluster_cidr: cluster.to_string(),
            service_cidr: service.to_string(),
            metrics: metrics(asked.metrics_bind_address.as_deref())?,
        })
    }

    /// What a master makes of it. `given` is the same before it was completed: what somebody asked for.
    pub fn master(self, given: &Options) -> Result<Settings, Failure> {
        let all = self;
        let taken = "complete() has filled it in";
        let (bind, advertise) =
            (all.bind_address.expect(taken), all.advertise_address.expect(taken));
        let service = network("--service-cidr", all.service_cidr.as_deref().expect(taken))?;
        let cluster = network("--cluster-cidr", all.cluster_cidr.as_deref().expect(taken))?;
        if service.contains(&cluster.network()) || cluster.contains(&service.network()) {
            return Err(Failure::Usage(format!(
                "--service-cidr {service} and --cluster-cidr {cluster} overlap; choose two that \
                 do not"
            )));
        }
        if advertise.is_unspecified() {
            return Err(Failure::Usage(format!(
                "--advertise-address {advertise} is no address that others can reach"
            )));
        }
        let Some(first_service) = service.hosts().nth(usize::from(service.max_prefix_len() == 128))
        else {
            return Err(Failure::Usage(format!("--service-cidr {service} has no addresses")));
        };
        let life = all.certificate_life.expect(taken);
        if life < Period::CERTIFICATE_MIN {
            return Err(Failure::Usage(format!(
                "--certificate-life {life} is too short; give {} or more",
                Period::CERTIFICATE_MIN
            )));
        }
        let audit = all.audit()?;
        let interval = all.snapshot_interval.expect(taken);
        let retention = all.snapshot_retention.expect(taken) as usize;
        let snapshots = (!interval.0.is_zero() && retention > 0)
            .then_some(Schedule { interval: interval.0, retention });
        let target = all.snapshot_target.as_deref();
        let target = target.map(|target| target_of(target, &all.access, snapshots)).transpose()?;
        let asked =
            |text: &Option<String>, network: IpNet| text.as_ref().map(|_| network.to_string());
        Ok(Settings {
            join: joining(all.join.as_deref(), all.token.as_deref())?,
            data_dir: all.data_dir.expect(taken),
            name: all.name.expect(taken),
            name_given: given.name.is_some(),
            bind,
            advertise,
            store_bind: all.store_bind_address.expect(taken),
            api_port: all.api_port.expect(taken),
            peer_port: all.peer_port.expect(taken),
            store_port: all.store_port.expect(taken),
            service_asked: asked(&given.service_cidr, service),
            cluster_asked: asked(&given.cluster_cidr, cluster),
            cluster: ClusterSettings {
                service_cidr: service.to_string(),
                cluster_cidr: cluster.to_string(),
            },
            first_service,
            host: host_name(),
            tls_san: all.tls_san,
            certificate_life: life.0,
            loops: Some(selection(&all.controllers)?),
            audit,
            node: None,
            snapshots,
            snapshot_target: target,
        })
    }
}

/// Labels as they are typed. Some are not a node's to give itself.
fn labels(said: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let wrong = |label: &str, why: &str| Failure::Usage(format!("--node-labels {label:?}: {why}"));
    let one = |label: &String| match label.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let prefix = key.split_once('/').map_or("", |(prefix, _)| prefix);
            let reserved = prefix == "node-restriction.kubernetes.io"
                || prefix.ends_with(".node-restriction.kubernetes.io");
            if reserved {
                return Err(wrong(label, "a node may not give itself this label"));
            }
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err(wrong(label, "give KEY=VALUE")),
    };
    said.iter().map(one).collect()
}

/// The folder of a bucket that archives are copied to.
fn target_of(text: &str, access: &Access, snapshots: Option<Schedule>) -> Result<Target, Failure> {
    let wrong = |reason: String| Failure::Usage(format!("--snapshot-target: {reason}"));
    let folder: Object = text.parse().map_err(wrong)?;
    if snapshots.is_none() {
        return Err(wrong(
            "no archives are made; give --snapshot-interval and \
                          --snapshot-retention more than 0"
                .into(),
        ));
    }
    Ok(Target { bucket: Bucket::open(&folder.bucket, access)?, folder })
}

/// The controllers that were asked for.
pub fn selection(names: &[String]) -> Result<Selection, Failure> {
    if names.is_empty() {
        return Ok(Selection::default());
    }
    Selection::new(names.to_vec())
        .map_err(|refused| Failure::Usage(format!("--controllers: {refused}")))
}

fn is_empty(line: &str) -> bool {
    line.ends_with(": null") || line.ends_with(": ~") || line.ends_with(": []")
}

/// The cluster to join, and the token that lets one in.
pub fn joining(join: Option<&str>, token: Option<&str>) -> Result<Option<Join>, Failure> {
    let Some(endpoint) = join else { return Ok(None) };
    let Some(token) = token else {
        return Err(Failure::Usage(
            "--join takes a token as well; `kontiki token create --role master` on a master prints \
             one (--token)"
                .into(),
        ));
    };
    let token: Token =
        token.parse().map_err(|error| Failure::Usage(format!("--token: {error}")))?;
    Ok(Some(Join { endpoint: endpoint.to_owned(), token }))
}

fn network(flag: &str, text: &str) -> Result<IpNet, Failure> {
    let parsed = text.parse::<IpNet>().ok().filter(|net| net.network() == net.addr());
    parsed.ok_or_else(|| {
        Failure::Usage(format!("{flag} {text:?} is no network; give one such as 10.43.0.0/16"))
    })
}

/// Where data is kept if nobody says otherwise.
pub fn data_dir() -> Result<PathBuf, Failure> {
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/kontiki".into());
    }
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|it| it.is_absolute());
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    let none = "there is no home directory to keep data in; say where (--data-dir)";
    Ok(base.ok_or_else(|| Failure::Usage(none.into()))?.join("kontiki"))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".into() } else { name.to_ascii_lowercase() }
}

/// Where others would reach this machine: where we listen, or the address the way out leads from.
fn advertised(bind: IpAddr) -> IpAddr {
    if !bind.is_unspecified() {
        return bind;
    }
    // Connecting a datagram socket sends nothing; it only asks the system for the way. The address is
    // one of those set aside for documentation.
    let outward = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok::<IpAddr, std::io::Error>(socket.local_addr()?.ip())
    };
    outward().ok().filter(|it| !it.is_unspecified()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Options, String> {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_said_first_wins_and_the_rest_is_filled_in() {
        let given = Options { api_port: Some(1), ..Options::default() };
        let below = file("api-port: 2\npeer-port: 3\ntls-san: [a, b]\n").unwrap();
        let all = given.over(below).complete().unwrap();
        assert_eq!((all.api_port, all.peer_port, all.store_port), (Some(1), Some(3), Some(2379)));
        assert_eq!(all.tls_san, ["a", "b"]);
    }

    #[test]
    fn a_name_that_is_not_known_is_refused_by_name() {
        let error = file("api-prot: 1\n").unwrap_err();
        assert!(error.contains("api-prot"), "{error}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let options = Options {
            name: Some("m1".into()),
            tls_san: vec!["api.example.com".into()],
            certificate_life: Some(Period::days(7)),
            ..Options::default()
        };
        let all = options.complete().unwrap();
        all.write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("certificate-life: 7d"), "{text}");
        assert!(!text.contains("join"), "{text}");
        let read = Options { config: Some(path.clone()), ..Options::default() };
        assert_eq!(read.with_file().unwrap(), Options { config: Some(path), ..all });
    }

    #[test]
    fn settings_that_cannot_be_meant_are_refused_with_the_flag() {
        let refused = |options: Options| {
            let all = options.clone().complete().unwrap();
            match all.master(&options) {
                Err(Failure::Usage(reason)) => reason,
                other => panic!("{:?} was taken", other.map(|_| options)),
            }
        };
        let one =
            |service: &str| Options { service_cidr: Some(service.into()), ..Options::default() };
        assert!(refused(one("10.42.1.0/24")).contains("overlap"));
        assert!(refused(one("10.43.0.1/16")).contains("--service-cidr"));
        assert!(refused(one("everywhere")).contains("--service-cidr"));
        let join = Options { join: Some("https://a:1".into()), ..Options::default() };
        assert!(refused(join.clone()).contains("--token"));
        assert!(refused(Options { token: Some("K1abc".into()), ..join }).contains("cut off"));
        let life = Options { certificate_life: Some(Period::seconds(1)), ..Options::default() };
        assert!(refused(life).contains("--certificate-life"));
    }

    #[test]
    fn the_api_has_the_first_address_of_the_service_range() {
        let options = Options::default();
        let settings = options.clone().complete().unwrap().master(&options).unwrap();
        assert_eq!(settings.first_service.to_string(), "10.43.0.1");
        let six = Options { service_cidr: Some("fd00:43::/112".into()), ..Options::default() };
        let settings = six.clone().complete().unwrap().master(&six).unwrap();
        assert_eq!(settings.first_service.to_string(), "fd00:43::1");
    }
}
