//! Small facts about registries: what tags mean, which repository holds which blob. All of them are a cache,
//! bounded in number; the ones written longest ago go first.

use std::time::{SystemTime, UNIX_EPOCH};

use redb::{ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};
use shoal_proto::{Digest, RegistryName};

use crate::blob::lock;
use crate::flush::ROWS_WITHIN;
use crate::indexes::INDEXES;
use crate::rows::{Redb, encode, parse};
use crate::{Store, StoreError};

/// A kind of fact. A row's value is when it was written, 8 bytes of unix milliseconds in big-endian order,
/// and then JSON.
pub(crate) struct Kind {
    pub(crate) table: TableDefinition<'static, &'static str, &'static [u8]>,
    pub(crate) name: &'static str,
    /// Rows at most. About 300 bytes each.
    pub(crate) cap: u64,
}

const TAGS: Kind = Kind { table: TableDefinition::new("tags.1"), name: "tags", cap: 20_000 };
/// Images have some ten blobs each.
const LINKS: Kind = Kind { table: TableDefinition::new("links.1"), name: "links", cap: 200_000 };
/// Rows whose key ends in [`TOLD`] are what members said, the others what the origin said to this node.
const ANONYMOUS: Kind = Kind { table: TableDefinition::new("anonymous.1"), name: "anonymous", cap: 10_000 };

const TOLD: &str = "told";

/// What a tag last resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
    pub media_type: String,
    /// When the origin said so, in unix seconds.
    pub resolved_at: u64,
    /// Whether it said so without credentials, and to this node: then others may be told.
    pub public: bool,
}

#[derive(Serialize, Deserialize)]
struct TagRow {
    digest: String,
    size: u64,
    media_type: String,
    resolved_at: u64,
    public: bool,
}

impl TagRow {
    /// `None` where the row is not what this version writes.
    fn into_tag(self) -> Option<Tag> {
        let digest = self.digest.parse().ok()?;
        let Self { size, media_type, resolved_at, public, .. } = self;
        Some(Tag { digest, size, media_type, resolved_at, public })
    }
}

// Names of registries, repositories and tags hold no zero byte.
fn key(registry: &RegistryName, repository: &str, rest: &str) -> String {
    format!("{registry}\0{repository}\0{rest}")
}

pub(crate) fn create_tables(transaction: &WriteTransaction) -> Redb<()> {
    for kind in [TAGS, LINKS, ANONYMOUS, INDEXES] {
        transaction.open_table(kind.table)?;
    }
    Ok(())
}

fn written_at(row: &[u8]) -> u64 {
    row.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp))
}

/// Removes the tenth that was written longest ago.
fn shrink(table: &mut redb::Table<'_, &'static str, &'static [u8]>) -> Redb<()> {
    let mut stamps = Vec::new();
    for row in table.iter()? {
        stamps.push(written_at(row?.1.value()));
    }
    stamps.sort_unstable();
    let oldest_kept = stamps.get(stamps.len() / 10).copied().unwrap_or(0);
    // Rows of one millisecond go together, so that some go.
    table.retain(|_, row| written_at(row) > oldest_kept)?;
    Ok(())
}

impl Store {
    pub(crate) fn put<T: Serialize>(&self, kind: &Kind, key: &str, row: &T) -> Result<(), StoreError> {
        let inner = &self.handle.inner;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut value = u64::try_from(now).unwrap_or(u64::MAX).to_be_bytes().to_vec();
        inner.rows.write_soon("note a fact", |rows| {
            value.append(&mut encode(row)?);
            let mut table = rows.open_table(kind.table)?;
            table.insert(key, value.as_slice())?;
            if table.len()? > kind.cap {
                shrink(&mut table)?;
            }
            Ok(())
        })?;
        self.facts_changed();
        Ok(())
    }

    pub(crate) fn forget(&self, kind: &Kind, key: &str) -> Result<(), StoreError> {
        let rows = &self.handle.inner.rows;
        rows.write_soon("forget a fact", |rows| {
            rows.open_table(kind.table)?.remove(key)?;
            Ok(())
        })?;
        self.facts_changed();
        Ok(())
    }

    fn facts_changed(&self) {
        let inner = &self.handle.inner;
        lock(&inner.table).facts_changed = true;
        inner.flush_later(ROWS_WITHIN);
    }

    pub(crate) fn get<T: serde::de::DeserializeOwned>(
        &self,
        kind: &Kind,
        key: &str,
    ) -> Result<Option<T>, StoreError> {
        let row = self.handle.inner.rows.read("look up a fact", |rows| {
            let row = rows.open_table(kind.table)?.get(key)?;
            Ok(row.and_then(|row| parse(kind.name, row.value().get(8..).unwrap_or_default())))
        })?;
        Ok(row)
    }

