//! gRPC between nodes and trackers: the generated service, with the settings that both ends share.
//!
//! ```ignore
//! grpc::server(&tls)?.add_service(grpc::tracker_service(tracker)).serve_with_incoming(listener).await?;
//! let replies = grpc::connect("https://host:5101", &tls).await?.session(messages).await?;
//! ```

use std::time::Duration;

use shoal_proto::message::limit;
use tonic::transport::{Channel, Endpoint, Error, Server};

use crate::MutualTls;

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_debug_implementations, reason = "generated")]
mod generated {
    tonic::include_proto!("shoal.v1");
}

pub use generated::tracker_client::TrackerClient;
pub use generated::tracker_server::{Tracker, TrackerServer};

/// A peer that answers no ping is noticed within these two together: 10 s.
const PING_EVERY: Duration = Duration::from_secs(5);
const PING_ANSWER: Duration = Duration::from_secs(5);
/// As long as a ping may take.
const CONNECT: Duration = Duration::from_secs(5);
/// A session is one stream; a node has one session.
const STREAMS: u32 = 16;

/// A server that only members can talk to; [`crate::node_of`] tells who sent a request.
pub fn server(tls: &MutualTls) -> Result<Server, Error> {
    Server::builder()
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
        .max_concurrent_streams(STREAMS)
        .tls_config(tls.grpc_server())
}

/// The tracker as a service of [`server`].
pub fn tracker_service<T: Tracker>(tracker: T) -> TrackerServer<T> {
    TrackerServer::new(tracker)
        .max_decoding_message_size(limit::MESSAGE)
        .max_encoding_message_size(limit::MESSAGE)
}

/// Connects to a tracker at `https://host:port`. The name in the URL is not looked at: a member is told by
/// its certificate.
pub async fn connect(url: &str, tls: &MutualTls) -> Result<TrackerClient<Channel>, Error> {
    let channel = Endpoint::from_shared(url.to_owned())?
        .tls_config(tls.grpc_client())?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .connect()
        .await?;
    Ok(TrackerClient::new(channel)
        .max_decoding_message_size(limit::MESSAGE)
        .max_encoding_message_size(limit::MESSAGE))
}

/// Whether the certificate that was shown, by either end, is not one of this cluster.
pub fn is_other_cluster(error: &Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    let mut chain = std::iter::successors(Some(first), |error| error.source());
    chain.any(|error| {
        // rustls' error is inside the error of the socket, which passes over it when it names its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
        matches!(
            tls.or_else(|| error.downcast_ref::<rustls::Error>()),
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
        )
    })
}
