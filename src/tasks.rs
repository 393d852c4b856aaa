//! Runs what belongs to a role: futures that the rooms hand out, each with a name and a rule.
//!
//! Keeps: everything that was started is waited for, and the reason why a process ends is the first one.
//! Never: lets a task end, or panic, unnoticed.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What the end of a task means for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The process is nothing without it: when it ends before it was told to, all is told to.
    EndsAll,
    /// It may be done before the others.
    MayEnd,
}

/// Longest that tasks may take to end after they were told to. They have shorter limits themselves.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Tasks {
    set: JoinSet<(&'static str, Rule, Result<(), String>)>,
    stop: CancellationToken,
}

impl Tasks {
    /// Tasks that end when `stop` is cancelled, each by its own copy of it.
    pub fn new(stop: CancellationToken) -> Tasks {
        Tasks { set: JoinSet::new(), stop }
    }

    pub fn start(
        &mut self,
        name: &'static str,
        rule: Rule,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        self.set.spawn(async move { (name, rule, task.await) });
    }

    /// Waits until everything has ended. The error is why, if something ended all by itself.
    pub async fn finish(mut self) -> Result<(), String> {
        let mut reason = Ok(());
        let stop = self.stop.clone();
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::pin!(deadline);
        loop {
            let ended = tokio::select! {
                ended = self.set.join_next() => ended,
                () = &mut deadline => {
                    let left = self.set.len();
                    tracing::warn!(left, "tasks have not ended in time and are dropped");
                    return reason;
                }
            };
            let Some(ended) = ended else { return reason };
            let early = !self.stop.is_cancelled();
            let failure = match ended {
                Ok((name, _, Err(error))) => Some(format!("{name}: {error}")),
                Ok((name, Rule::EndsAll, Ok(()))) if early => Some(format!("{name} has ended")),
                Ok(_) => None,
                Err(panic) => Some(format!("a task has failed: {panic}")),
            };
            if let Some(failure) = failure {
                if early {
                    reason = Err(failure);
                    self.stop.cancel();
                } else {
                    tracing::warn!(failure, "while stopping");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_must_not_end_ends_all_and_is_named() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        tasks.start("quick", Rule::MayEnd, async { Ok(()) });
        tasks.start("waiting", Rule::EndsAll, {
            let stop = stop.clone();
            async move {
                stop.cancelled().await;
                Ok(())
            }
        });
        tasks.start("needed", Rule::EndsAll, async { Ok(()) });
        assert_eq!(tasks.finish().await, Err("needed has ended".into()));
    }

    #[tokio::test]
    async fn an_error_is_the_reason_whatever_the_rule() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.start("first", Rule::MayEnd, async { Err("the disk is gone".into()) });
        assert_eq!(tasks.finish().await, Err("first: the disk is gone".into()));
    }

    #[tokio::test]
    async fn what_ends_because_it_was_told_to_is_no_failure() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(stop.clone());
        let told = stop.clone();
        tasks.start("serving", Rule::EndsAll, async move {
            told.cancelled().await;
            Ok(())
        });
        stop.cancel();
        assert_eq!(tasks.finish().await, Ok(()));
    }
}
