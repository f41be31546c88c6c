//! Functions that read streams: batches, order per key, partial answers, halves, filters, giving up.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_functions::error::Error;
use bowline_functions::model::events::{CreateMapping, MappingChange, MappingFilter, MappingStart, MappingState};
use bowline_functions::model::{Caller, PageRequest};
use serde_json::{Value, json};

use super::harness::{Events, source};
use crate::world::{caller, target};

/// The bodies of each batch that the functions have seen.
fn batches(events: &Events) -> Vec<Vec<String>> {
    let body = |record: &Value| {
        let data = STANDARD.decode(record["kinesis"]["data"].as_str().unwrap()).unwrap();
        String::from_utf8(data).unwrap()
    };
    let seen = events.world.fake.seen();
    let batches = seen.iter().filter_map(|event| event["Records"].as_array());
    batches.map(|records| records.iter().map(body).collect()).collect()
}

/// Waits until the functions have seen an event.
async fn until_seen(events: &Events, body: &str) -> Vec<Vec<String>> {
    let mut counts = events.world.fake.counts.subscribe();
    let found = tokio::time::timeout(crate::fake::PATIENCE, async {
        loop {
            let batches = batches(events);
            let ended = counts.borrow_and_update().ended >= batches.len();
            if ended && batches.iter().flatten().any(|seen| seen == body) {
                return batches;
            }
            counts.changed().await.unwrap();
        }
    });
    found
        .await
        .unwrap_or_else(|_| panic!("`{body}` is not in {:?}", batches(events)))
}

#[tokio::test]
async fn a_function_gets_a_streams_events_in_batches_and_in_order() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    for n in 0..25 {
        events.append("s", Some("k"), &n.to_string()).await;
    }
    let tens = MappingChange {
        batch_size: Some(10),
        ..MappingChange::default()
    };
    let mapping = events.map("f", "s", tens).await;
    let seen = until_seen(&events, "24").await;
    assert!(seen.iter().all(|batch| batch.len() <= 10), "{seen:?}");
    let all: Vec<String> = (0..25).map(|n| n.to_string()).collect();
    assert_eq!(seen.concat(), all);
    let record = &events.world.fake.seen()[0]["Records"][0];
    assert_eq!(record["eventSource"], "aws:kinesis");
    assert_eq!(record["eventSourceARN"], source("s"));
    assert_eq!(record["kinesis"]["partitionKey"], "k");
    // What is acknowledged does not come again, neither now nor after a restart.
    let events = events.restart().await;
    events.append("s", Some("k"), "25").await;
    assert_eq!(until_seen(&events, "25").await.concat(), ["25"]);
    let shown = events.world.handle.get_mapping(&caller(), &mapping.id).unwrap();
    assert_eq!(shown.state, MappingState::Enabled);
    events.stop().await;
}

#[tokio::test]
async fn a_batch_is_halved_until_the_bad_event_is_alone() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    let lost = events.stream("lost").await;
    let bad = json!({ "do": "fail" }).to_string();
    let bodies = ["0", "1", "2", &bad, "4", "5", "6", "7"];
    for body in bodies {
        events.append("s", Some("k"), body).await;
    }
    let bisecting = MappingChange {
        bisects: Some(true),
        retries_max: Some(1),
        on_failure: Some(lost),
        ..MappingChange::default()
    };
    events.map("f", "s", bisecting).await;
    let told = events.read_until("lost", 1).await;
    // The batch is over when the next one comes.
    events.append("s", Some("k"), "8").await;
    let seen = until_seen(&events, "8").await;
    assert_eq!(told[0]["KinesisBatchInfo"]["batchSize"], 1);
    assert_eq!(told[0]["requestContext"]["condition"], "RetryAttemptsExhausted");
    assert_eq!(told[0]["requestContext"]["approximateInvokeCount"], 2);
    let alone = seen.iter().filter(|batch| **batch == [bad.clone()]).count();
    assert_eq!(alone, 2, "tried once more than its first time: {seen:?}");
    let good = seen.iter().filter(|batch| !batch.contains(&bad));
    let processed: Vec<&str> = good.flatten().map(String::as_str).collect();
    assert_eq!(processed, ["0", "1", "2", "4", "5", "6", "7", "8"]);
    events.stop().await;
}

