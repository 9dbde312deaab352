//! One connection, from its first byte to its last.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::Backend;
use crate::metrics::{InFlight, Open};
use crate::service::Service;

// All headers of a request together; registry tokens of some kilobytes occur. With HTTP/1.1 also how many
// bytes of a body wait for the socket before another piece is asked for.
const MAX_HEAD: usize = 32 * 1024;
// c/image sends six Accept lines, other clients fewer headers in all than that.
const MAX_HEADERS: usize = 100;
// containerd and others fetch a handful of layers at once over one connection.
const MAX_STREAMS: u32 = 128;
// As MAX_HEAD does for HTTP/1.1, per stream.
const MAX_STREAM_BUFFER: usize = 64 * 1024;

/// How long a connection may do nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For the headers of a request, from the end of the one before.
    pub(crate) headers: Duration,
    /// Without any request; checked at this interval, so twice as long at worst.
    pub(crate) idle: Duration,
    /// For an HTTP/2 peer to answer a ping.
    pub(crate) ping: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // Go's HTTP client, which most clients are, keeps idle connections for 90 s and copes with less.
            headers: Duration::from_secs(60),
            idle: Duration::from_secs(120),
            ping: Duration::from_secs(20),
        }
    }
}

/// When to end connections: first those without a request, then all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    pub(crate) drain: CancellationToken,
    pub(crate) now: CancellationToken,
}

pub(crate) fn builder(patience: Patience) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.headers)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(patience.ping)
        .keep_alive_timeout(patience.ping)
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(MAX_STREAM_BUFFER)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    builder
}

/// Answers requests until the client leaves, does nothing for too long, or `stop` says so.
pub(crate) async fn drive<B, I>(
    io: I,
    service: Arc<Service<B>>,
    builder: Arc<Builder<TokioExecutor>>,
    idle: Duration,
    stop: Stop,
) where
    B: Backend,
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let open = Open::new(Arc::clone(&service.metrics));
    let answer = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let (service, in_flight) = (Arc::clone(&service), InFlight::new(Arc::clone(&open)));
        // Bodies of requests are not read: this API takes none.
        let (parts, _) = request.into_parts();
        async move { Ok::<_, Infallible>(service.answer(parts, in_flight).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), answer));
    let mut idle_check = tokio::time::interval(idle);
    idle_check.reset();
    let mut begun_before = 0;
    let mut ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "connection ended");
                }
                return;
            }
            () = stop.now.cancelled() => return,
            () = stop.drain.cancelled(), if !ending => {
                connection.as_mut().graceful_shutdown();
                ending = true;
            }
            _ = idle_check.tick() => {
                let (in_flight, begun) = open.activity();
                let quiet = in_flight == 0 && begun == std::mem::replace(&mut begun_before, begun);
                if quiet {
                    // A peer that does not even take the goodbye is left at the next tick.
                    if ending {
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    ending = true;
                }
            }
        }
    }
}
