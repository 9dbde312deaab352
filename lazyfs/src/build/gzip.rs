//! gzip: cut where a deflate block ends, or where one of several concatenated members begins.

use super::BuildError;
use super::recorder::{BuildSink, Recorder};
use super::window::Probe;
use crate::index::{Compression, Entrance};
use crate::inflate::{Framing, Inflate, Stop, WINDOW};

/// Bytes inflated at once: few of them are copied to be the next ones' window, and all are still in a processor's
/// cache when they are hashed.
const CHUNK: usize = 512 << 10;

pub(super) struct Gzip {
    inflate: Inflate,
    /// The last bytes of the tar; of those, up to `filled`, the window is taken.
    output: Vec<u8>,
    filled: usize,
    /// Bytes of the layer read, and the last of them.
    at: u64,
    last_byte: u8,
    within_member: bool,
    /// Bytes of tar that came from this member.
    member_out: u64,
    /// Finds out what the newest span needs of its window.
    probe: Option<Probe>,
    probe_inflate: Inflate,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            inflate: Inflate::new(Framing::Gzip),
            output: vec![0; WINDOW + CHUNK],
            filled: 0,
            at: 0,
            last_byte: 0,
            within_member: false,
            member_out: 0,
            probe: None,
            probe_inflate: Inflate::new(Framing::Raw),
        }
    }
}

impl Gzip {
    pub(super) fn push<S: BuildSink>(
        &mut self,
        mut bytes: &[u8],
        recorder: &mut Recorder<S>,
    ) -> Result<(), BuildError> {
        while !bytes.is_empty() {
            if !self.within_member {
                self.begin_member(bytes, recorder)?;
            }
            let consumed = self.step(bytes, recorder)?;
            bytes = bytes.get(consumed..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn finish<S: BuildSink>(&mut self, recorder: &mut Recorder<S>) -> Result<(), BuildError> {
        if self.within_member {
            return Err(BuildError::Truncated);
        }
        self.finish_probe(recorder)
    }

    fn begin_member<S: BuildSink>(
        &mut self,
        bytes: &[u8],
        recorder: &mut Recorder<S>,
    ) -> Result<(), BuildError> {
        if self.at > 0 && bytes.first() != Some(&0x1f) {
            return Err(BuildError::Trailing);
        }
        if recorder.cut(self.at, Entrance::Frame) {
            self.finish_probe(recorder)?;
            recorder.window(&[])?;
        }
        self.inflate.reset(Framing::Gzip);
        self.within_member = true;
        self.member_out = 0;
        Ok(())
    }

    /// Inflates some of `input`; returns how much of it was used.
    fn step<S: BuildSink>(&mut self, input: &[u8], recorder: &mut Recorder<S>) -> Result<usize, BuildError> {
        self.make_room();
        // Up to the byte before the next cut's place at full speed, then block by block. An inflater that has
        // filled its output may look ahead as far as it likes without passing that place.
        let ahead = usize::try_from(recorder.until_cut().saturating_sub(1)).unwrap_or(usize::MAX);
        let by_block = ahead == 0;
        let space = self.output.get_mut(self.filled..).unwrap_or_default();
        let len = if by_block { space.len() } else { ahead.min(space.len()) };
        let step = self.inflate.step(input, space.get_mut(..len).unwrap_or_default(), by_block)?;
        let used = input.get(..step.consumed).unwrap_or_default();
        let made = self.output.get(self.filled..self.filled + step.produced).unwrap_or_default();
        if step.stop == Stop::Buffers && used.is_empty() && made.is_empty() {
            return Err(BuildError::Corrupt(Compression::Gzip));
        }
        if let Some(probe) = &mut self.probe {
            probe.read(used, made);
        }
        self.at += used.len() as u64;
        self.last_byte = used.last().copied().unwrap_or(self.last_byte);
        recorder.output(made, self.at)?;
        self.member_out += made.len() as u64;
        self.filled += made.len();
        match step.stop {
            Stop::Buffers => {}
            Stop::Boundary { bits } => self.boundary(bits, recorder)?,
            Stop::End => self.within_member = false,
        }
        if self.probe.as_ref().is_some_and(|probe| probe.saw_enough() || !self.within_member) {
            self.finish_probe(recorder)?;
        }
        Ok(step.consumed)
    }

    fn boundary<S: BuildSink>(&mut self, bits: u8, recorder: &mut Recorder<S>) -> Result<(), BuildError> {
        let start = self.at - u64::from(bits > 0);
        let entrance = Entrance::Block { bits, window: crate::index::EMPTY_WINDOW };
        if recorder.cut(start, entrance) {
            self.finish_probe(recorder)?;
            let len = usize::try_from(self.member_out).unwrap_or(usize::MAX).min(WINDOW).min(self.filled);
            let window = self.output.get(self.filled - len..self.filled).unwrap_or_default();
            self.probe = Some(Probe::new(window, bits, self.last_byte));
        }
        Ok(())
    }

    fn finish_probe<S: BuildSink>(&mut self, recorder: &mut Recorder<S>) -> Result<(), BuildError> {
        match self.probe.take() {
            Some(probe) => recorder.window(&probe.finish(&mut self.probe_inflate)?),
            None => Ok(()),
        }
    }

    fn make_room(&mut self) {
        if self.filled == self.output.len() {
            self.output.copy_within(self.filled - WINDOW.., 0);
            self.filled = WINDOW;
        }
    }
}
