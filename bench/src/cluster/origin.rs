//! The registry that images come from: one of this run, or one that somebody named.

use anyhow::Result;

use super::upstream::Serving;
use crate::rig::registry::{Registry, Sent};

#[derive(Debug)]
pub(super) enum Origin {
    Own(Registry),
    Upstream(Serving),
}

impl Origin {
    /// Ends it, and tells what it sent since it was started: a registry of this run by its own log, another one by
    /// what came through from it.
    pub(super) async fn stop(self) -> Result<Sent> {
        match self {
            Self::Own(registry) => registry.stop().await,
            Self::Upstream(serving) => Ok(serving.stop()),
        }
    }
}
