//! The way of an invocation to another node and of its answer back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bowline_capacity::identity::{Code, NodeId};
use bowline_capacity::placement::place;
use bowline_sandbox::FunctionError;
use tokio::time::{sleep, timeout};

use super::line::Line;
use super::peer::Peer;
use super::wire::{Asked, Ending, Errand, Outcome, Refusal, Told, Wants};
use super::{Cluster, Placing};
use crate::error::Error;
use crate::invoke::{Outlet, Pool};
use crate::metrics::Fallback;
use crate::service::{Inner, InvocationRequest, InvocationResponse};

/// How long another node may take to say that it runs an invocation.
const TAKE_MAX: Duration = Duration::from_secs(1);
/// How much longer than the function may initialise and run its answer is waited for.
const END_GRACE: Duration = Duration::from_secs(45);

/// An invocation that has no warm sandbox here.
pub(crate) struct Away<'a> {
    pub pool: &'a Pool,
    pub request: &'a InvocationRequest,
    pub invoked_arn: &'a str,
    /// Where the answer goes if it is streamed; emptied if it went there.
    pub outlet: &'a mut Option<Outlet>,
}

/// How an invocation left another node.
enum Left {
    Ended(Ending),
    /// It has not begun there.
    Not(Fallback),
    /// It may have run.
    Lost,
}

impl Inner {
    /// Has another node run the invocation, if the rule of placement says so and the node takes it. `None`: it
    /// is to run here.
    pub(crate) async fn elsewhere(&self, away: Away<'_>) -> Option<Result<InvocationResponse, Error>> {
        let cluster = self
            .cluster
            .as_ref()
            .filter(|cluster| cluster.placing == Placing::Cluster)?;
        let peer = self.choose(cluster, away.pool)?;
        self.hand_to(cluster, peer, away).await
    }

    /// Has the node with this number run it, because nowhere else it can, though nothing may have been heard of it lately.
    /// `None`: it has not begun.
    pub(crate) async fn at_node(&self, host: u64, away: Away<'_>) -> Option<Result<InvocationResponse, Error>> {
        let cluster = self.cluster.as_ref()?;
        let peer = cluster.peer(NodeId(host)).filter(|peer| !peer.is_gone())?;
        self.hand_to(cluster, peer, away).await
    }

    async fn hand_to(
        &self,
        cluster: &Cluster,
        peer: Arc<Peer>,
        mut away: Away<'_>,
    ) -> Option<Result<InvocationResponse, Error>> {
        let _sent = (peer.sent(away.pool.identity), Out::count(&cluster.out));
        let left = match hand_over(cluster, &peer, &away).await {
            Ok(line) => {
                self.metrics.cluster.forwarded.inc();
                attend(line, &peer, &mut away).await
            }
            Err(fallback) => Left::Not(fallback),
        };
        let ending = match left {
            Left::Ended(ending) => ending,
            Left::Not(fallback) => {
                if fallback != Fallback::Refused {
                    peer.failed();
                }
                self.metrics.cluster.fell_back(fallback);
                tracing::debug!(request_id = %away.request.request_id, node = peer.id.0, ?fallback,
                    "another node did not take an invocation");
                return None;
            }
            Left::Lost => {
                peer.failed();
                self.metrics.cluster.lost.inc();
                tracing::warn!(request_id = %away.request.request_id, node = peer.id.0,
                    "another node went away with an invocation");
                *away.outlet = None;
                return Some(Err(Error::Lost(peer.id.0)));
            }
        };
        *away.outlet = None;
        Some(response(&away, &peer, ending))
    }

    fn choose(&self, cluster: &Cluster, pool: &Pool) -> Option<Arc<Peer>> {
        let here = self.running_here().saturating_sub(1);
        let version = (pool.identity, pool.parts.spec.kind);
        let candidates = cluster.candidates(here, version, self.clock.monotonic());
        let placed = place(Code(pool.identity), &candidates)?;
        if placed.node == cluster.here() {
            return None;
        }
        cluster.peer(placed.node)
    }
}

