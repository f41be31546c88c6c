//! Durable executions over a real store, with functions that do what a test says.

mod crash;
mod guest;

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_functions::durable::{
    Callback, Data, EventType, ExecutionArn, ExecutionFilter, ExecutionStatus, Paging, Timing,
};
use bowline_functions::error::Error;
use bowline_functions::metrics::Metrics;
use bowline_functions::model::DurableSettings;
use bowline_functions::name::FunctionRef;
use bowline_functions::{CrashPoints, Handle, Service};
use bowline_sandbox::SandboxKind;
use bowline_store::blob::Blobs;
use bowline_store::{Key, MemoryStore, Sharing, Store};
use serde_json::{Value, json};

use crate::fake::{Fake, FakeBackend, PATIENCE};
use crate::world::{WorldSettings, caller, creation, options, request, target};

/// A function's `$LATEST`, named as durable functions must be.
fn latest(name: &str) -> FunctionRef {
    target(&format!("{name}:$LATEST"))
}

fn timing() -> Timing {
    Timing {
        retry: Duration::from_millis(20),
        backoff_first: Duration::from_millis(20),
        backoff_longest: Duration::from_millis(100),
        lease: Duration::from_secs(2),
        look_every: Duration::from_millis(50),
    }
}

/// A service over a store, whose durable functions run `guest`'s program.
struct Node {
    service: Service,
    handle: Handle,
    fake: Arc<Fake>,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn over(store: Arc<dyn Store>, blobs: Blobs, sharing: Sharing) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = WorldSettings {
            sharing,
            ..WorldSettings::default()
        };
        let mut options = options(store, blobs, folder.path(), settings);
        let fake = Fake::new(SandboxKind::Linux);
        options.clock = Clock::system();
        options.durable.timing = timing();
        options.metrics = Metrics::default();
        options.backends = vec![Arc::new(FakeBackend(fake.clone()))];
        let service = Service::start_with(options, CrashPoints::default()).await.unwrap();
        let handle = service.handle();
        guest::serve(&fake, &handle);
        Self {
            service,
            handle,
            fake,
            _folder: folder,
        }
    }

    async fn new() -> Self {
        Self::over(Arc::new(MemoryStore::default()), Blobs::in_memory(), Sharing::Exclusive).await
    }

    async fn deploy(&self, name: &str, durable: bool) {
        let mut creation = creation(name, "one");
        creation.settings.durable = durable.then_some(DurableSettings {
            execution_timeout_seconds: Some(300),
            retention_days: Some(1),
        });
        self.handle.create_function(&caller(), creation).await.unwrap();
        self.handle.settled(&target(name)).await.unwrap();
    }

    /// Starts an execution of a program.
    async fn start(&self, name: &str, program: Value) -> ExecutionArn {
        let event = request(json!({ "program": program }));
        self.handle.accept(&latest(name), event).await.unwrap().unwrap()
    }

    async fn ended(&self, arn: &ExecutionArn) -> bowline_functions::durable::ExecutionView {
        ended(&self.handle, arn).await
    }

    async fn kinds(&self, arn: &ExecutionArn) -> Vec<EventType> {
        let paging = Paging {
            items_max: Some(1000),
            ..Paging::default()
        };
        let found = self
            .handle
            .execution_history(arn, Data::Included, false, &paging)
            .await
            .unwrap();
        found.items.iter().map(|view| view.event.kind).collect()
    }
}

