//! The OCI distribution API over HTTP, as clients pull with it.
//!
//! A request becomes a [`Route`] once, its names are parsed once, and the answer comes from a [`Backend`]:
//! bytes of manifests and of blobs. This crate knows no peers, no store and no upstream; it never writes to
//! a registry, and pushing and deleting are refused.
//!
//! What a client may rely on: a body is either complete or ends in an error that the client sees. A stream
//! that fails, ends early or runs over resets the connection (HTTP/1.1) or the stream (HTTP/2).

mod accept;
mod backend;
mod blobs;
mod body;
mod caller;
mod config;
mod connection;
mod headers;
mod listen;
mod manifests;
mod metrics;
mod pass;
mod range;
mod refusal;
mod refusal_log;
mod registry;
mod route;
mod server;
mod service;
mod systemd;
mod tls;

pub use accept::Accept;
pub use backend::{
    Backend, Blob, BlobRef, ImageRef, Manifest, Pass, PassKind, Passed, Piece, ReadFailure, Source,
};
pub use caller::{Authorization, Caller};
pub use config::{ProxyConfig, TlsConfig, deserialize_listen};
pub use listen::{ListenAddress, ListenAddressError, ListenError, Listeners};
pub use metrics::{Metrics, RouteLabel, Snapshot};
pub use refusal::Refusal;
pub use server::Proxy;
pub use tls::TlsError;

#[cfg(test)]
mod tests;
