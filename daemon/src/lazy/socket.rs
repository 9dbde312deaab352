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
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::requests::Requests;

/// Connections at once: one process with filesystems, its successor, and people's tools.
const CONNECTIONS: usize = 16;
/// Answers that wait to be written; each has at most the bytes of a range.
const ANSWERS: usize = 4;

/// Who does not take an answer by then does not take any: what waits for it is in memory.
const TAKES: Duration = Duration::from_secs(30);

/// A socket that listens; removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    listener: UnixListener,
    path: PathBuf,
    filesystems: Filesystems,
}

/// The processes with filesystems that are connected.
#[derive(Clone, Debug)]
pub(crate) struct Filesystems(Arc<Semaphore>);

impl Filesystems {
    /// As many as there may be, none of them here yet.
    pub(crate) fn none() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS)))
    }

    pub(crate) fn any(&self) -> bool {
        self.0.available_permits() < CONNECTIONS
    }
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
    pub(crate) fn bind(path: &Path, filesystems: Filesystems) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned(), filesystems })
    }

    /// Serves for as long as the node runs.
    pub(crate) async fn serve(self, requests: Requests) {
        let mut connections = JoinSet::new();
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
                    let Ok(place) = self.filesystems.0.clone().try_acquire_owned() else {
                        warn!("too many connections to the socket for filesystems");
                        continue;
                    };
                    let requests = requests.clone();
                    connections.spawn(async move {
                        let _place = place;
                        if let Err(error) = converse(stream, requests).await {
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
async fn converse(stream: UnixStream, requests: Requests) -> Result<(), FrameError> {
    let (mut reader, mut writer) = server_frames(stream);
    let Some(hello) = receive::<Request>(&mut reader).await? else { return Ok(()) };
    let Some(ask @ Ask::Hello(_)) = hello.ask else { return Ok(()) };
    let answer = requests.answer(ask).await;
    let greeted = matches!(answer, Answer::Hello(_));
    send(&mut writer, &Reply { id: hello.id, answer: Some(answer) }).await?;
    if !greeted {
        return Ok(());
    }
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
                if matches!(ask, Ask::Cancel(_)) {
                    by_id.remove(&id).iter().for_each(AbortHandle::abort);
                    continue;
                }
                let (requests, answers) = (requests.clone(), answers.clone());
                let task = under_way.spawn(async move {
                    let answer = Some(requests.answer(ask).await);
                    // Fails when the connection is gone.
                    let _ = answers.send(Reply { id, answer }).await;
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

async fn write(mut writer: FrameWriter, mut answers: mpsc::Receiver<Reply>) {
    while let Some(reply) = answers.recv().await {
        match timeout(TAKES, send(&mut writer, &reply)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return debug!(%error, "an answer was not taken"),
            Err(_) => return debug!("an answer was not taken in time"),
        }
    }
}
