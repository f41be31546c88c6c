//! i-T9: an object that two stores have is told once, and swept once.

use std::time::Duration;

use bowline_store::Fault;
use bowline_store::Store;
use bowline_store::objects::{Caller, CreateError, EventKind, GetError, ObjectId, Options};

use crate::world::{Pair, create, find, with_token};

/// Creates until the first store drawn loses its reply, and the other one takes over.
async fn doubly(pair: &Pair, token: Option<&str>) -> (ObjectId, ObjectId) {
    let mut wanted = create("x", "red");
    wanted.caller = Caller {
        token: token.map(str::to_owned),
        ..Caller::default()
    };
    // With a token, each store is read once before.
    let before = usize::from(token.is_some());
    for store in &pair.faulty {
        store.script(std::iter::repeat_n(Fault::None, before));
    }
    // The one drawn first loses the reply; then what is left of the other's script is taken back.
    pair.faulty[0].script([Fault::LoseReply]);
    let told = pair.objects.create(wanted).await.unwrap().id;
    assert_eq!(told.store.as_str(), "b", "the seed draws the other store first");
    let both = find(&pair.objects, "red").await;
    assert_eq!(both.len(), 2, "both are visible before the sweep");
    let loser = both.into_iter().find(|id| *id != told).unwrap();
    (told, loser)
}

fn pair() -> Pair {
    Pair::new(Options::default())
}

async fn swept(token: Option<&str>) {
    let pair = pair();
    let (told, loser) = doubly(&pair, token).await;
    assert_eq!(pair.objects.metrics().creates_in_doubt, 1);
    assert_eq!(pair.objects.status().await[1].unresolved_supersedes, Some(1));
    // Control: before its time nothing is swept.
    pair.clock.advance(Duration::from_secs(59));
    pair.objects.tick().await;
    assert_eq!(find(&pair.objects, "red").await.len(), 2);
    pair.clock.advance(Duration::from_secs(1));
    pair.objects.tick().await;
    assert_eq!(find(&pair.objects, "red").await, std::slice::from_ref(&told));
    assert!(pair.objects.get(&told).await.is_ok());
    assert!(matches!(pair.objects.get(&loser).await, Err(GetError::NotFound)));
    let events = pair.objects.events(&loser, 0, 10).await.unwrap().events;
    assert_eq!(
        events.last().map(|event| (event.kind, event.by.as_str())),
        Some((EventKind::Delete, "bowline/sweeper"))
    );
    let metrics = pair.objects.metrics();
    assert_eq!(metrics.double_visible_removed, 1);
    assert!(
        metrics.double_visible_max <= Options::default().sweep_interval,
        "{metrics:?}"
    );
    assert!(metrics.double_visible_max > Duration::ZERO);
    assert_eq!(pair.objects.status().await[1].unresolved_supersedes, Some(0));
    if let Some(token) = token {
        assert_eq!(
            pair.other(9)
                .create(with_token(create("x", "red"), token))
                .await
                .unwrap()
                .id,
            told
        );
    }
}

#[tokio::test]
async fn the_second_object_of_a_lost_reply_is_swept() {
    swept(None).await;
}

#[tokio::test]
async fn the_second_object_of_a_token_is_swept() {
    swept(Some("t")).await;
}

#[tokio::test]
async fn a_token_is_answered_with_the_winner_before_the_sweep_too() {
    let pair = pair();
    let (told, _) = doubly(&pair, Some("t")).await;
    for seed in 2..8 {
        assert_eq!(
            pair.other(seed)
                .create(with_token(create("x", "red"), "t"))
                .await
                .unwrap()
                .id,
            told
        );
    }
}

/// A create on its way to a store that stands still may come after the sweep; the bar keeps it out.
#[tokio::test]
async fn a_create_in_doubt_that_did_not_apply_is_barred() {
    let pair = pair();
    pair.faulty[0].go_away();
    // The token cannot be looked up in `a`: whatever it made there loses.
    let told = pair
        .objects
        .create(with_token(create("x", "red"), "t"))
        .await
        .unwrap()
        .id;
    assert_eq!(told.store.as_str(), "b");
    assert_eq!(pair.objects.sweep().await.unresolved, 1, "`a` is away");
    pair.faulty[0].come_back();
    let report = pair.objects.sweep().await;
    assert_eq!((report.barred, report.removed, report.unresolved), (1, 0, 0));
    assert_eq!(pair.objects.sweep().await, Default::default());
    pair.faulty[1].go_away();
    for seed in 2..9 {
        let late = pair.other(seed).create(with_token(create("x", "red"), "t")).await;
        assert!(matches!(late, Err(CreateError::Unavailable(_))), "{late:?}");
    }
    let claims = pair.inner[0].scan(&"objects/item/".into(), None, 9).await.unwrap();
    assert!(claims.is_empty(), "nothing was created in `a`");
}

/// While the store of the first answer is away, the front end that gave it remembers it.
#[tokio::test]
async fn an_answer_is_remembered_while_its_store_is_away() {
    let pair = pair();
    let told = pair.objects.create(with_token(create("x", "red"), "t")).await.unwrap();
    let index = usize::from(told.id.store.as_str() == "b");
    pair.faulty[index].go_away();
    assert_eq!(
        pair.objects.create(with_token(create("x", "red"), "t")).await.unwrap(),
        told
    );
}
