//! An event as an expression sees it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cel::Value;
use cel::objects::{Key, Map};
use serde_json::Value as Json;

use crate::Event;
use crate::session::limits::FILTER_BODY_BYTES_MAX;

/// Bytes of text whose comparison counts as one step.
const BYTES_PER_STEP: u64 = 64;

pub(super) struct Variables {
    pub body: Value,
    pub key: Value,
    pub at: Value,
    pub id: Value,
    /// The number of values in the body, each with its text's share: what going over all of it takes.
    pub weight: u64,
}

impl Variables {
    /// None if the body is too large to be looked at.
    pub fn of(event: &Event) -> Option<Self> {
        if event.body.len() > FILTER_BODY_BYTES_MAX {
            return None;
        }
        let (body, values) = body(&event.body);
        let [body_text, key_text] = [event.body.len(), event.key.as_ref().map_or(0, Bytes::len)];
        let share = |text: usize| text as u64 / BYTES_PER_STEP;
        Some(Self {
            body,
            key: event.key.as_ref().map_or(Value::Null, text_or_bytes),
            at: Value::Int(i64::try_from(event.position.stamp.moment().as_millis()).unwrap_or(i64::MAX)),
            id: string(event.id.0.iter().map(|byte| format!("{byte:02x}")).collect()),
            // A macro may walk over the key in each round.
            weight: (values + share(body_text)) * (1 + share(key_text)),
        })
    }
}

fn body(bytes: &Bytes) -> (Value, u64) {
    match serde_json::from_slice(bytes) {
        Ok(json) => {
            let mut values = 0;
            (from_json(json, &mut values), values)
        }
        Err(_) => (text_or_bytes(bytes), 1),
    }
}

/// The parser of JSON has bounded the depth.
fn from_json(json: Json, values: &mut u64) -> Value {
    *values += 1;
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => string(text),
        Json::Array(items) => Value::List(Arc::new(
            items.into_iter().map(|item| from_json(item, values)).collect(),
        )),
        Json::Object(fields) => {
            let fields = fields.into_iter();
            let map: HashMap<Key, Value> = fields
                .map(|(name, value)| (Key::String(Arc::new(name)), from_json(value, values)))
                .collect();
            Value::Map(Map { map: Arc::new(map) })
        }
    }
}

fn text_or_bytes(bytes: &Bytes) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => string(text.to_owned()),
        Err(_) => Value::Bytes(Arc::new(bytes.to_vec())),
    }
}

fn string(text: String) -> Value {
    Value::String(Arc::new(text))
}
