//! The head of a layer's index: kept on this disk, and fetched if it is not there or not the claimed one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use shoal_proto::Digest;
use tokio::time::Instant;

use super::{CacheError, retry, verdict};
use crate::index::{HEADER_LEN, Head, HeadError, Header, IndexId};
use crate::source::{ClaimedIndex, LayerSource, SourceError, Urgency};

pub(super) const HEAD: &str = "head";

/// The head on this disk, if there is a sound one that is still good. One of another file with the same id is not:
/// its windows lie elsewhere.
pub(super) fn read(folder: &Path, layer: &Digest, claimed: Option<&ClaimedIndex>) -> Option<Head> {
    let bytes = fs::read(folder.join(HEAD)).ok()?;
    let stored = decode_stored(&bytes);
    let (head, file) =
        stored.inspect_err(|error| tracing::warn!(%layer, %error, "a stored index is damaged")).ok()?;
    let current =
        claimed.is_none_or(|claimed| claimed.id == head.id && claimed.file.to_string().as_bytes() == file);
    (current && head.index.layer == *layer && !verdict::was_revoked(folder, head.id)).then_some(head)
}

/// The head, and the text of the digest of its file.
fn decode_stored(bytes: &[u8]) -> Result<(Head, &[u8]), HeadError> {
    let header = Header::decode(bytes.first_chunk().ok_or(HeadError::Header)?)?;
    let len = usize::try_from(header.head_len()).map_err(|_| HeadError::Header)?;
    let (head, file) = bytes.split_at_checked(len).ok_or(HeadError::Header)?;
    Ok((Head::decode(head)?, file))
}

/// In one file, so that no crash leaves the head of one file and the digest of another.
fn write(folder: &Path, head: &[u8], claimed: Option<&ClaimedIndex>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let partial = folder.join("head.partial");
    let mut file = File::create(&partial)?;
    file.write_all(head)?;
    if let Some(claimed) = claimed {
        file.write_all(claimed.file.to_string().as_bytes())?;
    }
    file.sync_all()?;
    fs::rename(&partial, folder.join(HEAD))?;
    File::open(folder)?.sync_all()
}

/// Fetches the head of one layer's index.
pub(super) struct HeadFetch<'a> {
    pub(super) source: &'a dyn LayerSource,
    pub(super) layer: &'a Digest,
    pub(super) claimed: Option<ClaimedIndex>,
    pub(super) folder: &'a Path,
    pub(super) deadline: Instant,
}

impl HeadFetch<'_> {
    /// Fetches it and keeps it on this disk. That a header says wrong lengths shows only when no head is right.
    pub(super) async fn run(self) -> Result<Head, CacheError> {
        retry::while_wrong(|| self.attempt()).await
    }

    /// What is right is not asked for again: it would be taken for wrong, and whoever gave it would come last.
    async fn attempt(&self) -> Result<Head, CacheError> {
        let header = retry::while_wrong(|| self.header()).await?;
        retry::while_wrong(|| self.head(header)).await
    }

    async fn bytes(&self, range: Range<u64>) -> Result<Bytes, SourceError> {
        let unanswered = SourceError::Unavailable(*self.layer);
        let ask = || self.source.index(self.layer, range.clone(), Urgency::Demand);
        retry::until(self.deadline, unanswered, ask).await
    }

    async fn header(&self) -> Result<Header, CacheError> {
        let first = self.bytes(0..HEADER_LEN as u64).await?;
        let header = Header::decode(first.first_chunk().ok_or(HeadError::Header)?)?;
        // Nobody else has bytes beyond the end of the file: to ask for them would end in no answer.
        if self.claimed.is_some_and(|claimed| header.head_len() > claimed.len) {
            return Err(HeadError::Header.into());
        }
        self.expect(header.id)?;
        Ok(header)
    }

    async fn head(&self, header: Header) -> Result<Head, CacheError> {
        let bytes = self.bytes(0..header.head_len()).await?;
        let decoding = bytes.clone();
        let decoded = tokio::task::spawn_blocking(move || Head::decode(&decoding));
        let head = decoded.await.map_err(|_| CacheError::ShutDown)??;
        self.expect(head.id)?;
        if head.index.layer != *self.layer {
            return Err(CacheError::OtherLayer(*self.layer));
        }
        let (layer, claimed, folder) = (*self.layer, self.claimed, self.folder.to_owned());
        let stored = tokio::task::spawn_blocking(move || {
            if verdict::was_revoked(&folder, head.id) {
                return Err(CacheError::Revoked(layer));
            }
            let written = write(&folder, &bytes, claimed.as_ref());
            written.map_err(|error| CacheError::Folder { folder, error })?;
            Ok(head)
        });
        stored.await.map_err(|_| CacheError::ShutDown)?
    }

    fn expect(&self, id: IndexId) -> Result<(), CacheError> {
        match self.claimed {
            Some(claimed) if claimed.id != id => Err(CacheError::OtherIndex(*self.layer)),
            _ => Ok(()),
        }
    }
}
