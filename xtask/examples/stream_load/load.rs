//! Clients that append as fast as they are answered, and how many events a second come of it.

use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use tokio::task::JoinSet;

/// What is appended: by how many clients at once, how many events at a time, and how large they are.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub clients: usize,
    pub batch: usize,
    pub body_bytes: usize,
}

/// The four shapes of the table.
pub const SHAPES: [Shape; 4] = [
    ONE,
    MANY,
    BATCHES,
    Shape {
        name: "1 client x 100 x 1 KiB",
        clients: 1,
        batch: 100,
        body_bytes: 1024,
    },
];
/// One client, one event at a time.
pub const ONE: Shape = Shape {
    name: "1 client x 1",
    clients: 1,
    batch: 1,
    body_bytes: 100,
};
/// Many clients, one event at a time each.
pub const MANY: Shape = Shape {
    name: "32 clients x 1",
    clients: 32,
    batch: 1,
    body_bytes: 100,
};

/// One client, a hundred small events at a time.
pub const BATCHES: Shape = Shape {
    name: "1 client x 100 x 100 B",
    clients: 1,
    batch: 100,
    body_bytes: 100,
};

impl Shape {
    /// The bodies of one append.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        vec![vec![b'x'; self.body_bytes]; self.batch]
    }

    /// A stream's name that no other shape has.
    pub fn stream(&self) -> String {
        format!("bench-{}-{}-{}", self.clients, self.batch, self.body_bytes)
    }
}

/// Somebody who appends.
#[async_trait]
pub trait Client: Send {
    /// Appends once and returns how many events are on disk now.
    async fn append(&mut self) -> Result<usize>;
}

/// Something that is appended to.
#[async_trait]
pub trait Subject: Send {
    fn name(&self) -> &'static str;

    /// Clients for one round, connected and ready.
    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>>;

    /// Forgets what the last round has left, where that would slow down the next one.
    async fn clear(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What came of a round.
#[derive(Clone, Copy, Debug)]
pub struct Yield {
    pub events: usize,
    pub time: Duration,
}

impl Yield {
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub fn per_second(self) -> f64 {
        self.events as f64 / self.time.as_secs_f64()
    }
}

/// Has all clients append for `time`, each with one append under way.
pub async fn run(clients: Vec<Box<dyn Client>>, time: Duration) -> Result<Yield> {
    let clock = Clock::system();
    let begin = clock.monotonic();
    let mut running = JoinSet::new();
    for mut client in clients {
        let clock = clock.clone();
        running.spawn(async move {
            let mut events = 0;
            while clock.monotonic().since(begin) < time {
                events += client.append().await?;
            }
            anyhow::Ok(events)
        });
    }
    let mut events = 0;
    while let Some(ended) = running.join_next().await {
        events += ended??;
    }
    let time = clock.monotonic().since(begin);
    Ok(Yield { events, time })
}
