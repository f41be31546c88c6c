//! Front ends and stores for tests, and stores that misbehave in ways the faulty store does not.

use std::sync::Arc;

use async_trait::async_trait;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_store::objects::{
    Caller, Create, Expect, IndexKey, Indexes, NamedStore, ObjectId, Objects, Options, Query, Update,
};
use bowline_store::{
    CommitError, Condition, Entry, FaultRates, FaultyStore, Key, MemoryStore, ReadError, Store, Version, Write,
};
use bytes::Bytes;

pub fn named(name: &str, store: Arc<dyn Store>) -> NamedStore {
    NamedStore {
        name: name.parse().unwrap(),
        store,
    }
}

pub fn front_end(stores: Vec<NamedStore>, options: Options, seed: u64) -> Objects {
    Objects::new(stores, options, Clock::system(), Entropy::seeded(seed)).unwrap()
}

/// Two memory stores behind faults that a test scripts, and a clock that it moves.
pub struct Pair {
    pub clock: Clock,
    pub inner: [Arc<MemoryStore>; 2],
    pub faulty: [Arc<FaultyStore>; 2],
    pub objects: Objects,
}

impl Pair {
    pub fn new(options: Options) -> Self {
        let inner = [(); 2].map(|()| Arc::new(MemoryStore::default()));
        let wrap = |inner: &Arc<MemoryStore>| {
            let inner = Arc::clone(inner) as Arc<dyn Store>;
            Arc::new(FaultyStore::new(inner, FaultRates::default(), Entropy::seeded(1)))
        };
        let faulty = [wrap(&inner[0]), wrap(&inner[1])];
        let clock = Clock::fake(Timestamp::from_micros(1_795_217_079_000_000));
        let objects = Self::front_end(&faulty, &clock, options, 1);
        Self {
            clock,
            inner,
            faulty,
            objects,
        }
    }

    /// Another front end over the same stores.
    pub fn other(&self, seed: u64) -> Objects {
        Self::front_end(&self.faulty, &self.clock, Options::default(), seed)
    }

    fn front_end(faulty: &[Arc<FaultyStore>; 2], clock: &Clock, options: Options, seed: u64) -> Objects {
        let stores = vec![
            named("a", Arc::clone(&faulty[0]) as Arc<dyn Store>),
            named("b", Arc::clone(&faulty[1]) as Arc<dyn Store>),
        ];
        Objects::new(stores, options, clock.clone(), Entropy::seeded(seed)).unwrap()
    }

    /// Creates until one lands in the store of this name.
    pub async fn create_in(&self, store: &str, key: &str) -> ObjectId {
        loop {
            let created = self.objects.create(create("x", key)).await.unwrap();
            if created.id.store.as_str() == store {
                return created.id;
            }
        }
    }
}

pub fn colour(key: &str) -> Vec<IndexKey> {
    vec![IndexKey {
        index: "colour".to_owned(),
        key: Bytes::copy_from_slice(key.as_bytes()),
    }]
}

/// A create with one index key; none if it is empty.
pub fn create(body: &str, key: &str) -> Create {
    Create {
        body: Bytes::copy_from_slice(body.as_bytes()),
        indexes: if key.is_empty() { vec![] } else { colour(key) },
        caller: Caller::default(),
    }
}

pub fn with_token(mut create: Create, token: &str) -> Create {
    create.caller.token = Some(token.to_owned());
    create
}

pub fn update(id: &ObjectId, expect: Expect, body: &str, key: &str) -> Update {
    Update {
        id: id.clone(),
        expect,
        body: Bytes::copy_from_slice(body.as_bytes()),
        indexes: Indexes::Replace(colour(key)),
        caller: Caller::default(),
    }
}

/// The objects that a query for exactly this colour finds, of at most a thousand.
pub async fn find(objects: &Objects, key: &str) -> Vec<ObjectId> {
    let page = objects
        .query(&Query::exactly("colour", key.to_owned(), 1000))
        .await
        .unwrap();
    page.hits.into_iter().map(|hit| hit.id).collect()
}

/// A store that carries on with a commit although the caller has given it up, as a real server does.
pub struct Late(pub Arc<dyn Store>);

#[async_trait]
impl Store for Late {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.0.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.0.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let inner = Arc::clone(&self.0);
        let ended = tokio::spawn(async move { inner.commit(conditions, writes).await }).await;
        ended.unwrap_or_else(|error| Err(CommitError::Unknown(error.to_string())))
    }
}

/// A store that knows only single keys: it carries the writes of a commit out one after the other, and
/// sometimes dies in between.
pub struct SingleKey {
    pub inner: Arc<dyn Store>,
    pub entropy: Entropy,
    pub death_rate: f64,
}

#[async_trait]
impl Store for SingleKey {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.inner.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.inner.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let mut version = Version(0);
        for write in writes {
            tokio::task::yield_now().await;
            if self.entropy.unit() < self.death_rate {
                return Err(CommitError::Unknown("the store died between two writes".to_owned()));
            }
            let (Write::Put(key, _) | Write::Delete(key)) = &write;
            let own: Vec<_> = conditions
                .iter()
                .filter(|condition| condition.key() == key)
                .cloned()
                .collect();
            let conditional = !own.is_empty();
            let written = self.inner.commit(own, vec![write]).await?;
            if conditional || conditions.is_empty() {
                version = written;
            }
        }
        Ok(version)
    }
}
