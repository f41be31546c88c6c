//! What an error of the driver means: whether something may have been applied, and in which words.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::Severity;

/// The error's own words with those of its causes. The driver quotes no password.
pub(super) fn text(error: &Error) -> String {
    if let Some(refusal) = error.as_db_error() {
        return format!("{} (SQLSTATE `{}`)", refusal.message(), refusal.code().code());
    }
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Whether the server said that it rolled the statement back. A session that the server ends, or that is
/// lost, may have committed.
pub(super) fn is_rolled_back(error: &Error) -> bool {
    let refusal = error.as_db_error();
    refusal.and_then(|refusal| refusal.parsed_severity()) == Some(Severity::Error)
}
