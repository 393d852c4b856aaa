//! Protobuf's own bytes: varints, keys, lengths. Knows no message.
//!
//! Never: reads past the end, believes a length before it is checked, recurses.

/// What is wrong with the bytes, in words for the client.
pub type Wrong = &'static str;

pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const BYTES: u8 = 2;
const GROUP_START: u8 = 3;
const GROUP_END: u8 = 4;
const FIXED32: u8 = 5;

/// Reads one message's bytes from front to back.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn varint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0u64;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte has room for the one bit that is left.
            if at == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.rest.len() < 10 { "unexpected EOF" } else { "integer overflow" })
    }

    /// Number and wire type of the field that follows.
    pub fn key(&mut self) -> Result<(u32, u8), Wrong> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| "illegal tag")?;
        if number == 0 {
            return Err("illegal tag 0");
        }
        Ok((number, (key & 7) as u8))
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Wrong> {
        let length = usize::try_from(self.varint()?).map_err(|_| "invalid length")?;
        self.take(length)
    }

    pub fn fixed64(&mut self) -> Result<u64, Wrong> {
        let bytes = self.take(8)?.try_into().map_err(|_| "unexpected EOF")?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Passes over the value of a field that nobody knows.
    pub fn skip(&mut self, wire: u8) -> Result<(), Wrong> {
        let (mut wire, mut open) = (wire, 0u32);
        loop {
            match wire {
                VARINT => drop(self.varint()?),
                FIXED64 => drop(self.take(8)?),
                BYTES => drop(self.bytes()?),
                FIXED32 => drop(self.take(4)?),
                GROUP_START => open += 1,
                GROUP_END if open > 0 => open -= 1,
                _ => return Err("illegal wireType"),
            }
            if open == 0 {
                return Ok(());
            }
            (_, wire) = self.key()?;
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("unexpected EOF")?;
        self.rest = rest;
        Ok(taken)
    }
}

pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub fn put_key(out: &mut Vec<u8>, number: u32, wire: u8) {
    put_varint(out, u64::from(number) << 3 | u64::from(wire));
}

pub fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(out, number, BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Writes what `body` writes, with key and length before it.
pub fn put_nested<E>(
    out: &mut Vec<u8>,
    number: u32,
    body: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    put_key(out, number, BYTES);
    let start = out.len();
    // Most lengths take one byte; where it takes more the body moves up.
    out.push(0);
    body(out)?;
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
    } else {
        let mut prefix = Vec::with_capacity(10);
        put_varint(&mut prefix, length as u64);
        out.splice(start..=start, prefix);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_is_read_as_it_was_written(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_at_end());
        }

        #[test]
        fn any_bytes_are_skipped_or_refused(bytes: Vec<u8>, wire in 0u8..8) {
            let _ = Reader::new(&bytes).skip(wire);
        }
    }

    #[test]
    fn lengths_and_varints_past_the_end_are_refused() {
        assert_eq!(Reader::new(&[0x80]).varint(), Err("unexpected EOF"));
        assert_eq!(Reader::new(&[0xff; 11]).varint(), Err("integer overflow"));
        assert_eq!(Reader::new(&[0xff, 0xff, 0x7f, 1]).bytes(), Err("unexpected EOF"));
        assert_eq!(Reader::new(&[0x00]).key(), Err("illegal tag 0"));
    }
}
