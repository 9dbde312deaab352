//! Bytes at fixed places, numbers in little endian.

pub(super) struct Record<const LEN: usize>(pub(super) [u8; LEN]);

impl<const LEN: usize> Record<LEN> {
    pub(super) fn new() -> Self {
        Self([0; LEN])
    }

    pub(super) fn bytes(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        put(&mut self.0, at, bytes);
        self
    }

    pub(super) fn u8(&mut self, at: usize, value: u8) -> &mut Self {
        self.bytes(at, &[value])
    }

    pub(super) fn u16(&mut self, at: usize, value: u16) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }

    pub(super) fn u32(&mut self, at: usize, value: u32) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }

    pub(super) fn u64(&mut self, at: usize, value: u64) -> &mut Self {
        self.bytes(at, &value.to_le_bytes())
    }
}

/// What does not fit would be lost: whoever calls has counted.
pub(super) fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    let place = out.get_mut(at..at + bytes.len());
    debug_assert!(place.is_some(), "{} bytes at {at}", bytes.len());
    if let Some(place) = place {
        place.copy_from_slice(bytes);
    }
}
