//! The rounds of work beside appends: watching other hosts, adoption, growth, sealing, retention, tiering.

use std::sync::Arc;

use super::owner::Owner;
use super::queue::{Outcome, Work};
use super::{Inner, Sharing, directory, lease};

/// Does a round every `maintain_every` for as long as the host lives.
pub(super) async fn run(host: Arc<Inner>) {
    while !host.is_fenced() {
        round(&host).await;
        tokio::time::sleep(host.config.maintain_every).await;
    }
}

async fn round(host: &Arc<Inner>) {
    if host.sharing == Sharing::Shared
        && let Err(error) = lease::watch(host).await
    {
        tracing::debug!(%error, "the other hosts were not looked at");
        return;
    }
    if let Err(error) = directory::adopt_round(host).await {
        tracing::debug!(?error, "chains without an owner were not looked at");
    }
}

/// Does work that only a chain's owner may do.
pub(super) async fn work(owner: &mut Owner, work: Work) -> Outcome {
    let _ = owner;
    match work {
        Work::Seal { .. } | Work::Trim(_) | Work::Tier(_) => Ok(false),
    }
}
