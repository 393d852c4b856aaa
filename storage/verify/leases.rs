//! Leases, and the keys that stand under them. That each key which names a lease stands under it, the walk
//! over the versions sees.

use super::{ALL, Report, Rule, next, shown};
use crate::engine::{Read, Table};
use crate::error::Error;
use crate::keys;
use crate::record::LeaseId;
use crate::request::LEASE_TTL_MAX_S;
use crate::row;

pub(super) fn walk(read: &dyn Read, report: &mut Report) -> Result<(), Error> {
    let mut cursor = read.cursor(Table::Leases, ALL)?;
    while let Some((row_key, row)) = next(&mut *cursor, report)? {
        match keys::read_lease(row_key).and_then(|id| row::read_lease(id, row)) {
            Ok(lease) if lease.id.is_none() || lease.ttl_s > LEASE_TTL_MAX_S => report.find(
                Rule::Leases,
                format_args!("lease {} of {} s cannot have been granted", lease.id, lease.ttl_s),
            ),
            Ok(_) => {}
            Err(error) => report.note(Rule::Decodes, error)?,
        }
    }
    let mut cursor = read.cursor(Table::LeaseKeys, ALL)?;
    while let Some((row_key, row)) = next(&mut *cursor, report)? {
        let (Some(id), Ok(key)) = (row_key.get(..8), keys::read_lease_key(row_key)) else {
            report.find(Rule::Decodes, format_args!("key under a lease: {}", shown(row_key)));
            continue;
        };
        if !row.is_empty() {
            report.find(
                Rule::Decodes,
                format_args!("{} bytes beside {}, under a lease", row.len(), shown(key)),
            );
        }
        attached(read, keys::read_lease(id)?, key, report)?;
    }
    Ok(())
}

fn attached(read: &dyn Read, id: LeaseId, key: &[u8], report: &mut Report) -> Result<(), Error> {
    let named = read.get(Table::Live, key).and_then(|row| {
        row.map(|row| row::read_live(&row).map(|(head, _)| head.lease)).transpose()
    });
    let what = match named {
        Ok(Some(lease)) if lease == id => return Ok(()),
        Ok(Some(lease)) if lease.is_none() => "names none".to_owned(),
        Ok(Some(lease)) => format!("names {lease}"),
        Ok(None) => "does not exist".to_owned(),
        // The walk over the versions has reported it.
        Err(Error::Damaged(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    report.find(Rule::Leases, format_args!("{} stands under lease {id} but {what}", shown(key)));
    Ok(())
}
