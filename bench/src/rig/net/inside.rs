//! Work inside a network namespace.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::names::namespace_file;

/// Runs `work` on a thread of its own that lives in the namespace, so that its sockets do too. The work ends when
/// the returned future is dropped.
pub(crate) async fn inside<T, F>(namespace: String, work: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    F: Future<Output = Result<T>>,
    T: Send + 'static,
{
    let (mut answer, answered) = oneshot::channel();
    let thread = std::thread::Builder::new().name("inside".to_owned());
    thread.spawn(move || {
        let result = enter(&namespace).and_then(|runtime| {
            runtime.block_on(async {
                tokio::select! {
                    result = work() => Some(result),
                    () = answer.closed() => None,
                }
                .transpose()
            })
        });
        if let Some(result) = result.transpose() {
            // Nobody may be waiting any more.
            let _ = answer.send(result);
        }
    })?;
    answered.await.context("a thread in a namespace ended without an answer")?
}

/// Moves this thread into the namespace.
fn enter(namespace: &str) -> Result<tokio::runtime::Runtime> {
    let path = namespace_file(namespace);
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter {}", path.display()))?;
    // A runtime of this thread alone: others would make their sockets elsewhere.
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
