//! What a watcher may rely on, one sentence each; then the same on random schedules ([`model`])
//! and with real threads ([`threads`]). Watchers are polled by hand where it matters who was
//! woken.

mod bed;
mod model;
mod threads;

use std::sync::Arc;
use std::task::Poll;

use self::bed::{Bed, Flag, Journal, keys, small};
use super::*;

fn prefix(text: &str) -> Request {
    Request::new(KeyRange::prefix(text.to_owned()))
}

fn one(text: &str) -> Request {
    Request::new(KeyRange::One(text.to_owned().into()))
}

fn revision(number: u64) -> Revision {
    Revision(number)
}

#[test]
fn what_comes_after_now_is_delivered_and_nothing_else() {
    let bed = Bed::new(small());
    bed.put(&["/a/1"]);
    let mut watcher = bed.watch(prefix("/a/"));
    assert_eq!(watcher.try_next(), None);
    bed.put(&["/a/2"]);
    bed.put(&["/b/1"]);
    bed.delete(&["/a/1"]);
    let delivery = watcher.try_next().unwrap().unwrap();
    assert_eq!(keys(&delivery), ["put /a/2 3", "delete /a/1 5"]);
    assert_eq!(delivery.revision, revision(5));
    assert_eq!(watcher.try_next(), None);
}

#[test]
fn whether_there_is_anything_unread_shows_without_a_look() {
    let bed = Bed::new(small());
    bed.put(&["/a/1"]);
    let mut early = bed.watch(prefix("/a/").from(revision(2)));
    assert!(early.has_unread());
    while early.try_next().is_some() {}
    let mut watcher = bed.watch(prefix("/a/"));
    let mut both = |unread: bool| {
        assert_eq!((early.has_unread(), watcher.has_unread()), (unread, unread));
        let told = (early.try_next().is_some(), watcher.try_next().is_some());
        assert_eq!(told, (unread, unread));
        assert_eq!((early.try_next(), watcher.try_next()), (None, None));
    };
    both(false);
    bed.put(&["/b/1"]);
    both(false);
    bed.delete(&["/a/1"]);
    both(true);
    bed.put(&["/b/1"]);
    both(false);
    bed.hub.reset(revision(50), revision(40));
    assert!(watcher.has_unread());
    assert!(matches!(watcher.try_next(), Some(Err(Cut::TooOld { .. }))));
    assert!(watcher.has_unread(), "it stays cut");
}

#[test]
fn a_start_in_the_future_is_told_nothing_older_and_no_progress_either() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/a/").from(revision(4)));
    assert_eq!(watcher.progress(), None);
    assert_eq!(watcher.cursor(), revision(4));
    bed.put(&["/a/2"]);
    assert_eq!((watcher.try_next(), watcher.progress()), (None, None));
    bed.put(&["/a/3"]);
    assert_eq!((watcher.try_next(), watcher.progress()), (None, Some(revision(3))));
    bed.put(&["/a/4"]);
    assert_eq!(keys(&watcher.try_next().unwrap().unwrap()), ["put /a/4 4"]);
    assert_eq!(watcher.progress(), Some(revision(4)));
}

#[test]
fn a_start_below_the_compaction_is_cut_and_a_start_at_it_is_served() {
    let bed = Bed::new(small());
    bed.put(&["/a/1"]);
    bed.delete(&["/a/1"]);
    bed.put(&["/a/2"]);
    bed.compact(3);
    let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
    let cut = Cut::Compacted { compacted: revision(3) };
    assert_eq!(watcher.try_next(), Some(Err(cut.clone())));
    assert_eq!(watcher.try_next(), Some(Err(cut)), "it stays cut");
    assert_eq!(watcher.progress(), None);
    let mut watcher = bed.watch(prefix("/a/").from(revision(3)));
    assert_eq!(keys(&watcher.try_next().unwrap().unwrap()), ["delete /a/1 3", "put /a/2 4"]);
}

