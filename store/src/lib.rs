//! The chunk store: the only writer of cached bytes.
//!
//! A blob is a sparse file; what is known about it are rows in an index (`rows`). While it is partial it is named
//! by its swarm, since nothing but signed claims vouches for its chunks; once its digest matched it is named by
//! the digest. Invariants:
//!
//! - Only a [`VerifiedChunk`](shoal_proto::VerifiedChunk) is written, and what is read is checked again, block
//!   by block, before anybody sees it. A chunk that fails is forgotten, and the swarm can repair it.
//! - A chunk's rows are committed only after its data was synced (`flush`): a crash forgets chunks at worst and
//!   never claims one. Nothing is synced chunk by chunk.
//! - A blob is complete once its content digest matched; one transaction makes that durable, after all of its bytes are.
//! - The store never takes more than its capacity, and never evicts what is read, written or pinned,
//!   but for a complete blob that it cannot make durable.
//!
//! All methods block, at worst for the time of a sync; call them from blocking threads.

mod blob;
mod blob_rows;
mod buffers;
mod digest;
mod disk;
mod error;
mod evict;
mod facts;
mod flush;
mod hash;
mod indexes;
#[cfg(test)]
mod power_loss;
mod reader;
mod recovery;
mod rows;
mod status;
mod store;
mod table;
mod write;

pub use digest::ContentHasher;
pub use error::{BlobName, FinishError, OpenError, ReadError, StoreError};
pub use evict::Loss;
pub use facts::Tag;
pub use indexes::IndexFact;
pub use reader::{READ_BLOCKS, Reader};
pub use rows::RowsError;
pub use status::{BlobStatus, Statistics};
pub use store::{Complete, HeldChunk, Partial, Store, StoreConfig};
pub use write::MAX_EVIDENCE;
