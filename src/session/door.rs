//! The way to masters: which there are, and a connection to one of them.

use std::sync::Arc;

use kontiki_api::node::Channel;
use parking_lot::Mutex;
use rustls::ClientConfig;

pub(super) const MASTERS_MAX: usize = 16;

/// The way to masters.
pub enum Door {
    /// There is one in this process.
    Here(Channel),
    There(Masters),
}

/// Masters that are reached by a wire.
pub struct Masters {
    /// `https://HOST:PORT` each.
    servers: Mutex<Vec<String>>,
    tls: Arc<ClientConfig>,
    /// An administrator's certificate, which says for which node it speaks.
    speaking_for: Option<String>,
    /// Is told of masters that were not known.
    learned: Option<Learned>,
}

type Learned = Box<dyn Fn(&[String]) + Send + Sync>;

impl Door {
    pub(super) async fn channel(&self, turn: usize) -> Result<Channel, String> {
        match self {
            Door::Here(channel) => Ok(channel.clone()),
            Door::There(masters) => masters.channel(turn).await,
        }
    }

    /// Takes over where masters are, as a master has told it.
    pub(super) fn learn(&self, told: &[String]) {
        if let Door::There(masters) = self {
            masters.learn(told);
        }
    }
}

impl Masters {
    /// `tls` says who we are: the node.
    #[must_use]
    pub fn new(servers: Vec<String>, tls: Arc<ClientConfig>) -> Masters {
        Masters { servers: Mutex::new(servers), tls, speaking_for: None, learned: None }
    }

    /// With an administrator's certificate.
    #[must_use]
    pub fn speaking_for(self, node: &str) -> Masters {
        Masters { speaking_for: Some(node.to_owned()), ..self }
    }

    /// `learned` is told of all masters whenever there is a new one.
    #[must_use]
    pub fn with_learned(self, learned: impl Fn(&[String]) + Send + Sync + 'static) -> Masters {
        Masters { learned: Some(Box::new(learned)), ..self }
    }

    async fn channel(&self, turn: usize) -> Result<Channel, String> {
        let server = {
            let servers = self.servers.lock();
            servers.get(turn % servers.len().max(1)).cloned().ok_or("no master is known")?
        };
        let connected = Channel::connect(&server, &self.tls).await;
        let channel = connected.map_err(|why| format!("{server}: {why}"))?;
        match &self.speaking_for {
            Some(node) => channel.speaking_for(node),
            None => Ok(channel),
        }
    }

    fn learn(&self, told: &[String]) {
        let all = {
            let mut servers = self.servers.lock();
            // Those that were given stay: who has moved is found by them.
            let new = told.iter().filter(|it| !servers.contains(it)).cloned();
            let room = MASTERS_MAX.saturating_sub(servers.len());
            let new: Vec<String> = new.take(room).collect();
            if new.is_empty() {
                return;
            }
            servers.extend(new);
            servers.clone()
        };
        if let Some(learned) = &self.learned {
            learned(&all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Trust, client_config};

    #[test]
    fn masters_that_are_told_of_are_added_to_those_that_were_given_and_remembered() {
        let tls = client_config(Trust::Fingerprint([0; 32]), None).unwrap();
        let remembered = Arc::new(Mutex::new(Vec::new()));
        let masters = Masters::new(vec!["https://a:1".into()], tls).with_learned({
            let remembered = remembered.clone();
            move |all| *remembered.lock() = all.to_vec()
        });
        masters.learn(&["https://a:1".to_owned()]);
        assert_eq!(remembered.lock().len(), 0, "it was known");
        masters.learn(&["https://b:1".to_owned(), "https://a:1".to_owned()]);
        let many: Vec<String> = (0..100).map(|port| format!("https://c:{port}")).collect();
        masters.learn(&many);
        let remembered = remembered.lock();
        assert_eq!(remembered[..3], ["https://a:1", "https://b:1", "https://c:0"]);
        assert_eq!(remembered.len(), MASTERS_MAX);
    }
}
