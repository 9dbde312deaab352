//! Numbers and byte strings of an index: LEB128, shortest form only, so that one index has one encoding.

/// Why bytes are not an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the index ends too early")]
    Truncated,
    #[error("the index goes on after its end")]
    Trailing,
    #[error("the index holds a number that is too large or not in its shortest form")]
    Number,
    #[error("the index has version {0}, this reads {current}", current = super::toc::VERSION)]
    Version(u64),
    #[error("{0} of the index are not valid")]
    Invalid(&'static str),
    #[error("the index has more {0} than are allowed")]
    TooMany(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// Small if the absolute value is.
    pub(super) fn difference(&mut self, value: u64, from: u64) {
        let signed = value.wrapping_sub(from).cast_signed();
        self.number(((signed << 1) ^ (signed >> 63)).cast_unsigned());
    }

    /// A count or length of what is in memory.
    pub(super) fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }
}

#[derive(Debug)]
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(DecodeError::Truncated)?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part || (byte == 0 && shift > 0) {
                return Err(DecodeError::Number);
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::Number)
    }

    pub(super) fn difference(&mut self, from: u64) -> Result<u64, DecodeError> {
        let folded = self.number()?;
        Ok(from.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg()))
    }

    pub(super) fn narrow<T: TryFrom<u64>>(&mut self) -> Result<T, DecodeError> {
        T::try_from(self.number()?).map_err(|_| DecodeError::Number)
    }

    /// A count of things, bounded before anything is made room for.
    pub(super) fn count(&mut self, max: usize, what: &'static str) -> Result<usize, DecodeError> {
        let count: usize = self.narrow()?;
        if count > max { Err(DecodeError::TooMany(what)) } else { Ok(count) }
    }

    pub(super) fn raw(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.raw(N)?.try_into().map_err(|_| DecodeError::Truncated)
    }

    pub(super) fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let len = self.count(max, what)?;
        self.raw(len)
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing) }
    }
}
