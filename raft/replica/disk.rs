//! What a member can say of its disk.

use crate::replica::Replica;

impl Replica {
    /// Why no data is taken in now: there is no space for it.
    pub fn room(&self) -> Result<(), kontiki_storage::Error> {
        self.0.room()
    }
}
