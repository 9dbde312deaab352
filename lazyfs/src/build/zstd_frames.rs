//! zstd: cut where a frame ends. Within a frame there is no place to begin at.

use zstd::stream::raw::{Decoder, Operation as _};

use super::BuildError;
use super::recorder::{BuildSink, Recorder};
use crate::index::{Compression, Entrance};

/// Bytes decompressed at once.
const OUTPUT: usize = 256 << 10;

pub(super) struct Frames {
    decoder: Decoder<'static>,
    output: Vec<u8>,
    /// Bytes of the layer read.
    at: u64,
    within_frame: bool,
}

impl Frames {
    pub(super) fn new() -> Result<Self, BuildError> {
        // Its limit on a frame's window, 128 MiB, is what bounds memory.
        Ok(Self { decoder: Decoder::new()?, output: vec![0; OUTPUT], at: 0, within_frame: false })
    }

    pub(super) fn push<S: BuildSink>(
        &mut self,
        mut bytes: &[u8],
        recorder: &mut Recorder<S>,
    ) -> Result<(), BuildError> {
        let mut more = false;
        while !bytes.is_empty() || more {
            if !self.within_frame {
                recorder.cut(self.at, Entrance::Frame);
            }
            let corrupt = |_| BuildError::Corrupt(Compression::Zstd);
            let status = self.decoder.run_on_buffers(bytes, &mut self.output).map_err(corrupt)?;
            self.at += status.bytes_read as u64;
            bytes = bytes.get(status.bytes_read..).unwrap_or_default();
            let output = self.output.get(..status.bytes_written).unwrap_or_default();
            recorder.output(output, self.at)?;
            self.within_frame = status.remaining != 0;
            more = self.within_frame && status.bytes_written == OUTPUT;
        }
        Ok(())
    }

    pub(super) fn finish(&self) -> Result<(), BuildError> {
        if self.within_frame { Err(BuildError::Truncated) } else { Ok(()) }
    }
}
