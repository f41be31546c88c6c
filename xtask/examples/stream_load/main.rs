//! The load of `cargo xtask bench stream`: what must be a release build, each subject in turn with the others.
//!
//! It starts no servers: it is told where they are. Figures go to standard output, one JSON object each.

mod cluster;
mod embedded;
mod http;
mod load;
mod plain;
mod postgres;
mod reads;
mod redis;
mod tail;
mod turns;
mod writers;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use embedded::Embedded;
use http::Http;
use plain::Plain;
use postgres::{Design, Postgres};
use redis::Redis;
use turns::{Effort, Figures, Seat, Threads};

/// What a node allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Length of a turn
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Appends of every shape
    Appends {
        /// Only of this one
        #[arg(long)]
        shape: Option<String>,
        #[arg(long)]
        folder: PathBuf,
        #[command(flatten)]
        servers: Servers,
    },
    /// Reading a long stream
    Reads {
        #[arg(long)]
        folder: PathBuf,
    },
    /// The delay until a reader sees what was acknowledged
    Tail {
        #[arg(long)]
        append_at: String,
        #[arg(long)]
        follow_at: String,
    },
    /// Sixteen writers on PostgreSQL
    Writers {
        #[arg(long)]
        postgres: String,
    },
    /// Four nodes beside one
    Cluster {
        #[arg(long)]
        single: String,
        #[arg(long = "node")]
        nodes: Vec<String>,
    },
}

/// Where the servers are that take appends; those that are missing are left out.
#[derive(clap::Args)]
struct Servers {
    #[arg(long)]
    node: Option<String>,
    #[arg(long)]
    redis: Option<String>,
    #[arg(long)]
    postgres: Option<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let effort = Effort {
        rounds: arguments.rounds,
        time: Duration::from_secs_f64(arguments.seconds),
    };
    let threads = Threads::start()?;
    let mut figures = Figures::default();
    match arguments.task {
        Task::Appends { shape, folder, servers } => {
            let shapes = load::SHAPES
                .iter()
                .filter(|known| shape.as_ref().is_none_or(|wanted| known.name == wanted));
            let mut seats = seats(&folder, &servers, &threads)?;
            for shape in shapes {
                turns::take(&mut seats, shape, effort, &mut figures)?;
            }
        }
        Task::Reads { folder } => reads::run(&folder, &threads, effort, &mut figures)?,
        Task::Tail { append_at, follow_at } => {
            for _ in 0..effort.rounds {
                let delays = threads.client.block_on(tail::delays(&append_at, &follow_at))?;
                delays.into_iter().for_each(|delay| figures.add("tail", "delay", delay));
            }
        }
        Task::Writers { postgres } => writers::run(&postgres, &threads, effort, &mut figures)?,
        Task::Cluster { single, nodes } => cluster::run(&single, &nodes, &threads, effort, &mut figures)?,
    }
    figures.print();
    Ok(())
}

/// Who takes appends, in turns.
fn seats<'a>(folder: &Path, servers: &Servers, threads: &'a Threads) -> Result<Vec<Seat<'a>>> {
    let embedded = threads.here.block_on(Embedded::open(&folder.join("appends.db")))?;
    let mut seats: Vec<Seat<'_>> = vec![
        (&threads.client, Box::new(Plain::new(folder))),
        (&threads.here, Box::new(embedded)),
    ];
    if let Some(node) = servers.node.clone() {
        seats.push((
            &threads.client,
            Box::new(Http {
                name: "http",
                addresses: vec![node],
            }),
        ));
    }
    if let Some(address) = servers.redis.clone() {
        seats.push((&threads.client, Box::new(Redis { address })));
    }
    if let Some(url) = servers.postgres.clone() {
        let design = Design::Inserts;
        seats.push((&threads.client, Box::new(Postgres { url, design })));
    }
    Ok(seats)
}
