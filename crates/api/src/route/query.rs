//! A query string, read where it lies.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The part of a request line after the question mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// `text` is what follows the question mark.
    pub fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The first value of `name`; a name without a value has the empty one.
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        if self.0.is_empty() { None } else { self.all(name).next() }
    }

    /// Every value of `name`, in order.
    pub fn all(self, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
        self.0.split('&').filter_map(move |pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name || decode(key) == name).then(|| decode(value))
        })
    }

    /// Every name with its value, in order.
    pub fn pairs(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
    }

    /// Whether the first value of `name` is `value`.
    pub fn is(self, name: &str, value: &str) -> bool {
        self.get(name).is_some_and(|found| found == value)
    }
}

/// Undoes the encoding of forms; bytes that are no UTF-8 become replacement characters, which no name
/// or number accepts.
fn decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, name: &str, expected: &[&str]) {
        let found: Vec<_> = Query::new(query).all(name).collect();
        assert_eq!(found, expected, "{query}");
    }

    #[test]
    fn values_are_found_by_name_and_decoded() {
        check("Qualifier=live", "Qualifier", &["live"]);
        check("a=1&Qualifier=%24LATEST&b", "Qualifier", &["$LATEST"]);
        check("tagKeys=a+b&tagKeys=c%2Bd&tag%4beys=e", "tagKeys", &["a b", "c+d", "e"]);
        check("b", "b", &[""]);
        check("", "", &[""]);
        check("xQualifier=1", "Qualifier", &[]);
        check("a=%ff", "a", &["\u{fffd}"]);
    }
}
