//! The rows of blobs and their chunks.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use redb::{ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use shoal_proto::{BlockValues, ChunkIndex, ChunkLayout, ChunkSet, ChunkValue, SwarmId};

use crate::HeldChunk;
use crate::blob::Pending;
use crate::rows::{Redb, encode, parse};

type ChunkKey = (u64, u32);

// The numbers in these names are the format's. A change of how blobs are cut needs new ones too: what a row says of a chunk
// would be said of other bytes. Files of blobs that no row names are removed at the next start.
const BLOBS: TableDefinition<u64, &[u8]> = TableDefinition::new("blobs.2");
/// When a blob was last used: a stamp of [`crate::table::Table`].
const LAST_USE: TableDefinition<u64, u64> = TableDefinition::new("last-use.2");
/// The value of each durable chunk. A complete blob keeps those of chunks that it has lost since.
const VALUES: TableDefinition<ChunkKey, [u8; 32]> = TableDefinition::new("values.2");
const BLOCKS: TableDefinition<ChunkKey, &[u8]> = TableDefinition::new("blocks.2");
/// What backs each chunk of a partial blob: opaque to the store.
const EVIDENCE: TableDefinition<ChunkKey, &[u8]> = TableDefinition::new("evidence.2");
/// What backs a complete blob: opaque to the store.
const ATTESTATIONS: TableDefinition<u64, &[u8]> = TableDefinition::new("attestations.2");

/// A blob, as its row says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BlobRow {
    digest: String,
    size: u64,
    origin: String,
    round: u32,
    pub(crate) complete: bool,
    pub(crate) pinned: bool,
    /// Chunks of a complete blob that were found corrupt and are not repaired yet.
    missing: Vec<u32>,
}

impl BlobRow {
    pub(crate) fn new(swarm: &SwarmId, complete: bool, pinned: bool, held: &ChunkSet) -> Self {
        let missing =
            if complete { held.missing_from(ChunkIndex(0)).map(|index| index.0).collect() } else { vec![] };
        Self {
            digest: swarm.digest.to_string(),
            size: swarm.size,
            origin: swarm.origin.to_string(),
            round: swarm.round,
            complete,
            pinned,
            missing,
        }
    }

    pub(crate) fn swarm(&self) -> Option<SwarmId> {
        Some(SwarmId {
            digest: self.digest.parse().ok()?,
            size: self.size,
            origin: self.origin.parse().ok()?,
            round: self.round,
        })
    }
}

/// A blob as found at start.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) id: u64,
    pub(crate) row: BlobRow,
    pub(crate) swarm: SwarmId,
    pub(crate) layout: ChunkLayout,
    pub(crate) held: ChunkSet,
    pub(crate) last_use: u64,
}

fn chunks_of(id: u64) -> RangeInclusive<ChunkKey> {
    (id, 0)..=(id, u32::MAX)
}

pub(crate) fn create_tables(transaction: &WriteTransaction) -> Redb<()> {
    transaction.open_table(BLOBS)?;
    transaction.open_table(LAST_USE)?;
    transaction.open_table(VALUES)?;
    transaction.open_table(BLOCKS)?;
    transaction.open_table(EVIDENCE)?;
    transaction.open_table(ATTESTATIONS)?;
    Ok(())
}

/// All blobs, and the numbers of those whose rows make no sense.
pub(crate) fn load(transaction: &ReadTransaction) -> Redb<(Vec<Loaded>, Vec<u64>)> {
    let values = transaction.open_table(VALUES)?;
    let last_use = transaction.open_table(LAST_USE)?;
    let (mut loaded, mut senseless) = (Vec::new(), Vec::new());
    for entry in transaction.open_table(BLOBS)?.iter()? {
        let (id, row) = entry?;
        let id = id.value();
        let parsed = parse::<BlobRow>("blobs", row.value())
            .and_then(|row| row.swarm().map(|swarm| (row, swarm)))
            .and_then(|(row, swarm)| swarm.layout().ok().map(|layout| (row, swarm, layout)));
        let Some((row, swarm, layout)) = parsed else {
            senseless.push(id);
            continue;
        };
        let mut held = ChunkSet::empty(layout.count());
        if row.complete {
            held = ChunkSet::full(layout.count());
            for index in &row.missing {
                held.remove(ChunkIndex(*index));
            }
        } else {
            for chunk in values.range(chunks_of(id))? {
                held.insert(ChunkIndex(chunk?.0.value().1));
            }
        }
        let last_use = last_use.get(id)?.map_or(0, |stamp| stamp.value());
        loaded.push(Loaded { id, row, swarm, layout, held, last_use });
    }
    Ok((loaded, senseless))
}

pub(crate) fn put_blob(transaction: &WriteTransaction, id: u64, row: &BlobRow) -> Redb<()> {
    transaction.open_table(BLOBS)?.insert(id, encode(row)?.as_slice())?;
    Ok(())
}

