//! Many watchers of the same pods while those change.
//!
//! Keeps: every watcher has had every event before a figure counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use http::Method;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::client::{Ask, Lines};
use super::figures::{Beside, Figures, Goal};
use super::master::Master;
use super::objects::{after, changed, namespace, pod, pods};
use crate::Failure;
use crate::load::{Done, Servers};
use crate::options::Options;

/// Pods that change in turn, so that no update waits for the one before.
const PODS: usize = 50;
const CONNECTIONS: usize = 50;
/// Where they are: nothing else is watched.
const WATCHED: &str = "watched";
const CATCH_UP: Duration = Duration::from_secs(60);

/// What the watchers have been told.
struct Told {
    events: AtomicU64,
    /// From the update until a watcher has it, by one watcher of each connection.
    latency: Mutex<Histogram<u64>>,
    began: Instant,
}

pub async fn measure(
    options: &Options,
    master: &Master,
    figures: &mut Figures,
) -> Result<(), Failure> {
    if !options.wants("watch") {
        return Ok(());
    }
    namespace(master, WATCHED).await?;
    let mut client = master.client().await?;
    let mut bodies = Vec::new();
    for number in 0..PODS {
        let path = pods(WATCHED);
        let body = pod(&format!("w-{number}"), 1, 0).to_string();
        bodies.push(client.ask(Ask::post(path, body)).await?);
    }
    let mut bodies: Vec<String> =
        bodies.iter().map(|body| String::from_utf8_lossy(body).into_owned()).collect();
    for &watchers in &options.watchers {
        let rates: &[u32] = if watchers > 1000 { &[10] } else { &[100, 500] };
        let before = master.resident_mib();
        let told = Arc::new(Told {
            events: AtomicU64::new(0),
            latency: Mutex::new(Done::default().latency),
            began: Instant::now(),
        });
        let tasks = open(master, watchers, &told).await?;
        sleep(Duration::from_secs(1)).await;
        let each = (master.resident_mib() - before) * 1024.0 / watchers as f64;
        let what = format!("memory for each of {watchers} watchers");
        figures.once(&what, each, "KiB", None, None);
        for &rate in rates {
            let done = updates(options, master, &told, watchers, rate, &mut bodies).await?;
            // Of as much as there is to be told in ten seconds, however long it took here.
            let seconds = done.count as f64 / watchers as f64 / f64::from(rate);
            let what = format!("watch: {rate} updates/s");
            let known = watchers == 1000 && rate == 100;
            let cpu = done.processor.as_secs_f64() / seconds * 10.0;
            figures.rate(&what, watchers, done, Beside::default(), None);
            let what = format!("CPU of 10 s with {watchers} watchers, {rate} updates/s");
            let goal = known.then_some(Goal::Below(1.5));
            figures.once(&what, cpu, "s", known.then_some(11.3), goal);
        }
        drop(tasks);
    }
    Ok(())
}

/// All of them, each told of the pods as they are before this returns.
async fn open(
    master: &Master,
    watchers: usize,
    told: &Arc<Told>,
) -> Result<JoinSet<Result<(), Failure>>, Failure> {
    let connections = master.access.connections(CONNECTIONS).await?;
    let mut tasks = JoinSet::new();
    for at in 0..watchers {
        let mut client = connections[at % CONNECTIONS].clone();
        let mut lines = client.watch(format!("{}?watch=true", pods(WATCHED))).await?;
        let (told, timed) = (told.clone(), at < CONNECTIONS);
        tasks.spawn(async move {
            for _ in 0..PODS {
                lines.next().await?;
            }
            follow(lines, &told, timed).await
        });
    }
    Ok(tasks)
}

async fn follow(mut lines: Lines, told: &Told, timed: bool) -> Result<(), Failure> {
    loop {
        let line = lines.next().await?;
        told.events.fetch_add(1, Ordering::Relaxed);
        let text = timed.then(|| std::str::from_utf8(&line)).transpose()?;
        let sent = text.and_then(|text| after(text, "\"bench/at\":\"")?.parse::<u64>().ok());
        if let Some(sent) = sent {
            let now = told.began.elapsed().as_micros() as u64;
            told.latency.lock().saturating_record(now.saturating_sub(sent));
        }
    }
}

/// So many updates a second for a while; all watchers have them when it returns.
async fn updates(
    options: &Options,
    master: &Master,
    told: &Arc<Told>,
    watchers: usize,
    rate: u32,
    bodies: &mut [String],
) -> Result<Done, Failure> {
    let clients = master.access.clients(PODS).await?;
    let events_before = told.events.load(Ordering::Relaxed);
    told.latency.lock().reset();
    let total = (options.duration().as_secs_f64() * 2.0 * f64::from(rate)) as u64;
    let mut beat = interval(Duration::from_secs(1) / rate);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (began, before) = (Instant::now(), master.processor());
    let mut under_way = JoinSet::new();
    for number in 0..total {
        beat.tick().await;
        let at = number as usize % PODS;
        // A pod's last update has to be back before its next.
        while under_way.len() >= PODS {
            let (at, body): (usize, String) =
                under_way.join_next().await.ok_or("nothing is under way")???;
            bodies[at] = body;
        }
        while bodies[at].is_empty() {
            let (at, body) = under_way.join_next().await.ok_or("nothing is under way")???;
            bodies[at] = body;
        }
        let body = std::mem::take(&mut bodies[at]);
        let (mut client, told) = (clients[at].clone(), told.clone());
        under_way.spawn(async move {
            let path = format!("{}/w-{at}", pods(WATCHED));
            let body = changed(&body, told.began.elapsed().as_micros())?;
            let ask = Ask { method: Method::PUT, ..Ask::post(path, body) };
            let answer = client.ask(ask).await?;
            Ok::<_, Failure>((at, String::from_utf8_lossy(&answer).into_owned()))
        });
    }
    while let Some(ended) = under_way.join_next().await {
        let (at, body) = ended??;
        bodies[at] = body;
    }
    let wanted = events_before + total * watchers as u64;
    let until = Instant::now() + CATCH_UP;
    while told.events.load(Ordering::Relaxed) < wanted {
        if Instant::now() > until {
            let there = told.events.load(Ordering::Relaxed);
            return Err(format!("{} events did not come", wanted - there).into());
        }
        sleep(Duration::from_millis(5)).await;
    }
    let (wall, processor) = (began.elapsed(), master.processor().saturating_sub(before));
    let latency = told.latency.lock().clone();
    Ok(Done { count: total * watchers as u64, wall, processor, latency })
}
