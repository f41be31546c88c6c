//! CORS as a URL's configuration says.

use bowline_functions::model::attached::Cors;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::body::Body;
use crate::reply;

const ANY: &str = "*";
/// Headers that the configuration alone decides.
const DECIDED: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// The answer to a browser that asks before it sends a request; `None` if this is no such question. Where the
/// page's site is not allowed, the answer says nothing, and the browser refuses.
pub fn preflight(cors: &Cors, asked: &HeaderMap) -> Option<Response<Body>> {
    let method = asked.get(ACCESS_CONTROL_REQUEST_METHOD)?;
    asked.get(ORIGIN)?;
    let mut response = reply::empty(StatusCode::OK);
    let headers = response.headers_mut();
    if !allow_origin(cors, asked, headers) {
        return Some(response);
    }
    let wanted = asked.get(ACCESS_CONTROL_REQUEST_HEADERS);
    list(
        headers,
        ACCESS_CONTROL_ALLOW_METHODS,
        cors,
        &cors.allow_methods,
        Some(method),
    );
    list(headers, ACCESS_CONTROL_ALLOW_HEADERS, cors, &cors.allow_headers, wanted);
    if let Some(seconds) = cors.max_age {
        headers.insert(ACCESS_CONTROL_MAX_AGE, seconds.into());
    }
    Some(response)
}

/// Says on an answer who may read it, over what the function says.
pub fn apply(cors: &Cors, asked: &HeaderMap, headers: &mut HeaderMap) {
    for name in &DECIDED {
        headers.remove(name);
    }
    if asked.contains_key(ORIGIN) && allow_origin(cors, asked, headers) {
        list(headers, ACCESS_CONTROL_EXPOSE_HEADERS, cors, &cors.expose_headers, None);
    }
}

/// Whether the page's site is allowed; if so, says it.
fn allow_origin(cors: &Cors, asked: &HeaderMap, headers: &mut HeaderMap) -> bool {
    let with_credentials = cors.allow_credentials == Some(true);
    let origins = cors.allow_origins.as_deref().unwrap_or_default();
    let any = origins.iter().any(|allowed| allowed == ANY);
    if !any || with_credentials {
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = asked.get(ORIGIN) else { return false };
    if !any && !origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
        return false;
    }
    let shown = if any && !with_credentials {
        HeaderValue::from_static(ANY)
    } else {
        origin.clone()
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, shown);
    if with_credentials {
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

/// A list as a header. With credentials a browser does not read `*` as all, so that what it asked for is
/// allowed by name.
fn list(
    headers: &mut HeaderMap,
    name: HeaderName,
    cors: &Cors,
    values: &Option<Vec<String>>,
    asked: Option<&HeaderValue>,
) {
    let Some(values) = values.as_ref().filter(|values| !values.is_empty()) else {
        return;
    };
    let any = values.iter().any(|value| value == ANY);
    let value = match asked {
        Some(asked) if any && cors.allow_credentials == Some(true) => Some(asked.clone()),
        _ => HeaderValue::from_str(&values.join(",")).ok(),
    };
    if let Some(value) = value {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = "https://shop.example";

    fn asked(origin: Option<&str>, method: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [(ORIGIN, origin), (ACCESS_CONTROL_REQUEST_METHOD, method)] {
            if let Some(value) = value {
                headers.insert(name, HeaderValue::from_str(value).expect("ASCII"));
            }
        }
        headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-one, x-two"));
        headers
    }

    fn shown(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
        headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    fn cors(origin: &str, credentials: bool) -> Cors {
        let any = || Some(vec![ANY.to_owned()]);
        Cors {
            allow_credentials: Some(credentials),
            allow_headers: any(),
            allow_methods: any(),
            allow_origins: Some(vec![origin.to_owned()]),
            expose_headers: Some(vec!["x-a".to_owned(), "x-b".to_owned()]),
            max_age: Some(60),
        }
    }

    #[test]
    fn a_preflight_is_answered_for_allowed_sites_only() {
        let answer = preflight(&cors(SITE, false), &asked(Some(SITE), Some("PUT"))).expect("a preflight");
        let headers = answer.headers();
        assert_eq!(shown(headers, ACCESS_CONTROL_ALLOW_ORIGIN), Some(SITE));
        assert_eq!(shown(headers, ACCESS_CONTROL_ALLOW_METHODS), Some("*"));
        assert_eq!(shown(headers, ACCESS_CONTROL_MAX_AGE), Some("60"));
        assert_eq!(shown(headers, VARY), Some("Origin"));
        let other = preflight(&cors(SITE, false), &asked(Some("https://evil.example"), Some("PUT")));
        let other = other.expect("a preflight");
        assert_eq!(shown(other.headers(), ACCESS_CONTROL_ALLOW_ORIGIN), None);
        assert!(preflight(&cors(SITE, false), &asked(Some(SITE), None)).is_none());
        assert!(preflight(&cors(SITE, false), &asked(None, Some("PUT"))).is_none());
    }

    #[test]
    fn with_credentials_nothing_is_allowed_by_a_star() {
        let answer = preflight(&cors(ANY, true), &asked(Some(SITE), Some("PUT"))).expect("a preflight");
        let headers = answer.headers();
        assert_eq!(shown(headers, ACCESS_CONTROL_ALLOW_ORIGIN), Some(SITE));
        assert_eq!(shown(headers, ACCESS_CONTROL_ALLOW_CREDENTIALS), Some("true"));
        assert_eq!(shown(headers, ACCESS_CONTROL_ALLOW_METHODS), Some("PUT"));
        assert_eq!(shown(headers, ACCESS_CONTROL_ALLOW_HEADERS), Some("x-one, x-two"));
    }

    #[test]
    fn the_configuration_wins_over_the_function() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(SITE));
        apply(&cors(ANY, false), &asked(Some(SITE), None), &mut headers);
        assert_eq!(shown(&headers, ACCESS_CONTROL_ALLOW_ORIGIN), Some("*"));
        assert_eq!(shown(&headers, ACCESS_CONTROL_EXPOSE_HEADERS), Some("x-a,x-b"));
        apply(
            &cors("https://else.example", false),
            &asked(Some(SITE), None),
            &mut headers,
        );
        assert_eq!(shown(&headers, ACCESS_CONTROL_ALLOW_ORIGIN), None);
    }
}
