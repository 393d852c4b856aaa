//! Names of archives, which say what they hold, and which of them go. Pure.

const EXTENSION: &str = ".kontiki";
const DIGITS: usize = 20;

/// Names in order are revisions in order.
#[must_use]
pub fn name_of(revision: u64) -> String {
    format!("{revision:0DIGITS$}{EXTENSION}")
}

/// Whether a name is that of an archive, and not of a folder that holds some.
#[must_use]
pub fn is_archive(name: &str) -> bool {
    name.ends_with(EXTENSION)
}

/// Which archives go, so that the newest `retention` stay.
#[must_use]
pub fn superfluous(names: Vec<String>, retention: usize) -> Vec<String> {
    let ours = |name: &String| {
        name.strip_suffix(EXTENSION)
            .is_some_and(|revision| revision.len() == DIGITS && revision.parse::<u64>().is_ok())
    };
    let mut names: Vec<String> = names.into_iter().filter(ours).collect();
    names.sort();
    names.truncate(names.len().saturating_sub(retention));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay_and_what_is_not_ours_is_not_touched() {
        let mut names: Vec<String> = [9, 100, 20, 3].map(name_of).into();
        names.extend(["notes.txt".into(), "1.kontiki".into()]);
        assert_eq!(superfluous(names.clone(), 2), [name_of(3), name_of(9)]);
        assert!(superfluous(names, 4).is_empty());
        assert_eq!(name_of(7), "00000000000000000007.kontiki");
    }
}
