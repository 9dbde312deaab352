//! How nodes reach each other: who a node is, what makes it a member of its cluster, gRPC between nodes and
//! trackers, and bulk transport of chunks between neighbours over QUIC.
//!
//! Both ends of every connection authenticate. The certificate authority is derived from the cluster's secret,
//! so being able to show a certificate that it signed *is* being a member; the certificate's key is the node's
//! identity. Nothing here judges what members say: bytes are checked against the chunk map by who asked for
//! them, and signed claims by who reads them.

mod bulk;
mod cluster;
mod config;
pub mod grpc;
mod identity;
mod quic;
mod rate_limit;
mod tls;

pub use bulk::{
    Bulk, ChunkServer, ConnectError, FetchError, FetchedChunk, LinkEvent, LinkStats, SendError, Served,
};
pub use cluster::{Cluster, ClusterError, generate_secret};
pub use config::{ClusterSection, hint};
pub use identity::{Identity, IdentityError};
pub use quic::{BindError, FrameError, QuicConfig, QuicEndpoint};
pub use rate_limit::RateLimit;
pub use tls::{MutualTls, TlsError, node_of};
