//! A node whose cluster has seen an image reads any part of its layers, without pulling them: the index that another
//! node built and signed tells which bytes, other members give exactly these, and who reads checks them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "sizes of small images, and process ids")]

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use shoal_lazyfs::index::{Entrance, SpanIndex, WindowRef, encode_head};
use shoal_lazyfs::link::{Image as Resolved, Link, LinkError};
use shoal_lazyfs::source::LayerSource;
use shoal_lazyfs::span_cache::{CacheError, Patience, SpanCache};
use shoal_proto::message::{ChunkRequest, Held, Membership, NodeMessage, Part, RangeRequest};
use shoal_proto::{ChunkSet, Digest, NodeId, SwarmId};
use shoal_tests::{
    Cluster, Credentials, Image, ImageBuilder, Member, Needs, Registry, Session, SpanReader, available,
};
use shoal_transport::{ChunkServer, Served};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";
const MIB: u64 = 1 << 20;

/// One layer whose deflate blocks refer to what came before, one that does not compress.
fn image(seed: u64) -> ImageBuilder {
    ImageBuilder::new(seed).text_layer(24 * MIB).layer(9 * MIB)
}

/// Nodes, of which the first has pulled the image and built its indexes.
async fn seen_once(nodes: usize, registry: &Registry, image: &Image) -> Cluster {
    let cluster = Cluster::builder().nodes(nodes).registry(NAME, &registry.url()).start().await;
    registry.push(image, REPOSITORY, "v1").await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    cluster.node(0).indexed(image.here().layers.len()).await;
    cluster
}

fn tar_of(image: &Image, layer: usize) -> Vec<u8> {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&*image.here().layers[layer].bytes).read_to_end(&mut tar).unwrap();
    tar
}

