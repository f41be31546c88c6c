//! Reactors: one instance serves all invocations of a sandbox and keeps its state between them.
//!
//! The interface of the guest SDK, version 1. All numbers are little-endian; addresses and lengths are 32
//! bits wide.
//!
//! - export `memory`.
//! - export `bowline_v1_reserve(bytes) -> address`: a buffer of at least so many bytes, aligned to 8. It
//!   stays valid until the next call of this function; the host calls it only when it needs a larger one.
//! - export `bowline_v1_invoke(bytes) -> answer`: serves the request that the host wrote to the buffer.
//!   The low 31 bits of the answer are its length, bit 31 says that it is an error, and the high 32 bits
//!   are its address. It stays valid until the next call.
//! - export `bowline_v1_init()`, optional: called once after `_initialize`, before any request.
//! - import `bowline_v1.fail(address, bytes)`: ends the guest with an error, as after a panic. Never
//!   returns.
//! - import `bowline_v1.begin(address, bytes)`, optional: begins a streamed answer of this content type.
//! - import `bowline_v1.write(address, bytes)`, optional: bytes of a streamed answer; returns once the
//!   reader of the answer keeps up. What `bowline_v1_invoke` answers then counts only if it is an error.
//! - import `bowline_v1.ask(method, bytes, target, bytes, body, bytes) -> answer`, optional: asks the platform what a Linux
//!   sandbox asks by its loopback. The high 32 bits of the answer are its status, the low ones its length.
//! - import `bowline_v1.answer(address)`, optional: copies the body of that answer, JSON, to the address. It is there until it
//!   was copied, or something else is asked.
//!
//! An error is JSON: `errorType`, `errorMessage`, `stackTrace`. A request is a head of 64 bytes and four
//! texts one after the other:
//!
//! | at | what |
//! | --- | --- |
//! | 0 | length of the event |
//! | 4 | length of the invoked ARN |
//! | 8 | length of the client context, `u32::MAX` if there is none |
//! | 12 | length of the trace id, `u32::MAX` if there is none |
//! | 16 | deadline in milliseconds since the Unix epoch, 64 bits |
//! | 24 | request id, 36 characters |
//! | 60 | zero |
//! | 64 | event, ARN, client context, trace id |

mod asking;
mod streaming;

use std::sync::Arc;

use async_trait::async_trait;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::{CreateError, FunctionError, Invocation, Outcome, Report, Sandbox, Usage};
use bytes::Bytes;
use serde::Deserialize;
use wasmtime::{Caller, InstancePre, Memory, Result, Store, TypedFunc};

use crate::accept::{SDK_INIT, SDK_INVOKE, SDK_RESERVE};
use crate::backend::Shared;
use crate::failure::{GuestFailure, ProtocolViolation, Scene, is_exhaustion};
use crate::guest::{Guest, Stdout, Surroundings};
use crate::image::Image;
use crate::outlet::Outlet;
use crate::runner::{Departure, Unfinished};
use crate::store;

pub(crate) use asking::{Way, define as define_asking};
pub(crate) use streaming::define as define_streaming;

const HEAD_BYTES: usize = 64;
const ABSENT: u32 = u32::MAX;
const ERROR_BIT: u32 = 1 << 31;
/// The first buffer asked for: most requests fit.
const BUFFER_BYTES: u32 = 4096;

/// A sandbox around one instance.
pub(crate) struct Reactor {
    shared: Arc<Shared>,
    image: Arc<Image>,
    surroundings: Arc<Surroundings>,
    instance: Option<Instance>,
    departure: Departure,
}

/// A live instance with what is called in it.
struct Instance {
    store: Store<Guest>,
    memory: Memory,
    reserve: TypedFunc<u32, u32>,
    invoke: TypedFunc<u32, u64>,
    /// Address and size of the request buffer.
    buffer: (u32, u32),
}

/// What a guest's invocation gave.
enum Answer {
    Success(Bytes),
    Error(Bytes),
    TooLarge(u64),
}

impl Reactor {
    /// Makes the instance and lets it initialise.
    pub(crate) async fn create(
        shared: Arc<Shared>,
        image: Arc<Image>,
        program: InstancePre<Guest>,
        surroundings: Arc<Surroundings>,
    ) -> Result<Self, CreateError> {
        let mut departure = Departure::default();
        let budget = surroundings.init_limit;
        let around = surroundings.clone();
        let work = Box::pin(async move { Instance::create(&program, around).await });
        let finished = shared.runner.run(work, budget, &mut departure).await;
        let created = match finished {
            Ok(created) => created,
            Err(Unfinished::Late) => {
                let error = FunctionError::timed_out(RequestId::random(&Entropy::system()), budget);
                return Err(CreateError::Init(error));
            }
            Err(Unfinished::Lost(error)) => return Err(CreateError::Backend(std::io::Error::other(error))),
        };
        let instance = created.map_err(|(error, memory_refused)| {
            if is_exhaustion(&error) {
                return CreateError::Exhausted(error.to_string().into());
            }
            let scene = Scene {
                request_id: RequestId::random(&surroundings.entropy),
                memory: surroundings.memory,
                memory_refused,
            };
            CreateError::Init(scene.function_error(error))
        })?;
        Ok(Self {
            shared,
            image,
            surroundings,
            instance: Some(instance),
            departure,
        })
    }
}

