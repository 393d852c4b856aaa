//! What the store holds and what it tells: keys with their values, and the events of a revision.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::revision::Revision;

/// A lease, as clients name it. Zero means "no lease".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    pub const NONE: LeaseId = LeaseId(0);

    #[must_use]
    pub fn is_none(self) -> bool {
        self == LeaseId::NONE
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // etcd prints leases in hexadecimal wherever a person sees one.
        write!(f, "{:016x}", self.0)
    }
}

/// One version of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision at which the key came into being (again, after a delete).
    pub created: Revision,
    /// Revision of this version.
    pub modified: Revision,
    /// 1 for a key just created, one more with each put; 0 in the record of a delete.
    pub version: u64,
    pub lease: LeaseId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change of one key, shared by everyone who watches it.
#[derive(Debug)]
pub struct Event {
    pub kind: EventKind,
    /// For a delete: the key and, as `modified`, the revision of the delete; all else is empty.
    pub kv: KeyValue,
    /// The version that was replaced or deleted. `None` for a key that did not exist, and where that
    /// version has been compacted away.
    pub previous: Option<KeyValue>,
    encoded: [OnceLock<Bytes>; Encoding::COUNT],
    attached: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// The forms in which a front keeps an event's bytes beside it, so that each is made once however many
/// watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// etcd's `mvccpb.Event` without the previous version.
    Etcd = 0,
    /// The same with the previous version.
    EtcdWithPrevious = 1,
    /// Free for the Kubernetes front.
    Object = 2,
}

impl Encoding {
    const COUNT: usize = 3;
}

impl Event {
    #[must_use]
    pub fn new(kind: EventKind, kv: KeyValue, previous: Option<KeyValue>) -> Event {
        Event { kind, kv, previous, encoded: Default::default(), attached: OnceLock::new() }
    }

    /// The event's bytes in one form: made by `encode` the first time, shared afterwards.
    pub fn encoded(&self, form: Encoding, encode: impl FnOnce(&Event) -> Bytes) -> Bytes {
        self.encoded[form as usize].get_or_init(|| encode(self)).clone()
    }

    /// What a front has made of the event, an object decoded from it for one: made by `make` the first
    /// time, shared by all watchers afterwards, and dropped with the event.
    ///
    /// There is room for one type. Who asks for a second type is given a value of its own each time. Others
    /// who ask meanwhile wait for `make`, so it must not ask for what is attached to the same event.
    /// [`Event::weight`] does not know of it: whoever attaches bounds it by the size of the value.
    pub fn attached<T: Send + Sync + 'static>(&self, make: impl FnOnce(&Event) -> T) -> Arc<T> {
        let mut make = Some(make);
        let there = self.attached.get_or_init(|| {
            let make = make.take().expect("nothing has called it before");
            Arc::new(make(self))
        });
        match (Arc::clone(there).downcast(), make) {
            (Ok(mine), _) => mine,
            (Err(_), Some(make)) => Arc::new(make(self)),
            (Err(_), None) => unreachable!("what was just made is of the type that was asked for"),
        }
    }

    /// A put that brought the key into being.
    #[must_use]
    pub fn is_create(&self) -> bool {
        self.kind == EventKind::Put && self.kv.created == self.kv.modified
    }

    /// Bytes this event keeps in memory, for the budgets of rings and buffers.
    #[must_use]
    pub fn weight(&self) -> usize {
        let previous = self.previous.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len());
        self.kv.key.len() + self.kv.value.len() + previous + 192
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Event) -> bool {
        self.kind == other.kind && self.kv == other.kv && self.previous == other.previous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> Event {
        let kv = KeyValue { key: "k".into(), value: "17".into(), ..KeyValue::default() };
        Event::new(EventKind::Put, kv, None)
    }

    fn number(event: &Event) -> u32 {
        std::str::from_utf8(&event.kv.value).unwrap().parse().unwrap()
    }

    #[test]
    fn what_is_attached_is_made_once_and_shared() {
        let event = event();
        let first = event.attached(number);
        let second = event.attached::<u32>(|_| panic!("it is there already"));
        assert_eq!(*first, 17);
        assert!(Arc::ptr_eq(&first, &second));
        drop(event);
        assert_eq!(Arc::strong_count(&first), 2, "the event holds nothing any more");
    }

    #[test]
    fn a_second_type_is_made_afresh_and_leaves_the_first_in_its_place() {
        let event = event();
        let first = event.attached(number);
        let text = event.attached(|event| format!("{:?}", event.kind));
        let again = event.attached(|event| format!("{:?}", event.kind));
        assert_eq!(*text, "Put");
        assert!(!Arc::ptr_eq(&text, &again));
        assert!(Arc::ptr_eq(&first, &event.attached(number)));
    }

    #[test]
    fn watchers_on_many_threads_share_one() {
        let event = event();
        let all: Vec<Arc<u32>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| event.attached(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|one| Arc::ptr_eq(one, &all[0])));
    }
}
