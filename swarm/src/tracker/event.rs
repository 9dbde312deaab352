//! What goes into the tracker machine, and what comes out.

use shoal_proto::NodeId;
use shoal_proto::message::{NodeMessage, PeerInfo, TrackerMessage};

/// Something happened. Signed claims inside were checked by the driver, and that they are the sender's own.
#[derive(Clone, Debug)]
pub enum TrackerEvent {
    /// A node opened a session.
    Connected(PeerInfo),
    Disconnected(NodeId),
    Message {
        from: NodeId,
        message: NodeMessage,
    },
    /// [`super::TrackerMachine::next_timeout`] has come.
    Tick,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerAction {
    Send { to: NodeId, message: TrackerMessage },
}
