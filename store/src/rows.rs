//! The index: redb behind one door that opens it again after an I/O error.
//!
//! After one failed write, for instance on a full disk, redb refuses all work until it is opened anew. Rows of
//! one format live in tables whose name carries the format's version; a change of format takes a new name.

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Builder, Database, DatabaseError, Durability, ReadTransaction, StorageError, WriteTransaction};

/// Pages that redb keeps in memory, in bytes. Each reader holds the block values of the chunk it is in, so
/// little is read twice.
const CACHE_BYTES: usize = 4 << 20;

/// Why rows could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation}")]
pub struct RowsError {
    operation: &'static str,
    // Large, so boxed.
    source: Box<redb::Error>,
}

impl RowsError {
    pub(crate) fn is_full(&self) -> bool {
        matches!(&*self.source, redb::Error::Io(error) if crate::disk::is_full(error))
    }
}

pub(crate) type Redb<T> = Result<T, redb::Error>;

/// Opens the database file; tests put a recorder in between.
pub(crate) type Opener = Box<dyn Fn(&Builder, &Path) -> Result<Database, DatabaseError> + Send + Sync>;

pub(crate) struct Rows {
    path: PathBuf,
    opener: Opener,
    /// `None` between a failure and the next use.
    database: RwLock<Option<Database>>,
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Rows {
    /// Opens or creates the index. One that cannot be read any more is put aside: what it described is only
    /// a cache.
    pub(crate) fn open(path: PathBuf, opener: Opener) -> Result<Self, RowsError> {
        let rows = Self { path, opener, database: RwLock::new(None) };
        // A loss of power while the file was made leaves one that is no database.
        let unreadable = |error: &redb::Error| match error {
            redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => true,
            redb::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
            _ => false,
        };
        match rows.reopen() {
            Err(error) if unreadable(&error) => {
                let aside = rows.path.with_extension("unreadable");
                tracing::warn!(%error, aside = %aside.display(), "the index cannot be read, starting with an empty one");
                std::fs::rename(&rows.path, &aside)
                    .map_err(redb::Error::from)
                    .and_then(|()| rows.reopen())
                    .map_err(|error| rows.failed("replace the index", error))?;
            }
            other => other.map_err(|error| rows.failed("open the index", error))?,
        }
        Ok(rows)
    }

    fn reopen(&self) -> Redb<()> {
        let mut slot = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some((self.opener)(Builder::new().set_cache_size(CACHE_BYTES), &self.path)?);
        }
        Ok(())
    }

    fn with<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Database) -> Redb<T>,
    ) -> Result<T, RowsError> {
        let result = loop {
            let slot = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(database) = slot.as_ref() {
                break work(database);
            }
            drop(slot);
            self.reopen().map_err(|error| self.failed(operation, error))?;
        };
        result.map_err(|error| self.failed(operation, error))
    }

    fn failed(&self, operation: &'static str, error: redb::Error) -> RowsError {
        if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
            self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        }
        RowsError { operation, source: Box::new(error) }
    }

    pub(crate) fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&ReadTransaction) -> Redb<T>,
    ) -> Result<T, RowsError> {
        use redb::ReadableDatabase;
        self.with(operation, |database| work(&database.begin_read()?))
    }

    /// Changes rows and makes them durable, with all that was written before.
    pub(crate) fn write<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Redb<T>,
    ) -> Result<T, RowsError> {
        self.change(operation, Durability::Immediate, work)
    }

    /// Changes rows, to be made durable by the next [`Self::write`].
    pub(crate) fn write_soon<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&WriteTransaction) -> Redb<T>,
    ) -> Result<T, RowsError> {
        self.change(operation, Durability::None, work)
    }

    fn change<T>(
        &self,
        operation: &'static str,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Redb<T>,
    ) -> Result<T, RowsError> {
        self.with(operation, |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(durability).map_err(redb::Error::from)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }
}

/// A row that does not parse counts as absent: it describes a cache.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(table: &'static str, bytes: &[u8]) -> Option<T> {
    serde_json::from_slice(bytes)
        .inspect_err(|error| tracing::warn!(table, %error, "ignoring a row that cannot be read"))
        .ok()
}

pub(crate) fn encode<T: serde::Serialize>(row: &T) -> Redb<Vec<u8>> {
    serde_json::to_vec(row).map_err(|error| redb::Error::from(StorageError::Io(error.into())))
}
