//! Seeded operations on a log, and what it may hold after any of them was the last to survive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::super::*;
use super::{as_one_batch, everything};

/// Numbers from a seed; the same seed gives the same numbers.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % below
    }
}

#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<Record>),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(u64),
    Purge(u64, Bytes),
    /// These go into the log as one batch.
    Batch(Vec<Step>),
    /// The log is closed and opened again.
    Reopen,
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) last: Option<(u64, Bytes)>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) vote: Option<Bytes>,
    pub(super) entries: Vec<Record>,
}

impl View {
    pub(super) fn of(log: &Log) -> View {
        let state = log.state();
        View { last: state.last, purged: state.purged, vote: state.vote, entries: everything(log) }
    }

    fn last_index(&self) -> u64 {
        self.last.as_ref().map_or(0, |(index, _)| *index)
    }

    fn purged_index(&self) -> u64 {
        self.purged.as_ref().map_or(0, |(index, _)| *index)
    }

    fn apply(&mut self, atom: &Atom) {
        match atom {
            Atom::Entry(record) => {
                assert_eq!(record.index, self.last_index() + 1);
                self.last = Some((record.index, record.id.clone()));
                self.entries.push(record.clone());
            }
            Atom::Vote(vote) => self.vote = Some(vote.clone()),
            Atom::Truncate(kept) => {
                self.entries.retain(|record| record.index <= *kept);
                if *kept < self.last_index() {
                    let last = self.entries.last();
                    self.last = match last {
                        Some(last) => Some((last.index, last.id.clone())),
                        None => self.purged.clone(),
                    };
                }
            }
            Atom::Purge(upto, id) => {
                self.entries.retain(|record| record.index > *upto);
                self.purged = Some((*upto, id.clone()));
                if *upto >= self.last_index() {
                    self.last = self.purged.clone();
                }
            }
            Atom::Acknowledgeable => (),
        }
    }
}

/// What survives as a whole or not at all.
#[derive(Clone, Debug)]
enum Atom {
    Entry(Record),
    Vote(Bytes),
    Truncate(u64),
    Purge(u64, Bytes),
    /// Here ends an operation that has a callback.
    Acknowledgeable,
}

/// `count` steps that make sense one after the other.
pub(super) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut dice = Dice(seed);
    let mut view = View::default();
    let mut number = 0;
    let mut steps: Vec<Step> = Vec::new();
    while steps.len() < count {
        if dice.below(25) == 0 {
            steps.push(Step::Reopen);
            continue;
        }
        if dice.below(4) > 0 {
            steps.push(step(&mut dice, &mut view, &mut number));
            continue;
        }
        let batch = (0..2 + dice.below(5)).map(|_| step(&mut dice, &mut view, &mut number));
        steps.push(Step::Batch(batch.collect()));
    }
    steps
}

fn step(dice: &mut Dice, view: &mut View, number: &mut u64) -> Step {
    *number += 1;
    let first = view.purged_index() + 1;
    let step = match dice.below(20) {
        0..=11 => {
            let records = (0..1 + dice.below(4))
                .map(|at| {
                    let index = view.last_index() + 1 + at;
                    let id = Bytes::from(format!("{number}.{index}"));
                    Record { index, id, payload: payload(dice, *number) }
                })
                .collect();
            Step::Append(records)
        }
        12..=14 => Step::Vote(Bytes::from(format!("vote {number}"))),
        15 | 16 => Step::Committed(Bytes::from(format!("committed {number}"))),
        17 => {
            let room = view.last_index() + 1 - (first - 1);
            let kept = first - 1 + dice.below(room).max(room.saturating_sub(6));
            Step::Truncate(kept.min(view.last_index()))
        }
        _ => {
            let ahead = if dice.below(8) == 0 { 5 } else { 0 };
            let upto = first + dice.below(view.last_index() + 1 - (first - 1) + ahead);
            let upto = upto.min(view.last_index() + ahead).max(first - 1).max(1);
            // Ids are of entries, as openraft's purged log ids are.
            let entry = view.entries.iter().find(|record| record.index == upto);
            let id = match (entry, &view.purged) {
                (Some(record), _) => record.id.clone(),
                (None, Some((purged, id))) if *purged == upto => id.clone(),
                _ => Bytes::from(format!("purged {number}")),
            };
            Step::Purge(upto, id)
        }
    };
    for atom in atoms(&step) {
        view.apply(&atom);
    }
    step
}

