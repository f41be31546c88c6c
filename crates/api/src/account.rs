//! Which account a request speaks for.
//!
//! Signatures are not verified: the node listens on loopback. An access key of twelve digits names the
//! account; any other key, or none, means the default account.

use bowline_foundation::id::AccountId;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::route::Query;

/// The account that the credential in the headers or in a presigned query names.
pub fn named(headers: &HeaderMap, query: Query<'_>) -> Option<AccountId> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        let (_, credential) = header.to_str().ok()?.split_once("Credential=")?;
        return access_key(credential);
    }
    access_key(&query.get("X-Amz-Credential")?)
}

fn access_key(credential: &str) -> Option<AccountId> {
    let (key, _scope) = credential.split_once('/')?;
    key.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::route;

    fn check(authorization: Option<&str>, path: &str, expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, HeaderValue::from_str(value).expect("an ASCII value"));
        }
        let query = route::resolve("GET", path).expect("a known path").query;
        let found = named(&headers, query).map(|account| account.to_string());
        assert_eq!(found.as_deref(), expected);
    }

    #[test]
    fn a_key_of_twelve_digits_names_the_account() {
        let signed = |key: &str| {
            format!(
                "AWS4-HMAC-SHA256 Credential={key}/20261120/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=00"
            )
        };
        check(Some(&signed("123456789012")), "/", Some("123456789012"));
        check(Some(&signed("AKIDEXAMPLE")), "/", None);
        check(Some("Bearer 123456789012"), "/", None);
        check(None, "/", None);
        check(
            None,
            "/?X-Amz-Credential=123456789012%2F20261120%2Fus-east-1%2Flambda%2Faws4_request",
            Some("123456789012"),
        );
    }
}
