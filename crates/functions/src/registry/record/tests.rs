//! Each kind of record: its golden file, and the way there and back.

use std::fmt::Debug;

use bowline_capacity::identity::RunId;
use bowline_capacity::sizing::{AdjustmentCondition, Mode, Outcome, Profile, Sample};
use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_oci::Process;
use bowline_sandbox::{Runtime, SandboxKind};
use serde_json::json;

use super::*;
use crate::access::{AccessKey, Secret};
use crate::model::attached::{Attached, Cors, InvokeMode, Provisioned, RuntimeManagement, Url, UrlAuth, UrlNeeds};
use crate::model::events::{
    EventInvokeConfig, EventInvokeSettings, Mapping, MappingSettings, MappingStart, MappingState,
};
use crate::model::image::{ImageConfig, ImageParts, ImageUse, StoredImage};
use crate::model::layers::{LayerPolicy, LayerPrincipal, LayerStatement, LayerUse, LayerVersion};
use crate::model::{Alias, Architecture, CodePackage, Configuration, LastUpdate, ResourcePolicy, State};
use crate::name::{FunctionRef, Version};
use crate::policy::{Grant, Policy};
use crate::state::{Access, AttachedFolder, Attachment, FolderKind, Writers};

/// The record is read from its golden file, and written as it.
fn check<R: Record + PartialEq + Debug>(record: &R, golden: &str) {
    let golden = golden.trim_end();
    assert_eq!(String::from_utf8_lossy(&record.encode()), golden);
    assert_eq!(&R::decode(golden.as_bytes()).unwrap(), record);
}

fn configuration(state: State, last_update: LastUpdate) -> Configuration {
    Configuration {
        account: AccountId::default_account(),
        name: "f".parse().unwrap(),
        version: Version::Latest,
        runtime: Runtime::Python { minor: 12 },
        kind: SandboxKind::Linux,
        role: "arn:aws:iam::000000000000:role/any".to_owned(),
        handler: "app.handler".to_owned(),
        description: "says hello".to_owned(),
        timeout_seconds: 3,
        memory: Mebibytes(128),
        ephemeral_storage: Mebibytes(512),
        environment: [("MODE".to_owned(), "quiet".to_owned())].into(),
        architecture: Architecture::X86_64,
        code: CodePackage {
            digest: Digest::of(b"code"),
            bytes: 4,
        },
        layers: Vec::new(),
        image: None,
        last_modified: Timestamp::from_micros(1_795_217_079_123_456),
        revision_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
        state,
        last_update,
        durable: None,
        inert: json!({"TracingConfig": {"Mode": "PassThrough"}})
            .as_object()
            .unwrap()
            .clone(),
    }
}

fn failed() -> (String, String) {
    ("FunctionError".to_owned(), "bad code".to_owned())
}

#[test]
fn functions() {
    let (code, reason) = failed();
    let latest = configuration(State::Active, LastUpdate::Failed { code, reason });
    let serving = configuration(State::Active, LastUpdate::Successful);
    let record = FunctionRecord {
        tags: [("team".to_owned(), "edge".to_owned())].into(),
        reserved_concurrency: Some(7),
        recursion_allowed: true,
        next_version: 3,
        latest: (&latest).into(),
        serving: Some((&serving).into()),
    };
    check(&record, include_str!("golden/function-1-recursive.json"));
    let record = FunctionRecord {
        recursion_allowed: false,
        ..record
    };
    check(&record, include_str!("golden/function-1.json"));
    let back = record
        .latest
        .into_model(latest.account.clone(), latest.name.clone(), Version::Latest);
    assert_eq!(back, latest);
}

#[test]
fn versions() {
    let (code, reason) = failed();
    let states = [State::Pending, State::Active, State::Failed { code, reason }];
    for (state, golden) in states.into_iter().zip([
        include_str!("golden/version-1-pending.json"),
        include_str!("golden/version-1-active.json"),
        include_str!("golden/version-1-failed.json"),
    ]) {
        let configuration = configuration(state, LastUpdate::Successful);
        let record = VersionRecord {
            configuration: (&configuration).into(),
            source_description: "says hello".to_owned(),
        };
        check(&record, golden);
    }
}

