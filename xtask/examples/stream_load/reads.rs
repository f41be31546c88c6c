//! Reading a long stream, beside the appending of it by one client with batches of 100.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_stream::session::{self, Caller, CreateRequest, ReadRequest, SessionId, Start};
use bowline_stream::{Log, Position, ReadLimit, StreamId};
use tokio::task::JoinSet;

use crate::embedded::Embedded;
use crate::load::{self, BATCHES, Yield};
use crate::turns::{Effort, Figures, Threads};

/// Who reads one session at the same time.
const WORKERS: usize = 64;
const PAGE: ReadLimit = ReadLimit {
    events: 1000,
    bytes: 4 * 1024 * 1024,
};

pub fn run(folder: &Path, threads: &Threads, effort: Effort, figures: &mut Figures) -> Result<()> {
    for round in 1..=effort.rounds {
        eprintln!("bench: reading, round {round} of {}", effort.rounds);
        let path = folder.join(format!("reads-{round}.db"));
        threads.here.block_on(async {
            let appended = append(&path, effort).await?;
            figures.add("long stream", "append", appended.per_second());
            for (who, read) in [("read", read(&path).await?), ("session", read_session(&path).await?)] {
                let (expected, found) = (appended.events, read.events);
                ensure!(found == expected, "{who} found {found} events of {expected}");
                figures.add("long stream", who, read.per_second());
            }
            anyhow::Ok(())
        })?;
    }
    Ok(())
}

async fn append(path: &Path, effort: Effort) -> Result<Yield> {
    let host = Embedded::open(path).await?;
    let appended = load::run(host.appenders(&BATCHES).await?, effort.time).await;
    host.close().await;
    appended
}

/// One reader without a session, on a host that has read nothing before.
async fn read(path: &Path) -> Result<Yield> {
    let host = Embedded::open(path).await?;
    let stream = host.stream(&BATCHES.stream()).await?;
    let clock = Clock::system();
    let begin = clock.monotonic();
    let (end, mut after, mut events) = (host.handle.end(&stream).await?, Position::START, 0);
    while after < end {
        let page = host.handle.read(&stream, after, PAGE).await?;
        events += page.events.len();
        after = page.next;
    }
    let time = clock.monotonic().since(begin);
    host.close().await;
    Ok(Yield { events, time })
}

/// One session and its workers, each of which acknowledges a set as it asks for the next.
async fn read_session(path: &Path) -> Result<Yield> {
    let host = Embedded::open(path).await?;
    let stream = host.stream(&BATCHES.stream()).await?;
    let service = session::Service::start(session::Options {
        clock: Clock::system(),
        entropy: Entropy::system(),
        store: Arc::clone(&host.store),
        log: Arc::new(host.handle.clone()),
    });
    let session = create(&service.handle(), stream).await?;
    let clock = Clock::system();
    let begin = clock.monotonic();
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(service.handle(), session.clone()));
    }
    let mut events = 0;
    while let Some(ended) = workers.join_next().await {
        events += ended??;
    }
    let time = clock.monotonic().since(begin);
    service.shut_down().await;
    host.close().await;
    Ok(Yield { events, time })
}

async fn create(sessions: &session::Handle, stream: StreamId) -> Result<SessionId> {
    let caller = Caller {
        who: "bench".to_owned(),
        request_id: "bench".to_owned(),
    };
    let request = CreateRequest {
        stream,
        start: Start::Oldest,
        settings: session::Settings::default(),
        client_token: None,
    };
    Ok(sessions.create(&caller, request).await?)
}

/// Takes sets until there is none left; returns how many events were in them.
async fn work(sessions: session::Handle, session: SessionId) -> Result<usize> {
    let mut request = ReadRequest {
        events_max: session::limits::EVENTS_PER_SET_MAX,
        ..ReadRequest::default()
    };
    let mut events = 0;
    while let Some(set) = sessions.read(&session, request.clone()).await? {
        events += set.events.len();
        request.done = set.token;
    }
    Ok(events)
}
