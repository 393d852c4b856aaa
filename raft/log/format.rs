//! The bytes of a segment, a ring slot, a record and the anchor; `docs/formats/log.md` draws them.
//!
//! Keeps: every byte that matters is under a checksum, and each record's chain value depends on
//! all records before it, so a record out of place is noticed even when it is whole.
//! Never: reads or writes a disk, or decides what damage means (`verdict` does).
//! All numbers are little endian. A layout change needs a new [`VERSION`].

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::Identity;

pub(super) const VERSION: u32 = 1;
/// What a disk writes as a whole: a torn write leaves each sector either old or new.
pub(super) const SECTOR_BYTES: u64 = 512;
pub(super) const PAGE_BYTES: u64 = 4096;
pub(super) const RING_OFFSET: u64 = PAGE_BYTES;
/// Slot `n` lies at position `n % RING_SLOTS`; four pages, so that one lost page leaves older
/// slots.
pub(super) const RING_SLOTS: u64 = 32;
/// Where records begin.
pub(super) const DATA_OFFSET: u64 = RING_OFFSET + RING_SLOTS * SECTOR_BYTES;
pub(super) const RECORD_HEAD_BYTES: usize = 32;
/// The anchor has two slots, a page apart, written in turn.
pub(super) const ANCHOR_BYTES: u64 = 2 * PAGE_BYTES;

pub(super) type Sector = [u8; SECTOR_BYTES as usize];

const SEGMENT_MAGIC: &[u8; 8] = b"KTKSEGMT";
const SLOT_MAGIC: &[u8; 8] = b"KTKSLOT\0";
const ANCHOR_MAGIC: &[u8; 8] = b"KTKANCHR";
const CHECKSUM_AT: usize = SECTOR_BYTES as usize - 4;

pub(super) fn align(value: u64, to: u64) -> u64 {
    value.div_ceil(to) * to
}

/// How many bytes a record with such an id and payload takes.
pub(super) fn record_bytes(id: usize, payload: usize) -> usize {
    (RECORD_HEAD_BYTES + id + payload).next_multiple_of(8)
}

/// The chain value before the first record of a log: no two logs share it.
pub(super) fn chain_origin(identity: Identity) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&identity.cluster.to_le_bytes());
    bytes[8..].copy_from_slice(&identity.node.to_le_bytes());
    xxh3_64_with_seed(&bytes, u64::from(VERSION))
}

/// A place in a segment, and what the chain must be there. Always at a sector's boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) offset: u64,
    pub(super) chain: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Entry = 1,
    Vote = 2,
    Committed = 3,
    /// `index` is the last entry kept.
    Truncate = 4,
    /// `index` is the last entry purged, `id` its id.
    Purge = 5,
    /// First in every segment but the first one: what older segments would have told (`Carry`).
    Carry = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        [Kind::Entry, Kind::Vote, Kind::Committed, Kind::Truncate, Kind::Purge, Kind::Carry]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// The fixed part of a record, its lengths checked against each other but its content not yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHead {
    /// Of the whole record, padding included: a multiple of eight.
    pub(super) length: usize,
    checksum: u32,
    pub(super) chain: u64,
    pub(super) index: u64,
    pub(super) kind: Kind,
    id_length: usize,
    payload_length: usize,
}

impl RecordHead {
    pub(super) fn parse(head: &[u8]) -> Result<RecordHead, &'static str> {
        let length = u32_at(head, 0) as usize;
        let id_length = usize::from(u16_at(head, 26));
        let payload_length = u32_at(head, 28) as usize;
        if length != record_bytes(id_length, payload_length) {
            return Err("the record's lengths contradict each other");
        }
        let kind = Kind::from_byte(head[24]).ok_or("the record's kind is unknown")?;
        Ok(RecordHead {
            length,
            checksum: u32_at(head, 4),
            chain: u64_at(head, 8),
            index: u64_at(head, 16),
            kind,
            id_length,
            payload_length,
        })
    }

    /// Whether `record` (all `length` bytes of it) is what was written.
    pub(super) fn matches(&self, record: &[u8]) -> bool {
        record_checksum(record) == self.checksum
    }

    /// What the chain is after this record when it was `before`.
    pub(super) fn chain_after(&self, before: u64) -> u64 {
        link(before, self.checksum, self.length as u32, self.index)
    }

    pub(super) fn id<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        &record[RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + self.id_length]
    }

    pub(super) fn payload<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        let start = RECORD_HEAD_BYTES + self.id_length;
        &record[start..start + self.payload_length]
    }
}

