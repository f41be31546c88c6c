//! The database's tables, their format version, and the settings of its connections.
//!
//! Format 1:
//!  - `entries(key, version, value)`: one row a key that has a value; lives until the key is deleted.
//!  - `counter(version)`: one row, no version above it was ever given; lives as long as the database.
//!  - `application_id` says that the file is ours, `user_version` is the format.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::OpenError;

/// The newest format that this build reads, and the one it writes.
const FORMAT: i64 = 1;
/// `Bowl` in ASCII.
const APPLICATION_ID: i64 = 0x426f_776c;
/// How long a connection waits for a lock that a foreign tool holds on the database.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What the write-ahead log is cut to after a checkpoint.
const WAL_BYTES_KEPT: i64 = 16 * 1024 * 1024;

const TABLES: &str = "
    CREATE TABLE entries (key BLOB NOT NULL UNIQUE, version INTEGER NOT NULL, value BLOB NOT NULL) STRICT;
    CREATE TABLE counter (only INTEGER PRIMARY KEY CHECK (only = 0), version INTEGER NOT NULL) STRICT;
    INSERT INTO counter VALUES (0, 0);
";

/// Opens the one connection that writes, and makes the tables in a new database.
pub(super) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let mut connection = connect(path).map_err(|error| classify(path, error))?;
    let is_new = check_format(path, &connection)?;
    prepare(&mut connection, is_new).map_err(|error| classify(path, error))?;
    Ok(connection)
}

/// Opens a connection that only reads; the writer must have been opened before.
pub(super) fn open_reader(path: &Path) -> Result<Connection, OpenError> {
    let open = || {
        let connection = connect(path)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    };
    open().map_err(|error| classify(path, error))
}

/// Opens the connection that moves what the log holds into the database; the writer must have been opened before.
pub(super) fn open_checkpointer(path: &Path) -> Result<Connection, OpenError> {
    let open = || {
        let connection = connect(path)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        Ok(connection)
    };
    open().map_err(|error| classify(path, error))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

/// Looks at a database before anything is written to it; returns whether it is still empty.
fn check_format(path: &Path, connection: &Connection) -> Result<bool, OpenError> {
    let number = |sql: &str| {
        let found: rusqlite::Result<i64> = connection.query_row(sql, [], |row| row.get(0));
        found.map_err(|error| classify(path, error))
    };
    let (application, format) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    let tables = number("SELECT count(*) FROM sqlite_schema")?;
    match (application, format) {
        (0, 0) if tables == 0 => Ok(true),
        (APPLICATION_ID, 1..=FORMAT) => Ok(false),
        (APPLICATION_ID, found) if found > FORMAT => Err(OpenError::NewerFormat {
            path: path.to_path_buf(),
            found,
            known: FORMAT,
        }),
        _ => Err(OpenError::NotAStore {
            path: path.to_path_buf(),
        }),
    }
}

fn prepare(connection: &mut Connection, is_new: bool) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update_and_check(None, "journal_size_limit", WAL_BYTES_KEPT, |row| row.get::<_, i64>(0))?;
    if is_new {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", FORMAT)?;
        transaction.commit()?;
    }
    Ok(())
}

fn classify(path: &Path, source: rusqlite::Error) -> OpenError {
    let path = path.to_path_buf();
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => OpenError::NotAStore { path },
        _ => OpenError::Database { path, source },
    }
}
