//! Executions in the store: each change of one is one commit, on condition that its head is unchanged.

use std::collections::HashMap;
use std::sync::Arc;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_store::record::FrameError;
use bowline_store::{CommitError, Condition, Key, ReadError, Store, Version as StoreVersion, Write};
use bytes::Bytes;

use super::event::Event;
use super::head::Head;
use super::id::{ExecutionArn, ExecutionId, ExecutionKey};
use super::keys;
use super::operation::{Operation, Payload};
use super::record::{NameRecord, Record as _, RecordError};
use super::state::Execution;

/// Longer payloads lie apart from their record.
const INLINE_BYTES_MAX: usize = 4 * 1024;
const CHUNK_BYTES: usize = 768 * 1024;
/// Entries read at once.
const PAGE: usize = 512;
/// Deletions of one commit.
const DELETIONS_MAX: usize = 900;

/// Why executions cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("executions cannot be read")]
    Read(#[from] ReadError),
    #[error("an execution is damaged")]
    Frame(#[from] FrameError),
    #[error("an execution is damaged")]
    Record(#[from] RecordError),
}

/// The store as executions use it.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
}

/// An execution as it was committed last.
pub(crate) struct Loaded {
    pub execution: Execution,
    at: StoreVersion,
}

/// An execution that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub at: Timestamp,
    pub key: ExecutionKey,
    /// The node that runs an invocation of it.
    pub node: Option<u64>,
}

/// What became of a start.
pub(crate) enum Created {
    Yes,
    /// An execution of the name exists, with the same input or another.
    Exists {
        arn: ExecutionArn,
        same_input: bool,
    },
}

impl Ledger {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    pub async fn head(&self, key: &ExecutionKey) -> Result<Option<Head>, LedgerError> {
        let found = self.store.get(&keys::head(key)).await?;
        Ok(found.map(|entry| Head::decode(&entry.value)).transpose()?)
    }

    pub async fn load(&self, key: &ExecutionKey) -> Result<Option<Loaded>, LedgerError> {
        // The head before the operations: a change in between fails the next commit.
        let Some(entry) = self.store.get(&keys::head(key)).await? else {
            return Ok(None);
        };
        let head = Head::decode(&entry.value)?;
        let mut operations = Vec::new();
        for (_, value) in self.scan(&keys::parts(key.id)[0]).await? {
            operations.push(Operation::decode(&value)?);
        }
        Ok(Some(Loaded {
            execution: Execution::load(head, operations),
            at: entry.version,
        }))
    }

    /// Begins an execution, unless its name is taken. `None` for the name: nobody can ask for it by name.
    pub async fn create(&self, mut execution: Execution, input: Option<Digest>) -> Result<Created, LedgerOutcome> {
        let arn = execution.head.arn.clone();
        let key = arn.key();
        let mut conditions = vec![Condition::Absent(keys::head(&key))];
        let mut writes = writes(&mut execution, None);
        if let Some(payload) = input {
            let name = keys::name(&key.account, &key.function, &arn.name);
            let record = NameRecord {
                id: key.id,
                arn: arn.to_string(),
                payload,
            };
            conditions.insert(0, Condition::Absent(name.clone()));
            writes.push(Write::Put(name, record.encode()));
        }
        if !execution.head.is_plain {
            writes.push(Write::Put(keys::newest(&key, execution.head.started), Bytes::new()));
        }
        match self.store.commit(conditions, writes).await {
            Ok(_) => Ok(Created::Yes),
            Err(CommitError::Conflict(_)) => self.existing(&arn, input).await.map_err(LedgerOutcome::Ledger),
            Err(error) => Err(LedgerOutcome::Commit(error)),
        }
    }

    async fn existing(&self, arn: &ExecutionArn, input: Option<Digest>) -> Result<Created, LedgerError> {
        let name = keys::name(&arn.account, &arn.function, &arn.name);
        let Some(entry) = self.store.get(&name).await? else {
            // The very same execution: a step that is repeated.
            return Ok(Created::Exists {
                arn: arn.clone(),
                same_input: true,
            });
        };
        let record = NameRecord::decode(&entry.value)?;
        Ok(Created::Exists {
            same_input: input == Some(record.payload),
            arn: record.arn.parse().map_err(|_| RecordError::Key(record.arn.clone()))?,
        })
    }

