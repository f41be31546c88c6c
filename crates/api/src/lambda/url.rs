//! Function URLs: their configurations. Requests to them are [`crate::url`]'s.

use bowline_functions::model::attached::{Cors, InvokeMode, PutUrl, UrlAuth, UrlConfig};
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::ApiError;
use crate::reply;
use crate::url::address;

const AUTH_TYPES: [&str; 2] = ["NONE", "AWS_IAM"];
const INVOKE_MODES: [&str; 2] = ["BUFFERED", "RESPONSE_STREAM"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutRequest {
    auth_type: Option<String>,
    cors: Option<CorsMembers>,
    invoke_mode: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CorsMembers {
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_credentials: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_methods: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allow_origins: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expose_headers: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_age: Option<i64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    function_url: String,
    function_arn: String,
    auth_type: &'static str,
    invoke_mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cors: Option<CorsMembers>,
    creation_time: String,
    /// Absent from the answer to a creation, as in the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_modified_time: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListResponse {
    function_url_configs: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

impl Shown {
    fn new(node: &Node, config: &UrlConfig) -> Self {
        let (target, url) = (&config.target, &config.url);
        Self {
            function_url: address(node, &url.id),
            function_arn: node
                .functions
                .arn(&target.account, &target.name, target.qualifier.as_ref()),
            auth_type: match url.auth {
                UrlAuth::None => "NONE",
                UrlAuth::AwsIam => "AWS_IAM",
            },
            invoke_mode: match url.mode {
                InvokeMode::Buffered => "BUFFERED",
                InvokeMode::ResponseStream => "RESPONSE_STREAM",
            },
            cors: url.cors.clone().map(CorsMembers::from),
            creation_time: url.created.to_lambda_string(),
            last_modified_time: Some(url.last_modified.to_lambda_string()),
        }
    }
}

impl From<Cors> for CorsMembers {
    fn from(from: Cors) -> Self {
        Self {
            allow_credentials: from.allow_credentials,
            allow_headers: from.allow_headers,
            allow_methods: from.allow_methods,
            allow_origins: from.allow_origins,
            expose_headers: from.expose_headers,
            max_age: from.max_age.map(i64::from),
        }
    }
}

/// `CreateFunctionUrlConfig`.
pub async fn create(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let request = request(body, true)?;
    let functions = &call.node.functions;
    let config = functions.create_url(&call.caller(), &target, request).await?;
    let shown = Shown {
        last_modified_time: None,
        ..Shown::new(call.node, &config)
    };
    Ok(reply::json(StatusCode::CREATED, &shown))
}

/// `GetFunctionUrlConfig`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let config = call.node.functions.get_url(&call.qualified_function()?)?;
    Ok(reply::json(StatusCode::OK, &Shown::new(call.node, &config)))
}

/// `UpdateFunctionUrlConfig`.
pub async fn update(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let request = request(body, false)?;
    let functions = &call.node.functions;
    let config = functions.update_url(&call.caller(), &target, request).await?;
    Ok(reply::json(StatusCode::OK, &Shown::new(call.node, &config)))
}

/// `DeleteFunctionUrlConfig`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    call.node.functions.delete_url(&call.caller(), &target).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// `ListFunctionUrlConfigs`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let page = read::short_page(call.route.query)?;
    let found = call.node.functions.list_urls(&call.function()?, &page)?;
    let shown = ListResponse {
        function_url_configs: found.items.iter().map(|config| Shown::new(call.node, config)).collect(),
        next_marker: found.next_marker,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

fn request(body: &[u8], is_new: bool) -> Result<PutUrl, ApiError> {
    let request: PutRequest = read::json(body)?;
    let mut violations = Violations::default();
    if is_new {
        violations.require("authType", request.auth_type.as_ref());
    }
    if let Some(auth) = &request.auth_type {
        violations.one_of("authType", auth, &AUTH_TYPES);
    }
    if let Some(mode) = &request.invoke_mode {
        violations.one_of("invokeMode", mode, &INVOKE_MODES);
    }
    violations.finish()?;
    Ok(PutUrl {
        auth: request.auth_type.map(|auth| match auth.as_str() {
            "AWS_IAM" => UrlAuth::AwsIam,
            _ => UrlAuth::None,
        }),
        mode: request.invoke_mode.map(|mode| match mode.as_str() {
            "RESPONSE_STREAM" => InvokeMode::ResponseStream,
            _ => InvokeMode::Buffered,
        }),
        max_age: request.cors.as_ref().and_then(|cors| cors.max_age),
        cors: request.cors.map(|cors| Cors {
            allow_credentials: cors.allow_credentials,
            allow_headers: cors.allow_headers,
            allow_methods: cors.allow_methods,
            allow_origins: cors.allow_origins,
            expose_headers: cors.expose_headers,
            max_age: None,
        }),
    })
}
