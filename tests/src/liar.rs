use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use shoal_proto::message::{ChunkRequest, Held, Membership, NodeMessage, PeerMessage, Proof, TrackerMessage};
use shoal_proto::{
    Attestation, ChunkIndex, ChunkLayout, ChunkMap, ChunkSet, ChunkValue, Entry, Keypair, LeaseToken, NodeId,
    SwarmId, hash_chunk,
};
use shoal_transport::{Bulk, ChunkServer, Cluster, Served};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::member::{Member, Session};

/// How a [`Liar`] lies. It claims all chunks of the blob in each case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Right values, wrong bytes.
    WrongBytes,
    /// Right values, the bytes of another chunk.
    OtherChunk,
    /// Announces far more bytes than a chunk has, and never ends.
    Endless,
    /// Sends half of a chunk and then nothing.
    Stall,
    /// Sends half of a chunk and is gone, link and all.
    Dies,
    /// Answers that it does not have what it claimed.
    Lacks,
    /// All upload slots are always taken.
    Busy,
    /// Signs for wrong bytes and delivers them, until it is found out.
    WrongEntries,
    /// The same again in each round.
    WrongEntriesAlways,
    /// Attests a map of wrong bytes and delivers them.
    WrongMap,
}

/// A member of the cluster that joins one swarm and lies there until it is dropped.
#[derive(Debug)]
pub struct Liar {
    server: Arc<Server>,
    task: JoinHandle<()>,
    node: NodeId,
}

impl Liar {
    /// Joins, and tells the tracker that it holds everything if `to_tracker`. `blob` are the right bytes.
    pub async fn join(
        cluster: &crate::Cluster,
        swarm: SwarmId,
        blob: &Bytes,
        lie: Lie,
        to_tracker: bool,
    ) -> Self {
        let authority = Cluster::from_file(cluster.secret()).unwrap();
        let layout = swarm.layout().unwrap();
        let server = Arc::new(Server {
            lie,
            layout,
            right: blob.clone(),
            wrong: blob.iter().map(|byte| !byte).collect(),
            asked: AtomicU64::default(),
            dead: Arc::default(),
        });
        let (member, mut links) = Member::new(&authority, server.clone());
        let node = member.identity.node();
        let session = member.session(cluster.scheduler_url()).await.unwrap();
        let all = if to_tracker { ChunkSet::full(layout.count()) } else { ChunkSet::empty(layout.count()) };
        let held = Held::Some(all);
        session.send(&NodeMessage::Join(vec![Membership {
            swarm: swarm.clone(),
            held,
            wants: true,
            may_lease: false,
            shareable: false,
        }]));
        session.send(&NodeMessage::Reported);
        // Who does not read what happens on links stops them.
        tokio::spawn(async move { while links.recv().await.is_some() {} });
        let lying = Lying { member, session, server: server.clone() };
        Self { task: tokio::spawn(lying.run(swarm)), server, node }
    }

    /// How many chunks it was asked for.
    pub fn asked(&self) -> u64 {
        self.server.asked.load(Ordering::Relaxed)
    }

    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Lying {
    member: Member,
    session: Session,
    server: Arc<Server>,
}

impl Lying {
    async fn run(mut self, mut swarm: SwarmId) {
        loop {
            let message = tokio::select! {
                message = self.session.next() => message,
                () = self.server.dead.notified() => return,
            };
            match message {
                Some(TrackerMessage::Neighbours { peers, .. }) => {
                    for peer in peers {
                        let node = peer.node;
                        // A neighbour that shuns this one takes no link.
                        if self.member.connect(peer).await.is_ok() {
                            let _ = self.member.endpoint.send(node, &self.claim(&swarm));
                        }
                    }
                }
                // Found out: it keeps quiet from now on.
                Some(TrackerMessage::Round { .. }) if self.server.lie == Lie::WrongEntries => return,
                Some(TrackerMessage::Round { swarm: next, .. }) => swarm = next,
                Some(_) => {}
                None => return,
            }
        }
    }

