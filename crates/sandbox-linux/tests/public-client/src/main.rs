//! A function over the public Rust runtime client, as its documentation shows.

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

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(answer)).await
}