/// Appends a record to `buffer` and returns the chain after it.
pub(super) fn encode_record(
    buffer: &mut Vec<u8>,
    kind: Kind,
    index: u64,
    id: &[u8],
    payload: &[u8],
    chain: u64,
) -> u64 {
    let length = record_bytes(id.len(), payload.len());
    assert!(id.len() <= usize::from(u16::MAX), "an id of {} bytes", id.len());
    assert!(u32::try_from(length).is_ok(), "a record of {length} bytes");
    let start = buffer.len();
    let mut head = [0; RECORD_HEAD_BYTES];
    head[..4].copy_from_slice(&(length as u32).to_le_bytes());
    head[16..24].copy_from_slice(&index.to_le_bytes());
    head[24] = kind as u8;
    head[26..28].copy_from_slice(&(id.len() as u16).to_le_bytes());
    head[28..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    buffer.extend_from_slice(&head);
    buffer.extend_from_slice(id);
    buffer.extend_from_slice(payload);
    buffer.resize(start + length, 0);
    let checksum = record_checksum(&buffer[start..]);
    let chain = link(chain, checksum, length as u32, index);
    buffer[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    buffer[start + 8..start + 16].copy_from_slice(&chain.to_le_bytes());
    chain
}

/// Over everything but itself and the chain, which is compared with a computed one anyway.
fn record_checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..4]), &record[16..])
}

fn link(before: u64, checksum: u32, length: u32, index: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..].copy_from_slice(&index.to_le_bytes());
    xxh3_64_with_seed(&bytes, before)
}

/// How many sectors of a group's image hold nothing but zeros. See `verdict` for what it tells.
pub(super) fn zero_sectors(image: &[u8]) -> u32 {
    image.chunks(SECTOR_BYTES as usize).filter(|sector| is_zero(sector)).count() as u32
}

pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// What a segment says of itself, in its first sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) identity: Identity,
    pub(super) sequence: u64,
    pub(super) segment_bytes: u64,
    /// The chain before its first record.
    pub(super) chain: u64,
    /// The index the next entry would have had when the segment began.
    pub(super) next_index: u64,
    /// Where the segment before it ends; zero for the first one.
    pub(super) previous_end: u64,
}

/// Why a sector can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SectorError {
    Damaged,
    /// Whole, and of a format this program doesn't know.
    Version(u32),
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Sector {
        let mut sector = begin(SEGMENT_MAGIC, self.identity);
        put(&mut sector, 32, self.sequence);
        put(&mut sector, 40, self.segment_bytes);
        put(&mut sector, 48, self.chain);
        put(&mut sector, 56, self.next_index);
        put(&mut sector, 64, self.previous_end);
        seal(&mut sector);
        sector
    }

    pub(super) fn decode(sector: &Sector) -> Result<SegmentHeader, SectorError> {
        let identity = opened(sector, SEGMENT_MAGIC)?;
        Ok(SegmentHeader {
            identity,
            sequence: u64_at(sector, 32),
            segment_bytes: u64_at(sector, 40),
            chain: u64_at(sector, 48),
            next_index: u64_at(sector, 56),
            previous_end: u64_at(sector, 64),
        })
    }
}

/// One slot of the ring. Being on disk it proves that everything up to `synced` was synced before
/// the slot was written; of what lies between `synced` and `written` it only says how long it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) number: u64,
    pub(super) segment: u64,
    pub(super) synced: Position,
    pub(super) written: Position,
    /// Of the image between `synced` and `written`.
    pub(super) zero_sectors: u32,
}

impl Slot {
    pub(super) fn offset(number: u64) -> u64 {
        RING_OFFSET + number % RING_SLOTS * SECTOR_BYTES
    }

    pub(super) fn encode(&self, identity: Identity) -> Sector {
        let mut sector = begin(SLOT_MAGIC, identity);
        put(&mut sector, 32, self.number);
        put(&mut sector, 40, self.segment);
        put(&mut sector, 48, self.synced.offset);
        put(&mut sector, 56, self.synced.chain);
        put(&mut sector, 64, self.written.offset);
        put(&mut sector, 72, self.written.chain);
        put(&mut sector, 80, u64::from(self.zero_sectors));
        seal(&mut sector);
        sector
    }

