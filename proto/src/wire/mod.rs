//! The wire form of the messages: protobuf, as `proto/shoal.proto` tells.
//!
//! [`v1`] holds the generated types; they are for gRPC and for these conversions only. From typed to wire
//! always succeeds. From wire to typed is where everything that arrives is checked against
//! [`crate::message::limit`] and against the blob that it speaks of; what breaks a bound is refused whole.

mod node;
mod peer;
mod swarm;
mod tracker;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod bounds;
#[cfg(test)]
mod round_trip;

use std::time::Duration;

use prost::Message;

use crate::message::limit;
use crate::{
    ChunkIndex, ChunkSetError, LayoutError, NodeIdError, RegistryNameError, SignedAttestation, SignedEntry,
};

/// The generated types, with the names of `proto/shoal.proto`.
#[allow(clippy::all, clippy::pedantic, unreachable_pub, reason = "generated code")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/shoal.v1.rs"));
}

/// A message was refused: `what` names the field or the kind of message.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct WireError {
    pub what: &'static str,
    pub why: Refusal,
}

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    #[error("not protobuf of this kind: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("missing")]
    Missing,
    #[error("of a kind that this version does not know")]
    Unknown,
    #[error("has {got}, at most {limit} are allowed")]
    TooMany { got: usize, limit: usize },
    #[error("has {got} bytes instead of {want}")]
    Length { got: usize, want: usize },
    #[error("has no end after {0} bytes of the last record")]
    Cut(usize),
    #[error("chunk {0} is past the end of the blob")]
    PastEnd(ChunkIndex),
    #[error("is empty")]
    Empty,
    #[error("{start} to {end} is longer than a range may be, or past the end")]
    Range { start: u64, end: u64 },
    #[error("is not an address and port")]
    Address,
    #[error("{0}")]
    Size(#[from] LayoutError),
    #[error("{0}")]
    Set(#[from] ChunkSetError),
    #[error("{0}")]
    Registry(#[from] RegistryNameError),
    #[error("{0}")]
    Node(#[from] NodeIdError),
}

/// Adds the name of what was refused.
trait Of<T> {
    fn of(self, what: &'static str) -> Result<T, WireError>;
}

impl<T, E: Into<Refusal>> Of<T> for Result<T, E> {
    fn of(self, what: &'static str) -> Result<T, WireError> {
        self.map_err(|why| WireError { what, why: why.into() })
    }
}

impl<T> Of<T> for Option<T> {
    fn of(self, what: &'static str) -> Result<T, WireError> {
        self.ok_or(WireError { what, why: Refusal::Missing })
    }
}

fn at_most(what: &'static str, got: usize, limit: usize) -> Result<(), WireError> {
    if got > limit { Err(WireError { what, why: Refusal::TooMany { got, limit } }) } else { Ok(()) }
}

/// Records of one kind in one field, each preceded by its length.
fn records_to_wire<W: Message>(records: impl Iterator<Item = W>) -> Vec<u8> {
    records.flat_map(|record| record.encode_length_delimited_to_vec()).collect()
}

/// Reads such records; stops at the first one beyond the limit.
fn records<W, T>(what: &'static str, mut wire: &[u8], limit: usize) -> Result<Vec<T>, WireError>
where
    W: Message + Default,
    T: TryFrom<W, Error = WireError>,
{
    let mut records = Vec::new();
    while !wire.is_empty() {
        at_most(what, records.len() + 1, limit)?;
        records.push(W::decode_length_delimited(&mut wire).of(what)?.try_into()?);
    }
    Ok(records)
}

/// A text of at most [`limit::NAME`] characters.
fn name(what: &'static str, text: String) -> Result<Box<str>, WireError> {
    at_most(what, text.chars().count(), limit::NAME)?;
    Ok(text.into())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a message of at most [`limit::MESSAGE`] bytes.
fn decode<W, T>(what: &'static str, bytes: &[u8]) -> Result<T, WireError>
where
    W: Message + Default,
    T: TryFrom<W, Error = WireError>,
{
    at_most(what, bytes.len(), limit::MESSAGE)?;
    W::decode(bytes).of(what)?.try_into()
}

impl SignedEntry {
    /// The entry with its swarm and signature, to be kept or sent by itself.
    pub fn to_bytes(&self) -> Vec<u8> {
        v1::SwarmEntry::from(self).encode_to_vec()
    }

    /// Reads what [`Self::to_bytes`] wrote. The signature is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        decode::<v1::SwarmEntry, _>("entry", bytes)
    }
}

impl SignedAttestation {
    /// The attestation with its swarm and signature, to be kept or sent by itself.
    pub fn to_bytes(&self) -> Vec<u8> {
        v1::SwarmAttestation::from(self).encode_to_vec()
    }

    /// Reads what [`Self::to_bytes`] wrote. The signature is not checked.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        decode::<v1::SwarmAttestation, _>("attestation", bytes)
    }
}
