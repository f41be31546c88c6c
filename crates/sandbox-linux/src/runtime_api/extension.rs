//! The Extensions API as a state machine, apart from all I/O: who has registered, and where each stands.
//!
//! ```text
//!  Launched ─ register ─▶ Registered ─ next ─▶ Waiting ─ event ─▶ Working ─ next ─▶ Waiting …
//!  (external)                 │ init/error         │ exit/error       │ exit/error
//!                             ▼                    ▼                  ▼
//!                         InitError            ExitError          ExitError
//! ```
//! An *external* extension is a program that the platform starts, known by its file's name before it
//! registers. Any other name is of an *internal* one, a part of the runtime's own process: it may register
//! while the runtime has not asked for its first event, and only for `INVOKE`. An external one whose
//! process is gone stands at `Gone`, which is a crash unless it had said that it would fail.

pub(super) mod request;
mod serve;

use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_sandbox::{FunctionError, Invocation};
use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use super::telemetry::{Api, Subscription};
use request::{Events, Registration};

/// Most extensions of one sandbox, of both kinds together.
pub(crate) const EXTENSIONS_MAX: usize = 10;
/// Longest name of an extension: what a file may be called.
const NAME_BYTES_MAX: usize = 255;

/// Where an extension comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A process of its own.
    External,
    /// Part of the runtime's process.
    Internal,
}

/// Where an extension stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Its process runs, or is about to.
    Launched,
    /// It is known by an identifier.
    Registered,
    /// It has asked for an event and has none.
    Waiting,
    /// It was given an event.
    Working,
    /// It said that it cannot be initialised.
    InitError,
    /// It said that it is about to fail.
    ExitError,
    /// Its program could not be executed.
    LaunchError,
    /// Its process ended unasked.
    Gone,
}

impl Standing {
    /// The name in records and messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Launched => "Started",
            Self::Registered => "Registered",
            Self::Waiting => "Ready",
            Self::Working => "Running",
            Self::InitError => "InitError",
            Self::ExitError => "ExitError",
            Self::LaunchError => "LaunchError",
            Self::Gone => "Exited",
        }
    }
}

/// One extension.
#[derive(Debug)]
pub(crate) struct Extension {
    pub(crate) name: Box<str>,
    pub(crate) kind: Kind,
    pub(crate) standing: Standing,
    pub(crate) events: Events,
    /// What it said when it failed, or how its process ended.
    pub(crate) error_type: Option<Box<str>>,
    id: RequestId,
    /// An event that it was not given yet.
    order: Option<Bytes>,
    /// The event it was given last, until it is heard of again.
    given: Option<Bytes>,
    subscribed: Option<Api>,
}

/// A subscription that the platform has not acted upon yet.
#[derive(Debug)]
pub(crate) struct NewSubscription {
    pub(crate) name: Box<str>,
    pub(crate) subscription: Subscription,
}

/// All extensions of one sandbox.
#[derive(Debug)]
pub(crate) struct Extensions {
    all: Vec<Extension>,
    entropy: Entropy,
    /// No further extension may register.
    registration_closed: bool,
    /// No further subscription may be made.
    subscription_closed: bool,
    new_subscriptions: Vec<NewSubscription>,
    /// The sandbox is ending: an extension that ends is no failure.
    ending: bool,
}

/// Why a request is refused: always with status 403.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) error_type: &'static str,
    pub(crate) message: String,
}

impl Refused {
    fn new(error_type: &'static str, message: impl Into<String>) -> Self {
        Self {
            error_type,
            message: message.into(),
        }
    }
}

