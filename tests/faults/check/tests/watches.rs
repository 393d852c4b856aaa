//! What watchers are told.

use super::build::{Store, both, delete, put};
use super::{breaks, holds};
use crate::history::{History, Notice, Session};

fn watched(spoil: impl FnOnce(&mut Session)) -> History {
    let mut store = Store::new();
    store.run(put("a", "1"));
    store.run(put("b", "2"));
    store.run(both(put("a", "3"), put("c", "4")));
    store.run(put("c", "5"));
    store.run(delete("a"));
    let mut session = store.session(2);
    spoil(&mut session);
    store.history.sessions.push(session);
    store.finish().clone()
}

fn progress(revision: u64) -> Notice {
    Notice { revision, ..Notice::default() }
}

#[test]
fn a_watcher_that_is_told_everything_is_right() {
    holds(&watched(|_| ()));
    holds(&watched(|session| session.notices.push(progress(6))));
    holds(&watched(|session| {
        session.no_delete = true;
        session.notices.truncate(4);
    }));
    // Several revisions together, and a watch of a part from later on.
    holds(&watched(|session| {
        let more = session.notices.remove(1);
        session.notices[0].events.extend(more.events);
    }));
    holds(&watched(|session| {
        session.prefix = "c".into();
        session.from = 4;
        session.notices.drain(..2);
        session.notices[0].events.remove(0);
        session.notices.truncate(2);
    }));
}

#[test]
fn an_event_that_is_left_out_is_found() {
    breaks(&watched(|session| drop(session.notices.remove(1))), "no event is left out");
    breaks(&watched(|session| drop(session.notices.remove(0))), "no event is left out");
    let deleted = watched(|session| {
        session.notices.pop();
        session.notices.push(progress(6));
    });
    breaks(&deleted, "progress does not overtake events");
}

#[test]
fn an_event_that_comes_twice_is_found() {
    let again = watched(|session| {
        let again = session.notices[2].clone();
        session.notices.insert(3, again);
    });
    breaks(&again, "events come once, and those of a revision together");
}

#[test]
fn a_watcher_that_goes_back_is_found() {
    let back = watched(|session| session.notices.swap(1, 2));
    breaks(&back, "no event is left out");
    let back = watched(|session| {
        let more = session.notices.remove(1);
        session.notices[0].events.splice(0..0, more.events);
    });
    breaks(&back, "events come in order");
}

#[test]
fn a_revision_that_is_told_in_two_parts_is_found() {
    let parts = watched(|session| {
        let rest = session.notices[2].events.split_off(1);
        let rest = Notice { events: rest, ..session.notices[2].clone() };
        session.notices.insert(3, rest);
    });
    breaks(&parts, "events come once, and those of a revision together");
}

#[test]
fn a_watch_of_the_future_that_shows_the_past_is_found() {
    breaks(
        &watched(|session| session.from = 5),
        "events come once, and those of a revision together",
    );
}

#[test]
fn progress_that_overtakes_events_is_found() {
    let early = watched(|session| session.notices.insert(1, progress(4)));
    breaks(&early, "progress does not overtake events");
}

#[test]
fn a_wrong_previous_value_is_found() {
    let wrong = watched(|session| {
        session.notices[2].events[0].previous.as_mut().unwrap().value = "9".into();
    });
    breaks(&wrong, "previous values are those before");
    let none = watched(|session| session.notices[3].events[0].previous = None);
    breaks(&none, "previous values are those before");
    let unasked = watched(|session| session.previous = false);
    breaks(&unasked, "previous values are those before");
}

#[test]
fn a_filter_that_lets_through_is_found() {
    breaks(&watched(|session| session.no_delete = true), "nothing is made up");
    breaks(&watched(|session| session.prefix = "b".into()), "nothing is made up");
}

#[test]
fn what_watchers_are_told_differently_is_found() {
    let mut history = watched(|_| ());
    let mut other = history.sessions.last().unwrap().clone();
    other.notices[1].events[0].now.as_mut().unwrap().value = "9".into();
    history.sessions.push(other);
    breaks(&history, "watchers are told the same");
}

#[test]
fn a_watch_that_is_cut_off_from_history_that_is_kept_is_found() {
    let cut = |compacted: u64, asked: u64| {
        let mut history = watched(|session| {
            session.from = asked;
            session.notices = vec![Notice { compacted, ..Notice::default() }];
        });
        history.rest.compacted = 4;
        history
    };
    holds(&cut(4, 3));
    breaks(&cut(4, 4), "history that is kept is shown");
    breaks(&cut(5, 2), "history that is kept is shown");
}
