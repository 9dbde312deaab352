//! The node's session with a tracker: a scheduler, or, with none configured or none alive, one of its own.

use std::collections::HashMap;
use std::error::Error as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use shoal_proto::message::{NodeMessage, PeerInfo, TagRecord, TrackerMessage};
use shoal_proto::{ClaimChecker, RegistryName, Repository, SwarmId};
use shoal_scheduler::TrackerHandle;
use shoal_transport::{MutualTls, grpc};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};

use super::{Input, SwarmHandle};
use crate::images::Facts;
use crate::metrics::Metrics;

/// Messages that wait for the session; a tracker that does not take them for so long is as good as gone.
const OUTGOING: usize = 4096;
/// A question to the tracker that is not answered by then is answered with "not known". Long enough for the next attempt
/// to reach a scheduler: the origin is gone when somebody asks, and one that only starts again may know.
const ANSWER: Duration = Duration::from_secs(2);
/// Between attempts to reach a scheduler; each waits between half and all of it, so that a cluster's nodes do not
/// all come at once.
const RETRY: Duration = Duration::from_secs(2);
/// Without a scheduler for so long a node tracks for itself: alone it can still ask the origin.
const ALONE_AFTER: Duration = Duration::from_secs(10);
/// Why there is no scheduler is said again after so long.
const SAY_AGAIN: Duration = Duration::from_secs(300);

/// Which tracker a node has.
#[derive(Debug)]
pub(crate) struct TrackerSource {
    /// Schedulers in order of preference; none: the node is a cluster of its own.
    pub urls: Vec<String>,
    pub tls: MutualTls,
    /// The tracker inside this node.
    pub own: TrackerHandle,
    /// What a new tracker is told of images.
    pub(crate) facts: Facts,
    /// What this node says of itself.
    pub hello: PeerInfo,
}

#[derive(Clone, Copy, Debug)]
struct Scheduler {
    session: bool,
    since: Instant,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self { session: false, since: Instant::now() }
    }
}

#[derive(Debug, Default)]
struct Shared {
    outgoing: Mutex<Option<mpsc::Sender<NodeMessage>>>,
    questions: Mutex<HashMap<u64, oneshot::Sender<TrackerMessage>>>,
    next_question: AtomicU64,
    /// Since when there is a session with a scheduler, or since when there is none.
    scheduler: Mutex<Scheduler>,
    opened: Notify,
    /// The blob whose holders are being asked for, and those that were named.
    holders: Mutex<Option<(SwarmId, Vec<PeerInfo>)>>,
    /// One question for holders at a time.
    asking: tokio::sync::Mutex<()>,
}

/// Sends to the present tracker. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrackerLink(Arc<Shared>);

/// Asks the tracker what the cluster knows. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct TrackerQueries(TrackerLink);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TrackerLink {
    /// Sends, or drops the message where there is no tracker: a new session starts with telling everything anew.
    pub(crate) fn send(&self, message: NodeMessage) {
        let mut outgoing = lock(&self.0.outgoing);
        if let Some(session) = outgoing.as_ref()
            && session.try_send(message).is_err()
        {
            // Ends the session; the next one reports all anew.
            *outgoing = None;
        }
    }

    /// Whether there is a tracker.
    pub(crate) fn is_up(&self) -> bool {
        lock(&self.0.outgoing).is_some()
    }

    /// Returns once there is a tracker.
    async fn opened(&self) {
        let opened = self.0.opened.notified();
        if !self.is_up() {
            opened.await;
        }
    }

    /// Whether the tracker is a scheduler.
    pub(crate) fn has_scheduler(&self) -> bool {
        lock(&self.0.scheduler).session
    }

    /// For how long it has been so.
    pub(crate) fn scheduler_for(&self) -> Duration {
        lock(&self.0.scheduler).since.elapsed()
    }

    fn set_scheduler(&self, session: bool) {
        *lock(&self.0.scheduler) = Scheduler { session, since: Instant::now() };
    }

    async fn ask(&self, question: impl FnOnce(u64) -> NodeMessage) -> Option<TrackerMessage> {
        timeout(ANSWER, self.answered(question)).await.ok()?
    }

    async fn answered(&self, question: impl FnOnce(u64) -> NodeMessage) -> Option<TrackerMessage> {
        self.opened().await;
        let request = self.0.next_question.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut questions = lock(&self.0.questions);
            // Whoever asked and went away left its question here.
            questions.retain(|_, asker| !asker.is_closed());
            questions.insert(request, answer);
        }
        self.send(question(request));
        answered.await.ok()
    }

    /// Notes who was named for a blob, where somebody asks for that.
    fn named(&self, swarm: &SwarmId, peers: &[PeerInfo]) {
        if let Some((asked, holders)) = lock(&self.0.holders).as_mut()
            && asked.is_same_blob(swarm)
        {
            for peer in peers {
                if holders.iter().all(|known| known.node != peer.node) {
                    holders.push(peer.clone());
                }
            }
        }
    }

    fn answer(&self, request: u64, message: TrackerMessage) {
        if let Some(asker) = lock(&self.0.questions).remove(&request) {
            // The asker may have stopped waiting.
            let _ = asker.send(message);
        }
    }
}