/// The extension ran into [`EXTENSIONS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Extensions {
    pub(crate) fn new(entropy: Entropy) -> Self {
        Self {
            all: Vec::new(),
            entropy,
            registration_closed: false,
            subscription_closed: false,
            new_subscriptions: Vec::new(),
            ending: false,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Extension> {
        self.all.iter()
    }

    /// Counts in an external extension whose process is about to be started; returns its number.
    pub(crate) fn launch(&mut self, name: &str) -> Result<usize, TooMany> {
        if self.all.len() >= EXTENSIONS_MAX {
            return Err(TooMany);
        }
        Ok(self.add(name, Kind::External, Standing::Launched))
    }

    fn add(&mut self, name: &str, kind: Kind, standing: Standing) -> usize {
        self.all.push(Extension {
            name: name.into(),
            kind,
            standing,
            events: Events::default(),
            error_type: None,
            id: RequestId::random(&self.entropy),
            order: None,
            given: None,
            subscribed: None,
        });
        self.all.len() - 1
    }

    /// The program of an external extension could not be executed.
    pub(crate) fn launch_failed(&mut self, number: usize, error_type: &str) {
        self.all[number].standing = Standing::LaunchError;
        self.all[number].error_type = Some(error_type.into());
    }

    /// The process of an external extension has ended as `how` says.
    pub(crate) fn ended(&mut self, number: usize, how: &str) {
        let Some(extension) = self.all.get_mut(number) else {
            return;
        };
        extension.order = None;
        if !matches!(extension.standing, Standing::InitError | Standing::ExitError) {
            extension.standing = Standing::Gone;
            extension.error_type = Some(how.into());
        }
    }

    /// Registers an extension; returns its number.
    pub(crate) fn register(&mut self, name: Option<&str>, body: &[u8]) -> Result<usize, Refused> {
        let name = name.filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX);
        let Some(name) = name else {
            let text = format!("header `Lambda-Extension-Name` must have 1 to {NAME_BYTES_MAX} characters");
            return Err(Refused::new("Extension.InvalidExtensionName", text));
        };
        let registration =
            Registration::parse(body).map_err(|text| Refused::new("InvalidRequestFormat", text.to_string()))?;
        let known = self.all.iter().position(|extension| *extension.name == *name);
        match known {
            Some(number) if self.all[number].kind == Kind::External => self.register_external(number, &registration),
            known => self.register_internal(name, known.is_some(), &registration),
        }
    }

    fn register_external(&mut self, number: usize, registration: &Registration) -> Result<usize, Refused> {
        let events = registration.events(true).map_err(invalid_event)?;
        let extension = &mut self.all[number];
        if extension.standing != Standing::Launched {
            return Err(extension.cannot_become("Registered"));
        }
        extension.events = events;
        extension.standing = Standing::Registered;
        Ok(number)
    }

    fn register_internal(&mut self, name: &str, known: bool, registration: &Registration) -> Result<usize, Refused> {
        let events = registration.events(false).map_err(invalid_event)?;
        if self.registration_closed {
            let text = "extensions register before the runtime asks for its first event";
            return Err(Refused::new("Extension.RegistrationClosed", text));
        }
        if known {
            let text = format!("an extension `{name}` has registered already");
            return Err(Refused::new("Extension.InvalidExtensionState", text));
        }
        if self.all.len() >= EXTENSIONS_MAX {
            let text = format!("a sandbox may have {EXTENSIONS_MAX} extensions at most");
            return Err(Refused::new("Extension.TooManyExtensions", text));
        }
        let number = self.add(name, Kind::Internal, Standing::Registered);
        self.all[number].events = events;
        Ok(number)
    }

    /// The number of the extension that the identifier in a request's head names.
    pub(crate) fn identify(&self, id: Option<&str>) -> Result<usize, Refused> {
        identify(&self.all, id)
    }

    /// Takes a request for the next event. `parked` says whether an earlier one is still unanswered.
    pub(crate) fn next(&mut self, number: usize, parked: bool) -> Result<(), Refused> {
        let extension = &mut self.all[number];
        match extension.standing {
            Standing::Registered | Standing::Working => {}
            // Its connection broke, and it asks again.
            Standing::Waiting if !parked => {}
            _ => return Err(extension.cannot_become("Ready")),
        }
        extension.standing = Standing::Waiting;
        extension.given = None;
        Ok(())
    }

    /// The event that the extension is to be given now; it counts as given.
    pub(crate) fn take_order(&mut self, number: usize) -> Option<Bytes> {
        let extension = &mut self.all[number];
        let order = extension.order.take()?;
        extension.standing = Standing::Working;
        extension.given = Some(order.clone());
        Some(order)
    }

    /// The event that was given last did not arrive.
    pub(crate) fn not_given(&mut self, number: usize) {
        let extension = &mut self.all[number];
        if let Some(order) = extension.given.take() {
            extension.order = Some(order);
            extension.standing = Standing::Waiting;
        }
    }

    /// The extension says that it cannot be initialised; saying it twice is no error.
    pub(crate) fn init_error(&mut self, number: usize, error_type: Option<Box<str>>) -> Result<(), Refused> {
        self.fail(number, error_type, Standing::InitError, &[Standing::Registered])
    }

    /// The extension says that it is about to fail; saying it twice is no error.
    pub(crate) fn exit_error(&mut self, number: usize, error_type: Option<Box<str>>) -> Result<(), Refused> {
        let from = [Standing::Registered, Standing::Waiting, Standing::Working];
        self.fail(number, error_type, Standing::ExitError, &from)
    }

    fn fail(
        &mut self,
        number: usize,
        error_type: Option<Box<str>>,
        to: Standing,
        from: &[Standing],
    ) -> Result<(), Refused> {
        let Some(error_type) = error_type else {
            let text = "header `Lambda-Extension-Function-Error-Type` is missing";
            return Err(Refused::new("Extension.MissingHeader", text));
        };
        let extension = &mut self.all[number];
        if extension.standing == to {
            return Ok(());
        }
        if !from.contains(&extension.standing) {
            return Err(extension.cannot_become(to.name()));
        }
        extension.standing = to;
        extension.error_type = Some(error_type);
        Ok(())
    }

    /// Takes a subscription of an extension. A second one at the same API replaces the first.
    pub(crate) fn subscribe(
        &mut self,
        number: usize,
        subscription: impl FnOnce() -> Result<Subscription, Refused>,
        api: Api,
    ) -> Result<(), Refused> {
        if self.subscription_closed {
            let text = "subscriptions are made before the initialisation has ended";
            return Err(Refused::new(api.closed_error_type(), text));
        }
        let subscription = subscription()?;
        let extension = &mut self.all[number];
        if extension.subscribed.is_some_and(|other| other != api) {
            let text = "the extension has subscribed by the other API already";
            return Err(Refused::new("ValidationError", text));
        }
        extension.subscribed = Some(api);
        self.new_subscriptions.push(NewSubscription {
            name: extension.name.clone(),
            subscription,
        });
        Ok(())
    }

    /// The subscriptions that came in since this was asked last.
    pub(crate) fn take_subscriptions(&mut self) -> Vec<NewSubscription> {
        std::mem::take(&mut self.new_subscriptions)
    }

    /// Whether every extension that was launched has registered; one that failed never has.
    pub(crate) fn all_registered(&self) -> bool {
        let registered = |standing| standing != Standing::Launched && failure_type(standing).is_none();
        self.all.iter().all(|extension| registered(extension.standing))
    }

    /// The runtime has asked for its first event: nobody registers any more. Whether all extensions
    /// have asked too, and none failed; if so, nobody subscribes any more.
    pub(crate) fn runtime_ready(&mut self) -> bool {
        self.registration_closed = true;
        let asked = |standing| matches!(standing, Standing::Waiting | Standing::Working);
        let ready = self.all.iter().all(|extension| asked(extension.standing));
        self.subscription_closed |= ready;
        ready
    }

    /// Hands an invocation to all that want it.
    pub(crate) fn invoke(&mut self, invocation: &Invocation) {
        let mut event = None;
        for extension in self.all.iter_mut().filter(|extension| extension.events.invoke) {
            let event = event.get_or_insert_with(|| invoke_event(invocation));
            extension.order = Some(event.clone());
        }
    }

    /// Whether everybody has done with the last invocation.
    pub(crate) fn settled(&self) -> bool {
        self.all
            .iter()
            .all(|extension| extension.order.is_none() && extension.standing == Standing::Waiting)
    }

    /// From now on an extension that ends is no failure, and those that want to know are told that the
    /// sandbox ends.
    pub(crate) fn shut_down(&mut self, event: &Bytes) {
        self.ending = true;
        let told = |extension: &&mut Extension| extension.kind == Kind::External && extension.events.shutdown;
        for extension in self.all.iter_mut().filter(told) {
            extension.order = Some(event.clone());
        }
    }

    /// Whether the extension is an external one that wants to know that the sandbox ends.
    pub(crate) fn takes_leave(&self, number: usize) -> bool {
        let extension = &self.all[number];
        extension.kind == Kind::External && extension.events.shutdown
    }

    /// The sandbox is ending: an extension that ends is no failure any more.
    pub(crate) fn end(&mut self) {
        self.ending = true;
        for extension in &mut self.all {
            extension.order = None;
        }
    }

    /// Why the sandbox cannot go on, if one of its extensions failed.
    pub(crate) fn failure(&self, request_id: Option<RequestId>) -> Option<FunctionError> {
        if self.ending {
            return None;
        }
        let failed = |extension: &&Extension| failure_type(extension.standing).is_some();
        let extension = self.all.iter().find(failed)?;
        let error_type = failure_type(extension.standing)?;
        let prefix = request_id.map_or_else(String::new, |id| format!("RequestId: {id} "));
        let (name, how) = (&extension.name, extension.error_type.as_deref().unwrap_or("unknown"));
        let message = match extension.standing {
            Standing::Gone => format!("{prefix}Error: extension `{name}` ended: {how}"),
            Standing::LaunchError => format!("{prefix}Error: extension `{name}` could not be started: {how}"),
            _ => format!("{prefix}Error: extension `{name}` failed: {how}"),
        };
        Some(FunctionError::new(error_type, &message))
    }
}