    /// Notes what a tag resolved to.
    pub fn put_tag(
        &self,
        registry: &RegistryName,
        repository: &str,
        tag: &str,
        meaning: &Tag,
    ) -> Result<(), StoreError> {
        let row = TagRow {
            digest: meaning.digest.to_string(),
            size: meaning.size,
            media_type: meaning.media_type.clone(),
            resolved_at: meaning.resolved_at,
            public: meaning.public,
        };
        self.put(&TAGS, &key(registry, repository, tag), &row)
    }

    pub fn tag(
        &self,
        registry: &RegistryName,
        repository: &str,
        tag: &str,
    ) -> Result<Option<Tag>, StoreError> {
        let row: Option<TagRow> = self.get(&TAGS, &key(registry, repository, tag))?;
        Ok(row.and_then(TagRow::into_tag))
    }

    /// What tags of open repositories mean, as (registry, repository, tag, meaning): the `limit` noted last.
    pub fn public_tags(&self, limit: usize) -> Result<Vec<(RegistryName, String, String, Tag)>, StoreError> {
        let rows = self.latest::<TagRow>(&TAGS)?.into_iter().filter(|(_, row)| row.public);
        let tag = |(key, row): (Vec<String>, TagRow)| {
            let [registry, repository, tag] = key.try_into().ok()?;
            Some((registry.parse().ok()?, repository, tag, row.into_tag()?))
        };
        Ok(rows.filter_map(tag).take(limit).collect())
    }

    /// Repositories that the origin served without credentials at `since` (unix seconds) or later: the `limit`
    /// noted last.
    pub fn open_repositories(
        &self,
        since: u64,
        limit: usize,
    ) -> Result<Vec<(RegistryName, String)>, StoreError> {
        let rows = self.latest::<u64>(&ANONYMOUS)?.into_iter().filter(|(_, at)| *at >= since.max(1));
        let name = |(key, _): (Vec<String>, u64)| match <[String; 3]>::try_from(key).ok()? {
            [registry, repository, by] if by.is_empty() => Some((registry.parse().ok()?, repository)),
            _ => None,
        };
        Ok(rows.filter_map(name).take(limit).collect())
    }

    /// All rows of a kind with the parts of their keys, the one written last first.
    pub(crate) fn latest<T: serde::de::DeserializeOwned>(
        &self,
        kind: &Kind,
    ) -> Result<Vec<(Vec<String>, T)>, StoreError> {
        let mut rows = self.handle.inner.rows.read("list facts", |rows| {
            let mut found = Vec::new();
            for row in rows.open_table(kind.table)?.iter()? {
                let (key, value) = row?;
                let content = parse(kind.name, value.value().get(8..).unwrap_or_default());
                if let Some(content) = content {
                    let parts: Vec<String> = key.value().split('\0').map(str::to_owned).collect();
                    found.push((written_at(value.value()), parts, content));
                }
            }
            Ok(found)
        })?;
        rows.sort_by_key(|(at, ..)| std::cmp::Reverse(*at));
        Ok(rows.into_iter().map(|(_, key, content)| (key, content)).collect())
    }

    /// Notes that a repository holds a blob of this size.
    pub fn put_link(
        &self,
        registry: &RegistryName,
        repository: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<(), StoreError> {
        self.put(&LINKS, &key(registry, repository, &digest.to_string()), &size)
    }

    /// The size of the blob, where this repository is known to hold it.
    pub fn link(
        &self,
        registry: &RegistryName,
        repository: &str,
        digest: &Digest,
    ) -> Result<Option<u64>, StoreError> {
        self.get(&LINKS, &key(registry, repository, &digest.to_string()))
    }

    /// Notes that the origin served this repository without credentials, at this time in unix seconds.
    pub fn put_anonymous(
        &self,
        registry: &RegistryName,
        repository: &str,
        at: u64,
    ) -> Result<(), StoreError> {
        self.put(&ANONYMOUS, &key(registry, repository, ""), &at)
    }

    /// When the origin last served this repository without credentials, in unix seconds.
    pub fn anonymous(&self, registry: &RegistryName, repository: &str) -> Result<Option<u64>, StoreError> {
        self.get(&ANONYMOUS, &key(registry, repository, ""))
    }

    /// Notes that members said at this time, in unix seconds, that the origin serves this repository to anybody.
    pub fn put_told_open(
        &self,
        registry: &RegistryName,
        repository: &str,
        at: u64,
    ) -> Result<(), StoreError> {
        self.put(&ANONYMOUS, &key(registry, repository, TOLD), &at)
    }

    /// When members last said that the origin serves this repository to anybody, in unix seconds.
    pub fn told_open(&self, registry: &RegistryName, repository: &str) -> Result<Option<u64>, StoreError> {
        self.get(&ANONYMOUS, &key(registry, repository, TOLD))
    }
}
