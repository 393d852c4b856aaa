//! Many watches on one stream that is read slowly: none of them may lose anything to the others.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Client, notice, watch_options};
use crate::history::Session;

impl Client {
    /// Watches as all `sessions` say, on one stream, for `life`; rests for `pause` after each message.
    pub async fn crowd(
        &mut self,
        mut sessions: Vec<Session>,
        life: Duration,
        pause: Duration,
    ) -> Vec<Session> {
        let Ok((member, mut connection)) = self.connection().await else { return Vec::new() };
        let recorder = self.recorder.clone();
        let watching = async {
            let mut stream = None;
            for (number, session) in (1..).zip(&mut sessions) {
                session.member = member;
                let options = Some(watch_options(session).with_watch_id(number));
                let key = session.prefix.clone();
                match &mut stream {
                    None => stream = Some(connection.watch(key, options).await.ok()?),
                    Some(stream) => stream.watch(key, options).await.ok()?,
                }
            }
            let mut stream = stream?;
            while let Ok(Some(message)) = stream.message().await {
                let of = usize::try_from(message.watch_id() - 1).ok();
                if let Some(session) = of.and_then(|of| sessions.get_mut(of)) {
                    session.notices.push(notice(&message, recorder.now()));
                }
                sleep(pause).await;
            }
            Some(())
        };
        timeout(life, watching).await.ok();
        // The stream goes with the connection.
        self.forget_connection();
        sessions
    }
}