#[tokio::test]
async fn a_batch_is_given_up_as_a_whole_without_halving() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    let lost = events.stream("lost").await;
    for body in ["0", r#"{"do":"fail"}"#, "2"] {
        events.append("s", Some("k"), body).await;
    }
    let strict = MappingChange {
        retries_max: Some(2),
        on_failure: Some(lost),
        ..MappingChange::default()
    };
    events.map("f", "s", strict).await;
    let told = events.read_until("lost", 1).await;
    assert_eq!(told[0]["KinesisBatchInfo"]["batchSize"], 3);
    assert_eq!(told[0]["KinesisBatchInfo"]["streamArn"], source("s"));
    assert_eq!(batches(&events).len(), 3);
    // What comes after it is not held up.
    events.append("s", Some("k"), "3").await;
    assert_eq!(until_seen(&events, "3").await.last().unwrap(), &["3"]);
    events.stop().await;
}

#[tokio::test]
async fn an_answer_may_name_the_first_event_that_failed() {
    for reports in [true, false] {
        let events = Events::new().await;
        events.world.deploy("f").await;
        events.stream("s").await;
        let lost = events.stream("lost").await;
        let bad = json!({ "do": "report" }).to_string();
        for body in ["0", "1", &bad, "3"] {
            events.append("s", Some("k"), body).await;
        }
        let reporting = MappingChange {
            reports_failures: Some(reports),
            retries_max: Some(1),
            on_failure: Some(lost),
            ..MappingChange::default()
        };
        events.map("f", "s", reporting).await;
        if reports {
            let told = events.read_until("lost", 1).await;
            assert_eq!(
                told[0]["KinesisBatchInfo"]["batchSize"], 2,
                "the bad one and the one after it"
            );
            let rest = vec![bad.clone(), "3".to_owned()];
            let whole = vec!["0".to_owned(), "1".to_owned(), bad, "3".to_owned()];
            assert_eq!(batches(&events), [whole, rest]);
        } else {
            // The control: without the setting the answer says nothing.
            until_seen(&events, "3").await;
            events.append("s", Some("k"), "4").await;
            assert_eq!(until_seen(&events, "4").await.len(), 2);
            assert!(events.read("lost").await.is_empty());
        }
        events.stop().await;
    }
}