/// Reads spans of each layer and compares them with the tar; gives what they cost, in bytes.
async fn reads_right(link: &Link, image: &Image, resolved: &Resolved, every: usize) -> u64 {
    let mut cost = 0;
    for (number, layer) in resolved.layers.iter().enumerate() {
        let reader = SpanReader::open(link, layer.digest).await.unwrap();
        let index = &reader.head().index;
        assert_eq!((index.layer, index.diff_id), (layer.digest, layer.diff_id));
        let tar = tar_of(image, number);
        let spans: Vec<SpanIndex> = index.spans.indexes().step_by(every).collect();
        for (span, bytes) in spans.iter().zip(join_all(spans.iter().map(|span| reader.read(*span))).await) {
            let range = index.spans.tar_range(*span).unwrap();
            assert!(bytes == tar[range.start as usize..range.end as usize], "layer {number}, {span:?}");
            cost += reader.cost(*span);
        }
    }
    cost
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_reads_spans_and_the_registry_sends_no_layer() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = image(1).multi_platform().build();
    let cluster = seen_once(2, &registry, &image).await;
    let sent = registry.blob_bytes().await;

    let node = cluster.node(1);
    let link = Link::open(node.lazy_socket());
    let resolved = link.resolve(REFERENCE, None).await.unwrap();
    assert_eq!(resolved.manifest, image.here().manifest.digest);
    assert_eq!(resolved.config, image.here().config.digest);
    let layers: Vec<_> = resolved.layers.iter().map(|layer| layer.digest).collect();
    assert_eq!(layers, image.here().layers.iter().map(|layer| layer.digest).collect::<Vec<_>>());
    assert!(resolved.layers.iter().all(|layer| layer.index.is_ok()), "{resolved:?}");

    let cost = reads_right(&link, &image, &resolved, 5).await;
    let metrics = node.metrics().await;
    let moved = metrics.sum("shoal_lazy_ranges_bytes_total");
    let heads: u64 = resolved.layers.iter().map(|layer| layer.index.as_ref().unwrap().len).sum();
    println!("spans of {cost} bytes, {moved} moved, index files of {heads} bytes");
    assert!(
        resolved.layers.iter().any(|layer| layer.index.as_ref().unwrap().len > 20_000),
        "there are windows"
    );
    assert!(moved <= (cost + 2 * heads) as f64, "{moved} bytes moved for {cost}");
    assert_eq!(metrics.sum("shoal_peer_chunk_bytes_total"), {
        // Manifests and the configuration come whole.
        let small = image.manifests_here().iter().map(|m| m.bytes.len()).sum::<usize>();
        (small + image.here().config.bytes.len()) as f64
    });
    let reader = SpanReader::open(&link, layers[0]).await.unwrap();
    let mut times = Vec::new();
    for span in reader.head().index.spans.indexes() {
        let began = Instant::now();
        reader.read(span).await;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!(
        "one span on demand from a peer, decoded: median {:?} of {}",
        times[times.len() / 2],
        times.len()
    );
    let blobs = node.status().await["blobs"].to_string();
    assert!(
        layers.iter().all(|layer| !blobs.contains(&layer.to_string())),
        "no part of a layer is kept: {blobs}"
    );
    assert_eq!(registry.blob_bytes().await, sent, "the registry sent nothing more");

    registry.stop().await;
    let link = Link::open(node.lazy_socket());
    let resolved = link.resolve(REFERENCE, None).await.unwrap();
    reads_right(&link, &image, &resolved, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_scheduler_members_are_asked_and_the_registry_is_the_last_resort() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = image(2).build();
    let mut cluster = seen_once(2, &registry, &image).await;
    let link = Link::open(cluster.node(1).lazy_socket());
    let resolved = link.resolve(REFERENCE, None).await.unwrap();
    cluster.scheduler().stop().await;
    reads_right(&link, &image, &resolved, 7).await;

    let reader = SpanReader::open(&link, resolved.layers[0].digest).await.unwrap();
    cluster.node_mut(0).kill9().await;
    let before = registry.blob_bytes().await;
    let first = SpanIndex(0);
    assert!(reader.head().window_range(first).is_none(), "it begins with the layer");
    let bytes = reader.read(first).await;
    assert!(bytes == tar_of(&image, 0)[..bytes.len()]);
    assert_eq!(registry.blob_bytes().await - before, reader.cost(first), "exactly the span's bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_waits_for_comes_after_its_daemon_was_killed() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = image(3).build();
    let mut cluster = seen_once(2, &registry, &image).await;
    let link = Link::open(cluster.node(1).lazy_socket());
    let resolved = link.resolve(REFERENCE, None).await.unwrap();
    let reader = SpanReader::open(&link, resolved.layers[0].digest).await.unwrap();
    registry.stop().await;

    // The only member that has the bytes sleeps, so that the requests are under way when the daemon dies.
    let holder = Pid::from_raw(cluster.node(0).pid().unwrap() as i32).unwrap();
    kill_process(holder, Signal::STOP).unwrap();
    let spans: Vec<SpanIndex> = reader.head().index.spans.indexes().take(8).collect();
    let asked = "shoal_lazy_requests_total";
    let before = cluster.node(1).metrics().await.sum(asked);
    let reading = tokio::spawn({
        let (reader, spans) = (reader.clone(), spans.clone());
        async move { join_all(spans.iter().map(|span| reader.read(*span))).await }
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.node(1).metrics().await.sum(asked) < before + spans.len() as f64 {
        assert!(Instant::now() < deadline, "the daemon was not asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cluster.node_mut(1).kill9().await;
    kill_process(holder, Signal::CONT).unwrap();
    assert!(!reading.is_finished(), "nobody could have answered");
    cluster.node_mut(1).start().await;
    let tar = tar_of(&image, 0);
    for (span, bytes) in spans.iter().zip(reading.await.unwrap()) {
        let range = reader.head().index.spans.tar_range(*span).unwrap();
        assert!(bytes == tar[range.start as usize..range.end as usize], "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_refused_to_who_was_not_authorised() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let login = Credentials::new("alice", "correct horse");
    let mut registry = Registry::private(login.clone()).await;
    let image = image(4).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).login(Some(&login)).pull(REPOSITORY, "v1").await.unwrap();
    cluster.node(0).indexed(2).await;

    let mallory = Credentials::new("mallory", "correct horse").basic();
    let by_digest = format!("{NAME}/{REPOSITORY}@{}", image.digest());
    for stopped in [false, true] {
        for (number, node) in cluster.nodes().iter().enumerate() {
            let link = Link::open(node.lazy_socket());
            for name in [REFERENCE, by_digest.as_str()] {
                for who in [None, Some(mallory.as_str())] {
                    if (number, name, who) == (0, &*by_digest, None) {
                        // Alice pulled this through this node a moment ago: see the next test.
                        continue;
                    }
                    let refused = link.resolve(name, who).await;
                    assert!(matches!(refused, Err(LinkError::Refused(_))), "stopped {stopped}: {refused:?}");
                }
            }
        }
        if !stopped {
            let link = Link::open(cluster.node(1).lazy_socket());
            let resolved = link.resolve(REFERENCE, Some(&login.basic())).await.unwrap();
            reads_right(&link, &image, &resolved, 9).await;
            // What alice may read by this image nobody else may by knowing its digests.
            let layer = resolved.layers[0].digest;
            let other = Link::open(cluster.node(1).lazy_socket());
            let mut served = link.served(&layer).unwrap();
            served.authorization = None;
            other.serve(layer, served);
            SpanReader::open(&other, layer).await.expect_err("not authorised");
            registry.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_of_a_pull_are_lent_for_the_very_manifest_that_it_was_let_read() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let login = Credentials::new("alice", "correct horse");
    let registry = Registry::private(login.clone()).await;
    let (image, other) = (image(11).build(), image(12).build());
    registry.push(&image, REPOSITORY, "v1").await;
    registry.push(&other, REPOSITORY, "v2").await;
    let mut cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    for node in cluster.nodes() {
        node.puller(NAME).login(Some(&login)).pull(REPOSITORY, "v1").await.unwrap();
    }
    cluster.node(0).puller(NAME).login(Some(&login)).pull(REPOSITORY, "v2").await.unwrap();
    cluster.node(0).indexed(4).await;

    let link = Link::open(cluster.node(1).lazy_socket());
    let mallory = Credentials::new("mallory", "correct horse").basic();
    let named = |image: &Image| format!("{NAME}/{REPOSITORY}@{}", image.digest());
    for (name, who) in [(REFERENCE, None), (&*named(&other), None), (&named(&image), Some(&*mallory))] {
        let refused = link.resolve(name, who).await;
        assert!(matches!(refused, Err(LinkError::Refused(_))), "{name}: {refused:?}");
    }
    let resolved = link.resolve(&named(&image), None).await.unwrap();
    let served = link.served(&resolved.layers[0].digest).unwrap();
    assert!(served.borrowed && served.authorization.is_some());
    reads_right(&link, &image, &resolved, 9).await;
    // A daemon that was started anew is shown them again; it lends nobody what it was not shown by a pull.
    cluster.node_mut(1).restart().await;
    reads_right(&link, &image, &resolved, 7).await;
    let refused = Link::open(cluster.node(1).lazy_socket()).resolve(&named(&image), None).await;
    assert!(matches!(refused, Err(LinkError::Refused(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_claims_another_images_layers_gets_no_index() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let honest = image(5).build();
    let cluster = seen_once(2, &registry, &honest).await;
    let link = Link::open(cluster.node(1).lazy_socket());
    let claimed: Vec<_> =
        link.resolve(REFERENCE, None).await.unwrap().layers.iter().map(|layer| layer.diff_id).collect();

    let forged = image(6).claiming(&claimed).build();
    registry.push(&forged, "library/forged", "v1").await;
    // The puller does not look into tars, as a client that unpacks would.
    cluster.node(0).puller(NAME).pull("library/forged", "v1").await.unwrap();
    cluster.node(0).indexed(4).await;
    let resolved = link.resolve("registry.test/library/forged:v1", None).await.unwrap();
    for layer in &resolved.layers {
        let why = layer.index.as_ref().expect_err("its tar has another DiffID");
        assert!(why.contains("claims the DiffID"), "{why}");
        SpanReader::open(&link, layer.digest).await.expect_err("it cannot be read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_must_vouch_where_two_are_wanted() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = image(7).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(3).registry(NAME, &registry.url());
    let cluster = builder.toml("[lazy]\nindex_trust = \"two\"").start().await;
    for (node, others) in [(0, 0), (1, 1)] {
        cluster.node(node).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
        cluster.node(node).indexed(2).await;
        let link = Link::open(cluster.node(2).lazy_socket());
        let resolved = link.resolve(REFERENCE, None).await.unwrap();
        for layer in &resolved.layers {
            match &layer.index {
                Ok(_) => assert_eq!(others, 1, "one member is too few"),
                Err(why) => assert!(others == 0 && why.contains("1 of the 2"), "{why}"),
            }
        }
        if others == 1 {
            reads_right(&link, &image, &resolved, 6).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_index_is_used_no_more_and_neither_are_others_of_its_builder() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = image(9).build();
    let cluster = seen_once(2, &registry, &image).await;
    let link = Link::open(cluster.node(1).lazy_socket());
    let resolved = link.resolve(REFERENCE, None).await.unwrap();
    let layers: Vec<_> = resolved.layers.iter().map(|layer| layer.digest).collect();
    let wrong = resolved.layers[0].index.as_ref().unwrap().id;
    link.revoke(&layers[0], wrong).await;
    SpanReader::open(&link, layers[0]).await.expect_err("revoked");
    let again = link.resolve(REFERENCE, None).await.unwrap();
    assert!(again.layers.iter().all(|layer| layer.index.is_err()), "nobody else vouches for one: {again:?}");
    // On the builder itself the index is removed, to be built anew.
    let link = Link::open(cluster.node(0).lazy_socket());
    link.resolve(REFERENCE, None).await.unwrap();
    link.revoke(&layers[0], wrong).await;
    let again = link.resolve(REFERENCE, None).await.unwrap();
    assert!(again.layers[0].index.is_err() && again.layers[1].index.is_ok(), "{again:?}");
}

/// A member that has every layer, it says, and gives wrong bytes of it.
#[derive(Default)]
struct Liar {
    asked: AtomicU64,
    /// Of a layer the file of an index that it gives; asked for others it has none.
    index: Option<(Digest, Vec<u8>)>,
    asked_for_index: AtomicU64,
}

impl ChunkServer for Liar {
    fn serve(&self, _from: NodeId, _request: ChunkRequest) -> BoxFuture<'static, Served> {
        async { Served::NotHeld }.boxed()
    }

    fn serve_range(&self, _from: NodeId, request: RangeRequest) -> BoxFuture<'static, Served> {
        match request.part {
            Part::Layer => drop(self.asked.fetch_add(1, Ordering::Relaxed)),
            Part::Index(_) => return self.index(&request),
            Part::Claim => {}
        }
        let len = request.range.end - request.range.start;
        let body = stream::iter([Ok(Bytes::from(vec![7; len as usize]))]).boxed();
        async move { Served::Sending { len: len as u32, body } }.boxed()
    }
}

impl Liar {
    fn index(&self, request: &RangeRequest) -> BoxFuture<'static, Served> {
        let index = self.index.as_ref().filter(|(layer, _)| *layer == request.swarm.digest);
        let Some((_, file)) = index else { return async { Served::NotHeld }.boxed() };
        self.asked_for_index.fetch_add(1, Ordering::Relaxed);
        let mut bytes = file.get(request.range.start as usize..).unwrap_or_default().to_vec();
        bytes.resize((request.range.end - request.range.start) as usize, 0);
        let len = bytes.len() as u32;
        let body = stream::iter([Ok(Bytes::from(bytes))]).boxed();
        async move { Served::Sending { len, body } }.boxed()
    }

    /// Lets the tracker know of it as a holder of all layers; a member as long as what it gives back is kept.
    async fn joins(self: &Arc<Self>, cluster: &Cluster, image: &Image) -> (Member, Session) {
        let authority = shoal_transport::Cluster::from_file(cluster.secret()).unwrap();
        let (member, mut links) = Member::new(&authority, self.clone());
        tokio::spawn(async move { while links.recv().await.is_some() {} });
        let session = member.session(cluster.scheduler_url()).await.unwrap();
        let memberships = image.here().layers.iter().map(|layer| {
            let size = layer.bytes.len() as u64;
            let swarm = SwarmId { digest: layer.digest, size, origin: NAME.parse().unwrap(), round: 0 };
            let held = Held::Some(ChunkSet::full(swarm.layout().unwrap().count()));
            Membership { swarm, held, wants: false, may_lease: false, shareable: false }
        });
        session.send(&NodeMessage::Join(memberships.collect()));
        session.send(&NodeMessage::Reported);
        (member, session)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_a_member_are_seen_and_asked_of_others() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = image(8).build();
    let cluster = seen_once(2, &registry, &image).await;
    let liar = Arc::new(Liar::default());
    let _member = liar.joins(&cluster, &image).await;

    let link = Link::open(cluster.node(1).lazy_socket());
    let resolved = link.resolve(REFERENCE, None).await.unwrap();
    assert!(resolved.layers.iter().all(|layer| layer.index.is_ok()), "a forged claim counts nothing");
    reads_right(&link, &image, &resolved, 1).await;
    assert!(liar.asked.load(Ordering::Relaxed) > 0, "nobody asked the liar, so nothing was tested");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_index_than_the_claimed_one_is_not_used_whoever_serves_it() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = image(10).build();
    let mut cluster = seen_once(2, &registry, &image).await;
    let socket = cluster.node(1).lazy_socket();
    let link = Link::open(&socket);
    let layer = link.resolve(REFERENCE, None).await.unwrap().layers[0].digest;
    let right = SpanReader::open(&link, layer).await.unwrap().head().index.clone();
    // Sound in itself, and of the layer: only its id tells.
    let mut foreign = right.clone();
    foreign.diff_id = Digest::sha256([7; 32]);
    let windows = right.spans.iter().map(|span| match span.entrance {
        Entrance::Block { window: WindowRef { len: 1.., .. }, .. } => 1,
        _ => 0,
    });
    let file = encode_head(&foreign, &windows.collect::<Vec<_>>()).unwrap();
    let liar = Arc::new(Liar { index: Some((layer, file)), ..Liar::default() });
    let _member = liar.joins(&cluster, &image).await;

    // One that knows nothing of what was answered before.
    let head = async || {
        let link = Link::open(&socket);
        link.resolve(REFERENCE, None).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cache = SpanCache::open(folder.path(), Arc::new(link), Patience::default()).unwrap();
        cache.layer(&layer).await.map(|layer| layer.index().clone())
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while liar.asked_for_index.load(Ordering::Relaxed) < 3 {
        assert!(Instant::now() < deadline, "nobody asked the liar, so nothing was tested");
        assert_eq!(head().await.unwrap(), right);
    }
    cluster.node_mut(0).kill9().await;
    let Err(error) = head().await else { panic!("it was used") };
    assert!(matches!(error, CacheError::OtherIndex(of) if of == layer), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_input_ends_its_own_connection_and_no_other() {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixStream;

    let cluster = Cluster::builder().without_scheduler().start().await;
    let socket = cluster.node(0).lazy_socket();
    assert_eq!(socket.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let link = Link::open(&socket);
    let nothing = || link.resolve("nowhere.example/app", None);
    assert!(matches!(nothing().await, Err(LinkError::Refused(_))));
    let hello = [0, 0, 0, 6, 8, 0, 18, 2, 8, 1];
    let mut wrong_version = hello;
    wrong_version[9] = 2;
    let mut too_long = hello.to_vec();
    too_long.extend_from_slice(&[0xff; 1000]);
    for bytes in [&[0xff; 100][..], &wrong_version, &[0, 0, 0, 2, 8, 1], &too_long] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = Vec::new();
        // A daemon that hangs up with our bytes unread resets the connection.
        match stream.read_to_end(&mut answer) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{bytes:?}: {error}"),
            _ => {}
        }
    }
    for name in ["", "UPPER", "registry.test/app@sha256:12"] {
        assert!(matches!(link.resolve(name, None).await, Err(LinkError::Refused(_))), "{name}");
    }
    assert!(matches!(nothing().await, Err(LinkError::Refused(_))));
}