    /// `None` when damaged, or not a slot of this place of this segment of this log.
    pub(super) fn decode(
        sector: &Sector,
        identity: Identity,
        segment: u64,
        place: u64,
    ) -> Option<Slot> {
        let found = opened(sector, SLOT_MAGIC).ok()?;
        let slot = Slot {
            number: u64_at(sector, 32),
            segment: u64_at(sector, 40),
            synced: Position { offset: u64_at(sector, 48), chain: u64_at(sector, 56) },
            written: Position { offset: u64_at(sector, 64), chain: u64_at(sector, 72) },
            zero_sectors: u32::try_from(u64_at(sector, 80)).ok()?,
        };
        let at_home = slot.number % RING_SLOTS == place && slot.segment == segment;
        let ordered =
            slot.synced.offset >= DATA_OFFSET && slot.written.offset >= slot.synced.offset;
        (found == identity && at_home && ordered).then_some(slot)
    }
}

/// The second witness, in a file of its own: how far the log certainly reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) identity: Identity,
    pub(super) number: u64,
    pub(super) segment: u64,
    pub(super) synced: Position,
}

impl Anchor {
    pub(super) fn offset(number: u64) -> u64 {
        number % 2 * PAGE_BYTES
    }

    pub(super) fn encode(&self) -> Sector {
        let mut sector = begin(ANCHOR_MAGIC, self.identity);
        put(&mut sector, 32, self.number);
        put(&mut sector, 40, self.segment);
        put(&mut sector, 48, self.synced.offset);
        put(&mut sector, 56, self.synced.chain);
        seal(&mut sector);
        sector
    }

    pub(super) fn decode(sector: &Sector) -> Result<Anchor, SectorError> {
        let identity = opened(sector, ANCHOR_MAGIC)?;
        Ok(Anchor {
            identity,
            number: u64_at(sector, 32),
            segment: u64_at(sector, 40),
            synced: Position { offset: u64_at(sector, 48), chain: u64_at(sector, 56) },
        })
    }
}

/// What a new segment repeats of the older ones, so that they may be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Carry {
    pub(super) vote: Option<Bytes>,
    pub(super) purged: Option<(u64, Bytes)>,
    pub(super) committed: Option<Bytes>,
}

impl Carry {
    /// Parts of: tag (1 vote, 2 purged, 3 committed), index, length, bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::new();
        let mut part = |tag: u8, index: u64, bytes: &Bytes| {
            buffer.push(tag);
            buffer.extend_from_slice(&index.to_le_bytes());
            buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            buffer.extend_from_slice(bytes);
        };
        if let Some(vote) = &self.vote {
            part(1, 0, vote);
        }
        if let Some((index, id)) = &self.purged {
            part(2, *index, id);
        }
        if let Some(committed) = &self.committed {
            part(3, 0, committed);
        }
        buffer
    }

    pub(super) fn decode(mut bytes: &[u8]) -> Option<Carry> {
        let mut carry = Carry::default();
        while !bytes.is_empty() {
            let (head, rest) = bytes.split_at_checked(13)?;
            let (body, rest) = rest.split_at_checked(u32_at(head, 9) as usize)?;
            let body = Bytes::copy_from_slice(body);
            match head[0] {
                1 => carry.vote = Some(body),
                2 => carry.purged = Some((u64_at(head, 1), body)),
                3 => carry.committed = Some(body),
                _ => return None,
            }
            bytes = rest;
        }
        Some(carry)
    }
}

fn begin(magic: &[u8; 8], identity: Identity) -> Sector {
    let mut sector = [0; SECTOR_BYTES as usize];
    sector[..8].copy_from_slice(magic);
    sector[8..12].copy_from_slice(&VERSION.to_le_bytes());
    put(&mut sector, 16, identity.cluster);
    put(&mut sector, 24, identity.node);
    sector
}

