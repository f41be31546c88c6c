//! What the node bears of an agent that a hostile guest has taken over, and what it does not.

use std::path::PathBuf;
use std::task::{Context, Poll};

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_sandbox::{
    AnswerSink, CodeDir, Deadline, MemoryLog, Platform, PlatformRequest, PlatformResponse, Runtime, answer,
};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::*;
use crate::channel::{self, Accept, MemoryAccept};
use crate::link::{CodeWay, LinkNews, LinkOptions};
use crate::message::{self, ANSWER_WINDOW, ASKS_BYTES_MAX, ASKS_MAX, Welcome};

const BUDGET: Duration = Duration::from_secs(3);
const SECOND: Duration = Duration::from_secs(1);
const MEMORY: Mebibytes = Mebibytes(128);

/// The node's hold on an agent that does what the test says.
struct Grip {
    link: Link,
    accept: MemoryAccept,
    _news: mpsc::Receiver<LinkNews>,
}

impl Grip {
    async fn take() -> Self {
        let (dial, mut accept) = channel::memory();
        let options = LinkOptions {
            dial: Arc::new(dial),
            epoch: 1,
            lease: Duration::from_secs(24 * 60 * 60),
            clock: Clock::fake(Timestamp::from_micros(0)),
            code: CodeWay::Carried,
            memory_mib: None,
            maxima: None,
            made_ahead: None,
        };
        let connecting = tokio::spawn(Link::connect(options));
        let mut control = Framed::new(accept.accept().await.unwrap());
        control.must_next("a greeting").await.unwrap();
        let welcome = Welcome {
            protocol: wire::PROTOCOL,
            kinds: vec![SandboxKind::Wasm],
        };
        control.put_json(Kind::Welcome, &welcome);
        control.flush().await.unwrap();
        tokio::spawn(async move { while let Ok(Some(_)) = control.next().await {} });
        let (link, _news) = connecting.await.unwrap().unwrap();
        link.inner.contents.deliver(&version().code.digest).unwrap().done();
        Self { link, accept, _news }
    }

    fn remote(&self) -> Remote {
        Remote::new(&self.link, SandboxKind::Wasm)
    }

    /// What the node says on its next channel, and the channel.
    async fn asked(&mut self) -> Framed {
        let mut framed = Framed::new(self.accept.accept().await.unwrap());
        framed.must_next("a beginning").await.unwrap();
        framed
    }

    /// A sandbox with the agent's end of its channel.
    async fn sandbox(&mut self, resident_bytes: u64) -> (Box<dyn Sandbox>, Framed) {
        let remote = self.remote();
        let creating = tokio::spawn(async move { remote.create(version(), Arc::new(MemoryLog::default())).await });
        let mut framed = self.asked().await;
        framed.put_json(Kind::Created, &Created { resident_bytes });
        framed.flush().await.unwrap();
        (creating.await.unwrap().unwrap(), framed)
    }
}

pub(crate) fn version() -> Arc<VersionSpec> {
    Arc::new(VersionSpec {
        account: AccountId::default_account(),
        region: "us-east-1".to_owned(),
        function: "knots".to_owned(),
        version: "$LATEST".to_owned(),
        runtime: Runtime::ProvidedAl2023,
        handler: "app.handler".to_owned(),
        code: CodeDir {
            digest: Digest::of(b"code"),
            path: PathBuf::from("/none"),
        },
        layers: None,
        image: None,
        kind: SandboxKind::Wasm,
        memory: MEMORY,
        ephemeral_storage: Mebibytes(512),
        timeout: BUDGET,
        environment: Default::default(),
        logging: bowline_sandbox::Logging::default(),
        mounts: Vec::new(),
        processors: None,
    })
}

