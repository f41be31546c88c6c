//! One connection that is made when it is needed and made again after it was lost.
//!
//! ```text
//!   (none) ──session()──▶ connected ──server gone, abandon()──▶ (none), free at once
//!      └───── connecting fails ──▶ resting: calls fail at once, until RETRY_MIN..RETRY_MAX are over
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_postgres::{Client, NoTls, Statement};

use super::schema::Making;
use super::{Limits, PostgresUrl, failure, schema};

/// The rest after the first failure to connect; it doubles with each further one.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest rest.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The kernel counts the time before the first keep-alive probe in whole seconds.
const KEEPALIVE_IDLE_MIN: Duration = Duration::from_secs(1);

/// What every session is set to. The planner must not be fooled by a table that was empty when a plan was
/// made: keys are looked up by the index, always. So one plan is good for all, and none is made a call.
const SETTINGS: &str = "-c synchronous_commit=on -c default_transaction_isolation=read\\ committed \
    -c default_transaction_read_only=off -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off \
    -c enable_bitmapscan=off -c plan_cache_mode=force_generic_plan -c jit=off \
    -c idle_in_transaction_session_timeout=30s";

const APPLY: &str = "SELECT {schema}.apply_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
const COMMIT: &str = "SELECT {schema}.commit_1($1, $2, $3, $4, $5, $6, $7)";
const GET: &str = "SELECT key, version, value FROM {schema}.entries WHERE key = $1";
const SCAN: &str =
    "SELECT key, version, value FROM {schema}.entries WHERE key >= $1 AND key < $2 ORDER BY key LIMIT $3";
const SCAN_TO_END: &str = "SELECT key, version, value FROM {schema}.entries WHERE key >= $1 ORDER BY key LIMIT $2";

/// A connection with its prepared statements.
pub(super) struct Session {
    pub client: Client,
    pub apply: Statement,
    pub commit: Statement,
    pub get: Statement,
    pub scan: Statement,
    pub scan_to_end: Statement,
    driver: AbortHandle,
}

/// A place for one connection.
pub(super) struct Link {
    url: PostgresUrl,
    limits: Limits,
    clock: Clock,
    /// Whether the store has been there; shared by all its links.
    known: Arc<AtomicBool>,
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    session: Option<Arc<Session>>,
    rest: Option<Rest>,
}

/// After a failed attempt to connect.
struct Rest {
    until: Monotonic,
    time: Duration,
    reason: String,
}

