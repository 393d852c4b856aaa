//! What masters, joiners and operators say to each other: JSON over HTTPS below `/kontiki/v1`.
//!
//! Keeps: ids are hexadecimal text, as people see them everywhere. Fields are added, never renamed: an
//! operator's binary may be older or newer than the master it speaks to.

use std::fmt;
use std::str::FromStr;

use kontiki_raft::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

/// Where the routes of this front begin.
pub const PREFIX: &str = "/kontiki/v1";

/// The header that says about how long an archive will be, for those who show progress.
pub const SNAPSHOT_BYTES: &str = "kontiki-snapshot-bytes";
/// The revision it shows, in its header.
pub const SNAPSHOT_REVISION: &str = "kontiki-snapshot-revision";

/// Why a request came to nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Refusal {
    pub error: String,
}

/// What a token lets its holder become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Master,
    Node,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Master => "master",
            Role::Node => "node",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        match text {
            "master" => Ok(Role::Master),
            "node" => Ok(Role::Node),
            other => Err(format!("{other:?} is no role; give master or node")),
        }
    }
}

/// Asks for a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenRequest {
    pub role: Role,
    pub ttl_s: i64,
    /// How often it can be used; `None` for as often as one likes while it lasts.
    pub uses: Option<u64>,
}

/// A token, the one time that its secret is shown.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenCreated {
    pub token: String,
    #[serde(flatten)]
    pub about: TokenInfo,
}

/// What can be said of a token without giving it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    pub id: String,
    pub role: Role,
    pub uses_left: Option<u64>,
    pub expires_in_s: i64,
}

/// What must be alike on all masters; decided when the cluster is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterSettings {
    pub service_cidr: String,
    pub cluster_cidr: String,
}

/// A new master introduces itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinMaster {
    pub name: String,
    /// Where the others will reach its peer port.
    pub peer_address: String,
    pub release: String,
}

/// All that a new master needs to become one. It carries the CAs' keys.
#[derive(Clone, Serialize, Deserialize)]
pub struct MasterJoined {
    pub cluster: String,
    pub node: String,
    pub members: Vec<Address>,
    pub settings: ClusterSettings,
    pub authorities: Authorities,
}

/// The CAs of a cluster, each a bundle of certificates with the key of its first.
#[derive(Clone, Serialize, Deserialize)]
pub struct Authorities {
    pub cluster: Authority,
    pub peer: Authority,
    pub store: Authority,
    /// The key by which service account tokens are signed, as PEM.
    pub service_account_key: String,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Authority {
    pub bundle: String,
    pub key: String,
}

/// A node asks for its certificate; its name is what the certificate will say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinNode {
    pub name: String,
    /// A signing request, as PEM. What it says of names and uses is not looked at.
    pub request: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeJoined {
    pub certificate: String,
    /// The CA by which masters prove themselves to nodes.
    pub ca: String,
    /// Where masters serve, as URLs.
    pub masters: Vec<String>,
    pub settings: ClusterSettings,
}

/// Where a member is reached by the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub id: String,
    pub name: String,
    pub address: String,
}

/// A master as it has entered itself for the others to find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterRecord {
    pub id: String,
    pub name: String,
    /// Where its API is served, as a URL.
    pub api: String,
    pub release: String,
}

/// A member of the replicated store, as the agreed membership has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub id: String,
    pub name: String,
    pub address: String,
    pub voter: bool,
    pub leader: bool,
    /// Entries behind the leader, where the leader was asked.
    pub behind: Option<u64>,
    /// Where its API is served, if it has told.
    pub api: Option<String>,
}

/// What one master says of itself and of what it sees.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub release: String,
    pub cluster: String,
    pub id: String,
    pub name: String,
    /// leader, follower, learner, candidate, removed or stopped.
    pub role: String,
    /// Why it stopped, if it did.
    pub reason: Option<String>,
    pub ready: bool,
    pub leader: Option<String>,
    pub term: u64,
    pub last: u64,
    pub committed: u64,
    pub applied: u64,
    pub durable: u64,
    pub revision: u64,
    pub compacted: u64,
    pub size: Size,
    pub uptime_s: u64,
    pub members: Vec<Member>,
    pub certificates: Vec<Certificate>,
    pub alarms: Vec<String>,
    /// The 99th percentile of the log's syncs, in milliseconds: an upper bound, by buckets.
    pub sync_p99_ms: Option<f64>,
    /// The archives that are made by schedule; absent where none are.
    #[serde(default)]
    pub archives: Option<Archives>,
    pub settings: Option<ClusterSettings>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Size {
    pub disk_bytes: u64,
    pub memory_bytes: u64,
}

/// How the archives fare that a master makes by schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archives {
    pub every_s: u64,
    /// Where the one that leads copies them.
    pub target: Option<String>,
    /// Since the last turn that was done as a whole; absent before the first.
    pub made_ago_s: Option<u64>,
    /// What the last turn failed by, if it did.
    pub failure: Option<ArchiveFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveFailure {
    pub reason: String,
    /// Turns that have failed one after the other.
    pub turns: u64,
    /// Since the last of them.
    pub ago_s: u64,
}

/// A certificate in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    pub name: String,
    pub expires_in_s: i64,
    /// When it will be replaced.
    pub renewed_in_s: i64,
}

/// The CAs of one kind as a master uses them, by their fingerprints (SHA-256, hexadecimal).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trust {
    /// `cluster`, `peer` or `store`.
    pub name: String,
    /// The one that signs.
    pub signs: String,
    /// All whose certificates are believed.
    pub believed: Vec<String>,
}

/// The CA by which the API proves itself, as a bundle: for those who believe one of it already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterCa {
    pub ca: String,
}

/// Writes an id as everyone sees it.
#[must_use]
pub fn id_of(id: NodeId) -> String {
    id.to_string()
}

/// Reads an id as it is printed.
pub fn parse_id(text: &str) -> Result<NodeId, String> {
    match u64::from_str_radix(text.trim_start_matches("0x"), 16) {
        Ok(id) if id != 0 => Ok(NodeId(id)),
        _ => Err(format!("{text:?} is no member id; `kontiki member list` shows them")),
    }
}

pub fn parse_cluster(text: &str) -> Result<ClusterId, String> {
    match u64::from_str_radix(text, 16) {
        Ok(id) if id != 0 => Ok(ClusterId(id)),
        _ => Err(format!("{text:?} is no cluster id")),
    }
}
