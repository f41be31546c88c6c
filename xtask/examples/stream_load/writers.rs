//! Sixteen writers on PostgreSQL: our store, an ordered stream over it, and the design in which all update one row.

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use bowline_store::{Condition, Key, PostgresOptions, PostgresStore, Sharing, Store, Version, Write};
use bytes::Bytes;

use crate::embedded::Embedded;
use crate::load::{Client, Shape, Subject};
use crate::postgres::{Design, Postgres};
use crate::turns::{self, Effort, Figures, Seat, Threads};

const WRITERS: Shape = Shape {
    name: "16 writers",
    clients: 16,
    batch: 1,
    body_bytes: 100,
};

pub fn run(url: &str, threads: &Threads, effort: Effort, figures: &mut Figures) -> Result<()> {
    let options = PostgresOptions::new(url.parse()?);
    let connect = || PostgresStore::connect(&options);
    let (store, host) = threads.here.block_on(async {
        let host = Embedded::over(Arc::new(connect().await?), Sharing::Shared).await?;
        anyhow::Ok((Arc::new(connect().await?), host))
    })?;
    let mut seats: Vec<Seat<'_>> = vec![
        (&threads.here, Box::new(Commits(store))),
        (&threads.here, Box::new(host)),
        (
            &threads.client,
            Box::new(Postgres {
                url: url.to_owned(),
                design: Design::OneRow,
            }),
        ),
    ];
    turns::take(&mut seats, &WRITERS, effort, figures)?;
    Ok(())
}

/// The store by itself.
struct Commits(Arc<PostgresStore>);

#[async_trait]
impl Subject for Commits {
    fn name(&self) -> &'static str {
        "store"
    }

    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        for number in 0..shape.clients {
            let head = Key::from(format!("bench/head/{number}"));
            let version = self.0.get(&head).await?.map(|entry| entry.version);
            clients.push(Box::new(Committer {
                store: Arc::clone(&self.0),
                body: Bytes::from(vec![b'x'; shape.body_bytes]),
                events: Key::from(format!("bench/event/{number}")),
                head,
                version,
            }));
        }
        Ok(clients)
    }
}

/// Writes two keys on the condition that one of them is as it left it.
struct Committer {
    store: Arc<PostgresStore>,
    head: Key,
    events: Key,
    body: Bytes,
    version: Option<Version>,
}

#[async_trait]
impl Client for Committer {
    async fn append(&mut self) -> Result<usize> {
        let condition = match self.version {
            None => Condition::Absent(self.head.clone()),
            Some(version) => Condition::AtVersion(self.head.clone(), version),
        };
        let put = |key: &Key| Write::Put(key.clone(), self.body.clone());
        let committed = self
            .store
            .commit(vec![condition], vec![put(&self.head), put(&self.events)]);
        self.version = Some(committed.await?);
        Ok(1)
    }
}
