//! The link to the daemon: what is under way lasts over the daemon's restarts, and no input breaks either side.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use shoal_lazyfs::index::IndexId;
use shoal_lazyfs::link::messages::{
    Answer, Ask, Failed, FailureKind, Hello, Range, RangeRef, Reply, Request, VERSION,
};
use shoal_lazyfs::link::{
    FrameReader, FrameWriter, Link, LinkError, MAX_REQUEST, Served, client_frames, receive, send,
    server_frames,
};
use shoal_lazyfs::source::{ClaimedIndex, Given, Giver, LayerSource, SourceError, Urgency};
use shoal_proto::Digest;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

/// A daemon that the test plays.
struct Daemon {
    listener: UnixListener,
}

impl Daemon {
    fn at(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        Self { listener: UnixListener::bind(path).unwrap() }
    }

    async fn greeted(&self) -> (FrameReader, FrameWriter) {
        let (mut reader, mut writer) = server_frames(self.listener.accept().await.unwrap().0);
        let hello = receive::<Request>(&mut reader).await.unwrap().unwrap();
        assert_eq!(hello.ask, Some(Ask::Hello(Hello { version: VERSION })));
        let answer = Some(Answer::Hello(Hello { version: VERSION }));
        send(&mut writer, &Reply { id: hello.id, answer }).await.unwrap();
        (reader, writer)
    }
}

async fn asked(reader: &mut FrameReader) -> (u64, RangeRef) {
    match receive::<Request>(reader).await.unwrap().unwrap() {
        Request { id, ask: Some(Ask::Range(range)) } => (id, range),
        other => panic!("{other:?}"),
    }
}

async fn give(writer: &mut FrameWriter, id: u64, bytes: &'static [u8], source: u64) {
    let answer = Answer::Range(Range { bytes: Bytes::from_static(bytes), source });
    send(writer, &Reply { id, answer: Some(answer) }).await.unwrap();
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lazy.sock");
    (dir, path)
}

fn layer() -> Digest {
    Digest::sha256([1; 32])
}

/// A link through which one layer may be read.
fn link(path: &Path) -> Link {
    let link = Link::open(path);
    let index = ClaimedIndex { id: IndexId([3; 32]), file: Digest::sha256([2; 32]), len: 100 };
    let served = Served { image: "registry.test/app".into(), index, authorization: None, borrowed: false };
    link.serve(layer(), served);
    link
}

#[tokio::test]
async fn what_is_under_way_is_asked_again_of_the_next_daemon() {
    let (_dir, path) = socket();
    let link = link(&path);
    // Nobody listens yet.
    let waiting = tokio::spawn({
        let link = link.clone();
        async move { link.layer(&layer(), 3..7, Urgency::Demand, &[]).await }
    });
    for _ in 0..2 {
        let daemon = Daemon::at(&path);
        let (mut reader, _writer) = daemon.greeted().await;
        let (_, range) = asked(&mut reader).await;
        assert_eq!((range.start, range.end, range.urgency()), (3, 7, Urgency::Demand.into()));
        // Dies without an answer.
    }
    let daemon = Daemon::at(&path);
    let (mut reader, mut writer) = daemon.greeted().await;
    let (id, _) = asked(&mut reader).await;
    give(&mut writer, id, b"abcd", 0).await;
    assert_eq!(waiting.await.unwrap().unwrap().bytes, "abcd");
}

#[tokio::test]
async fn who_was_given_wrong_bytes_names_whose_they_were_and_who_only_asks_again_names_nobody() {
    let (_dir, path) = socket();
    let daemon = Daemon::at(&path);
    let link = link(&path);
    let ask = |wrong: &'static [Giver]| {
        let link = link.clone();
        tokio::spawn(async move { link.index(&layer(), 0..2, Urgency::Prefetch, wrong).await })
    };
    let first = ask(&[]);
    let (mut reader, mut writer) = daemon.greeted().await;
    let (id, range) = asked(&mut reader).await;
    assert_eq!((range.wrong, range.index), (vec![], Some(Digest::sha256([2; 32]).to_string())));
    give(&mut writer, id, b"xx", 77).await;
    let given = first.await.unwrap().unwrap();
    assert_eq!(given, Given { bytes: "xx".into(), from: Giver(77) });

    // The disk was full, or what came was evicted: that is nobody's fault.
    let again = ask(&[]);
    let (id, range) = asked(&mut reader).await;
    assert_eq!(range.wrong, [0; 0]);
    give(&mut writer, id, b"xx", 77).await;
    again.await.unwrap().unwrap();

    let second = ask(&[Giver(77)]);
    let (id, range) = asked(&mut reader).await;
    assert_eq!(range.wrong, [77]);
    second.abort();
    let cancelled = receive::<Request>(&mut reader).await.unwrap().unwrap();
    assert!(matches!(cancelled, Request { id: of, ask: Some(Ask::Cancel(_)) } if of == id), "{cancelled:?}");
    // Too late, and for nobody.
    give(&mut writer, id, b"yy", 78).await;
    let third = ask(&[]);
    let (id, _) = asked(&mut reader).await;
    give(&mut writer, id, b"zz", 79).await;
    assert_eq!(third.await.unwrap().unwrap().bytes, "zz");
}