#[test]
fn images() {
    let process = Process {
        entry_point: vec!["/run".to_owned()],
        command: vec!["app.handler".to_owned()],
        environment: [("PATH".to_owned(), "/bin".to_owned())].into(),
        working_directory: "/var/task".to_owned(),
    };
    let parts = ImageParts {
        digest: Digest::of(b"code"),
        config: Digest::of(b"config"),
        layers: vec![Digest::of(b"low"), Digest::of(b"high")],
        bytes: 7,
    };
    let image = StoredImage {
        account: AccountId::default_account(),
        name: "team/hello".parse().unwrap(),
        tag: "v1".parse().unwrap(),
        parts: parts.clone(),
        process: process.clone(),
        created: Timestamp::from_micros(1_795_217_079_123_456),
    };
    let record = ImageRecord::from(&image);
    check(&record, include_str!("golden/image-1.json"));
    let back = record.into_model(image.account.clone(), image.name.clone(), image.tag.clone());
    assert_eq!(back, image);
    let used = ImageUse {
        uri: "team/hello:v1".to_owned(),
        resolved_uri: format!("team/hello@sha256:{}", parts.digest),
        parts,
        process,
        config: ImageConfig {
            entry_point: vec!["/mine".to_owned()],
            command: vec!["other.handler".to_owned()],
            working_directory: "/tmp".to_owned(),
        },
    };
    let mut latest = configuration(State::Active, LastUpdate::Successful);
    latest.image = Some(used);
    let record = VersionRecord {
        configuration: (&latest).into(),
        source_description: String::new(),
    };
    check(&record, include_str!("golden/version-1-image.json"));
    let (account, name) = (latest.account.clone(), latest.name.clone());
    let back = record.configuration.into_model(account, name, Version::Latest);
    assert_eq!(back, latest);
}

#[test]
fn aliases() {
    let alias = Alias {
        account: AccountId::default_account(),
        function: "f".parse().unwrap(),
        name: "live".parse().unwrap(),
        version: Version::Number(1),
        description: String::new(),
        routing: Some((Version::Number(2), 0.1)),
        revision_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
    };
    let record = AliasRecord::from(&alias);
    check(&record, include_str!("golden/alias-1.json"));
    let back = record.into_model(alias.account.clone(), alias.function.clone(), alias.name.clone());
    assert_eq!(back.unwrap(), alias);
}

#[test]
fn retired_functions() {
    check(
        &RetiredRecord { next_version: 4 },
        include_str!("golden/retired-1.json"),
    );
}

#[test]
fn identities() {
    let id = "00c0ffee00c0ffee".to_owned();
    check(&IdentityRecord { id }, include_str!("golden/identity-1.json"));
}

#[test]
fn leases() {
    check(
        &LeaseRecord {
            holder: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
        },
        include_str!("golden/lease-1.json"),
    );
}

#[test]
fn event_invoke_configurations() {
    let config = EventInvokeConfig {
        account: AccountId::default_account(),
        function: "f".parse().unwrap(),
        qualifier: "live".parse().unwrap(),
        settings: EventInvokeSettings {
            retries_max: Some(1),
            age_seconds_max: None,
            on_success: None,
            on_failure: Some("arn:aws:sqs:us-east-1:000000000000:dead".to_owned()),
        },
        last_modified: Timestamp::from_micros(1_795_217_079_123_456),
    };
    let record = EventInvokeRecord::from(&config);
    check(&record, include_str!("golden/event-invoke-1.json"));
    let back = record.into_model(config.account.clone(), config.function.clone(), "live");
    assert_eq!(back.unwrap(), config);
}

#[test]
fn policies() {
    let grant = Grant {
        statement_id: "partner".to_owned(),
        action: "lambda:InvokeFunction".to_owned(),
        principal: "111122223333".to_owned(),
        source_arn: Some("arn:aws:s3:::uploads".to_owned()),
        ..Grant::default()
    };
    let mut policy = Policy::empty();
    let resource = "arn:aws:lambda:us-east-1:000000000000:function:f:live";
    policy.statements.push(grant.statement(resource).unwrap());
    let model = ResourcePolicy {
        account: AccountId::default_account(),
        function: "f".parse().unwrap(),
        qualifier: "live".parse().unwrap(),
        policy,
        revision_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
    };
    let record = PolicyRecord::from(&model);
    check(&record, include_str!("golden/policy-1.json"));
    let back = record.into_model(model.account.clone(), model.function.clone(), "live");
    assert_eq!(back.unwrap(), model);
}

