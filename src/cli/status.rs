//! `kontiki status`: how the cluster is, and in words what is wrong.
//!
//! Keeps: one master is asked, and through it the others are found and asked too, at the same time and
//! for a short while; who does not answer is said, not waited for.

use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use kontiki_api::cluster::wire::{Archives, Member, PREFIX, Status};
use serde::Serialize;

use super::operator::Operator;
use super::output::{Output, bytes, seconds, table};
use crate::failure::Failure;
use crate::remote::Remote;

/// How long another master may take to answer.
const OTHERS_WAIT_MAX: Duration = Duration::from_secs(2);
/// More entries behind than this is told: a follower that keeps up is a few behind.
const LAG_TOLD: u64 = 1000;
/// etcd's rule of thumb for a disk that is fast enough.
const SYNC_TOLD_MS: f64 = 100.0;

#[derive(Args)]
pub struct Show {
    #[command(flatten)]
    operator: Operator,
    #[command(flatten)]
    output: Output,
}

/// What was found out.
#[derive(Serialize)]
struct Report {
    /// The master that was asked.
    asked: Status,
    /// The others, as far as they answered.
    others: Vec<Status>,
    /// Members that are known and did not answer, with the reason.
    silent: Vec<Silent>,
    /// What is wrong, in words. Empty when all is well.
    problems: Vec<String>,
}

#[derive(Clone, Serialize)]
struct Silent {
    id: String,
    name: String,
    reason: String,
}

impl Show {
    pub async fn run(self) -> Result<(), Failure> {
        let asked: Status = self.operator.master()?.get(&format!("{PREFIX}/status")).await?;
        let remotes = self.operator.others();
        let others = asked.members.iter().filter(|member| member.id != asked.id);
        let answers = join_all(others.map(|member| async {
            let remote = remotes.as_ref().and_then(|make| make(member.api.as_deref()?));
            (member.clone(), ask(remote).await)
        }));
        let (mut statuses, mut silent) = (Vec::new(), Vec::new());
        for (member, answer) in answers.await {
            match answer {
                Ok(status) => statuses.push(status),
                Err(reason) => silent.push(Silent { id: member.id, name: member.name, reason }),
            }
        }
        let problems = problems(&asked, &statuses, &silent);
        let report = Report { asked, others: statuses, silent, problems };
        self.output.show(&report, say)
    }
}

async fn ask(remote: Option<Remote>) -> Result<Status, String> {
    let Some(remote) = remote else {
        return Err("where its API is served is not known".into());
    };
    let path = format!("{PREFIX}/status");
    match tokio::time::timeout(OTHERS_WAIT_MAX, remote.get(&path)).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", OTHERS_WAIT_MAX.as_secs())),
    }
}

