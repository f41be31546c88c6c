//! Answers requests about extensions and telemetry on the connections of a sandbox's server.

use bytes::Bytes;
use serde_json::json;

use super::super::http::Body;
use super::super::machine::{Phase, Refusal};
use super::super::server::{Server, write_error};
use super::super::telemetry::{Api, Subscription};
use super::request::{Action, BODY_BYTES_MAX, Call};
use super::{Extensions, Refused};

const OK: &str = "200 OK";
const FORBIDDEN: &str = "403 Forbidden";
const BAD_REQUEST: &str = "400 Bad Request";
/// The error type of a subscription that is not what it should be: the one refusal with status 400.
const VALIDATION_ERROR: &str = "ValidationError";

impl Server {
    /// The sandbox's extensions; made when they are first spoken of.
    pub(crate) fn extensions_mut(&mut self) -> Option<&mut Extensions> {
        let about = self.about.as_ref()?;
        let fresh = || Box::new(Extensions::new(about.entropy.clone()));
        Some(&mut **self.extensions.get_or_insert_with(fresh))
    }

    /// Takes a request about extensions or telemetry, which came whole on connection `at`.
    pub(in super::super) fn take_call(&mut self, at: usize, call: Call, body: Body) {
        let body = match body {
            Body::Whole(body) if body.len() <= BODY_BYTES_MAX => body,
            Body::Whole(_) | Body::TooLarge(_) => return self.too_large(at),
        };
        if self.extensions_mut().is_none() {
            let connection = &mut self.connections[at];
            return write_error(connection.outbox(), Refusal::NotFound.text());
        }
        let answered = match call.action {
            Action::Register => self.register(at, &call, &body),
            Action::Next => self.next(at, &call),
            Action::InitError => self.fail(at, call, Extensions::init_error),
            Action::ExitError => self.fail(at, call, Extensions::exit_error),
            Action::Subscribe(api) => self.subscribe(at, &call, api, &body),
        };
        if let Err(Refused { error_type, message }) = answered {
            let status = if error_type == VALIDATION_ERROR {
                BAD_REQUEST
            } else {
                FORBIDDEN
            };
            let error = json!({"errorMessage": message, "errorType": error_type});
            self.respond(at, status, "", &error.to_string());
        }
    }

    fn too_large(&mut self, at: usize) {
        let message = format!("Exceeded maximum allowed payload size ({BODY_BYTES_MAX} bytes).");
        let error = json!({"errorMessage": message, "errorType": "RequestEntityTooLarge"});
        self.respond(at, "413 Payload Too Large", "", &error.to_string());
    }

    fn present(&mut self) -> &mut Extensions {
        self.extensions_mut().expect("it was looked for when the request came")
    }

    fn register(&mut self, at: usize, call: &Call, body: &[u8]) -> Result<(), Refused> {
        // What asks for events is initialised: its parts cannot be added to any more.
        if self.machine.phase() != Phase::Init {
            self.present().runtime_ready();
        }
        let extensions = self.present();
        let number = extensions.register(call.name.as_deref(), body)?;
        let id = extensions
            .iter()
            .nth(number)
            .expect("it has just registered")
            .id()
            .to_owned();
        let spec = &self.about.as_ref().expect("there are extensions").spec;
        let mut answer = json!({
            "functionName": spec.function, "functionVersion": spec.version, "handler": spec.handler,
        });
        if call.wants_account {
            answer["accountId"] = spec.account.as_str().into();
        }
        let field = format!("Lambda-Extension-Identifier: {id}\r\n");
        self.respond(at, OK, &field, &answer.to_string());
        Ok(())
    }

    fn next(&mut self, at: usize, call: &Call) -> Result<(), Refused> {
        let number = self.present().identify(call.id.as_deref())?;
        let waits =
            |connection: &super::super::connection::Connection| connection.parked && connection.waiter == Some(number);
        let parked = self.connections.iter().any(waits);
        self.present().next(number, parked)?;
        let connection = &mut self.connections[at];
        connection.parked = true;
        connection.waiter = Some(number);
        Ok(())
    }

    fn fail(
        &mut self,
        at: usize,
        call: Call,
        fail: impl FnOnce(&mut Extensions, usize, Option<Box<str>>) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        let extensions = self.present();
        let number = extensions.identify(call.id.as_deref())?;
        fail(extensions, number, call.error_type)?;
        self.respond(at, "202 Accepted", "", "{\"status\":\"OK\"}\n");
        Ok(())
    }

    fn subscribe(&mut self, at: usize, call: &Call, api: Api, body: &[u8]) -> Result<(), Refused> {
        let extensions = self.present();
        let number = extensions.identify(call.id.as_deref())?;
        let parse = || Subscription::parse(api, body).map_err(|bad| Refused::new(VALIDATION_ERROR, bad.to_string()));
        extensions.subscribe(number, parse, api)?;
        self.respond(at, OK, "", "\"OK\"");
        Ok(())
    }

    /// Gives an extension that waits on connection `at` its event, if there is one.
    pub(in super::super) fn give_order(&mut self, at: usize, number: usize) {
        let Some(about) = &self.about else { return };
        let event_id = bowline_foundation::id::RequestId::random(&about.entropy);
        let Some(order) = self.extensions.as_mut().and_then(|all| all.take_order(number)) else {
            return;
        };
        let connection = &mut self.connections[at];
        connection.parked = false;
        connection.carries_event = true;
        let field = format!("Lambda-Extension-Event-Identifier: {event_id}\r\n");
        let text = String::from_utf8_lossy(&order);
        self.respond(at, OK, &field, &text);
    }

    /// Answers a ping.
    pub(in super::super) fn pong(&mut self, at: usize) {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\npong";
        self.connections[at].outbox().extend_from_slice(answer);
    }

    fn respond(&mut self, at: usize, status: &str, fields: &str, body: &str) {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{fields}Content-Length: {length}\r\n\r\n");
        let outbox = self.connections[at].outbox();
        outbox.extend_from_slice(head.as_bytes());
        outbox.extend_from_slice(body.as_bytes());
    }

    /// Hands everybody the event that the sandbox ends.
    pub(crate) fn shut_down_extensions(&mut self, event: &Bytes) {
        if let Some(extensions) = &mut self.extensions {
            extensions.shut_down(event);
        }
    }
}
