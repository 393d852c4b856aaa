//! `kontiki member`: who belongs to the replicated store.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::Method;
use kontiki_api::cluster::wire::{Member, PREFIX, Role, Status, parse_id};

use super::config;
use super::operator::Operator;
use super::output::{Output, print, table};
use super::period::Period;
use super::token;
use crate::failure::Failure;
use crate::roles::offline;

#[derive(Subcommand)]
pub enum Command {
    /// List the members
    List(List),
    /// Invite a new master, and say how to start it; it joins by itself from there
    Add(Add),
    /// Make a learner that has caught up a voter; masters that join do so by themselves
    Promote(One),
    /// Take a member out for good; its id never comes back
    Remove(One),
    /// Hand leadership to a voter
    TransferLeader(One),
    /// Make the member of this machine the only one, when the others are gone for good
    #[command(after_help = "\
What only the others had acknowledged is lost. Before: stop this master, and make sure that no other
master of the cluster runs or ever will on its old directory. After: start this one, and let others
join with empty directories.

Examples:
  kontiki member recover --data-dir /var/lib/kontiki --accept-loss")]
    Recover(Recover),
}

#[derive(Args)]
pub struct List {
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub struct Add {
    /// How long the invitation is valid
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Period,
    #[command(flatten)]
    operator: Operator,
}

#[derive(Args)]
pub struct Recover {
    /// The data directory of the master that is left [default: as `kontiki start`]
    #[arg(long, value_name = "DIR", env = "KONTIKI_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The others are gone for good, and what only they held may be lost
    #[arg(long)]
    accept_loss: bool,
}

#[derive(Args)]
pub struct One {
    /// The member's id, or its name
    member: String,
    #[command(flatten)]
    operator: Operator,
}

impl Command {
    pub async fn run(self) -> Result<(), Failure> {
        match self {
            Command::List(list) => list.run().await,
            Command::Add(add) => add.run().await,
            Command::Promote(one) => one.call(Method::POST, "/promote", "promoted").await,
            Command::Remove(one) => one.call(Method::DELETE, "", "removed").await,
            Command::Recover(recover) => recover.run(),
            Command::TransferLeader(one) => one.call(Method::POST, "/lead", "leads").await,
        }
    }
}

impl List {
    async fn run(self) -> Result<(), Failure> {
        let members: Vec<Member> =
            self.operator.master()?.get(&format!("{PREFIX}/members")).await?;
        self.output.show(&members, |members| {
            let rows = members.iter().map(|member| {
                let role = match (member.leader, member.voter) {
                    (true, _) => "leader",
                    (false, true) => "voter",
                    (false, false) => "learner",
                };
                let api = member.api.clone().unwrap_or_default();
                vec![
                    member.id.clone(),
                    member.name.clone(),
                    role.into(),
                    member.address.clone(),
                    api,
                ]
            });
            table(&["ID", "NAME", "ROLE", "PEER ADDRESS", "API"], rows)
        })
    }
}

impl Add {
    async fn run(self) -> Result<(), Failure> {
        let created = token::create(&self.operator, Role::Master, self.ttl, Some(1)).await?;
        let status: Status = self.operator.master()?.get(&format!("{PREFIX}/status")).await?;
        let own = status.members.iter().find(|member| member.id == status.id);
        let api = own.and_then(|member| member.api.clone());
        let api = api.unwrap_or_else(|| "https://HOST:6443".into());
        print(&format!("kontiki start master --join {api} --token {}", created.token))
    }
}

impl Recover {
    fn run(self) -> Result<(), Failure> {
        if !self.accept_loss {
            return Err(Failure::Usage(
                "this makes one member the whole cluster: what only the others held is lost, and \
                 their directories must never be started again; say that this is meant \
                 (--accept-loss)"
                    .into(),
            ));
        }
        let directory = self.data_dir.map_or_else(config::data_dir, Ok)?;
        let forced = offline::force(&directory)?;
        print(&format!(
            "{} holds a cluster of one member, up to entry {}; start it, and let others join with \
             empty directories",
            directory.display(),
            forced.last
        ))
    }
}

impl One {
    async fn call(self, method: Method, what: &str, done: &str) -> Result<(), Failure> {
        let master = self.operator.master()?;
        let members: Vec<Member> = master.get(&format!("{PREFIX}/members")).await?;
        let member = find(&members, &self.member).map_err(Failure::Usage)?;
        master.call(method, &format!("{PREFIX}/members/{}{what}", member.id)).await?;
        print(&format!("member {} ({}) {done}", member.id, member.name))
    }
}

/// The member that is meant: by name, or by id.
fn find<'m>(members: &'m [Member], wanted: &str) -> Result<&'m Member, String> {
    if let Some(member) = members.iter().find(|member| member.name == wanted) {
        return Ok(member);
    }
    let id = parse_id(wanted).map_err(|_| {
        format!("there is no member {wanted:?}; `kontiki member list` shows those there are")
    })?;
    members.iter().find(|member| member.id == id.to_string()).ok_or_else(|| {
        format!("there is no member {wanted}; `kontiki member list` shows those there are")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_meant_by_its_name_or_its_id() {
        let member = |id: &str, name: &str| Member {
            id: id.into(),
            name: name.into(),
            address: "10.0.0.1:2380".into(),
            voter: true,
            leader: false,
            behind: None,
            api: None,
        };
        // One is called as the other is numbered.
        let members = [member("1", "a"), member("a", "b")];
        assert_eq!(find(&members, "a").unwrap().id, "1");
        assert_eq!(find(&members, "0xa").unwrap().id, "a");
        assert_eq!(find(&members, "b").unwrap().id, "a");
        assert!(find(&members, "c").unwrap_err().contains("member list"));
    }
}