fn invocation(sink: Option<AnswerSink>, platform: Option<Arc<dyn Platform>>) -> Invocation {
    let clock = Clock::fake(Timestamp::from_micros(0));
    Invocation {
        request_id: RequestId::random(&Entropy::seeded(1)),
        payload: Bytes::from_static(b"{}"),
        deadline: Deadline {
            wall: clock.now().after(BUDGET),
            monotonic: clock.monotonic().after(BUDGET),
            budget: BUDGET,
        },
        invoked_arn: "arn".to_owned(),
        client_context: None,
        trace_id: None,
        sink,
        platform,
        suspension: None,
    }
}

fn put_report(framed: &mut Framed) {
    let report = Report {
        outcome: Outcome::Success(Bytes::from_static(b"1")),
        usage: Usage::default(),
        reusable: true,
    };
    let message = message::report::ReportMessage {
        report,
        settled: false,
        resident_bytes: u64::MAX,
    };
    wire::put(&mut framed.out, Kind::Report, |out| {
        message::report::put(out, &message);
    });
}

fn put_ask(framed: &mut Framed, number: u32, bytes: usize) {
    wire::put(&mut framed.out, Kind::Ask, |out| {
        message::put_ask(out, number, "POST", "/", &vec![0; bytes]);
    });
}