impl Link {
    pub fn new(url: &PostgresUrl, limits: Limits, clock: &Clock, known: Arc<AtomicBool>) -> Self {
        Self {
            url: url.clone(),
            limits,
            clock: clock.clone(),
            known,
            slot: Mutex::default(),
        }
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn schema(&self) -> &str {
        self.url.schema()
    }

    /// The session, made now if there is none; the reason if it cannot be had. Those who come while one
    /// connects wait for it, never longer than the limit on connecting.
    pub async fn session(&self) -> Result<Arc<Session>, String> {
        let mut slot = self.slot.lock().await;
        if let Some(session) = slot.session.as_ref().filter(|session| !session.client.is_closed()) {
            return Ok(Arc::clone(session));
        }
        slot.session = None;
        if let Some(rest) = slot.rest.as_ref().filter(|rest| rest.until > self.clock.monotonic()) {
            return Err(rest.reason.clone());
        }
        match self.open().await {
            Ok(session) => {
                let session = Arc::new(session);
                *slot = Slot {
                    session: Some(Arc::clone(&session)),
                    rest: None,
                };
                Ok(session)
            }
            Err(reason) => {
                let before = slot.rest.as_ref().map_or(Duration::ZERO, |rest| rest.time);
                let time = (before * 2).clamp(RETRY_MIN, RETRY_MAX);
                tracing::warn!(url = %self.url, %reason, "the database cannot be reached");
                slot.rest = Some(Rest {
                    until: self.clock.monotonic().after(time),
                    time,
                    reason: reason.clone(),
                });
                Err(reason)
            }
        }
    }

    /// Whether a call would fail at once, since the last attempt to connect did not long ago.
    pub fn rests(&self) -> bool {
        // Whoever holds it connects.
        let Ok(slot) = self.slot.try_lock() else { return false };
        let rest = slot.rest.as_ref();
        rest.is_some_and(|rest| rest.until > self.clock.monotonic())
    }

    /// Cuts a session that does not answer, so that the next call makes a new one.
    pub async fn abandon(&self, session: &Arc<Session>) {
        session.driver.abort();
        let mut slot = self.slot.lock().await;
        if slot
            .session
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, session))
        {
            slot.session = None;
        }
    }

    async fn open(&self) -> Result<Session, String> {
        let text = |error: tokio_postgres::Error| failure::text(&error);
        let opened = timeout(self.limits.connect, async {
            let (mut client, driver) = connect(&self.url, self.limits).await.map_err(text)?;
            // The database may have been away when the store was opened, or be another one by now.
            let making = if self.known.load(Ordering::Acquire) {
                Making::Forbidden
            } else {
                Making::Allowed
            };
            schema::prepare(&mut client, &self.url, making)
                .await
                .map_err(|error| error.to_string())?;
            self.known.store(true, Ordering::Release);
            check_durable(&client).await?;
            prepare(client, driver, &self.url).await.map_err(text)
        });
        let no_connection = |_| format!("no connection within `{:?}`", self.limits.connect);
        opened.await.map_err(no_connection)?
    }
}

/// Connects with all settings made; the second part ends the connection when aborted.
pub(super) async fn connect(url: &PostgresUrl, limits: Limits) -> Result<(Client, AbortHandle), tokio_postgres::Error> {
    let mut config = url.config().clone();
    let theirs = config.get_options().unwrap_or_default().to_owned();
    let statement_ms = limits.statement.as_millis();
    let lock_ms = limits.lock_wait.as_millis();
    config
        .options(format!(
            "{theirs} {SETTINGS} -c statement_timeout={statement_ms} -c lock_timeout={lock_ms}"
        ))
        .connect_timeout(limits.connect)
        .tcp_user_timeout(limits.statement)
        .keepalives_idle(limits.statement.max(KEEPALIVE_IDLE_MIN));
    if config.get_application_name().is_none() {
        config.application_name("bowline");
    }
    let (client, connection) = config.connect(NoTls).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(reason = %failure::text(&error), "a connection to the database was lost");
        }
    });
    Ok((client, driver.abort_handle()))
}

async fn prepare(client: Client, driver: AbortHandle, url: &PostgresUrl) -> Result<Session, tokio_postgres::Error> {
    let prepare = |sql| {
        let (text, client) = (schema::filled(sql, url), &client);
        async move { client.prepare(&text).await }
    };
    Ok(Session {
        apply: prepare(APPLY).await?,
        commit: prepare(COMMIT).await?,
        get: prepare(GET).await?,
        scan: prepare(SCAN).await?,
        scan_to_end: prepare(SCAN_TO_END).await?,
        driver,
        client,
    })
}

/// An acknowledged commit must be on disk, so a session in which it would not be is of no use.
async fn check_durable(client: &Client) -> Result<(), String> {
    const QUERY: &str = "SELECT current_setting('synchronous_commit'), current_setting('fsync')";
    let row = client.query_one(QUERY, &[]).await;
    let row = row.map_err(|error| failure::text(&error))?;
    let [synchronous, fsync] = [0, 1].map(|column| row.get::<_, String>(column));
    if synchronous != "on" {
        return Err(format!("`synchronous_commit` is `{synchronous}`, expected `on`"));
    }
    if fsync != "on" {
        tracing::warn!("the database runs with `fsync={fsync}`: a crash of its machine loses acknowledged writes");
    }
    Ok(())
}
