//! All snapshots: on disk in redb, and in memory for whoever asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message as _;
use prost_types::Timestamp;
use redb::{Builder, Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use shoal_proto::Digest;

pub(super) use super::api::Kind;
use crate::fs::SlotNumber;
use crate::index::IndexId;
use crate::link::Served;
use crate::source::ClaimedIndex;

/// By name.
const SNAPSHOTS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("snapshots");
/// One row, under 0: the number of the next snapshot. Never used twice: a folder may outlive its row.
const NEXT: TableDefinition<'static, u64, u64> = TableDefinition::new("next");
/// Pages that redb keeps in memory, in bytes: rows are in memory anyway.
const CACHE: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
#[error("cannot keep snapshots in {}: {source}", path.display())]
pub struct RowsError {
    path: PathBuf,
    source: redb::Error,
}

/// A snapshot, without its name.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Snapshot {
    #[prost(uint64, tag = "1")]
    pub(super) id: u64,
    #[prost(enumeration = "Kind", tag = "2")]
    pub(super) kind: i32,
    /// Empty: none.
    #[prost(string, tag = "3")]
    pub(super) parent: String,
    #[prost(btree_map = "string, string", tag = "4")]
    pub(super) labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "5")]
    pub(super) created: Option<Timestamp>,
    #[prost(message, optional, tag = "6")]
    pub(super) updated: Option<Timestamp>,
    /// Bytes and files of a committed folder.
    #[prost(uint64, tag = "7")]
    pub(super) size: u64,
    #[prost(uint64, tag = "8")]
    pub(super) files: u64,
    /// What this and those below are called together, where that is known; else empty.
    #[prost(string, tag = "9")]
    pub(super) chain_id: String,
    /// A layer that the filesystem shows; else there is a folder.
    #[prost(message, optional, tag = "10")]
    pub(super) layer: Option<ShownLayer>,
}

impl Snapshot {
    pub(super) fn new(kind: Kind, parent: String, labels: BTreeMap<String, String>) -> Self {
        let now = Some(SystemTime::now().into());
        Self { kind: kind.into(), parent, labels, created: now, updated: now, ..Self::default() }
    }

    pub(super) fn chain(&self) -> Option<Digest> {
        self.chain_id.parse().ok()
    }
}

/// A layer that the filesystem shows, and all that must be known to show it again.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ShownLayer {
    /// This one and those below, lowest first.
    #[prost(message, repeated, tag = "1")]
    pub(super) layers: Vec<KnownLayer>,
}

impl ShownLayer {
    /// Whether some of it can be read only with credentials that are in no row.
    pub(super) fn borrows(&self) -> bool {
        self.layers.iter().any(|layer| layer.borrowed)
    }

    pub(super) fn slot(&self) -> SlotNumber {
        SlotNumber(self.layers.last().map_or(u32::MAX, |layer| layer.slot))
    }
}

/// A layer in its place, the image through which it is read, and its index.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KnownLayer {
    #[prost(string, tag = "1")]
    pub(super) digest: String,
    #[prost(string, tag = "2")]
    pub(super) image: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) index: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(super) index_file: String,
    #[prost(uint64, tag = "5")]
    pub(super) index_len: u64,
    #[prost(uint32, tag = "6")]
    pub(super) slot: u32,
    /// The image can be read only with credentials that are in no row.
    #[prost(bool, tag = "7")]
    pub(super) borrowed: bool,
}

impl KnownLayer {
    pub(super) fn new(digest: &Digest, served: &Served, slot: SlotNumber) -> Self {
        let Served { image, index, borrowed, .. } = served;
        Self {
            digest: digest.to_string(),
            image: image.clone(),
            index: index.id.0.to_vec(),
            index_file: index.file.to_string(),
            index_len: index.len,
            slot: slot.0,
            borrowed: *borrowed,
        }
    }

    /// Nothing if the row makes no sense.
    pub(super) fn parse(&self) -> Option<(Digest, Served)> {
        let id = IndexId(self.index.as_slice().try_into().ok()?);
        let index = ClaimedIndex { id, file: self.index_file.parse().ok()?, len: self.index_len };
        let (image, borrowed) = (self.image.clone(), self.borrowed);
        Some((self.digest.parse().ok()?, Served { image, index, authorization: None, borrowed }))
    }
}

/// What one transaction does to a name.
pub(super) type Change = (String, Option<Snapshot>);

#[derive(Debug)]
pub(super) struct Rows {
    path: PathBuf,
    /// Nothing after an error: redb refuses all work until it is opened anew.
    database: Option<Database>,
    next: u64,
    snapshots: BTreeMap<String, Snapshot>,
}

impl Rows {
    pub(super) fn open(path: &Path) -> Result<Self, RowsError> {
        let failed = |source| RowsError { path: path.to_owned(), source };
        let database = open(path).map_err(failed)?;
        let (next, snapshots) = read(&database).map_err(failed)?;
        Ok(Self { path: path.to_owned(), database: Some(database), next, snapshots })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Snapshot> {
        self.snapshots.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &Snapshot)> {
        self.snapshots.iter()
    }

    pub(super) fn has_children(&self, name: &str) -> bool {
        self.snapshots.values().any(|snapshot| snapshot.parent == name)
    }

    /// This snapshot and those below it, nearest first.
    pub(super) fn chain<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a Snapshot)> {
        let find = |name: &'a str| self.get(name).map(|snapshot| (name, snapshot));
        std::iter::successors(find(name), move |(_, snapshot)| find(&snapshot.parent))
    }

    /// A number that no snapshot has or had.
    pub(super) fn new_id(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    /// Durable when it returns, all or nothing. Blocks.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Result<(), RowsError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path).map_err(|source| self.failed(source))?,
        };
        write(&database, self.next, &changes).map_err(|source| self.failed(source))?;
        self.database = Some(database);
        for (name, snapshot) in changes {
            match snapshot {
                Some(snapshot) => drop(self.snapshots.insert(name, snapshot)),
                None => drop(self.snapshots.remove(&name)),
            }
        }
        Ok(())
    }

    fn failed(&self, source: redb::Error) -> RowsError {
        RowsError { path: self.path.clone(), source }
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    Ok(Builder::new().set_cache_size(CACHE).create(path)?)
}

fn read(database: &Database) -> Result<(u64, BTreeMap<String, Snapshot>), redb::Error> {
    // So that there are tables to read.
    write(database, 0, &[])?;
    let transaction = database.begin_read()?;
    let next = transaction.open_table(NEXT)?.get(0)?.map_or(0, |next| next.value());
    let mut snapshots = BTreeMap::new();
    for row in transaction.open_table(SNAPSHOTS)?.iter()? {
        let (name, row) = row?;
        match Snapshot::decode(row.value()) {
            Ok(snapshot) => drop(snapshots.insert(name.value().to_owned(), snapshot)),
            Err(error) => tracing::warn!(name = name.value(), %error, "a snapshot cannot be read"),
        }
    }
    Ok((next, snapshots))
}

fn write(database: &Database, next: u64, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(NEXT)?;
        let known = table.get(0)?.map_or(0, |next| next.value());
        table.insert(0, known.max(next))?;
        let mut table = transaction.open_table(SNAPSHOTS)?;
        for (name, snapshot) in changes {
            match snapshot {
                Some(snapshot) => drop(table.insert(name.as_str(), snapshot.encode_to_vec().as_slice())?),
                None => drop(table.remove(name.as_str())?),
            }
        }
    }
    Ok(transaction.commit()?)
}
