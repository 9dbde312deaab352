//! Puts a scheduler together, and takes it down.

use std::net::SocketAddr;
use std::time::Duration;

use shoal_swarm::tracker::TrackerConfig;
use shoal_transport::{Identity, MutualTls, grpc};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::admin;
use crate::config::{ConfigError, SchedulerConfig};
use crate::service::TrackerService;
use crate::task::TrackerHandle;

/// Sessions last as long as nodes live, so that draining them would wait for ever.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a scheduler does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("identity")]
    Identity(#[from] shoal_transport::IdentityError),
    #[error("[cluster] secret_file")]
    Cluster(#[from] shoal_transport::ClusterError),
    #[error("certificate")]
    Tls(#[from] shoal_transport::TlsError),
    #[error("TLS of the gRPC server")]
    Grpc(#[from] tonic::transport::Error),
    #[error("[{section}] listen = \"{address}\"")]
    Listen { section: &'static str, address: SocketAddr, source: std::io::Error },
}

impl StartError {
    /// Whether the configuration, or a file that it names, is wrong: starting again will not help.
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Cluster(_))
    }
}

/// A running scheduler.
#[derive(Debug)]
pub struct Scheduler {
    address: SocketAddr,
    admin_address: SocketAddr,
    stop: CancellationToken,
    server: JoinHandle<()>,
    admin: JoinHandle<()>,
}

async fn bind(section: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { section, address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Scheduler {
    /// Constructs and connects everything, and starts to serve. A scheduler keeps nothing on disk: nodes report
    /// what they hold, so its identity is made anew each time.
    pub async fn start(config: SchedulerConfig) -> Result<Self, StartError> {
        let tls = MutualTls::new(&config.cluster.load()?, &Identity::generate()?)?;
        let (listener, address) = bind("scheduler", config.listen()?).await?;
        let (admin_listener, admin_address) = bind("admin", config.admin.listen).await?;
        let tracker = TrackerHandle::start(TrackerConfig::default());
        let stop = CancellationToken::new();
        let router =
            grpc::server(&tls)?.add_service(grpc::tracker_service(TrackerService::new(tracker.clone())));
        let stopped = stop.clone().cancelled_owned();
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                error!(%error, "the gRPC server ended");
            }
        });
        let admin = tokio::spawn(admin::serve(admin_listener, tracker));
        info!(%address, admin = %admin_address, "scheduler started");
        Ok(Self { address, admin_address, stop, server, admin })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Stops; nodes go on with the neighbours they have.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(DRAIN, &mut self.server).await.is_err() {
            self.server.abort();
        }
        self.admin.abort();
        info!("stopped");
    }
}
