//! Which store this is.

use bowline_store::{CommitError, Condition, Write};

use super::record::{IdentityRecord, Record as _};
use super::{Registry, keys};
use crate::error::Error;

impl Registry {
    /// What no other store has: `fresh`, unless it has its own already.
    pub async fn identity(&self, fresh: String) -> Result<String, Error> {
        loop {
            if let Some(found) = self.store.get(&keys::IDENTITY.into()).await.map_err(Error::service)? {
                let record = IdentityRecord::decode(&found.value).map_err(Error::service)?;
                return Ok(record.id);
            }
            let write = Write::Put(keys::IDENTITY.into(), IdentityRecord { id: fresh.clone() }.encode());
            match self
                .store
                .commit(vec![Condition::Absent(keys::IDENTITY.into())], vec![write])
                .await
            {
                Ok(_) => return Ok(fresh),
                // Another node of its cluster has begun at the same time.
                Err(CommitError::Conflict(_)) => {}
                Err(error) => return Err(Error::service(error)),
            }
        }
    }
}
