//! What is left on a node: ports and resources.

use super::{HostPort, NodeInfo, Refusal};
use crate::scheduler::resources::Resources;

const ANY: &str = "0.0.0.0";

/// Two pods cannot have one port of the host, unless on different addresses.
pub fn ports(wanted: &[HostPort], info: &NodeInfo) -> Result<(), Refusal> {
    let taken = |(address, protocol, number): &HostPort| {
        info.ports.iter().any(|(other, with, port)| {
            let clash = address == other || address == ANY || other == ANY;
            clash && protocol == with && number == port
        })
    };
    if wanted.iter().any(taken) {
        return Err(Refusal::of("node(s) didn't have free ports for the requested pod ports"));
    }
    Ok(())
}

/// All that is short is told at once.
pub fn resources(wanted: &Resources, info: &NodeInfo) -> Result<(), Refusal> {
    let (have, used) = (&info.allocatable, &info.requested);
    let mut short: Vec<String> = Vec::new();
    let mut never = false;
    let count = i64::try_from(info.pods_count()).unwrap_or(i64::MAX);
    if count.saturating_add(1) > info.pods_max {
        short.push("Too many pods".into());
    }
    let mut check = |name: &str, wanted: i64, have: i64, used: i64| {
        if wanted > 0 && wanted > have - used {
            short.push(format!("Insufficient {name}"));
            // More than the node has when it is empty.
            never |= wanted > have;
        }
    };
    check("cpu", wanted.cpu, have.cpu, used.cpu);
    check("memory", wanted.memory, have.memory, used.memory);
    check("ephemeral-storage", wanted.storage, have.storage, used.storage);
    for (name, amount) in &wanted.others {
        let of = |amounts: &Resources| amounts.others.get(name).copied().unwrap_or(0);
        check(name, *amount, of(have), of(used));
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(Refusal { reasons: short, preemption_may_help: !never })
}