#[test]
fn access_keys() {
    let key = AccessKey {
        id: "BOWLEXAMPLE".to_owned(),
        account: "111122223333".parse().unwrap(),
        secret: Secret::new("wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY00"),
        created: Timestamp::from_micros(1_795_217_079_123_456),
    };
    let record = AccessKeyRecord::from(&key);
    check(&record, include_str!("golden/access-key-1.json"));
    assert!(!format!("{record:?}").contains(key.secret.reveal()));
    assert_eq!(record.into_model(key.id.clone()), key);
}

#[test]
fn versions_with_layers() {
    let mut configuration = configuration(State::Active, LastUpdate::Successful);
    configuration.layers = vec![LayerUse {
        arn: "arn:aws:lambda:us-east-1:000000000000:layer:knots:1".to_owned(),
        code: CodePackage {
            digest: Digest::of(b"layer"),
            bytes: 5,
        },
        unzipped_bytes: 50,
    }];
    let record = VersionRecord {
        configuration: (&configuration).into(),
        source_description: String::new(),
    };
    check(&record, include_str!("golden/version-1-layers.json"));
    let (account, name) = (configuration.account.clone(), configuration.name.clone());
    assert_eq!(
        record.configuration.into_model(account, name, Version::Latest),
        configuration
    );
}

#[test]
fn layers() {
    check(&LayerRecord { next_version: 4 }, include_str!("golden/layer-1.json"));
    let version = LayerVersion {
        account: AccountId::default_account(),
        name: "knots".parse().unwrap(),
        number: 3,
        description: "knots for all".to_owned(),
        license: Some("MIT".to_owned()),
        runtimes: vec!["python3.12".to_owned()],
        architectures: vec![Architecture::Arm64],
        code: CodePackage {
            digest: Digest::of(b"layer"),
            bytes: 5,
        },
        unzipped_bytes: 50,
        created: Timestamp::from_micros(1_795_217_079_123_456),
        policy: LayerPolicy {
            revision_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
            statements: vec![
                LayerStatement {
                    id: "one".to_owned(),
                    principal: LayerPrincipal::Account("123456789012".parse().unwrap()),
                    organization: None,
                },
                LayerStatement {
                    id: "all".to_owned(),
                    principal: LayerPrincipal::Everybody,
                    organization: Some("o-t194hfs8cz".to_owned()),
                },
            ],
        },
    };
    let record = LayerVersionRecord::from(&version);
    check(&record, include_str!("golden/layer-version-1.json"));
    let back = record.into_model(version.account.clone(), version.name.clone(), 3);
    assert_eq!(back, version);
}

#[test]
fn attachments() {
    let at = Timestamp::from_micros(1_795_217_079_123_456);
    let url = Url {
        id: "a2".repeat(16),
        auth: UrlAuth::AwsIam,
        mode: InvokeMode::ResponseStream,
        cors: Some(Cors {
            allow_origins: Some(vec!["https://example.org".to_owned()]),
            max_age: Some(60),
            ..Cors::default()
        }),
        needs: UrlNeeds::Url,
        created: at,
        last_modified: at,
    };
    let newer = Url {
        needs: UrlNeeds::UrlAndFunction,
        ..url.clone()
    };
    let attached = Attached {
        url: Some(std::sync::Arc::new(newer)),
        ..Attached::default()
    };
    let record = AttachedRecord::from(&attached);
    check(&record, include_str!("golden/attached-1-url.json"));
    assert_eq!(Attached::from(record), attached);

    let attached = Attached {
        url: Some(std::sync::Arc::new(url)),
        provisioned: Some(Provisioned {
            requested: 2,
            last_modified: at,
        }),
        runtime: Some(RuntimeManagement::Manual(
            "arn:aws:lambda:us-east-1::runtime:1".to_owned(),
        )),
        ..Attached::default()
    };
    let record = AttachedRecord::from(&attached);
    check(&record, include_str!("golden/attached-1.json"));
    assert_eq!(Attached::from(record), attached);

    let attachment = Attachment {
        folder: None,
        id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
        access: Access::Read,
    };
    let attached = Attached {
        state: [("counter".parse().unwrap(), attachment)].into(),
        ..Attached::default()
    };
    let record = AttachedRecord::from(&attached);
    check(&record, include_str!("golden/attached-state-1.json"));
    assert_eq!(Attached::from(record), attached);
}

