//! Append and read rates beside a loop that writes the same bytes with one `fdatasync` a batch.
//!
//! `cargo run --release -p bowline-stream --example rates [FOLDER] [SECONDS]`; the two take turns, so that a
//! disk that changes its mind is fair to both.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::SqliteStore;
use bowline_stream::{Config, Handle, Log, NoPeers, Options, Position, ReadLimit, Record, Settings, Sharing, StreamId};
use bytes::Bytes;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const TURNS: u32 = 4;

struct Row {
    name: &'static str,
    clients: usize,
    batch: usize,
    body_bytes: usize,
    goal: f64,
}

const ROWS: &[Row] = &[
    Row {
        name: "1 client x 1",
        clients: 1,
        batch: 1,
        body_bytes: 100,
        goal: 0.8,
    },
    Row {
        name: "32 clients x 1",
        clients: 32,
        batch: 1,
        body_bytes: 100,
        goal: 0.4,
    },
    Row {
        name: "1 client x 100 x 100 B",
        clients: 1,
        batch: 100,
        body_bytes: 100,
        goal: 0.6,
    },
    Row {
        name: "1 client x 100 x 1 KiB",
        clients: 1,
        batch: 100,
        body_bytes: 1024,
        goal: 0.5,
    },
];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap_or_else(|| "target/rates".to_owned());
    let turn = Duration::from_secs_f64(arguments.next().map_or(Ok(1.0), |text| text.parse())?);
    std::fs::create_dir_all(&folder)?;
    let folder = Path::new(&folder);
    println!(
        "{:24} {:>12} {:>12} {:>7} {:>6}",
        "append", "events/s", "fdatasync", "ratio", "goal"
    );
    for (number, row) in ROWS.iter().enumerate() {
        let (ours, reference) = measure(folder, number, row, turn).await?;
        println!(
            "{:24} {ours:12.0} {reference:12.0} {:7.2} {:6.1}",
            row.name,
            ours / reference,
            row.goal
        );
        if row.batch == 100 && row.body_bytes == 100 {
            let read = read(&folder.join(format!("{number}.sqlite"))).await?;
            println!(
                "{:24} {read:12.0} {:>12} {:7.1} {:6.1}",
                "read the stream",
                "",
                read / ours,
                20.0
            );
        }
    }
    let p99 = visible(&folder.join("visible.sqlite"), turn).await?;
    println!("{:24} {:>9.2} ms", "visible after ack, p99", p99.as_secs_f64() * 1e3);
    Ok(())
}

/// The p99 of the time from an acknowledgement to its event at a tailing reader, on a quiet stream.
async fn visible(path: &Path, turn: Duration) -> Result<Duration> {
    let handle = start(path).await?;
    let stream = StreamId::new("rates", 2)?;
    // It may be there from the last run.
    let _ = handle.create(&stream, Settings::default()).await;
    let clock = Clock::system();
    let after = handle.end(&stream).await?;
    let (reader, id, time) = (handle.clone(), stream.clone(), clock.clone());
    let (seen, mut events) = tokio::sync::mpsc::unbounded_channel();
    let tailing = tokio::spawn(async move {
        let mut after = after;
        let limit = ReadLimit {
            events: 10,
            bytes: 1 << 20,
        };
        while let Ok(page) = reader.read(&id, after, limit).await {
            after = page.next;
            if page.events.is_empty() {
                reader.wait(&id, after).await;
            }
            for event in page.events {
                let _ = seen.send((event.position, time.monotonic()));
            }
        }
    });
    let mut delays = Vec::new();
    let begin = clock.monotonic();
    while clock.monotonic().since(begin) < turn * 4 {
        let stored = handle.append(&stream, vec![Record::default()]).await?;
        let acknowledged = clock.monotonic();
        let (position, seen) = events.recv().await.ok_or("the reader has stopped")?;
        assert_eq!(position, stored[0]);
        delays.push(seen.since(acknowledged));
        tokio::time::sleep(Duration::from_millis(7)).await;
    }
    tailing.abort();
    delays.sort_unstable();
    Ok(delays[delays.len() * 99 / 100])
}

