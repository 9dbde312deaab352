//! Images whose layers perhaps nobody needs as a whole.
//!
//! Who asks for a manifest mostly wants the layers next, so they are fetched at once. Not where a filesystem on this
//! machine shows layers that are not there: they would take the line from its readers. Then they are fetched when a
//! client asks for the first one that the filesystem does not show.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::Digest;

use crate::blobs::Wanted;

/// Images at a time, and how long each: pulls that are under way.
const MOST: usize = 64;
const KEPT: Duration = Duration::from_secs(600);

/// Layers of an image, lowest first, and since when they wait.
type Image = (Instant, Vec<Wanted>);

#[derive(Clone, Debug, Default)]
pub(super) struct Deferred(Arc<Mutex<VecDeque<Image>>>);

impl Deferred {
    pub(super) fn put(&self, layers: Vec<Wanted>) {
        let mut images = self.lock();
        if images.len() >= MOST {
            images.pop_front();
        }
        images.push_back((Instant::now(), layers));
    }

    /// A client asks for this blob. If it is a layer that waits, it is needed now, and so are those over it.
    pub(super) fn take(&self, blob: &Digest) -> Vec<Wanted> {
        let mut images = self.lock();
        let found = images.iter().enumerate().find_map(|(image, (_, layers))| {
            Some((image, layers.iter().position(|layer| layer.digest == *blob)?))
        });
        let Some((image, layer)) = found else { return Vec::new() };
        images.remove(image).map(|(_, mut layers)| layers.split_off(layer)).unwrap_or_default()
    }

    /// To be called now and then.
    pub(super) fn forget_old(&self) {
        self.lock().retain(|(at, _)| at.elapsed() < KEPT);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Image>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use shoal_origin::{Identity, Kind};

    use super::*;
    use crate::blobs::OriginContext;

    fn layer(number: u8) -> Wanted {
        let (identity, fallback) = (Identity::Anonymous, Identity::Anonymous);
        let context =
            OriginContext { repository: "app".parse().unwrap(), kind: Kind::Blob, identity, fallback };
        let digest = Digest::sha256([number; 32]);
        Wanted { digest, size: 1, registry: "registry.test".parse().unwrap(), context }
    }

    #[test]
    fn what_is_asked_for_and_what_lies_over_it_is_needed_and_nothing_below() {
        let deferred = Deferred::default();
        deferred.put(vec![layer(1), layer(2), layer(3)]);
        deferred.put(vec![layer(4)]);
        let take = |number| {
            let taken = deferred.take(&Digest::sha256([number; 32]));
            taken.iter().map(|layer| layer.digest.hex()[..2].to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(take(9), [""; 0]);
        assert_eq!(take(2), ["02", "03"]);
        assert_eq!(take(3), [""; 0], "they are on their way");
        assert_eq!(take(4), ["04"]);
    }
}