impl TrackerQueries {
    pub(crate) fn new(link: TrackerLink) -> Self {
        Self(link)
    }

    /// Tells a fact that other nodes may use.
    pub(crate) fn tell(&self, fact: NodeMessage) {
        self.0.send(fact);
    }

    /// The last answer of the origin, to anybody in the cluster, on a tag of an open repository. A digest in place of
    /// the tag asks whether the repository was seen to hold that manifest.
    pub(crate) async fn tag(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        tag: &str,
    ) -> Option<TagRecord> {
        let (registry, repository, tag) = (registry.clone(), repository.as_str().into(), tag.into());
        match self.0.ask(|request| NodeMessage::TagLookup { request, registry, repository, tag }).await? {
            TrackerMessage::TagFound { record, .. } => record,
            _ => None,
        }
    }

    /// Members that have some of a blob, without taking part in its swarm: none if this node takes part already.
    ///
    /// A tracker names neighbours to who joins, so this joins and leaves at once. A question about something else
    /// tells when all that there was to say has come.
    pub(crate) async fn holders(
        &self,
        blob: &SwarmId,
        repository: &Repository,
        swarm: &SwarmHandle,
    ) -> Vec<PeerInfo> {
        if !self.0.is_up() {
            return Vec::new();
        }
        let shared = &self.0.0;
        let _alone = shared.asking.lock().await;
        *lock(&shared.holders) = Some((blob.clone(), Vec::new()));
        swarm.look_in(blob.clone()).await;
        self.is_anonymous(&blob.origin, repository).await;
        lock(&shared.holders).take().map(|(_, named)| named).unwrap_or_default()
    }

    /// Whether a member found that the origin serves this repository to anybody.
    pub(crate) async fn is_anonymous(&self, registry: &RegistryName, repository: &Repository) -> bool {
        let (registry, repository) = (registry.clone(), repository.as_str().into());
        let answer =
            self.0.ask(|request| NodeMessage::AnonymousLookup { request, registry, repository }).await;
        matches!(answer, Some(TrackerMessage::AnonymousFound { known: true, .. }))
    }
}

type Incoming = Pin<Box<dyn Stream<Item = TrackerMessage> + Send>>;

impl TrackerSource {
    /// Keeps a session open for as long as the node runs.
    pub(crate) async fn run(self, link: TrackerLink, swarm: SwarmHandle, metrics: Metrics) {
        let mut alone_since = Instant::now();
        loop {
            if let Some((outgoing, incoming)) = self.scheduler().await {
                metrics.tracker_sessions.inc();
                link.set_scheduler(true);
                self.tell_facts(&link);
                let since = Instant::now();
                session(&link, &swarm, outgoing, incoming, std::future::pending()).await;
                link.set_scheduler(false);
                warn!("the scheduler closed the session");
                // One that closes every session at once is as good as none.
                if since.elapsed() >= ALONE_AFTER {
                    alone_since = Instant::now();
                }
            }
            if self.urls.is_empty() || alone_since.elapsed() >= ALONE_AFTER {
                self.alone(&link, &swarm).await;
                alone_since = Instant::now();
            }
            tokio::time::sleep(jittered(RETRY)).await;
        }
    }

    /// Once the session is open; a fact that does not get through is only missed in an outage.
    fn tell_facts(&self, link: &TrackerLink) {
        let (facts, link) = (self.facts.clone(), link.clone());
        tokio::spawn(async move {
            link.opened().await;
            tokio::task::spawn_blocking(move || facts.tell(&link));
        });
    }

    /// Tracks for itself until a scheduler can be reached.
    async fn alone(&self, link: &TrackerLink, swarm: &SwarmHandle) {
        let Ok((mut sender, incoming)) = self.own.open(self.hello.clone()).await else { return };
        info!(configured = self.urls.len(), "no scheduler: this node tracks for itself");
        let (outgoing, mut messages) = mpsc::channel(OUTGOING);
        let forward = tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        session(link, swarm, outgoing, Box::pin(ReceiverStream::new(incoming)), self.reachable()).await;
        forward.abort();
    }

    /// Returns once a scheduler answers.
    async fn reachable(&self) {
        if self.urls.is_empty() {
            std::future::pending::<()>().await;
        }
        let mut said = Instant::now();
        loop {
            tokio::time::sleep(jittered(RETRY)).await;
            let say = said.elapsed() >= SAY_AGAIN;
            for url in &self.urls {
                match grpc::connect(url, &self.tls).await {
                    Ok(_) => return,
                    Err(error) if say => unreachable(url, &error.into()),
                    Err(_) => {}
                }
            }
            if say {
                said = Instant::now();
            }
        }
    }

    /// Opens a session with the first scheduler that answers.
    async fn scheduler(&self) -> Option<(mpsc::Sender<NodeMessage>, Incoming)> {
        for url in &self.urls {
            match self.connect(url).await {
                Ok(session) => {
                    info!(url, "session with the scheduler");
                    return Some(session);
                }
                Err(error) => unreachable(url, &error),
            }
        }
        None
    }