fn failure_type(standing: Standing) -> Option<&'static str> {
    match standing {
        Standing::InitError => Some("Extension.InitError"),
        Standing::ExitError => Some("Extension.ExitError"),
        Standing::LaunchError => Some("Extension.LaunchError"),
        Standing::Gone => Some("Extension.Crash"),
        Standing::Launched | Standing::Registered | Standing::Waiting | Standing::Working => None,
    }
}

impl Extension {
    fn cannot_become(&self, wanted: &str) -> Refused {
        let text = format!(
            "extension `{}` stands at `{}` and cannot become `{wanted}`",
            self.name,
            self.standing.name()
        );
        Refused::new("Extension.InvalidExtensionState", text)
    }

    /// Its identifier.
    pub(crate) fn id(&self) -> &str {
        self.id.as_str()
    }
}

fn invalid_event(text: String) -> Refused {
    Refused::new("Extension.InvalidEventType", text)
}

/// Finds an extension by the identifier in a request's head.
fn identify(all: &[Extension], id: Option<&str>) -> Result<usize, Refused> {
    let Some(text) = id else {
        let text = "header `Lambda-Extension-Identifier` is missing";
        return Err(Refused::new("Extension.MissingExtensionIdentifier", text));
    };
    let Ok(id) = text.to_ascii_lowercase().parse::<RequestId>() else {
        let text = "header `Lambda-Extension-Identifier` is no UUID";
        return Err(Refused::new("Extension.InvalidExtensionIdentifier", text));
    };
    let known = |extension: &Extension| extension.id == id && extension.standing != Standing::Launched;
    all.iter().position(known).ok_or_else(|| {
        let text = format!("no extension has registered as `{id}`");
        Refused::new("Extension.UnknownExtensionIdentifier", text)
    })
}

fn invoke_event(invocation: &Invocation) -> Bytes {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Event<'a> {
        event_type: &'static str,
        deadline_ms: u64,
        request_id: &'a str,
        invoked_function_arn: &'a str,
        tracing: Tracing<'a>,
    }
    #[derive(Serialize)]
    struct Tracing<'a> {
        r#type: &'static str,
        value: &'a str,
    }
    let event = Event {
        event_type: "INVOKE",
        deadline_ms: invocation.deadline.wall.as_millis(),
        request_id: invocation.request_id.as_str(),
        invoked_function_arn: &invocation.invoked_arn,
        tracing: Tracing {
            r#type: "X-Amzn-Trace-Id",
            value: invocation.trace_id.as_deref().unwrap_or(""),
        },
    };
    serde_json::to_vec(&event).expect("texts always serialise").into()
}

/// The event that tells an extension that its sandbox ends.
pub(crate) fn shutdown_event(reason: &str, deadline_ms: u64) -> Bytes {
    let event = json!({"eventType": "SHUTDOWN", "shutdownReason": reason, "deadlineMs": deadline_ms});
    event.to_string().into()
}

#[cfg(test)]
mod tests;
