//! A tar that is not compressed can be cut anywhere.

use super::BuildError;
use super::recorder::{BuildSink, Recorder};
use crate::index::Entrance;

#[derive(Debug, Default)]
pub(super) struct Plain {
    at: u64,
}

impl Plain {
    pub(super) fn push<S: BuildSink>(
        &mut self,
        mut bytes: &[u8],
        recorder: &mut Recorder<S>,
    ) -> Result<(), BuildError> {
        while !bytes.is_empty() {
            if recorder.until_cut() == 0 {
                recorder.cut(self.at, Entrance::Frame);
            }
            let len = usize::try_from(recorder.until_cut()).map_or(bytes.len(), |len| len.min(bytes.len()));
            let (head, rest) = bytes.split_at(len);
            self.at += len as u64;
            recorder.output(head, self.at)?;
            bytes = rest;
        }
        Ok(())
    }
}