#[async_trait]
impl Sandbox for Reactor {
    async fn invoke(&mut self, mut invocation: Invocation) -> Report {
        let Some(mut instance) = self.instance.take() else {
            return broken("the sandbox ended with its last invocation");
        };
        let clock = &self.surroundings.clock;
        let started = clock.monotonic();
        let budget = invocation.deadline.monotonic.since(started);
        let (request_id, limit) = (invocation.request_id, invocation.deadline.budget);
        let way = invocation.platform.take().map(Way::new);
        let work = Box::pin(async move {
            instance.store.data_mut().outlet = Outlet::from(invocation.sink.take());
            instance.store.data_mut().way = way;
            let answer = instance.serve(&invocation).await;
            let outlet = std::mem::replace(&mut instance.store.data_mut().outlet, Outlet::Whole(None));
            instance.store.data_mut().way = None;
            instance.store.data_mut().told = Bytes::new();
            let answer = answer.map(|answer| answer.after(outlet));
            (instance, answer)
        });
        let finished = self.shared.runner.run(work, budget, &mut self.departure).await;
        let outcome = match finished {
            Ok((instance, Ok(answer))) => {
                self.instance = Some(instance);
                answer.into_outcome()
            }
            Ok((instance, Err(error))) => {
                let scene = Scene {
                    request_id,
                    memory: self.surroundings.memory,
                    memory_refused: instance.store.data().limits.refused(),
                };
                scene.outcome(error)
            }
            Err(Unfinished::Late) => Outcome::Failed(FunctionError::timed_out(request_id, limit)),
            Err(Unfinished::Lost(error)) => Outcome::Broken(error.to_string()),
        };
        self.image.ran();
        Report {
            outcome,
            usage: Usage {
                duration: clock.monotonic().since(started),
                memory_bytes_max: self.surroundings.peak_bytes(),
                cpu: std::time::Duration::ZERO,
            },
            reusable: self.instance.is_some(),
        }
    }

    fn is_alive(&mut self) -> bool {
        self.instance.is_some()
    }

    async fn idle(&mut self) {
        self.image.let_go();
    }

    fn resident_bytes(&self) -> u64 {
        let instance = self.instance.as_ref();
        instance.map_or(0, |instance| instance.store.data().limits.bytes())
    }

    async fn destroy(mut self: Box<Self>) {
        self.departure.wait().await;
    }
}

/// A report of a failure that is the platform's own.
pub(crate) fn broken(text: &str) -> Report {
    Report {
        outcome: Outcome::Broken(text.to_owned()),
        usage: Usage::default(),
        reusable: false,
    }
}

impl Instance {
    /// On failure says also whether the instance was refused memory.
    async fn create(
        program: &InstancePre<Guest>,
        surroundings: Arc<Surroundings>,
    ) -> Result<Self, (wasmtime::Error, bool)> {
        let guest = Guest::new(surroundings, Bytes::new(), Stdout::Log);
        let mut store = store::new(program.module().engine(), guest);
        match Self::initialise(program, &mut store).await {
            Ok((memory, reserve, invoke, buffer)) => Ok(Self {
                store,
                memory,
                reserve,
                invoke,
                buffer,
            }),
            Err(error) => Err((error, store.data().limits.refused())),
        }
    }

    async fn initialise(
        program: &InstancePre<Guest>,
        store: &mut Store<Guest>,
    ) -> Result<(Memory, TypedFunc<u32, u32>, TypedFunc<u32, u64>, (u32, u32))> {
        let instance = program.instantiate_async(&mut *store).await?;
        let memory = instance.get_memory(&mut *store, "memory");
        let memory = memory.ok_or(ProtocolViolation("the module exports no memory"))?;
        store.data_mut().memory = Some(memory);
        for name in ["_initialize", SDK_INIT] {
            if instance.get_func(&mut *store, name).is_some() {
                let init = instance.get_typed_func::<(), ()>(&mut *store, name)?;
                init.call_async(&mut *store, ()).await?;
            }
        }
        let reserve = instance.get_typed_func::<u32, u32>(&mut *store, SDK_RESERVE)?;
        let invoke = instance.get_typed_func::<u32, u64>(&mut *store, SDK_INVOKE)?;
        let address = reserve.call_async(&mut *store, BUFFER_BYTES).await?;
        Ok((memory, reserve, invoke, (address, BUFFER_BYTES)))
    }

