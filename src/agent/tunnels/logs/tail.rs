//! Where the last entries of a file begin, and how many of them it has.

use std::io::{self, SeekFrom};

use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

const BLOCK_BYTES: usize = 16 << 10;

/// The place in the file from which `entries` are left, and how many there are from there on: fewer, if it has
/// no more. Read from the end, in blocks.
pub async fn start(file: &mut File, entries: u64) -> io::Result<(u64, u64)> {
    let length = file.seek(SeekFrom::End(0)).await?;
    if entries == 0 {
        return Ok((length, 0));
    }
    let mut block = vec![0; BLOCK_BYTES];
    let mut end = length;
    let mut found = 0;
    while end > 0 {
        let begin = end.saturating_sub(BLOCK_BYTES as u64);
        let block = &mut block[..usize::try_from(end - begin).expect("no longer than a block")];
        file.seek(SeekFrom::Start(begin)).await?;
        file.read_exact(block).await?;
        for (at, byte) in block.iter().enumerate().rev() {
            let after = begin + at as u64 + 1;
            // The end of the last entry begins none.
            if *byte == b'\n' && after != length {
                found += 1;
                if found == entries {
                    return Ok((after, found));
                }
            }
        }
        end = begin;
    }
    Ok((0, found + u64::from(length > 0)))
}
