//! What is done to a cluster: faults drawn by a seed, several at a time, each undone when its time is up.
//!
//! Keeps: the same seed draws the same faults, as far as the cluster answers alike. When `heal` returns,
//! nothing is cut, paused, full or down any more.

mod disks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::client::Doors;
use crate::cluster::{Cluster, Target};
use crate::disk;
use crate::history::{Fault, Micros, Record, Recorder};
use crate::network::Member;
use crate::run::Options;
use crate::workload::{Ground, Witnesses};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// SIGKILL of one.
    Kill,
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of all at once.
    KillAll,
    /// SIGSTOP of one, and SIGCONT later.
    Pause,
    /// SIGSTOP of the leader, for longer than an election takes.
    PauseLeader,
    /// From one to another nothing arrives.
    CutOneWay,
    /// One is cut off.
    CutOne,
    /// The leader is cut off.
    CutLeader,
    /// The members fall apart in two groups, the leader in the smaller one.
    CutMinority,
    /// Each sees only its neighbours.
    CutRing,
    /// Delay, jitter and loss.
    Slow,
    /// All connections between members are closed.
    Reset,
    /// Whoever leads is killed, again and again.
    HuntLeader,
    /// One after another is stopped as an operator does it, and started again.
    Rolling,
    /// One's disk has no byte left. Needs root.
    DiskFull,
    /// One is taken out for good and a new one let in.
    Replace,
    /// A copy of the store is saved.
    Save,
    /// History is forgotten.
    Compact,
    /// Each sync of one takes long.
    SlowDisk,
    /// Writes and syncs of one fail: it must stop by itself.
    FailingDisk,
    /// The wall clock of some jumps by an hour, forth or back, and back again.
    Clock,
    /// The power of one goes, and with it what was not synced. Needs root.
    PowerCut,
    /// The power of all goes at once. Needs root.
    PowerCutAll,
    /// What one holds is damaged while it is down.
    Damage,
    /// The same, and the leader is killed meanwhile.
    DamageAndKillLeader,
}

impl Kind {
    /// What needs no root.
    pub const USUAL: [Kind; 17] = [
        Kind::Kill,
        Kind::KillLeader,
        Kind::KillAll,
        Kind::Pause,
        Kind::PauseLeader,
        Kind::CutOneWay,
        Kind::CutOne,
        Kind::CutLeader,
        Kind::CutMinority,
        Kind::CutRing,
        Kind::Slow,
        Kind::Reset,
        Kind::HuntLeader,
        Kind::Rolling,
        Kind::Replace,
        Kind::Save,
        Kind::Compact,
    ];

    /// Members that this is done to are started with a page.
    #[must_use]
    pub fn needs_page(self) -> bool {
        matches!(self, Kind::SlowDisk | Kind::FailingDisk | Kind::Clock)
    }

    #[must_use]
    pub fn cuts_power(self) -> bool {
        matches!(self, Kind::PowerCut | Kind::PowerCutAll)
    }