#[test]
fn history_before_the_ring_comes_first_and_the_ring_follows_without_a_seam() {
    let bed = Bed::reopened(small(), |bed| {
        for number in 0..10 {
            bed.put(&[&format!("/a/{number}")]);
        }
    });
    let mut watcher = bed.watch(prefix("/a/").from(revision(5)));
    bed.put(&["/a/new"]);
    let mut seen = Vec::new();
    while watcher.progress() != Some(revision(12)) {
        if let Some(delivery) = watcher.try_next() {
            seen.extend(keys(&delivery.unwrap()));
        }
    }
    let wanted: Vec<String> = (3..10).map(|n| format!("put /a/{n} {}", n + 2)).collect();
    assert_eq!(seen[..7], wanted);
    assert_eq!(seen[7..], ["put /a/new 12"]);
    assert!(bed.journal.readings() > 0);
}

#[test]
fn a_new_watcher_is_served_from_the_ring_where_the_ring_reaches_back() {
    let bed = Bed::new(Options::default());
    for _ in 0..1000 {
        bed.put(&["/a/1"]);
        bed.put(&["/b/1"]);
    }
    let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
    let mut seen = 0;
    while let Some(delivery) = watcher.try_next() {
        seen += delivery.unwrap().events.len();
    }
    assert_eq!((seen, bed.journal.readings()), (1000, 0));
}

#[test]
fn a_watcher_that_falls_behind_the_ring_goes_on_from_history_by_itself() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/a/"));
    for _ in 0..100 {
        bed.put(&["/a/1"]);
    }
    assert_eq!(bed.hub.stats().lagging, 1);
    assert_eq!(watcher.progress(), None);
    let mut seen = 0;
    while watcher.progress().is_none() {
        seen += watcher.try_next().map_or(0, |delivery| delivery.unwrap().events.len());
    }
    while let Some(delivery) = watcher.try_next() {
        seen += delivery.unwrap().events.len();
    }
    assert_eq!((seen, bed.hub.stats().lagging), (100, 0));
    assert!(watcher.buffer_room() <= 8, "what catching up needed is given back");
    assert!(bed.journal.readings() > 0);
}

#[test]
fn compaction_cuts_who_must_read_what_it_forgot_and_nobody_else() {
    let bed = Bed::new(small());
    let mut behind = bed.watch(prefix("/a/"));
    let mut level = bed.watch(prefix("/b/"));
    for _ in 0..100 {
        bed.put(&["/a/1"]);
    }
    bed.put(&["/b/1"]);
    bed.compact(102);
    assert_eq!(behind.try_next(), Some(Err(Cut::Compacted { compacted: revision(102) })));
    // Its cursor lies far below the compaction, but nothing of its range was forgotten by the
    // ring.
    assert_eq!(keys(&level.try_next().unwrap().unwrap()), ["put /b/1 102"]);
}

#[test]
fn a_compaction_during_a_reading_throws_the_reading_away() {
    let bed = Bed::reopened(small(), |bed| {
        bed.put(&["/a/1"]);
        bed.put(&["/a/1"]);
    });
    let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
    let hub = bed.hub.clone();
    bed.journal.during_next_reading(move || hub.compacted(Revision(3)));
    assert_eq!(watcher.try_next(), Some(Err(Cut::Compacted { compacted: revision(3) })));
}

#[test]
fn a_snapshot_cuts_every_watcher_and_later_ones_start_at_the_new_revision() {
    let bed = Bed::new(small());
    let mut waiting = bed.watch(prefix("/a/"));
    let flag = Flag::default();
    assert_eq!(flag.poll(&mut waiting), Poll::Pending);
    let mut unread = bed.watch(prefix("/a/"));
    bed.put(&["/a/1"]);
    bed.hub.reset(revision(50), revision(40));
    let cut = Cut::TooOld { revision: revision(50), compacted: revision(40) };
    assert!(flag.take());
    assert_eq!(flag.poll(&mut waiting), Poll::Ready(Err(cut.clone())));
    assert_eq!(unread.try_next(), Some(Err(cut)));
    assert_eq!((bed.hub.stats().watchers, bed.hub.stats().groups), (0, 0));

    let later = bed.watch(prefix("/a/"));
    assert_eq!(later.progress(), Some(revision(50)));
    let mut too_early = bed.watch(prefix("/a/").from(revision(39)));
    assert_eq!(too_early.try_next(), Some(Err(Cut::Compacted { compacted: revision(40) })));
}

