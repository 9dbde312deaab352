//! containerd's snapshots, as a plugin of its own (`proxy_plugins`): layers that have an index are shown by the
//! [filesystem](crate::fs) at once, all others are unpacked by containerd into folders, and overlayfs puts both over
//! each other.
//!
//! ```text
//! snapshots.redb      a row for each snapshot
//! s/17/fs, s/17/work  what is unpacked, or what a container writes: the upper and the work folder of overlayfs
//! ```
//! A folder is made before its row and removed after it, so a crash leaves folders without a row at worst; a start
//! sweeps them. A layer is shown, and its number durable, before its row is written.

mod error;
mod filter;
mod folders;
mod lazy;
mod ledger;
mod mounts;
mod policy;
mod report;
mod rows;
mod service;
mod snapshotter;
#[cfg(test)]
mod tests;

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations, reason = "generated")]
mod api {
    tonic::include_proto!("containerd.services.snapshots.v1");
}

pub use error::SnapshotError;
pub use filter::FilterError;
pub use ledger::{OpenError, Places};
pub use policy::{Fill, Pattern, PatternError, Policy};
pub use rows::RowsError;
pub use service::serve;
pub use snapshotter::Snapshotter;
