//! Event patterns: which events a filter lets through, in the language of Amazon EventBridge.
//!
//! A pattern is a JSON object of the event's shape. A list is a leaf: one of its members must fit the
//! event's value there. All keys of an object must fit; `$or` is a list of objects of which one must.
//!
//! ```text
//! {"data": {"state": ["open", {"prefix": "re"}], "$or": [{"size": [{"numeric": [">", 10]}]}, {"urgent": [true]}]}}
//! ```
//! Nothing here does input or output: a pattern is parsed once and asked often.

mod glob;
mod parse;

use std::net::IpAddr;

use serde_json::{Map, Value};

/// Longest pattern, in characters.
pub const PATTERN_CHARS_MAX: usize = 4096;
/// Deepest nesting of a pattern.
pub const DEPTH_MAX: usize = 32;
/// Most combinations of a pattern's `$or` alternatives.
pub const ALTERNATIVES_MAX: usize = 1000;

/// A parsed pattern.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(Node);

/// Text that is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    #[error("pattern has `{0}` characters, at most `{PATTERN_CHARS_MAX}`")]
    TooLong(usize),
    #[error("pattern is not a JSON object")]
    NotAnObject,
    #[error("pattern is nested deeper than `{DEPTH_MAX}`")]
    TooDeep,
    #[error("pattern has more than `{ALTERNATIVES_MAX}` alternatives")]
    TooManyAlternatives,
    #[error("`{0}` must be an object or a list of at least one value")]
    NotALeaf(String),
    #[error("`{0}` is no comparison")]
    UnknownOperator(String),
    #[error("`{operator}` does not take `{argument}`")]
    Argument { operator: &'static str, argument: String },
}

/// All of an object's conditions.
#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    fields: Vec<(String, Condition)>,
    /// Of each group one alternative must fit.
    groups: Vec<Vec<Node>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Object(Node),
    Leaf(Vec<Test>),
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    Exists(bool),
    Value(ValueTest),
    Not(Vec<ValueTest>),
}

#[derive(Clone, Debug, PartialEq)]
enum ValueTest {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// Lower-cased.
    TextAnyCase(String),
    Prefix(String),
    PrefixAnyCase(String),
    Suffix(String),
    SuffixAnyCase(String),
    Wildcard(Vec<glob::Part>),
    /// All of these bounds.
    Numeric(Vec<(Bound, f64)>),
    Network {
        address: IpAddr,
        bits: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Pattern {
    /// Reads a pattern.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        parse::pattern(text).map(Self)
    }

    /// Whether an event fits.
    pub fn matches(&self, event: &Value) -> bool {
        event.as_object().is_some_and(|event| self.0.matches(event))
    }

    /// Whether a record fits whose content lies at this key. Content that is a text, or no JSON, does not fit what looks
    /// into it, not even what asks for something that is not there.
    pub fn matches_record(&self, record: &Value, content: &str) -> bool {
        let record = record.as_object();
        record.is_some_and(|record| self.0.matches_record(record, content))
    }

    /// The keys that the pattern looks at first, alternatives included.
    pub fn keys(&self) -> Vec<&str> {
        self.0.keys()
    }
}

/// Whether the event, as JSON text, fits the pattern; `None` if it is not JSON. For fuzzing and tools.
pub fn check(pattern: &str, event: &[u8]) -> Result<Option<bool>, InvalidPattern> {
    let pattern = Pattern::parse(pattern)?;
    let event = serde_json::from_slice::<Value>(event).ok();
    Ok(event.map(|event| pattern.matches(&event)))
}

impl Node {
    fn matches(&self, object: &Map<String, Value>) -> bool {
        let fields = self
            .fields
            .iter()
            .all(|(key, condition)| condition.matches(object.get(key)));
        let fits = |group: &Vec<Self>| group.iter().any(|node| node.matches(object));
        fields && self.groups.iter().all(fits)
    }

