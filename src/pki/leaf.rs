//! The certificates that a master holds, and what each says.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use kontiki_raft::network::grpc::{Identity, node_name};

use super::authority::{Subject, Usage};

/// For people who put their kubeconfig somewhere and forget it.
pub const ADMINISTRATOR_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// A node's own certificate; its agent renews it.
pub const NODE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The organization of those who may do everything.
pub const ADMINISTRATORS: &str = "system:masters";

/// Which CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Realm {
    Cluster,
    Peer,
    Store,
}

impl Realm {
    #[must_use]
    pub fn folder(self) -> &'static str {
        match self {
            Realm::Cluster => "cluster",
            Realm::Peer => "peer",
            Realm::Store => "store",
        }
    }
}

/// A certificate that a master holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaf {
    Server,
    Administrator,
    Member,
    StoreServer,
    StoreClient,
}

/// Where a master is reached, as certificates have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    pub hostname: String,
    pub addresses: Vec<IpAddr>,
    /// The first address of the service range: the API as pods see it.
    pub service: IpAddr,
    /// Names that the user added.
    pub more: Vec<String>,
}

impl Leaf {
    pub const ALL: [Leaf; 5] =
        [Leaf::Server, Leaf::Administrator, Leaf::Member, Leaf::StoreServer, Leaf::StoreClient];

    #[must_use]
    pub fn realm(self) -> Realm {
        match self {
            Leaf::Server | Leaf::Administrator => Realm::Cluster,
            Leaf::Member => Realm::Peer,
            Leaf::StoreServer | Leaf::StoreClient => Realm::Store,
        }
    }

    /// The name of its files.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Leaf::Server | Leaf::StoreServer => "server",
            Leaf::Administrator => "admin",
            Leaf::Member => "member",
            Leaf::StoreClient => "client",
        }
    }

    /// As `kontiki status` calls it.
    #[must_use]
    pub fn path(self) -> String {
        format!("{}/{}", self.realm().folder(), self.file())
    }

    /// How long it is good for, where those of ports are good for `life`.
    #[must_use]
    pub fn life(self, life: Duration) -> Duration {
        match self {
            Leaf::Server | Leaf::Member | Leaf::StoreServer => life,
            Leaf::Administrator | Leaf::StoreClient => ADMINISTRATOR_LIFE.max(life),
        }
    }

    #[must_use]
    pub fn subject(self, hosts: &Hosts, identity: Identity) -> Subject {
        match self {
            Leaf::Server => Subject {
                common_name: "kube-apiserver".into(),
                organization: None,
                names: hosts.api_names(),
                use_as: Usage::Server,
            },
            Leaf::Administrator => Subject {
                common_name: "kubernetes-admin".into(),
                organization: Some(ADMINISTRATORS.into()),
                names: Vec::new(),
                use_as: Usage::Client,
            },
            Leaf::Member => Subject {
                common_name: node_name(identity),
                organization: None,
                names: vec![node_name(identity)],
                use_as: Usage::Both,
            },
            Leaf::StoreServer => Subject {
                common_name: "kontiki-store".into(),
                organization: None,
                names: hosts.names(),
                use_as: Usage::Server,
            },
            // With users in the etcd front, a certificate's common name is the user. Whoever has this
            // one must be able to put things right.
            Leaf::StoreClient => Subject {
                common_name: "root".into(),
                organization: None,
                names: Vec::new(),
                use_as: Usage::Client,
            },
        }
    }
}

/// What a node's certificate says.
#[must_use]
pub fn node_subject(name: &str) -> Subject {
    Subject {
        common_name: format!("system:node:{name}"),
        organization: Some("system:nodes".into()),
        names: Vec::new(),
        use_as: Usage::Client,
    }
}

impl Hosts {
    fn names(&self) -> Vec<String> {
        let mut names: BTreeSet<String> =
            ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        names.insert(self.hostname.clone());
        names.extend(self.addresses.iter().map(ToString::to_string));
        names.extend(self.more.iter().cloned());
        names.into_iter().collect()
    }

    fn api_names(&self) -> Vec<String> {
        let mut names = self.names();
        names.push(self.service.to_string());
        names.extend(
            [
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ]
            .map(str::to_owned),
        );
        names
    }
}
