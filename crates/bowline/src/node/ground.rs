//! What a node's data stand on: its store, its own or a cluster's, and its blobs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use bowline_foundation::entropy::Entropy;
use bowline_sandbox_wasm::SigningKey;
use bowline_store::blob::Blobs;
use bowline_store::objects::NamedStore;
use bowline_store::{
    CommitError, Condition, Key, PostgresOptions, PostgresStore, Sharing, SqliteStore, Store, Write, archive,
};
use bowline_stream::peers::tcp::Secret;
use bytes::Bytes;

use crate::config::{Config, ObjectStore, StoreChoice};

/// The file of the embedded store in the data folder.
const DATABASE: &str = "bowline.db";

/// The folder of streams' cold parts among the blobs.
pub const COLD: &str = "cold";
/// The folder of checkpoints among the blobs.
const CHECKPOINTS: &str = "checkpoints";
const CLUSTER: &str = "node/secret";
const SIGNING: &str = "checkpoint/key";
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
    /// The object stores that lie where another one lies too, with those: they fail together.
    pub neighbours: BTreeMap<String, Vec<String>>,
    pub sharing: Sharing,
    /// Where checkpoints go, apart from the packages too.
    pub checkpoints: Blobs,
    /// What signs checkpoints.
    pub signing: SigningKey,
    /// Where the node listens, and what the nodes of its cluster know, if it is in one.
    pub cluster: Option<(SocketAddr, Secret)>,
}

impl Ground {
    /// Opens what the configuration names.
    pub async fn open(config: &Config, data: &Path, entropy: &Entropy) -> anyhow::Result<Self> {
        let store = open_store(config, data).await?;
        let unfinished = archive::unfinished(&*store).await?;
        ensure!(
            unfinished.is_none(),
            "an import into this store was cut off; run the same `bowline store import` again"
        );
        let folder = config.blobs.clone().unwrap_or_else(|| data.join("blobs"));
        let places = object_places(config, data)?;
        let object_stores = open_object_stores(&places).await?;
        let neighbours = neighbours(&places);
        let signing = SigningKey::new(&secret(&*store, entropy, SIGNING).await?);
        match config.store {
            StoreChoice::Embedded => Ok(Self {
                store,
                blobs: Blobs::open_dir(&folder)?,
                cold: Blobs::open_dir(&folder.join(COLD))?,
                checkpoints: Blobs::open_dir(&folder.join(CHECKPOINTS))?,
                signing,
                object_stores,
                neighbours,
                sharing: Sharing::Exclusive,
                cluster: None,
            }),
            StoreChoice::Postgres(_) => {
                let secret = Secret::new(secret(&*store, entropy, CLUSTER).await?);
                Ok(Self {
                    store,
                    blobs: Blobs::open_shared_dir(&folder)?,
                    cold: Blobs::open_shared_dir(&folder.join(COLD))?,
                    checkpoints: Blobs::open_shared_dir(&folder.join(CHECKPOINTS))?,
                    signing,
                    object_stores,
                    neighbours,
                    sharing: Sharing::Shared,
                    cluster: Some((config.listen, secret)),
                })
            }
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

/// Where the stores of objects are: those that are named, or two beside the store. Two schemas of one
/// database fail together; they are there so that every node of a cluster finds the same objects.
fn object_places(config: &Config, data: &Path) -> anyhow::Result<Vec<(String, ObjectStore)>> {
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
    Ok(places)
}

/// Which stores lie on the server or the disk of another one.
fn neighbours(places: &[(String, ObjectStore)]) -> BTreeMap<String, Vec<String>> {
    let grounds: Vec<(&String, Vec<String>)> = places.iter().map(|(name, place)| (name, place.grounds())).collect();
    let beside = |(name, own): &(&String, Vec<String>)| {
        let others = grounds
            .iter()
            .filter(|(other, theirs)| other != name && theirs.iter().any(|ground| own.contains(ground)));
        let others: Vec<String> = others.map(|(other, _)| (*other).clone()).collect();
        (!others.is_empty()).then(|| ((*name).clone(), others))
    };
    grounds.iter().filter_map(beside).collect()
}

async fn open_object_stores(places: &[(String, ObjectStore)]) -> anyhow::Result<Vec<NamedStore>> {
    let mut stores = Vec::new();
    for (name, place) in places {
        let store: Arc<dyn Store> = match place {
            ObjectStore::File(path) => {
                let store = SqliteStore::open(path);
                Arc::new(store.with_context(|| format!("cannot use the object store `{}`", path.display()))?)
            }
            ObjectStore::Postgres(url) => {
                // The others take the objects until it is there: that is what they are independent for.
                let (store, away) = PostgresStore::connect_or_wait(&PostgresOptions::new((**url).clone())).await?;
                if let Some(reason) = away {
                    tracing::warn!(store = name, %url, reason, "an object store is away; the node starts without it");
                }
                Arc::new(store)
            }
        };
        let name = name
            .parse()
            .with_context(|| format!("`{name}` names no object store"))?;
        stores.push(NamedStore { name, store });
    }
    Ok(stores)
}

/// `node/secret`: what the nodes of the cluster know of each other and nobody else. `checkpoint/key`: what signs
/// checkpoints. 32 random bytes each, made by the first node that needs them; they live for ever. Who reads them may
/// write the store anyhow.
async fn secret(store: &dyn Store, entropy: &Entropy, name: &'static str) -> anyhow::Result<[u8; 32]> {
    let key = Key::from_static(name.as_bytes());
    if let Some(found) = store.get(&key).await? {
        let bytes = found.value.as_ref().try_into();
        return bytes.with_context(|| format!("`{name}` is damaged in the store"));
    }
    let mut fresh = [0; 32];
    entropy.fill(&mut fresh);
    let made = vec![Write::Put(key.clone(), Bytes::copy_from_slice(&fresh))];
    match store.commit(vec![Condition::Absent(key.clone())], made).await {
        Ok(_) => return Ok(fresh),
        Err(CommitError::Conflict(_)) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot make `{name}`")),
    }
    let found = store
        .get(&key)
        .await?
        .with_context(|| format!("`{name}` has gone from the store"))?;
    let bytes = found.value.as_ref().try_into();
    bytes.with_context(|| format!("`{name}` is damaged in the store"))
}
