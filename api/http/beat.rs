//! The beat at which watches are told, when they are many.
//!
//! To wake a watch, frame what it is told and send it costs nearly the same for one event as for ten. So the
//! more watches are open, the longer one that was just told waits before it is told again, and all wait for the
//! same moments, so that those of one connection go out together.
//!
//! Keeps: a watch that was quiet is told at once, and so is everyone as long as few watch. Nothing is lost or
//! reordered by waiting: a watch is a cursor. What many are told at a beat is put together once: while they are
//! told more happens, so that some of them have more to hear than others, and at the next beat less.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

/// So many watches make the beat a millisecond longer.
const WATCHES_A_MILLISECOND: usize = 20;
/// Nobody who watches notices it; a thousand watches of objects that change a hundred times a second are woken
/// a fifth as often.
const BEAT_MAX: Duration = Duration::from_millis(50);
/// So many pieces are kept for the next who is told the same. A front makes them of about 64 KiB.
const JOINED_MAX: usize = 16;

pub(super) struct Beat {
    begun: Instant,
    open: AtomicUsize,
    /// What was put together last, the newest first.
    joined: Mutex<VecDeque<Joined>>,
}

struct Joined {
    frames: Vec<Bytes>,
    whole: Bytes,
}

/// A watch among those that are counted, as long as it lives.
pub(super) struct Beating(Arc<Beat>);

impl Beat {
    pub(super) fn new() -> Arc<Beat> {
        let (begun, open, joined) = (Instant::now(), AtomicUsize::new(0), Mutex::default());
        Arc::new(Beat { begun, open, joined })
    }

    pub(super) fn join(self: &Arc<Self>) -> Beating {
        self.open.fetch_add(1, Ordering::Relaxed);
        Beating(self.clone())
    }
}

impl Beating {
    /// Before when one that was told at `now` is not told again; `None`: it need not wait.
    pub(super) fn rest(&self, now: Instant) -> Option<Instant> {
        let Beat { begun, open, .. } = &*self.0;
        let beat = beat(open.load(Ordering::Relaxed));
        Some(*begun + until(now.saturating_duration_since(*begun), beat)?)
    }
}

impl Beating {
    /// Frames as one piece, which the next who is told the very same has from here.
    pub(super) fn join(&self, frames: Vec<Bytes>) -> Bytes {
        if let [one] = &frames[..] {
            return one.clone();
        }
        let found = |joined: &VecDeque<Joined>| {
            joined.iter().find(|it| it.is_of(&frames)).map(|it| it.whole.clone())
        };
        if let Some(whole) = found(&self.0.joined.lock()) {
            return whole;
        }
        let whole: Bytes = frames.concat().into();
        let mut joined = self.0.joined.lock();
        if let Some(whole) = found(&joined) {
            return whole;
        }
        joined.truncate(JOINED_MAX - 1);
        joined.push_front(Joined { frames, whole: whole.clone() });
        whole
    }
}

impl Joined {
    /// Whether it is of these frames: the same bytes in memory, of which it keeps hold.
    fn is_of(&self, frames: &[Bytes]) -> bool {
        let same = |a: &Bytes, b: &Bytes| a.as_ptr() == b.as_ptr() && a.len() == b.len();
        self.frames.len() == frames.len() && self.frames.iter().zip(frames).all(|(a, b)| same(a, b))
    }
}

impl Drop for Beating {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn beat(open: usize) -> Duration {
    let milliseconds = u64::try_from(open / WATCHES_A_MILLISECOND).unwrap_or(u64::MAX);
    Duration::from_millis(milliseconds).min(BEAT_MAX)
}

/// The next moment of the beat.
fn until(now: Duration, beat: Duration) -> Option<Duration> {
    let beat = u64::try_from(beat.as_micros()).ok().filter(|beat| *beat > 0)?;
    let passed = u64::try_from(now.as_micros()).ok()? / beat;
    Some(Duration::from_micros(beat * (passed + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_never_wait_and_many_wait_for_the_same_moments() {
        let milliseconds = Duration::from_millis;
        for (open, expected) in [(1, 0), (19, 0), (20, 1), (1000, 50), (100_000, 50)] {
            assert_eq!(beat(open), milliseconds(expected), "{open}");
        }
        assert_eq!(until(milliseconds(7), beat(1)), None);
        for (now, expected) in [(0, 50), (1, 50), (49, 50), (50, 100), (99, 100)] {
            assert_eq!(until(milliseconds(now), BEAT_MAX), Some(milliseconds(expected)), "{now}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_beat_quickens_as_watches_end() {
        let all = Beat::new();
        let mut watches: Vec<Beating> = (0..1000).map(|_| all.join()).collect();
        let now = Instant::now();
        let rest = |watches: &[Beating]| watches[0].rest(now).map(|until| until - now);
        assert_eq!(rest(&watches), Some(BEAT_MAX));
        watches.truncate(100);
        assert_eq!(rest(&watches), Some(Duration::from_millis(5)));
        watches.truncate(1);
        assert_eq!(rest(&watches), None);
    }

    #[test]
    fn who_is_told_the_same_shares_it_and_nobody_is_told_anything_else() {
        let watch = Beat::new().join();
        let frames = |texts: &[&str]| -> Vec<Bytes> {
            texts.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect()
        };
        let first = frames(&["ab", "c"]);
        let (one, other) = (watch.join(first.clone()), watch.join(first.clone()));
        assert_eq!((&one[..], one.as_ptr()), (&b"abc"[..], other.as_ptr()));
        // Equal, but other bytes; fewer, more, and in another order.
        for texts in [&["ab", "c"][..], &["ab"], &["ab", "c", "d"], &["c", "ab"]] {
            assert_eq!(watch.join(frames(texts)), texts.concat());
            assert_eq!(watch.join(first.clone()).as_ptr(), one.as_ptr());
        }
        let turned: Vec<Bytes> = first.iter().rev().cloned().collect();
        assert_eq!(watch.join(turned), "cab");
        // What nobody has been told for long is let go.
        for _ in 0..JOINED_MAX {
            watch.join(frames(&["d", "e"]));
        }
        assert_eq!(watch.0.joined.lock().len(), JOINED_MAX);
        assert_ne!(watch.join(first).as_ptr(), one.as_ptr());
    }
}
