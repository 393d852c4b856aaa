//! What of a stream has something to say: its client, its watches, its timers, each under its own bell.
//!
//! A stream of ten thousand watches looks at the one that was woken and at no other, and a stream that was
//! woken by a watch does not ask its client's side whether something has come.
//!
//! Keeps: whoever rings is looked at, in the order of ringing. A bell that rings twice before that is looked
//! at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use parking_lot::Mutex;

/// Where a bell hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Requests,
    Rules,
    Watch(i64),
    ProgressTimer,
    Leadership,
}

/// The bells of one stream that have rung.
#[derive(Clone, Default)]
pub(super) struct Bells(Arc<Rung>);

#[derive(Default)]
struct Rung {
    queue: Mutex<VecDeque<Arc<Bell>>>,
    task: AtomicWaker,
}

pub(super) struct Bell {
    source: Source,
    rung: AtomicBool,
    bells: Arc<Rung>,
}

impl Bells {
    /// A bell for something that is to be looked at once to begin with.
    pub(super) fn hang(&self, source: Source) -> Arc<Bell> {
        let bell = Bell { source, rung: AtomicBool::new(false), bells: self.0.clone() };
        let bell = Arc::new(bell);
        bell.wake_by_ref();
        bell
    }

    /// Looks at what has rung, until `look` finds something. What it found it in is looked at again later:
    /// there may be more.
    pub(super) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut look: impl FnMut(Source, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.0.task.register(context.waker());
        // What rings while it is looked at has its turn in the next call.
        let rung = self.0.queue.lock().len();
        for _ in 0..rung {
            let Some(bell) = self.0.queue.lock().pop_front() else { break };
            bell.rung.store(false, Ordering::Release);
            let waker = Waker::from(bell.clone());
            if let Poll::Ready(found) = look(bell.source, &mut Context::from_waker(&waker)) {
                bell.wake_by_ref();
                return Poll::Ready(found);
            }
        }
        if !self.0.queue.lock().is_empty() {
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.bells.queue.lock().push_back(self.clone());
            self.bells.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(bells: &Bells) -> Vec<Source> {
        let mut seen = Vec::new();
        let mut context = Context::from_waker(Waker::noop());
        let nothing = bells.poll(&mut context, |source, _| {
            seen.push(source);
            Poll::<()>::Pending
        });
        assert!(nothing.is_pending());
        seen
    }

    #[test]
    fn what_rang_is_looked_at_once_in_its_order() {
        let bells = Bells::default();
        let (one, two) = (bells.hang(Source::Watch(1)), bells.hang(Source::Watch(2)));
        assert_eq!(rung(&bells), [Source::Watch(1), Source::Watch(2)]);
        assert_eq!(rung(&bells), []);
        two.wake_by_ref();
        one.wake_by_ref();
        two.wake_by_ref();
        assert_eq!(rung(&bells), [Source::Watch(2), Source::Watch(1)]);
    }

    #[test]
    fn where_something_was_found_is_looked_at_again_after_the_others() {
        let bells = Bells::default();
        let _all = [bells.hang(Source::Watch(1)), bells.hang(Source::Watch(2))];
        let mut context = Context::from_waker(Waker::noop());
        let mut found = || bells.poll(&mut context, |source, _| Poll::Ready(source));
        assert_eq!(found(), Poll::Ready(Source::Watch(1)));
        assert_eq!(found(), Poll::Ready(Source::Watch(2)));
        assert_eq!(found(), Poll::Ready(Source::Watch(1)));
    }

    #[test]
    fn who_rings_while_it_is_looked_at_does_not_hold_the_thread() {
        let bells = Bells::default();
        let _bell = bells.hang(Source::Requests);
        let mut looks = 0;
        let mut context = Context::from_waker(Waker::noop());
        let nothing = bells.poll(&mut context, |_, context| {
            looks += 1;
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        assert!(nothing.is_pending());
        assert_eq!(looks, 1);
        assert_eq!(rung(&bells), [Source::Requests], "it is not forgotten");
    }
}
