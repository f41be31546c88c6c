//! The record of what is attached to one qualifier of a function.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_capacity::sizing::Profile;
use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::Record;
use crate::model::attached::{Attached, Cors, InvokeMode, Provisioned, RuntimeManagement, Url, UrlAuth, UrlNeeds};
use crate::state::{Attachment, StateName};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::registry) struct AttachedRecord {
    url: Option<UrlRecord>,
    provisioned: Option<ProvisionedRecord>,
    runtime: Option<RuntimeRecord>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    state: BTreeMap<StateName, Attachment>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sizing: Option<Profile>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct UrlRecord {
    id: String,
    auth: AuthRecord,
    mode: ModeRecord,
    cors: Option<CorsRecord>,
    created: Timestamp,
    last_modified: Timestamp,
    /// Absent from records of URLs that need `InvokeFunctionUrl` alone, as all did once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    needs_function: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum AuthRecord {
    None,
    AwsIam,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum ModeRecord {
    Buffered,
    ResponseStream,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct CorsRecord {
    allow_credentials: Option<bool>,
    allow_headers: Option<Vec<String>>,
    allow_methods: Option<Vec<String>>,
    allow_origins: Option<Vec<String>>,
    expose_headers: Option<Vec<String>>,
    max_age: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct ProvisionedRecord {
    requested: u32,
    last_modified: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RuntimeRecord {
    FunctionUpdate,
    Manual(String),
}

impl Record for AttachedRecord {
    const FORMAT: u32 = 1;
}

impl From<&Attached> for AttachedRecord {
    fn from(from: &Attached) -> Self {
        Self {
            url: from.url.as_deref().map(UrlRecord::from),
            provisioned: from.provisioned.map(|settings| ProvisionedRecord {
                requested: settings.requested,
                last_modified: settings.last_modified,
            }),
            runtime: from.runtime.clone().map(|runtime| match runtime {
                RuntimeManagement::FunctionUpdate => RuntimeRecord::FunctionUpdate,
                RuntimeManagement::Manual(arn) => RuntimeRecord::Manual(arn),
            }),
            state: from.state.clone(),
            sizing: from.sizing.as_ref().map(Profile::settled),
        }
    }
}

impl From<AttachedRecord> for Attached {
    fn from(from: AttachedRecord) -> Self {
        Self {
            url: from.url.map(|url| Arc::new(url.into())),
            provisioned: from.provisioned.map(|record| Provisioned {
                requested: record.requested,
                last_modified: record.last_modified,
            }),
            runtime: from.runtime.map(|runtime| match runtime {
                RuntimeRecord::FunctionUpdate => RuntimeManagement::FunctionUpdate,
                RuntimeRecord::Manual(arn) => RuntimeManagement::Manual(arn),
            }),
            state: from.state,
            sizing: from.sizing,
        }
    }
}

impl From<&Url> for UrlRecord {
    fn from(from: &Url) -> Self {
        Self {
            id: from.id.clone(),
            auth: match from.auth {
                UrlAuth::None => AuthRecord::None,
                UrlAuth::AwsIam => AuthRecord::AwsIam,
            },
            mode: match from.mode {
                InvokeMode::Buffered => ModeRecord::Buffered,
                InvokeMode::ResponseStream => ModeRecord::ResponseStream,
            },
            cors: from.cors.clone().map(CorsRecord::from),
            created: from.created,
            last_modified: from.last_modified,
            needs_function: from.needs == UrlNeeds::UrlAndFunction,
        }
    }
}

impl From<UrlRecord> for Url {
    fn from(from: UrlRecord) -> Self {
        Self {
            id: from.id,
            auth: match from.auth {
                AuthRecord::None => UrlAuth::None,
                AuthRecord::AwsIam => UrlAuth::AwsIam,
            },
            mode: match from.mode {
                ModeRecord::Buffered => InvokeMode::Buffered,
                ModeRecord::ResponseStream => InvokeMode::ResponseStream,
            },
            cors: from.cors.map(Cors::from),
            needs: match from.needs_function {
                true => UrlNeeds::UrlAndFunction,
                false => UrlNeeds::Url,
            },
            created: from.created,
            last_modified: from.last_modified,
        }
    }
}

impl From<Cors> for CorsRecord {
    fn from(from: Cors) -> Self {
        Self {
            allow_credentials: from.allow_credentials,
            allow_headers: from.allow_headers,
            allow_methods: from.allow_methods,
            allow_origins: from.allow_origins,
            expose_headers: from.expose_headers,
            max_age: from.max_age,
        }
    }
}

impl From<CorsRecord> for Cors {
    fn from(from: CorsRecord) -> Self {
        Self {
            allow_credentials: from.allow_credentials,
            allow_headers: from.allow_headers,
            allow_methods: from.allow_methods,
            allow_origins: from.allow_origins,
            expose_headers: from.expose_headers,
            max_age: from.max_age,
        }
    }
}
