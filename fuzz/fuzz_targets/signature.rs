//! Signatures of requests: the first line is the target, then come headers. Whatever is signed, nobody without the
//! secret is let in.
#![no_main]

use bowline_api::auth::keys::{AccessKey, Keys};
use bowline_api::auth::{Auth, Exposure};
use bowline_api::route::Query;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_functions::access::Secret;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let target = lines.next().unwrap_or_default();
    let Ok(request) = Request::get(target).body(()) else {
        return;
    };
    let (mut head, ()) = request.into_parts();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value.trim())) {
            head.headers.append(name, value);
        }
    }
    let query = head.uri.query().unwrap_or_default().to_owned();
    let account = AccountId::default_account();
    let auth = Auth::new(Exposure::Network, "us-east-1", account.clone());
    let key = AccessKey::new("AKIDEXAMPLE".to_owned(), account, Secret::new("nobody knows it"));
    auth.set_keys([key].into_iter().collect::<Keys>());
    // 2015-08-30T12:36:00Z, the moment of the seeds.
    let now = Timestamp::from_micros(1_440_938_160_000_000);
    if let Ok(proof) = auth.identify(&head.headers, Query::new(&query), now) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        let identity = runtime.block_on(proof.finish(&head, &Bytes::new()));
        assert!(identity.is_err(), "a stranger was let in");
    }
});
