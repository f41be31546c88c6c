//! `/v1/nodes`: the nodes of the cluster, as the one that is asked sees them.

use bowline_functions::cluster::{NodeState, NodeView as Seen, WarmVersion};
use http::{Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::Ask;
use super::list::ListPage;
use super::params::Params;
use super::problem::{Problem, ProblemView};
use crate::body::Body;
use crate::reply;

/// A node.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeView {
    /// The number that it has since its last start; zero for a node that is alone.
    id: u64,
    /// Where other nodes reach it.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    state: NodeStateView,
    /// Whether it is the node that answers.
    here: bool,
    /// Invocations that run on it.
    load: u32,
    /// The versions that it holds warm, as far as the node that answers knows them.
    warm: Vec<WarmView>,
}

/// `ready`: it takes invocations; `stopping`: it takes none any more; `silent`: it does not answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeStateView {
    Ready,
    Stopping,
    Silent,
}

/// A version with sandboxes that wait for work.
#[derive(Debug, Serialize, ToSchema)]
pub struct WarmView {
    account: String,
    function: String,
    version: String,
    /// Sandboxes that are idle.
    idle: u32,
}

impl From<Seen> for NodeView {
    fn from(node: Seen) -> Self {
        Self {
            id: node.id,
            address: Some(node.address).filter(|address| !address.is_empty()),
            state: match node.state {
                NodeState::Ready => NodeStateView::Ready,
                NodeState::Stopping => NodeStateView::Stopping,
                NodeState::Silent => NodeStateView::Silent,
            },
            here: node.is_here,
            load: node.load,
            warm: node.warm.into_iter().map(WarmView::from).collect(),
        }
    }
}

impl From<WarmVersion> for WarmView {
    fn from(held: WarmVersion) -> Self {
        Self {
            account: held.account,
            function: held.function,
            version: held.version,
            idle: held.idle,
        }
    }
}

/// Show the nodes of the cluster, the one that answers first.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", operation_id = "ListNodes",
    responses(
        (status = 200, body = ListPage<NodeView>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let nodes = ask.call.node.functions.nodes();
    let page = ListPage {
        items: nodes.into_iter().map(NodeView::from).collect(),
        next: None,
    };
    Ok(reply::json(StatusCode::OK, &page))
}
