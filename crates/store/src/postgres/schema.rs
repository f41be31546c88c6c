//! The tables in the database, their format number, and how several nodes make them at once.

use tokio_postgres::Client;

use super::OpenPostgresError;
use super::PostgresUrl;
use super::locks;

/// The newest format that this build reads, and the one it writes.
const FORMAT: i64 = 1;

const TABLES: &str = include_str!("schema.sql");
/// A function that stores of format 1 did not have from the beginning.
const COMMIT: &str = include_str!("commit.sql");

/// `text` with the schema's name filled in; the name needs no quotes, [`PostgresUrl`] sees to that.
pub(super) fn filled(text: &str, url: &PostgresUrl) -> String {
    text.replace("{schema}", url.schema())
}

/// Whether the tables are made where nothing is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Making {
    Allowed,
    /// They were there before: what is empty now is not the store, and must not be taken for it.
    Forbidden,
}

/// Checks the format of what is there, and makes the tables where nothing is.
///
/// The lock lets one node at a time look and make, so that nodes that start together agree.
pub(super) async fn prepare(client: &mut Client, url: &PostgresUrl, making: Making) -> Result<(), OpenPostgresError> {
    let failed = |source| OpenPostgresError::database(url, source);
    match look(client, url).await? {
        Found::Store => return Ok(()),
        Found::Nothing if making == Making::Forbidden => return Err(OpenPostgresError::Lost { url: url.clone() }),
        Found::Nothing | Found::WithoutCommit => {}
    }
    let transaction = client.transaction().await.map_err(failed)?;
    let gate = locks::gate(url.schema());
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&gate])
        .await
        .map_err(failed)?;
    let missing = match look(transaction.client(), url).await? {
        Found::Nothing => [TABLES, COMMIT].concat(),
        Found::WithoutCommit => COMMIT.to_owned(),
        Found::Store => String::new(),
    };
    transaction
        .batch_execute(&filled(&missing, url))
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

#[derive(PartialEq)]
enum Found {
    Nothing,
    /// A store of a build that had `apply_1` only.
    WithoutCommit,
    Store,
}

async fn look(client: &Client, url: &PostgresUrl) -> Result<Found, OpenPostgresError> {
    const TABLES_OF: &str = "SELECT count(*), count(*) FILTER (WHERE c.relname = 'meta') FROM pg_class c \
        JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1";
    let failed = |source| OpenPostgresError::database(url, source);
    let row = client.query_one(TABLES_OF, &[&url.schema()]).await.map_err(failed)?;
    match (row.get::<_, i64>(0), row.get::<_, i64>(1)) {
        (0, _) => Ok(Found::Nothing),
        (_, 0) => Err(OpenPostgresError::NotAStore { url: url.clone() }),
        _ => {
            check_format(client, url).await?;
            let query = filled("SELECT to_regproc('{schema}.commit_1') IS NOT NULL", url);
            let row = client.query_one(&query, &[]).await.map_err(failed)?;
            Ok(if row.get(0) { Found::Store } else { Found::WithoutCommit })
        }
    }
}

async fn check_format(client: &Client, url: &PostgresUrl) -> Result<(), OpenPostgresError> {
    let query = filled("SELECT format FROM {schema}.meta", url);
    let rows = client.query(&query, &[]).await;
    let rows = rows.map_err(|source| OpenPostgresError::database(url, source))?;
    match rows.first().map(|row| row.get::<_, i64>(0)) {
        Some(1..=FORMAT) => Ok(()),
        Some(found) if found > FORMAT => Err(OpenPostgresError::NewerFormat {
            url: url.clone(),
            found,
            known: FORMAT,
        }),
        _ => Err(OpenPostgresError::NotAStore { url: url.clone() }),
    }
}