    /// Commits what has changed. After an error the execution must be loaded again.
    pub async fn commit(&self, loaded: &mut Loaded) -> Result<(), CommitError> {
        let key = loaded.execution.head.key();
        let old_due = loaded.execution.head.due;
        let writes = writes(&mut loaded.execution, Some(old_due));
        let conditions = vec![Condition::AtVersion(keys::head(&key), loaded.at)];
        loaded.at = self.store.commit(conditions, writes).await?;
        Ok(())
    }

    /// Removes an execution that is being deleted, its head last.
    pub async fn remove(&self, head: &Head) -> Result<(), LedgerOutcome> {
        let key = head.key();
        for prefix in keys::parts(key.id) {
            loop {
                let page = self.store.scan(&prefix, None, DELETIONS_MAX).await;
                let page = page.map_err(LedgerError::from)?;
                if page.is_empty() {
                    break;
                }
                let deletions = page.into_iter().map(|(key, _)| Write::Delete(key)).collect();
                self.store.commit(Vec::new(), deletions).await?;
            }
        }
        let name = keys::name(&key.account, &key.function, &head.arn.name);
        let mut last = vec![
            Write::Delete(keys::newest(&key, head.started)),
            Write::Delete(keys::due(head.due, &key)),
            Write::Delete(keys::head(&key)),
        ];
        let mut conditions = Vec::new();
        if let Some(entry) = self.store.get(&name).await.map_err(LedgerError::from)?
            && NameRecord::decode(&entry.value).map_err(LedgerError::from)?.id == key.id
        {
            conditions.push(Condition::AtVersion(name.clone(), entry.version));
            last.push(Write::Delete(name));
        }
        self.store.commit(conditions, last).await?;
        Ok(())
    }

    /// The executions that are due first.
    pub async fn due(&self, after: Option<&Due>, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let after = after.map(|due| keys::due(due.at, &due.key));
        let page = self.store.scan(&Key::from(keys::DUE), after.as_ref(), limit).await?;
        let mut found = Vec::with_capacity(page.len());
        for (key, entry) in page {
            let (at, execution) = keys::read_due(&key).ok_or_else(|| RecordError::Key(lossy(&key)))?;
            let node = std::str::from_utf8(&entry.value)
                .ok()
                .and_then(|text| text.parse().ok());
            found.push(Due {
                at,
                key: execution,
                node,
            });
        }
        Ok(found)
    }

    /// A payload's text.
    pub async fn text(&self, id: ExecutionId, payload: &Payload) -> Result<String, LedgerError> {
        let (number, bytes) = match payload {
            Payload::Here(text) => return Ok(text.to_string()),
            Payload::Stored { number, bytes } => (*number, *bytes),
        };
        let mut text = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        for (_, chunk) in self.scan(&keys::text_of(id, number)).await? {
            text.extend_from_slice(&chunk);
        }
        if text.len() as u64 != bytes {
            return Err(RecordError::Text.into());
        }
        Ok(String::from_utf8(text).map_err(|_| RecordError::Text)?)
    }

    /// Events from a number on, or down from it.
    pub async fn events(&self, id: ExecutionId, numbers: Vec<u64>) -> Result<Vec<Event>, LedgerError> {
        let (Some(least), Some(most)) = (numbers.iter().min(), numbers.iter().max()) else {
            return Ok(Vec::new());
        };
        let prefix = &keys::parts(id)[1];
        let after = keys::event(id, least - 1);
        let limit = usize::try_from(most - least + 1).unwrap_or(PAGE);
        let page = self.store.scan(prefix, Some(&after), limit).await?;
        let events = page.iter().map(|(_, entry)| Ok(Event::decode(&entry.value)?));
        events.collect()
    }

