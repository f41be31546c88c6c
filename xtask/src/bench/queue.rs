//! Event sources: from a message's arrival in an SQS queue until its batch is over.
//!
//! The queue is as quick as one can be: it holds one message and gives it to whoever asks first. A message is over when
//! it is deleted, which its function's start, its answer and one more request lie before.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_foundation::clock::{Clock, Monotonic};
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, Node, patience};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, progress};

/// Messages of one round, one after the other.
const MESSAGES: usize = 300;
const OVER_MS_MAX: f64 = 20.0;
const PATIENCE: Duration = Duration::from_secs(60);
const SOURCE: &str = "arn:aws:sqs:us-east-1:000000000000:jobs";

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let queue = Queue::start()?;
    let variable = |name: &str, value: &str| (name.into(), value.into());
    let settings = Settings {
        environment: vec![
            variable("BOWLINE_SQS_ENDPOINT", &format!("http://{}", queue.address)),
            variable("AWS_ACCESS_KEY_ID", "any"),
            variable("AWS_SECRET_ACCESS_KEY", "any"),
        ],
        ..Settings::default()
    };
    let node = Node::start_build(&subjects.node, settings)?;
    let lambda = node.lambda();
    lambda.deploy("worker", &Artifact::native()?, json!({}))?;
    map(&lambda)?;
    let mut medians = Vec::new();
    for round in 0..=effort.rounds {
        progress(&format!("messages of a queue, round {round} of {}", effort.rounds));
        let times: Vec<f64> = (0..MESSAGES)
            .map(|_| Ok(queue.pass_one()?.as_secs_f64() * 1e3))
            .collect::<Result<_>>()?;
        // The first round only warms up.
        if round > 0 {
            medians.push(median(times));
        }
    }
    let row = "SQS message, from its arrival until its batch is over, native bootstrap, p50";
    Ok(vec![Row::judged(
        row,
        "ms",
        Goal::Below(OVER_MS_MAX),
        median(medians),
        None,
    )])
}

/// Lets the function work off the queue.
fn map(lambda: &Lambda) -> Result<()> {
    let mapping = json!({ "FunctionName": "worker", "EventSourceArn": SOURCE });
    let made = lambda
        .post("/2015-03-31/event-source-mappings", &mapping)?
        .expect(202)?;
    let id = made.json()["UUID"]
        .as_str()
        .context("a mapping without a name")?
        .to_owned();
    let path = format!("/2015-03-31/event-source-mappings/{id}");
    let enabled = patience::until(PATIENCE, || {
        let shown = lambda.get(&path).ok()?.json();
        (shown["State"] == "Enabled").then_some(())
    });
    enabled.context("the mapping does not begin")
}

/// A server with one queue.
struct Queue {
    address: SocketAddr,
    messages: tokio::sync::mpsc::UnboundedSender<()>,
    deleted: Receiver<Monotonic>,
    clock: Clock,
    _runtime: Runtime,
}

/// What the server's connections share.
struct Shared {
    messages: Mutex<tokio::sync::mpsc::UnboundedReceiver<()>>,
    deleted: Sender<Monotonic>,
    clock: Clock,
}

impl Queue {
    fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0)))?;
        let address = listener.local_addr()?;
        let (messages, receiver) = tokio::sync::mpsc::unbounded_channel();
        let (deleted, deletions) = channel();
        let clock = Clock::system();
        let shared = Arc::new(Shared {
            messages: Mutex::new(receiver),
            deleted,
            clock: clock.clone(),
        });
        runtime.spawn(serve(listener, shared));
        Ok(Self {
            address,
            messages,
            deleted: deletions,
            clock,
            _runtime: runtime,
        })
    }

    /// Puts a message in and waits until it is deleted.
    fn pass_one(&self) -> Result<Duration> {
        let begin = self.clock.monotonic();
        self.messages.send(()).context("the server has ended")?;
        let over = self
            .deleted
            .recv_timeout(PATIENCE)
            .context("the message is not deleted")?;
        Ok(over.since(begin))
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let answer = service_fn(move |request| answer(shared.clone(), request));
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            // A client that goes away is no event worth telling.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.headers().get("x-amz-target").cloned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes());
    let asked: Value = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok())
        .unwrap_or_default();
    let target = target
        .as_ref()
        .and_then(|target| target.to_str().ok())
        .unwrap_or_default();
    let answer = match target {
        "AmazonSQS.GetQueueUrl" => json!({ "QueueUrl": "http://queue/jobs" }),
        "AmazonSQS.GetQueueAttributes" => json!({ "Attributes": { "VisibilityTimeout": "30" } }),
        "AmazonSQS.ReceiveMessage" => receive(&shared, &asked).await,
        "AmazonSQS.DeleteMessageBatch" => {
            let _ = shared.deleted.send(shared.clock.monotonic());
            json!({ "Successful": [], "Failed": [] })
        }
        other => return Ok(refuse(other)),
    };
    Ok(Response::new(answer.to_string().into()))
}

/// What the queue does not know must not pass for work done.
fn refuse(target: &str) -> Response<Full<Bytes>> {
    let told = json!({ "__type": "InvalidAction", "message": format!("this queue has no `{target}`") });
    let mut response = Response::new(Full::from(told.to_string()));
    *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
    response
}

/// The next message, if one comes while the asker waits.
async fn receive(shared: &Shared, asked: &Value) -> Value {
    let wait = Duration::from_secs(asked["WaitTimeSeconds"].as_u64().unwrap_or_default());
    let next = async { shared.messages.lock().await.recv().await };
    match tokio::time::timeout(wait, next).await {
        Ok(Some(())) => json!({ "Messages": [{
            "MessageId": "message", "ReceiptHandle": "receipt", "Body": "{}", "MD5OfBody": "any",
            "Attributes": { "ApproximateReceiveCount": "1", "SentTimestamp": "0" },
        }] }),
        _ => json!({}),
    }
}
