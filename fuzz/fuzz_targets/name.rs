//! Names and ARNs: what is accepted reads the same when written as a full ARN.
#![no_main]

use bowline_foundation::id::AccountId;
use bowline_functions::name::{FunctionRef, Qualifier};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let caller = AccountId::default_account();
    let (name, qualifier) = match text.split_once('\n') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (text, None),
    };
    let region = FunctionRef::region(name);
    let Ok(parsed) = FunctionRef::parse(name, qualifier, &caller) else {
        return;
    };
    let shown = parsed.name.to_string();
    assert!(
        !shown.is_empty() && shown.len() <= 64,
        "`{shown}` is no function's name"
    );
    let suffix = match &parsed.qualifier {
        Some(Qualifier::Version(version)) => format!(":{version}"),
        Some(Qualifier::Alias(alias)) => format!(":{alias}"),
        None => String::new(),
    };
    let arn = format!(
        "arn:aws:lambda:us-east-1:{}:function:{shown}{suffix}",
        parsed.account.as_str()
    );
    let again = FunctionRef::parse(&arn, None, &caller).expect("the ARN of an accepted name is accepted");
    assert_eq!(again, parsed);
    assert_eq!(FunctionRef::region(&arn), Some("us-east-1"));
    if let Some(region) = region {
        assert!(name.contains(&format!("{region}:")), "`{region}` is not in `{name}`");
    }
});
