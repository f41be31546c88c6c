//! All functions in memory, read without locks.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bowline_foundation::id::AccountId;

use super::entry::FunctionEntry;
use crate::name::FunctionName;

const SHARDS: usize = 64;

type Shard = HashMap<AccountId, HashMap<FunctionName, Arc<FunctionEntry>>>;

/// A sharded map. A change copies one shard and tries again if another change came between; reads never
/// wait.
pub(crate) struct Snapshot {
    shards: [ArcSwap<Shard>; SHARDS],
}

impl Default for Snapshot {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| ArcSwap::default()),
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
        self.shard(&entry.name).rcu(|shard| {
            let mut shard = Shard::clone(shard);
            let functions = shard.entry(entry.account.clone()).or_default();
            functions.insert(entry.name.clone(), entry.clone());
            shard
        });
    }

    /// Takes the function out.
    pub fn remove(&self, account: &AccountId, name: &FunctionName) {
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
