//! Accepts connections and ends them.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::connection::{self, Patience, Stop};
use crate::listen::Listener;
use crate::metrics::Metrics;
use crate::refusal_log::RefusalLog;
use crate::service::Service;
use crate::{Backend, Listeners, ProxyConfig, TlsError, tls};

// A client that connects and does not finish the handshake holds a connection's place this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
// After a failed accept (no descriptors left): long enough not to spin, short enough not to be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The mirror: answers the distribution API from a backend.
pub struct Proxy<B> {
    acceptor: Acceptor<B>,
    drain: Duration,
}

impl<B> std::fmt::Debug for Proxy<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("drain", &self.drain).finish_non_exhaustive()
    }
}

/// What every connection shares.
struct Acceptor<B> {
    service: Arc<Service<B>>,
    http: Arc<Builder<TokioExecutor>>,
    patience: Patience,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    stop: Stop,
    connections: TaskTracker,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl<B: Backend> Proxy<B> {
    /// Reads the certificate, if one is configured. `config.listen` is for [`Listeners::bind`].
    pub fn new(backend: Arc<B>, config: &ProxyConfig) -> Result<Self, TlsError> {
        Self::with_patience(backend, config, Patience::default())
    }

    pub(crate) fn with_patience(
        backend: Arc<B>,
        config: &ProxyConfig,
        patience: Patience,
    ) -> Result<Self, TlsError> {
        let max = config.max_connections.get();
        let service = Service {
            backend,
            metrics: Arc::new(Metrics::default()),
            max_requests: max,
            challenge: config.challenge,
            refused: RefusalLog::default(),
        };
        let acceptor = Acceptor {
            service: Arc::new(service),
            http: Arc::new(connection::builder(patience)),
            patience,
            tls: config.tls.as_ref().map(tls::acceptor).transpose()?,
            places: Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS))),
            stop: Stop::default(),
            connections: TaskTracker::new(),
        };
        Ok(Self { acceptor, drain: config.drain })
    }

    /// The counters; they go on counting while the proxy serves.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.acceptor.service.metrics)
    }

    /// Serves until `shutdown` resolves. Then no connection is accepted any more, idle ones are closed, and
    /// responses in flight may go on for [`ProxyConfig::drain`] before they are cut.
    pub async fn serve(self, listeners: Listeners, shutdown: impl Future<Output = ()> + Send) {
        let acceptor = Arc::new(self.acceptor);
        let (stop, connections) = (acceptor.stop.clone(), acceptor.connections.clone());
        for listener in listeners.0 {
            connections.spawn(Arc::clone(&acceptor).accept_from(listener));
        }
        shutdown.await;
        stop.drain.cancel();
        connections.close();
        if tokio::time::timeout(self.drain, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "cut the responses that outlasted the drain time");
            stop.now.cancel();
            connections.wait().await;
        }
    }
}

impl<B: Backend> Acceptor<B> {
    async fn accept_from(self: Arc<Self>, listener: Listener) {
        // The listener closes when this task ends: the kernel then refuses, and clients turn elsewhere.
        let accept_all = async {
            loop {
                let stream = match listener.accept().await {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
                self.connections.spawn(Arc::clone(&self).connect(stream, place));
            }
        };
        tokio::select! {
            () = self.stop.drain.cancelled() => {}
            () = accept_all => {}
        }
    }

    async fn connect(self: Arc<Self>, stream: Stream, _place: OwnedSemaphorePermit) {
        let tcp = match stream {
            Stream::Unix(unix) => return self.drive(unix).await,
            Stream::Tcp(tcp) => tcp,
        };
        // Headers and short bodies must not wait for an acknowledgement of what went before.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let Some(tls) = &self.tls else { return self.drive(tcp).await };
        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(tcp));
        let handshake = tokio::select! {
            done = handshake => done,
            () = self.stop.drain.cancelled() => return,
        };
        match handshake {
            Ok(Ok(encrypted)) => self.drive(encrypted).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake timed out"),
        }
    }

    async fn drive<I>(&self, io: I)
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (service, http) = (Arc::clone(&self.service), Arc::clone(&self.http));
        connection::drive(io, service, http, self.patience.idle, self.stop.clone()).await;
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}
