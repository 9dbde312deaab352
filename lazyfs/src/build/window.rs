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

/// Bytes that are compared at once.
const COMPARED: usize = 64;
/// Marks of places: 7 bits of each, and one that is always set, so that a difference shows at all; then the other 8.
static LOW: [u8; WINDOW] = marks(0, 0x7f, 0x80);
static HIGH: [u8; WINDOW] = marks(7, 0xff, 0);

#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "seen by the compiler; 8 bits")]
const fn marks(shift: u32, mask: usize, always: u8) -> [u8; WINDOW] {
    let mut marks = [0; WINDOW];
    let mut place = 0;
    while place < WINDOW {
        marks[place] = ((place >> shift) & mask) as u8 | always;
        place += 1;
    }
    marks
}

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
        let (Some(low), Some(high)) = (self.inflate(inflate, &LOW)?, self.inflate(inflate, &HIGH)?) else {
            return Ok(self.window);
        };
        // All bits of what is needed, so that the window's other bytes are masked out.
        let mut needed = vec![0; self.window.len()];
        let [truth, low, high] = [&self.truth, &low, &high].map(|bytes| bytes.chunks(COMPARED));
        // Most of it comes from the span itself.
        for ((truth, low), high) in truth.zip(low).zip(high).filter(|((truth, low), _)| truth != low) {
            for ((truth, low), high) in
                truth.iter().zip(low).zip(high).filter(|((truth, low), _)| truth != low)
            {
                let place = usize::from((low ^ truth) & 0x7f) | usize::from(high ^ truth) << 7;
                if let Some(needed) = needed.get_mut(place) {
                    *needed = 0xff;
                }
            }
        }
        for (byte, needed) in self.window.iter_mut().zip(&needed) {
            *byte &= needed;
        }
        let first = needed.iter().position(|&needed| needed != 0).unwrap_or(needed.len());
        self.window.drain(..first);
        Ok(self.window)
    }

    /// The span's beginning if its window were marked so; `None` if too little was kept for it.
    fn inflate(&self, inflate: &mut Inflate, marks: &[u8; WINDOW]) -> Result<Option<Vec<u8>>, Corrupt> {
        let mut out = vec![0; self.truth.len()];
        if out.is_empty() {
            return Ok(Some(out));
        }
        let window: Vec<u8> = self.window.iter().zip(marks).map(|(byte, mark)| byte ^ mark).collect();
        inflate.reset(Framing::Raw);
        inflate.prime(self.bits, self.first_byte, &window)?;
        let produced = inflate.step(&self.compressed, &mut out, false)?.produced;
        Ok((produced == out.len()).then_some(out))
    }
}