fn put(sector: &mut Sector, at: usize, value: u64) {
    sector[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

fn seal(sector: &mut Sector) {
    let checksum = crc32c::crc32c(&sector[..CHECKSUM_AT]);
    sector[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
}

/// Magic, version and checksum keep their places in every version, so that a newer one is known
/// for what it is and never taken for damage.
fn opened(sector: &Sector, magic: &[u8; 8]) -> Result<Identity, SectorError> {
    let whole = u32_at(sector, CHECKSUM_AT) == crc32c::crc32c(&sector[..CHECKSUM_AT]);
    if !whole || &sector[..8] != magic {
        return Err(SectorError::Damaged);
    }
    match u32_at(sector, 8) {
        VERSION => Ok(Identity { cluster: u64_at(sector, 16), node: u64_at(sector, 24) }),
        other => Err(SectorError::Version(other)),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Identity = Identity { cluster: 7, node: 9 };

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let mut buffer = Vec::new();
        let chain = encode_record(&mut buffer, Kind::Entry, 5, b"id", b"payload", 77);
        let head = RecordHead::parse(&buffer).unwrap();
        assert!(head.matches(&buffer));
        assert_eq!((head.length, head.index, head.kind), (buffer.len(), 5, Kind::Entry));
        assert_eq!((head.id(&buffer), head.payload(&buffer)), (&b"id"[..], &b"payload"[..]));
        assert_eq!((head.chain, head.chain_after(77)), (chain, chain));
        assert_ne!(head.chain_after(78), chain);
    }

    #[test]
    fn any_flipped_bit_of_a_record_is_noticed() {
        let mut buffer = Vec::new();
        encode_record(&mut buffer, Kind::Vote, 5, b"id", b"payload", 77);
        for bit in 0..buffer.len() * 8 {
            let mut damaged = buffer.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let accepted = RecordHead::parse(&damaged).is_ok_and(|head| {
                head.length <= damaged.len()
                    && head.matches(&damaged[..head.length])
                    && head.chain == head.chain_after(77)
            });
            assert!(!accepted, "bit {bit}");
        }
    }

    #[test]
    fn any_flipped_bit_of_a_sector_is_noticed() {
        let position = Position { offset: DATA_OFFSET, chain: 3 };
        let slot =
            Slot { number: 33, segment: 2, synced: position, written: position, zero_sectors: 0 };
        let anchor = Anchor { identity: OURS, number: 4, segment: 2, synced: position };
        let header = SegmentHeader {
            identity: OURS,
            sequence: 2,
            segment_bytes: 1 << 20,
            chain: 3,
            next_index: 1,
            previous_end: DATA_OFFSET,
        };
        assert_eq!(Slot::decode(&slot.encode(OURS), OURS, 2, 1), Some(slot));
        assert_eq!(Slot::decode(&slot.encode(OURS), OURS, 2, 2), None);
        assert_eq!(Slot::decode(&slot.encode(OURS), OURS, 3, 1), None);
        assert_eq!(Anchor::decode(&anchor.encode()), Ok(anchor));
        assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
        for bit in 0..SECTOR_BYTES as usize * 8 {
            let flip = |mut sector: Sector| {
                sector[bit / 8] ^= 1 << (bit % 8);
                sector
            };
            assert_eq!(Slot::decode(&flip(slot.encode(OURS)), OURS, 2, 1), None);
            assert_eq!(Anchor::decode(&flip(anchor.encode())), Err(SectorError::Damaged));
            assert_eq!(SegmentHeader::decode(&flip(header.encode())), Err(SectorError::Damaged));
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let anchor = Anchor {
            identity: OURS,
            number: 4,
            segment: 2,
            synced: Position { offset: DATA_OFFSET, chain: 3 },
        };
        let mut sector = anchor.encode();
        sector[8] = 2;
        seal(&mut sector);
        assert_eq!(Anchor::decode(&sector), Err(SectorError::Version(2)));
    }

    #[test]
    fn what_a_segment_carries_over_comes_back() {
        let carry = Carry {
            vote: Some(Bytes::from_static(b"vote")),
            purged: Some((9, Bytes::new())),
            committed: None,
        };
        assert_eq!(Carry::decode(&carry.encode()), Some(carry.clone()));
        assert_eq!(Carry::decode(&carry.encode()[..10]), None);
        assert_eq!(Carry::decode(&[]), Some(Carry::default()));
    }
}
