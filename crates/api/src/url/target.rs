//! Which URL a request is for, by its host or by its path.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Uri};

const ID_CHARS: usize = 32;
const IN_HOST: &str = ".lambda-url.";
const IN_PATH: &str = "/lambda-url/";

/// The URL a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub id: &'a str,
    /// What the function sees as the path, as it came.
    pub path: &'a str,
    /// The host without its port, in the form by host.
    pub host: Option<&'a str>,
    /// Whether the identifier stands in the path.
    pub in_path: bool,
}

impl<'a> Target<'a> {
    /// The URL a request is for, if it is for one.
    pub fn of(head: &'a Parts) -> Option<Self> {
        Self::by_host(head).or_else(|| Self::by_path(head.uri.path()))
    }

    /// By `ID.lambda-url.REGION.localhost`; the rest of the host is not looked at.
    fn by_host(head: &'a Parts) -> Option<Self> {
        let host = url_host(&head.uri, &head.headers)?;
        let host = host.rsplit_once(':').map_or(host, |(host, _port)| host);
        Some(Self {
            id: &host[..ID_CHARS],
            path: head.uri.path(),
            host: Some(host),
            in_path: false,
        })
    }

    /// By `/lambda-url/ID/...`.
    fn by_path(path: &'a str) -> Option<Self> {
        let rest = path.strip_prefix(IN_PATH)?;
        let (id, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        Some(Self {
            id,
            path,
            host: None,
            in_path: true,
        })
    }
}

/// Whether the host is one of function URLs, whatever stands in the path.
pub fn is_url_host(uri: &Uri, headers: &HeaderMap) -> bool {
    url_host(uri, headers).is_some()
}

/// One look at the 33rd byte tells other hosts apart.
fn url_host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let host = match uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => headers.get(HOST)?.as_bytes(),
    };
    if host.get(ID_CHARS) != Some(&b'.') {
        return None;
    }
    let host = std::str::from_utf8(host).ok()?;
    let (id, rest) = host.split_at_checked(ID_CHARS)?;
    (rest.starts_with(IN_HOST) && id.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(host)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};

    use super::*;

    const ID: &str = "abcdefghijklmnopqrstuvwxyz234567";

    fn check(host: &str, target: &str, expected: Option<(&str, &str)>) {
        let mut request = Request::builder().uri(target).body(()).expect("a request");
        request
            .headers_mut()
            .insert(HOST, HeaderValue::from_str(host).expect("a host"));
        let (head, ()) = request.into_parts();
        let found = Target::of(&head);
        assert_eq!(
            found.map(|target| (target.id, target.path)),
            expected,
            "{host} {target}"
        );
        assert_eq!(
            is_url_host(&head.uri, &head.headers),
            found.is_some_and(|target| !target.in_path)
        );
    }

    #[test]
    fn a_url_is_known_by_its_host_or_by_its_path() {
        let host = format!("{ID}.lambda-url.us-east-1.localhost:9000");
        check(&host, "/v1/streams?a=b", Some((ID, "/v1/streams")));
        check(
            &host,
            &format!("/lambda-url/{ID}/"),
            Some((ID, &format!("/lambda-url/{ID}/"))),
        );
        check("127.0.0.1:9000", &format!("http://{host}/x"), Some((ID, "/x")));
        check(
            "127.0.0.1:9000",
            &format!("/lambda-url/{ID}/a%20b/"),
            Some((ID, "/a%20b/")),
        );
        check("127.0.0.1:9000", &format!("/lambda-url/{ID}"), Some((ID, "/")));
        check("127.0.0.1:9000", "/lambda-url", None);
        check("127.0.0.1:9000", "/", None);
        check("short.lambda-url.us-east-1.localhost", "/", None);
        check(&format!("{ID}.execute-api.us-east-1.localhost"), "/", None);
        check(&format!("ä{}.lambda-url.x", &ID[2..]), "/", None);
    }
}
