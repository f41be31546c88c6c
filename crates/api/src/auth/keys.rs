//! The access keys that a node knows.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bowline_foundation::id::AccountId;
use bowline_functions::access::Secret;

use super::sigv4::{Scope, SigningKey};

/// All keys by their identifiers.
#[derive(Debug, Default)]
pub struct Keys(HashMap<String, Arc<AccessKey>>);

/// One key of an account.
#[derive(Debug)]
pub struct AccessKey {
    id: String,
    account: AccountId,
    secret: Secret,
    /// What the secret gives for the newest day asked for: making it takes four times the work of a verification.
    derived: ArcSwapOption<Derived>,
}

#[derive(Debug)]
struct Derived {
    date: String,
    region: String,
    key: SigningKey,
}

impl Keys {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, id: &str) -> Option<&Arc<AccessKey>> {
        self.0.get(id)
    }
}

impl FromIterator<AccessKey> for Keys {
    fn from_iter<I: IntoIterator<Item = AccessKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| (key.id.clone(), Arc::new(key))).collect())
    }
}

impl AccessKey {
    pub fn new(id: String, account: AccountId, secret: Secret) -> Self {
        Self {
            id,
            account,
            secret,
            derived: ArcSwapOption::empty(),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// The key for signatures of one day.
    pub fn signing_key(&self, scope: &Scope<'_>) -> SigningKey {
        let known = self.derived.load();
        let fits = |known: &&Arc<Derived>| known.date == scope.date && known.region == scope.region;
        if let Some(known) = known.as_ref().filter(fits) {
            return known.key.clone();
        }
        let key = SigningKey::derive(self.secret.reveal(), scope);
        self.derived.store(Some(Arc::new(Derived {
            date: scope.date.to_owned(),
            region: scope.region.to_owned(),
            key: key.clone(),
        })));
        key
    }
}
