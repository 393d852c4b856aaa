//! What all seeds of a run came to.

use std::time::Duration;

use kontiki_sim::run::Counts;

use crate::one::Told;

#[derive(Default)]
pub struct Sum {
    pub seeds: u64,
    pub simulated: Duration,
    /// Processor time of all seeds.
    pub busy: Duration,
    pub counts: Counts,
    pub operations: u64,
    pub failed: Vec<u64>,
    /// The first promise that was broken.
    pub first: Option<String>,
}

impl Sum {
    pub fn add(&mut self, told: &Told) {
        self.seeds += 1;
        self.simulated += told.simulated;
        self.busy += told.took;
        self.operations += told.operations;
        let (sum, more) = (&mut self.counts, told.counts);
        sum.faults += more.faults;
        sum.power_cuts += more.power_cuts;
        sum.damages += more.damages;
        sum.found += more.found;
        sum.failed_disks += more.failed_disks;
        sum.changes += more.changes;
        sum.snapshots += more.snapshots;
        if let Some(violation) = told.violations.first() {
            self.failed.push(told.seed);
            self.first.get_or_insert_with(|| violation.promise.clone());
        }
    }

    pub fn text(&self, real: Duration) -> String {
        let Counts { faults, power_cuts, damages, found, failed_disks, changes, snapshots } =
            self.counts;
        let ratio = self.simulated.as_secs_f64() / real.as_secs_f64().max(0.001);
        format!(
            "{} seeds: {:.1} simulated minutes in {:.1} real seconds, {ratio:.0} times; {faults} \
             faults, {power_cuts} power cuts, {failed_disks} failed disks, {damages} damages of \
             which {found} mattered and were known, {changes} members came or went, {snapshots} \
             watchers were cut by snapshots; {} operations judged; {} seeds failed {:?}",
            self.seeds,
            self.simulated.as_secs_f64() / 60.0,
            real.as_secs_f64(),
            self.operations,
            self.failed.len(),
            self.failed
        )
    }
}
