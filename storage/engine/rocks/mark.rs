//! How far a directory is promised to be: a few bytes beside RocksDB's files, renewed by every sync.
//!
//! RocksDB takes a manifest that ends early, or whose last record points past the end, for a torn write and
//! opens the state before it, silently. What [`Mark`] adds is the number that RocksDB gave the newest row
//! when it was last synced: a directory that opens with a smaller one has lost what was promised.
//!
//! Keeps: the mark is written after the sync it speaks of, so it never promises too much; it is replaced
//! by a rename, so it is whole or damaged, never torn.
//! Never: names RocksDB.
//!
//! The file, all numbers little endian:
//! ```text
//!  0        8        12       16                 24       28
//!  | magic  | format | tables | durable sequence | crc32c |
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Format of the directory as a whole. A larger one is a newer program's.
const FORMAT: u32 = 1;
const MAGIC: &[u8; 8] = b"KONTIKIE";
const LENGTH: usize = 28;
const NAME: &str = "DURABLE";
/// What a mark is called until it is renamed into its place; a crash may leave one.
pub(super) const NAME_NEXT: &str = "DURABLE.next";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// How many tables the writer knew.
    pub(super) tables: u32,
    /// Every row up to this number is in the directory.
    pub(super) sequence: u64,
}

impl Mark {
    /// The mark of `directory`; `None` where there is none.
    pub(super) fn read(directory: &Path) -> Result<Option<Mark>, Error> {
        let path = place(directory);
        match fs::read(&path) {
            Ok(bytes) => Mark::decode(&bytes, directory).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::engine(format!("read {}", path.display()), error)),
        }
    }

    /// Puts the mark into `directory`, durably.
    pub(super) fn write(self, directory: &Path) -> Result<(), Error> {
        let path = place(directory);
        let next = directory.join(NAME_NEXT);
        let write = || {
            let mut file = File::create(&next)?;
            file.write_all(&self.encode())?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            sync_directory(directory)
        };
        write().map_err(|error| Error::engine(format!("write {}", path.display()), error))
    }

    fn encode(self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.tables.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8], directory: &Path) -> Result<Mark, Error> {
        let damaged = || Error::Damaged(format!("{} fails its check", place(directory).display()));
        let bytes: &[u8; LENGTH] = bytes.try_into().map_err(|_| damaged())?;
        let (told, checksum) = bytes.split_at(24);
        if &told[..8] != MAGIC || crc32c::crc32c(told).to_le_bytes() != checksum {
            return Err(damaged());
        }
        let number = |at: usize| {
            u32::from_le_bytes(told[at..at + 4].try_into().expect("a slice of four bytes"))
        };
        if number(8) != FORMAT {
            return Err(Error::Refused {
                path: directory.to_path_buf(),
                reason: format!(
                    "its format is {}, this program knows {FORMAT}; run the newer program",
                    number(8)
                ),
            });
        }
        let sequence = told[16..24].try_into().expect("a slice of eight bytes");
        Ok(Mark { tables: number(12), sequence: u64::from_le_bytes(sequence) })
    }
}

fn place(directory: &Path) -> PathBuf {
    directory.join(NAME)
}

/// Makes the names in `directory` durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { tables: 7, sequence: 0x0102_0304_0506_0708 };

    #[test]
    fn a_mark_comes_back_as_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Mark::read(directory.path()).unwrap(), None);
        MARK.write(directory.path()).unwrap();
        Mark { sequence: 9, ..MARK }.write(directory.path()).unwrap();
        let read = Mark::read(directory.path()).unwrap();
        assert_eq!(read, Some(Mark { tables: 7, sequence: 9 }));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = MARK.encode();
        for position in 0..LENGTH {
            for bit in 0..8 {
                let mut bytes = whole;
                bytes[position] ^= 1 << bit;
                let read = Mark::decode(&bytes, Path::new("there"));
                assert!(matches!(read, Err(Error::Damaged(_))), "byte {position} bit {bit}");
            }
            let read = Mark::decode(&whole[..position], Path::new("there"));
            assert!(matches!(read, Err(Error::Damaged(_))), "cut at {position}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_and_not_called_damaged() {
        let mut bytes = MARK.encode();
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_le_bytes());
        let read = Mark::decode(&bytes, Path::new("there"));
        assert!(matches!(read, Err(Error::Refused { .. })), "{read:?}");
    }
}
