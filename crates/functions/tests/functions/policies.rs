//! Resource policies: how they come and go, and whom they let in.

use std::sync::Arc;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_functions::error::Error;
use bowline_functions::model::attached::{InvokeMode, Url, UrlConfig, UrlNeeds};
use bowline_functions::model::{CreateAlias, PublishVersion};
use bowline_functions::name::Version;
use bowline_functions::policy::{Grant, POLICY_BYTES_MAX, UrlAuth};

use crate::world::{World, caller, target};

fn partner() -> AccountId {
    "111122223333".parse().unwrap()
}

fn grant(sid: &str, action: &str, principal: &str) -> Grant {
    Grant {
        statement_id: sid.to_owned(),
        action: action.to_owned(),
        principal: principal.to_owned(),
        ..Grant::default()
    }
}

impl World {
    async fn grant(&self, to: &str, grant: Grant) -> Result<(), Error> {
        let (caller, target) = (caller(), target(to));
        let added = self.handle.add_permission(&caller, &target, grant, None);
        added.await.map(drop)
    }

    fn lets_in(&self, name: &str, action: &str) -> bool {
        match self.handle.authorize(&partner(), action, &target(name)) {
            Ok(()) => true,
            Err(Error::AccessDenied(message)) => {
                assert!(message.contains("is not authorized to perform: lambda:"), "{message}");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// A function `f` with version 1 and the alias `live` on it.
async fn world() -> World {
    let world = World::durable().await;
    world.deploy("f").await;
    let publish = PublishVersion::default();
    world
        .handle
        .publish_version(&caller(), &target("f"), publish)
        .await
        .unwrap();
    let alias = CreateAlias {
        name: "live".parse().unwrap(),
        version: Version::Number(1),
        description: String::new(),
        routing: None,
    };
    world.handle.create_alias(&caller(), &target("f"), alias).await.unwrap();
    world
}

#[tokio::test]
async fn a_permission_lets_in_one_account_to_one_qualifier() {
    let world = world().await;
    let all = ["f", "f:1", "f:live", "f:$LATEST"];
    for name in all {
        assert!(!world.lets_in(name, "InvokeFunction"), "{name}");
    }
    world
        .grant("f:live", grant("s", "lambda:InvokeFunction", "111122223333"))
        .await
        .unwrap();
    let open: Vec<_> = all
        .into_iter()
        .filter(|name| world.lets_in(name, "InvokeFunction"))
        .collect();
    assert_eq!(open, ["f:live"]);
    assert!(!world.lets_in("f:live", "GetFunction"));
    assert!(
        world
            .handle
            .authorize(&AccountId::default_account(), "GetFunction", &target("f"))
            .is_ok(),
        "the owner needs no permission"
    );
    assert!(
        !world.lets_in("nobody", "InvokeFunction"),
        "what is not there is denied, not missing"
    );
}

#[tokio::test]
async fn a_policy_survives_a_restart_and_goes_with_what_it_is_about() {
    let world = world().await;
    for to in ["f", "f:1", "f:live"] {
        world
            .grant(to, grant("s", "lambda:InvokeFunction", "111122223333"))
            .await
            .unwrap();
    }
    let before = world.handle.get_policy(&target("f:live")).unwrap();
    let world = world.restart().await;
    assert_eq!(world.handle.get_policy(&target("f:live")).unwrap(), before);
    assert!(world.lets_in("f:1", "InvokeFunction"));
    let live = "live".parse().unwrap();
    world.handle.delete_alias(&caller(), &target("f"), &live).await.unwrap();
    world.handle.delete_function(&caller(), &target("f:1")).await.unwrap();
    assert!(!world.lets_in("f:1", "InvokeFunction"));
    assert!(world.lets_in("f", "InvokeFunction"));
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    world.deploy("f").await;
    let world = world.restart().await;
    assert!(
        !world.lets_in("f", "InvokeFunction"),
        "a new function has no old policy"
    );
}

#[tokio::test]
async fn statements_come_and_go_one_by_one() {
    let world = world().await;
    let invoke = "lambda:InvokeFunction";
    world.grant("f", grant("one", invoke, "111122223333")).await.unwrap();
    let repeated = world.grant("f", grant("one", invoke, "*")).await;
    assert!(matches!(repeated, Err(Error::Conflict(_))), "{repeated:?}");
    let first = world.handle.get_policy(&target("f")).unwrap();
    let revision = Some(first.revision_id.clone());
    let second = grant("two", "lambda:GetFunction", "111122223333");
    world
        .handle
        .add_permission(&caller(), &target("f"), second, revision.clone())
        .await
        .unwrap();
    let stale = world
        .handle
        .remove_permission(&caller(), &target("f"), "one", revision)
        .await;
    assert!(matches!(stale, Err(Error::PreconditionFailed(_))), "{stale:?}");
    let remove = async |sid: &str| world.handle.remove_permission(&caller(), &target("f"), sid, None).await;
    assert!(matches!(remove("three").await, Err(Error::NotFound(_))));
    remove("one").await.unwrap();
    assert!(!world.lets_in("f", "InvokeFunction"));
    assert!(world.lets_in("f", "GetFunction"));
    remove("two").await.unwrap();
    let gone = world.handle.get_policy(&target("f"));
    assert!(matches!(gone, Err(Error::NotFound(_))), "{gone:?}");
    let rows = world.handle.audited("000000000000/f").await.unwrap();
    assert_eq!(
        rows[rows.len() - 4..],
        ["AddPermission", "AddPermission", "RemovePermission", "RemovePermission"]
    );
}

#[tokio::test]
async fn a_policy_grows_to_its_limit_only() {
    let world = world().await;
    let mut added = 0;
    let refused = loop {
        let sid = format!("{added:0100}");
        match world.grant("f", grant(&sid, "lambda:InvokeFunction", "*")).await {
            Ok(()) => added += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, Error::PolicyLengthExceeded(_)), "{refused}");
    let bytes = world.handle.get_policy(&target("f")).unwrap().policy.document().len();
    assert!(bytes <= POLICY_BYTES_MAX && bytes > POLICY_BYTES_MAX - 400, "{bytes}");
}

#[tokio::test]
async fn whole_documents_replace_the_policy() {
    let world = world().await;
    let put =
        async |name: &str, document: String| world.handle.put_policy(&caller(), &target(name), document, None).await;
    let document = |principal: &str, resource: &str| {
        format!(
            r#"{{"Version":"2012-10-17","Statement":{{"Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":"lambda:*","Resource":"{resource}"}}}}"#
        )
    };
    let arn = "arn:aws:lambda:us-east-1:000000000000:function:f";
    world
        .grant("f", grant("s", "lambda:InvokeFunction", "444455556666"))
        .await
        .unwrap();
    put("f", document("111122223333", arn)).await.unwrap();
    assert!(world.lets_in("f", "UpdateFunctionCode"));
    let shown = world.handle.get_policy(&target("f")).unwrap().policy;
    assert_eq!(shown.statements.len(), 1);
    let strange = put("f:1", document("111122223333", arn)).await;
    assert!(matches!(strange, Err(Error::InvalidParameter(_))), "{strange:?}");
    let latest = put("f:$LATEST", document("111122223333", "*")).await;
    assert!(matches!(latest, Err(Error::InvalidParameter(_))), "{latest:?}");
    world.handle.delete_policy(&caller(), &target("f"), None).await.unwrap();
    assert!(!world.lets_in("f", "UpdateFunctionCode"));
}

/// The URL of `f`, guarded by `auth`.
fn url(auth: UrlAuth, needs: UrlNeeds) -> UrlConfig {
    let url = Url {
        id: "a".repeat(32),
        auth,
        mode: InvokeMode::Buffered,
        cors: None,
        needs,
        created: Timestamp::default(),
        last_modified: Timestamp::default(),
    };
    UrlConfig {
        target: target("f"),
        url: Arc::new(url),
    }
}

#[tokio::test]
async fn a_url_is_called_by_whom_the_policy_allows() {
    let world = world().await;
    let owner = AccountId::default_account();
    let ask =
        |account: Option<&AccountId>, auth, needs| world.handle.may_invoke_url(account, &url(auth, needs)).is_ok();
    let may = |account: Option<&AccountId>, auth| ask(account, auth, UrlNeeds::UrlAndFunction);
    assert!(!may(None, UrlAuth::None), "even an open URL needs a policy");
    assert!(!may(None, UrlAuth::AwsIam));
    assert!(may(Some(&owner), UrlAuth::AwsIam));
    assert!(!may(Some(&partner()), UrlAuth::AwsIam));
    let open = Grant {
        url_auth: Some(UrlAuth::None),
        ..grant("open", "lambda:InvokeFunctionUrl", "*")
    };
    world.grant("f", open).await.unwrap();
    assert!(!may(None, UrlAuth::None), "the function has to be open too");
    assert!(ask(None, UrlAuth::None, UrlNeeds::Url), "URLs from before go on");
    let function = Grant {
        via_url: Some(true),
        ..grant("function", "lambda:InvokeFunction", "*")
    };
    world.grant("f", function).await.unwrap();
    assert!(may(None, UrlAuth::None));
    assert!(may(Some(&partner()), UrlAuth::None));
    assert!(
        !may(Some(&partner()), UrlAuth::AwsIam),
        "the statement is about open URLs"
    );
    assert!(!world.lets_in("f", "InvokeFunction"), "by URL alone");
    let guarded = Grant {
        url_auth: Some(UrlAuth::AwsIam),
        ..grant("guarded", "lambda:InvokeFunctionUrl", "111122223333")
    };
    world.grant("f", guarded).await.unwrap();
    assert!(may(Some(&partner()), UrlAuth::AwsIam));
    assert!(!may(None, UrlAuth::AwsIam), "a guarded URL wants a signature");
}
