//! The members that could not be called: so that a closed port between nodes is seen, and not only felt.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::NodeId;
use shoal_proto::message::PeerInfo;
use shoal_transport::ConnectError;
use tracing::{debug, warn};

/// A member that was not called for so long has left, or nobody needs it.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// As many as a node has neighbours over some hundred blobs.
const MOST: usize = 4096;

#[derive(Debug)]
struct Failed {
    addresses: Vec<SocketAddr>,
    at: Instant,
}

/// Remembers which calls failed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unreachable(Arc<Mutex<HashMap<NodeId, Failed>>>);

impl Unreachable {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Failed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call failed. Warns when the member was not known to be out of reach.
    pub(super) fn failed(&self, peer: &PeerInfo, error: &ConnectError) {
        let says_nothing_of_it = matches!(
            error,
            ConnectError::Closed | ConnectError::TooMany { .. } | ConnectError::Itself { .. }
        );
        if says_nothing_of_it {
            debug!(peer = %peer.node, %error, "no link");
            return;
        }
        let now = Instant::now();
        let mut failed = self.lock();
        failed.retain(|_, failed| now.duration_since(failed.at) < FORGOTTEN_AFTER);
        if failed.len() >= MOST {
            failed.clear();
        }
        let before = failed.insert(peer.node, Failed { addresses: peer.addresses.clone(), at: now });
        drop(failed);
        if before.is_none() {
            warn!(
                addresses = ?peer.addresses,
                %error,
                "cannot reach peer {}: is UDP 5103 open between the nodes, is its [peers] advertise right?",
                peer.node
            );
        }
    }

    /// There is a link, whoever called.
    pub(crate) fn reached(&self, node: NodeId) {
        self.lock().remove(&node);
    }

    /// Where the members are that could not be called lately.
    pub(crate) fn addresses(&self) -> Vec<Vec<SocketAddr>> {
        let failed = self.lock();
        let lately = failed.values().filter(|failed| failed.at.elapsed() < FORGOTTEN_AFTER);
        lately.map(|failed| failed.addresses.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_member_is_out_of_reach_until_there_is_a_link() {
        let unreachable = Unreachable::default();
        let node = NodeId::from_bytes([1; 32]);
        let addresses = vec!["192.0.2.1:5103".parse().unwrap()];
        let peer = PeerInfo { node, addresses: addresses.clone(), place: Default::default() };
        unreachable.failed(&peer, &ConnectError::Closed);
        assert!(unreachable.addresses().is_empty(), "that this node stops says nothing of the other");
        unreachable.failed(&peer, &ConnectError::NotTaken { node, waited: Duration::from_secs(5) });
        assert_eq!(unreachable.addresses(), [addresses]);
        unreachable.reached(node);
        assert!(unreachable.addresses().is_empty());
    }
}
