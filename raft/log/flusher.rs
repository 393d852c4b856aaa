//! Writes what was submitted, group by group: the only place that writes to a segment.
//!
//! A group is everything that was waiting, as one write; its ring slot; ONE sync; then the
//! callbacks, in order. Nobody is waited for: a lone writer's record is a group of its own, and
//! what arrives during a sync is the next group.
//!
//! Keeps: a callback hears of success only after the sync of its last byte and of everything
//! before it. After any error nothing is written any more and every callback hears of it.
//!
//! Vouching. A group's own slot can't prove that it was acknowledged (`verdict`). The next group's
//! slot does. When none is waiting, a slot and the anchor vouch for it at once, without a sync:
//! both survive the process, and reach the disk with the next group or the kernel's own writeback.
//! After `vouch_after` without work, as well as on closing and on beginning a segment, the anchor
//! is synced. So whole sectors zeroed in the last group can be taken for a torn write only within
//! `vouch_after` of its acknowledgement, and only if the power also fails in that time.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Done;
use super::error::Doing;
use super::files::{AnchorFile, make_segment};
use super::format::{
    Carry, DATA_OFFSET, Kind, PAGE_BYTES, Position, RING_SLOTS, SECTOR_BYTES, SegmentHeader, Slot,
    align, encode_record, record_bytes, zero_sectors,
};
use super::recovery::Active;
use super::segment::{Segment, segment_name};
use super::stream::{Core, Operation, Submitted, closed, share, stall};

pub(super) struct Flusher {
    core: Arc<Core>,
    active: Active,
    anchor: AnchorFile,
    /// The group being encoded; it begins at `active.synced`.
    buffer: Vec<u8>,
    chain: u64,
    records: u64,
    changes: Vec<Change>,
    dones: Vec<Waiting>,
    /// Operations whose last byte is in `buffer` or on disk.
    encoded: u64,
    /// The state as of the last record encoded.
    carry: Carry,
    last: u64,
}

struct Waiting {
    bytes: u64,
    done: Done,
}

/// What a group does to the places of entries, once it is durable.
enum Change {
    Entry(u64, u32),
    Truncate(u64),
    Purge(u64),
}

impl Flusher {
    pub(super) fn new(
        core: Arc<Core>,
        active: Active,
        anchor: AnchorFile,
        carry: Carry,
        last: u64,
    ) -> Flusher {
        let chain = active.synced.chain;
        let flusher = Flusher {
            core,
            active,
            anchor,
            buffer: Vec::new(),
            chain,
            records: 0,
            changes: Vec::new(),
            dones: Vec::new(),
            encoded: 0,
            carry,
            last,
        };
        flusher.publish_room();
        flusher
    }

    /// A thread's life: until the log is closed or fails.
    pub(super) fn run(mut self) {
        let watch = PanicWatch(self.core.clone());
        loop {
            let mut shared = self.core.shared.lock();
            while shared.queue.is_empty() && !shared.closing {
                if self.anchor.vouches(self.active.sequence, self.active.synced) {
                    self.core.work.wait(&mut shared);
                } else if self
                    .core
                    .work
                    .wait_for(&mut shared, self.core.options.vouch_after)
                    .timed_out()
                {
                    break;
                }
            }
            let idle = shared.queue.is_empty();
            let closing = shared.closing;
            drop(shared);
            let done = match (idle, closing) {
                (false, _) => self.drain(),
                (true, false) => self.guarded(Flusher::vouch),
                (true, true) => {
                    self.close();
                    break;
                }
            };
            if !done {
                break;
            }
        }
        std::mem::forget(watch);
    }

    /// Writes everything that waits. False when the log has failed, now or before.
    pub(super) fn drain(&mut self) -> bool {
        loop {
            let mut shared = self.core.shared.lock();
            let mut batch = std::mem::take(&mut shared.queue);
            if batch.is_empty() {
                return shared.stopped.is_none() || shared.closing;
            }
            let due = std::mem::take(&mut shared.committed_due);
            let committed = shared.committed.clone().filter(|_| due);
            drop(shared);
            let written = self.write(&mut batch, committed).and_then(|()| self.tidy());
            if let Err(error) = written {
                self.fail(error, batch);
                return false;
            }
        }
    }

    /// The last words: the committed mark, and an anchor that vouches for everything.
    pub(super) fn close(&mut self) {
        if !self.drain() {
            return;
        }
        self.guarded(|flusher| {
            let mut shared = flusher.core.shared.lock();
            let due = std::mem::take(&mut shared.committed_due);
            let committed = shared.committed.clone().filter(|_| due);
            drop(shared);
            flusher.write(&mut VecDeque::new(), committed)?;
            flusher.vouch()
        });
        self.core.shared.lock().stopped.get_or_insert_with(closed);
    }

