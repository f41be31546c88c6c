//! What a node's data stand on: its store, alone or as a member of a cluster, and its blobs.

use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::blob::Blobs;
use bowline_store::member::{GuardedStore, LEASE_DEFAULT, MemberOptions};
use bowline_store::objects::NamedStore;
use bowline_store::{
    CommitError, Condition, Key, PostgresOptions, PostgresStore, Sharing, SqliteStore, Store, Write, archive,
};
use bowline_stream::peers::tcp::Secret;
use bytes::Bytes;
use tokio::task::JoinHandle;

use crate::config::{Config, ObjectStore, StoreChoice};

/// The file of the embedded store in the data folder.
const DATABASE: &str = "bowline.db";

/// The folder of streams' cold parts among the blobs.
pub const COLD: &str = "cold";
/// The stores of objects that nobody has named. A name never changes hands: identifiers carry it.
const OBJECT_STORES: [&str; 2] = ["a", "b"];

/// The store and the blobs of a node.
pub struct Ground {
    pub store: Arc<dyn Store>,
    pub blobs: Blobs,
    /// Where cold parts of streams go: apart from the packages, of which the functions remove what they do
    /// not name.
    pub cold: Blobs,
    pub object_stores: Vec<NamedStore>,
    pub sharing: Sharing,
    /// Where the node listens, and what the nodes of its cluster know, if it is in one.
    pub cluster: Option<(SocketAddr, Secret)>,
    member: Option<(Arc<GuardedStore>, JoinHandle<()>)>,
}

impl Ground {
    /// Opens what the configuration names; `listen` is how other nodes of a cluster are told of this one.
    pub async fn open(config: &Config, data: &Path, clock: &Clock, entropy: &Entropy) -> anyhow::Result<Self> {
        let store = open_store(config, data).await?;
        let unfinished = archive::unfinished(&*store).await?;
        ensure!(
            unfinished.is_none(),
            "an import into this store was cut off; run the same `bowline store import` again"
        );
        let folder = config.blobs.clone().unwrap_or_else(|| data.join("blobs"));
        let object_stores = open_object_stores(config, data).await?;
        match config.store {
            StoreChoice::Embedded => Ok(Self {
                store,
                blobs: Blobs::open_dir(&folder)?,
                cold: Blobs::open_dir(&folder.join(COLD))?,
                object_stores,
                sharing: Sharing::Exclusive,
                cluster: None,
                member: None,
            }),
            StoreChoice::Postgres(_) => {
                let secret = secret(&*store, entropy).await?;
                let member = join(store, config.listen, clock).await?;
                let keeping = tokio::spawn({
                    let member = member.clone();
                    async move { member.keep().await }
                });
                Ok(Self {
                    store: member.clone(),
                    blobs: Blobs::open_shared_dir(&folder)?,
                    cold: Blobs::open_shared_dir(&folder.join(COLD))?,
                    object_stores,
                    sharing: Sharing::Shared,
                    cluster: Some((config.listen, secret)),
                    member: Some((member, keeping)),
                })
            }
        }
    }

    /// Leaves the cluster, if the node is in one.
    pub async fn close(self) {
        let Some((member, keeping)) = self.member else { return };
        keeping.abort();
        if let Err(error) = member.leave().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "others will find out by themselves that this node is gone");
        }
    }
}

/// Opens the store that the configuration names.
pub async fn open_store(config: &Config, data: &Path) -> anyhow::Result<Arc<dyn Store>> {
    match &config.store {
        StoreChoice::Embedded => {
            let path = data.join(DATABASE);
            private(&path).with_context(|| format!("cannot use the data folder `{}`", data.display()))?;
            let store = SqliteStore::open(&path);
            let store = store.with_context(|| format!("cannot use the data folder `{}`", data.display()))?;
            Ok(Arc::new(store))
        }
        StoreChoice::Postgres(url) => Ok(Arc::new(
            PostgresStore::connect(&PostgresOptions::new((**url).clone())).await?,
        )),
    }
}

/// Makes the database a file for this user's eyes only before anything is in it: access keys and environments will be.
/// The files that SQLite puts beside it have the same mode.
fn private(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// Opens the stores of objects: those that are named, or two beside the store. Two schemas of one database
/// fail together; they are there so that every node of a cluster finds the same objects.
async fn open_object_stores(config: &Config, data: &Path) -> anyhow::Result<Vec<NamedStore>> {
    let mut places = config.object_stores.clone();
    if places.is_empty() {
        for name in OBJECT_STORES {
            let beside = match &config.store {
                StoreChoice::Embedded => ObjectStore::File(data.join(format!("objects-{name}.db"))),
                StoreChoice::Postgres(url) => {
                    let schema = format!("{}_objects_{name}", url.schema());
                    ObjectStore::Postgres(Box::new(url.with_schema(&schema)?))
                }
            };
            places.push((name.to_owned(), beside));
        }
    }
    let mut stores = Vec::new();
    for (name, place) in places {
        let store: Arc<dyn Store> = match place {
            ObjectStore::File(path) => {
                let store = SqliteStore::open(&path);
                Arc::new(store.with_context(|| format!("cannot use the object store `{}`", path.display()))?)
            }
            ObjectStore::Postgres(url) => Arc::new(PostgresStore::connect(&PostgresOptions::new(*url)).await?),
        };
        let name = name
            .parse()
            .with_context(|| format!("`{name}` names no object store"))?;
        stores.push(NamedStore { name, store });
    }
    Ok(stores)
}

/// `node/secret`: what the nodes of the cluster know of each other and nobody else. Made by the first node,
/// lives for ever. Who reads it may write the store anyhow.
async fn secret(store: &dyn Store, entropy: &Entropy) -> anyhow::Result<Secret> {
    let key = Key::from_static(b"node/secret");
    let mut fresh = [0; Secret::BYTES];
    entropy.fill(&mut fresh);
    let made = vec![Write::Put(key.clone(), Bytes::copy_from_slice(&fresh))];
    match store.commit(vec![Condition::Absent(key.clone())], made).await {
        Ok(_) => return Ok(Secret::new(fresh)),
        Err(CommitError::Conflict(_)) => {}
        Err(error) => return Err(error).context("cannot make the cluster's secret"),
    }
    let found = store.get(&key).await?.context("the cluster's secret has gone")?;
    let bytes = found.value.as_ref().try_into();
    Ok(Secret::new(bytes.context("the cluster's secret is damaged")?))
}

async fn join(store: Arc<dyn Store>, listen: SocketAddr, clock: &Clock) -> anyhow::Result<Arc<GuardedStore>> {
    let options = MemberOptions {
        name: listen.to_string(),
        lease: LEASE_DEFAULT,
    };
    let member = GuardedStore::join(store, clock.clone(), options).await;
    let member = member.context("cannot join the cluster on this store")?;
    tracing::info!(host = member.host().0, "joined the cluster");
    Ok(Arc::new(member))
}