#[tokio::test]
async fn failures_and_answers_that_make_no_sense_are_errors() {
    let (_dir, path) = socket();
    let daemon = Daemon::at(&path);
    let link = link(&path);
    let read = || {
        let link = link.clone();
        tokio::spawn(async move { link.layer(&layer(), 0..4, Urgency::Fill, &[]).await })
    };
    let first = read();
    let (mut reader, mut writer) = daemon.greeted().await;
    let (id, _) = asked(&mut reader).await;
    give(&mut writer, id, b"too long", 5).await;
    assert_eq!(first.await.unwrap(), Err(SourceError::Unavailable(layer())));
    for (kind, error) in [
        (FailureKind::Unavailable, SourceError::Unavailable(layer())),
        (FailureKind::Refused, SourceError::Refused(layer())),
        (FailureKind::Invalid, SourceError::Refused(layer())),
    ] {
        let reading = read();
        let (id, _) = asked(&mut reader).await;
        let failed = Failed { kind: kind.into(), text: "why".into() };
        send(&mut writer, &Reply { id, answer: Some(Answer::Failed(failed)) }).await.unwrap();
        assert_eq!(reading.await.unwrap(), Err(error));
    }
    let unknown = Digest::sha256([9; 32]);
    assert_eq!(link.layer(&unknown, 0..1, Urgency::Demand, &[]).await, Err(SourceError::Refused(unknown)));
    let resolving = tokio::spawn(async move { link.resolve("app", None).await });
    let Some(Request { id, ask: Some(Ask::Resolve(_)) }) = receive(&mut reader).await.unwrap() else {
        panic!("no request to resolve")
    };
    give(&mut writer, id, b"", 0).await;
    assert!(matches!(resolving.await.unwrap(), Err(LinkError::Answer(_))));
}

#[tokio::test]
async fn a_daemon_that_sends_garbage_or_another_version_is_left_and_called_again() {
    let (_dir, path) = socket();
    let daemon = Daemon::at(&path);
    let link = link(&path);
    let reading = tokio::spawn(async move { link.layer(&layer(), 0..4, Urgency::Demand, &[]).await });
    let mut garbage = daemon.listener.accept().await.unwrap().0;
    garbage.write_all(&[0xff; 64]).await.unwrap();
    let (mut reader, mut writer) = server_frames(daemon.listener.accept().await.unwrap().0);
    receive::<Request>(&mut reader).await.unwrap().unwrap();
    let other = Answer::Hello(Hello { version: VERSION + 1 });
    send(&mut writer, &Reply { id: 0, answer: Some(other) }).await.unwrap();
    let (mut reader, mut writer) = daemon.greeted().await;
    let (id, _) = asked(&mut reader).await;
    give(&mut writer, id, b"good", 0).await;
    assert_eq!(reading.await.unwrap().unwrap().bytes, "good");
}

/// What one side makes of bytes that the other sends.
async fn read_all(bytes: Vec<u8>) -> (usize, bool) {
    let (near, mut far) = UnixStream::pair().unwrap();
    let writing = tokio::spawn(async move {
        // Fails where the reader hung up first.
        let _ = far.write_all(&bytes).await;
    });
    let (mut reader, _writer) = server_frames(near);
    let mut messages = 0;
    let read = async {
        loop {
            match receive::<Request>(&mut reader).await {
                Ok(Some(_)) => messages += 1,
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    };
    let ended_well = tokio::time::timeout(Duration::from_secs(10), read).await.expect("reading ends");
    drop(reader);
    writing.await.unwrap();
    (messages, ended_well)
}

#[tokio::test]
async fn frames_are_bounded_and_must_be_whole() {
    let most = u32::try_from(MAX_REQUEST).unwrap();
    for announced in [most + 1, 1 << 24, u32::MAX] {
        let mut bytes = u32::to_be_bytes(announced).to_vec();
        bytes.resize(200_000, 0);
        assert_eq!(read_all(bytes).await, (0, false), "{announced} bytes are too many for a request");
    }
    assert_eq!(read_all(vec![0, 0, 0, 9, 8, 1]).await, (0, false), "cut within a frame");
    assert_eq!(read_all(vec![0, 0, 0, 2, 8, 1]).await, (1, true));
    assert_eq!(read_all(vec![]).await, (0, true));
    // What is sent is bounded the same way.
    let (near, _far) = UnixStream::pair().unwrap();
    let (_reader, mut writer) = client_frames(near);
    let name = "a".repeat(MAX_REQUEST);
    let ask = Ask::Resolve(shoal_lazyfs::link::messages::ImageRef { name, authorization: None });
    send(&mut writer, &Request { id: 1, ask: Some(ask) }).await.unwrap_err();
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..400), framed in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut input = if framed { u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec() } else { Vec::new() };
        input.extend_from_slice(&bytes);
        runtime.block_on(read_all(input));
    }
}