    async fn connect(&self, url: &str) -> Result<(mpsc::Sender<NodeMessage>, Incoming), ConnectError> {
        let mut client = grpc::connect(url, &self.tls).await?;
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        // The first message is in the queue before anything else can be.
        let _ = outgoing.try_send(NodeMessage::Hello(self.hello.clone()));
        let messages = ReceiverStream::new(messages).map(|message| (&message).into());
        let incoming = client.session(messages).await.map_err(Box::new)?.into_inner();
        let incoming = incoming.map(|message| match message {
            Ok(message) => TrackerMessage::try_from(message)
                .inspect_err(|error| warn!(%error, "malformed message; the session ends"))
                .ok(),
            Err(status) => {
                match status.source() {
                    // The connection broke: what broke it first is no news, and "ended" is said in any case.
                    Some(reason) => debug!(reason, "the scheduler closed the session"),
                    None => warn!(code = ?status.code(), reason = status.message(), "the scheduler ended the session"),
                }
                None
            }
        });
        let incoming = incoming.take_while(|message| std::future::ready(message.is_some()));
        Ok((outgoing, Box::pin(incoming.filter_map(std::future::ready))))
    }
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("{}", chain(.0))]
    Transport(#[from] tonic::transport::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] Box<tonic::Status>),
}

fn unreachable(url: &str, error: &ConnectError) {
    match error {
        ConnectError::Transport(error) if grpc::is_other_cluster(error) => warn!(
            "the scheduler at {url} belongs to another cluster: [cluster] secret_file here differs from the \
             scheduler's (or is missing)"
        ),
        error => warn!(url, %error, "cannot reach the scheduler"),
    }
}

/// tonic's own message is "transport error"; what went wrong stands in its sources, some of which repeat it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = String::new();
    for reason in std::iter::successors(error.source(), |&error| error.source()).map(ToString::to_string) {
        if !said.contains(&reason) {
            let colon = if said.is_empty() { "" } else { ": " };
            said = format!("{said}{colon}{reason}");
        }
    }
    if said.is_empty() { error.to_string() } else { said }
}

fn jittered(time: Duration) -> Duration {
    time.mul_f64(0.5 + 0.5 * fastrand::f64())
}

/// Passes messages on until the tracker ends the session, the node cannot write to it, or `until` is over.
async fn session(
    link: &TrackerLink,
    swarm: &SwarmHandle,
    outgoing: mpsc::Sender<NodeMessage>,
    mut incoming: Incoming,
    until: impl Future<Output = ()>,
) {
    let ended = outgoing.downgrade();
    *lock(&link.0.outgoing) = Some(outgoing);
    link.0.opened.notify_waiters();
    swarm.send(Input::TrackerUp).await;
    let mut claims = ClaimChecker::default();
    let mut until = std::pin::pin!(until);
    loop {
        let message = tokio::select! {
            message = incoming.next() => message,
            () = &mut until => None,
        };
        let Some(message) = message else { break };
        if ended.strong_count() == 0 {
            warn!("the tracker does not take what this node says");
            break;
        }
        if let Err(error) = claims.tracker(&message) {
            warn!(%error, "dropped a message whose claim does not hold");
            continue;
        }
        if let TrackerMessage::Neighbours { swarm: blob, peers } = &message {
            link.named(blob, peers);
        }
        match message {
            TrackerMessage::TagFound { request, .. } | TrackerMessage::AnonymousFound { request, .. } => {
                link.answer(request, message)
            }
            message => swarm.send(Input::Tracker(message)).await,
        }
    }
    *lock(&link.0.outgoing) = None;
    swarm.send(Input::TrackerDown).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_waits_for_a_tracker_that_comes_in_time() {
        let link = TrackerLink::default();
        let queries = TrackerQueries::new(link.clone());
        let (registry, repository) = ("registry.test".parse().unwrap(), "library/app".parse().unwrap());
        let asked = queries.is_anonymous(&registry, &repository);
        let tracker = async {
            // The question comes before the tracker.
            tokio::task::yield_now().await;
            let (outgoing, mut told) = mpsc::channel(1);
            *lock(&link.0.outgoing) = Some(outgoing);
            link.0.opened.notify_waiters();
            let asked = timeout(ANSWER, told.recv()).await.expect("nothing was asked");
            let Some(NodeMessage::AnonymousLookup { request, .. }) = asked else { panic!("{asked:?}") };
            link.answer(request, TrackerMessage::AnonymousFound { request, known: true });
        };
        let (known, ()) = futures_util::join!(asked, tracker);
        assert!(known);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_tracker_a_question_is_answered_in_time_too() {
        let queries = TrackerQueries::new(TrackerLink::default());
        let (registry, repository) = ("registry.test".parse().unwrap(), "library/app".parse().unwrap());
        let begun = Instant::now();
        assert!(!queries.is_anonymous(&registry, &repository).await);
        assert!(begun.elapsed() <= ANSWER + Duration::from_millis(1));
    }
}