    #[must_use]
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

/// What ends a fault.
enum Undo {
    Start(Vec<Member>),
    Resume(Member),
    Join(Vec<(Member, Member)>),
    Calm,
    /// What was asked of these by their pages is over; who stopped of it is started.
    Passes(Vec<Member>),
    Empty(PathBuf, Member),
    Nothing,
}

struct Active {
    fault: Fault,
    until: Instant,
    undo: Undo,
}

/// Faults that are at work at one time.
const ACTIVE_MAX: usize = 2;

/// Revisions that are written before the power goes again: where nothing was acknowledged, nothing can be lost.
/// A cluster that does not come to it in that time is cut off all the same.
const WRITTEN_BETWEEN_CUTS: u64 = 20;
const CUT_WAIT_MAX: Duration = Duration::from_secs(10);

pub struct Faults {
    kinds: Vec<Kind>,
    pause_max: Duration,
    /// What the witnesses had seen when the power went last, and when that was.
    cut: (u64, Instant),
    random: StdRng,
    recorder: Recorder,
    active: Vec<Active>,
    saved: u32,
    /// The newest copy of the store.
    pub copy: Option<PathBuf>,
    /// Members whose processes ended without having been told to.
    pub fallen: Vec<String>,
    /// Serves with a copy that was damaged: of what nobody has met yet it may fall at any time.
    hurt: Option<Member>,
    /// What an operator tried and was not given.
    pub failed: Vec<String>,
    /// How often each was begun.
    pub counts: BTreeMap<String, usize>,
    /// How often a process ended by itself, with reason or without.
    pub fell: usize,
}

impl Faults {
    #[must_use]
    pub fn new(options: &Options, recorder: Recorder) -> Faults {
        Faults {
            kinds: options.faults.clone(),
            pause_max: options.pause_max,
            cut: (0, Instant::now()),
            random: StdRng::seed_from_u64(options.seed),
            recorder,
            active: Vec::new(),
            saved: 0,
            copy: None,
            fallen: Vec::new(),
            hurt: None,
            failed: Vec::new(),
            counts: BTreeMap::new(),
            fell: 0,
        }
    }

