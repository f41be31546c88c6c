//! Access keys in the store: whoever may write the store may make and remove them.

use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_store::{CommitError, Condition, Key, ReadError, Store, Write};
use bytes::Bytes;

use super::keys;
use super::record::{AccessKeyRecord, AuditRecord, Record as _};
use crate::access::{ACCESS_KEYS_MAX, AccessKey};

/// All access keys of a store. Needs no running service; several processes may use one store.
#[derive(Clone)]
pub struct AccessKeys {
    store: Arc<dyn Store>,
    clock: Clock,
    entropy: Entropy,
}

/// Why keys cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessKeyError {
    #[error("there are {ACCESS_KEYS_MAX} access keys, no more are allowed: remove some first")]
    TooMany,
    #[error("there is no access key `{0}`")]
    Unknown(String),
    #[error("access key `{id}` cannot be read: {reason}")]
    Damaged { id: String, reason: String },
    #[error("access keys cannot be read")]
    Read(#[from] ReadError),
    #[error("access keys cannot be changed")]
    Commit(#[from] CommitError),
}

impl AccessKeys {
    pub fn new(store: Arc<dyn Store>, clock: Clock, entropy: Entropy) -> Self {
        Self { store, clock, entropy }
    }

    /// All keys, by identifier.
    pub async fn list(&self) -> Result<Vec<AccessKey>, AccessKeyError> {
        let prefix = Key::from(keys::ACCESS_KEYS);
        let found = self.store.scan(&prefix, None, ACCESS_KEYS_MAX).await?;
        let keys = found.into_iter().map(|(key, entry)| {
            let id = String::from_utf8_lossy(&key[prefix.len()..]).into_owned();
            match AccessKeyRecord::decode(&entry.value) {
                Ok(record) => Ok(record.into_model(id)),
                Err(error) => Err(AccessKeyError::Damaged {
                    id,
                    reason: error.to_string(),
                }),
            }
        });
        keys.collect()
    }

    /// Makes a key of an account. Its secret is in the answer and in the store, and nowhere else.
    pub async fn create(&self, account: AccountId) -> Result<AccessKey, AccessKeyError> {
        if self.list().await?.len() >= ACCESS_KEYS_MAX {
            return Err(AccessKeyError::TooMany);
        }
        let key = AccessKey::generate(&self.entropy, account, self.clock.now());
        let at = keys::access_key(&key.id);
        let value = AccessKeyRecord::from(&key).encode();
        let mut writes = vec![Write::Put(at.clone(), value.clone())];
        writes.extend(self.audit("CreateAccessKey", &key, (None, Some(&value))));
        self.store.commit(vec![Condition::Absent(at)], writes).await?;
        Ok(key)
    }

    /// Removes a key: from then on nobody can sign with it.
    pub async fn remove(&self, id: &str) -> Result<AccessKey, AccessKeyError> {
        let unknown = || AccessKeyError::Unknown(id.to_owned());
        let at = keys::access_key(id);
        let found = self.store.get(&at).await?.ok_or_else(unknown)?;
        let record = AccessKeyRecord::decode(&found.value).map_err(|error| AccessKeyError::Damaged {
            id: id.to_owned(),
            reason: error.to_string(),
        })?;
        let key = record.into_model(id.to_owned());
        let mut writes = vec![Write::Delete(at.clone())];
        writes.extend(self.audit("DeleteAccessKey", &key, (Some(&found.value), None)));
        match self
            .store
            .commit(vec![Condition::AtVersion(at, found.version)], writes)
            .await
        {
            Ok(_) => Ok(key),
            Err(CommitError::Conflict(_)) => Err(unknown()),
            Err(error) => Err(error.into()),
        }
    }

    /// The audit row, in the trail and on its way into the stream.
    fn audit(&self, action: &str, key: &AccessKey, (before, after): (Option<&Bytes>, Option<&Bytes>)) -> [Write; 2] {
        let at = self.clock.now();
        let record = AuditRecord {
            account: key.account.clone(),
            request_id: RequestId::random(&self.entropy).to_string(),
            action: action.to_owned(),
            subject: format!("{}/access-key/{}", key.account, key.id),
            before: before.map(|value| Digest::of(value)),
            after: after.map(|value| Digest::of(value)),
            at_micros: at.as_micros(),
        };
        let row = self.entropy.number() % 100_000_000;
        [
            Write::Put(keys::outbox(at, row), record.encode()),
            Write::Put(keys::audit(at, row), record.encode()),
        ]
    }
}
