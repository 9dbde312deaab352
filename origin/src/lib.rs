//! Client of upstream registries.
//!
//! [`Origins`] decides which registries may be asked at all and hands out one [`Origin`] for each. An
//! origin reads manifests and ranges of blobs, on behalf of an [`Identity`], from a registry over HTTP or
//! from an OCI layout folder. Everything that a registry answers is hostile until checked: sizes are
//! bounded, redirects and token realms must pass the rules in `address` and `realm`, and manifests are
//! hashed. Blobs are only counted here: whoever stores them checks their digest.
//!
//! Nothing is cached here but tokens, and those never leave memory.

mod address;
mod blob_stream;
mod challenge;
mod config;
mod content_range;
mod counters;
mod credentials;
mod docker_config;
mod error;
mod http_client;
mod identity;
mod layout_folder;
mod origin;
mod origins;
mod outages;
mod proof;
mod realm;
mod redirect;
mod registry;
mod retry;
mod tls;
mod token;
mod well_known;

#[cfg(test)]
mod tests;

pub use blob_stream::BlobStream;
pub use config::{ConfigError, CredentialsConfig, OriginsConfig, RegistryConfig};
pub use counters::CounterSnapshot;
pub use credentials::CredentialError;
pub use error::{Failure, OriginError, Refusal};
pub use identity::{CallerAuthorization, Identity, IdentityKey};
pub use origin::{Kind, ManifestBody, ManifestHead, Origin, PassPath, Passed};
pub use origins::Origins;
