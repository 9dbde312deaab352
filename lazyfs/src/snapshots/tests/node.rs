//! A node's daemon, as far as layers are shown through it: two images over one and the same layer, a public one and a
//! private one.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use shoal_proto::Digest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::build::IndexBuilder;
use crate::index::{Header, encode_head};
use crate::link::messages::{
    Answer, Ask, CHECKED, Failed, FailureKind, ImageInfo, ImageRef, Index, IndexInfo, LayerInfo, Range,
    RangeRef, Reply, Request,
};
use crate::link::{receive, send, server_frames};

pub(super) const PUBLIC: &str = "registry.test/library/public";
pub(super) const PRIVATE: &str = "registry.test/library/private";
/// What it lends to who reads the private one.
pub(super) const LENT: &str = "Bearer lent";
const SPAN: u64 = 64 << 10;

/// Answers until it is dropped with its runtime. Cheap to clone.
#[derive(Clone)]
pub(super) struct Node(Arc<State>);

struct State {
    layer: Bytes,
    digest: Digest,
    index: Bytes,
    fails: AtomicUsize,
    asked: Mutex<Vec<RangeRef>>,
    gate: Semaphore,
}

fn sha256(bytes: &[u8]) -> Digest {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    Digest::sha256(hash.as_ref().try_into().unwrap())
}

impl Node {
    pub(super) fn listen(socket: &Path) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_size(5 * SPAN);
        header.set_mode(0o644);
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, "file", std::io::Read::take(std::io::repeat(7), 5 * SPAN)).unwrap();
        let layer = Bytes::from(tar.into_inner().unwrap());
        let digest = sha256(&layer);
        let mut builder = IndexBuilder::new(digest, layer.len() as u64, SPAN, Vec::new()).unwrap();
        builder.push(&layer).unwrap();
        let built = builder.finish().unwrap();
        let mut index = encode_head(&built.index, &built.window_lengths).unwrap();
        index.extend_from_slice(&built.sink);
        let node = Self(Arc::new(State {
            layer,
            digest,
            index: index.into(),
            fails: AtomicUsize::new(0),
            asked: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        }));
        let listener = UnixListener::bind(socket).unwrap();
        let own = node.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().converse(stream));
            }
        });
        node
    }

    /// The only layer of both images. It is a tar as it is, so this is its DiffID, and its chain id.
    pub(super) fn layer(&self) -> Digest {
        self.0.digest
    }

    /// The next ranges of the layer that are asked for cannot be had.
    pub(super) fn fails(&self, times: usize) {
        self.0.fails.store(times, Ordering::SeqCst);
    }

    /// Whether any range is answered from now on.
    pub(super) fn answers(&self, answers: bool) {
        if answers {
            self.0.gate.add_permits(Semaphore::MAX_PERMITS - self.0.gate.available_permits());
        } else {
            self.0.gate.forget_permits(Semaphore::MAX_PERMITS);
        }
    }

    /// Ranges that were asked for so far.
    pub(super) fn asked(&self) -> Vec<RangeRef> {
        self.0.asked.lock().unwrap().clone()
    }

    async fn converse(self, stream: UnixStream) {
        let (mut reader, writer) = server_frames(stream);
        let writer = Arc::new(AsyncMutex::new(writer));
        while let Ok(Some(Request { id, ask: Some(ask) })) = receive::<Request>(&mut reader).await {
            let (own, writer) = (self.clone(), writer.clone());
            tokio::spawn(async move {
                if let Some(answer) = own.answer(ask).await {
                    // Fails where nobody waits any more.
                    let _ = send(&mut *writer.lock().await, &Reply { id, answer: Some(answer) }).await;
                }
            });
        }
    }

    async fn answer(&self, ask: Ask) -> Option<Answer> {
        match ask {
            Ask::Hello(hello) => Some(Answer::Hello(hello)),
            Ask::Resolve(image) => Some(self.resolve(&image)),
            Ask::Range(range) => Some(self.range(range).await),
            _ => None,
        }
    }

    fn resolve(&self, asked: &ImageRef) -> Answer {
        let State { layer, digest, index, .. } = &*self.0;
        let (name, _) = asked.name.split_once('@').or(asked.name.rsplit_once(':')).unwrap();
        let index = IndexInfo {
            id: Bytes::copy_from_slice(&Header::decode(index.first_chunk().unwrap()).unwrap().id.0),
            file: sha256(index).to_string(),
            len: index.len() as u64,
        };
        let layer = LayerInfo {
            digest: digest.to_string(),
            size: layer.len() as u64,
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            diff_id: digest.to_string(),
            chain_id: digest.to_string(),
            index: Some(Index::Known(index)),
        };
        let manifest = sha256(name.as_bytes()).to_string();
        Answer::Image(ImageInfo {
            name: format!("{name}@{manifest}"),
            config: manifest.clone(),
            manifest,
            layers: vec![layer],
            borrowed: (name == PRIVATE).then(|| LENT.to_owned()),
        })
    }

    async fn range(&self, asked: RangeRef) -> Answer {
        self.0.asked.lock().unwrap().push(asked.clone());
        let failed = |kind: FailureKind| Answer::Failed(Failed { kind: kind.into(), text: "why".into() });
        let ImageRef { name, authorization } = asked.image.unwrap();
        if name.starts_with(PRIVATE) && authorization.as_deref() != Some(LENT) {
            return failed(FailureKind::Refused);
        }
        self.0.gate.acquire().await.unwrap().forget();
        let one_less = |left: usize| left.checked_sub(1);
        let of_layer = asked.index.is_none();
        if of_layer && self.0.fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            return failed(FailureKind::Unavailable);
        }
        let of = if of_layer { &self.0.layer } else { &self.0.index };
        let bytes = of.slice(usize::try_from(asked.start).unwrap()..usize::try_from(asked.end).unwrap());
        Answer::Range(Range { bytes, source: CHECKED })
    }
}