    fn count(&mut self, what: &str) {
        *self.counts.entry(what.to_owned()).or_default() += 1;
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    fn pick(&mut self, from: &[Member]) -> Option<Member> {
        (!from.is_empty()).then(|| from[self.random.random_range(0..from.len())])
    }

    /// Lets faults begin and end until `until`.
    pub async fn run(
        &mut self,
        cluster: &mut Cluster,
        ground: &Ground,
        witnesses: &Witnesses,
        until: Instant,
    ) {
        while Instant::now() < until {
            self.look_after(cluster);
            let now = Instant::now();
            for at in (0..self.active.len()).rev() {
                if self.active[at].until <= now {
                    let ended = self.active.remove(at);
                    self.end(cluster, ended).await;
                }
            }
            if self.active.len() < ACTIVE_MAX && !self.kinds.is_empty() {
                let kind = self.kinds[self.random.random_range(0..self.kinds.len())];
                if kind.cuts_power() {
                    let (seen, at) = self.cut;
                    let reached = witnesses.reached();
                    if reached < seen + WRITTEN_BETWEEN_CUTS && at.elapsed() < CUT_WAIT_MAX {
                        sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                    self.cut = (reached, Instant::now());
                }
                self.begin(kind, cluster, ground, witnesses).await;
            }
            let pause = self.pause_max.mul_f64(self.random.random_range(0.08..1.0));
            sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// Undoes everything and starts all that are down.
    pub async fn heal(&mut self, cluster: &mut Cluster) {
        for ended in std::mem::take(&mut self.active) {
            self.end(cluster, ended).await;
        }
        cluster.network.change(|now| {
            let resets = now.resets;
            *now = crate::network::Conditions { resets, ..Default::default() };
        });
        self.look_after(cluster);
        for member in cluster.members() {
            cluster.signal(member, Signal::CONT);
            self.start(cluster, member);
        }
    }

    fn start(&mut self, cluster: &mut Cluster, member: Member) {
        if let Err(error) = cluster.start_process(member) {
            self.failed.push(error);
        }
    }

    /// Processes that ended by themselves are noted, and started again.
    pub fn look_after(&mut self, cluster: &mut Cluster) {
        for (member, how) in cluster.fallen() {
            let may = self.active.iter().any(|it| match &it.undo {
                Undo::Empty(_, on) => *on == member,
                Undo::Passes(on) => it.fault.what == "failing-disk" && on.contains(&member),
                _ => false,
            });
            let now = self.recorder.now();
            self.note("fell", vec![member], now, now);
            self.fell += 1;
            if may {
                // It is started again when its disk is well.
                continue;
            }
            if self.hurt != Some(member) {
                self.fallen.push(format!("m{member} ended: {how}"));
            }
            self.start(cluster, member);
        }
    }

    fn note(&mut self, what: &str, members: Vec<Member>, from: Micros, until: Micros) {
        let fault = Fault { what: what.to_owned(), members, from, until };
        self.recorder.add(&Record::Fault(fault));
    }

    async fn end(&mut self, cluster: &mut Cluster, active: Active) {
        match active.undo {
            Undo::Start(members) => {
                for member in members {
                    self.start(cluster, member);
                }
            }
            Undo::Resume(member) => cluster.signal(member, Signal::CONT),
            Undo::Join(pairs) => cluster.network.change(|now| {
                now.cut.retain(|pair| !pairs.contains(pair));
            }),
            Undo::Calm => cluster.network.change(|now| {
                (now.delay, now.jitter) = (Duration::ZERO, Duration::ZERO);
                now.lost_per_mille = 0;
            }),
            Undo::Passes(members) => {
                self.look_after(cluster);
                for member in members {
                    let calm = cluster.host(member).page.as_ref().map(|page| page.calm());
                    if let Some(Err(error)) = calm {
                        self.failed.push(error);
                    }
                    // What failed is not written to again by the process that saw it.
                    if active.fault.what == "failing-disk" {
                        cluster.kill(member).await;
                    }
                    self.start(cluster, member);
                }
            }
            Undo::Empty(file, member) => {
                if let Err(error) = std::fs::remove_file(&file) {
                    self.failed.push(format!("{}: {error}", file.display()));
                }
                self.start(cluster, member);
            }
            Undo::Nothing => {}
        }
        let Fault { what, members, from, .. } = active.fault;
        let now = self.recorder.now();
        self.note(&what, members, from, now);
    }

    fn cut(&mut self, cluster: &Cluster, pairs: Vec<(Member, Member)>) -> Undo {
        let closes = self.random.random_bool(0.3);
        cluster.network.change(|now| {
            now.cut.extend(pairs.iter().copied());
            now.resets += u64::from(closes);
        });
        Undo::Join(pairs)
    }

    async fn begin(
        &mut self,
        kind: Kind,
        cluster: &mut Cluster,
        ground: &Ground,
        witnesses: &Witnesses,
    ) {
        let members = cluster.members();
        let running = cluster.running();
        let Some(one) = self.pick(&running) else { return };
        let from = self.recorder.now();
        let leader = match kind {
            Kind::KillLeader | Kind::PauseLeader | Kind::CutLeader | Kind::CutMinority => {
                cluster.leader().await
            }
            _ => None,
        };
        let lead = leader.unwrap_or(one);
        let mut touched = vec![one];
        let mut lasts = self.millis(500..6000);
        let undo = match kind {
            Kind::Kill => {
                cluster.kill(one).await;
                Undo::Start(vec![one])
            }
            Kind::KillLeader => {
                touched = vec![lead];
                cluster.kill(lead).await;
                Undo::Start(vec![lead])
            }
            Kind::KillAll => {
                touched.clone_from(&running);
                running.iter().for_each(|member| cluster.signal(*member, Signal::KILL));
                for member in &running {
                    cluster.kill(*member).await;
                }
                lasts = self.millis(100..2000);
                Undo::Start(running)
            }
            Kind::Pause => {
                cluster.signal(one, Signal::STOP);
                Undo::Resume(one)
            }
            Kind::PauseLeader => {
                touched = vec![lead];
                cluster.signal(lead, Signal::STOP);
                lasts = self.millis(1500..6000);
                Undo::Resume(lead)
            }
            Kind::CutOneWay => {
                let others: Vec<Member> = members.into_iter().filter(|it| *it != one).collect();
                let Some(other) = self.pick(&others) else { return };
                touched.push(other);
                self.cut(cluster, vec![(one, other)])
            }
            Kind::CutOne => self.cut(cluster, apart(&[one], &members)),
            Kind::CutLeader => {
                touched = vec![lead];
                self.cut(cluster, apart(&[lead], &members))
            }
            Kind::CutMinority => {
                let others = members.iter().copied().filter(|it| *it != lead);
                let smaller = (members.len() - 1) / 2;
                touched = std::iter::once(lead).chain(others).take(smaller.max(1)).collect();
                self.cut(cluster, apart(&touched, &members))
            }
            Kind::CutRing => {
                touched.clone_from(&members);
                self.cut(cluster, ring(&members))
            }
            Kind::Slow => {
                touched.clone_from(&members);
                let (delay, jitter) = (self.millis(1..60), self.millis(0..60));
                let lost_per_mille = self.random.random_range(0..50);
                cluster.network.change(|now| {
                    (now.delay, now.jitter, now.lost_per_mille) = (delay, jitter, lost_per_mille);
                });
                Undo::Calm
            }
            Kind::Reset => {
                touched.clone_from(&members);
                cluster.network.change(|now| now.resets += 1);
                Undo::Nothing
            }
            Kind::HuntLeader => {
                touched = self.hunt(cluster).await;
                lasts = Duration::ZERO;
                Undo::Start(touched.clone())
            }
            Kind::Rolling => {
                touched.clone_from(&members);
                self.roll(cluster).await;
                lasts = Duration::ZERO;
                Undo::Nothing
            }
            Kind::DiskFull => match disk::fill(&cluster.host(one).directory) {
                Ok(file) => Undo::Empty(file, one),
                Err(error) => return self.failed.push(error),
            },
            Kind::SlowDisk => {
                let delay = self.millis(20..400);
                let page = cluster.host(one).page.as_ref();
                if let Some(Err(error)) = page.map(|page| page.slow(delay)) {
                    return self.failed.push(error);
                }
                Undo::Passes(vec![one])
            }
            Kind::FailingDisk => {
                if let Err(error) = self.fail_disk(cluster, one) {
                    return self.failed.push(error);
                }
                lasts = self.millis(3000..9000);
                Undo::Passes(vec![one])
            }
            Kind::Clock => {
                touched =
                    running.iter().copied().filter(|_| self.random.random_bool(0.5)).collect();
                for member in &touched {
                    let by = self.random.random_range(-3600..=3600);
                    let page = cluster.host(*member).page.as_ref();
                    if let Some(Err(error)) = page.map(|page| page.clock(by)) {
                        self.failed.push(error);
                    }
                }
                Undo::Passes(touched.clone())
            }
            Kind::PowerCut | Kind::PowerCutAll => {
                touched = if kind == Kind::PowerCut { vec![one] } else { running };
                if let Err(error) = cluster.cut_power(&touched).await {
                    self.failed.push(error);
                }
                // About as long as until the next fault, so that the next one meets members that run.
                lasts = self.pause_max.mul_f64(self.random.random_range(0.04..1.2));
                Undo::Start(touched.clone())
            }
            Kind::Damage | Kind::DamageAndKillLeader => {
                // One copy is damaged at a time, and the others are whole.
                if !self.active.is_empty() || members.len() < 3 || running.len() < members.len() {
                    return;
                }
                let leader = kind == Kind::DamageAndKillLeader;
                touched = match self.hurt.filter(|hurt| *hurt != one) {
                    Some(hurt) => self.make_whole(cluster, hurt, &ground.doors).await,
                    None => self.damage(cluster, one, leader, &ground.doors).await,
                };
                lasts = Duration::ZERO;
                Undo::Nothing
            }
            Kind::Replace => {
                // An operator does this to a cluster that is well.
                if cluster.target == Target::Etcd || !self.active.is_empty() || members.len() < 3 {
                    return;
                }
                touched = self.replace(cluster, one, &ground.doors).await;
                lasts = Duration::ZERO;
                Undo::Nothing
            }
            Kind::Save => {
                let file = cluster.root.join(format!("copy-{}", self.saved));
                self.saved += 1;
                // Asked of one that is down or cut off it fails; that is no harm.
                if cluster.save(one, &file).await.is_ok()
                    && let Some(old) = self.copy.replace(file)
                {
                    std::fs::remove_file(old).ok();
                }
                lasts = Duration::ZERO;
                Undo::Nothing
            }
            Kind::Compact => {
                let to = witnesses.reached().saturating_sub(self.random.random_range(0..200));
                if to > ground.compacted.load(Ordering::Relaxed) + 1 {
                    // Noted first: who is not answered may have been heard.
                    ground.compacted.fetch_max(to, Ordering::Relaxed);
                    ground.client(2000).compact(to).await;
                }
                lasts = Duration::ZERO;
                Undo::Nothing
            }
        };
        self.count(&kind.name());
        let fault = Fault { what: kind.name(), members: touched, from, until: from };
        self.active.push(Active { fault, until: Instant::now() + lasts, undo });
    }

    /// Kills three leaders, one after another, each as soon as it leads.
    async fn hunt(&mut self, cluster: &mut Cluster) -> Vec<Member> {
        let mut killed = Vec::new();
        for _ in 0..3 {
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until {
                if let Some(leader) = cluster.leader().await {
                    cluster.kill(leader).await;
                    if let Some(last) = killed.last() {
                        self.start(cluster, *last);
                    }
                    killed.push(leader);
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        killed
    }

    async fn roll(&mut self, cluster: &mut Cluster) {
        for member in cluster.running() {
            cluster.stop(member).await;
            self.start(cluster, member);
            let until = Instant::now() + Duration::from_secs(10);
            while Instant::now() < until && cluster.leader().await.is_none() {
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    async fn replace(&mut self, cluster: &mut Cluster, old: Member, doors: &Doors) -> Vec<Member> {
        doors.lock().retain(|door| door.member != old);
        match cluster.replace(old).await {
            Ok(fresh) => {
                if let Ok(door) = cluster.door(fresh) {
                    doors.lock().push(door);
                }
                vec![old, fresh]
            }
            Err(error) => {
                self.failed.push(format!("replacing m{old}: {error}"));
                if !cluster.host(old).gone
                    && let Ok(door) = cluster.door(old)
                {
                    doors.lock().push(door);
                }
                vec![old]
            }
        }
    }
}

/// All ways between a group and the rest.
fn apart(group: &[Member], members: &[Member]) -> Vec<(Member, Member)> {
    let (inside, outside): (Vec<Member>, Vec<Member>) =
        members.iter().partition(|member| group.contains(member));
    inside.iter().flat_map(|a| outside.iter().flat_map(move |b| [(*a, *b), (*b, *a)])).collect()
}

/// All ways but those between neighbours. Of three, each sees one other, and is not seen by it.
fn ring(members: &[Member]) -> Vec<(Member, Member)> {
    let count = members.len();
    let neighbours: BTreeSet<(Member, Member)> = (0..count)
        .flat_map(|at| {
            let (one, next) = (members[at], members[(at + 1) % count]);
            if count > 3 { vec![(one, next), (next, one)] } else { vec![(one, next)] }
        })
        .collect();
    let pairs = members.iter().flat_map(|a| members.iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| a != b && !neighbours.contains(&(*a, *b))).collect()
}

#[cfg(test)]
mod tests {
    use super::{apart, ring};

    #[test]
    fn groups_are_cut_both_ways_and_rings_leave_neighbours() {
        assert_eq!(apart(&[1], &[1, 2, 3]), [(1, 2), (2, 1), (1, 3), (3, 1)]);
        assert_eq!(apart(&[1, 2], &[1, 2, 3, 4, 5]).len(), 12);
        assert_eq!(ring(&[1, 2, 3]), [(1, 3), (2, 1), (3, 2)]);
        assert_eq!(ring(&[1, 2, 3, 4, 5]).len(), 10);
    }
}
