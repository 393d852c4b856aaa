//! Makes the log's files: a spare, a segment out of it, the anchor.
//!
//! Keeps: a file has its final name only when everything it needs was synced; a spare holds zeros
//! only, so that what a segment has never been given to keep reads as zero (`verdict` builds on
//! it). Every call here blocks on the disk; errors name the file.
//!
//! Zeros that are written are not zeros that are reserved. The first write to a reserved block changes the
//! file's block map, by the file system's journal. Where that journal is given up in the midst of an
//! `fdatasync` (an error of the disk, a shutdown of the file system), ext4 drops the change and says that all
//! is well: measured on Linux 6.18, once in 60 times. The process goes on and acknowledges what is gone. A
//! block that was written before needs no journal.

use std::io;
use std::sync::Arc;

use super::Identity;
use super::disk::{Disk, File};
use super::error::Doing;
use super::format::{
    ANCHOR_BYTES, Anchor, DATA_OFFSET, Position, RING_OFFSET, RING_SLOTS, SegmentHeader, Slot,
};
use super::segment::{ANCHOR_NAME, ANCHOR_NEW_NAME, SPARE_NAME, segment_name};

/// How much is written at a time when zeros are written ahead: small, so that a sync of the log
/// beside it waits for little.
const ZEROS_BYTES: usize = 256 << 10;

/// Reserves the next segment. `written_ahead`: also writes the zeros out, so that a later
/// `fdatasync` has no change of the file's block map to commit, or to lose. Leaves nothing behind when it
/// fails.
pub(super) fn prepare_spare(
    disk: &dyn Disk,
    bytes: u64,
    written_ahead: bool,
) -> io::Result<Arc<dyn File>> {
    let prepare = || {
        let file = disk.create(SPARE_NAME).doing("create", SPARE_NAME)?;
        file.allocate(bytes).doing("reserve space for", SPARE_NAME)?;
        if written_ahead {
            let zeros = vec![0; ZEROS_BYTES];
            let mut offset = 0;
            while offset < bytes {
                let count = zeros.len().min((bytes - offset) as usize);
                file.write_at(&zeros[..count], offset).doing("write zeros to", SPARE_NAME)?;
                offset += count as u64;
            }
        }
        file.sync_data().doing("sync", SPARE_NAME)?;
        Ok(file)
    };
    prepare().inspect_err(|_| {
        // The name is reused; what could not be removed is emptied at the next try.
        let _ = disk.remove(SPARE_NAME);
    })
}

/// Gives a spare its header and ring, then its name.
pub(super) fn make_segment(
    disk: &dyn Disk,
    spare: &dyn File,
    header: &SegmentHeader,
) -> io::Result<()> {
    let name = segment_name(header.sequence);
    let start = Position { offset: DATA_OFFSET, chain: header.chain };
    let mut head = vec![0; DATA_OFFSET as usize];
    let sector = header.encode();
    head[..sector.len()].copy_from_slice(&sector);
    // Filled from the start: an invalid slot then always means damage.
    for number in 0..RING_SLOTS {
        let slot = Slot {
            number,
            segment: header.sequence,
            synced: start,
            written: start,
            zero_sectors: 0,
        };
        let sector = slot.encode(header.identity);
        let at = Slot::offset(number) as usize;
        head[at..at + sector.len()].copy_from_slice(&sector);
    }
    debug_assert_eq!(Slot::offset(0), RING_OFFSET);
    spare.write_at(&head, 0).doing("write the header of", &name)?;
    spare.sync_data().doing("sync", &name)?;
    disk.rename(SPARE_NAME, &name).doing("rename a spare to", &name)?;
    disk.sync_directory().doing("sync the directory of", &name)
}

/// The second witness of how far the log reaches.
pub(super) struct AnchorFile {
    file: Arc<dyn File>,
    latest: Anchor,
    /// `latest` was written and not synced.
    dirty: bool,
}

impl AnchorFile {
    /// An anchor that is there, whose newest slot is `latest`.
    pub(super) fn existing(file: Arc<dyn File>, latest: Anchor) -> AnchorFile {
        // Read back, which says nothing of the disk when the process died and the kernel didn't.
        AnchorFile { file, latest, dirty: true }
    }

    pub(super) fn create(
        disk: &dyn Disk,
        identity: Identity,
        segment: u64,
        synced: Position,
    ) -> io::Result<AnchorFile> {
        let file = disk.create(ANCHOR_NEW_NAME).doing("create", ANCHOR_NEW_NAME)?;
        let latest = Anchor { identity, number: 0, segment, synced };
        let mut whole = vec![0; ANCHOR_BYTES as usize];
        let sector = latest.encode();
        whole[..sector.len()].copy_from_slice(&sector);
        file.write_at(&whole, Anchor::offset(0)).doing("write", ANCHOR_NEW_NAME)?;
        file.sync_data().doing("sync", ANCHOR_NEW_NAME)?;
        disk.rename(ANCHOR_NEW_NAME, ANCHOR_NAME).doing("rename to", ANCHOR_NAME)?;
        disk.sync_directory().doing("sync the directory of", ANCHOR_NAME)?;
        Ok(AnchorFile { file, latest, dirty: false })
    }

    /// Whether it durably says that the log was synced up to here.
    pub(super) fn vouches(&self, segment: u64, synced: Position) -> bool {
        !self.dirty && (self.latest.segment, self.latest.synced) == (segment, synced)
    }

    /// Says that the log was synced up to here, without a sync of its own.
    pub(super) fn note(&mut self, segment: u64, synced: Position) -> io::Result<()> {
        let next = Anchor { number: self.latest.number + 1, segment, synced, ..self.latest };
        let sector = next.encode();
        self.file.write_at(&sector, Anchor::offset(next.number)).doing("write", ANCHOR_NAME)?;
        self.latest = next;
        self.dirty = true;
        Ok(())
    }

    /// Says so durably.
    pub(super) fn vouch(&mut self, segment: u64, synced: Position) -> io::Result<()> {
        if (self.latest.segment, self.latest.synced) != (segment, synced) {
            self.note(segment, synced)?;
        }
        if self.dirty {
            self.file.sync_data().doing("sync", ANCHOR_NAME)?;
            self.dirty = false;
        }
        Ok(())
    }
}
