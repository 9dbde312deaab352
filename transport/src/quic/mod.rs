//! The chunk endpoint: QUIC between neighbours.
//!
//! The endpoint and everything on it runs on one thread of its own: packets are handed from task to task
//! without waking another core, which is measurably faster than a shared pool. What is called from outside
//! is handed over to that thread.

mod chunk_memory;
mod config;
mod dial;
mod fetch;
mod frame;
mod links;
mod serve;
mod session;
mod shared;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use quinn::{ClientConfig, Endpoint, ServerConfig, TokioRuntime};
use ring::rand::{SecureRandom, SystemRandom};
use shoal_proto::NodeId;
use shoal_proto::message::{ChunkRequest, PeerInfo, PeerMessage, PeerRequest, RangeRequest, limit};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use config::QuicConfig;
pub use frame::FrameError;

use crate::{
    Bulk, ChunkServer, ConnectError, FetchError, FetchedChunk, LinkEvent, LinkStats, MutualTls, SendError,
    TlsError,
};
use chunk_memory::ChunkMemory;
use fetch::Fetch;
use links::{Close, Instance, Links};
use shared::Shared;

/// Calls that wait for their handshake. Each holds a packet or two.
const CALLS: usize = 256;

/// How long a stopped endpoint may take to tell its neighbours.
const LAST_PACKETS: Duration = Duration::from_millis(500);

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("bind the chunk endpoint to UDP {listen}: {source}")]
    Socket { listen: SocketAddr, source: io::Error },
    #[error("start the chunk endpoint's thread: {0}")]
    Thread(io::Error),
    #[error("start the chunk endpoint: {0}")]
    Endpoint(io::Error),
    #[error("settings of the chunk endpoint: {0}")]
    Config(#[from] quinn::ConfigError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the system gives no random bytes")]
    Random,
}

/// A bound endpoint. Dropping it ends all links at once; [`Bulk::close`] does it gently.
pub struct QuicEndpoint {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    client: ClientConfig,
    runtime: Handle,
    address: SocketAddr,
    /// The thread ends when this says so, or is dropped.
    stop: Arc<watch::Sender<bool>>,
}

impl QuicEndpoint {
    /// Binds the endpoint and starts its thread. `server` answers neighbours; what happens on links goes to
    /// `events`, and who does not read from it stops the links.
    pub fn bind(
        config: QuicConfig,
        tls: &MutualTls,
        server: Arc<dyn ChunkServer>,
        events: mpsc::Sender<LinkEvent>,
    ) -> Result<Self, BindError> {
        let transport = config::transport();
        let mut server_config = ServerConfig::with_crypto(Arc::new(tls.quic_server(config::ALPN)?));
        server_config.transport_config(transport.clone()).max_incoming(CALLS);
        let mut client = ClientConfig::new(Arc::new(tls.quic_client(config::ALPN)?));
        client.transport_config(transport);

        let mut instance = Instance::default();
        SystemRandom::new().fill(&mut instance).map_err(|_| BindError::Random)?;
        let shared = Arc::new(Shared {
            node: tls.node(),
            instance,
            links: Links::default(),
            server,
            events,
            upload: config.upload,
            download: config.download,
            stall: config.stall,
            memory: ChunkMemory::default(),
            uploads: watch::Sender::default(),
        });

        let (socket, endpoint_config) = (config::socket(config.listen)?, config::endpoint()?);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(BindError::Thread)?;
        let handle = runtime.handle().clone();
        let bound = {
            let _context = runtime.enter();
            Endpoint::new(endpoint_config, Some(server_config), socket, Arc::new(TokioRuntime))
                .and_then(|endpoint| Ok((endpoint.local_addr()?, endpoint)))
        };
        let (address, endpoint) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                // Who calls may be on a runtime's thread, where none may be dropped.
                runtime.shutdown_background();
                return Err(BindError::Endpoint(error));
            }
        };
        let stop = run_thread(runtime, shared.clone(), endpoint.clone())?;
        Ok(Self { shared, endpoint, client, runtime: handle, address, stop: Arc::new(stop) })
    }

    /// The address that the endpoint is bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    fn ask(
        &self,
        from: NodeId,
        request: PeerRequest,
        expected: u32,
        arrived: watch::Sender<u64>,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>> {
        let shared = self.shared.clone();
        let runtime = self.runtime.clone();
        Box::pin(async move {
            let connection = shared.links.connection(from).ok_or(FetchError::NotConnected(from))?;
            let work = async move {
                let (shared, connection) = (&*shared, &connection);
                let fetch = Fetch { shared, node: from, connection, expected, arrived };
                fetch.run(&request).await
            };
            Self::there(runtime, work).await.unwrap_or(Err(FetchError::Closed))
        })
    }

    /// Runs on the endpoint's thread; cancelled when the answer is not waited for any more.
    async fn there<T: Send + 'static>(
        runtime: Handle,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        struct Task<T>(JoinHandle<T>);
        impl<T> Drop for Task<T> {
            fn drop(&mut self) {
                self.0.abort();
            }
        }
        // Fails when the thread has ended.
        (&mut Task(runtime.spawn(work)).0).await.ok()
    }
}

