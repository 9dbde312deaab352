//! The Unix socket for the process with the filesystems.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_lazyfs::link::messages::{Answer, Ask, Reply, Request};
use shoal_lazyfs::link::{FrameError, FrameWriter, UNDER_WAY, receive, send, server_frames};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::budget::Budget;
use super::reports::{Reporter, Reports};
use super::requests::Requests;

/// Connections at once: one process with filesystems, its successor, and people's tools.
const CONNECTIONS: usize = 16;
/// Answers that wait to be written.
const ANSWERS: usize = 4;

/// Who does not take an answer by then does not take any: what waits for it is in memory.
const TAKES: Duration = Duration::from_secs(30);

/// A socket that listens; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(%error, "the socket is gone already");
        }
    }
}

impl Socket {
    /// Listens, for the owner of this process only. A socket that was left there is replaced.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves for as long as the node runs.
    pub(crate) async fn serve(self, requests: Requests, reports: Reports) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        let mut number = 0;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let stream = match accepted {
                        Ok((stream, _)) => stream,
                        Err(error) => {
                            warn!(%error, "cannot take a connection");
                            // Out of file descriptors, most likely: others give theirs back meanwhile.
                            tokio::time::sleep(Duration::from_millis(100)).await;
                            continue;
                        }
                    };
                    let Ok(place) = places.clone().try_acquire_owned() else {
                        warn!("too many connections to the socket for filesystems");
                        continue;
                    };
                    let requests = requests.clone();
                    let answer = move |ask| {
                        let requests = requests.clone();
                        async move { requests.answer(ask).await }
                    };
                    number += 1;
                    let reporter = reports.reporter(number);
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = converse(stream, answer, reporter).await {
                            debug!(%error, "a connection to the socket for filesystems ended");
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// Answers one connection's requests, many at once, until it ends.
async fn converse<F>(
    stream: UnixStream,
    answer: impl Fn(Ask) -> F,
    reporter: Reporter,
) -> Result<(), FrameError>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let (mut reader, mut writer) = server_frames(stream);
    let Some(hello) = receive::<Request>(&mut reader).await? else { return Ok(()) };
    let Some(ask @ Ask::Hello(_)) = hello.ask else { return Ok(()) };
    let greeting = answer(ask).await;
    let greeted = matches!(greeting, Answer::Hello(_));
    send(&mut writer, &Reply { id: hello.id, answer: Some(greeting) }).await?;
    if !greeted {
        return Ok(());
    }
    let budget = Budget::default();
    let (answers, outgoing) = mpsc::channel(ANSWERS);
    // Answers are dropped with the connection, and so is whatever is fetched for them.
    let mut writing = JoinSet::new();
    writing.spawn(write(writer, outgoing));
    let mut under_way = JoinSet::new();
    let mut by_id: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        tokio::select! {
            // Twice what the other side has under way: what it cancelled may not have ended yet.
            request = receive::<Request>(&mut reader), if under_way.len() < 2 * UNDER_WAY => {
                let Some(Request { id, ask: Some(ask) }) = request? else { return Ok(()) };
                let ask = match ask {
                    Ask::Cancel(_) => {
                        by_id.remove(&id).iter().for_each(AbortHandle::abort);
                        continue;
                    }
                    Ask::Report(report) => {
                        reporter.note(report);
                        continue;
                    }
                    ask => ask,
                };
                let (room, answer, answers) = (budget.room_for(&ask), answer(ask), answers.clone());
                let task = under_way.spawn(async move {
                    let room = room.await;
                    let answer = Some(answer.await);
                    // Fails when the connection is gone.
                    let _ = answers.send((Reply { id, answer }, room)).await;
                    id
                });
                by_id.insert(id, task);
            }
            Some(ended) = under_way.join_next() => {
                if let Ok(id) = ended {
                    by_id.remove(&id);
                }
            }
            Some(_) = writing.join_next() => return Ok(()),
        }
    }
}

/// An answer, and the room that its bytes take until they are sent.
type Outgoing = (Reply, Option<OwnedSemaphorePermit>);

async fn write(mut writer: FrameWriter, mut answers: mpsc::Receiver<Outgoing>) {
    while let Some((reply, _room)) = answers.recv().await {
        match timeout(TAKES, send(&mut writer, &reply)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return debug!(%error, "an answer was not taken"),
            Err(_) => return debug!("an answer was not taken in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use shoal_lazyfs::link::client_frames;
    use shoal_lazyfs::link::messages::{Hello, Range, RangeRef, Urgency, VERSION};

    use super::*;

    const LEN: u64 = 8 << 20;
    /// As many as there is room for.
    const ROOM: u64 = 8;

    #[tokio::test]
    async fn no_more_is_fetched_than_the_other_side_takes() {
        let (near, far) = UnixStream::pair().unwrap();
        let fetched = Arc::new(AtomicU64::new(0));
        let count = fetched.clone();
        let answer = move |ask| {
            let count = count.clone();
            async move {
                let Ask::Range(range) = ask else { return Answer::Hello(Hello { version: VERSION }) };
                count.fetch_add(1, Ordering::Relaxed);
                let bytes = Bytes::from(vec![0; usize::try_from(range.end).unwrap()]);
                Answer::Range(Range { bytes, source: 0 })
            }
        };
        let conversation = tokio::spawn(converse(near, answer, Reports::default().reporter(1)));
        let (mut reader, mut writer) = client_frames(far);
        let hello = Ask::Hello(Hello { version: VERSION });
        send(&mut writer, &Request { id: 0, ask: Some(hello) }).await.unwrap();
        receive::<Reply>(&mut reader).await.unwrap().unwrap();
        for id in 1..=3 * ROOM {
            let range = RangeRef { end: LEN, urgency: Urgency::Demand.into(), ..RangeRef::default() };
            send(&mut writer, &Request { id, ask: Some(Ask::Range(range)) }).await.unwrap();
        }
        for taken in 1..=3 * ROOM {
            receive::<Reply>(&mut reader).await.unwrap().unwrap();
            // Of the next one the kernel holds a part at most.
            let waiting = fetched.load(Ordering::Relaxed) - taken;
            assert!(waiting <= ROOM, "{waiting} answers wait in memory");
        }
        drop((reader, writer));
        conversation.await.unwrap().unwrap();
    }
}
