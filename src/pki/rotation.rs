//! Replacing the CAs of a cluster, in steps between which everything goes on being believed.
//!
//! New CAs are made once, in a folder that is carried to every master. There they are first believed
//! beside the old ones, then they sign, then the old ones are forgotten. What a step wrote is taken over by
//! a master that runs when it is told to, and by others when they start (`material`).
//!
//! Keeps: every step can be repeated, and cut short and repeated. No step leaves a master whose
//! certificates one that is a step behind, or ahead, does not believe.
//! Never: lets a CA sign that is not believed yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Error;
use super::authority::{Authority, hex};
use super::files::{self, Readers};
use super::leaf::Realm;
use super::origin::FOLDER;

const REALMS: [Realm; 3] = [Realm::Cluster, Realm::Peer, Realm::Store];
const END: &str = "-----END CERTIFICATE-----";

/// Makes three CAs in a folder, which must not hold any.
pub fn create(folder: &Path, now: SystemTime) -> Result<(), Error> {
    for realm in REALMS {
        let (certificate, _) = paths(folder, realm);
        if certificate.exists() {
            return Err(Error::Unusable(format!(
                "{} is there already; choose another folder",
                certificate.display()
            )));
        }
    }
    for realm in REALMS {
        let authority = Authority::create(&format!("kontiki-{}", realm.folder()), now)?;
        files::make_folder(&folder.join(realm.folder()))?;
        let (certificate, key) = paths(folder, realm);
        files::replace(&key, authority.key_pem(), Readers::Owner)?;
        files::replace(&certificate, authority.bundle(), Readers::Everyone)?;
    }
    Ok(())
}

/// Has a master believe the CAs in `folder` beside its own.
pub fn trust(directory: &Path, folder: &Path) -> Result<(), Error> {
    for realm in REALMS {
        let new = usable(folder, realm)?;
        edit(directory, realm, |bundle| Ok(trusting(bundle, new.bundle())))?;
    }
    Ok(())
}

/// Has a master sign by the CAs in `folder`, which it believes already.
pub fn sign_by(directory: &Path, folder: &Path) -> Result<(), Error> {
    let new = REALMS.map(|realm| Ok::<_, Error>((realm, usable(folder, realm)?)));
    let new: Vec<_> = new.into_iter().collect::<Result<_, _>>()?;
    // All of it is looked at before any of it is written.
    for (realm, authority) in &new {
        let (path, _) = paths(&directory.join(FOLDER), *realm);
        if !certificates(&files::read(&path)?).contains(&first(authority.bundle())) {
            return Err(Error::Unusable(format!(
                "{} does not hold the new CA yet; run `kontiki ca trust` for every master before \
                 the first one signs by it",
                path.display()
            )));
        }
    }
    for (realm, authority) in &new {
        let (_, key) = paths(&directory.join(FOLDER), *realm);
        files::replace(&key, authority.key_pem(), Readers::Owner)?;
        edit(directory, *realm, |bundle| Ok(led_by(bundle, authority.bundle())))?;
    }
    Ok(())
}

/// Has a master believe nothing but the CAs that it signs by.
pub fn forget(directory: &Path) -> Result<(), Error> {
    for realm in REALMS {
        edit(directory, realm, |bundle| Ok(format!("{}\n", first(bundle))))?;
    }
    Ok(())
}

/// The fingerprints of the CAs in a folder, each with what it is for.
pub fn fingerprints(folder: &Path) -> Result<[(&'static str, String); 3], Error> {
    let [cluster, peer, store] =
        REALMS.map(|realm| usable(folder, realm).map(|it| (realm.folder(), hex(it.fingerprint()))));
    Ok([cluster?, peer?, store?])
}

/// The same of those by which a master signs.
pub fn signing(directory: &Path) -> Result<[(&'static str, String); 3], Error> {
    fingerprints(&directory.join(FOLDER))
}

fn usable(folder: &Path, realm: Realm) -> Result<Authority, Error> {
    let (certificate, key) = paths(folder, realm);
    Authority::from_pem(&files::read(&certificate)?, &files::read(&key)?)
}

fn edit(
    directory: &Path,
    realm: Realm,
    change: impl FnOnce(&str) -> Result<String, Error>,
) -> Result<(), Error> {
    let (path, _) = paths(&directory.join(FOLDER), realm);
    let bundle = files::read(&path)?;
    files::replace(&path, &change(&bundle)?, Readers::Everyone)
}

fn paths(folder: &Path, realm: Realm) -> (PathBuf, PathBuf) {
    let folder = folder.join(realm.folder());
    (folder.join("ca.crt"), folder.join("ca.key"))
}

/// The certificates of a bundle, one by one.
fn certificates(bundle: &str) -> Vec<&str> {
    let parts = bundle.split_inclusive(END).map(str::trim);
    parts.filter(|part| part.ends_with(END)).collect()
}

fn first(bundle: &str) -> &str {
    certificates(bundle).first().copied().unwrap_or_default()
}

/// A bundle that believes `new` as well.
fn trusting(bundle: &str, new: &str) -> String {
    let mut all = certificates(bundle);
    if !all.contains(&first(new)) {
        all.push(first(new));
    }
    all.join("\n") + "\n"
}

/// The same bundle with `new` in the first place, which is the one that signs.
fn led_by(bundle: &str, new: &str) -> String {
    let rest = certificates(bundle).into_iter().filter(|one| *one != first(new));
    let all: Vec<&str> = [first(new)].into_iter().chain(rest).collect();
    all.join("\n") + "\n"
}

/// Whether a folder holds a master's certificates at all.
#[must_use]
pub fn has_authorities(directory: &Path) -> bool {
    REALMS.iter().all(|realm| fs::exists(paths(&directory.join(FOLDER), *realm).0).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(text: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{text}\n{END}\n")
    }

    #[test]
    fn a_bundle_takes_a_ca_in_moves_it_to_the_front_and_lets_the_others_go() {
        let (old, new) = (pem("old"), pem("new"));
        let both = trusting(&old, &new);
        assert_eq!(both, format!("{old}{new}"));
        assert_eq!(trusting(&both, &new), both, "once is enough");
        let led = led_by(&both, &new);
        assert_eq!(led, format!("{new}{old}"));
        assert_eq!(led_by(&led, &new), led);
        assert_eq!(first(&led), new.trim());
    }
}