async fn measure(folder: &Path, number: usize, row: &Row, turn: Duration) -> Result<(f64, f64)> {
    let path = folder.join(format!("{number}.sqlite"));
    for name in ["sqlite", "sqlite-wal", "sqlite-shm"] {
        let _ = std::fs::remove_file(folder.join(format!("{number}.{name}")));
    }
    let handle = start(&path).await?;
    let stream = StreamId::new("rates", 2)?;
    handle.create(&stream, Settings::default()).await?;
    let plain = folder.join("plain");
    let mut file = File::create(&plain)?;
    let (mut ours, mut reference) = (0.0, 0.0);
    for _ in 0..TURNS {
        reference += append_plainly(&mut file, row, turn)?;
        ours += append(&handle, &stream, row, turn).await?;
    }
    std::fs::remove_file(plain)?;
    Ok((ours / f64::from(TURNS), reference / f64::from(TURNS)))
}

async fn start(path: &Path) -> Result<Handle> {
    let options = Options {
        store: Arc::new(SqliteStore::open(path)?),
        blobs: None,
        clock: Clock::system(),
        entropy: Entropy::system(),
        peers: Arc::new(NoPeers),
        address: String::new(),
        sharing: Sharing::Exclusive,
        config: Config::default(),
    };
    let (service, handle) = options.start().await?;
    tokio::spawn(service.run());
    Ok(handle)
}

/// Events a second.
fn append_plainly(file: &mut File, row: &Row, turn: Duration) -> Result<f64> {
    let bytes = vec![b'x'; row.clients * row.batch * row.body_bytes];
    let clock = Clock::system();
    let (begin, mut events) = (clock.monotonic(), 0);
    while clock.monotonic().since(begin) < turn {
        file.write_all(&bytes)?;
        file.sync_data()?;
        events += row.clients * row.batch;
    }
    Ok(events as f64 / clock.monotonic().since(begin).as_secs_f64())
}

/// Events a second.
async fn append(handle: &Handle, stream: &StreamId, row: &Row, turn: Duration) -> Result<f64> {
    let body = Bytes::from(vec![b'x'; row.body_bytes]);
    let clock = Clock::system();
    let begin = clock.monotonic();
    let mut clients = Vec::new();
    for _ in 0..row.clients {
        let (handle, stream, body, clock, batch) =
            (handle.clone(), stream.clone(), body.clone(), clock.clone(), row.batch);
        clients.push(tokio::spawn(async move {
            let mut events = 0;
            while clock.monotonic().since(begin) < turn {
                let record = Record {
                    body: body.clone(),
                    ..Record::default()
                };
                events += handle.append(&stream, vec![record; batch]).await?.len();
            }
            Ok::<_, bowline_stream::AppendError>(events)
        }));
    }
    let mut events = 0;
    for client in clients {
        events += client.await??;
    }
    Ok(events as f64 / clock.monotonic().since(begin).as_secs_f64())
}

/// Events a second, by a host that has read nothing before.
async fn read(path: &Path) -> Result<f64> {
    let copy = path.with_extension("copy");
    for (from, to) in [
        (path.to_path_buf(), copy.clone()),
        (with(path, "-wal"), with(&copy, "-wal")),
    ] {
        std::fs::copy(from, to)?;
    }
    let handle = start(&copy).await?;
    let stream = StreamId::new("rates", 2)?;
    let clock = Clock::system();
    let limit = ReadLimit {
        events: 1000,
        bytes: 16 << 20,
    };
    let (end, begin) = (handle.end(&stream).await?, clock.monotonic());
    let (mut after, mut events) = (Position::START, 0);
    while after < end {
        let page = handle.read(&stream, after, limit).await?;
        events += page.events.len();
        after = page.next;
    }
    let rate = events as f64 / clock.monotonic().since(begin).as_secs_f64();
    for name in ["", "-wal", "-shm", ".lock"] {
        let _ = std::fs::remove_file(with(&copy, name));
    }
    Ok(rate)
}

fn with(path: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
