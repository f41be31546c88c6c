//! Names of container images, and the references that functions take them by.

use std::fmt;
use std::str::FromStr;

use bowline_foundation::digest::Digest;

use super::InvalidName;

const NAME_CHARS_MAX: usize = 255;
const TAG_CHARS_MAX: usize = 128;
const NAME_PATTERN: &str = "[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*";
const TAG_PATTERN: &str = "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}";
/// The tag of an image that nobody has given one.
const TAG_DEFAULT: &str = "latest";

/// What images of one kind are called: 1 to 255 of `[a-z0-9._/-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName(Box<str>);

/// Which of them: 1 to 128 of `[A-Za-z0-9._-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

/// An image as a function's code names it: `[HOST/]NAME[:TAG]` or `[HOST/]NAME@sha256:DIGEST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// The registry it lies in; none if it was uploaded to this node.
    pub host: Option<String>,
    pub name: ImageName,
    pub which: Which,
}

/// One image of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Tag(Tag),
    Digest(Digest),
}

impl ImageName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a reference to it would be taken for one to a registry.
    pub fn looks_like_a_host(&self) -> bool {
        host(&self.0).is_some()
    }
}

impl Tag {
    /// The tag as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tag {
    fn default() -> Self {
        Self(TAG_DEFAULT.into())
    }
}

/// The first part of a reference if it is a registry's address, with the rest.
fn host(text: &str) -> Option<(&str, &str)> {
    let (first, rest) = text.split_once('/')?;
    let begins = first.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '[');
    let is_host = match first.rsplit_once(':').filter(|_| !first.ends_with(']')) {
        Some((_, port)) => !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()),
        None => first == "localhost" || first.contains('.') || first.ends_with(']'),
    };
    (begins && is_host).then_some((first, rest))
}

impl FromStr for ImageName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_part = |part: &str| {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            part.bytes().next().is_some_and(plain)
                && part
                    .bytes()
                    .all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
        };
        if !text.split('/').all(is_part) {
            return Err(InvalidName::pattern(text, "imageName", NAME_PATTERN));
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(InvalidName::length(text, "imageName", NAME_CHARS_MAX));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for Tag {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if text.is_empty() || text.starts_with(['.', '-']) || !text.bytes().all(allowed) {
            return Err(InvalidName::pattern(text, "tag", TAG_PATTERN));
        }
        if text.len() > TAG_CHARS_MAX {
            return Err(InvalidName::length(text, "tag", TAG_CHARS_MAX));
        }
        Ok(Self(text.into()))
    }
}

impl FromStr for ImageRef {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, path) = match host(text) {
            Some((host, path)) => (Some(host.to_owned()), path),
            None => (None, text),
        };
        if let Some((name, digest)) = path.split_once("@sha256:") {
            // A tag beside a digest says nothing more.
            let name = name.split_once(':').map_or(name, |(name, _)| name).parse()?;
            let digest = digest.parse();
            let digest = digest.map_err(|_| InvalidName::pattern(text, "code.imageUri", "NAME@sha256:DIGEST"))?;
            let which = Which::Digest(digest);
            return Ok(Self { host, name, which });
        }
        let (name, tag) = match path.split_once(':') {
            Some((name, tag)) => (name.parse()?, tag.parse()?),
            None => (path.parse()?, Tag::default()),
        };
        let which = Which::Tag(tag);
        Ok(Self { host, name, which })
    }
}

impl ImageRef {
    /// The same image for ever.
    pub fn at(&self, digest: Digest) -> Self {
        Self {
            which: Which::Digest(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(host) = &self.host {
            write!(f, "{host}/")?;
        }
        match &self.which {
            Which::Tag(tag) => write!(f, "{}:{tag}", self.name),
            Which::Digest(digest) => write!(f, "{}@sha256:{digest}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let read = text.parse::<ImageRef>();
        let shown = read.map(|read| read.to_string());
        assert_eq!(shown.as_deref().unwrap_or("refused"), expected, "{text}");
    }

    #[test]
    fn references_name_a_registry_an_image_and_which() {
        let hex = "a".repeat(64);
        check("hello", "hello:latest");
        check("hello:1", "hello:1");
        check("team/hello:v1.2-rc_3", "team/hello:v1.2-rc_3");
        check(&format!("hello:1@sha256:{hex}"), &format!("hello@sha256:{hex}"));
        check("localhost/hello", "localhost/hello:latest");
        check("127.0.0.1:5000/team/hello:1", "127.0.0.1:5000/team/hello:1");
        check("r.example.com/x", "r.example.com/x:latest");
        for text in [
            "",
            "Hello",
            "hello:",
            "hello:.x",
            "/hello",
            "hello/",
            "a//b",
            "hello:1:2",
            "hello@sha256:12",
            "h\u{e9}",
            "../etc",
            "hello:a/b",
            "file:///etc/passwd",
        ] {
            check(text, "refused");
        }
    }

    #[test]
    fn hosts_are_told_from_names() {
        let host = |text: &str| text.parse::<ImageRef>().unwrap().host;
        assert_eq!(host("team/hello"), None);
        assert_eq!(host("hello:5000"), None);
        assert_eq!(host("localhost:5000/hello"), Some("localhost:5000".to_owned()));
        assert!("a.b/c".parse::<ImageName>().unwrap().looks_like_a_host());
        assert!(!"a.b".parse::<ImageName>().unwrap().looks_like_a_host());
    }
}
