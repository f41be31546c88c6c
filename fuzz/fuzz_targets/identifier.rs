//! Positions and identifiers of streams, sessions, batches and objects: what is accepted is its own text.
#![no_main]

use std::fmt::Display;
use std::str::FromStr;

use bowline_api::data::append::event_id;
use bowline_store::objects::{ObjectId, StoreName};
use bowline_stream::session::{BatchToken, SessionId};
use bowline_stream::{Position, StreamId};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    check::<StreamId>(text);
    check::<SessionId>(text);
    check::<ObjectId>(text);
    check::<StoreName>(text);
    check::<Position>(text);
    check::<BatchToken>(text);
    if let Ok(id) = event_id(text) {
        let shown: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(event_id(&shown), Ok(id));
    }
});

/// What was read is read again from what it shows, and shows the same.
fn check<T: FromStr + Display + PartialEq>(text: &str) {
    let Ok(read) = text.parse::<T>() else { return };
    let shown = read.to_string();
    assert!(shown.len() <= text.len(), "`{shown}` is longer than `{text}`");
    let Ok(again) = shown.parse::<T>() else {
        panic!("`{shown}` of `{text}` is refused");
    };
    assert!(again == read, "`{shown}` is another than `{text}`");
}
