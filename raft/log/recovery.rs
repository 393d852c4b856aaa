//! Opens a log: reads every segment, decides what its end means, and makes it writable.
//!
//! Keeps: nothing is changed on disk before the whole log was read and judged; what is kept was
//! synced (again) before the log is handed out; dying anywhere in here and opening again ends the
//! same.
//! Never: repairs by guessing. A witness that is gone is written anew only when the records
//! themselves are whole, and `Opened::repaired` says so.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Identity;
use super::disk::{Disk, File};
use super::error::{Doing, OpenError};
use super::files::{AnchorFile, make_segment, prepare_spare};
use super::format::{
    ANCHOR_BYTES, Anchor, DATA_OFFSET, PAGE_BYTES, Position, RING_SLOTS, SECTOR_BYTES, Sector,
    SectorError, SegmentHeader, Slot, align, chain_origin,
};
use super::read::read_entry;
use super::replay::Replay;
use super::scan::{Boundary, Reader, Stop};
use super::segment::{
    ANCHOR_NAME, ANCHOR_NEW_NAME, SPARE_NAME, Segment, Segments, segment_name, sequence_of,
};
use super::verdict::{Evidence, Verdict, judge};

/// The segment that grows.
pub(super) struct Active {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn File>,
    pub(super) bytes: u64,
    /// Behind the last synced group.
    pub(super) synced: Position,
    pub(super) slot_next: u64,
}

pub(super) struct Recovered {
    pub(super) segments: Segments,
    pub(super) active: Active,
    pub(super) anchor: AnchorFile,
    pub(super) replay: Replay,
    pub(super) truncated_tail_bytes: u64,
    pub(super) created: bool,
    pub(super) repaired: Vec<String>,
}

enum FoundAnchor {
    Missing,
    /// There, and nothing in it can be read.
    Damaged,
    Whole(Arc<dyn File>, Anchor),
}

pub(super) fn recover(
    disk: &dyn Disk,
    identity: Identity,
    first: First,
) -> Result<Recovered, OpenError> {
    let names = disk.list().doing("list", "the log's directory")?;
    let mut sequences: Vec<u64> = names.iter().filter_map(|name| sequence_of(name)).collect();
    sequences.sort_unstable();
    let anchor = read_anchor(disk, identity, &names)?;
    let Some(last) = sequences.last().copied() else {
        return match anchor {
            FoundAnchor::Missing => create(disk, identity, first),
            _ => Err(OpenError::amnesia("the directory", "all segments are missing")),
        };
    };
    // Older segments are removed one by one: a gap is no harm while nothing below it is needed.
    let run = (0..sequences.len() as u64)
        .take_while(|back| sequences.contains(&last.wrapping_sub(*back)))
        .count();
    let run = &sequences[sequences.len() - run..];
    if let FoundAnchor::Whole(_, anchor) = &anchor
        && anchor.segment > last
    {
        return Err(OpenError::amnesia(segment_name(anchor.segment), "the segment is missing"));
    }
    let mut recovered = read_run(disk, identity, run, anchor)?;
    for name in names {
        let leftover = sequence_of(&name).is_some_and(|sequence| sequence < run[0]);
        if leftover || name == SPARE_NAME || name == ANCHOR_NEW_NAME {
            match disk.remove(&name) {
                // A new anchor may have had its name just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                removed => removed.doing("remove", &name)?,
            }
        }
    }
    if recovered.replay.last_id.is_none() && recovered.replay.last > 0 {
        let last = recovered.replay.last;
        let entry = recovered.segments.run(last, 1).expect("checked to be there");
        recovered.replay.last_id = Some(read_entry(&entry)?.id);
    }
    Ok(recovered)
}

/// How a log's first segment is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    pub(super) bytes: u64,
    pub(super) written_ahead: bool,
}

fn create(disk: &dyn Disk, identity: Identity, first: First) -> Result<Recovered, OpenError> {
    let segment_bytes = first.bytes;
    let file = prepare_spare(disk, segment_bytes, first.written_ahead)?;
    let chain = chain_origin(identity);
    let header = SegmentHeader {
        identity,
        sequence: 1,
        segment_bytes,
        chain,
        next_index: 1,
        previous_end: 0,
    };
    make_segment(disk, &*file, &header)?;
    let synced = Position { offset: DATA_OFFSET, chain };
    // The anchor comes last: from here on an empty directory is known not to be a new one.
    let anchor = AnchorFile::create(disk, identity, 1, synced)?;
    let mut segments = Segments::default();
    segments.push(Segment::new(1, file.clone(), segment_bytes));
    Ok(Recovered {
        segments,
        active: Active { sequence: 1, file, bytes: segment_bytes, synced, slot_next: RING_SLOTS },
        anchor,
        replay: Replay::default(),
        truncated_tail_bytes: 0,
        created: true,
        repaired: Vec::new(),
    })
}