    /// Heads of a function's executions, in the order of their start, after a given execution.
    pub async fn heads(&self, page: &HeadPage<'_>) -> Result<Vec<Head>, LedgerError> {
        let HeadPage { after, limit, .. } = *page;
        let (account, function) = (page.account, page.function);
        let key = after.map(|(id, started)| {
            let key = ExecutionKey {
                account: account.clone(),
                function: function.clone(),
                id,
            };
            (key.clone(), started)
        });
        if page.oldest_first {
            let after = key.map(|(key, _)| keys::head(&key));
            let page = self
                .store
                .scan(&keys::heads(account, function), after.as_ref(), limit)
                .await?;
            let heads = page.iter().map(|(_, entry)| Ok(Head::decode(&entry.value)?));
            return heads.collect();
        }
        let after = key.map(|(key, started)| keys::newest(&key, started));
        let page = self
            .store
            .scan(&keys::newest_of(account, function), after.as_ref(), limit)
            .await?;
        let mut heads = Vec::with_capacity(page.len());
        for (key, _) in page {
            let text = lossy(&key);
            let id = text
                .rsplit('/')
                .next()
                .and_then(|last| last.split_once('-')?.1.parse().ok());
            let key = ExecutionKey {
                account: account.clone(),
                function: function.clone(),
                id: id.ok_or(RecordError::Key(text))?,
            };
            // One that is gone meanwhile is passed over.
            heads.extend(self.head(&key).await?);
        }
        Ok(heads)
    }

    async fn scan(&self, prefix: &Key) -> Result<Vec<(Key, Bytes)>, ReadError> {
        let mut found: Vec<(Key, Bytes)> = Vec::new();
        loop {
            let after = found.last().map(|(key, _)| key.clone());
            let page = self.store.scan(prefix, after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            found.extend(page.into_iter().map(|(key, entry)| (key, entry.value)));
            if is_last {
                return Ok(found);
            }
        }
    }
}

/// Which heads are wanted.
pub(crate) struct HeadPage<'a> {
    pub account: &'a bowline_foundation::id::AccountId,
    pub function: &'a crate::name::FunctionName,
    pub oldest_first: bool,
    pub after: Option<(ExecutionId, Timestamp)>,
    pub limit: usize,
}

/// Why something could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LedgerOutcome {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("an execution cannot be written")]
    Commit(#[from] CommitError),
}

fn lossy(key: &Key) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// What an execution's commit writes; its long payloads lie apart afterwards.
fn writes(execution: &mut Execution, old_due: Option<Timestamp>) -> Vec<Write> {
    let key = execution.head.key();
    let changed = std::mem::take(&mut execution.changed);
    let mut shelf = Shelf {
        id: key.id,
        numbers: HashMap::new(),
        next: execution.head.texts,
        writes: Vec::new(),
    };
    for payload in [&mut execution.head.result, &mut execution.head.error] {
        shelf.put_away(payload);
    }
    for at in changed.operations {
        let operation = &mut execution.operations[at];
        for payload in [&mut operation.input, &mut operation.result, &mut operation.error] {
            shelf.put_away(payload);
        }
        shelf
            .writes
            .push(Write::Put(keys::operation(key.id, at), operation.encode()));
    }
    for mut event in changed.events {
        for payload in [&mut event.facts.input, &mut event.facts.result, &mut event.facts.error] {
            shelf.put_away(payload);
        }
        shelf
            .writes
            .push(Write::Put(keys::event(key.id, event.number), event.encode()));
    }
    let Shelf { next, mut writes, .. } = shelf;
    execution.head.texts = next;
    let due = execution.next_due();
    execution.head.due = due;
    if let Some(old) = old_due.filter(|old| *old != due) {
        writes.push(Write::Delete(keys::due(old, &key)));
    }
    let node = execution
        .head
        .invocation
        .as_ref()
        .map(|running| running.node.to_string());
    writes.push(Write::Put(keys::due(due, &key), node.unwrap_or_default().into()));
    writes.push(Write::Put(keys::head(&key), execution.head.encode()));
    writes
}

/// Where long payloads of one commit go; the same text goes there once.
struct Shelf {
    id: ExecutionId,
    numbers: HashMap<Box<str>, u64>,
    next: u64,
    writes: Vec<Write>,
}

impl Shelf {
    fn put_away(&mut self, payload: &mut Option<Payload>) {
        let Some(Payload::Here(text)) = payload else { return };
        if text.len() <= INLINE_BYTES_MAX {
            return;
        }
        let bytes = text.len() as u64;
        let number = match self.numbers.get(text) {
            Some(number) => *number,
            None => {
                let number = self.next;
                self.next += 1;
                for (chunk, part) in text.as_bytes().chunks(CHUNK_BYTES).enumerate() {
                    let key = keys::text(self.id, number, chunk);
                    self.writes.push(Write::Put(key, Bytes::copy_from_slice(part)));
                }
                self.numbers.insert(text.clone(), number);
                number
            }
        };
        *payload = Some(Payload::Stored { number, bytes });
    }
}
