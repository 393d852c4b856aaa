//! Rights that change while members fall: who was told that somebody may do something, or may do it no more,
//! can rely on that at every member, and in the end all of them hold the same.

use std::time::Duration;

use etcd_client::{Client, Error, Permission, RoleRevokePermissionOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, Door, PATIENCE};
use crate::network::Member;

const ROOT: &str = "root";
const ALICE: &str = "alice";
const ROLE: &str = "writer";
const KEY: &str = "t/rights/key";
const PREFIX: &str = "t/rights/";
const ANSWER: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub struct Tried {
    pub changes: usize,
    pub kills: usize,
    /// Answers that were held against what had been told.
    pub answers: usize,
    pub violations: Vec<String>,
}

/// What a member says to Alice's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Done,
    Denied,
    /// It is down, or has no leader, or her token is too old: nothing follows from that.
    Nothing,
}

struct Bed {
    doors: Vec<Door>,
    random: StdRng,
}

impl Bed {
    fn any(&mut self) -> Door {
        self.doors[self.random.random_range(0..self.doors.len())].clone()
    }

    async fn alice(&self, member: Member, number: usize) -> Said {
        let Some(door) = self.doors.iter().find(|door| door.member == member) else {
            return Said::Nothing;
        };
        let asked = async {
            let mut client = door.connect_as(ALICE).await.ok()?;
            Some(client.put(KEY, number.to_string(), None).await)
        };
        match timeout(ANSWER, asked).await {
            Ok(Some(Ok(_))) => Said::Done,
            Ok(Some(Err(Error::GRpcStatus(status))))
                if status.message().contains("permission denied") =>
            {
                Said::Denied
            }
            _ => Said::Nothing,
        }
    }

    /// Gives Alice the right or takes it, asking one after another until it is acknowledged.
    async fn change(&mut self, may: bool) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let door = self.any();
            let asked = timeout(ANSWER, change(&door, may)).await;
            let error = match asked {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() > until {
                return Err(format!("rights cannot be changed any more: {error}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn change(door: &Door, may: bool) -> Result<(), String> {
    let mut client = door.connect_as(ROOT).await?;
    let changed = if may {
        let permission = Permission::read_write(PREFIX).with_prefix();
        client.role_grant_permission(ROLE, permission).await.map(drop)
    } else {
        let options = RoleRevokePermissionOptions::new().with_prefix();
        client.role_revoke_permission(ROLE, PREFIX, Some(options)).await.map(drop)
    };
    match changed {
        Ok(()) => Ok(()),
        // Asked before, done, and not answered.
        Err(error) if error.to_string().contains("permission is not granted") => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn enable(client: &mut Client) -> Result<(), Error> {
    for user in [ROOT, ALICE] {
        client.user_add(user, user, None).await?;
    }
    for (role, user) in [(ROOT, ROOT), (ROLE, ALICE)] {
        client.role_add(role).await?;
        client.user_grant_role(user, role).await?;
    }
    client.auth_enable().await.map(drop)
}

/// Changes rights for `time` while members are killed and started.
pub async fn rights(cluster: &mut Cluster, time: Duration, seed: u64) -> Result<Tried, String> {
    let doors: Result<Vec<Door>, String> =
        cluster.members().into_iter().map(|member| cluster.door(member)).collect();
    let mut bed = Bed { doors: doors?, random: StdRng::seed_from_u64(seed) };
    let mut first = bed.any().connect().await?;
    enable(&mut first).await.map_err(|error| format!("rights are not switched on: {error}"))?;
    let mut tried = Tried::default();
    let (mut may, mut down) = (false, None);
    let until = Instant::now() + time;
    while Instant::now() < until {
        may = !may;
        bed.change(may).await?;
        tried.changes += 1;
        for member in cluster.running() {
            let said = bed.alice(member, tried.answers).await;
            judge(&mut tried, member, may, said);
        }
        match down.take() {
            Some(member) => cluster.start_process(member)?,
            None if bed.random.random_bool(0.5) => {
                let running = cluster.running();
                let one = running[bed.random.random_range(0..running.len())];
                cluster.kill(one).await;
                tried.kills += 1;
                down = Some(one);
            }
            None => {}
        }
    }
    if let Some(member) = down {
        cluster.start_process(member)?;
    }
    at_rest(cluster, &bed, may, &mut tried).await?;
    Ok(tried)
}

fn judge(tried: &mut Tried, member: Member, may: bool, said: Said) {
    let right = if may { Said::Done } else { Said::Denied };
    if said == Said::Nothing {
        return;
    }
    tried.answers += 1;
    if said != right {
        let what = format!("m{member} says {said:?} to one who may: {may}, as had been answered");
        tried.violations.push(what);
    }
}

/// All members say the same, and hold the same.
async fn at_rest(cluster: &Cluster, bed: &Bed, may: bool, tried: &mut Tried) -> Result<(), String> {
    let mut hashes = Vec::new();
    for member in cluster.members() {
        let until = Instant::now() + PATIENCE;
        let said = loop {
            let said = bed.alice(member, tried.answers).await;
            if said != Said::Nothing || Instant::now() > until {
                break said;
            }
            sleep(Duration::from_millis(100)).await;
        };
        if said == Said::Nothing {
            return Err(format!("m{member} does not answer"));
        }
        judge(tried, member, may, said);
    }
    for member in cluster.members() {
        let mut client = cluster.door(member)?.connect_as(ROOT).await?;
        // A read that is linearizable: by then it has applied what the others have.
        client.get(KEY, None).await.map_err(|error| format!("m{member}: {error}"))?;
        let hash = client.hash_kv(0).await.map_err(|error| format!("m{member}: {error}"))?;
        hashes.push((member, hash.hash()));
    }
    if hashes.iter().any(|(_, hash)| *hash != hashes[0].1) {
        tried.violations.push(format!("members hold other things: {hashes:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Footing, Target};
    use crate::run::tests::binary;

    /// etcd #14571: members disagreed after rights were switched on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn members_agree_on_rights_that_change_while_they_fall() {
        let folder = tempfile::tempdir().unwrap();
        let number = (std::process::id() as u16) ^ 0x0a11;
        let (binary, footing) = (binary(), Footing::default());
        let mut cluster =
            Cluster::start(Target::Kontiki, &binary, folder.path(), 3, number, footing)
                .await
                .unwrap();
        let tried = rights(&mut cluster, Duration::from_secs(8), 1).await.unwrap();
        assert!(tried.violations.is_empty(), "{tried:#?}");
        assert!(tried.changes > 2 && tried.answers > 4, "{tried:?}");
    }
}
