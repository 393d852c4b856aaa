//! The power fails at every operation of the disk, and again during recovery.

use super::workload::{Dice, History, Step, View, steps};
use super::*;

/// Runs steps until the power fails or they end. The log is dropped with whatever it was doing.
fn run(disk: &SimDisk, steps: &[Step], history: &mut History) -> bool {
    let Ok((mut log, opened)) = open(disk) else {
        return false;
    };
    history.check_open(&log, &opened).unwrap();
    for step in steps {
        if matches!(step, Step::Reopen) {
            drop(log);
            match open(disk) {
                Ok((reopened, opened)) => {
                    history.check_open(&reopened, &opened).unwrap();
                    log = reopened;
                }
                Err(_) => return false,
            }
            continue;
        }
        history.submit(&log, step);
        if log.failed().borrow().is_some() {
            return false;
        }
    }
    true
}

/// How many operations the disk does for the steps when nothing goes wrong.
fn operations(seed: u64, steps: &[Step]) -> u64 {
    let disk = SimDisk::new(seed);
    let mut history = History::default();
    assert!(run(&disk, steps, &mut history) && history.all_acknowledged());
    disk.operations()
}

#[test]
fn after_a_power_cut_at_any_operation_what_was_acknowledged_is_there() {
    let mut truncated = 0;
    for seed in 0..12 {
        let steps = steps(seed, 40);
        let count = operations(seed, &steps);
        for cut in 1..=count {
            for variant in 0..3 {
                let disk = SimDisk::new(seed);
                disk.cut_power_after(cut);
                let mut history = History::default();
                run(&disk, &steps, &mut history);
                disk.crash(seed * 1_000_003 + cut * 7 + variant);
                let context = format!("seed {seed}, power cut at {cut}, variant {variant}");
                let (log, opened) = open(&disk).unwrap_or_else(|e| panic!("{context}: {e:?}"));
                truncated += u64::from(opened.truncated_tail_bytes > 0);
                history.check_open(&log, &opened).unwrap_or_else(|e| panic!("{context}: {e}"));
                // And it goes on.
                let next = log.state().last.map_or(0, |(last, _)| last) + 1;
                history.submit(&log, &Step::Append(vec![record(next, 600)]));
                assert!(history.all_acknowledged(), "{context}");
                disk.crash(cut);
                let (log, opened) = open(&disk).unwrap_or_else(|e| panic!("{context}: {e}"));
                history.check_open(&log, &opened).unwrap_or_else(|e| panic!("{context}: {e}"));
            }
        }
    }
    assert!(truncated > 100, "only {truncated} torn ends were seen");
}

#[test]
fn after_many_crashes_in_a_row_what_was_acknowledged_is_there() {
    for seed in 0..200 {
        let mut dice = Dice(seed ^ 0xabc);
        let disk = SimDisk::new(seed);
        let mut history = History::default();
        let mut steps = steps(seed, 120);
        while !steps.is_empty() {
            disk.cut_power_after(1 + dice.below(120));
            let (log, opened) = match open(&disk) {
                Ok(opened) => opened,
                Err(OpenError::Io { .. }) => {
                    disk.crash(dice.below(u64::MAX));
                    continue;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            };
            history.check_open(&log, &opened).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
            let mut done = 0;
            // Steps made for another past may not fit this one: take those that do.
            for step in &steps {
                done += 1;
                if let Some(step) = fitting(step, &log) {
                    history.submit(&log, &step);
                }
                if log.failed().borrow().is_some() {
                    break;
                }
            }
            steps.drain(..done);
            drop(log);
            match dice.below(3) {
                0 => disk.restart(),
                _ => disk.crash(dice.below(u64::MAX)),
            }
        }
        let (log, opened) = open(&disk).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        history.check_open(&log, &opened).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// The step, with its indexes moved to where the log is.
fn fitting(step: &Step, log: &Log) -> Option<Step> {
    let state = log.state();
    let last = state.last.map_or(0, |(last, _)| last);
    let purged = state.purged.map_or(0, |(purged, _)| purged);
    match step {
        Step::Append(records) => {
            let moved = records.iter().zip(last + 1..);
            Some(Step::Append(moved.map(|(r, index)| Record { index, ..r.clone() }).collect()))
        }
        Step::Truncate(kept) => Some(Step::Truncate((*kept).clamp(purged, last))),
        Step::Purge(upto, id) => (*upto > purged).then(|| Step::Purge(*upto, id.clone())),
        Step::Vote(_) | Step::Committed(_) => Some(step.clone()),
        Step::Batch(_) | Step::Reopen => None,
    }
}

#[test]
fn recovery_can_be_interrupted_anywhere_and_repeated() {
    let mut interrupted = 0;
    for seed in 0..40 {
        let steps = steps(seed, 40);
        let count = operations(seed, &steps);
        let cut = 1 + Dice(seed).below(count);
        let disk = SimDisk::new(seed);
        disk.cut_power_after(cut);
        let mut history = History::default();
        run(&disk, &steps, &mut history);
        disk.crash(seed);
        let expected = View::of(&open(&disk.fork()).unwrap().0);
        for cut in 1.. {
            let disk = disk.fork();
            disk.cut_power_after(cut);
            let through = open(&disk).is_ok();
            disk.crash(seed + cut);
            let (log, _) = open(&disk).unwrap_or_else(|e| panic!("seed {seed} cut {cut}: {e:?}"));
            assert_eq!(View::of(&log), expected, "seed {seed}, recovery cut at {cut}");
            if through {
                break;
            }
            interrupted += 1;
        }
    }
    assert!(interrupted > 100, "only {interrupted} recoveries were interrupted");
}

#[test]
fn a_killed_process_loses_nothing_it_had_written() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        let mut history = History::default();
        assert!(run(&disk, &steps(seed, 60), &mut history));
        disk.restart();
        let (log, opened) = open(&disk).unwrap();
        assert_eq!(opened.truncated_tail_bytes, 0);
        history.check_open(&log, &opened).unwrap();
    }
}

/// The control: a disk whose syncs lie must be caught losing what was acknowledged, or the tests
/// above prove nothing.
#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    let (mut lost, mut noticed, mut lucky) = (0, 0, 0);
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut history = History::default();
        let steps = steps(seed, 30);
        // The lie lasts for the last few steps, more or less.
        let honest = 30 - 1 - seed as usize % 6;
        let (log, _) = open(&disk).unwrap();
        for (at, step) in steps.iter().enumerate() {
            if at == honest {
                disk.set_faults(Faults { lying_sync: true, ..Faults::default() });
            }
            if !matches!(step, Step::Reopen) {
                history.submit(&log, step);
            }
        }
        disk.crash(seed);
        disk.set_faults(Faults::default());
        match open(&disk) {
            Ok((log, opened)) => match history.check_open(&log, &opened) {
                Ok(()) => lucky += 1,
                Err(_) => lost += 1,
            },
            Err(OpenError::Amnesia { .. }) => noticed += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(lost > 0 && noticed > 0, "{lost} lost, {noticed} noticed, {lucky} lucky");
}
