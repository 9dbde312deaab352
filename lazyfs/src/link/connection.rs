//! The connection to the daemon: kept open, opened again, and what was asked is asked again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::frames::{FrameError, FrameReader, FrameWriter, client_frames, receive, send};
use super::messages::{Answer, Ask, Cancel, Hello, Reply, Request, VERSION};

/// Between attempts to reach the daemon; doubles up to the second: readers wait.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A daemon that does not greet by then is none.
const GREETING: Duration = Duration::from_secs(5);

/// What the connection's task is told.
#[derive(Debug)]
pub(super) enum Event {
    Call(u64, Call),
    /// Nobody waits for this answer any more.
    Forget(u64),
    /// There is no answer to it; where there is no daemon, it is told nobody.
    Tell(Ask),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) ask: Ask,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("the daemon does not greet")]
    Silent,
    #[error("the daemon speaks another version of the protocol than {VERSION}")]
    Version,
}

/// Requests that are not answered yet, by number.
type Pending = BTreeMap<u64, Call>;

/// Runs until nobody can ask any more.
pub(super) async fn run(socket: PathBuf, mut events: mpsc::Receiver<Event>) {
    let mut pending = Pending::new();
    let mut pause = FIRST_PAUSE;
    let mut said = false;
    loop {
        match connect(&socket).await {
            Ok((reader, writer)) => {
                info!(socket = %socket.display(), again = pending.len(), "connected to the daemon");
                (pause, said) = (FIRST_PAUSE, false);
                match session(reader, writer, &mut events, &mut pending).await {
                    Ok(()) => return,
                    Err(error) => debug!(%error, "lost the daemon"),
                }
            }
            Err(error) if !said => {
                warn!(socket = %socket.display(), %error, "the daemon cannot be reached; waiting for it");
                said = true;
            }
            Err(_) => {}
        }
        if !collect(&mut events, &mut pending, pause).await {
            return;
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn connect(socket: &Path) -> Result<(FrameReader, FrameWriter), ConnectError> {
    let stream = UnixStream::connect(socket).await.map_err(FrameError::from)?;
    let (mut reader, mut writer) = client_frames(stream);
    let hello = Request { id: 0, ask: Some(Ask::Hello(Hello { version: VERSION })) };
    send(&mut writer, &hello).await?;
    let greeting = timeout(GREETING, receive::<Reply>(&mut reader)).await;
    match greeting.map_err(|_| ConnectError::Silent)?? {
        Some(Reply { answer: Some(Answer::Hello(Hello { version: VERSION })), .. }) => Ok((reader, writer)),
        Some(_) => Err(ConnectError::Version),
        None => Err(ConnectError::Silent),
    }
}

/// Takes what is asked while there is no daemon. False when nobody can ask any more.
async fn collect(events: &mut mpsc::Receiver<Event>, pending: &mut Pending, time: Duration) -> bool {
    let mut over = std::pin::pin!(sleep(time));
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(Event::Call(id, call)) => drop(pending.insert(id, call)),
                Some(Event::Forget(id)) => drop(pending.remove(&id)),
                Some(Event::Tell(_)) => {}
                None => return false,
            },
            () = &mut over => return true,
        }
    }
}

/// Asks what is pending, and whatever comes, until the connection ends. Ends well when nobody can ask any more.
async fn session(
    mut reader: FrameReader,
    mut writer: FrameWriter,
    events: &mut mpsc::Receiver<Event>,
    pending: &mut Pending,
) -> Result<(), FrameError> {
    for (&id, call) in pending.iter() {
        send(&mut writer, &Request { id, ask: Some(call.ask.clone()) }).await?;
    }
    loop {
        tokio::select! {
            reply = receive::<Reply>(&mut reader) => {
                let Some(Reply { id, answer }) = reply? else {
                    return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
                };
                if let (Some(answer), Some(call)) = (answer, pending.remove(&id)) {
                    // Fails where nobody waits any more.
                    let _ = call.answer.send(answer);
                }
            }
            event = events.recv() => match event {
                Some(Event::Call(id, call)) => {
                    let request = Request { id, ask: Some(call.ask.clone()) };
                    // Before it is sent: if that fails, it is sent again.
                    pending.insert(id, call);
                    send(&mut writer, &request).await?;
                }
                Some(Event::Forget(id)) => {
                    if pending.remove(&id).is_some() {
                        send(&mut writer, &Request { id, ask: Some(Ask::Cancel(Cancel {})) }).await?;
                    }
                }
                Some(Event::Tell(ask)) => send(&mut writer, &Request { id: 0, ask: Some(ask) }).await?,
                None => return Ok(()),
            },
        }
    }
}
