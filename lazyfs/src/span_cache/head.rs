//! The head of a layer's index: kept on this disk, and fetched if it is not there or not the claimed one.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::path::Path;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shoal_proto::Digest;
use tokio::time::Instant;

use super::surroundings::{Part, Surroundings};
use super::{CacheError, MAX_WRONG, verdict};
use crate::index::{HEADER_LEN, Head, HeadError, Header, IndexId};
use crate::source::{ClaimedIndex, Given, Giver, MAX_RANGE, SourceError, Urgency};

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

/// Who gave which range wrong, or together with others that did not hold.
#[derive(Default)]
struct Wrong(HashMap<Range<u64>, Vec<Giver>>);

impl Wrong {
    fn of(&self, range: &Range<u64>) -> &[Giver] {
        self.0.get(range).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, range: Range<u64>, from: Giver) {
        self.0.entry(range).or_default().push(from);
    }
}

/// Where a header lies.
const HEADER: Range<u64> = 0..HEADER_LEN as u64;

impl HeadFetch<'_> {
    /// Fetches it and keeps it on this disk.
    pub(super) async fn run(self) -> Result<Head, CacheError> {
        let deadline = Instant::now() + self.around.patience.deadline;
        let (mut header, mut wrong) = (None, Wrong::default());
        for attempt in 1.. {
            let error = match self.attempt(&mut header, &mut wrong, deadline).await {
                Err(error) if error.is_wrong() && attempt < 2 * MAX_WRONG => error,
                done => return done,
            };
            tracing::warn!(%error, "asking again");
            // That a header says wrong lengths shows only when no head is right. Before that it is not asked for
            // again: if it is right, it would be taken for wrong, and whoever gave it would come last.
            if attempt == MAX_WRONG
                && let Some((_, from)) = header.take()
            {
                wrong.add(HEADER, from);
            }
        }
        Err(CacheError::OtherIndex(*self.layer))
    }

    async fn attempt(
        &self,
        header: &mut Option<(Header, Giver)>,
        wrong: &mut Wrong,
        deadline: Instant,
    ) -> Result<Head, CacheError> {
        let (header, _) = match *header {
            Some(header) => header,
            None => *header.insert(self.header(wrong, deadline).await?),
        };
        self.head(header, wrong, deadline).await
    }

    async fn given(
        &self,
        range: &Range<u64>,
        wrong: &Wrong,
        deadline: Instant,
    ) -> Result<Given, SourceError> {
        let wrong = wrong.of(range);
        self.around.fetch(self.layer, Part::Index, range, Urgency::Demand, wrong, deadline).await
    }

    async fn header(&self, wrong: &mut Wrong, deadline: Instant) -> Result<(Header, Giver), CacheError> {
        let given = self.given(&HEADER, wrong, deadline).await?;
        let header = self.checked(&given.bytes).inspect_err(|_| wrong.add(HEADER, given.from))?;
        Ok((header, given.from))
    }

    fn checked(&self, header: &[u8]) -> Result<Header, CacheError> {
        let header = Header::decode(header.first_chunk().ok_or(HeadError::Header)?)?;
        // Nobody else has bytes beyond the end of the file: to ask for them would end in no answer.
        if self.claimed.is_some_and(|claimed| header.head_len() > claimed.len) {
            return Err(HeadError::Header.into());
        }
        self.expect(header.id)?;
        Ok(header)
    }

    async fn head(&self, header: Header, wrong: &mut Wrong, deadline: Instant) -> Result<Head, CacheError> {
        let known = &*wrong;
        let ask = async |range| Ok::<_, SourceError>((self.given(&range, known, deadline).await?, range));
        let pieces: Vec<(Given, Range<u64>)> =
            stream::iter(pieces(header.head_len())).map(ask).buffered(PIECES).try_collect().await?;
        let bytes: Vec<&[u8]> = pieces.iter().map(|(given, _)| &*given.bytes).collect();
        let head = self.keep(bytes.concat()).await;
        if head.as_ref().is_err_and(CacheError::is_wrong) {
            pieces.into_iter().for_each(|(given, range)| wrong.add(range, given.from));
        }
        head
    }

    /// Checks a head and writes it to this disk.
    async fn keep(&self, bytes: Vec<u8>) -> Result<Head, CacheError> {
        let (layer, claimed, folder) = (*self.layer, self.claimed, self.folder.to_owned());
        let shelf = self.around.shelf.clone();
        let kept = tokio::task::spawn_blocking(move || {
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
