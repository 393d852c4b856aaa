//! Splits a response that is larger than a client may want to take in one message.

use bytes::Bytes;
use prost::Message;

use crate::etcd::wire::etcdserverpb::WatchResponse;

/// The response in parts of at most `bytes_max`, or of one event where that alone is larger. All but the
/// last say that more follows.
pub(super) fn split(mut response: WatchResponse, bytes_max: usize) -> Vec<WatchResponse> {
    if response.encoded_len() < bytes_max || response.events.len() < 2 {
        return vec![response];
    }
    let events = std::mem::take(&mut response.events);
    let empty = WatchResponse { fragment: true, ..response };
    let overhead = empty.encoded_len();
    let mut parts = vec![empty.clone()];
    let mut bytes = overhead;
    for event in events {
        let more = encoded_len(&event);
        let last = parts.last_mut().expect("there is a first part");
        if !last.events.is_empty() && bytes + more >= bytes_max {
            bytes = overhead + more;
            parts.push(WatchResponse { events: vec![event], ..empty.clone() });
        } else {
            bytes += more;
            last.events.push(event);
        }
    }
    parts.last_mut().expect("there is a first part").fragment = false;
    parts
}

/// What an event takes in the response: its tag, its length, itself.
fn encoded_len(event: &Bytes) -> usize {
    1 + prost::length_delimiter_len(event.len()) + event.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_hold_all_events_in_order_and_are_no_larger_than_they_may_be(
            sizes in prop::collection::vec(0..400usize, 0..40), bytes_max in 20..800usize,
        ) {
            let events: Vec<_> = sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect();
            let whole = WatchResponse { watch_id: 3, events: events.clone(), ..Default::default() };
            let parts = split(whole, bytes_max);
            let together: Vec<_> = parts.iter().flat_map(|part| part.events.clone()).collect();
            prop_assert_eq!(together, events);
            let more: Vec<_> = parts.iter().map(|part| part.fragment).collect();
            prop_assert!(more[..more.len() - 1].iter().all(|more| *more));
            prop_assert!(!more[more.len() - 1]);
            for part in &parts {
                prop_assert!(part.watch_id == 3);
                prop_assert!(part.events.len() < 2 || part.encoded_len() <= bytes_max);
            }
        }
    }
}
