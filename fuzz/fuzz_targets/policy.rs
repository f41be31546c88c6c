//! Resource policies as foreign documents: what is taken reads the same again, and judging it ends.
#![no_main]

use bowline_functions::policy::{Policy, Request, UrlAuth};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(policy) = Policy::parse(text) else { return };
    let again = Policy::parse(&policy.document());
    // A document that is written shorter than it came is still a policy; one that grows over the limit is none.
    if let Ok(again) = again {
        assert_eq!(again, policy);
    }
    let account = "111122223333".parse().expect("an account");
    for url in [None, Some(UrlAuth::None), Some(UrlAuth::AwsIam)] {
        for account in [None, Some(&account)] {
            let request = Request {
                action: "InvokeFunction",
                resource: "arn:aws:lambda:us-east-1:000000000000:function:f:live",
                account,
                url,
            };
            let _ = policy.decide(&request);
        }
    }
});
