//! What of the 32 KiB before a cut the span after it really needs.
//!
//! Usually it is a small part, so a window is stored with zeros for all that is never referred to, which
//! compresses far better. The part is found by inflating the span's beginning (references into the window can
//! only come from its first 32 KiB) over marked windows: where the output differs from the true one, the
//! difference tells the place in the window that it came from.

use crate::inflate::{Corrupt, Framing, Inflate, WINDOW};

/// Compressed bytes that are kept for it. Data that needs more for 32 KiB has blocks with next to nothing in
/// them; its windows are stored whole.
const MAX_KEPT: usize = 2 * WINDOW;

#[derive(Debug)]
pub(super) struct Probe {
    window: Vec<u8>,
    bits: u8,
    first_byte: u8,
    compressed: Vec<u8>,
    /// What came out of it: as much as can refer to the window.
    truth: Vec<u8>,
}

impl Probe {
    pub(super) fn new(window: &[u8], bits: u8, first_byte: u8) -> Self {
        Self { window: window.to_vec(), bits, first_byte, compressed: Vec::new(), truth: Vec::new() }
    }

    /// The span's next compressed bytes, and what came out of them.
    pub(super) fn read(&mut self, compressed: &[u8], produced: &[u8]) {
        let kept = compressed.len().min(MAX_KEPT - self.compressed.len());
        self.compressed.extend_from_slice(compressed.get(..kept).unwrap_or_default());
        let kept = produced.len().min(WINDOW - self.truth.len());
        self.truth.extend_from_slice(produced.get(..kept).unwrap_or_default());
    }

    pub(super) fn saw_enough(&self) -> bool {
        self.truth.len() >= WINDOW
    }

    /// The window, with zeros where the span does not need it, and without what comes before the first byte that
    /// it needs. To be called once enough was seen, or where span or member end before.
    pub(super) fn finish(mut self, inflate: &mut Inflate) -> Result<Vec<u8>, Corrupt> {
        // 7 bits of the place, and one that is always set, so that a difference shows at all; then the other 8.
        let low = self.marked(|place| 0x80 | (place & 0x7f));
        let high = self.marked(|place| (place >> 7) & 0xff);
        let (Some(low), Some(high)) = (self.inflate(inflate, &low)?, self.inflate(inflate, &high)?) else {
            return Ok(self.window);
        };
        let mut needed = vec![false; self.window.len()];
        for ((truth, low), high) in self.truth.iter().zip(low).zip(high) {
            if low != *truth {
                let place = usize::from((low ^ truth) & 0x7f) | usize::from(high ^ truth) << 7;
                if let Some(needed) = needed.get_mut(place) {
                    *needed = true;
                }
            }
        }
        for (byte, needed) in self.window.iter_mut().zip(&needed) {
            if !needed {
                *byte = 0;
            }
        }
        let first = needed.iter().position(|&needed| needed).unwrap_or(needed.len());
        self.window.drain(..first);
        Ok(self.window)
    }

    #[allow(clippy::cast_possible_truncation, reason = "the mark has 8 bits")]
    fn marked(&self, mark: impl Fn(usize) -> usize) -> Vec<u8> {
        self.window.iter().enumerate().map(|(place, byte)| byte ^ mark(place) as u8).collect()
    }

    /// The span's beginning if this were its window; `None` if too little was kept for it.
    fn inflate(&self, inflate: &mut Inflate, window: &[u8]) -> Result<Option<Vec<u8>>, Corrupt> {
        let mut out = vec![0; self.truth.len()];
        if out.is_empty() {
            return Ok(Some(out));
        }
        inflate.reset(Framing::Raw);
        inflate.prime(self.bits, self.first_byte, window)?;
        let produced = inflate.step(&self.compressed, &mut out, false)?.produced;
        Ok((produced == out.len()).then_some(out))
    }
}
