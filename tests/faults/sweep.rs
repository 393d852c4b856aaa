//! One call to the disk after another fails under a lone member that is written to, and every later one:
//! it must stop or refuse, and what it acknowledged must be there when its disk is well again.

use std::time::Duration;

use etcd_client::Client;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::{Cluster, PATIENCE};
use crate::network::Member;
use crate::preload::Page;

const ONE: Member = 1;
const KEY: &str = "t/sweep";
const ANSWER: Duration = Duration::from_secs(2);
/// How long a member is written to until it has met its error. What it does in the background may come later.
const TRIED: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub struct Swept {
    pub sites: usize,
    /// How often the process ended by itself.
    pub stopped: usize,
    pub violations: Vec<String>,
}

/// What was written, and up to where that was acknowledged.
#[derive(Clone, Copy, Default)]
struct Written {
    tried: u64,
    acknowledged: u64,
}

/// Lets each of the next `sites` calls fail in turn: in a member that runs, and in one that starts.
pub async fn sweep(cluster: &mut Cluster, errno: i32, sites: u32) -> Result<Swept, String> {
    let mut swept = Swept::default();
    let mut written = Written::default();
    for site in 0..sites {
        for at_start in [false, true] {
            if at_start {
                cluster.kill(ONE).await;
                page(cluster)?.fail(errno, site)?;
                cluster.start_process(ONE)?;
            } else {
                page(cluster)?.fail(errno, site)?;
            }
            swept.sites += 1;
            swept.stopped += usize::from(meets(cluster, &mut written).await);
            page(cluster)?.calm()?;
            cluster.kill(ONE).await;
            cluster.start_process(ONE)?;
            let silent = cluster.until_serving(PATIENCE).await;
            if !silent.is_empty() {
                return Err(format!(
                    "after call {site} (start: {at_start}): {}",
                    silent.join("; ")
                ));
            }
            let found = read(cluster).await?;
            if found < written.acknowledged || found > written.tried {
                swept.violations.push(format!(
                    "after call {site} (start: {at_start}) {found} is there; {} was acknowledged, \
                     {} tried",
                    written.acknowledged, written.tried
                ));
            }
            written.acknowledged = written.acknowledged.max(found);
        }
    }
    Ok(swept)
}

fn page(cluster: &Cluster) -> Result<&Page, String> {
    cluster.host(ONE).page.as_ref().ok_or_else(|| "the member has no page".to_owned())
}

/// Writes until the process ends or time is up; true where it ended.
async fn meets(cluster: &mut Cluster, written: &mut Written) -> bool {
    let until = Instant::now() + TRIED;
    let mut connection: Option<Client> = None;
    while Instant::now() < until {
        if !cluster.fallen().is_empty() {
            return true;
        }
        if connection.is_none() {
            connection = match cluster.door(ONE) {
                Ok(door) => door.connect().await.ok(),
                Err(_) => None,
            };
        }
        let Some(client) = &mut connection else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        written.tried += 1;
        let put = client.put(KEY, written.tried.to_string(), None);
        match timeout(ANSWER, put).await {
            Ok(Ok(_)) => written.acknowledged = written.tried,
            Ok(Err(_)) | Err(_) => {
                connection = None;
                sleep(Duration::from_millis(20)).await;
            }
        }
    }
    !cluster.fallen().is_empty()
}

async fn read(cluster: &Cluster) -> Result<u64, String> {
    let mut client = cluster.door(ONE)?.connect().await?;
    let got = client.get(KEY, None).await.map_err(|error| error.to_string())?;
    let Some(kv) = got.kvs().first() else { return Ok(0) };
    let text = kv.value_str().map_err(|error| error.to_string())?;
    text.parse().map_err(|error| format!("{text}: {error}"))
}