#[test]
fn a_snapshot_during_a_reading_delivers_nothing_of_it() {
    let bed = Bed::reopened(small(), |bed| {
        bed.put(&["/a/1"]);
    });
    let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
    let hub = bed.hub.clone();
    bed.journal.during_next_reading(move || hub.reset(Revision(9), Revision(1)));
    let cut = Cut::TooOld { revision: revision(9), compacted: revision(1) };
    assert_eq!(watcher.try_next(), Some(Err(cut)));
}

#[test]
fn closing_ends_every_watcher_and_every_later_one() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/a/"));
    let flag = Flag::default();
    assert_eq!(flag.poll(&mut watcher), Poll::Pending);
    bed.hub.close();
    assert!(flag.take());
    assert_eq!(flag.poll(&mut watcher), Poll::Ready(Err(Cut::Closed)));
    assert_eq!(bed.watch(prefix("/a/")).try_next(), Some(Err(Cut::Closed)));
    bed.put(&["/a/1"]);
}

#[test]
fn what_is_filtered_is_not_delivered_but_counts_as_progress() {
    let bed = Bed::new(small());
    let mut puts = bed.watch(Request { deletes: false, ..prefix("/a/") });
    let mut deletes = bed.watch(Request { puts: false, ..prefix("/a/") });
    let flag = Flag::default();
    assert_eq!(flag.poll(&mut deletes), Poll::Pending);
    bed.put(&["/a/1"]);
    assert!(flag.take());
    assert_eq!(flag.poll(&mut deletes), Poll::Pending);
    assert_eq!(deletes.progress(), Some(revision(2)));
    bed.delete(&["/a/1"]);
    assert_eq!(keys(&puts.try_next().unwrap().unwrap()), ["put /a/1 2"]);
    assert_eq!(keys(&deletes.try_next().unwrap().unwrap()), ["delete /a/1 3"]);
    assert_eq!((puts.progress(), deletes.progress()), (Some(revision(3)), Some(revision(3))));
}

#[test]
fn progress_does_not_overtake_an_event_that_was_not_delivered() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/a/"));
    bed.put(&["/b/1"]);
    assert_eq!(watcher.progress(), Some(revision(2)));
    bed.put(&["/a/1"]);
    bed.put(&["/b/1"]);
    assert_eq!((watcher.progress(), watcher.cursor()), (Some(revision(2)), revision(3)));
    watcher.try_next().unwrap().unwrap();
    assert_eq!((watcher.progress(), watcher.cursor()), (Some(revision(4)), revision(5)));
}

