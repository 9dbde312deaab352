//! Puts a node together, and takes it down.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_origin::Origins;
use shoal_proto::message::PeerInfo;
use shoal_proto::{ClaimChecker, NodeId};
use shoal_registry_proxy::{Listeners, Proxy};
use shoal_scheduler::TrackerHandle;
use shoal_store::{Store, StoreConfig};
use shoal_swarm::peer::{PeerConfig, PeerMachine};
use shoal_swarm::tracker::TrackerConfig;
use shoal_transport::{Bulk, Identity, LinkEvent, MutualTls, QuicConfig, QuicEndpoint, RateLimit};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin;
use crate::blobs::{BlobService, BlockBudget, PassThrough};
use crate::config::Config;
use crate::images::{Access, Facts, Mirror, Resolver, Tags};
use crate::lazy::{
    Claims, Holders, Images, Indexer, OriginParts, PeerServer, Ranges, Reports, Requests, Socket,
    follow_layers,
};
use crate::metrics::Metrics;
use crate::scrape::{Observed, registry};
use crate::swarm::{
    Driver, DriverParts, Input, SwarmHandle, SwarmServer, TrackerLink, TrackerQueries, TrackerSource,
    Unreachable, restore, watch_losses,
};

/// Link events that wait for the node; beyond, the endpoint waits, and with it the neighbours.
const LINK_EVENTS: usize = 1024;
/// How long uploads may go on after the node was told to stop.
const DRAIN_UPLOADS: Duration = Duration::from_secs(3);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("[node] data_dir: cannot make {}", .path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("node identity")]
    Identity(#[from] shoal_transport::IdentityError),
    #[error("[cluster] secret_file")]
    Cluster(#[from] shoal_transport::ClusterError),
    #[error("the node's certificate")]
    Tls(#[from] shoal_transport::TlsError),
    #[error("[node] data_dir")]
    Store(#[from] shoal_store::OpenError),
    #[error("[mirror]")]
    Origins(#[from] shoal_origin::ConfigError),
    #[error("[peers] listen")]
    Peers(#[from] shoal_transport::BindError),
    #[error("[mirror] listen")]
    Listen(#[from] shoal_registry_proxy::ListenError),
    #[error("[mirror.tls]")]
    MirrorTls(#[from] shoal_registry_proxy::TlsError),
    #[error("[lazy] socket = \"{}\"", .path.display())]
    Lazy { path: PathBuf, source: std::io::Error },
    #[error("start the thread that builds indexes")]
    Indexer(#[source] std::io::Error),
    #[error("[admin] listen = \"{address}\"")]
    Admin { address: SocketAddr, source: std::io::Error },
}

impl StartError {
    /// Whether the configuration, or a file that it names, is wrong: starting again will not help.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Cluster(_) | Self::Origins(_) | Self::MirrorTls(_))
    }
}

/// Checks all that a start checks, short of making files and taking addresses.
pub fn check(config: &Config) -> Result<(), StartError> {
    config.cluster.load()?;
    Origins::new(config.origins.clone())?;
    config.proxy.tls.as_ref().map_or(Ok(()), |tls| tls.check())?;
    Ok(())
}

/// A running node.
pub struct Node {
    id: NodeId,
    /// Where the mirror and the admin endpoint really listen.
    mirror_addresses: Vec<SocketAddr>,
    admin_address: SocketAddr,
    bulk: Arc<dyn Bulk>,
    store: Store,
    stop: CancellationToken,
    mirror: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The identity and the cluster of this node.
fn credentials(config: &Config) -> Result<(Identity, MutualTls), StartError> {
    let identity = Identity::load_or_create(&config.data_dir.join("identity.key"))?;
    let tls = MutualTls::new(&config.cluster.load()?, &identity)?;
    Ok((identity, tls))
}

fn rate(limit: Option<u64>) -> Arc<RateLimit> {
    Arc::new(RateLimit::new(limit.and_then(NonZeroU64::new)))
}

fn open_store(config: &Config) -> Result<Store, StartError> {
    let dir = config.data_dir.join("store");
    let store = StoreConfig { capacity_bytes: config.limits.disk, ..StoreConfig::new(dir) };
    Ok(Store::open(store)?)
}

/// The socket for filesystems. A node without one is a mirror all the same, unless one was asked for.
fn bind_socket(config: &Config) -> Result<Option<Socket>, StartError> {
    let path = config.lazy.socket.clone().unwrap_or_else(|| config.data_dir.join("lazy.sock"));
    match Socket::bind(&path) {
        Ok(socket) => Ok(Some(socket)),
        // A path of a socket has 107 bytes at most.
        Err(error) if config.lazy.socket.is_none() => {
            warn!(path = %path.display(), %error, "no socket for filesystems; set [lazy] socket to have one elsewhere");
            Ok(None)
        }
        Err(source) => Err(StartError::Lazy { path, source }),
    }
}

impl Node {
    /// Constructs and connects everything, and starts to serve.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.data_dir)
            .map_err(|source| StartError::Folder { path: config.data_dir.clone(), source })?;
        let (identity, tls) = credentials(&config)?;
        let me = identity.node();
        let store = open_store(&config)?;
        let socket = bind_socket(&config)?;
        let origins = Origins::new(config.origins)?;
        let listeners = Listeners::bind(&config.proxy.listen)?;
        let admin_listener = TcpListener::bind(config.admin_listen)
            .await
            .map_err(|source| StartError::Admin { address: config.admin_listen, source })?;

        let metrics = Metrics::default();
        let stop = CancellationToken::new();
        let indexer = match config.lazy.index {
            true => {
                let key = identity.keypair().clone();
                Indexer::start(store.clone(), key, me, metrics.clone(), stop.clone())
                    .map_err(StartError::Indexer)?
            }
            false => Indexer::off(),
        };
        let (swarm, inbox) = SwarmHandle::new();
        let budget = BlockBudget::new(config.limits.memory / 2);
        let server = SwarmServer { store: store.clone(), swarm: swarm.clone(), budget: budget.clone() };
        let quic = QuicConfig {
            upload: rate(config.limits.upload),
            download: rate(config.limits.download),
            ..QuicConfig::new(config.peers_listen)
        };
        let (events, link_events) = mpsc::channel(LINK_EVENTS);
        let endpoint =
            QuicEndpoint::bind(quic, &tls, Arc::new(PeerServer::new(server, indexer.clone())), events)?;
        let peers_address = endpoint.local_addr();
        let advertised = config.advertise;
        let addresses = if advertised.is_empty() { vec![peers_address] } else { advertised };
        let hello = PeerInfo { node: me, addresses, place: config.place };
        let bulk: Arc<dyn Bulk> = Arc::new(endpoint);

        let tracker = TrackerLink::default();
        let queries = TrackerQueries::new(tracker.clone());
        let unreachable = Unreachable::default();
        let machine = PeerMachine::new(hello.clone(), PeerConfig::default(), fastrand::u64(..));
        let origin_limit = rate(config.limits.origin);
        let parts = DriverParts {
            me,
            key: identity.keypair().clone(),
            store: store.clone(),
            bulk: bulk.clone(),
            origins: origins.clone(),
            origin_limit: origin_limit.clone(),
            handle: swarm.clone(),
            metrics: metrics.clone(),
            memory: Arc::new(Semaphore::new(memory_permits(config.limits.memory))),
            unreachable: unreachable.clone(),
            indexer: indexer.clone(),
        };
        let driver = Driver::new(parts, machine, tracker.clone());
        let scheduler_urls: Arc<[String]> = config.scheduler_urls.clone().into();
        let source = TrackerSource {
            urls: config.scheduler_urls,
            tls,
            // Nobody else reports to it, so there is nothing to wait for.
            own: TrackerHandle::start(TrackerConfig {
                report_within: Duration::ZERO,
                ..TrackerConfig::default()
            }),
            facts: Facts { store: store.clone(), freshness: config.freshness },
            hello,
        };

        let holders = Holders::new(queries.clone(), swarm.clone(), bulk.clone());
        let origin = OriginParts { origins: origins.clone(), limit: origin_limit.clone() };
        let ranges = Ranges::new(store.clone(), bulk.clone(), holders, origin, metrics.clone());
        let claims = Claims::new(store.clone(), ranges.clone(), config.lazy.index_trust, indexer);

        let through = PassThrough::new(origins.clone(), origin_limit);
        let blobs = BlobService::new(store.clone(), swarm.clone(), budget, metrics.clone(), through);
        let access = Access::new(store.clone(), queries.clone(), config.freshness);
        let tags =
            Tags::new(access.clone(), store.clone(), queries.clone(), config.freshness, metrics.clone());
        let resolver = Resolver::new(access.clone(), tags, store.clone(), queries);
        let reports = Reports::default();
        let mirror = Mirror::new(origins.clone(), access, resolver, blobs.clone(), reports.clone());
        let mirror = Arc::new(mirror);
        let proxy = Proxy::new(mirror.clone(), &config.proxy)?;
        let images = Images::new(mirror);
        let requests = Requests::new(images.clone(), claims, ranges, metrics.clone());

        let observed = Observed {
            node: me,
            store: store.clone(),
            origins,
            bulk: bulk.clone(),
            proxy: proxy.metrics(),
            tracker: tracker.clone(),
            swarm: swarm.clone(),
            metrics: metrics.clone(),
            unreachable,
            scheduler_urls,
            reports: reports.clone(),
        };
        let mirror_addresses = listeners.tcp_addresses();
        let admin_address = admin_listener.local_addr().unwrap_or(config.admin_listen);
        let mirror = tokio::spawn(proxy.serve(listeners, stop.clone().cancelled_owned()));
        restore(store.clone(), swarm.clone()).await;
        let mut tasks = vec![
            tokio::spawn(driver.run(inbox)),
            tokio::spawn(pass_on(link_events, swarm.clone())),
            tokio::spawn(watch_losses(store.clone(), swarm.clone())),
            tokio::spawn(follow_layers(store.clone())),
            tokio::spawn(source.run(tracker, swarm, metrics.clone())),
            tokio::spawn(blobs.sweep()),
            tokio::spawn(images.sweep()),
            tokio::spawn(admin::serve(admin_listener, registry(observed.clone()), observed)),
        ];
        tasks.extend(socket.map(|socket| tokio::spawn(socket.serve(requests, reports))));
        info!(node = %me, mirror = ?mirror_addresses, peers = %peers_address, "node started");
        Ok(Self { id: me, mirror_addresses, admin_address, bulk, store, stop, mirror, tasks })
    }
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.id
    }

    /// Where the mirror listens, without Unix sockets.
    pub fn mirror_addresses(&self) -> &[SocketAddr] {
        &self.mirror_addresses
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Returns when a part of the node has ended that never should: it panicked, and the rest is of no use.
    pub async fn failed(&mut self) {
        tokio::select! {
            _ = futures_util::future::select_all(&mut self.tasks) => {}
            _ = &mut self.mirror => {}
        }
    }

    /// Stops: no new requests, responses in flight may end within the configured time, uploads shortly after; then
    /// what was written last is made durable.
    pub async fn stop(self) {
        self.stop.cancel();
        if !self.mirror.is_finished()
            && let Err(error) = self.mirror.await
        {
            warn!(%error, "the mirror ended badly");
        }
        self.bulk.close(DRAIN_UPLOADS).await;
        for task in self.tasks {
            task.abort();
        }
        let store = self.store;
        let flushed = tokio::task::spawn_blocking(move || store.flush()).await;
        if let Ok(Err(error)) = flushed {
            warn!(%error, "chunks written last are not durable");
        }
        info!("stopped");
    }
}

/// Permits are KiB.
fn memory_permits(bytes: u64) -> usize {
    usize::try_from(bytes / 1024).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
}

/// Checks what neighbours claim, and passes it on to the driver.
async fn pass_on(mut events: mpsc::Receiver<LinkEvent>, swarm: SwarmHandle) {
    let mut claims = ClaimChecker::default();
    while let Some(event) = events.recv().await {
        let input = match event {
            LinkEvent::Up(node) => Input::LinkUp(node),
            LinkEvent::Down(node) => Input::LinkDown(node),
            LinkEvent::Message(from, message) => match claims.peer(&message) {
                Ok(()) => Input::Peer { from, message },
                Err(error) => {
                    warn!(peer = %from, %error, "dropped a message whose claim does not hold");
                    continue;
                }
            },
        };
        swarm.send(input).await;
    }
}
