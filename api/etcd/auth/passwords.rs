//! Hashes passwords and checks them, with argon2id, away from the tasks that serve others.
//!
//! Keeps: a hash costs 19 MiB and some milliseconds, so only a few are under way at a time, and a bounded
//! number waits. Whether a user exists cannot be told by the time it takes to be refused.

use std::sync::OnceLock;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use tokio::sync::Semaphore;
use tonic::Status;

use crate::etcd::status;

const AT_A_TIME: usize = 2;

/// Those who wait, and those who are served.
const WAITING_MAX: usize = 64;

pub(crate) struct Passwords {
    turns: Semaphore,
    places: Semaphore,
}

impl Default for Passwords {
    fn default() -> Passwords {
        Passwords { turns: Semaphore::new(AT_A_TIME), places: Semaphore::new(WAITING_MAX) }
    }
}

impl Passwords {
    pub(crate) async fn hash(&self, password: String) -> Result<String, Status> {
        self.work(move || hash(&password)).await?
    }

    /// Whether `password` is what `hashed` was made of; no hash stands for nobody.
    pub(crate) async fn verify(
        &self,
        password: String,
        hashed: Option<String>,
    ) -> Result<bool, Status> {
        self.work(move || verify(&password, hashed.as_deref())).await
    }

    async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Status> {
        let _place = self.places.try_acquire().map_err(|_| status::too_many_requests())?;
        let _turn = self.turns.acquire().await.map_err(|_| status::stopped())?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|failed| Status::internal(format!("a password was not hashed: {failed}")))
    }
}

fn hash(password: &str) -> Result<String, Status> {
    let failed = |error| Status::internal(format!("a password cannot be hashed: {error}"));
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>()).map_err(failed)?;
    let hashed = Argon2::default().hash_password(password.as_bytes(), &salt).map_err(failed)?;
    Ok(hashed.to_string())
}

fn verify(password: &str, hashed: Option<&str>) -> bool {
    // As much work as for somebody, and always in vain.
    static NOBODY: OnceLock<String> = OnceLock::new();
    let nobody = || NOBODY.get_or_init(|| hash("").unwrap_or_default()).as_str();
    let parsed = PasswordHash::new(hashed.unwrap_or_else(nobody));
    let fits = parsed.is_ok_and(|parsed| {
        Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok()
    });
    fits && hashed.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_and_nothing_else() {
        let passwords = Passwords::default();
        let hashed = passwords.hash("secret".into()).await.unwrap();
        assert!(hashed.starts_with("$argon2id$"));
        assert!(passwords.verify("secret".into(), Some(hashed.clone())).await.unwrap());
        assert!(!passwords.verify("Secret".into(), Some(hashed)).await.unwrap());
        assert!(!passwords.verify(String::new(), None).await.unwrap());
        assert!(!passwords.verify("x".into(), Some("no hash".into())).await.unwrap());
    }
}