#[test]
fn a_revision_is_never_split_and_a_delivery_takes_no_more_than_it_may() {
    let options = Options { delivery_bytes_max: 1000, ..Options::default() };
    for reopened in [false, true] {
        let many: Vec<String> = (0..50).map(|number| format!("/a/{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let fill = |bed: &Bed| {
            for _ in 0..6 {
                bed.put(&["/a/x"]);
            }
            bed.put(&many);
            bed.put(&["/a/x"]);
        };
        let bed = if reopened {
            Bed::reopened(Options { history_bytes_max: 1000, ..options.clone() }, fill)
        } else {
            let bed = Bed::new(options.clone());
            fill(&bed);
            bed
        };
        let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
        let mut sizes = Vec::new();
        while let Some(delivery) = watcher.try_next() {
            let delivery = delivery.unwrap();
            let weight: usize = delivery.events.iter().map(|event| event.weight()).sum();
            assert_eq!(delivery.bytes, weight);
            let first = delivery.events[0].kv.modified;
            assert!(
                weight <= 1000 || first == delivery.revision,
                "two revisions in {weight} bytes"
            );
            sizes.push(delivery.events.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 57);
        assert!(sizes.contains(&50), "the large revision came in one piece: {sizes:?}");
    }
}

#[test]
fn watchers_of_one_range_share_a_group_and_the_last_one_takes_it_away() {
    let bed = Bed::new(small());
    let watchers = [bed.watch(prefix("/a/")), bed.watch(prefix("/a/")), bed.watch(one("/a/1"))];
    let stats = bed.hub.stats();
    assert_eq!((stats.watchers, stats.groups), (3, 2));
    let [first, second, third] = watchers;
    drop(first);
    assert_eq!(bed.hub.stats().groups, 2);
    drop(second);
    drop(third);
    let stats = bed.hub.stats();
    assert_eq!((stats.watchers, stats.groups), (0, 0));
    // The ring still points at the groups that are gone; a new one of the same range is another.
    let mut again = bed.watch(prefix("/a/"));
    for _ in 0..100 {
        bed.put(&["/a/1"]);
        assert_eq!(again.try_next().unwrap().unwrap().events.len(), 1);
    }
}

#[test]
fn a_dropped_watcher_leaves_no_waker_behind() {
    let bed = Bed::new(small());
    let flags: Vec<Flag> = (0..5).map(|_| Flag::default()).collect();
    let mut watchers: Vec<Watcher> = flags.iter().map(|_| bed.watch(prefix("/a/"))).collect();
    for (flag, watcher) in flags.iter().zip(&mut watchers) {
        assert_eq!(flag.poll(watcher), Poll::Pending);
        assert!(flag.is_held());
    }
    // From the middle, so that others move into the free place.
    drop(watchers.remove(1));
    drop(watchers.remove(0));
    assert!(!flags[0].is_held() && !flags[1].is_held());
    bed.put(&["/a/1"]);
    let woken: Vec<bool> = flags.iter().map(Flag::take).collect();
    assert_eq!(woken, [false, false, true, true, true]);
}

#[test]
fn only_the_waker_of_the_last_poll_is_woken() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/a/"));
    let (first, last) = (Flag::default(), Flag::default());
    for flag in [&first, &first, &last] {
        assert_eq!(flag.poll(&mut watcher), Poll::Pending);
    }
    assert!(!first.is_held());
    bed.put(&["/b/1"]);
    assert!(!last.take(), "nothing of interest happened");
    bed.put(&["/a/1"]);
    assert!(!first.take() && last.take());
}

#[test]
fn a_quiet_range_stays_level_however_far_ring_and_compaction_move() {
    let bed = Bed::new(small());
    let mut polled = bed.watch(prefix("/quiet/"));
    let flag = Flag::default();
    assert_eq!(flag.poll(&mut polled), Poll::Pending);
    let mut never_polled = bed.watch(one("/quiet/1"));
    for _ in 0..200 {
        bed.put(&["/a/1"]);
    }
    bed.compact(200);
    assert_eq!(bed.hub.stats().lagging, 0);
    assert_eq!(polled.progress(), Some(revision(201)));
    assert!(!flag.take());
    bed.put(&["/quiet/1"]);
    assert_eq!(keys(&never_polled.try_next().unwrap().unwrap()), ["put /quiet/1 202"]);
    // A burst throws that event out of the ring before it is read. Still nothing before it is
    // missing, so the compaction at 200 does not concern the one that waited.
    for _ in 0..200 {
        bed.put(&["/quiet/1"]);
    }
    assert!(flag.take());
    let mut seen = Vec::new();
    while seen.len() < 201 {
        if let Poll::Ready(delivery) = flag.poll(&mut polled) {
            seen.extend(keys(&delivery.unwrap()));
        }
    }
    assert_eq!(seen[0], "put /quiet/1 202");
    assert_eq!(seen[200], "put /quiet/1 402");
}

#[test]
fn who_was_told_of_its_progress_is_not_cut_by_a_compaction_below_it() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/quiet/"));
    for _ in 0..100 {
        bed.put(&["/a/1"]);
    }
    assert_eq!((watcher.progress(), watcher.cursor()), (Some(revision(101)), revision(102)));
    for _ in 0..100 {
        bed.put(&["/quiet/1"]);
    }
    bed.compact(102);
    assert_eq!(watcher.progress(), None);
    assert_eq!(keys(&watcher.try_next().unwrap().unwrap())[0], "put /quiet/1 102");
}

