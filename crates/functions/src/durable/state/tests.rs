//! The state machine: what checkpoints may say, and random lives of executions against a model.

mod lives;
mod rules;

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::update::{CheckpointBody, OperationUpdate};
use super::*;
use crate::durable::id::CheckpointToken;

const NODE: Node = Node { number: 1, lease: None };
const DELAYS: Delays = Delays {
    retry: Duration::from_secs(5),
    backoff_first: Duration::from_secs(1),
    backoff_longest: Duration::from_secs(8),
};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000 + seconds * 1_000_000)
}

fn beginning(origin: Origin) -> Beginning {
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f:3/durable-execution/order-7/\
               019ddf3a-5e50-7123-8000-0000000000aa";
    Beginning {
        arn: arn.parse().unwrap(),
        origin,
        config: DurableConfig {
            execution_timeout_seconds: 600,
            retention_days: 14,
        },
        trace_id: None,
        input: "{}".to_owned(),
        secret: 7,
        parent: None,
        is_plain: false,
    }
}

/// Knows one ordinary function, `plain`.
struct OnePlain;

impl Chains for OnePlain {
    fn resolve(&self, function: &str, _: Option<&str>) -> Result<Resolved, Unresolved> {
        match function {
            "plain" => Ok(Resolved {
                child: "000000000000/plain/019ddf3a-5e50-7123-8000-0000000000bb"
                    .parse()
                    .unwrap(),
                version: "$LATEST".to_owned(),
                is_plain: true,
                arn: None,
            }),
            "bad name" => Err(Unresolved::Malformed("Invalid function ARN 'bad name'".to_owned())),
            _ => Err(Unresolved::Missing(ErrorObject::new("ResourceNotFoundException", "no"))),
        }
    }
}

/// Updates as the wire has them.
fn updates(json: serde_json::Value) -> Vec<OperationUpdate> {
    let body: CheckpointBody = serde_json::from_value(serde_json::json!({ "Updates": json })).unwrap();
    let members = body.updates.unwrap().into_iter().enumerate();
    members
        .map(|(number, update)| update.read(number + 1).unwrap())
        .collect()
}

/// An execution whose function runs, and the token of its first checkpoint.
fn running(origin: Origin) -> (Execution, CheckpointToken) {
    let mut execution = Execution::start(beginning(origin), at(0));
    let Step::Invoke(ticket) = execution.begin(NODE, 99, "request", at(0)) else {
        panic!("the function is wanted at once");
    };
    (execution, ticket.token)
}