pub(crate) fn put_chunks<'a>(
    transaction: &WriteTransaction,
    id: u64,
    chunks: impl Iterator<Item = (&'a u32, &'a Pending)>,
) -> Redb<()> {
    let mut values = transaction.open_table(VALUES)?;
    let mut blocks = transaction.open_table(BLOCKS)?;
    let mut evidence = transaction.open_table(EVIDENCE)?;
    for (index, chunk) in chunks {
        values.insert((id, *index), chunk.value.0)?;
        blocks.insert((id, *index), chunk.blocks.to_bytes().as_slice())?;
        if !chunk.evidence.is_empty() {
            evidence.insert((id, *index), &*chunk.evidence)?;
        }
    }
    Ok(())
}

pub(crate) fn put_last_use(transaction: &WriteTransaction, stamps: &[(u64, u64)]) -> Redb<()> {
    let mut last_use = transaction.open_table(LAST_USE)?;
    for (id, stamp) in stamps {
        last_use.insert(id, stamp)?;
    }
    Ok(())
}

/// Removes all rows of a blob.
pub(crate) fn remove_blob(transaction: &WriteTransaction, id: u64) -> Redb<()> {
    transaction.open_table(BLOBS)?.remove(id)?;
    transaction.open_table(LAST_USE)?.remove(id)?;
    transaction.open_table(ATTESTATIONS)?.remove(id)?;
    transaction.open_table(VALUES)?.retain_in(chunks_of(id), |_, _| false)?;
    transaction.open_table(BLOCKS)?.retain_in(chunks_of(id), |_, _| false)?;
    transaction.open_table(EVIDENCE)?.retain_in(chunks_of(id), |_, _| false)?;
    Ok(())
}

/// Removes what makes a chunk of a partial blob held.
pub(crate) fn remove_chunk(transaction: &WriteTransaction, id: u64, index: ChunkIndex) -> Redb<()> {
    transaction.open_table(VALUES)?.remove((id, index.0))?;
    transaction.open_table(BLOCKS)?.remove((id, index.0))?;
    transaction.open_table(EVIDENCE)?.remove((id, index.0))?;
    Ok(())
}

/// Turns a partial blob into a complete one.
pub(crate) fn complete(
    transaction: &WriteTransaction,
    id: u64,
    row: &BlobRow,
    attestation: &[u8],
) -> Redb<()> {
    put_blob(transaction, id, row)?;
    transaction.open_table(ATTESTATIONS)?.insert(id, attestation)?;
    transaction.open_table(EVIDENCE)?.retain_in(chunks_of(id), |_, _| false)?;
    Ok(())
}

pub(crate) fn value(transaction: &ReadTransaction, id: u64, index: ChunkIndex) -> Redb<Option<ChunkValue>> {
    let row = transaction.open_table(VALUES)?.get((id, index.0))?;
    Ok(row.map(|value| ChunkValue(value.value())))
}

pub(crate) fn values(transaction: &ReadTransaction, id: u64) -> Redb<HashMap<u32, ChunkValue>> {
    let mut values = HashMap::new();
    for row in transaction.open_table(VALUES)?.range(chunks_of(id))? {
        let (key, value) = row?;
        values.insert(key.value().1, ChunkValue(value.value()));
    }
    Ok(values)
}

/// A chunk's value and those of its blocks, as far as they are there and make sense.
pub(crate) fn blocks(
    transaction: &ReadTransaction,
    id: u64,
    layout: &ChunkLayout,
    index: ChunkIndex,
) -> Redb<Option<(ChunkValue, BlockValues)>> {
    let Some(value) = value(transaction, id, index)? else { return Ok(None) };
    let row = transaction.open_table(BLOCKS)?.get((id, index.0))?;
    let blocks = row.and_then(|row| BlockValues::from_bytes(layout, index, row.value()));
    Ok(blocks.map(|blocks| (value, blocks)))
}

/// The durable chunks of a partial blob.
pub(crate) fn chunks(transaction: &ReadTransaction, id: u64) -> Redb<Vec<HeldChunk>> {
    let evidence = transaction.open_table(EVIDENCE)?;
    let mut chunks = Vec::new();
    for row in transaction.open_table(VALUES)?.range(chunks_of(id))? {
        let (key, value) = row?;
        let evidence = evidence.get(key.value())?.map(|bytes| bytes.value().to_vec()).unwrap_or_default();
        chunks.push(HeldChunk {
            index: ChunkIndex(key.value().1),
            value: ChunkValue(value.value()),
            evidence,
        });
    }
    Ok(chunks)
}

pub(crate) fn attestation(transaction: &ReadTransaction, id: u64) -> Redb<Option<Vec<u8>>> {
    Ok(transaction.open_table(ATTESTATIONS)?.get(id)?.map(|bytes| bytes.value().to_vec()))
}