/// Takes calls, and runs whatever tasks are spawned, until told to stop.
fn run_thread(
    runtime: Runtime,
    shared: Arc<Shared>,
    endpoint: Endpoint,
) -> Result<watch::Sender<bool>, BindError> {
    let (stop, mut stopped) = watch::channel(false);
    let run = move || {
        runtime.spawn(dial::accept(shared, endpoint.clone()));
        runtime.block_on(async {
            // Fails when the sender is gone, which means the same.
            let _ = stopped.wait_for(|stop| *stop).await;
            endpoint.close(Close::Done.code(), b"");
            // Neighbours that do not hear of it will notice by themselves.
            let _ = timeout(LAST_PACKETS, endpoint.wait_idle()).await;
        });
    };
    std::thread::Builder::new().name("shoal-quic".to_owned()).spawn(run).map_err(BindError::Thread)?;
    Ok(stop)
}

impl Bulk for QuicEndpoint {
    fn connect(&self, peer: PeerInfo) -> BoxFuture<'static, Result<(), ConnectError>> {
        let work = dial::connect(self.shared.clone(), self.endpoint.clone(), self.client.clone(), peer);
        let connecting = Self::there(self.runtime.clone(), work);
        Box::pin(async { connecting.await.unwrap_or(Err(ConnectError::Closed)) })
    }

    fn send(&self, to: NodeId, message: &PeerMessage) -> Result<(), SendError> {
        let bytes = message.encode();
        if bytes.len() > limit::MESSAGE {
            return Err(SendError::TooLarge { len: bytes.len(), limit: limit::MESSAGE });
        }
        self.shared.links.queue(to, frame::frame(&bytes))
    }

    fn fetch(
        &self,
        from: NodeId,
        request: ChunkRequest,
        expected: u32,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>> {
        self.ask(from, PeerRequest::Chunk(request), expected, watch::Sender::default())
    }

    fn fetch_range(
        &self,
        from: NodeId,
        request: RangeRequest,
        arrived: watch::Sender<u64>,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>> {
        // The other end refuses a request for more than a range may have.
        let expected = request.range.end.saturating_sub(request.range.start).min(limit::RANGE);
        self.ask(from, PeerRequest::Range(request), u32::try_from(expected).unwrap_or(u32::MAX), arrived)
    }

    fn disconnect(&self, node: NodeId) {
        self.shared.links.close(node, Close::Done);
    }

    fn links(&self) -> Vec<LinkStats> {
        self.shared.links.stats()
    }

    fn close(&self, deadline: Duration) -> BoxFuture<'static, ()> {
        let (shared, endpoint, stop) = (self.shared.clone(), self.endpoint.clone(), self.stop.clone());
        Box::pin(async move {
            let started = tokio::time::Instant::now();
            // What is not done by the deadline is cut.
            let _ = timeout(deadline, shared.end_uploads()).await;
            endpoint.close(Close::Done.code(), b"");
            let left = deadline.saturating_sub(started.elapsed());
            let _ = timeout(left, shared.links.wait_for_none()).await;
            stop.send_replace(true);
        })
    }
}

impl std::fmt::Debug for QuicEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicEndpoint").field("address", &self.address).finish_non_exhaustive()
    }
}
