//! From JSON text to a pattern.

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{
    ALTERNATIVES_MAX, Bound, Condition, DEPTH_MAX, InvalidPattern, Node, PATTERN_CHARS_MAX, Test, ValueTest, glob,
};

pub(super) fn pattern(text: &str) -> Result<Node, InvalidPattern> {
    let chars = text.chars().count();
    if chars > PATTERN_CHARS_MAX {
        return Err(InvalidPattern::TooLong(chars));
    }
    let Ok(Value::Object(object)) = serde_json::from_str(text) else {
        return Err(InvalidPattern::NotAnObject);
    };
    let node = node(&object, 1)?;
    if alternatives(&node) > ALTERNATIVES_MAX {
        return Err(InvalidPattern::TooManyAlternatives);
    }
    Ok(node)
}

fn node(object: &Map<String, Value>, depth: usize) -> Result<Node, InvalidPattern> {
    if depth > DEPTH_MAX {
        return Err(InvalidPattern::TooDeep);
    }
    let mut node = Node::default();
    for (key, value) in object {
        match value {
            Value::Array(items) if key == "$or" && is_group(items) => node.groups.push(group(items, depth)?),
            Value::Object(inner) if !inner.is_empty() => {
                let inner = self::node(inner, depth + 1)?;
                node.fields.push((key.clone(), Condition::Object(inner)));
            }
            Value::Array(items) if !items.is_empty() => {
                let tests = items.iter().map(test).collect::<Result<_, _>>()?;
                node.fields.push((key.clone(), Condition::Leaf(tests)));
            }
            _ => return Err(InvalidPattern::NotALeaf(key.clone())),
        }
    }
    Ok(node)
}

/// `$or` is an ordinary key unless it holds at least two objects, none of which is a comparison.
fn is_group(items: &[Value]) -> bool {
    let is_pattern = |item: &Value| {
        let object = item.as_object();
        object.is_some_and(|object| object.values().all(|value| value.is_array() || value.is_object()))
    };
    items.len() >= 2 && items.iter().all(is_pattern)
}

fn group(items: &[Value], depth: usize) -> Result<Vec<Node>, InvalidPattern> {
    let objects = items.iter().filter_map(Value::as_object);
    objects.map(|object| node(object, depth + 1)).collect()
}

/// How many patterns without `$or` stand for this one.
fn alternatives(node: &Node) -> usize {
    let inner = node.fields.iter().filter_map(|(_, condition)| match condition {
        Condition::Object(inner) => Some(alternatives(inner)),
        Condition::Leaf(_) => None,
    });
    let groups = node
        .groups
        .iter()
        .map(|group| group.iter().map(alternatives).fold(0, usize::saturating_add));
    inner.chain(groups).fold(1, usize::saturating_mul)
}

fn test(value: &Value) -> Result<Test, InvalidPattern> {
    let Value::Object(object) = value else {
        return scalar(value)
            .map(Test::Value)
            .ok_or_else(|| InvalidPattern::NotALeaf(value.to_string()));
    };
    let (operator, argument) = single(object)?;
    match operator {
        "exists" => match argument {
            Value::Bool(wanted) => Ok(Test::Exists(*wanted)),
            _ => Err(refused("exists", argument)),
        },
        "anything-but" => anything_but(argument),
        _ => comparison(operator, argument).map(Test::Value),
    }
}

fn single(object: &Map<String, Value>) -> Result<(&str, &Value), InvalidPattern> {
    let mut entries = object.iter();
    match (entries.next(), entries.next()) {
        (Some((operator, argument)), None) => Ok((operator, argument)),
        _ => Err(InvalidPattern::UnknownOperator(
            Value::Object(object.clone()).to_string(),
        )),
    }
}