/// Waits for the end of an execution.
async fn ended(handle: &Handle, arn: &ExecutionArn) -> bowline_functions::durable::ExecutionView {
    let looking = async {
        loop {
            let view = handle.execution(arn, Data::Included).await.unwrap();
            if view.ended.is_some() {
                return view;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .expect("the execution ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_goes_on_where_it_stopped() {
    let node = Node::new().await;
    node.deploy("f", true).await;
    node.deploy("plain", false).await;
    let program = json!(["step", "wait", "step", { "chain": "plain" }, "step"]);
    let arn = node.start("f", program).await;
    let view = node.ended(&arn).await;
    assert_eq!(view.status, ExecutionStatus::Succeeded, "{:?}", view.error);
    let results: Vec<Value> = serde_json::from_str(&view.result.unwrap()).unwrap();
    assert_eq!(results.len(), 5);
    use EventType::*;
    let told = node.kinds(&arn).await;
    // The other function may end before this one's invocation has, or after.
    let (invocations, told): (Vec<_>, Vec<_>) = told.into_iter().partition(|kind| *kind == InvocationCompleted);
    assert_eq!(invocations.len(), 3);
    let expected = [
        ExecutionStarted,
        StepStarted,
        StepSucceeded,
        WaitStarted,
        WaitSucceeded,
        StepStarted,
        StepSucceeded,
        ChainedInvokeStarted,
        ChainedInvokeSucceeded,
        StepStarted,
        StepSucceeded,
        ExecutionSucceeded,
    ];
    assert_eq!(told, expected);
    // Three invocations of the function and one of the other.
    assert_eq!(node.fake.count().invoked, 4);
    node.service.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_durable_child_is_an_execution_of_its_own() {
    let node = Node::new().await;
    node.deploy("f", true).await;
    node.deploy("child", true).await;
    let program = json!([{ "chain": "child:$LATEST", "event": { "program": ["step"] } }]);
    let view = node.ended(&node.start("f", program).await).await;
    assert_eq!(view.status, ExecutionStatus::Succeeded, "{:?}", view.error);
    let filter = ExecutionFilter::default();
    let listed = node
        .handle
        .executions(&target("child"), &filter, &Paging::default())
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].status, ExecutionStatus::Succeeded);
    let failing = node.start("f", json!([{ "chain": "nobody" }])).await;
    let view = node.ended(&failing).await;
    assert_eq!(view.status, ExecutionStatus::Failed);
    assert!(view.error.unwrap().get().contains("ResourceNotFoundException"));
    node.service.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_wakes_its_execution_and_only_once() {
    let node = Node::new().await;
    node.deploy("f", true).await;
    let arn = node.start("f", json!(["callback"])).await;
    let id = guest::callback_id(&node.handle, &arn).await;
    node.handle.complete_callback(&id, Callback::Heartbeat).await.unwrap();
    let success = || Callback::Success("\"yes\"".into());
    node.handle.complete_callback(&id, success()).await.unwrap();
    let view = node.ended(&arn).await;
    assert_eq!(view.result.as_deref(), Some(r#"["\"yes\""]"#));
    let again = node.handle.complete_callback(&id, success()).await;
    assert!(matches!(again, Err(Error::CallbackTimeout(_))), "{again:?}");
    let forged = node.handle.complete_callback("bm8=", success()).await;
    assert!(matches!(forged, Err(Error::InvalidParameter(_))), "{forged:?}");
    node.service.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_means_the_same_execution_or_none() {
    let node = Node::new().await;
    node.deploy("f", true).await;
    let (handle, name) = (&node.handle, || "order-7".parse().unwrap());
    let event = |n: u64| request(json!({ "program": ["step"], "n": n }));
    let first = handle.invoke_execution(&latest("f"), event(1), name()).await.unwrap();
    let again = handle.accept_execution(&latest("f"), event(1), name()).await.unwrap();
    assert_eq!(first.execution, Some(again.clone()));
    let other = handle.accept_execution(&latest("f"), event(2), name()).await;
    assert!(matches!(other, Err(Error::AlreadyStarted(_))), "{other:?}");
    let unqualified = handle.invoke(&target("f"), event(1)).await;
    assert!(matches!(unqualified, Err(Error::InvalidParameter(_))));
    handle.delete_execution(&again).await.unwrap();
    let gone = async {
        while handle.execution(&again, Data::Left).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is removed");
    assert!(
        handle.accept_execution(&latest("f"), event(2), name()).await.is_ok(),
        "the name is free"
    );
    node.service.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_an_execution_that_was_deleted() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let node = Node::over(store.clone(), Blobs::in_memory(), Sharing::Exclusive).await;
    node.deploy("f", true).await;
    let rows = async || store.scan(&Key::from("durable/"), None, 10_000).await.unwrap().len();
    assert_eq!(rows().await, 0);
    let arn = node.start("f", json!(["step", { "large": 3_000_000 }, "step"])).await;
    let view = node.ended(&arn).await;
    assert_eq!(
        view.status,
        ExecutionStatus::Failed,
        "a payload of an operation has at most a mebibyte"
    );
    let arn = node.start("f", json!([{ "large": 1_000_000 }])).await;
    let view = node.ended(&arn).await;
    let results: Vec<String> = serde_json::from_str(&view.result.unwrap()).unwrap();
    assert_eq!(results[0].len(), 1_000_000);
    assert!(rows().await > 5);
    let filter = ExecutionFilter::default();
    let all = node
        .handle
        .executions(&target("f"), &filter, &Paging::default())
        .await
        .unwrap();
    for execution in &all.items {
        node.handle.delete_execution(&execution.arn).await.unwrap();
    }
    let empty = async {
        while rows().await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, empty).await.expect("nothing is left");
    node.service.shut_down().await;
}

/// Two nodes over one store: each execution is in one hand at a time, whoever has it.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_share_executions_and_never_one() {
    const EXECUTIONS: usize = 20;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let blobs = Blobs::in_memory();
    let first = Node::over(store.clone(), blobs.clone(), Sharing::Shared).await;
    first.deploy("f", true).await;
    let second = Node::over(store, blobs, Sharing::Shared).await;
    let mut started = Vec::new();
    for n in 0..EXECUTIONS {
        let node = if n % 2 == 0 { &first } else { &second };
        started.push(node.start("f", json!(["step", "wait", "step"])).await);
    }
    for arn in &started {
        let view = first.ended(arn).await;
        assert_eq!(view.status, ExecutionStatus::Succeeded, "{:?}", view.error);
    }
    // Twice each: until the wait, and after it. An execution in two hands would be invoked more often.
    let (one, two) = (first.fake.count().invoked, second.fake.count().invoked);
    assert_eq!(one + two, EXECUTIONS * 2, "{one} and {two}");
    assert!(one > 0 && two > 0, "{one} and {two}");
    first.service.shut_down().await;
    second.service.shut_down().await;
}