    fn guarded(&mut self, act: impl FnOnce(&mut Flusher) -> io::Result<()>) -> bool {
        if self.core.failed.borrow().is_some() {
            return false;
        }
        match act(self) {
            Ok(()) => true,
            Err(error) => {
                self.fail(error, VecDeque::new());
                false
            }
        }
    }

    /// Tells everybody, in the order of submission.
    fn fail(&mut self, error: io::Error, batch: VecDeque<Submitted>) {
        let error = self.core.fail(error);
        self.core.busy(false);
        for waiting in self.dones.drain(..) {
            (waiting.done)(Err(share(&error)));
        }
        let queue = std::mem::take(&mut self.core.shared.lock().queue);
        for submitted in batch.into_iter().chain(queue) {
            (submitted.done)(Err(share(&error)));
        }
    }

    fn write(
        &mut self,
        batch: &mut VecDeque<Submitted>,
        committed: Option<Bytes>,
    ) -> io::Result<()> {
        while let Some(Submitted { operation, bytes, done }) = batch.pop_front() {
            let encoded = self.encode(operation);
            self.dones.push(Waiting { bytes, done });
            encoded?;
            self.encoded += 1;
        }
        // Behind the entries it may speak of.
        if let Some(committed) = committed {
            self.put(Kind::Committed, 0, &[], &committed)?;
            self.carry.committed = Some(committed);
        }
        self.flush()
    }

    fn encode(&mut self, operation: Operation) -> io::Result<()> {
        match operation {
            Operation::Append(records) => {
                for record in &records {
                    let offset =
                        self.put(Kind::Entry, record.index, &record.id, &record.payload)?;
                    self.changes.push(Change::Entry(record.index, offset));
                    self.last = record.index;
                }
            }
            Operation::Vote(vote) => {
                self.put(Kind::Vote, 0, &[], &vote)?;
                self.carry.vote = Some(vote);
            }
            Operation::Truncate(kept) => {
                self.put(Kind::Truncate, kept, &[], &[])?;
                self.changes.push(Change::Truncate(kept));
                self.last = self.last.min(kept);
            }
            Operation::Purge(upto, id) => {
                self.put(Kind::Purge, upto, &id, &[])?;
                self.changes.push(Change::Purge(upto));
                self.carry.purged = Some((upto, id));
                self.last = self.last.max(upto);
            }
        }
        Ok(())
    }

    /// Adds a record to the group, after making room for it; returns where in the segment it will
    /// lie.
    fn put(&mut self, kind: Kind, index: u64, id: &[u8], payload: &[u8]) -> io::Result<u32> {
        let length = record_bytes(id.len(), payload.len());
        if self.buffer.len() + length > self.core.options.group_bytes_max {
            self.flush()?;
        }
        if !self.fits(length) {
            self.flush()?;
            self.rotate()?;
        }
        if self.active.sequence > 1
            && self.buffer.is_empty()
            && self.active.synced.offset == DATA_OFFSET
        {
            let carried = self.carry.encode();
            self.add(Kind::Carry, self.last, &[], &carried);
        }
        // `Log::append` has asserted that a record fits into an empty segment.
        assert!(self.fits(length), "a record of {length} bytes does not fit into a segment");
        Ok(self.add(kind, index, id, payload))
    }

    fn add(&mut self, kind: Kind, index: u64, id: &[u8], payload: &[u8]) -> u32 {
        let offset = self.active.synced.offset + self.buffer.len() as u64;
        self.chain = encode_record(&mut self.buffer, kind, index, id, payload, self.chain);
        self.records += 1;
        u32::try_from(offset).expect("a segment is smaller than 4 GiB")
    }

    fn fits(&self, length: usize) -> bool {
        let end = self.active.synced.offset + (self.buffer.len() + length) as u64;
        align(end, SECTOR_BYTES) <= self.active.bytes
    }

