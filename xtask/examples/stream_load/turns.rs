//! Subjects that take turns, round by round, and the figures that come of it.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::load::{self, Shape, Subject, Yield};

/// How often, and how long at a time.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: u32,
    pub time: Duration,
}

/// The figures of all rounds, by what was measured and of whom.
#[derive(Default)]
pub struct Figures(BTreeMap<(String, String), Vec<f64>>);

impl Figures {
    pub fn add(&mut self, what: &str, who: &str, figure: f64) {
        let key = (what.to_owned(), who.to_owned());
        self.0.entry(key).or_default().push(figure);
    }

    /// Prints one JSON object a figure.
    pub fn print(&self) {
        for ((what, who), rounds) in &self.0 {
            println!("{}", json!({"what": what, "who": who, "rounds": rounds}));
        }
    }
}

/// The threads on which subjects are loaded.
pub struct Threads {
    /// One a core, as a node has them: for what runs in this process.
    pub here: Runtime,
    /// One, which takes little from the servers that share the machine with it.
    pub client: Runtime,
}

impl Threads {
    pub fn start() -> Result<Self> {
        Ok(Self {
            here: Builder::new_multi_thread().enable_all().build()?,
            client: Builder::new_current_thread().enable_all().build()?,
        })
    }
}

/// A subject with the threads that load it.
pub type Seat<'a> = (&'a Runtime, Box<dyn Subject>);

/// Loads each subject in turn, `rounds` times, and adds their rates under `what`. Returns what each took in.
pub fn take(seats: &mut [Seat<'_>], shape: &Shape, effort: Effort, figures: &mut Figures) -> Result<Vec<usize>> {
    let mut events = vec![0; seats.len()];
    for round in 1..=effort.rounds {
        eprintln!("bench: {}, round {round} of {}", shape.name, effort.rounds);
        for ((threads, subject), events) in seats.iter_mut().zip(&mut events) {
            let name = subject.name();
            let yielded = threads.block_on(turn(&mut **subject, shape, effort.time));
            let yielded = yielded.with_context(|| format!("`{name}` cannot be loaded"))?;
            *events += yielded.events;
            figures.add(shape.name, name, yielded.per_second());
        }
    }
    Ok(events)
}

async fn turn(subject: &mut dyn Subject, shape: &Shape, time: Duration) -> Result<Yield> {
    let clients = subject.clients(shape).await?;
    // What others have left to be written must not be written in this turn.
    Command::new("sync").status().context("cannot start `sync`")?;
    let yielded = load::run(clients, time).await?;
    subject.clear().await?;
    Ok(yielded)
}
