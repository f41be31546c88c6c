//! Greets by name and counts: the instance stays warm between invocations.

use std::sync::atomic::{AtomicU64, Ordering};

use bowline_guest::{Error, Event, handler};
use serde::{Deserialize, Serialize};

static SERVED: AtomicU64 = AtomicU64::new(0);

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

fn hello(event: Event<'_>) -> Result<Greeting, Error> {
    let Greet { name } = event.json()?;
    if name.is_empty() {
        return Err(Error::new("NobodyThere", "`name` is empty"));
    }
    let served = SERVED.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(Greeting {
        message: format!("hello, {name}"),
        served,
    })
}

handler!(hello);
