//! Reads what an extension asks: paths, header fields and bodies; pure and hostile-proof.

use serde::Deserialize;

use super::super::http::Route;
use super::super::telemetry::Api;

/// Largest body of a request about extensions or telemetry.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest header value that is kept.
const VALUE_BYTES_MAX: usize = 1024;

/// A request about extensions or telemetry: its path and the header fields that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What it asks for.
    pub action: Action,
    /// `Lambda-Extension-Name`.
    pub name: Option<Box<str>>,
    /// `Lambda-Extension-Identifier`.
    pub id: Option<Box<str>>,
    /// `Lambda-Extension-Function-Error-Type`.
    pub error_type: Option<Box<str>>,
    /// Whether `Lambda-Extension-Accept-Feature` names `accountId`.
    pub wants_account: bool,
}

/// What a request about extensions or telemetry asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `POST /2020-01-01/extension/register`.
    Register,
    /// `GET /2020-01-01/extension/event/next`.
    Next,
    /// `POST /2020-01-01/extension/init/error`.
    InitError,
    /// `POST /2020-01-01/extension/exit/error`.
    ExitError,
    /// `PUT /2022-07-01/telemetry` or `PUT /2020-08-15/logs`.
    Subscribe(Api),
}

/// The route of a path that is not of the Runtime API proper.
pub(in super::super) fn route(method: &str, path: &str) -> Route {
    let action = match (method, path.strip_suffix('/').unwrap_or(path)) {
        ("GET", "/2018-06-01/ping") => return Route::Ping,
        ("POST", "/2020-01-01/extension/register") => Action::Register,
        ("GET", "/2020-01-01/extension/event/next") => Action::Next,
        ("POST", "/2020-01-01/extension/init/error") => Action::InitError,
        ("POST", "/2020-01-01/extension/exit/error") => Action::ExitError,
        ("PUT", "/2022-07-01/telemetry") => Action::Subscribe(Api::Telemetry),
        ("PUT", "/2020-08-15/logs") => Action::Subscribe(Api::Logs),
        _ => return Route::Unknown,
    };
    Route::Extension(Box::new(Call {
        action,
        name: None,
        id: None,
        error_type: None,
        wants_account: false,
    }))
}

impl Call {
    /// Takes the header fields that matter.
    pub(in super::super) fn read_fields(&mut self, fields: &[httparse::Header<'_>]) {
        for field in fields {
            let value = text(field.value);
            if field.name.eq_ignore_ascii_case("lambda-extension-name") {
                self.name = value;
            } else if field.name.eq_ignore_ascii_case("lambda-extension-identifier") {
                self.id = value;
            } else if field.name.eq_ignore_ascii_case("lambda-extension-function-error-type") {
                self.error_type = value;
            } else if field.name.eq_ignore_ascii_case("lambda-extension-accept-feature") {
                let features = value.unwrap_or_default();
                self.wants_account = features.split(',').any(|feature| feature.trim() == "accountId");
            }
        }
    }
}

fn text(value: &[u8]) -> Option<Box<str>> {
    let value = std::str::from_utf8(value).ok()?.trim();
    (!value.is_empty() && value.len() <= VALUE_BYTES_MAX).then(|| value.into())
}

/// The body of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Registration {
    /// The names of the events that are wanted.
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(default)]
    configuration_keys: Option<Vec<String>>,
}

/// The events an extension wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Each invocation.
    pub invoke: bool,
    /// The end of the sandbox.
    pub shutdown: bool,
}

/// A body that is no registration.
#[derive(Debug, thiserror::Error)]
pub enum BadRegistration {
    /// It is not the JSON that is expected.
    #[error("body is no registration: {0}")]
    Json(#[from] serde_json::Error),
    /// It uses what does not exist any more.
    #[error("`configurationKeys` is not supported: use environment variables")]
    ConfigurationKeys,
}

impl Registration {
    /// Reads a body.
    ///
    /// # Errors
    /// If it is not JSON of the right shape, or asks for `configurationKeys`.
    pub fn parse(body: &[u8]) -> Result<Self, BadRegistration> {
        let registration: Self = serde_json::from_slice(body)?;
        if registration.configuration_keys.iter().flatten().next().is_some() {
            return Err(BadRegistration::ConfigurationKeys);
        }
        Ok(registration)
    }

    /// The events, if they all exist and may be had.
    ///
    /// # Errors
    /// The text names the event that is at fault.
    pub fn events(&self, external: bool) -> Result<Events, String> {
        let mut events = Events::default();
        for event in self.events.iter().flatten() {
            match event.as_str() {
                "INVOKE" => events.invoke = true,
                "SHUTDOWN" if external => events.shutdown = true,
                "SHUTDOWN" => return Err("event `SHUTDOWN` is for external extensions only".to_owned()),
                other => {
                    let shown: String = other.chars().take(64).collect();
                    return Err(format!("event `{shown}` is neither `INVOKE` nor `SHUTDOWN`"));
                }
            }
        }
        Ok(events)
    }
}

impl Events {
    /// Their names.
    pub fn names(self) -> Vec<&'static str> {
        let named = [(self.invoke, "INVOKE"), (self.shutdown, "SHUTDOWN")];
        named
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, name)| name)
            .collect()
    }
}
