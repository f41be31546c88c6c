//! Creating sessions: settings, tokens, filters that are refused.

use bowline_stream::session::limits::{AUDIT_KEPT, LEASE_MAX, NAME_BYTES_MAX};
use bowline_stream::session::{
    CreateError, CreateRequest, InvalidSettings, Mode, Order, ReadError, SessionId, Settings, Start,
};

use crate::world::{World, caller, numbers, seconds, stream, take};

fn request(settings: Settings, token: Option<&str>) -> CreateRequest {
    CreateRequest {
        stream: stream(),
        start: Start::Oldest,
        settings,
        client_token: token.map(str::to_owned),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_token_names_one_session() {
    let world = World::with_events(4);
    let create = async |request| world.handle.create(&caller(), request).await;
    let first = create(request(Settings::default(), Some("t"))).await.unwrap();
    world.take(&first, 2).await;
    let node = world.another_node();
    let again = node
        .handle()
        .create(&caller(), request(Settings::default(), Some("t")))
        .await;
    assert_eq!(again.unwrap(), first);
    assert_eq!(
        numbers(&take(&node.handle(), &first, 2).await),
        [3, 4],
        "it did not begin anew"
    );
    let other = Settings {
        lease: seconds(60),
        ..Settings::default()
    };
    let reused = create(request(other, Some("t"))).await.unwrap_err();
    assert!(matches!(reused, CreateError::TokenReused(id) if id == first));
    let without = create(request(Settings::default(), None)).await.unwrap();
    assert_ne!(without, create(request(Settings::default(), None)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn settings_that_make_no_sense_are_refused() {
    let world = World::new();
    let good = Settings::default;
    for (settings, word) in [
        (
            Settings {
                lease: LEASE_MAX + seconds(1),
                ..good()
            },
            "lease",
        ),
        (
            Settings {
                lease: seconds(0),
                ..good()
            },
            "lease",
        ),
        (
            Settings {
                idle_ttl: seconds(1),
                ..good()
            },
            "idle",
        ),
        (
            Settings {
                attempts_max: Some(0),
                ..good()
            },
            "attempt",
        ),
        (
            Settings {
                name: "n".repeat(NAME_BYTES_MAX + 1),
                ..good()
            },
            "name",
        ),
        (
            Settings {
                filter: Some("body ==".to_owned()),
                ..good()
            },
            "CEL",
        ),
        (
            Settings {
                mode: Mode::AtMostOnce,
                order: Order::PerKey,
                ..good()
            },
            "order per key",
        ),
    ] {
        let refused = world
            .handle
            .create(&caller(), request(settings, None))
            .await
            .unwrap_err();
        assert!(matches!(refused, CreateError::Invalid(_)), "{refused}");
        assert!(refused.to_string().contains(word), "{refused}");
    }
    assert_eq!(InvalidSettings::Attempts.to_string(), "a set has at least `1` attempt");
}

#[tokio::test(start_paused = true)]
async fn a_session_needs_a_stream() {
    let world = World::new();
    let request = CreateRequest {
        stream: "absent~2".parse().unwrap(),
        ..request(Settings::default(), None)
    };
    let refused = world.handle.create(&caller(), request).await.unwrap_err();
    assert!(matches!(refused, CreateError::NoSuchStream(_)), "{refused}");
    let nobody: SessionId = "0".repeat(32).parse().unwrap();
    let refused = world.read_error(&nobody).await;
    assert!(matches!(refused, ReadError::NoSuchSession(_)), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn the_oldest_event_is_the_oldest_that_is_left() {
    let world = World::new();
    let places = world.append(1..=4);
    world.log.trim(places[1]);
    let session = world.session(Settings::default()).await;
    assert_eq!(world.drain(&session, 4).await, [(1, vec![3, 4])]);
    let early = world.session_from(Start::After(places[0]), Settings::default()).await;
    let said = world.read_error(&early).await;
    assert!(
        matches!(said, ReadError::Trimmed { .. }),
        "control: who names a place is told: {said}"
    );
}

/// What a newer build wrote is refused, not guessed at.
#[tokio::test(start_paused = true)]
async fn a_session_of_a_newer_format_is_refused() {
    let world = World::with_events(1);
    let session = world.session(Settings::default()).await;
    let key: bowline_store::Key = format!("sessions/session/{session}").into();
    let newer = bowline_store::Write::Put(key, r#"{"format":2,"record":{}}"#.into());
    world.store.commit(Vec::new(), vec![newer]).await.unwrap();
    let refused = world.read_error(&session).await;
    assert!(matches!(refused, ReadError::Damaged(_)), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("record has format `2`, this build knows `1`"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn audit_rows_are_kept_for_a_while() {
    let world = World::new();
    world.session(Settings::default()).await;
    world.clock.advance(AUDIT_KEPT - seconds(1));
    world.session(Settings::default()).await;
    let rows = async || {
        world
            .store
            .scan(&"sessions/audit/".into(), None, 10)
            .await
            .unwrap()
            .len()
    };
    world.handle.sweep().await.unwrap();
    assert_eq!(rows().await, 2);
    world.clock.advance(seconds(2));
    world.handle.sweep().await.unwrap();
    assert_eq!(rows().await, 1);
}
