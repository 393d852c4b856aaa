//! Tokens that pods were given, on disk: for the time when no master can give another.
//!
//! Keeps: the file is read by its owner alone. A token is kept as long as its pod is assigned, even past
//! its end: a pod that has to be started without a master gets what it had, and a new one as soon as there
//! is one.
//! Never: gives a kept token where a master has said no.

use std::collections::BTreeMap;
use std::path::PathBuf;

use kontiki_api::object::time::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::masters::{Token, TokenWanted};
use crate::pki::{self, Readers};

/// By the pod's uid and what was wanted.
type All = BTreeMap<String, BTreeMap<String, Kept>>;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    token: String,
    /// Microseconds since 1970.
    expires: i64,
}

/// The tokens of this node's pods.
#[derive(Debug)]
pub struct Tokens {
    /// Where they are kept; none: nowhere.
    file: Option<PathBuf>,
    all: Mutex<All>,
}

fn named(wanted: &TokenWanted) -> String {
    let audience = wanted.audience.as_deref().unwrap_or_default();
    format!("{} {audience} {}", wanted.account, wanted.seconds)
}

impl Tokens {
    /// What can be read of the file; what cannot is asked for again.
    #[must_use]
    pub fn read(file: Option<PathBuf>) -> Tokens {
        let text = file.as_deref().and_then(|file| std::fs::read_to_string(file).ok());
        let all = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        Tokens { file, all: Mutex::new(all) }
    }

    #[must_use]
    pub fn of(&self, pod: &str, wanted: &TokenWanted) -> Option<Token> {
        let all = self.all.lock();
        let kept = all.get(pod)?.get(&named(wanted))?;
        let expires = Timestamp::from_micros(kept.expires);
        Some(Token { token: kept.token.clone(), expires })
    }

    /// Keeps a token, and those of pods that are `assigned`.
    pub async fn keep(
        &self,
        pod: &str,
        wanted: &TokenWanted,
        token: &Token,
        assigned: impl Fn(&str) -> bool,
    ) {
        let text = {
            let mut all = self.all.lock();
            all.retain(|other, _| other == pod || assigned(other));
            let kept = Kept { token: token.token.clone(), expires: token.expires.as_micros() };
            all.entry(pod.to_owned()).or_default().insert(named(wanted), kept);
            serde_json::to_string(&*all)
        };
        let (Some(file), Ok(text)) = (self.file.clone(), text) else { return };
        let write = move || {
            if let Some(folder) = file.parent() {
                pki::make_folder(folder)?;
            }
            pki::replace(&file, text, Readers::Owner)
        };
        match tokio::task::spawn_blocking(write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a token is not kept"),
            Err(error) => tracing::warn!(%error, "a token is not kept"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn tokens_are_there_after_a_restart_until_their_pod_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("assigned/tokens");
        let wanted = |seconds| TokenWanted { account: "a".into(), audience: None, seconds };
        let token = |text: &str| Token { token: text.into(), expires: Timestamp::from_seconds(9) };
        let tokens = Tokens::read(Some(file.clone()));
        tokens.keep("one", &wanted(1), &token("x"), |_| true).await;
        tokens.keep("two", &wanted(1), &token("y"), |_| true).await;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let tokens = Tokens::read(Some(file.clone()));
        assert_eq!(tokens.of("one", &wanted(1)).unwrap().token, "x");
        assert!(tokens.of("one", &wanted(2)).is_none());
        tokens.keep("two", &wanted(1), &token("z"), |pod| pod != "one").await;
        let tokens = Tokens::read(Some(file));
        assert!(tokens.of("one", &wanted(1)).is_none());
        assert_eq!(tokens.of("two", &wanted(1)).unwrap().token, "z");
    }
}
