//! Which account a request names, where signatures are not looked at.
//!
//! A node on loopback without access keys takes an access key of twelve digits for the account.

use std::borrow::Cow;

use bowline_foundation::id::AccountId;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::route::Query;

/// The credential in the headers or in a presigned query.
pub fn credential<'a>(headers: &'a HeaderMap, query: Query<'a>) -> Option<Cow<'a, str>> {
    if let Some(header) = headers.get(AUTHORIZATION) {
        let (_, credential) = header.to_str().ok()?.split_once("Credential=")?;
        return Some(Cow::Borrowed(credential));
    }
    query.get("X-Amz-Credential")
}

/// The account that a credential names.
pub fn of(credential: &str) -> Option<AccountId> {
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
        let found = credential(&headers, query).and_then(|credential| of(&credential));
        assert_eq!(found.map(|account| account.to_string()).as_deref(), expected);
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
