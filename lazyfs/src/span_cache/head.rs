//! The head of a layer's index: kept on this disk, and fetched if it is not there or not the claimed one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shoal_proto::Digest;
use tokio::time::Instant;

use super::layer::Surroundings;
use super::{CacheError, MAX_WRONG, verdict};
use crate::index::{HEADER_LEN, Head, HeadError, Header, IndexId};
use crate::source::{ClaimedIndex, MAX_RANGE, SourceError, Urgency};

pub(super) const HEAD: &str = "head";
/// Pieces of a long head that are fetched at a time.
const PIECES: usize = 2;

/// The head on this disk, if there is a sound one that is still good. Blocks. One of another file with the same id is not:
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
    pub(super) layer: &'a Digest,
    pub(super) claimed: Option<ClaimedIndex>,
    pub(super) folder: &'a Path,
    pub(super) around: &'a Surroundings,
}

impl HeadFetch<'_> {
    /// Fetches it and keeps it on this disk.
    pub(super) async fn run(self) -> Result<Head, CacheError> {
        let deadline = Instant::now() + self.around.patience.deadline;
        let mut header = None;
        for wrong in 1.. {
            let error = match self.attempt(&mut header, deadline).await {
                Err(error) if error.is_wrong() && wrong < 2 * MAX_WRONG => error,
                done => return done,
            };
            tracing::warn!(%error, "asking again");
            // That a header says wrong lengths shows only when no head is right. Before that it is not asked for
            // again: if it is right, it would be taken for wrong, and whoever gave it would come last.
            if wrong == MAX_WRONG {
                header = None;
            }
        }
        Err(CacheError::OtherIndex(*self.layer))
    }

    async fn attempt(&self, header: &mut Option<Header>, deadline: Instant) -> Result<Head, CacheError> {
        let header = match *header {
            Some(header) => header,
            None => *header.insert(self.header(deadline).await?),
        };
        self.head(header, deadline).await
    }

    async fn bytes(&self, range: Range<u64>, deadline: Instant) -> Result<Bytes, SourceError> {
        let ask = || self.around.source.index(self.layer, range.clone(), Urgency::Demand);
        self.around.fetch(self.layer, deadline, ask).await
    }

    async fn header(&self, deadline: Instant) -> Result<Header, CacheError> {
        let first = self.bytes(0..HEADER_LEN as u64, deadline).await?;
        let header = Header::decode(first.first_chunk().ok_or(HeadError::Header)?)?;
        // Nobody else has bytes beyond the end of the file: to ask for them would end in no answer.
        if self.claimed.is_some_and(|claimed| header.head_len() > claimed.len) {
            return Err(HeadError::Header.into());
        }
        self.expect(header.id)?;
        Ok(header)
    }

    async fn head(&self, header: Header, deadline: Instant) -> Result<Head, CacheError> {
        let pieces = stream::iter(pieces(header.head_len())).map(|range| self.bytes(range, deadline));
        let pieces: Vec<Bytes> = pieces.buffered(PIECES).try_collect().await?;
        let (layer, claimed, folder) = (*self.layer, self.claimed, self.folder.to_owned());
        let shelf = self.around.shelf.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let bytes = pieces.concat();
            let head = Head::decode(&bytes)?;
            if claimed.is_some_and(|claimed| claimed.id != head.id) {
                return Err(CacheError::OtherIndex(layer));
            }
            if head.index.layer != layer {
                return Err(CacheError::OtherLayer(layer));
            }
            if verdict::was_revoked(&folder, head.id) {
                return Err(CacheError::Revoked(layer));
            }
            let written = write(&folder, &bytes, claimed.as_ref());
            written.map_err(|error| CacheError::Folder { folder, error })?;
            shelf.wrote(bytes.len());
            Ok(head)
        });
        kept.await.map_err(|_| CacheError::ShutDown)?
    }

    fn expect(&self, id: IndexId) -> Result<(), CacheError> {
        match self.claimed {
            Some(claimed) if claimed.id != id => Err(CacheError::OtherIndex(*self.layer)),
            _ => Ok(()),
        }
    }
}

/// A head as ranges that a source gives at once.
fn pieces(len: u64) -> impl Iterator<Item = Range<u64>> {
    (0..len.div_ceil(MAX_RANGE)).map(move |piece| piece * MAX_RANGE..((piece + 1) * MAX_RANGE).min(len))
}