    /// Makes the group durable and says so.
    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.write_group()?;
        }
        let mut shared = self.core.shared.lock();
        for change in self.changes.drain(..) {
            match change {
                Change::Entry(index, offset) => shared.segments.add(index, offset),
                Change::Truncate(kept) => shared.segments.truncate_after(kept),
                Change::Purge(upto) => shared.segments.clear_upto(upto),
            }
        }
        shared.durable = self.encoded;
        shared.cache.evict(self.encoded);
        drop(shared);
        for Waiting { bytes, done } in self.dones.drain(..) {
            self.core.metrics.pending_bytes.fetch_sub(bytes, Ordering::Relaxed);
            done(Ok(()));
        }
        Ok(())
    }

    fn write_group(&mut self) -> io::Result<()> {
        let bytes = self.buffer.len();
        let image = align(bytes as u64, SECTOR_BYTES);
        self.buffer.resize(image as usize, 0);
        let start = self.active.synced;
        let written = Position { offset: start.offset + image, chain: self.chain };
        let slot = Slot {
            number: self.active.slot_next,
            segment: self.active.sequence,
            synced: start,
            written,
            zero_sectors: zero_sectors(&self.buffer),
        };
        // Whole pages, so that the kernel never has to read one to change a part of it. What is
        // added is zero, as is what it replaces.
        let pages_end = align(written.offset, PAGE_BYTES);
        self.buffer.resize((pages_end - start.offset) as usize, 0);
        let name = segment_name(self.active.sequence);
        let began = self.core.awake.now();
        self.core.busy(true);
        self.active.file.write_at(&self.buffer, start.offset).doing("write to", &name)?;
        self.write_slot(&slot)?;
        self.active.file.sync_data().doing("sync", &name)?;
        self.core.busy(false);
        let took = self.core.awake.now().saturating_sub(began);
        if took > self.core.options.stall_max {
            return Err(stall(self.core.options.stall_max));
        }
        if let Some(error) = self.core.failed.borrow().as_ref() {
            return Err(share(error));
        }
        self.core.metrics.group_synced(took, self.records, bytes as u64);
        self.records = 0;
        self.active.synced = written;
        self.buffer.clear();
        // A record larger than a group is rare; its buffer is not kept for it.
        self.buffer.shrink_to(self.core.options.group_bytes_max);
        self.publish_room();
        Ok(())
    }

    fn write_slot(&mut self, slot: &Slot) -> io::Result<()> {
        let sector = slot.encode(self.core.identity);
        self.active
            .file
            .write_at(&sector, Slot::offset(slot.number))
            .doing("write the ring of", &segment_name(self.active.sequence))?;
        self.active.slot_next = slot.number + 1;
        Ok(())
    }

    /// After the callbacks: vouch for what they were told, have old segments removed.
    fn tidy(&mut self) -> io::Result<()> {
        let mut shared = self.core.shared.lock();
        let waiting = !shared.queue.is_empty();
        // What older segments say is repeated in this one's first group.
        let carried = self.active.synced.offset > DATA_OFFSET;
        let removed = match (&self.carry.purged, carried) {
            (Some((purged, _)), true) => shared.segments.remove_upto(*purged),
            _ => Vec::new(),
        };
        drop(shared);
        if !removed.is_empty() {
            self.core.spares.remove(removed);
        }
        if !self.core.options.flusher.has_threads() {
            self.core.spares.work()?;
        }
        if waiting {
            return Ok(());
        }
        let synced = self.active.synced;
        self.write_slot(&Slot {
            number: self.active.slot_next,
            segment: self.active.sequence,
            synced,
            written: synced,
            zero_sectors: 0,
        })?;
        self.anchor.note(self.active.sequence, synced)
    }

    fn vouch(&mut self) -> io::Result<()> {
        let (sequence, synced) = (self.active.sequence, self.active.synced);
        if self.anchor.vouches(sequence, synced) {
            return Ok(());
        }
        self.core.busy(true);
        self.anchor.vouch(sequence, synced)?;
        self.core.busy(false);
        self.core.metrics.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Goes on in a new segment. Everything so far is synced, which is what its header says by
    /// being there.
    fn rotate(&mut self) -> io::Result<()> {
        assert!(self.buffer.is_empty(), "a group lies in one segment");
        self.core.busy(true);
        let file = self.core.spares.take()?;
        let header = SegmentHeader {
            identity: self.core.identity,
            sequence: self.active.sequence + 1,
            segment_bytes: self.core.options.segment_bytes,
            chain: self.active.synced.chain,
            next_index: self.last + 1,
            previous_end: self.active.synced.offset,
        };
        make_segment(&*self.core.disk, &*file, &header)?;
        self.active = Active {
            sequence: header.sequence,
            file: file.clone(),
            bytes: header.segment_bytes,
            synced: Position { offset: DATA_OFFSET, chain: header.chain },
            slot_next: RING_SLOTS,
        };
        // Before anything in it is acknowledged: the segment can't go missing unnoticed.
        self.vouch()?;
        self.core.busy(false);
        let segment = Segment::new(header.sequence, file, header.segment_bytes);
        self.core.shared.lock().segments.push(segment);
        self.core.metrics.rotations.fetch_add(1, Ordering::Relaxed);
        self.core.metrics.syncs.fetch_add(2, Ordering::Relaxed);
        self.core.spares.want();
        self.publish_room();
        Ok(())
    }

    fn publish_room(&self) {
        let room = self.active.bytes - self.active.synced.offset;
        self.core.active_room.store(room, Ordering::Relaxed);
    }
}

/// A panic of the flusher must not leave callers waiting in silence.
struct PanicWatch(Arc<Core>);

impl Drop for PanicWatch {
    fn drop(&mut self) {
        let error = self.0.fail(io::Error::other("the log's flusher panicked; this is a bug"));
        let queue = std::mem::take(&mut self.0.shared.lock().queue);
        for submitted in queue {
            (submitted.done)(Err(share(&error)));
        }
    }
}
