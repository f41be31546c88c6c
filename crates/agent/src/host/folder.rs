//! One folder of the node at the agent's end of its channel: shown by the first frame, hidden when the channel ends.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::Shared;
use crate::fuse::{Shows, relay};
use crate::message::{Refusal, Show};
use crate::wire::{Framed, Kind};

/// How often it is looked whether the node is still the same: the channel of one that was left behind when its machine was
/// saved never ends.
const TICK: Duration = Duration::from_secs(1);

/// Shows a folder, carries what is asked of it, and hides it.
pub(super) async fn serve(shared: &Arc<Shared>, mut framed: Framed, show: Show) -> io::Result<()> {
    let none = || io::Error::new(io::ErrorKind::Unsupported, "this agent shows no folders");
    let shows: Arc<dyn Shows> = match shared.shows.clone().ok_or_else(none) {
        Ok(shows) => shows,
        Err(error) => return refuse(framed, &error).await,
    };
    let kernel = match shows.show(&show.share).await {
        Ok(kernel) => kernel,
        Err(error) => return refuse(framed, &error).await,
    };
    framed.put(Kind::Shown, b"");
    let flushed = framed.flush().await;
    // Of a folder the node says nothing that it was not asked for.
    let (mut channel, _) = framed.into_inner();
    let carried = async {
        flushed?;
        relay(kernel, &mut channel).await
    };
    let stale = async {
        while shared.is_current(show.epoch) {
            sleep(TICK).await;
        }
    };
    let ended = tokio::select! {
        ended = carried => ended,
        () = stale => Ok(()),
    };
    // The channel ends last, so that the node knows that nothing is left.
    shows.hide(&show.share).await.and(ended)
}

async fn refuse(mut framed: Framed, error: &io::Error) -> io::Result<()> {
    let reason = error.to_string();
    framed.put_json(Kind::NotShown, &Refusal { reason });
    framed.flush().await
}
