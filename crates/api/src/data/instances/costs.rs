//! `/v1/roles/{role}/costs`: what things cost that a role uses, for each unit and each time.

use bowline_inventory::model::CostIndication;
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::list::{self, LIMIT_DEFAULT, LIMIT_MAX, ListPage};
use super::super::params::{self, Params};
use super::super::problem::{Problem, ProblemView};
use super::super::{Ask, time};
use crate::body::Body;
use crate::reply;

/// A price.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutCost {
    price: f64,
    currency: String,
    /// What one of costs so much: `mib` or `vcpu`, say.
    per_unit: String,
    /// For how long: `hour`, say.
    per_time: String,
    /// The server it is about, if it is about one.
    #[serde(default)]
    server: Option<String>,
}

/// A price that somebody said.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Cost)]
pub struct CostView {
    role: String,
    price: f64,
    currency: String,
    per_unit: String,
    per_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    at: String,
}

impl From<&CostIndication> for CostView {
    fn from(cost: &CostIndication) -> Self {
        Self {
            role: cost.role.clone(),
            price: cost.price,
            currency: cost.currency.clone(),
            per_unit: cost.per_unit.clone(),
            per_time: cost.per_time.clone(),
            server: cost.server.clone(),
            at: time::text(cost.at),
        }
    }
}

/// Say what something costs that a role uses.
#[utoipa::path(post, path = "/v1/roles/{role}/costs", tag = "instances", operation_id = "PutCost",
    params(
        ("role" = String, Path, description = "The role"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    request_body = PutCost,
    responses(
        (status = 201, body = CostView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn put(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let request: PutCost = params::json(&body)?;
    let cost = CostIndication {
        role: ask.call.route.resource.to_string(),
        server: request.server,
        price: request.price,
        currency: request.currency,
        per_unit: request.per_unit,
        per_time: request.per_time,
        at: ask.call.node.clock.now(),
    };
    let view = CostView::from(&cost);
    ask.instances()?.add_cost(&ask.owner(&params)?, cost).await?;
    Ok(reply::json(StatusCode::CREATED, &view))
}

/// What was said of a role's costs, oldest first: the newest thousand.
#[utoipa::path(get, path = "/v1/roles/{role}/costs", tag = "instances", operation_id = "ListCosts",
    params(
        ("role" = String, Path, description = "The role"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = ListPage<CostView>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account", "limit", "next"])?;
    let limit = params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?;
    let (account, role) = (ask.owner(&params)?.account, &ask.call.route.resource);
    let costs = ask
        .instances()?
        .costs(&account, role, params.text("next"), limit + 1)
        .await?;
    let page = list::cut(costs, limit, None, |(name, _)| name.clone());
    let page = ListPage {
        items: page.items.iter().map(|(_, cost)| CostView::from(cost)).collect(),
        next: page.next,
    };
    Ok(reply::json(StatusCode::OK, &page))
}
