//! What becomes of an object, given what became of its owners. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::graph::{Dependent, FOREGROUND, ORPHAN};

/// What a fresh read says of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Exists,
    /// It is going as soon as its dependents are gone.
    Waits,
    Absent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Keep,
    /// It stays; these owners are none any more.
    Disown(Vec<String>),
    /// It goes after its own dependents. Where owners wait for each other in a circle, it has to let go of them
    /// first.
    Foreground {
        unblock: bool,
    },
    /// It goes, under this policy.
    Delete(&'static str),
}

/// Decides on an object. `owners` are its references with what became of each.
#[must_use]
pub fn verdict(
    latest: &ObjectMeta,
    owners: &[(OwnerReference, Fate)],
    dependents: &[Dependent],
) -> Verdict {
    let waits = owners.iter().any(|(_, fate)| *fate == Fate::Waits);
    if owners.is_empty() {
        return Verdict::Keep;
    }
    if owners.iter().any(|(_, fate)| *fate == Fate::Exists) {
        let lost = owners.iter().filter(|(_, fate)| *fate != Fate::Exists);
        let lost: Vec<_> = lost.map(|(owner, _)| owner.uid.clone()).collect();
        return if lost.is_empty() { Verdict::Keep } else { Verdict::Disown(lost) };
    }
    if waits && !dependents.is_empty() {
        let unblock = dependents.iter().any(|dependent| dependent.deleting_dependents);
        return Verdict::Foreground { unblock };
    }
    // What its finalizers ask for was asked for by somebody.
    let has = |wanted: &str| latest.finalizers.iter().flatten().any(|it| it == wanted);
    Verdict::Delete(if has(ORPHAN) {
        "Orphan"
    } else if has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    })
}

#[cfg(test)]
mod tests {
    use super::super::graph::Identity;
    use super::*;

    fn owners(fates: &[Fate]) -> Vec<(OwnerReference, Fate)> {
        let one = |(n, fate): (usize, &Fate)| {
            (OwnerReference { uid: format!("u{n}"), ..OwnerReference::default() }, *fate)
        };
        fates.iter().enumerate().map(one).collect()
    }

    fn dependents(deleting: &[bool]) -> Vec<Dependent> {
        let one = |it: &bool| Dependent {
            identity: Identity::default(),
            deleting_dependents: *it,
            blocks: true,
        };
        deleting.iter().map(one).collect()
    }

    #[test]
    fn an_object_stays_as_long_as_one_owner_does() {
        use Fate::{Absent, Exists, Waits};
        let plain = ObjectMeta::default();
        let table = [
            (&[][..], &[][..], Verdict::Keep),
            (&[Exists], &[], Verdict::Keep),
            (&[Exists, Absent, Waits], &[], Verdict::Disown(vec!["u1".into(), "u2".into()])),
            (&[Absent], &[], Verdict::Delete("Background")),
            (&[Absent], &[false], Verdict::Delete("Background")),
            (&[Waits], &[], Verdict::Delete("Background")),
            (&[Waits, Absent], &[false], Verdict::Foreground { unblock: false }),
            (&[Waits], &[false, true], Verdict::Foreground { unblock: true }),
        ];
        for (fates, deleting, expected) in table {
            let found = verdict(&plain, &owners(fates), &dependents(deleting));
            assert_eq!(found, expected, "{fates:?} {deleting:?}");
        }
    }

    #[test]
    fn finalizers_that_somebody_asked_for_are_honoured() {
        let with = |finalizer: &str| ObjectMeta {
            finalizers: Some(vec![finalizer.into()]),
            ..ObjectMeta::default()
        };
        let gone = owners(&[Fate::Absent]);
        assert_eq!(verdict(&with(ORPHAN), &gone, &[]), Verdict::Delete("Orphan"));
        assert_eq!(verdict(&with(FOREGROUND), &gone, &[]), Verdict::Delete("Foreground"));
    }
}
