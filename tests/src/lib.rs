//! Fixtures for the end-to-end tests: Debian's docker-registry with its own access log, images made
//! from a seed, the real clients (containerd, podman, skopeo), a registry that misbehaves on purpose,
//! and whole clusters of `shoal` processes. Everything stays on 127.0.0.1 and in temporary folders.
//!
//! The crate is for tests only, so it panics where a fixture cannot be set up; what a test is about
//! (a client's pull, an answer of the mirror) comes back as a value.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a fixture that cannot be set up ends its test"
)]

mod access_log;
mod address;
mod bench_run;
mod cluster;
mod containerd;
mod containers_config;
mod detach;
mod faulty_registry;
mod file_reader;
mod http;
mod image;
mod image_builder;
mod kubelet;
mod liar;
mod member;
mod metrics;
mod mount;
mod node;
mod podman;
mod process;
mod program;
mod programs;
mod puller;
mod push;
mod registry;
mod requirement;
mod service;
mod shoal_binary;
mod shoal_fs;
mod skopeo;
mod span_reader;
mod tmpfs;

pub use access_log::Access;
pub use address::free_address;
pub use bench_run::BenchRun;
pub use cluster::{Cluster, ClusterBuilder};
pub use containerd::Containerd;
pub use faulty_registry::{Fault, FaultyRegistry, Received};
pub use file_reader::FileReader;
pub use http::{Credentials, client};
pub use image::{Blob, Image, Manifest, Platform};
pub use image_builder::{Format, ImageBuilder};
pub use kubelet::Kubelet;
pub use liar::{Liar, Lie};
pub use member::{Member, NotJoined, Session};
pub use metrics::Metrics;
pub use mount::mounted;
pub use node::Node;
pub use podman::Podman;
pub use process::Process;
pub use program::{Finished, ProgramError};
pub use programs::programs;
pub use puller::{PullError, Pulled, Puller};
pub use registry::Registry;
pub use requirement::{Needs, available};
pub use service::Service;
pub use shoal_binary::shoal_binary;
pub use shoal_fs::ShoalFs;
pub use skopeo::Skopeo;
pub use span_reader::SpanReader;
