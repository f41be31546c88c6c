//! Wildcards: `*` stands for any characters, `\*` and `\\` for themselves.

/// A piece of a wildcard pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Any,
    Text(String),
}

/// Reads a pattern; none if two stars follow each other or an escape stands before anything else.
pub(super) fn parse(text: &str) -> Option<Vec<Part>> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' => {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                } else if parts.last() == Some(&Part::Any) {
                    return None;
                }
                parts.push(Part::Any);
            }
            '\\' => match chars.next() {
                Some(escaped @ ('*' | '\\')) => literal.push(escaped),
                _ => return None,
            },
            other => literal.push(other),
        }
    }
    if !literal.is_empty() || parts.is_empty() {
        parts.push(Part::Text(literal));
    }
    Some(parts)
}

/// Whether a text fits: each piece is taken at its first place, which is enough as only the last piece
/// is bound to the end.
pub(super) fn matches(parts: &[Part], text: &str) -> bool {
    let mut rest = text;
    let mut free = false;
    for (at, part) in parts.iter().enumerate() {
        let Part::Text(literal) = part else {
            free = true;
            continue;
        };
        let last = at + 1 == parts.len();
        rest = match (free, last) {
            (true, true) => return rest.ends_with(literal.as_str()),
            (true, false) => match rest.find(literal.as_str()) {
                Some(found) => &rest[found + literal.len()..],
                None => return false,
            },
            (false, _) => match rest.strip_prefix(literal.as_str()) {
                Some(rest) => rest,
                None => return false,
            },
        };
        free = false;
    }
    free || rest.is_empty()
}