    /// All chunks of the blob are here, says the liar.
    fn claim(&self, swarm: &SwarmId) -> PeerMessage {
        let (key, signer) = (self.member.identity.keypair(), self.member.identity.node());
        let values = self.server.claimed_values();
        let proof = if self.server.lie == Lie::WrongMap {
            let root = ChunkMap::new(self.server.layout, values.clone()).unwrap().root();
            let attestation = Attestation { swarm: swarm.clone(), root, signer };
            Proof::Map { values, attestation: Box::new(attestation.sign(key).unwrap()) }
        } else {
            let indexes = self.server.layout.indexes();
            let entries = indexes.zip(values).map(|(index, value)| sign(swarm, index, value, key, signer));
            Proof::Entries(entries.collect())
        };
        let held = match proof {
            Proof::Map { .. } => Held::Complete,
            Proof::Entries(_) => Held::Some(ChunkSet::full(self.server.layout.count())),
        };
        PeerMessage::State { swarm: swarm.clone(), held, proof }
    }
}

fn sign(
    swarm: &SwarmId,
    index: ChunkIndex,
    value: ChunkValue,
    key: &Keypair,
    signer: NodeId,
) -> shoal_proto::SignedEntry {
    let token = LeaseToken { epoch: 1, counter: u64::from(index.0) };
    Entry { swarm: swarm.clone(), index, value, token, signer }.sign(key).unwrap()
}

#[derive(Debug)]
struct Server {
    lie: Lie,
    layout: ChunkLayout,
    right: Bytes,
    wrong: Bytes,
    asked: AtomicU64,
    dead: Arc<Notify>,
}

impl Server {
    fn chunk(&self, of: &Bytes, index: ChunkIndex) -> Bytes {
        let range = self.layout.range(index);
        of.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
    }

    fn claimed_values(&self) -> Vec<ChunkValue> {
        let claimed = match self.lie {
            Lie::WrongEntries | Lie::WrongEntriesAlways | Lie::WrongMap => &self.wrong,
            _ => &self.right,
        };
        let value = |index| hash_chunk(&self.layout, index, &self.chunk(claimed, index)).0;
        self.layout.indexes().map(value).collect()
    }

    fn answer(&self, index: ChunkIndex) -> Served {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let len = u32::try_from(self.layout.len_of(index)).unwrap();
        let sending = |bytes| Served::Sending { len, body: stream::iter([Ok(bytes)]).boxed() };
        let half = self.chunk(&self.right, index).slice(..len as usize / 2);
        match self.lie {
            Lie::WrongBytes | Lie::WrongEntries | Lie::WrongEntriesAlways | Lie::WrongMap => {
                sending(self.chunk(&self.wrong, index))
            }
            Lie::OtherChunk => {
                // Not the last one, which may be shorter than what is asked for.
                let other = ChunkIndex((index.0 + 1) % (self.layout.count() - 1));
                sending(self.chunk(&self.right, other).slice(..len as usize))
            }
            Lie::Endless => {
                let body = stream::repeat_with(|| Ok(Bytes::from_static(&[7; 65_536])));
                Served::Sending { len: u32::MAX, body: body.boxed() }
            }
            Lie::Stall => {
                let body = stream::iter([Ok(half)]).chain(stream::pending());
                Served::Sending { len, body: body.boxed() }
            }
            Lie::Dies => {
                let dead = self.dead.clone();
                let die = stream::once(async move {
                    dead.notify_one();
                    std::future::pending().await
                });
                Served::Sending { len, body: stream::iter([Ok(half)]).chain(die).boxed() }
            }
            Lie::Lacks => Served::NotHeld,
            Lie::Busy => Served::Busy,
        }
    }
}

impl ChunkServer for Server {
    fn serve(&self, _from: NodeId, request: ChunkRequest) -> BoxFuture<'static, Served> {
        let answer = self.answer(request.index);
        async move { answer }.boxed()
    }
}
