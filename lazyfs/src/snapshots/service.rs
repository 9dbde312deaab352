//! containerd's calls, translated.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::api::snapshots_server::{Snapshots, SnapshotsServer};
use super::api::{
    CleanUp, CommitSnapshot, DiskUsage, Info, Infos, ListSnapshots, Mounts, NewSnapshot, OneInfo,
    SnapshotKey, UpdateSnapshot,
};
use super::filter::Filters;
use super::rows::Snapshot;
use super::{SnapshotError, Snapshotter};

/// Snapshots in one message of a list; with all of their labels they fit what gRPC takes by default.
const LISTED: usize = 100;

/// Serves containerd for as long as it is polled.
pub async fn serve(
    listener: UnixListener,
    snapshotter: Arc<Snapshotter>,
) -> Result<(), tonic::transport::Error> {
    let service = SnapshotsServer::new(Service(snapshotter));
    let incoming = UnixListenerStream::new(listener);
    tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
}

#[derive(Debug)]
struct Service(Arc<Snapshotter>);

fn sorted(labels: HashMap<String, String>) -> BTreeMap<String, String> {
    labels.into_iter().collect()
}

fn info(name: String, snapshot: Snapshot) -> Info {
    let Snapshot { kind, parent, labels, created, updated, .. } = snapshot;
    let labels = labels.into_iter().collect();
    Info { name, parent, kind, created_at: created, updated_at: updated, labels }
}

#[tonic::async_trait]
impl Snapshots for Service {
    async fn prepare(&self, request: Request<NewSnapshot>) -> Result<Response<Mounts>, Status> {
        let NewSnapshot { key, parent, labels } = request.into_inner();
        let mounts = self.0.prepare(key, parent, sorted(labels)).await?;
        Ok(Response::new(Mounts { mounts }))
    }

    async fn view(&self, request: Request<NewSnapshot>) -> Result<Response<Mounts>, Status> {
        let NewSnapshot { key, parent, labels } = request.into_inner();
        let mounts = self.0.view(key, parent, sorted(labels)).await?;
        Ok(Response::new(Mounts { mounts }))
    }

    async fn mounts(&self, request: Request<SnapshotKey>) -> Result<Response<Mounts>, Status> {
        let mounts = self.0.mounts(&request.into_inner().key).await?;
        Ok(Response::new(Mounts { mounts }))
    }

    async fn commit(&self, request: Request<CommitSnapshot>) -> Result<Response<()>, Status> {
        let CommitSnapshot { name, key, labels } = request.into_inner();
        Ok(Response::new(self.0.ledger().commit(name, key, sorted(labels)).await?))
    }

    async fn remove(&self, request: Request<SnapshotKey>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.0.ledger().remove(request.into_inner().key).await?))
    }

    async fn stat(&self, request: Request<SnapshotKey>) -> Result<Response<OneInfo>, Status> {
        let name = request.into_inner().key;
        let snapshot = self.0.ledger().stat(&name).await?;
        Ok(Response::new(OneInfo { info: Some(info(name, snapshot)) }))
    }

    async fn update(&self, request: Request<UpdateSnapshot>) -> Result<Response<OneInfo>, Status> {
        let UpdateSnapshot { info: wanted, update_mask } = request.into_inner();
        let Info { name, labels, .. } = wanted.ok_or_else(|| Status::from(SnapshotError::NoName))?;
        let fields = update_mask.map(|mask| mask.paths).unwrap_or_default();
        let snapshot = self.0.ledger().update(name.clone(), sorted(labels), fields).await?;
        Ok(Response::new(OneInfo { info: Some(info(name, snapshot)) }))
    }

    type ListStream = tokio_stream::Iter<std::vec::IntoIter<Result<Infos, Status>>>;

    async fn list(&self, request: Request<ListSnapshots>) -> Result<Response<Self::ListStream>, Status> {
        let filters = Filters::parse(&request.into_inner().filters).map_err(SnapshotError::from)?;
        let found: Vec<_> =
            self.0.ledger().list(&filters).await.into_iter().map(|(name, found)| info(name, found)).collect();
        let pages: Vec<_> = found.chunks(LISTED).map(|page| Ok(Infos { info: page.to_vec() })).collect();
        Ok(Response::new(tokio_stream::iter(pages)))
    }

    async fn usage(&self, request: Request<SnapshotKey>) -> Result<Response<DiskUsage>, Status> {
        let usage = self.0.usage(request.into_inner().key).await?;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        Ok(Response::new(DiskUsage { size: number(usage.size), inodes: number(usage.files) }))
    }

    async fn cleanup(&self, _request: Request<CleanUp>) -> Result<Response<()>, Status> {
        Ok(Response::new(self.0.cleanup().await?))
    }
}