#[tokio::test]
async fn only_events_that_pass_a_filter_come() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    for n in 0..10 {
        events.append("s", Some("k"), &json!({ "n": n }).to_string()).await;
    }
    let large = MappingChange {
        filters: Some(vec![
            r#"{"data": {"n": [{"numeric": [">=", 8]}]}}"#.to_owned(),
            r#"{"data": {"n": [1]}}"#.to_owned(),
        ]),
        ..MappingChange::default()
    };
    events.map("f", "s", large).await;
    let seen = until_seen(&events, r#"{"n":9}"#).await;
    assert_eq!(seen.concat(), [r#"{"n":1}"#, r#"{"n":8}"#, r#"{"n":9}"#]);
    let filtered = events.world.metric("events_filtered_total{function=\"f\"}");
    assert_eq!(filtered, 7.0);
    events.stop().await;
}

#[tokio::test]
async fn a_mapping_counts_what_becomes_of_its_events_if_it_is_to() {
    let events = Events::new().await;
    for name in ["f", "g"] {
        events.world.deploy(name).await;
    }
    events.stream("s").await;
    for n in 0..10 {
        events.append("s", Some("k"), &json!({ "n": n }).to_string()).await;
    }
    events
        .append("s", Some("k"), &json!({ "n": 20, "do": "fail" }).to_string())
        .await;
    let settings = |counts_events| MappingChange {
        batch_size: Some(1),
        retries_max: Some(0),
        filters: Some(vec![r#"{"data": {"n": [{"numeric": [">=", 5]}]}}"#.to_owned()]),
        counts_events: Some(counts_events),
        ..MappingChange::default()
    };
    let counting = events.map("f", "s", settings(true)).await.id;
    let silent = events.map("g", "s", settings(false)).await.id;
    let begin = |mapping: &str, event: &str| format!("mapping_events_total{{mapping=\"{mapping}\",event=\"{event}\"}}");
    // The bad one comes last.
    events.until_metric(&begin(&counting, "dropped"), 1.0).await;
    events
        .until_metric("events_dropped_total{function=\"g\",reason=\"batch\"}", 1.0)
        .await;
    let counted = |mapping: &str, event: &str| events.world.metric(&begin(mapping, event));
    let kinds = ["polled", "filtered_out", "invoked", "failed", "dropped", "deleted"];
    assert_eq!(
        kinds.map(|kind| counted(&counting, kind)),
        [11.0, 5.0, 6.0, 1.0, 1.0, 0.0]
    );
    assert_eq!(kinds.map(|kind| counted(&silent, kind)), [0.0; 6]);
    // What is on stays on over a restart; once it is off, nothing is shown.
    let events = events.restart().await;
    events.append("s", Some("k"), r#"{"n":1}"#).await;
    events.until_metric(&begin(&counting, "filtered_out"), 1.0).await;
    let off = MappingChange {
        counts_events: Some(false),
        ..MappingChange::default()
    };
    let handle = &events.world.handle;
    handle.update_mapping(&caller(), &counting, off).await.unwrap();
    let gone = tokio::time::timeout(crate::fake::PATIENCE, async {
        while events.world.metric(&begin(&counting, "polled")) > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    });
    gone.await.unwrap();
    events.append("s", Some("k"), r#"{"n":2}"#).await;
    events.until_metric("events_filtered_total{function=\"f\"}", 2.0).await;
    assert_eq!(events.world.metric(&begin(&counting, "polled")), 0.0);
    events.stop().await;
}

#[tokio::test]
async fn keys_are_processed_side_by_side_but_each_in_order() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    events.append("s", Some("slow"), r#"{"do":"hold","n":0}"#).await;
    let two = MappingChange {
        parallelization: Some(2),
        batch_size: Some(1),
        ..MappingChange::default()
    };
    events.map("f", "s", two).await;
    events.world.fake.until(|counts| counts.invoked == 1).await;
    for n in 1..4 {
        events.append("s", Some("slow"), &format!("slow-{n}")).await;
        events.append("s", Some("fast"), &format!("fast-{n}")).await;
    }
    events.world.fake.until(|counts| counts.ended == 3).await;
    let seen = batches(&events).concat();
    assert_eq!(
        seen[1..],
        ["fast-1", "fast-2", "fast-3"],
        "the slow key waits, the fast one does not"
    );
    events.world.fake.hold_invocations(false);
    until_seen(&events, "slow-3").await;
    let mut by_key: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let seen = batches(&events).concat();
    for body in &seen[1..] {
        let (key, n) = body.split_once('-').unwrap();
        by_key.entry(key).or_default().push(n.to_owned());
    }
    assert_eq!(by_key["slow"], ["1", "2", "3"]);
    assert_eq!(by_key["fast"], ["1", "2", "3"]);
    events.stop().await;
}

#[tokio::test]
async fn a_window_gathers_a_batch() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    let gathering = MappingChange {
        window_seconds: Some(300),
        batch_size: Some(3),
        ..MappingChange::default()
    };
    events.map("f", "s", gathering).await;
    events.append("s", Some("k"), "0").await;
    // Now the node knows a state of the stream in which there is more to read, but no whole batch.
    events.read_until("s", 1).await;
    for body in ["1", "2"] {
        events.append("s", Some("k"), body).await;
    }
    assert_eq!(until_seen(&events, "2").await, [["0", "1", "2"]]);
    events.stop().await;
}

#[tokio::test]
async fn tags_of_a_mapping_survive_a_restart_and_stop_nothing() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    let mapping = events.map("f", "s", MappingChange::default()).await;
    let tags = [("team".to_owned(), "orders".to_owned())];
    let handle = &events.world.handle;
    handle
        .tag_mapping(&caller(), &mapping.id, tags.clone().into())
        .await
        .unwrap();
    events.append("s", None, "0").await;
    until_seen(&events, "0").await;
    let stranger = Caller {
        account: "111122223333".parse().unwrap(),
        ..caller()
    };
    let refused = handle.untag_mapping(&stranger, &mapping.id, &["team".to_owned()]).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");

    let events = events.restart().await;
    let handle = &events.world.handle;
    assert_eq!(handle.get_mapping(&caller(), &mapping.id).unwrap().tags, tags.into());
    handle
        .untag_mapping(&caller(), &mapping.id, &["team".to_owned()])
        .await
        .unwrap();
    let events = events.restart().await;
    let shown = events.world.handle.get_mapping(&caller(), &mapping.id).unwrap();
    assert!(shown.tags.is_empty(), "{shown:?}");
    events.append("s", None, "1").await;
    until_seen(&events, "1").await;
    events.stop().await;
}

#[tokio::test]
async fn a_mapping_lives_from_creation_to_deletion() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    let handle = &events.world.handle;
    let mapping = events.map("f", "s", MappingChange::default()).await;
    let again = CreateMapping {
        function: target("f"),
        source_arn: source("s"),
        start: Some(MappingStart::Latest),
        settings: MappingChange::default(),
        tags: Default::default(),
    };
    let refused = handle.create_mapping(&caller(), again.clone()).await;
    assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
    events.append("s", None, "0").await;
    until_seen(&events, "0").await;

    let off = MappingChange {
        is_enabled: Some(false),
        ..MappingChange::default()
    };
    let updated = handle.update_mapping(&caller(), &mapping.id, off).await.unwrap();
    assert_eq!(updated.state, MappingState::Updating);
    events.until_mapping(&mapping.id, MappingState::Disabled).await;
    let events = events.restart().await;
    let handle = &events.world.handle;
    events.append("s", None, "1").await;
    let shown = handle.get_mapping(&caller(), &mapping.id).unwrap();
    assert_eq!(shown.state, MappingState::Disabled);
    let on = MappingChange {
        is_enabled: Some(true),
        ..MappingChange::default()
    };
    handle.update_mapping(&caller(), &mapping.id, on).await.unwrap();
    // It goes on where it was; nothing came while it was off.
    assert_eq!(until_seen(&events, "1").await, [["1"]]);

    let of_f = MappingFilter {
        function: Some(target("f")),
        source_arn: None,
    };
    let list = |filter: &MappingFilter| {
        let page = handle
            .list_mappings(&caller(), filter, &PageRequest::default())
            .unwrap();
        page.items.len()
    };
    assert_eq!(list(&of_f), 1);
    let of_g = MappingFilter {
        function: Some(target("g")),
        source_arn: None,
    };
    assert_eq!(list(&of_g), 0);
    let deleted = handle.delete_mapping(&caller(), &mapping.id).await.unwrap();
    assert_eq!(deleted.state, MappingState::Deleting);
    assert!(matches!(
        handle.get_mapping(&caller(), &mapping.id),
        Err(Error::NotFound(_))
    ));
    let subject = format!("000000000000/event-source-mapping:{}", mapping.id);
    assert_eq!(
        handle.audited(&subject).await.unwrap(),
        [
            "CreateEventSourceMapping",
            "Settle",
            "UpdateEventSourceMapping",
            "UpdateEventSourceMapping",
            "DeleteEventSourceMapping"
        ]
    );
    events.stop().await;
}

#[tokio::test]
async fn mappings_that_cannot_work_are_refused() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.stream("s").await;
    let check = async |name: &str, arn: &str, settings: MappingChange, why: &str| {
        let request = CreateMapping {
            function: target(name),
            source_arn: arn.to_owned(),
            start: Some(MappingStart::TrimHorizon),
            settings,
            tags: Default::default(),
        };
        let refused = events.world.handle.create_mapping(&caller(), request).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    };
    let default = MappingChange::default;
    check("nobody", &source("s"), default(), "Function does not exist").await;
    check("f", &source("nobody"), default(), "Stream not found").await;
    check(
        "f",
        "arn:aws:sqs:us-east-1:000000000000:s",
        default(),
        "StartingPosition is not valid for SQS",
    )
    .await;
    check(
        "f",
        "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/s",
        default(),
        "Unrecognized event source",
    )
    .await;
    let with = |change: fn(&mut MappingChange)| {
        let mut settings = default();
        change(&mut settings);
        settings
    };
    for (settings, why) in [
        (with(|to| to.batch_size = Some(0)), "batchSize"),
        (with(|to| to.batch_size = Some(10_001)), "batchSize"),
        (
            with(|to| to.window_seconds = Some(301)),
            "maximumBatchingWindowInSeconds",
        ),
        (with(|to| to.parallelization = Some(11)), "parallelizationFactor"),
        (with(|to| to.age_seconds_max = Some(59)), "maximumRecordAgeInSeconds"),
        (with(|to| to.retries_max = Some(-2)), "maximumRetryAttempts"),
        (
            with(|to| to.filters = Some(vec!["{".to_owned()])),
            "Invalid filter pattern",
        ),
        (
            with(|to| to.filters = Some(vec![r#"{"n": [1]}"#.to_owned()])),
            "looks at data",
        ),
        (
            with(|to| to.filters = Some(vec!["{}".to_owned(); 6])),
            "exceeds the limit",
        ),
        (
            with(|to| to.on_failure = Some("arn:aws:sqs:r:000000000000:nobody".to_owned())),
            "Stream not found",
        ),
    ] {
        check("f", &source("s"), settings, why).await;
    }
    events.stop().await;
}
