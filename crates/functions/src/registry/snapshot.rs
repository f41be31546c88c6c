//! All functions in memory, read without locks.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bowline_foundation::id::AccountId;
use parking_lot::RwLock;

use super::entry::FunctionEntry;
use crate::name::FunctionName;

const SHARDS: usize = 64;

type Shard = HashMap<AccountId, HashMap<FunctionName, Arc<FunctionEntry>>>;

/// A sharded map. A change copies one shard and tries again if another change came between; reads never
/// wait.
pub(crate) struct Snapshot {
    shards: [ArcSwap<Shard>; SHARDS],
    /// Whose URL has an identifier. Looked up by requests to URLs only.
    urls: RwLock<HashMap<String, UrlOwner>>,
}

/// A function with the text of the qualifier that a URL belongs to.
#[derive(Clone)]
pub(crate) struct UrlOwner {
    pub account: AccountId,
    pub name: FunctionName,
    pub qualifier: String,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| ArcSwap::default()),
            urls: RwLock::default(),
        }
    }
}

impl Snapshot {
    /// The function as it is now.
    pub fn get(&self, account: &AccountId, name: &FunctionName) -> Option<Arc<FunctionEntry>> {
        self.shard(name).load().get(account)?.get(name).cloned()
    }

    /// Puts the function in or over what was there.
    pub fn put(&self, entry: Arc<FunctionEntry>) {
        let before = self.get(&entry.account, &entry.name);
        self.shard(&entry.name).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            let functions = shard.entry(entry.account.clone()).or_default();
            functions.insert(entry.name.clone(), entry.clone());
            shard
        });
        self.exchange_urls(before.as_deref(), Some(&entry));
    }

    /// Takes the function out.
    pub fn remove(&self, account: &AccountId, name: &FunctionName) {
        let before = self.get(account, name);
        self.shard(name).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            if let Some(functions) = shard.get_mut(account) {
                functions.remove(name);
                if functions.is_empty() {
                    shard.remove(account);
                }
            }
            shard
        });
        self.exchange_urls(before.as_deref(), None);
    }

    /// Whose URL has this identifier.
    pub fn url_owner(&self, id: &str) -> Option<UrlOwner> {
        self.urls.read().get(id).cloned()
    }

    /// The URLs of a function are now those of `after`.
    fn exchange_urls(&self, before: Option<&FunctionEntry>, after: Option<&FunctionEntry>) {
        let has_any = |entry: Option<&FunctionEntry>| entry.is_some_and(|entry| entry.urls().next().is_some());
        if !has_any(before) && !has_any(after) {
            return;
        }
        let mut urls = self.urls.write();
        before
            .into_iter()
            .flat_map(FunctionEntry::urls)
            .for_each(|(id, _)| drop(urls.remove(id)));
        if let Some(entry) = after {
            urls.extend(entry.urls().map(|(id, qualifier)| {
                let owner = UrlOwner {
                    account: entry.account.clone(),
                    name: entry.name.clone(),
                    qualifier: qualifier.to_owned(),
                };
                (id.to_owned(), owner)
            }));
        }
    }

    /// All functions, in no order; each shard as it is when it is reached.
    pub fn all(&self) -> Vec<Arc<FunctionEntry>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(shard.load().values().flat_map(HashMap::values).cloned());
        }
        found
    }

    /// The account's functions, by name.
    pub fn of_account(&self, account: &AccountId) -> Vec<Arc<FunctionEntry>> {
        let mut found = Vec::new();
        for shard in &self.shards {
            found.extend(shard.load().get(account).into_iter().flat_map(HashMap::values).cloned());
        }
        found.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        found
    }

    fn shard(&self, name: &FunctionName) -> &ArcSwap<Shard> {
        &self.shards[fold(name.as_str()) % SHARDS]
    }
}

/// A cheap hash that is the same in every run; which shard a name falls in matters to nobody.
pub(crate) fn fold(text: &str) -> usize {
    let folded = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (folded >> 32) as usize
}
