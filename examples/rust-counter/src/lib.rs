//! Counts in shared state: each run goes on from the one before, in whichever sandbox that was.

use bowline_guest::{Error, Event, handler};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
enum Wish {
    Count,
    Put { key: String, bytes: usize },
    Delete { key: String },
    Keys,
}

#[derive(Deserialize)]
struct Request {
    state: String,
    /// Whether it first waits for the right to write.
    #[serde(default)]
    lease: bool,
    #[serde(flatten)]
    wish: Wish,
}

#[derive(Default, Serialize)]
struct Told {
    n: Option<u64>,
    version: Option<u64>,
    deleted: Option<bool>,
    keys: Option<Vec<String>>,
}

fn serve(event: Event<'_>) -> Result<Told, Error> {
    let Request { state, lease, wish } = event.json()?;
    let state = event.state(&state);
    let _lease = if lease { Some(state.lease()?) } else { None };
    let mut told = Told::default();
    match wish {
        Wish::Count => {
            let before: u64 = match state.get("n")? {
                Some(entry) => entry.json()?,
                None => 0,
            };
            told.version = Some(state.put("n", before + 1)?);
            told.n = Some(before + 1);
        }
        Wish::Put { key, bytes } => told.version = Some(state.put(&key, "x".repeat(bytes))?),
        Wish::Delete { key } => told.deleted = Some(state.delete(&key)?),
        Wish::Keys => told.keys = Some(state.keys()?),
    }
    Ok(told)
}

handler!(serve);
