//! Commands: each invocation has an instance of its own, with the event on standard input.
//!
//! What a handler would learn from its context stands in the environment: `BOWLINE_REQUEST_ID`,
//! `BOWLINE_DEADLINE_MS`, `BOWLINE_INVOKED_ARN`, and where given `BOWLINE_CLIENT_CONTEXT` and
//! `_X_AMZN_TRACE_ID`.

use std::sync::Arc;

use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::{FunctionError, Invocation, Outcome};
use bytes::Bytes;
use wasmtime::{Extern, ExternType, InstancePre, Module, ModuleExport, Store};

use crate::accept::COMMAND_EXPORT;
use crate::failure::{ProtocolViolation, Scene};
use crate::guest::{Answer, EnvironmentBlock, Guest, Stdout, Surroundings};
use crate::outlet::Outlet;
use crate::preview1::Exit;
use crate::store;

/// A linked command, with its exports found in advance.
#[derive(Clone)]
pub(crate) struct CommandProgram {
    instance: InstancePre<Guest>,
    /// The same with an output that can wait for its reader.
    streaming: InstancePre<Guest>,
    start: ModuleExport,
    memory: ModuleExport,
}

impl CommandProgram {
    /// Fails if the module is no command after all.
    pub(crate) fn new(instance: InstancePre<Guest>, streaming: InstancePre<Guest>) -> wasmtime::Result<Self> {
        let module = instance.module();
        let start = module.get_export_index(COMMAND_EXPORT);
        let start = start.ok_or(ProtocolViolation("the module exports no `_start`"))?;
        let takes_nothing = module.get_export(COMMAND_EXPORT).is_some_and(|export| match export {
            ExternType::Func(function) => function.params().len() == 0 && function.results().len() == 0,
            _ => false,
        });
        if !takes_nothing {
            return Err(ProtocolViolation("`_start` takes parameters or gives results").into());
        }
        let memory = module.get_export_index("memory");
        let memory = memory.ok_or(ProtocolViolation("the module exports no memory"))?;
        Ok(Self {
            instance,
            streaming,
            start,
            memory,
        })
    }

    /// The module.
    pub(crate) fn module(&self) -> &Module {
        self.instance.module()
    }
}

/// Runs one invocation in an instance of its own.
pub(crate) async fn run(
    program: &CommandProgram,
    surroundings: Arc<Surroundings>,
    mut invocation: Invocation,
) -> Outcome {
    let memory = surroundings.memory;
    let sink = invocation.sink.take();
    let (instance, stdout) = match sink {
        None => (&program.instance, Stdout::Answer(Answer::default())),
        Some(_) => (&program.streaming, Stdout::Outlet),
    };
    let mut guest = Guest::new(surroundings, invocation.payload.clone(), stdout);
    guest.outlet = Outlet::from(sink);
    guest.call_environment = Some(call_environment(&invocation));
    let mut store = store::new(program.module().engine(), guest);
    match call(program, instance, &mut store).await {
        Ok(()) => finish(store.into_data()),
        Err(error) => match error.downcast_ref::<Exit>() {
            Some(Exit(0)) => finish(store.into_data()),
            _ => {
                let scene = Scene {
                    request_id: invocation.request_id,
                    memory,
                    memory_refused: store.data().limits.refused(),
                };
                scene.outcome(error)
            }
        },
    }
}

async fn call(
    program: &CommandProgram,
    instance: &InstancePre<Guest>,
    store: &mut Store<Guest>,
) -> wasmtime::Result<()> {
    let instance = instance.instantiate_async(&mut *store).await?;
    let memory = instance.get_module_export(&mut *store, &program.memory);
    store.data_mut().memory = memory.and_then(Extern::into_memory);
    let start = instance.get_module_export(&mut *store, &program.start);
    let start = start.and_then(Extern::into_func);
    let start = start.ok_or(ProtocolViolation("the module exports no `_start`"))?;
    // Not as a typed function: checking its type each time takes a lock that all threads share.
    start.call_async(&mut *store, &[], &mut []).await
}

fn finish(guest: Guest) -> Outcome {
    let answer = match guest.stdout {
        Stdout::Answer(answer) => answer.finish(),
        Stdout::Log | Stdout::Outlet => Ok(Bytes::new()),
    };
    match answer {
        Ok(answer) => Outcome::Success(answer),
        Err(bytes) => Outcome::Failed(FunctionError::response_too_large(bytes, SYNC_PAYLOAD_BYTES_MAX)),
    }
}

fn call_environment(invocation: &Invocation) -> EnvironmentBlock {
    let variables = call_variables(invocation);
    EnvironmentBlock::of(variables.iter().map(|(name, value)| (*name, value.as_str())))
}

/// What an invocation adds to the environment.
pub(crate) fn call_variables(invocation: &Invocation) -> Vec<(&'static str, String)> {
    let optional = [
        ("BOWLINE_CLIENT_CONTEXT", invocation.client_context.clone()),
        ("_X_AMZN_TRACE_ID", invocation.trace_id.clone()),
    ];
    let always = [
        ("BOWLINE_REQUEST_ID", invocation.request_id.to_string()),
        ("BOWLINE_DEADLINE_MS", invocation.deadline.wall.as_millis().to_string()),
        ("BOWLINE_INVOKED_ARN", invocation.invoked_arn.clone()),
    ];
    let optional = optional
        .into_iter()
        .filter_map(|(name, value)| value.map(|value| (name, value)));
    always.into_iter().chain(optional).collect()
}