fn read_anchor(
    disk: &dyn Disk,
    identity: Identity,
    names: &[String],
) -> Result<FoundAnchor, OpenError> {
    if !names.iter().any(|name| name == ANCHOR_NAME) {
        return Ok(FoundAnchor::Missing);
    }
    let file = disk.open(ANCHOR_NAME).doing("open", ANCHOR_NAME)?;
    if file.length().doing("look at", ANCHOR_NAME)? < ANCHOR_BYTES {
        return Ok(FoundAnchor::Damaged);
    }
    let mut latest: Option<Anchor> = None;
    for number in 0..2 {
        let sector = read_sector(&*file, Anchor::offset(number), ANCHOR_NAME)?;
        match Anchor::decode(&sector) {
            Ok(anchor) => {
                check_identity(anchor.identity, identity, ANCHOR_NAME)?;
                if latest.is_none_or(|latest| latest.number < anchor.number) {
                    latest = Some(anchor);
                }
            }
            Err(SectorError::Version(version)) => return Err(newer(version, ANCHOR_NAME)),
            Err(SectorError::Damaged) => (),
        }
    }
    Ok(latest.map_or(FoundAnchor::Damaged, |latest| FoundAnchor::Whole(file, latest)))
}

fn read_sector(file: &dyn File, offset: u64, name: &str) -> io::Result<Sector> {
    let mut sector = [0; SECTOR_BYTES as usize];
    file.read_at(&mut sector, offset).doing("read", name)?;
    Ok(sector)
}

fn check_identity(found: Identity, ours: Identity, name: &str) -> Result<(), OpenError> {
    if found == ours {
        return Ok(());
    }
    Err(OpenError::Refused {
        what: format!(
            "{name} belongs to node {:x} of cluster {:x}, this is node {:x} of cluster {:x}",
            found.node, found.cluster, ours.node, ours.cluster
        ),
        advice: "start with the data directory of this member".to_owned(),
    })
}

fn newer(version: u32, name: &str) -> OpenError {
    OpenError::Refused {
        what: format!("{name} has format {version}, this program knows {}", super::format::VERSION),
        advice: "start a release that knows the format, or the one that wrote it".to_owned(),
    }
}

/// What is vouched for in a segment, ticked off as the walk passes it.
#[derive(Default)]
struct Claims {
    open: BTreeMap<u64, u64>,
    furthest: u64,
    contradicted: Option<u64>,
    written: Option<Position>,
    written_passed: bool,
}

impl Claims {
    fn add(&mut self, claim: Position) {
        self.furthest = self.furthest.max(claim.offset);
        if self.open.insert(claim.offset, claim.chain).is_some_and(|chain| chain != claim.chain) {
            self.contradicted = Some(claim.offset);
        }
    }
}

impl Boundary for Claims {
    fn pass(&mut self, position: Position) {
        if self.open.remove(&position.offset).is_some_and(|chain| chain != position.chain) {
            self.contradicted = Some(position.offset);
        }
        self.written_passed |= self.written == Some(position);
    }
}

/// A segment's file and header, looked at before any of its records.
struct Opening {
    name: String,
    file: Arc<dyn File>,
    header: SegmentHeader,
}

fn open_segment(disk: &dyn Disk, identity: Identity, sequence: u64) -> Result<Opening, OpenError> {
    let name = segment_name(sequence);
    let damaged = |what: &str| OpenError::amnesia(name.clone(), what);
    let file = disk.open(&name).doing("open", &name)?;
    let length = file.length().doing("look at", &name)?;
    if length < DATA_OFFSET {
        return Err(damaged("the file is cut short"));
    }
    let header = match SegmentHeader::decode(&read_sector(&*file, 0, &name)?) {
        Ok(header) => header,
        Err(SectorError::Damaged) => return Err(damaged("the header is damaged")),
        Err(SectorError::Version(version)) => return Err(newer(version, &name)),
    };
    check_identity(header.identity, identity, &name)?;
    if header.sequence != sequence {
        return Err(damaged("another segment lies in this one's place"));
    }
    if header.segment_bytes != length {
        return Err(damaged("the file's length is not what it was made with"));
    }
    Ok(Opening { name, file, header })
}

