//! Extensions over the public Rust clients. As its file's name says, an external one that follows events and
//! hears telemetry or logs, or a function (`bootstrap`) that shuts down gracefully by an internal one. Prints
//! a line for all that comes.

use std::path::Path;

use lambda_extension::{
    Error, Extension, LambdaEvent, LambdaLog, LambdaTelemetry, LogBuffering, NextEvent, SharedService, service_fn,
};
use serde_json::Value;

const SOON: LogBuffering = LogBuffering {
    timeout_ms: 25,
    max_bytes: 262_144,
    max_items: 1_000,
};

async fn follow(event: LambdaEvent) -> Result<(), Error> {
    match event.next {
        NextEvent::Invoke(invoke) => println!("public invoke {} {}", invoke.request_id, invoke.tracing.value),
        NextEvent::Shutdown(shutdown) => {
            println!("public shutdown {}", shutdown.shutdown_reason);
            std::process::exit(0);
        }
    }
    Ok(())
}

async fn hear_telemetry(records: Vec<LambdaTelemetry>) -> Result<(), Error> {
    for record in records {
        println!("public telemetry {}", serde_json::to_string(&record.record)?);
    }
    Ok(())
}

async fn hear_logs(records: Vec<LambdaLog>) -> Result<(), Error> {
    for record in records {
        println!("public log {:?}", record.record);
    }
    Ok(())
}

async fn answer(event: lambda_runtime::LambdaEvent<Value>) -> Result<Value, Error> {
    Ok(event.payload)
}

/// Runs a function that is told by SIGTERM that its sandbox ends: only one with an extension is.
async fn serve() -> Result<(), Error> {
    lambda_runtime::spawn_graceful_shutdown_handler(|| async { println!("public goodbye") }).await;
    lambda_runtime::run(service_fn(answer)).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let program = std::env::args().next().unwrap_or_default();
    if Path::new(&program).ends_with("bootstrap") {
        return serve().await;
    }
    let extension = Extension::new().with_events_processor(service_fn(follow));
    if Path::new(&program).ends_with("logs") {
        let logs = extension.with_logs_processor(SharedService::new(service_fn(hear_logs)));
        let registered = logs.with_log_buffering(SOON).register().await?;
        registered.run().await
    } else {
        let telemetry = extension.with_telemetry_processor(SharedService::new(service_fn(hear_telemetry)));
        let registered = telemetry.with_telemetry_buffering(SOON).register().await?;
        println!("public account {}", registered.account_id.as_deref().unwrap_or("unknown"));
        registered.run().await
    }
}
