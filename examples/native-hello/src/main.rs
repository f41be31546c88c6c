//! Greets by name and counts, as a native program.
//!
//! The public `lambda_runtime` crate works as well; this one shows how little a bootstrap needs.

mod runtime;

use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Greet {
    #[serde(default = "world")]
    name: String,
}

fn world() -> String {
    "world".to_owned()
}

#[derive(Serialize)]
struct Greeting {
    message: String,
    served: u64,
}

fn main() -> std::io::Result<()> {
    let mut served = 0;
    runtime::serve(|event| {
        let Greet { name } = serde_json::from_slice(event)?;
        served += 1;
        let message = format!("hello, {name}");
        serde_json::to_vec(&Greeting { message, served })
    })
}
