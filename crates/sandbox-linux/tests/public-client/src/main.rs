//! A function over the public Rust runtime client, as its documentation shows: one that answers in one
//! piece, or streams if the variable `STREAM` is set.

use lambda_runtime::streaming::{Body, Response, channel};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

async fn answer(event: LambdaEvent<Value>) -> Result<Value, Error> {
    if let Some(message) = event.payload["fail"].as_str() {
        return Err(message.into());
    }
    Ok(json!({
        "event": event.payload,
        "id": event.context.request_id,
        "arn": event.context.invoked_function_arn,
        "name": event.context.env_config.function_name,
    }))
}

async fn stream(event: LambdaEvent<Value>) -> Result<Response<Body>, Error> {
    let (mut sender, body) = channel();
    let pieces = event.payload["pieces"].as_u64().unwrap_or(1);
    let bytes = event.payload["bytes"].as_u64().unwrap_or(1) as usize;
    tokio::spawn(async move {
        for _ in 0..pieces {
            if sender.send_data("x".repeat(bytes).into()).await.is_err() {
                return;
            }
        }
    });
    Ok(Response::from(body))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if std::env::var_os("STREAM").is_some() {
        lambda_runtime::run(service_fn(stream)).await
    } else {
        lambda_runtime::run(service_fn(answer)).await
    }
}