/// What is wrong. Pure: the same answers give the same words.
fn problems(asked: &Status, others: &[Status], silent: &[Silent]) -> Vec<String> {
    let mut found = Vec::new();
    let voters = asked.members.iter().filter(|member| member.voter).count();
    let heard = |member: &&Member| {
        member.id == asked.id || others.iter().any(|other| other.id == member.id)
    };
    let up = asked.members.iter().filter(|member| member.voter).filter(heard).count();
    let quorum = voters / 2 + 1;
    if asked.leader.is_none() {
        found.push(format!(
            "nobody leads: {up} of {voters} voters answer, {quorum} are needed; nothing can be \
             written"
        ));
    } else if voters > 1 && up == quorum {
        found.push(format!(
            "{up} of {voters} voters answer, and {quorum} are needed: the next failure stops writes"
        ));
    }
    if voters == 2 {
        found.push("two voters are no safer than one: add a third".into());
    }
    for member in silent {
        found.push(format!(
            "{} ({}) does not answer: {}; if it is gone for good, `kontiki member remove {}`",
            member.name, member.id, member.reason, member.id
        ));
    }
    let all = || std::iter::once(asked).chain(others);
    let lead = all().find(|status| status.role == "leader");
    for member in lead.iter().flat_map(|lead| &lead.members) {
        if member.behind.is_some_and(|behind| behind > LAG_TOLD) {
            let behind = member.behind.unwrap_or_default();
            found.push(format!("{} ({}) is {behind} entries behind", member.name, member.id));
        }
    }
    for status in all() {
        let who = format!("{} ({})", status.name, status.id);
        if let Some(reason) = &status.reason {
            found.push(format!("{who} is {}: {reason}", status.role));
        }
        if status.leader != asked.leader {
            found.push(format!("{who} sees another leader than {} does", asked.name));
        }
        for alarm in &status.alarms {
            found.push(format!("{who}: {alarm}"));
        }
        if let Some(Archives { failure: Some(failure), made_ago_s, .. }) = &status.archives {
            let since = match made_ago_s {
                Some(ago) => format!("since {} ago", seconds(signed(*ago))),
                None => "since its start".to_owned(),
            };
            found.push(format!(
                "{who}: no archive was made as a whole {since}, {} turns failed: {}",
                failure.turns, failure.reason
            ));
        }
        if let Some(ms) = status.sync_p99_ms
            && ms > SYNC_TOLD_MS
        {
            found.push(format!("{who}: the disk is slow, one sync in a hundred takes {ms} ms"));
        }
        for certificate in &status.certificates {
            if certificate.expires_in_s <= 0 {
                found.push(format!("{who}: certificate {} has expired", certificate.name));
            } else if certificate.renewed_in_s < -3600 {
                found.push(format!(
                    "{who}: certificate {} expires in {} and was to be renewed before; see its log",
                    certificate.name,
                    seconds(certificate.expires_in_s)
                ));
            }
        }
    }
    found
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn say(report: &Report) -> String {
    let asked = &report.asked;
    let behind = |id: &str| {
        let lead = std::iter::once(asked).chain(&report.others).find(|it| it.role == "leader");
        let members = lead.map(|lead| &lead.members);
        members
            .into_iter()
            .flatten()
            .find(|member| member.id == id)
            .and_then(|member| member.behind)
    };
    let rows = asked.members.iter().map(|member| {
        let status = std::iter::once(asked).chain(&report.others).find(|it| it.id == member.id);
        let number = |value: Option<u64>| value.map_or("-".into(), |value| value.to_string());
        let kind = if member.voter { "unreachable" } else { "learner, unreachable" };
        let first = |status: &Status| {
            status.certificates.iter().map(|certificate| certificate.expires_in_s).min()
        };
        vec![
            member.id.clone(),
            member.name.clone(),
            status.map_or(kind.into(), |status| status.role.clone()),
            status.map_or("-", |status| if status.ready { "yes" } else { "no" }).into(),
            number(status.map(|status| status.applied)),
            number(behind(&member.id)),
            status.map_or("-".into(), |status| bytes(status.size.disk_bytes)),
            status
                .and_then(|status| status.sync_p99_ms)
                .map_or("-".into(), |ms| format!("{ms} ms")),
            status.and_then(first).map_or("-".into(), seconds),
            status.map_or("-".into(), |status| status.release.clone()),
        ]
    });
    let head = [
        "ID",
        "NAME",
        "ROLE",
        "READY",
        "APPLIED",
        "LAG",
        "SIZE",
        "SYNC P99",
        "CERTIFICATES",
        "RELEASE",
    ];
    let leader = asked.members.iter().find(|member| member.leader);
    let leader = leader.map_or("nobody leads".into(), |it| format!("{} leads", it.name));
    let summary = format!(
        "cluster {}: {leader} in term {}, revision {}",
        asked.cluster, asked.term, asked.revision
    );
    let verdict = if report.problems.is_empty() {
        "all is well".to_owned()
    } else {
        report.problems.iter().map(|problem| format!("! {problem}")).collect::<Vec<_>>().join("\n")
    };
    format!("{summary}\n\n{}\n\n{verdict}", table(&head, rows))
}

#[cfg(test)]
mod tests {
    use kontiki_api::cluster::wire::{ArchiveFailure, Certificate, Size};

    use super::*;

    fn status(id: &str, role: &str, voters: usize) -> Status {
        let member = |number: usize| Member {
            id: number.to_string(),
            name: format!("m{number}"),
            address: format!("10.0.0.{number}:2380"),
            voter: true,
            leader: number == 1,
            behind: Some(0),
            api: None,
        };
        Status {
            release: "0.1.0".into(),
            cluster: "c".into(),
            id: id.into(),
            name: format!("m{id}"),
            role: role.into(),
            reason: None,
            ready: true,
            leader: Some("1".into()),
            term: 1,
            last: 9,
            committed: 9,
            applied: 9,
            durable: 9,
            revision: 5,
            compacted: 0,
            size: Size::default(),
            uptime_s: 60,
            members: (1..=voters).map(member).collect(),
            certificates: Vec::new(),
            alarms: Vec::new(),
            sync_p99_ms: Some(2.0),
            archives: None,
            settings: None,
        }
    }

    #[test]
    fn a_healthy_cluster_has_no_problems() {
        assert!(problems(&status("1", "leader", 1), &[], &[]).is_empty());
        let others = [status("2", "follower", 3), status("3", "follower", 3)];
        assert!(problems(&status("1", "leader", 3), &others, &[]).is_empty());
    }

    #[test]
    fn what_is_wrong_is_said_in_words_with_what_to_do() {
        let silent = Silent { id: "3".into(), name: "m3".into(), reason: "no answer".into() };
        let mut asked = status("1", "leader", 3);
        asked.members[1].behind = Some(5000);
        asked.certificates.push(Certificate {
            name: "peer/member".into(),
            expires_in_s: -5,
            renewed_in_s: -9000,
        });
        let mut other = status("2", "follower", 3);
        other.sync_p99_ms = Some(512.0);
        other.archives = Some(Archives {
            every_s: 43_200,
            target: Some("s3://backups/prod".into()),
            made_ago_s: Some(7200),
            failure: Some(ArchiveFailure { reason: "no way".into(), turns: 3, ago_s: 5 }),
        });
        let words = problems(&asked, &[other], &[silent]).join("\n");
        for part in [
            "2 of 3 voters answer",
            "kontiki member remove 3",
            "m2 (2) is 5000 entries behind",
            "peer/member has expired",
            "the disk is slow",
            "m2 (2): no archive was made as a whole since 2h",
            "3 turns failed: no way",
        ] {
            assert!(words.contains(part), "{part:?} is missing in\n{words}");
        }
    }

    #[test]
    fn without_a_leader_it_says_how_many_are_missing() {
        let mut asked = status("1", "follower", 3);
        asked.leader = None;
        let silent = |id: &str| Silent { id: id.into(), name: id.into(), reason: "gone".into() };
        let words = problems(&asked, &[], &[silent("2"), silent("3")]).join("\n");
        assert!(words.contains("nobody leads: 1 of 3 voters answer, 2 are needed"), "{words}");
    }
}