fn read_run(
    disk: &dyn Disk,
    identity: Identity,
    run: &[u64],
    anchor: FoundAnchor,
) -> Result<Recovered, OpenError> {
    let mut segments = Segments::default();
    let mut replay = Replay::default();
    let mut opening = open_segment(disk, identity, run[0])?;
    if run[0] == 1 && opening.header.chain != chain_origin(identity) {
        return Err(OpenError::amnesia(opening.name, "the first segment does not begin a log"));
    }
    replay.begin(run[0], opening.header.next_index);
    loop {
        let Opening { name, file, header } = opening;
        segments.push(Segment::new(header.sequence, file.clone(), header.segment_bytes));
        let ring = read_ring(&*file, identity, header.sequence, &name)?;
        let mut claims = Claims::default();
        claims.add(Position { offset: DATA_OFFSET, chain: header.chain });
        for slot in ring.iter().flatten() {
            claims.add(slot.synced);
        }
        if let FoundAnchor::Whole(_, anchor) = &anchor
            && anchor.segment == header.sequence
        {
            claims.add(anchor.synced);
        }
        let newest = ring.iter().flatten().max_by_key(|slot| slot.number).copied();
        claims.written = newest.map(|slot| slot.written);
        let mut reader = Reader::new(&*file, header.segment_bytes);
        let stop = reader
            .records(header.chain, &mut claims, |found| replay.apply(found, &mut segments))
            .doing("read", &name)?;
        let end = stop.position.offset;
        let skipped = claims.open.range(..=end).next().map(|(offset, _)| *offset);
        if let Some(offset) = claims.contradicted.or(skipped) {
            let what = "the records are not those that were synced here";
            return Err(OpenError::amnesia(format!("{name} before byte {offset}"), what));
        }
        if header.sequence != run[run.len() - 1] {
            let next = open_segment(disk, identity, header.sequence + 1)?;
            let expected = Position { offset: next.header.previous_end, chain: next.header.chain };
            if stop.position != expected || claims.furthest > end {
                let what = stop.broken.unwrap_or("synced records are missing");
                return Err(OpenError::amnesia(format!("{name} at byte {end}"), what));
            }
            if next.header.next_index != replay.last + 1 {
                let what = "the segment does not follow the one before it";
                return Err(OpenError::amnesia(next.name, what));
            }
            replay.next_segment();
            opening = next;
            continue;
        }
        let Some(newest) = newest else {
            return Err(OpenError::amnesia(name, "the whole ring is damaged"));
        };
        let evidence = evidence(&mut reader, &ring, newest, &claims, stop, header.segment_bytes)
            .doing("read", &name)?;
        let verdict = judge(&evidence);
        if let Verdict::Damaged(what) = verdict {
            return Err(OpenError::amnesia(format!("{name} at byte {end}"), what));
        }
        replay.check_complete(&segments, &name)?;
        let tail = Tail { name, file, header, ring, evidence };
        return tail.settle(disk, identity, segments, replay, anchor);
    }
}

fn read_ring(
    file: &dyn File,
    identity: Identity,
    sequence: u64,
    name: &str,
) -> io::Result<Vec<Option<Slot>>> {
    (0..RING_SLOTS)
        .map(|place| {
            let sector = read_sector(file, Slot::offset(place), name)?;
            Ok(Slot::decode(&sector, identity, sequence, place))
        })
        .collect()
}

fn evidence(
    reader: &mut Reader<'_>,
    ring: &[Option<Slot>],
    newest: Slot,
    claims: &Claims,
    stop: Stop,
    segment_bytes: u64,
) -> io::Result<Evidence> {
    let end = stop.position.offset;
    // Two slots may be under way at a time: a group's, and the one that vouches for the group
    // before.
    let suspect = |ahead: u64| ring[((newest.number + ahead) % RING_SLOTS) as usize].is_none();
    let written = newest.written.offset.min(segment_bytes);
    let zero_sectors = match !claims.written_passed {
        true => reader.zero_sectors(newest.synced.offset, written)?,
        false => 0,
    };
    Ok(Evidence {
        synced: claims.furthest,
        newest,
        written_passed: claims.written_passed,
        ring_suspect: suspect(1) || suspect(2),
        last_nonzero: reader.nonzero(end, segment_bytes)?.map(|(_, last)| last),
        zero_sectors,
        stop,
    })
}

/// The last segment, found fit to go on with.
struct Tail {
    name: String,
    file: Arc<dyn File>,
    header: SegmentHeader,
    ring: Vec<Option<Slot>>,
    evidence: Evidence,
}