#[test]
fn history_is_read_one_piece_in_a_poll_with_others_in_between() {
    let bed = Bed::reopened(small(), |bed| {
        for _ in 0..300 {
            bed.put(&["/b/1"]);
        }
        bed.put(&["/a/1"]);
    });
    let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
    let flag = Flag::default();
    let mut readings = 0;
    loop {
        let answer = flag.poll(&mut watcher);
        assert!(bed.journal.readings() <= readings + 1);
        readings = bed.journal.readings();
        match answer {
            Poll::Ready(delivery) => {
                assert_eq!(keys(&delivery.unwrap()), ["put /a/1 302"]);
                break;
            }
            Poll::Pending => assert!(flag.take(), "it must come back by itself"),
        }
    }
    assert!(readings > 3);
}

#[test]
fn history_that_cannot_be_read_ends_the_watcher_with_the_reason() {
    let bed = Bed::reopened(small(), |bed| {
        bed.put(&["/a/1"]);
    });
    let mut watcher = bed.watch(prefix("/a/").from(revision(2)));
    bed.journal.fail();
    let cut = Cut::Failed(Error::Damaged("the journal is torn".to_owned()));
    assert_eq!(watcher.try_next(), Some(Err(cut.clone())));
    assert_eq!(watcher.try_next(), Some(Err(cut)));
    assert_eq!(bed.hub.stats().watchers, 0);
}

#[test]
fn history_that_ends_before_what_was_published_is_called_damaged() {
    let bed = Bed::reopened(small(), |bed| {
        bed.put(&["/a/1"]);
    });
    let empty = Arc::new(Journal::default());
    let mut watcher = bed.hub.watch(prefix("/a/").from(revision(2)), empty);
    assert!(matches!(watcher.try_next(), Some(Err(Cut::Failed(Error::Damaged(_))))));
}

#[test]
fn the_ring_keeps_its_bound_groups_included_and_the_newest_commit_in_any_case() {
    let bed = Bed::new(small());
    let _watchers: Vec<Watcher> = (0..20)
        .map(|number| bed.watch(Request::new(KeyRange::From(format!("/{number}").into()))))
        .collect();
    for _ in 0..100 {
        bed.put(&["/a/1"]);
        let stats = bed.hub.stats();
        assert!(stats.ring_bytes <= small().ring_bytes, "{stats:?}");
        assert!(stats.ring_commits > 0);
    }
    // Twenty groups make a commit heavier: fewer of them fit.
    assert!(bed.hub.stats().ring_commits * 20 * 128 <= small().ring_bytes);
    let many: Vec<String> = (0..100).map(|number| format!("/a/{number}")).collect();
    bed.put(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(bed.hub.stats().ring_commits, 1);
}

#[tokio::test(start_paused = true)]
async fn a_next_that_is_given_up_loses_nothing() {
    let bed = Bed::new(small());
    let mut watcher = bed.watch(prefix("/a/"));
    let (one_ms, mut seen) = (std::time::Duration::from_millis(1), 0);
    for round in 0..50 {
        if round % 2 == 0 {
            bed.put(&["/a/1"]);
        }
        if let Ok(delivery) = tokio::time::timeout(one_ms, watcher.next()).await {
            seen += delivery.unwrap().events.len();
        }
    }
    assert_eq!(seen, 25);
}

#[test]
#[should_panic(expected = "revision 2 is published after 2")]
fn a_revision_cannot_be_published_twice() {
    let bed = Bed::new(small());
    bed.put(&["/a/1"]);
    let (_, commits) = bed.journal.commits_from(revision(2));
    bed.hub.publish(commits);
}