#[test]
fn what_is_attached_keeps_its_format() {
    let attachment = Attachment {
        folder: Some(AttachedFolder {
            kind: FolderKind::Volume,
            at: "/mnt/index".to_owned(),
            writers: Writers::One,
            node: "node-1".to_owned(),
            generation: 2,
        }),
        id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
        access: Access::Write,
    };
    let attached = Attached {
        state: [("index".parse().unwrap(), attachment)].into(),
        ..Attached::default()
    };
    let record = AttachedRecord::from(&attached);
    check(&record, include_str!("golden/attached-folder-1.json"));
    assert_eq!(Attached::from(record), attached);
}

#[test]
fn sizes_of_versions() {
    let condition = AdjustmentCondition {
        runs_min: 2,
        cooldown_runs: 2,
        ..AdjustmentCondition::default()
    };
    let mut sizing = Profile::new(Mebibytes(512), Mode::Auto);
    for run in 1..=2 {
        let sample = Sample {
            run: RunId(run),
            limit: Mebibytes(512),
            peak: Mebibytes(100),
            duration_ms: 5,
            outcome: Outcome::Ok,
        };
        sizing.record(&condition, sample, Mebibytes(1024));
    }
    let attached = Attached {
        sizing: Some(sizing),
        ..Attached::default()
    };
    let record = AttachedRecord::from(&attached);
    check(&record, include_str!("golden/attached-1-sizing.json"));
    assert_eq!(Attached::from(record), attached);
}

#[test]
fn mappings() {
    let mapping = Mapping {
        id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
        account: AccountId::default_account(),
        function: FunctionRef::parse("f:live", None, &AccountId::default_account()).unwrap(),
        source_arn: "arn:aws:kinesis:us-east-1:000000000000:stream/orders".to_owned(),
        start: MappingStart::AtTimestamp(Timestamp::from_micros(1_795_217_079_000_000)),
        settings: MappingSettings {
            retries_max: Some(3),
            filters: vec!["{}".to_owned()],
            ..MappingSettings::default()
        },
        last_modified: Timestamp::from_micros(1_795_217_079_123_456),
        state: MappingState::Enabled,
        last_result: "No records processed".to_owned(),
        tags: Default::default(),
    };
    let session = Some("0".repeat(32));
    let record = MappingRecord::new(&mapping, session.clone());
    check(&record, include_str!("golden/mapping-1.json"));
    assert_eq!(
        record.into_model(mapping.id.clone()).unwrap(),
        (mapping.clone(), session.clone())
    );
    let tagged = Mapping {
        tags: [("team".to_owned(), "orders".to_owned())].into(),
        ..mapping
    };
    let record = MappingRecord::new(&tagged, session.clone());
    check(&record, include_str!("golden/mapping-1-tags.json"));
    assert_eq!(
        record.into_model(tagged.id.clone()).unwrap(),
        (tagged.clone(), session.clone())
    );
    let mut counting = tagged;
    counting.settings.counts_events = true;
    let record = MappingRecord::new(&counting, session.clone());
    check(&record, include_str!("golden/mapping-1-counts.json"));
    assert_eq!(record.into_model(counting.id.clone()).unwrap(), (counting, session));
}

#[test]
fn audit_rows() {
    let record = AuditRecord {
        account: AccountId::default_account(),
        request_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
        action: "CreateAlias".to_owned(),
        subject: "000000000000/f:live".to_owned(),
        before: None,
        after: Some(Digest::of(b"after")),
        at_micros: 1_795_217_079_123_456,
    };
    check(&record, include_str!("golden/audit-1.json"));
}

#[test]
fn other_formats_and_damage_are_told_apart() {
    let newer = br#"{"format":2,"record":{"next_version":4,"more":1}}"#;
    assert!(matches!(
        RetiredRecord::decode(newer),
        Err(FrameError::Format { actual: 2, expected: 1 })
    ));
    assert!(matches!(RetiredRecord::decode(b"{}"), Err(FrameError::Json(_))));
    assert!(matches!(RetiredRecord::decode(b"\xff"), Err(FrameError::Json(_))));
}