/// All sizes that matter: within a sector, over pages, with sectors of zeros.
fn payload(dice: &mut Dice, number: u64) -> Bytes {
    let bytes = match dice.below(12) {
        0 => 0,
        1..=7 => dice.below(400),
        8..=10 => dice.below(1800),
        _ => dice.below(7000),
    };
    let mut payload: Vec<u8> = (0..bytes).map(|at| (at + number) as u8).collect();
    if dice.below(4) == 0 {
        let from = payload.len() / 4;
        payload[from..].fill(0);
    }
    Bytes::from(payload)
}

fn atoms(step: &Step) -> Vec<Atom> {
    let mut atoms: Vec<Atom> = match step {
        Step::Append(records) => records.iter().cloned().map(Atom::Entry).collect(),
        Step::Vote(vote) => vec![Atom::Vote(vote.clone())],
        Step::Truncate(kept) => vec![Atom::Truncate(*kept)],
        Step::Purge(upto, id) => vec![Atom::Purge(*upto, id.clone())],
        Step::Batch(steps) => return steps.iter().flat_map(atoms).collect(),
        Step::Committed(_) | Step::Reopen => return Vec::new(),
    };
    atoms.push(Atom::Acknowledgeable);
    atoms
}

/// What was submitted and how much of it was acknowledged.
#[derive(Default)]
pub(super) struct History {
    atoms: Vec<Atom>,
    committed: Vec<Bytes>,
    acknowledged: Arc<AtomicUsize>,
}

impl History {
    /// Submits a step. Acknowledgements are counted, and must come in order.
    pub(super) fn submit(&mut self, log: &Log, step: &Step) {
        if let Step::Batch(steps) = step {
            as_one_batch(log, |log| steps.iter().for_each(|step| self.submit(log, step)));
            return;
        }
        let place = self.acknowledgeable();
        self.atoms.extend(atoms(step));
        let acknowledged = self.acknowledged.clone();
        let done: Done = Box::new(move |result| {
            if result.is_ok() {
                let before = acknowledged.swap(place + 1, Ordering::Relaxed);
                assert_eq!(before, place, "acknowledged out of order");
            }
        });
        match step.clone() {
            Step::Append(records) => log.append(records, done),
            Step::Vote(vote) => log.save_vote(vote, done),
            Step::Truncate(kept) => log.truncate_after(kept, done),
            Step::Purge(upto, id) => log.purge(upto, id, done),
            Step::Committed(committed) => {
                self.committed.push(committed.clone());
                log.save_committed(committed);
            }
            Step::Batch(_) | Step::Reopen => unreachable!("handled by the caller"),
        }
    }

    /// How many operations with a callback were submitted.
    fn acknowledgeable(&self) -> usize {
        self.atoms.iter().filter(|atom| matches!(atom, Atom::Acknowledgeable)).count()
    }

    pub(super) fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(super) fn all_acknowledged(&self) -> bool {
        self.acknowledged() == self.acknowledgeable()
    }

    /// Whether `view` is what the history left at some moment at or after the last
    /// acknowledgement; if so, what did not survive is forgotten, as it is by the log.
    pub(super) fn check(&mut self, view: &View, committed: Option<&Bytes>) -> Result<(), String> {
        if let Some(committed) = committed
            && !self.committed.contains(committed)
        {
            return Err(format!("{committed:?} was never the committed mark"));
        }
        let acknowledged = self.acknowledged();
        let (mut expected, mut passed) = (View::default(), 0);
        let mut nearest = None;
        for (at, atom) in std::iter::once(None).chain(self.atoms.iter().map(Some)).enumerate() {
            if let Some(atom) = atom {
                expected.apply(atom);
                passed += usize::from(matches!(atom, Atom::Acknowledgeable));
            }
            if passed < acknowledged {
                continue;
            }
            if expected == *view {
                self.atoms.truncate(at);
                // What survived unacknowledged is now as good as acknowledged.
                if !matches!(self.atoms.last(), None | Some(Atom::Acknowledgeable)) {
                    self.atoms.push(Atom::Acknowledgeable);
                }
                self.acknowledged.store(self.acknowledgeable(), Ordering::Relaxed);
                return Ok(());
            }
            nearest.get_or_insert_with(|| expected.clone());
        }
        Err(format!("at the last acknowledgement {nearest:#?}\nfound {view:#?}"))
    }

    /// Checks an opened log, its own report included.
    pub(super) fn check_open(&mut self, log: &Log, opened: &Opened) -> Result<(), String> {
        let view = View::of(log);
        assert_eq!((&view.last, &view.purged), (&opened.last, &opened.purged));
        assert_eq!(view.vote, opened.vote);
        assert_eq!(opened.first, view.purged_index() + 1);
        self.check(&view, opened.committed.as_ref())
    }
}