impl Tail {
    /// Zeros what was torn, makes sure of what is kept, and lets ring and anchor vouch for it.
    fn settle(
        self,
        disk: &dyn Disk,
        identity: Identity,
        segments: Segments,
        replay: Replay,
        anchor: FoundAnchor,
    ) -> Result<Recovered, OpenError> {
        let Tail { name, file, header, ring, evidence } = self;
        let Evidence { stop, newest, last_nonzero, .. } = &evidence;
        let end = stop.position.offset;
        let kept = Position { offset: align(end, SECTOR_BYTES), chain: stop.position.chain };
        let mut repaired = Vec::new();
        let truncated_tail_bytes = last_nonzero.map_or(0, |last| last + 1 - end);
        write_zeros(&*file, end, end + truncated_tail_bytes).doing("write", &name)?;
        // After a failed sync the kernel calls pages clean that never reached the disk, and a new
        // sync would skip them. Written again they are dirty again.
        let vouched = evidence.synced.min(end);
        rewrite(&*file, vouched, end).doing("write", &name)?;
        let settled = newest.synced == kept
            && newest.written == kept
            && truncated_tail_bytes == 0
            && ring.iter().all(Option::is_some);
        let mut slot_next = newest.number + 1;
        // A process may have died between a rename and its sync: what is vouched for below must
        // keep its name.
        disk.sync_directory().doing("sync the directory of", &name)?;
        if !settled {
            file.sync_data().doing("sync", &name)?;
            let vouch = |number| Slot {
                number,
                segment: header.sequence,
                synced: kept,
                written: kept,
                zero_sectors: 0,
            };
            let lost: Vec<u64> =
                (0..RING_SLOTS).filter(|place| ring[*place as usize].is_none()).collect();
            if !lost.is_empty() {
                repaired.push(format!("{} damaged ring slots of {name}", lost.len()));
            }
            for place in lost {
                // The number such a slot had at the latest; never above the newest.
                let behind = (newest.number + RING_SLOTS - place) % RING_SLOTS;
                if let Some(number) = newest.number.checked_sub(behind) {
                    let sector = vouch(number).encode(identity);
                    file.write_at(&sector, Slot::offset(number)).doing("write", &name)?;
                }
            }
            let sector = vouch(slot_next).encode(identity);
            file.write_at(&sector, Slot::offset(slot_next)).doing("write", &name)?;
            file.sync_data().doing("sync", &name)?;
            slot_next += 1;
        }
        let anchor = match anchor {
            FoundAnchor::Whole(file, latest) => {
                let mut anchor = AnchorFile::existing(file, latest);
                // Always a new slot: a sync that failed earlier may have left the old one readable
                // only.
                anchor.note(header.sequence, kept)?;
                anchor.vouch(header.sequence, kept)?;
                anchor
            }
            found => {
                let was = if matches!(found, FoundAnchor::Missing) { "missing" } else { "damaged" };
                repaired.push(format!("the {was} anchor"));
                AnchorFile::create(disk, identity, header.sequence, kept)?
            }
        };
        Ok(Recovered {
            segments,
            active: Active {
                sequence: header.sequence,
                file,
                bytes: header.segment_bytes,
                synced: kept,
                slot_next,
            },
            anchor,
            replay,
            truncated_tail_bytes,
            created: false,
            repaired,
        })
    }
}

fn write_zeros(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let zeros = [0; PAGE_BYTES as usize];
    let mut offset = from;
    while offset < to {
        let count = zeros.len().min((to - offset) as usize);
        file.write_at(&zeros[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

fn rewrite(file: &dyn File, from: u64, to: u64) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut offset = from;
    while offset < to {
        let count = buffer.len().min((to - offset) as usize);
        file.read_at(&mut buffer[..count], offset)?;
        file.write_at(&buffer[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// What the owner learns on opening. See [`super::Opened`].
pub(super) fn opened(recovered: &Recovered) -> super::Opened {
    let replay = &recovered.replay;
    let last = replay.last_id.clone().map(|id: Bytes| (replay.last, id));
    super::Opened {
        first: replay.first(),
        last,
        purged: replay.purged.clone(),
        vote: replay.vote.clone(),
        committed: replay.committed.clone(),
        truncated_tail_bytes: recovered.truncated_tail_bytes,
        segments: recovered.segments.len(),
        created: recovered.created,
        repaired: recovered.repaired.clone(),
    }
}
