//! Lazy layers, the daemon's side: the index of a layer is built, vouched for, found and served, and so are exact
//! ranges of layers, to other members and to the process that holds filesystems on this machine.
//!
//! What is absent here: decoding. Bytes of a range that came from elsewhere are handed on as they are, to who can
//! check them against the index; they are never stored, and never served to another member.

mod budget;
mod build;
mod claims;
mod gate;
mod gone_layers;
mod hedge;
mod holders;
mod images;
mod indexer;
mod manifest;
mod peers;
mod ranges;
mod reports;
mod requests;
mod socket;

pub(crate) use claims::Claims;
pub(crate) use gone_layers::follow_layers;
pub(crate) use holders::Holders;
pub(crate) use images::Images;
pub(crate) use indexer::Indexer;
pub(crate) use peers::PeerServer;
pub(crate) use ranges::{OriginParts, Ranges};
pub(crate) use reports::Reports;
pub(crate) use requests::Requests;
pub(crate) use socket::Socket;
