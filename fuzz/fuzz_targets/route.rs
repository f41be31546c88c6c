//! Request routing: any method and path mean one operation or none, whatever trailing slashes say.
#![no_main]

use bowline_api::route::resolve;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (method, target) = text.split_once(' ').unwrap_or(("GET", text));
    let Ok(route) = resolve(method, target) else { return };
    assert!(target.starts_with('/'), "an operation has an absolute path");
    if !target.contains('?') {
        let again = format!("{target}/");
        let again = resolve(method, &again).expect("a trailing slash changes nothing");
        assert_eq!(again.operation, route.operation);
        assert_eq!(again.resource, route.resource);
    }
});