/// Runs an invocation beside what its agent does.
async fn run<T>(
    sandbox: &mut Box<dyn Sandbox>,
    invocation: Invocation,
    agent: impl Future<Output = T>,
) -> Result<(), String> {
    let running = sandbox.invoke(invocation);
    tokio::pin!(running, agent);
    let report = tokio::select! {
        biased;
        report = &mut running => report,
        _ = &mut agent => running.await,
    };
    match report.outcome {
        Outcome::Success(_) => Ok(()),
        Outcome::Broken(reason) => {
            assert!(!report.reusable);
            Err(reason)
        }
        Outcome::Failed(error) => {
            assert!(!report.reusable);
            Err(error.error_type)
        }
        outcome => panic!("{outcome:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn questions_of_an_agent_that_is_silent_end() {
    let mut held = Grip::take().await;
    for late in [false, true] {
        let wait = if late { WORK_MAX + SECOND } else { WORK_MAX - SECOND };
        let remote = held.remote();
        let checking = tokio::spawn(async move { remote.check(&version()).await.map_err(|error| error.to_string()) });
        let mut framed = held.asked().await;
        sleep(wait).await;
        framed.put_json(Kind::Verdict, &Verdict::Good);
        let _ = framed.flush().await;
        assert_eq!(checking.await.unwrap().is_err(), late, "a question");

        let remote = held.remote();
        let creating = tokio::spawn(async move { remote.create(version(), Arc::new(MemoryLog::default())).await });
        let mut framed = held.asked().await;
        sleep(wait).await;
        framed.put_json(Kind::Created, &Created { resident_bytes: 0 });
        let _ = framed.flush().await;
        assert_eq!(creating.await.unwrap().is_err(), late, "a sandbox");
        assert_eq!(held.link.sandboxes(), 0, "it is gone, or was none");
    }
}

#[tokio::test(start_paused = true)]
async fn code_that_is_never_taken_is_not_sent_for_ever() {
    let mut held = Grip::take().await;
    held.link.inner.contents.keep(Vec::new());
    let remote = held.remote();
    let checking = tokio::spawn(async move { remote.check(&version()).await.map_err(|error| error.to_string()) });
    let _silent = held.asked().await;
    let refused = checking.await.unwrap().unwrap_err();
    assert!(refused.contains("backend failed"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_forgotten_is_said_once_and_not_waited_for_for_ever() {
    let mut held = Grip::take().await;
    for late in [false, true] {
        let link = held.link.clone();
        let keeping = tokio::spawn(async move { link.keep_code(&[]).await });
        let framed = held.asked().await;
        sleep(if late { 2 * crate::link::KEEP_MAX } else { SECOND }).await;
        drop(framed);
        assert_eq!(keeping.await.unwrap().is_err(), late);
    }
    // One that answers without end is not listened to either.
    let link = held.link.clone();
    let keeping = tokio::spawn(async move { link.keep_code(&[]).await });
    let mut framed = held.asked().await;
    framed.put(Kind::Log, b"more");
    framed.flush().await.unwrap();
    assert_eq!(keeping.await.unwrap().unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[tokio::test(start_paused = true)]
async fn an_invocation_ends_soon_after_its_deadline_whatever_the_agent_does() {
    let mut held = Grip::take().await;
    for late in [false, true] {
        let (mut sandbox, mut framed) = held.sandbox(0).await;
        let ran = run(&mut sandbox, invocation(None, None), async {
            sleep(BUDGET + if late { GRACE + SECOND } else { GRACE - SECOND }).await;
            put_report(&mut framed);
            let _ = framed.flush().await;
        });
        // 04/T-D12: by force, and then with a time-out for its answer.
        assert_eq!(ran.await.err().as_deref(), late.then_some("Sandbox.Timedout"));
        if late {
            assert!(!sandbox.is_alive(), "it is not used again");
            continue;
        }
        assert!(!sandbox.is_settled());
        let settled = sandbox.settle();
        let mut settled = std::pin::pin!(timeout(2 * (BUDGET + GRACE), settled));
        assert_eq!(settled.as_mut().await, Ok(false), "what never settles is given up");
    }
}

/// 04/T-D12.
#[tokio::test(start_paused = true)]
async fn t_d12_a_run_whose_instance_is_ended_has_timed_out_if_its_time_was_over() {
    for (time, says) in [
        (BUDGET - SECOND, "the instance's agent broke off"),
        (BUDGET + SECOND, "Sandbox.Timedout"),
    ] {
        let mut held = Grip::take().await;
        let (mut sandbox, framed) = held.sandbox(0).await;
        let link = held.link.clone();
        let ended = run(&mut sandbox, invocation(None, None), async move {
            sleep(time).await;
            link.close();
            drop(framed);
        });
        let failure = ended.await.unwrap_err();
        assert!(failure.starts_with(says), "{time:?}: {failure}");
        assert!(!sandbox.is_alive());
    }
}

#[tokio::test(start_paused = true)]
async fn a_word_that_is_never_read_ends_the_sandbox() {
    let mut held = Grip::take().await;
    let (mut sandbox, mut framed) = held.sandbox(0).await;
    sandbox.idle().await;
    assert!(sandbox.is_alive(), "the control: there is room in the channel");
    // Reports what it has not read, until nothing goes into the channel any more.
    let payload = Bytes::from(vec![0; 1024 * 1024]);
    let large = Invocation {
        payload,
        ..invocation(None, None)
    };
    let ran = run(&mut sandbox, large, async {
        put_report(&mut framed);
        framed.flush().await.unwrap();
    });
    ran.await.unwrap();
    sandbox.idle().await;
    assert!(!sandbox.is_alive());
}

/// A platform that answers with so many bytes, or never.
struct Answers(Option<usize>);

#[async_trait]
impl Platform for Answers {
    async fn ask(&self, _: PlatformRequest) -> PlatformResponse {
        let Some(bytes) = self.0 else {
            return std::future::pending().await;
        };
        PlatformResponse {
            status: 200,
            exception: None,
            body: vec![0; bytes].into(),
        }
    }
}

#[tokio::test]
async fn no_more_requests_wait_than_an_honest_agent_sends() {
    let mut held = Grip::take().await;
    let most = u32::try_from(ASKS_MAX).unwrap();
    for (asks, bytes, refused) in [
        (most, 10, false),
        (most + 1, 10, true),
        (1, ASKS_BYTES_MAX - 5, false),
        (2, ASKS_BYTES_MAX / 2, true),
    ] {
        let (mut sandbox, mut framed) = held.sandbox(0).await;
        let ran = run(&mut sandbox, invocation(None, Some(Arc::new(Answers(None)))), async {
            (0..asks).for_each(|number| put_ask(&mut framed, number, bytes));
            put_report(&mut framed);
            framed.flush().await
        });
        let ran = ran.await;
        assert_eq!(ran.is_err(), refused, "{asks} of {bytes}: {ran:?}");
    }
}

#[tokio::test]
async fn an_agent_that_reads_no_answers_gets_no_more_of_them() {
    const ASKS: u32 = 100;
    let mut held = Grip::take().await;
    for reads in [true, false] {
        let (mut sandbox, mut framed) = held.sandbox(0).await;
        let platform = Arc::new(Answers(Some(100 * 1024)));
        let ran = run(&mut sandbox, invocation(None, Some(platform)), async {
            framed.must_next("an event").await.unwrap();
            for number in 0..ASKS {
                put_ask(&mut framed, number, 10);
                framed.flush().await?;
                if reads {
                    framed.must_next("an answer").await?.expect(Kind::Answer, "an answer")?;
                }
            }
            put_report(&mut framed);
            framed.flush().await
        });
        let ran = ran.await;
        assert_eq!(ran.is_ok(), reads, "{ran:?}");
    }
}

#[tokio::test]
async fn an_answer_without_credit_is_cut_off() {
    const ALL: usize = 2 * 1024 * 1024;
    let mut held = Grip::take().await;
    for (piece, heeds) in [(64 * 1024, true), (64 * 1024, false), (1, false)] {
        let (mut sandbox, mut framed) = held.sandbox(0).await;
        let (sink, mut stream) = answer::channel(u64::MAX);
        let reader = tokio::spawn(async move {
            // Nobody reads what the other two send.
            while heeds && std::future::poll_fn(|cx| stream.poll_next(cx)).await.is_some() {}
            stream
        });
        let ran = run(&mut sandbox, invocation(Some(sink), None), async {
            framed.must_next("an event").await.unwrap();
            let mut credit = i64::try_from(ANSWER_WINDOW).unwrap();
            for _ in 0..ALL / piece.max(64) {
                while heeds && credit <= 0 {
                    let body = framed.must_next("credit").await?.expect(Kind::Credit, "credit")?;
                    credit += i64::from_le_bytes(body[..].try_into().unwrap());
                }
                framed.put(Kind::Piece, &vec![0; piece]);
                framed.flush().await?;
                credit -= i64::try_from(piece).unwrap();
            }
            put_report(&mut framed);
            framed.flush().await
        });
        let ran = ran.await;
        assert_eq!(ran.is_ok(), heeds, "{piece}: {ran:?}");
        drop(reader.await.unwrap());
    }
}

#[tokio::test]
async fn a_sandbox_holds_no_more_than_its_limit_whatever_the_agent_says() {
    let mut held = Grip::take().await;
    let (sandbox, _framed) = held.sandbox(4096).await;
    assert_eq!(sandbox.resident_bytes(), 4096, "the control");
    let (mut sandbox, mut framed) = held.sandbox(u64::MAX).await;
    assert_eq!(sandbox.resident_bytes(), MEMORY.bytes());
    let ran = run(&mut sandbox, invocation(None, None), async {
        put_report(&mut framed);
        framed.flush().await
    });
    ran.await.unwrap();
    assert_eq!(sandbox.resident_bytes(), MEMORY.bytes());
}

/// A channel that never has enough of telling.
struct Chatter(BytesMut);

impl AsyncRead for Chatter {
    fn poll_read(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while buf.remaining() >= self.0.len() {
            buf.put_slice(&self.0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Chatter {
    fn poll_write(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_sandbox_that_only_prints_does_not_hold_up_whoever_looks() {
    let held = Grip::take().await;
    let mut line = BytesMut::new();
    wire::put(&mut line, Kind::Log, |out| out.extend_from_slice(b"ahoy\n"));
    let log = Arc::new(MemoryLog::default());
    let mut sandbox = RemoteSandbox {
        framed: Framed::new(Box::new(Chatter(line))),
        log: log.clone(),
        resident_bytes: 0,
        settled: true,
        budget: BUDGET,
        broken: false,
        held: Held::take(&held.link.inner, &version()).unwrap(),
        ground: Ground::Instance,
        stand: None,
    };
    assert!(sandbox.is_alive());
    assert_eq!(log.text().lines().count(), IDLE_FRAMES_MAX, "the control: it prints");
}
