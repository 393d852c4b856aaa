//! Clears away images that nothing uses when the disk that holds them fills up.
//!
//! Keeps: upstream's thresholds: at [`HIGH_PERCENT`] used, images go until it would be [`LOW_PERCENT`], those
//! first that were of no use for longest.
//! Never: takes away what a container was made from, what is pinned, what we have made ourselves, or what came
//! only just now: somebody is about to use it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kontiki_api::object::time::{Clock, Timestamp};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::own;
use crate::agent::cri::v1::Image;
use crate::agent::cri::{Error, Runtime};

pub const HIGH_PERCENT: u64 = 85;
pub const LOW_PERCENT: u64 = 80;
/// Since it was first seen.
const AGE_MIN_S: i64 = 120;
const LOOK: Duration = Duration::from_secs(60);

/// How a disk stands.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub bytes: u64,
    pub free_bytes: u64,
}

impl Disk {
    fn of(path: &Path) -> Option<Disk> {
        let found = rustix::fs::statvfs(path).ok()?;
        Some(Disk {
            bytes: found.f_blocks * found.f_frsize,
            free_bytes: found.f_bavail * found.f_frsize,
        })
    }

    /// Bytes that have to go; none below the threshold.
    fn excess(self) -> u64 {
        let used = self.bytes.saturating_sub(self.free_bytes);
        if used * 100 < self.bytes * HIGH_PERCENT {
            return 0;
        }
        used - self.bytes * LOW_PERCENT / 100
    }
}

/// When an image was first seen, and last seen in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    used: Timestamp,
    since: Timestamp,
}

pub struct Collector {
    runtime: Arc<dyn Runtime>,
    clock: Clock,
    records: BTreeMap<String, Record>,
    /// It has been said that nothing more can go.
    said: bool,
}

impl Collector {
    #[must_use]
    pub fn new(runtime: Arc<dyn Runtime>, clock: Clock) -> Collector {
        Collector { runtime, clock, records: BTreeMap::new(), said: false }
    }

    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
            let place = self.runtime.image_place().await.ok().flatten().and_then(|it| it.fs_id);
            let disk = place.and_then(|it| Disk::of(Path::new(&it.mountpoint)));
            let Some(disk) = disk else { continue };
            if let Err(error) = self.look(disk).await {
                tracing::debug!(%error, "images are not looked at");
            }
        }
    }

    /// Looks once, and clears away what has to go. Returns the bytes that went.
    pub async fn look(&mut self, disk: Disk) -> Result<u64, Error> {
        let (images, now) = (self.runtime.images().await?, self.clock.now());
        let containers = self.runtime.containers(None).await?;
        let names = containers
            .into_iter()
            .flat_map(|it| [it.image_ref, it.image.map(|it| it.image).unwrap_or_default()]);
        let in_use: BTreeSet<String> = names.collect();
        self.records.retain(|id, _| images.iter().any(|it| it.id == *id));
        for image in &images {
            let fresh = Record { used: Timestamp::from_seconds(0), since: now };
            let record = self.records.entry(image.id.clone()).or_insert(fresh);
            if is_used(image, &in_use) {
                record.used = now;
            }
        }
        let mut excess = disk.excess();
        let mut gone = 0;
        for image in candidates(&images, &in_use, &self.records, now) {
            if excess == 0 {
                break;
            }
            match self.runtime.remove_image(&image.id).await {
                Ok(()) => {
                    let (tags, bytes) = (&image.repo_tags, image.size);
                    tracing::info!(?tags, bytes, "an image that is not used is cleared away");
                    gone += image.size;
                    excess = excess.saturating_sub(image.size);
                }
                Err(error) => tracing::warn!(image = image.id, %error, "it does not go"),
            }
        }
        let is_new = !std::mem::replace(&mut self.said, excess > 0);
        if excess > 0 && is_new {
            let (bytes, free) = (disk.bytes, disk.free_bytes);
            tracing::warn!(bytes, free, "the disk of the images is full of what is in use");
        }
        Ok(gone)
    }
}

/// Those that may go, in the order in which they should.
fn candidates<'a>(
    images: &'a [Image],
    in_use: &BTreeSet<String>,
    records: &BTreeMap<String, Record>,
    now: Timestamp,
) -> Vec<&'a Image> {
    let may_go = |it: &&Image| {
        let ours = own::all().iter().any(|(name, _)| it.repo_tags.iter().any(|it| it == name));
        let old = records.get(&it.id).is_some_and(|it| now >= it.since.plus_seconds(AGE_MIN_S));
        !it.pinned && !ours && old && !is_used(it, in_use)
    };
    let mut all: Vec<&Image> = images.iter().filter(may_go).collect();
    all.sort_by_key(|it| records.get(&it.id).copied());
    all
}

/// Containers name their image by its id, a tag or a digest.
fn is_used(image: &Image, in_use: &BTreeSet<String>) -> bool {
    let names = image.repo_tags.iter().chain(&image.repo_digests);
    names.chain([&image.id]).any(|it| in_use.contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::cri::fake::Fake;
    use crate::agent::cri::v1;

    const DISK: Disk = Disk { bytes: 1000, free_bytes: 100 };

    fn image(id: &str, size: u64) -> Image {
        Image { id: id.into(), repo_tags: vec![format!("x/{id}:1")], size, ..Image::default() }
    }

    async fn stage() -> (Arc<Fake>, Collector, Clock) {
        let fake = Arc::new(Fake::default());
        let clock = Clock::set_at(Timestamp::from_seconds(1_700_000_000));
        let images = [
            image("used", 500),
            Image { pinned: true, ..image("pinned", 500) },
            Image { repo_tags: vec![own::DEMO.into()], ..image("ours", 500) },
            image("old", 60),
            image("older", 60),
        ];
        images.into_iter().for_each(|it| fake.have_image(it));
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "c".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "used".into(), ..v1::ImageSpec::default() }),
            ..v1::ContainerConfig::default()
        };
        fake.create_container("s", &config, &v1::PodSandboxConfig::default()).await.unwrap();
        (fake.clone(), Collector::new(fake, clock.clone()), clock)
    }

    #[tokio::test]
    async fn only_what_is_of_no_use_goes_and_no_more_than_has_to() {
        let (fake, mut collector, clock) = stage().await;
        assert_eq!(collector.look(DISK).await.unwrap(), 0, "all of it came only just now");
        clock.advance_seconds(AGE_MIN_S);
        let roomy = Disk { free_bytes: 151, ..DISK };
        assert_eq!(collector.look(roomy).await.unwrap(), 0, "there is room");
        // One that is used again for a while goes after one that is not.
        collector.records.get_mut("old").unwrap().used = clock.now();
        assert_eq!(collector.look(Disk { free_bytes: 150, ..DISK }).await.unwrap(), 60);
        assert_eq!(fake.told(), ["remove image older"]);
        clock.advance_seconds(AGE_MIN_S);
        let full = Disk { free_bytes: 0, ..DISK };
        assert_eq!(collector.look(full).await.unwrap(), 60);
        assert_eq!(collector.look(full).await.unwrap(), 0);
        let left: Vec<String> = fake.images().await.unwrap().into_iter().map(|it| it.id).collect();
        assert_eq!(left, ["used", "pinned", "ours"]);
    }
}
