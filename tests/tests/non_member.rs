//! Who does not have the cluster's secret gets no link to a node and no session with the scheduler.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shoal_proto::NodeId;
use shoal_proto::message::ChunkRequest;
use shoal_tests::{Cluster, FaultyRegistry, ImageBuilder, Member};
use shoal_transport::{ChunkServer, Served, generate_secret};
use tokio::io::AsyncBufReadExt;

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";

/// Has nothing.
struct Empty;

impl ChunkServer for Empty {
    fn serve(&self, _: NodeId, _: ChunkRequest) -> BoxFuture<'static, Served> {
        async { Served::NotHeld }.boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn is_turned_away_everywhere() {
    let cluster = Cluster::builder().nodes(2).start().await;
    let node = Member::peer(cluster.node(0).id().await, cluster.node(0).peers());

    let other_secret = shoal_transport::Cluster::from_secret(generate_secret().unwrap().as_bytes()).unwrap();
    let no_secret = shoal_transport::Cluster::insecure().unwrap();
    for (who, authority) in [("another secret", other_secret), ("no secret", no_secret)] {
        let (stranger, mut links) = Member::new(&authority, Arc::new(Empty));
        let refused = stranger.connect(node.clone()).await;
        assert!(refused.is_err(), "{who}: a link");
        let refused = stranger.session(cluster.scheduler_url()).await;
        assert!(refused.is_err(), "{who}: a session");
        assert!(links.try_recv().is_err(), "{who}: something happened on a link");
    }
    assert_eq!(cluster.node(0).metrics().await.sum("shoal_peers"), 0.0, "a stranger has a link");

    // With the secret the same calls are taken, so it is the secret that matters.
    let authority = shoal_transport::Cluster::from_file(cluster.secret()).unwrap();
    let (member, _links) = Member::new(&authority, Arc::new(Empty));
    member.connect(node).await.unwrap();
    member.session(cluster.scheduler_url()).await.unwrap();
}

/// Neither does one that checks nobody and shows no certificate.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_is_no_member() {
    let mut cluster = Cluster::builder().start().await;
    // Installs the process's provider of cryptography.
    drop(shoal_tests::client());
    let careless = reqwest::Client::builder()
        .no_proxy()
        .tls_danger_accept_invalid_certs(true)
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let url = format!("{}/shoal.v1.Tracker/Session", cluster.scheduler_url());
    let answer = careless.post(url).header("content-type", "application/grpc").body("").send().await;
    assert!(answer.is_err(), "the scheduler talks to a stranger: {answer:?}");
    assert!(cluster.scheduler().is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_another_secret_pulls_alone() {
    // Two clusters that share nothing but the registry: each fetches for itself.
    let registry = FaultyRegistry::start().await;
    let image = ImageBuilder::new(1).layer(3 << 20).build();
    registry.serve(&image, REPOSITORY, "v1");
    let cluster = || Cluster::builder().registry(NAME, &registry.url());
    let (one, two) = tokio::join!(cluster().start(), cluster().start());
    for cluster in [&one, &two] {
        let before = registry.sent();
        cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
        assert!(registry.sent() - before >= image.blob_bytes());
    }
}

/// It is told why, on its side.
#[tokio::test(flavor = "multi_thread")]
async fn is_told_that_the_scheduler_belongs_to_another_cluster() {
    let cluster = Cluster::builder().start().await;
    let folder = tempfile::tempdir().unwrap();
    let (config, secret) = (folder.path().join("daemon.toml"), folder.path().join("secret"));
    std::fs::write(&secret, generate_secret().unwrap()).unwrap();
    let text = format!(
        "[node]\ndata_dir = \"{}\"\n[mirror]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [peers]\nlisten = \"127.0.0.1:0\"\n[scheduler]\nurls = [\"{}\"]\n[cluster]\nsecret_file = \"{}\"\n",
        folder.path().join("data").display(),
        cluster.scheduler_url(),
        secret.display()
    );
    std::fs::write(&config, text).unwrap();
    let mut stranger = tokio::process::Command::new(shoal_tests::shoal_binary())
        .args(["daemon", "--config"])
        .arg(&config)
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = tokio::io::BufReader::new(stranger.stderr.take().unwrap()).lines();
    let line = loop {
        let line = lines.next_line().await.unwrap().expect("it runs until it is stopped");
        if line.contains("WARN") && line.contains("scheduler") {
            break line;
        }
    };
    assert!(line.contains("belongs to another cluster"), "{line}");
}

/// A member that does not answer calls, as one behind a closed port, is named by who called it.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_cannot_be_called_is_named() {
    let registry = FaultyRegistry::start().await;
    let image = ImageBuilder::new(23).layer(2 << 20).build();
    registry.serve(&image, REPOSITORY, "v1");
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    let pid = cluster.node(0).pid().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().unwrap()));
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::STOP).unwrap();

    let puller = cluster.node(1).puller(NAME);
    let pull = tokio::spawn(async move { puller.pull(REPOSITORY, "v1").await });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let unreachable = loop {
        let status = cluster.node(1).status().await;
        if let Some(addresses) = status["unreachable"].as_array().and_then(|list| list.first()) {
            break addresses.clone();
        }
        assert!(std::time::Instant::now() < deadline, "nobody says that the other node does not answer");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(unreachable[0], cluster.node(0).peers().to_string());
    assert!(cluster.node(1).metrics().await.sum("shoal_peer_calls_failed_total") > 0.0);
    let log = cluster.node(1).output();
    assert_eq!(log.matches("cannot reach peer").count(), 1, "{log}");
    pull.abort();
}