/// Has the node take the invocation and says the word. Fails as long as it has certainly not begun.
async fn hand_over(cluster: &Cluster, peer: &Peer, away: &Away<'_>) -> Result<Line, Fallback> {
    let errand = Errand {
        request_id: away.request.request_id,
        account: away.pool.parts.spec.account.clone(),
        function: away.pool.parts.name.clone(),
        version: away.pool.parts.version,
        identity: away.pool.identity,
        invoked_arn: away.invoked_arn.to_owned(),
        client_context: away.request.client_context.clone(),
        trace_id: away.request.trace_id.clone(),
        wants: Wants {
            log_tail: away.request.log_tail,
            pieces: away.outlet.is_some(),
        },
        payload: away.request.payload.clone(),
    };
    let asked = async {
        let mut line = peer.line(&cluster.greeting).await?;
        line.ask(&Asked::Invoke(Box::new(errand))).await?;
        let told = line.told().await?;
        io::Result::Ok((line, told))
    };
    let (mut line, told) = match timeout(TAKE_MAX, asked).await {
        Ok(Ok(told)) => told,
        Ok(Err(_)) => return Err(Fallback::Unreachable),
        Err(_) => return Err(Fallback::Slow),
    };
    match told {
        Told::Taken => {}
        Told::Refused(refusal) => {
            tracing::debug!(node = peer.id.0, ?refusal, "another node refuses an invocation");
            peer.keep(line);
            return Err(Fallback::Refused);
        }
        _ => return Err(Fallback::Unreachable),
    }
    // A word that cannot be written whole is not understood there.
    line.ask(&Asked::Go).await.map_err(|_| Fallback::Unreachable)?;
    if let Some(outlet) = away.outlet.as_ref() {
        outlet.ran_on.store(peer.id.0, Ordering::Release);
    }
    Ok(line)
}

/// Waits for the end, no longer than it may take and not for a node that is lost.
async fn attend(mut line: Line, peer: &Peer, away: &mut Away<'_>) -> Left {
    let spec = &away.pool.parts.spec;
    let patience = spec.init_limit() + spec.timeout + END_GRACE;
    let left = tokio::select! {
        left = listen(&mut line, away.outlet) => left,
        () = peer.wait_until_lost() => Left::Lost,
        () = sleep(patience) => Left::Lost,
    };
    if matches!(left, Left::Ended(_) | Left::Not(_)) {
        peer.keep(line);
    }
    if matches!(left, Left::Not(_))
        && let Some(outlet) = away.outlet
    {
        outlet.ran_on.store(0, Ordering::Release);
    }
    left
}

async fn listen(line: &mut Line, outlet: &mut Option<Outlet>) -> Left {
    loop {
        let Ok(told) = line.told().await else {
            return Left::Lost;
        };
        match (told, outlet.as_mut()) {
            (Told::Ended(ending), _) => return Left::Ended(ending),
            (Told::Refused(Refusal::Full | Refusal::Stopping | Refusal::Unknown), _) => {
                return Left::Not(Fallback::Refused);
            }
            (Told::Begun(content_type), Some(outlet)) => outlet.sink.begin(&content_type),
            (Told::Piece(piece), Some(outlet)) => {
                if outlet.sink.send(piece).await.is_err() {
                    return Left::Lost;
                }
            }
            _ => return Left::Lost,
        }
    }
}

fn response(away: &Away<'_>, peer: &Peer, ending: Ending) -> Result<InvocationResponse, Error> {
    let result = match ending.result {
        Outcome::Answer(answer) => Ok(answer),
        Outcome::Failed { error_type, payload } => Err(FunctionError { error_type, payload }),
        Outcome::Broken(reason) => return Err(Error::Service(reason.into())),
    };
    Ok(InvocationResponse {
        result,
        executed_version: away.pool.parts.version,
        rung: None,
        stand: None,
        log_tail: ending.log_tail.map(Vec::from),
        execution: None,
        node: Some(peer.id.0),
    })
}

/// Counts an invocation that is at another node.
struct Out<'a>(&'a AtomicU32);

impl<'a> Out<'a> {
    fn count(out: &'a AtomicU32) -> Self {
        out.fetch_add(1, Ordering::Relaxed);
        Self(out)
    }
}

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