    fn matches_record(&self, record: &Map<String, Value>, content: &str) -> bool {
        let is_seen_into = matches!(record.get(content), Some(Value::Object(_) | Value::Array(_)));
        let fields = self.fields.iter().all(|(key, condition)| {
            let is_blind = !is_seen_into && key == content && matches!(condition, Condition::Object(_));
            !is_blind && condition.matches(record.get(key))
        });
        let fits = |group: &Vec<Self>| group.iter().any(|node| node.matches_record(record, content));
        fields && self.groups.iter().all(fits)
    }

    fn keys(&self) -> Vec<&str> {
        let own = self.fields.iter().map(|(key, _)| key.as_str());
        own.chain(self.groups.iter().flatten().flat_map(Self::keys)).collect()
    }
}

impl Condition {
    fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Object(node), Some(Value::Object(object))) => node.matches(object),
            // Of a list of objects one must fit as a whole.
            (Self::Object(node), Some(Value::Array(items))) => items
                .iter()
                .filter_map(Value::as_object)
                .any(|object| node.matches(object)),
            // What is not there has no part either, which `exists: false` may ask for.
            (Self::Object(node), _) => node.matches(&Map::new()),
            (Self::Leaf(tests), value) => tests.iter().any(|test| test.matches(value)),
        }
    }
}

impl Test {
    fn matches(&self, value: Option<&Value>) -> bool {
        let values = leaves(value);
        match self {
            Self::Exists(wanted) => *wanted != values.is_empty(),
            Self::Value(test) => values.iter().any(|value| test.matches(value)),
            Self::Not(tests) => values.iter().any(|value| !tests.iter().any(|test| test.matches(value))),
        }
    }
}

/// The values at a place that is neither an object nor missing; those of a list are all of them.
fn leaves(value: Option<&Value>) -> Vec<&Value> {
    match value {
        None | Some(Value::Object(_)) => Vec::new(),
        Some(Value::Array(items)) => items.iter().flat_map(|item| leaves(Some(item))).collect(),
        Some(scalar) => vec![scalar],
    }
}

impl ValueTest {
    fn matches(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Null, Value::Null) => true,
            (Self::Bool(wanted), Value::Bool(actual)) => wanted == actual,
            (Self::Number(wanted), Value::Number(actual)) => actual.as_f64() == Some(*wanted),
            (Self::Numeric(bounds), Value::Number(actual)) => actual
                .as_f64()
                .is_some_and(|actual| bounds.iter().all(|(bound, limit)| bound.holds(actual, *limit))),
            (test, Value::String(actual)) => test.matches_text(actual),
            _ => false,
        }
    }

    fn matches_text(&self, actual: &str) -> bool {
        match self {
            Self::Text(wanted) => wanted == actual,
            Self::TextAnyCase(wanted) => *wanted == actual.to_lowercase(),
            Self::Prefix(prefix) => actual.starts_with(prefix),
            Self::PrefixAnyCase(prefix) => actual.to_lowercase().starts_with(prefix),
            Self::Suffix(suffix) => actual.ends_with(suffix),
            Self::SuffixAnyCase(suffix) => actual.to_lowercase().ends_with(suffix),
            Self::Wildcard(parts) => glob::matches(parts, actual),
            Self::Network { address, bits } => actual
                .parse()
                .is_ok_and(|actual: IpAddr| within(*address, *bits, actual)),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Numeric(_) => false,
        }
    }
}

impl Bound {
    fn holds(self, actual: f64, limit: f64) -> bool {
        match self {
            Self::Equal => actual == limit,
            Self::Less => actual < limit,
            Self::LessOrEqual => actual <= limit,
            Self::Greater => actual > limit,
            Self::GreaterOrEqual => actual >= limit,
        }
    }
}

/// Whether two addresses share their first bits.
fn within(network: IpAddr, bits: u8, actual: IpAddr) -> bool {
    let shared = |a: u128, b: u128, width: u32| {
        let kept = u32::from(bits).min(width);
        kept == 0 || (a ^ b) >> (width - kept) == 0
    };
    match (network, actual) {
        (IpAddr::V4(a), IpAddr::V4(b)) => shared(a.to_bits().into(), b.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => shared(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
