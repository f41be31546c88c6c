//! The predicate of a session: a CEL expression that is true for the events it wants.
//!
//! | variable | value |
//! | --- | --- |
//! | `body` | the JSON value if the body is JSON; else a string if it is UTF-8; else bytes |
//! | `key` | a string if it is UTF-8, else bytes; `null` without a key |
//! | `at` | the event's moment, in milliseconds since the Unix epoch |
//! | `id` | the event's identifier, 32 hexadecimal digits |
//!
//! Whole JSON numbers are `int` where they fit, so `body.count + 1` works; all others are `double`.
//!
//! Expressions come from strangers, and the evaluator knows no limit of time. So an expression is refused
//! at creation if its work could grow faster than its own size times the event's ([`cost`]), and the
//! product is bounded for each event before it is evaluated. There are no regular expressions, dates or
//! `map`. An event whose evaluation fails does not match, and is counted.

mod cost;
mod variables;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::parser::{Expression, PrattParser};
use cel::{Context, Env, Value};

use self::cost::Cost;
use self::variables::Variables;
use super::limits::{FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_NODES_MAX, FILTER_STEPS_MAX};
use crate::Event;

static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled filter.
#[derive(Debug)]
pub struct Filter {
    expression: Expression,
    cost: Cost,
}

/// An expression that cannot be a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    #[error("filter has `{0}` bytes, at most `{FILTER_BYTES_MAX}` are allowed")]
    TooLong(usize),
    #[error("filter is no CEL expression: {0}")]
    Syntax(String),
    #[error("filter has `{0}` nodes once its macros are expanded, at most `{FILTER_NODES_MAX}` are allowed")]
    TooComplex(usize),
    #[error("filter uses `{0}`; it may use `body`, `key`, `at` and `id`")]
    UnknownName(String),
    #[error("filter calls `{0}`, which is not available")]
    UnknownFunction(String),
    #[error("filter uses {0}, whose work has no bound")]
    Unbounded(&'static str),
}

/// What a filter says of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub verdict: Match,
    /// What it took, reckoned.
    pub steps: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    Yes,
    No,
    /// It could not be evaluated, gave something other than true or false, or would take too long.
    Error,
}

impl Filter {
    pub fn compile(text: &str) -> Result<Self, InvalidFilter> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(InvalidFilter::TooLong(text.len()));
        }
        let parser = PrattParser::new()
            .max_recursion_depth(FILTER_DEPTH_MAX)
            .error_reporting_limit(3);
        let expression = parser
            .parse(text)
            .map_err(|errors| InvalidFilter::Syntax(errors.to_string()))?;
        let cost = Cost::of(&expression)?;
        Ok(Self { expression, cost })
    }

    pub(super) fn judge(&self, event: &Event) -> Judgement {
        let Some(variables) = Variables::of(event) else {
            let (verdict, steps) = (Match::Error, 1);
            return Judgement { verdict, steps };
        };
        let (weight, steps) = (variables.weight, self.cost.steps(variables.weight));
        if steps > FILTER_STEPS_MAX {
            // Only reading it has cost anything.
            let (verdict, steps) = (Match::Error, weight);
            return Judgement { verdict, steps };
        }
        let verdict = self.evaluate(variables);
        Judgement { verdict, steps }
    }

    fn evaluate(&self, variables: Variables) -> Match {
        let mut context = Context::with_env(Arc::clone(&ENV));
        context.add_variable_from_value("body", variables.body);
        context.add_variable_from_value("key", variables.key);
        context.add_variable_from_value("at", variables.at);
        context.add_variable_from_value("id", variables.id);
        // The evaluator is not ours: what it trips over must not take the session's other readers with it.
        let resolved = catch_unwind(AssertUnwindSafe(|| Value::resolve(&self.expression, &context)));
        match resolved {
            Ok(Ok(Value::Bool(true))) => Match::Yes,
            Ok(Ok(Value::Bool(false))) => Match::No,
            Ok(Ok(_) | Err(_)) | Err(_) => Match::Error,
        }
    }
}

#[cfg(test)]
mod tests;
