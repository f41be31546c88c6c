//! Bodies of registrations and subscriptions, as a hostile extension would send them: the first byte chooses
//! the reader. What is taken keeps every limit, whatever it was made of.
#![no_main]

use std::time::Duration;

use bowline_sandbox_linux::runtime_api::{Api, Destination, Registration, Stream, Subscription};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else {
        return;
    };
    match choice {
        b'r' => registration(body),
        b'l' => subscription(Api::Logs, body),
        _ => subscription(Api::Telemetry, body),
    }
});

fn registration(body: &[u8]) {
    let Ok(registration) = Registration::parse(body) else {
        return;
    };
    let external = registration.events(true);
    if let Ok(internal) = registration.events(false) {
        assert_eq!(
            external,
            Ok(internal),
            "what an internal one may have, an external one may"
        );
        assert!(!internal.shutdown);
    }
}

fn subscription(api: Api, body: &[u8]) {
    let subscription = match Subscription::parse(api, body) {
        Ok(subscription) => subscription,
        Err(bad) => return assert!(!bad.to_string().is_empty(), "a refusal says why"),
    };
    let buffering = subscription.buffering;
    assert!((1_000..=10_000).contains(&buffering.items_max));
    assert!((262_144..=1_048_576).contains(&buffering.bytes_max));
    assert!(buffering.timeout >= Duration::from_millis(25) && buffering.timeout <= Duration::from_secs(30));
    let streams = &subscription.streams;
    let all = [Stream::Platform, Stream::Function, Stream::Extension];
    assert!(
        !streams.is_empty()
            && all
                .iter()
                .all(|stream| streams.iter().filter(|other| *other == stream).count() <= 1)
    );
    let port = match subscription.destination {
        Destination::Tcp { port } => port,
        Destination::Http { port, path, .. } => {
            // It goes into the first line of a request.
            assert!(
                path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()),
                "{path}"
            );
            port
        }
    };
    assert!(port != 0 && port != 9001);
}
