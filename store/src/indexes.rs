//! Which blob of the store is the index of which layer. An index is a blob of its own, under the digest of its file;
//! it goes with its layer, or before.

use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use shoal_proto::Digest;

use crate::facts::Kind;
use crate::{Store, StoreError};

/// Images have some ten layers each; as many rows as the store has blobs.
pub(crate) const INDEXES: Kind =
    Kind { table: TableDefinition::new("indexes.1"), name: "indexes", cap: crate::store::MAX_BLOBS as u64 };

/// What is known of a layer's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexFact {
    /// It is the blob `file`. `claim` says who vouches for it: opaque to the store.
    Built { file: Digest, claim: Vec<u8> },
    /// The layer has none; why, for people.
    Declined { reason: String },
}

#[derive(Serialize, Deserialize)]
enum IndexRow {
    Built { file: String, claim: Vec<u8> },
    Declined { reason: String },
}

impl IndexRow {
    /// `None` where the row is not what this version writes.
    fn into_fact(self) -> Option<IndexFact> {
        Some(match self {
            Self::Built { file, claim } => IndexFact::Built { file: file.parse().ok()?, claim },
            Self::Declined { reason } => IndexFact::Declined { reason },
        })
    }
}

impl Store {
    /// Notes what is known of a layer's index.
    pub fn put_index(&self, layer: &Digest, fact: &IndexFact) -> Result<(), StoreError> {
        let row = match fact.clone() {
            IndexFact::Built { file, claim } => IndexRow::Built { file: file.to_string(), claim },
            IndexFact::Declined { reason } => IndexRow::Declined { reason },
        };
        self.put(&INDEXES, &layer.to_string(), &row)
    }

    /// What is known of a layer's index. An index that was evicted is not known any more.
    pub fn index(&self, layer: &Digest) -> Result<Option<IndexFact>, StoreError> {
        let row: Option<IndexRow> = self.get(&INDEXES, &layer.to_string())?;
        let is_here = |fact: &IndexFact| match fact {
            IndexFact::Built { file, .. } => self.complete(file).is_some_and(|blob| blob.held.is_full()),
            IndexFact::Declined { .. } => true,
        };
        Ok(row.and_then(IndexRow::into_fact).filter(is_here))
    }

    /// Forgets a layer's index and removes it.
    pub fn remove_index(&self, layer: &Digest) -> Result<(), StoreError> {
        let row: Option<IndexRow> = self.get(&INDEXES, &layer.to_string())?;
        self.forget(&INDEXES, &layer.to_string())?;
        match row.and_then(IndexRow::into_fact) {
            Some(IndexFact::Built { file, .. }) => match self.remove(&file) {
                Err(StoreError::NotFound(_)) => Ok(()),
                removed => removed,
            },
            _ => Ok(()),
        }
    }

    /// The layers of which something is known.
    pub fn indexed_layers(&self) -> Result<Vec<Digest>, StoreError> {
        let rows = self.latest::<IndexRow>(&INDEXES)?;
        Ok(rows.into_iter().filter_map(|(key, _)| key.first()?.parse().ok()).collect())
    }
}
