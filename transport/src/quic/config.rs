//! Settings of the chunk endpoint, and what follows from them for QUIC.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::{AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use socket2::{Domain, Protocol, Socket, Type};

use super::BindError;
use crate::RateLimit;

/// Spoken on every connection. Another version of the protocol has another name, and so has another layout
/// of chunks.
pub(super) const ALPN: &[u8] = b"shoal/2";

/// Links at once. A node has 16 neighbours for a blob, and takes part in tens of blobs with mostly the same.
pub(super) const LINKS: usize = 512;
/// Chunk requests that a neighbour may have open: what it downloads at once, with room for cancelled ones.
const REQUESTS: u32 = 64;

/// Keep-alives are sent this often, so that three may be lost before a link ends.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const IDLE_MILLIS: u32 = 10_000;

/// A stream may have this much in flight: 1.6 GB/s at 10 ms, and one chunk of the largest size.
const STREAM_WINDOW: u32 = 16 << 20;
/// All streams of a link together: bounds what a neighbour can make this node buffer.
const LINK_WINDOW: u32 = 32 << 20;
/// What this node keeps for retransmission, for each link.
const SEND_WINDOW: u64 = 16 << 20;

/// Bytes of the largest packet. Ten segments are handed to the kernel at once, which takes 65,507 bytes: a
/// larger packet would make it refuse, and QUIC would take that for loss.
const MAX_PACKET: u16 = 6400;

/// A neighbour acknowledges every twentieth packet (or after its delay of at most 25 ms), not every second: as many as
/// leave in two calls. Sixteen nodes with links of 50 Mbit/s used a tenth less processor time so than with every tenth
/// (17.7 CPU-s for each GiB, not 20.0), and were not later.
const UNACKNOWLEDGED: u32 = 19;

/// Bytes that a new link may have in flight: more than [`UNACKNOWLEDGED`] packets of 1,200 to 1,500 bytes, or its first
/// flights would each wait for the neighbour's delay. The last of sixteen nodes had its first byte after 2.4 and
/// 3.0 s with QUIC's usual ten packets, after 1.7, 2.0, 2.3 and 2.8 s with this window.
const INITIAL_WINDOW: u64 = 32 << 10;

/// Asked of the kernel, for bursts of ten segments from many neighbours; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Settings of a [`super::QuicEndpoint`].
#[derive(Clone, Debug)]
pub struct QuicConfig {
    /// UDP address; port 0 picks one. `[::]` takes IPv4 as well.
    pub listen: SocketAddr,
    /// Limits what is sent of chunks.
    pub upload: Arc<RateLimit>,
    /// Limits what is received of chunks.
    pub download: Arc<RateLimit>,
    /// A transfer that makes no progress for so long has failed.
    pub stall: Duration,
}

impl QuicConfig {
    /// No limits, stalls found after 10 s.
    pub fn new(listen: SocketAddr) -> Self {
        let unlimited = || Arc::new(RateLimit::new(None));
        Self { listen, upload: unlimited(), download: unlimited(), stall: Duration::from_secs(10) }
    }
}

pub(super) fn transport() -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(MAX_PACKET);
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(UNACKNOWLEDGED.into());
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(congestion))
        .max_concurrent_bidi_streams(REQUESTS.into())
        // The control stream.
        .max_concurrent_uni_streams(1u32.into())
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MILLIS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(LINK_WINDOW.into())
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(mtu))
        .ack_frequency_config(Some(acks))
        .enable_segmentation_offload(true)
        .datagram_receive_buffer_size(None);
    Arc::new(transport)
}

pub(super) fn endpoint() -> Result<EndpointConfig, BindError> {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(MAX_PACKET)?;
    Ok(config)
}

/// A bound UDP socket with large buffers.
pub(super) fn socket(listen: SocketAddr) -> Result<UdpSocket, BindError> {
    let failed = |source| BindError::Socket { listen, source };
    let socket =
        Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP)).map_err(failed)?;
    if listen.is_ipv6() && listen.ip().is_unspecified() {
        socket.set_only_v6(false).map_err(failed)?;
    }
    // Smaller buffers cost speed, not function.
    for result in [socket.set_recv_buffer_size(SOCKET_BUFFER), socket.set_send_buffer_size(SOCKET_BUFFER)] {
        if let Err(error) = result {
            tracing::debug!(%error, "the socket's buffers stay as they are");
        }
    }
    socket.bind(&listen.into()).map_err(failed)?;
    Ok(socket.into())
}
