//! What is left on a node: ports and resources.

use super::{HostPort, NodeInfo, Refusal};
use crate::reconcile::amounts::Resources;
use crate::reconcile::node_rules::clash;

/// Two pods cannot have one port of the host, unless on different addresses.
pub fn ports(wanted: &[HostPort], info: &NodeInfo) -> Result<(), Refusal> {
    if wanted.iter().any(|it| info.ports.iter().any(|other| clash(it, other))) {
        return Err(Refusal::of("node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

/// All that is short is told at once.
pub fn resources(wanted: &Resources, info: &NodeInfo) -> Result<(), Refusal> {
    let mut reasons: Vec<String> = Vec::new();
    let count = i64::try_from(info.pods_count()).unwrap_or(i64::MAX);
    if count.saturating_add(1) > info.pods_max {
        reasons.push("Too many pods".into());
    }
    let short = wanted.short(&info.requested, &info.allocatable);
    // More than the node has when it is empty.
    let never = short.iter().any(|it| it.wanted > it.have);
    reasons.extend(short.iter().map(|it| format!("Insufficient {}", it.name)));
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Refusal { reasons, preemption_may_help: !never })
}