    async fn serve(&mut self, invocation: &Invocation) -> Result<Answer> {
        store::rearm(&mut self.store);
        let context = invocation.client_context.as_deref();
        let trace = invocation.trace_id.as_deref();
        let texts = [
            &invocation.payload,
            invocation.invoked_arn.as_bytes(),
            context.unwrap_or_default().as_bytes(),
            trace.unwrap_or_default().as_bytes(),
        ];
        let bytes = HEAD_BYTES + texts.iter().map(|text| text.len()).sum::<usize>();
        let bytes = length(bytes)?;
        if bytes > self.buffer.1 {
            let address = self.reserve.call_async(&mut self.store, bytes).await?;
            self.buffer = (address, bytes);
        }
        let start = self.buffer.0 as usize;
        let memory = self.memory.data_mut(&mut self.store);
        let buffer = start
            .checked_add(bytes as usize)
            .and_then(|end| memory.get_mut(start..end))
            .ok_or(ProtocolViolation("the request buffer lies outside the guest's memory"))?;
        let lengths = [
            length(texts[0].len())?,
            length(texts[1].len())?,
            context.map_or(Ok(ABSENT), |text| length(text.len()))?,
            trace.map_or(Ok(ABSENT), |text| length(text.len()))?,
        ];
        write_request(buffer, invocation, &lengths, &texts);
        let packed = self.invoke.call_async(&mut self.store, bytes).await?;
        self.read_answer(packed)
    }

    fn read_answer(&self, packed: u64) -> Result<Answer> {
        let (address, low) = ((packed >> 32) as usize, packed as u32);
        let bytes = (low & !ERROR_BIT) as usize;
        if bytes > SYNC_PAYLOAD_BYTES_MAX {
            return Ok(Answer::TooLarge(bytes as u64));
        }
        let memory = self.memory.data(&self.store);
        let answer = address.checked_add(bytes).and_then(|end| memory.get(address..end));
        let answer = answer.ok_or(ProtocolViolation("the answer lies outside the guest's memory"))?;
        let answer = Bytes::copy_from_slice(answer);
        Ok(if low & ERROR_BIT == 0 {
            Answer::Success(answer)
        } else {
            Answer::Error(answer)
        })
    }
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| ProtocolViolation("the request is larger than a guest's memory").into())
}

fn write_request(buffer: &mut [u8], invocation: &Invocation, lengths: &[u32; 4], texts: &[&[u8]; 4]) {
    let (head, mut rest) = buffer.split_at_mut(HEAD_BYTES);
    for (index, length) in lengths.iter().enumerate() {
        head[4 * index..4 * index + 4].copy_from_slice(&length.to_le_bytes());
    }
    head[16..24].copy_from_slice(&invocation.deadline.wall.as_millis().to_le_bytes());
    head[24..60].copy_from_slice(invocation.request_id.as_str().as_bytes());
    head[60..].fill(0);
    for text in texts {
        let (part, after) = rest.split_at_mut(text.len());
        part.copy_from_slice(text);
        rest = after;
    }
}

impl Answer {
    /// The answer of a guest that may have written to `outlet` before.
    fn after(self, outlet: Outlet) -> Self {
        match (self, outlet) {
            (Self::Success(_), outlet) if outlet.has_begun() => match outlet {
                Outlet::Whole(Some(written)) => written.finish().map_or_else(Self::TooLarge, Self::Success),
                _ => Self::Success(Bytes::new()),
            },
            (answer, _) => answer,
        }
    }

    fn into_outcome(self) -> Outcome {
        match self {
            Self::Success(answer) => Outcome::Success(answer),
            Self::Error(payload) => Outcome::Failed(handler_error(payload)),
            Self::TooLarge(bytes) => Outcome::Failed(FunctionError::response_too_large(bytes, SYNC_PAYLOAD_BYTES_MAX)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorHead {
    error_type: String,
}

/// The error a guest handed over; one that is no JSON object with a type is wrapped.
fn handler_error(payload: Bytes) -> FunctionError {
    match serde_json::from_slice::<ErrorHead>(&payload) {
        Ok(ErrorHead { error_type }) => FunctionError { error_type, payload },
        Err(_) => FunctionError::new("Runtime.UnknownReason", &String::from_utf8_lossy(&payload)),
    }
}

/// An import of the SDK: ends the guest with the error at `address`.
pub(crate) fn fail(mut caller: Caller<'_, Guest>, address: u32, bytes: u32) -> Result<()> {
    let memory = caller.data().memory;
    let memory = memory.ok_or(ProtocolViolation("the guest failed before it was set up"))?;
    let start = address as usize;
    let end = start.checked_add(bytes as usize);
    let payload = end.and_then(|end| memory.data(&mut caller).get(start..end));
    let payload = payload.ok_or(ProtocolViolation("the error lies outside the guest's memory"))?;
    let payload = &payload[..payload.len().min(SYNC_PAYLOAD_BYTES_MAX)];
    Err(GuestFailure(handler_error(Bytes::copy_from_slice(payload))).into())
}
