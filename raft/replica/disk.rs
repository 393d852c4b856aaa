//! What a member can say of its disk.

use crate::log::Histogram;
use crate::replica::Replica;

impl Replica {
    /// How long each sync of the log has taken since the start.
    #[must_use]
    pub fn log_syncs(&self) -> Histogram {
        self.0.log_syncs()
    }

    /// Why no data is taken in now: there is no space for it.
    pub fn room(&self) -> Result<(), kontiki_storage::Error> {
        self.0.room()
    }
}
