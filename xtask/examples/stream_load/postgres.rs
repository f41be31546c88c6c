//! A peer: plain inserts into PostgreSQL; and the design in which all writers update one row.

use anyhow::{Context, Result};
use async_trait::async_trait;
use tokio_postgres::{Client as Connection, NoTls, Statement};

use crate::load::{Client, Shape, Subject};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS bench_events (number bigserial PRIMARY KEY, body bytea NOT NULL);
    CREATE TABLE IF NOT EXISTS bench_counter (last bigint NOT NULL);
    CREATE TABLE IF NOT EXISTS bench_ordered (number bigint PRIMARY KEY, body bytea NOT NULL);
    INSERT INTO bench_counter SELECT 0 WHERE NOT EXISTS (SELECT FROM bench_counter);
    TRUNCATE bench_events, bench_ordered;
";
const INSERT: &str = "INSERT INTO bench_events (body) SELECT unnest($1::bytea[])";
/// One statement, so one round trip and one transaction: the order is given by the row that all update.
const ORDERED: &str = "WITH next AS (UPDATE bench_counter SET last = last + 1 RETURNING last)
    INSERT INTO bench_ordered SELECT next.last, one.body FROM next, unnest($1::bytea[]) AS one(body)";

/// What a client does to append.
#[derive(Clone, Copy)]
pub enum Design {
    /// Rows of a table, in whatever order.
    Inserts,
    /// One order, by one row that every append updates.
    OneRow,
}

pub struct Postgres {
    pub url: String,
    pub design: Design,
}

#[async_trait]
impl Subject for Postgres {
    fn name(&self) -> &'static str {
        match self.design {
            Design::Inserts => "postgres",
            Design::OneRow => "one row",
        }
    }

    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        connect(&self.url).await?.batch_execute(TABLES).await?;
        let sql = match self.design {
            Design::Inserts => INSERT,
            Design::OneRow => ORDERED,
        };
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        for _ in 0..shape.clients {
            let connection = connect(&self.url).await?;
            clients.push(Box::new(Inserter {
                statement: connection.prepare(sql).await?,
                connection,
                bodies: shape.bodies(),
            }));
        }
        Ok(clients)
    }
}

async fn connect(url: &str) -> Result<Connection> {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, connection) = connected.context("cannot connect to PostgreSQL")?;
    // It ends with the client; what was wrong with it the client hears.
    tokio::spawn(connection);
    client
        .batch_execute("SET synchronous_commit = on; SET search_path = public")
        .await?;
    Ok(client)
}

struct Inserter {
    connection: Connection,
    statement: Statement,
    bodies: Vec<Vec<u8>>,
}

#[async_trait]
impl Client for Inserter {
    async fn append(&mut self) -> Result<usize> {
        let inserted = self.connection.execute(&self.statement, &[&self.bodies]).await?;
        Ok(usize::try_from(inserted)?)
    }
}
