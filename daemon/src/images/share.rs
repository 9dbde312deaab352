//! Whether a blob that came from one registry may be given to callers of another.
//!
//! Layers are shared between images of many registries, and are kept once. But to know a digest is no right to the
//! content: a registry could list a private blob of another one. So what came from a private repository is given
//! to another registry's callers only after that registry has shown that it has the bytes itself.

use bytes::BytesMut;
use futures_util::StreamExt;
use shoal_origin::Origin;
use shoal_proto::{Digest, RegistryName, SwarmId};
use shoal_registry_proxy::Refusal;
use shoal_store::{Complete, ReadError, Store};
use tracing::{debug, info};

use super::resolve::{PUBLIC, look_up, noted};
use crate::blobs::OriginContext;

/// No repository has this name: a link under it says that the registry has shown that it has the blob.
const PROVEN: &str = "+";
/// Bytes at a place drawn by chance that the registry must show: more than can be guessed.
const SAMPLE: u64 = 64 << 10;

/// Whether the registry that a blob came from gives it to anybody. Then it may be given to anybody.
pub(crate) fn is_open(store: &Store, swarm: &SwarmId) -> bool {
    look_up(store.link(&swarm.origin, PUBLIC, &swarm.digest)).is_some()
}

/// Whether callers of `registry` may have a blob that is here.
pub(crate) fn is_shared(store: &Store, swarm: &SwarmId, registry: &RegistryName) -> bool {
    swarm.origin == *registry
        || is_open(store, swarm)
        || look_up(store.link(registry, PROVEN, &swarm.digest)).is_some()
}

/// Refuses what is cached from a private repository of another registry, unless this one has it as well.
pub(super) async fn may_share(
    store: &Store,
    origin: &Origin,
    context: &OriginContext,
    digest: &Digest,
) -> Result<(), Refusal> {
    let Some(complete) = store.complete(digest) else { return Ok(()) };
    let from = &complete.swarm.origin;
    if is_shared(store, &complete.swarm, origin.name()) {
        return Ok(());
    }
    if !shows(store, origin, context, &complete).await {
        return Err(Refusal::Denied {
            reason: format!(
                "{digest} is cached from a private repository of {from}, and {} did not show that it has it",
                origin.name()
            ),
        });
    }
    info!(%digest, registry = %origin.name(), "the registry has a blob that is cached from another one");
    let size = complete.swarm.size;
    tokio::task::block_in_place(|| noted(store.put_link(origin.name(), PROVEN, digest, size)));
    Ok(())
}

/// Whether the registry delivers the bytes that are cached, at a place that it cannot foresee.
async fn shows(store: &Store, origin: &Origin, context: &OriginContext, complete: &Complete) -> bool {
    let size = complete.swarm.size;
    let digest = complete.swarm.digest;
    let start = fastrand::u64(0..size.saturating_sub(SAMPLE).max(1));
    let range = start..(start + SAMPLE).min(size);
    let stream = context.read(origin, &digest, size, range.clone()).await;
    let Ok(mut stream) = stream else { return false };
    if stream.ignores_range() {
        debug!(%digest, registry = %origin.name(), "no proof without ranges");
        return false;
    }
    let mut theirs = BytesMut::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => theirs.extend_from_slice(&piece),
            Err(_) => return false,
        }
    }
    let store = store.clone();
    let ours = tokio::task::spawn_blocking(move || -> Result<BytesMut, ReadError> {
        let mut reader = store.reader(&digest)?;
        let mut bytes = BytesMut::new();
        while range.start + (bytes.len() as u64) < range.end {
            let next = range.start + bytes.len() as u64..range.end;
            bytes.extend_from_slice(reader.read(next)?.get());
        }
        Ok(bytes)
    });
    matches!(ours.await, Ok(Ok(ours)) if ours == theirs)
}