fn scalar(value: &Value) -> Option<ValueTest> {
    match value {
        Value::Null => Some(ValueTest::Null),
        Value::Bool(value) => Some(ValueTest::Bool(*value)),
        Value::Number(number) => number.as_f64().map(ValueTest::Number),
        Value::String(text) => Some(ValueTest::Text(text.clone())),
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn anything_but(argument: &Value) -> Result<Test, InvalidPattern> {
    let tests = match argument {
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| excluded(item).ok_or_else(|| refused("anything-but", argument)))
            .collect::<Result<_, _>>()?,
        Value::Object(object) => {
            let (operator, argument) = single(object)?;
            let listed = match argument {
                Value::Array(items) if !items.is_empty() => items.iter().collect(),
                other => vec![other],
            };
            let known = matches!(operator, "prefix" | "suffix" | "equals-ignore-case" | "wildcard");
            if !known {
                return Err(InvalidPattern::UnknownOperator(operator.to_owned()));
            }
            listed
                .into_iter()
                .map(|item| comparison(operator, item))
                .collect::<Result<_, _>>()?
        }
        one => vec![excluded(one).ok_or_else(|| refused("anything-but", argument))?],
    };
    Ok(Test::Not(tests))
}

/// Texts and numbers can be excluded.
fn excluded(value: &Value) -> Option<ValueTest> {
    scalar(value).filter(|test| matches!(test, ValueTest::Text(_) | ValueTest::Number(_)))
}

fn comparison(operator: &str, argument: &Value) -> Result<ValueTest, InvalidPattern> {
    match operator {
        "prefix" => affix("prefix", argument, ValueTest::Prefix, ValueTest::PrefixAnyCase),
        "suffix" => affix("suffix", argument, ValueTest::Suffix, ValueTest::SuffixAnyCase),
        "equals-ignore-case" => match argument {
            Value::String(text) => Ok(ValueTest::TextAnyCase(text.to_lowercase())),
            _ => Err(refused("equals-ignore-case", argument)),
        },
        "wildcard" => {
            let parts = argument.as_str().and_then(glob::parse);
            parts
                .map(ValueTest::Wildcard)
                .ok_or_else(|| refused("wildcard", argument))
        }
        "numeric" => numeric(argument).ok_or_else(|| refused("numeric", argument)),
        "cidr" => network(argument).ok_or_else(|| refused("cidr", argument)),
        other => Err(InvalidPattern::UnknownOperator(other.to_owned())),
    }
}

fn affix(
    operator: &'static str,
    argument: &Value,
    exact: fn(String) -> ValueTest,
    any_case: fn(String) -> ValueTest,
) -> Result<ValueTest, InvalidPattern> {
    match argument {
        Value::String(text) => Ok(exact(text.clone())),
        Value::Object(object) => match single(object)? {
            ("equals-ignore-case", Value::String(text)) => Ok(any_case(text.to_lowercase())),
            _ => Err(refused(operator, argument)),
        },
        _ => Err(refused(operator, argument)),
    }
}

/// `[">", 0, "<=", 5]`: one bound, or a lower and an upper one.
fn numeric(argument: &Value) -> Option<ValueTest> {
    let items = argument.as_array()?;
    if !matches!(items.len(), 2 | 4) {
        return None;
    }
    let mut bounds = Vec::new();
    for pair in items.chunks(2) {
        let bound = match pair[0].as_str()? {
            "=" => Bound::Equal,
            "<" => Bound::Less,
            "<=" => Bound::LessOrEqual,
            ">" => Bound::Greater,
            ">=" => Bound::GreaterOrEqual,
            _ => return None,
        };
        bounds.push((bound, pair[1].as_f64()?));
    }
    let is_lower = |bound| matches!(bound, Bound::Greater | Bound::GreaterOrEqual);
    let is_upper = |bound| matches!(bound, Bound::Less | Bound::LessOrEqual);
    if let [(first, low), (second, high)] = bounds[..]
        && !(is_lower(first) && is_upper(second) && low < high)
    {
        return None;
    }
    Some(ValueTest::Numeric(bounds))
}

fn network(argument: &Value) -> Option<ValueTest> {
    let (address, bits) = argument.as_str()?.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let bits: u8 = bits.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    (bits <= width).then_some(ValueTest::Network { address, bits })
}

fn refused(operator: &'static str, argument: &Value) -> InvalidPattern {
    InvalidPattern::Argument {
        operator,
        argument: argument.to_string(),
    }
}
