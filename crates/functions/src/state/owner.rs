//! What an owner does with shared state: create, look, attach, detach, remove; each change with its audit row.

use std::sync::Arc;

use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::SandboxKind;
use bowline_store::record::Record as _;
use bowline_store::{Sharing, Version as StoreVersion};

use super::folder::{self, FolderKind, FolderRecord, share_name};
use super::record::{HeadRecord, ResourceRecord};
use super::shelf::Age;
use super::vault::Vault;
use super::{
    ATTACHED_MAX, Attach, AttachedFolder, Attachment, ENTRIES_MAX, FolderStatus, FolderView, NewState, RESOURCES_MAX,
    StateEntry, StateError, StateName, StateView, Use, is_key, keys,
};
use crate::error::Error;
use crate::model::Caller;
use crate::name::FunctionRef;
use crate::operations::attach::{edit, edit_while};
use crate::registry::{Audit, Change, FunctionEntry};
use crate::service::Inner;

/// How often a removal is tried while functions still write.
const TRIES_MAX: u32 = 20;

/// A resource as it lies in the store.
pub(super) struct Found {
    pub record: ResourceRecord,
    pub at: StoreVersion,
}

pub(super) async fn find(inner: &Inner, account: &AccountId, name: &StateName) -> Result<Found, StateError> {
    let found = inner.registry.store().get(&keys::resource(account, name)).await?;
    let found = found.ok_or_else(|| StateError::NoSuchState(name.to_string()))?;
    Ok(Found {
        record: ResourceRecord::decode(&found.value)?,
        at: found.version,
    })
}

/// Creates a resource; with the token of an earlier creation, gives that one's answer.
pub(crate) async fn create(inner: Arc<Inner>, caller: Caller, new: NewState) -> Result<StateView, StateError> {
    if let Some(folder) = &new.folder {
        folder.check()?;
    }
    let name = new.name.clone();
    match find(&inner, &caller.account, &name).await {
        Ok(found) => {
            return if is_of(&found.record, &new) {
                view(&inner, &caller.account, found.record).await
            } else {
                Err(StateError::Exists(name.to_string()))
            };
        }
        Err(StateError::NoSuchState(_)) => {}
        Err(error) => return Err(error),
    }
    let prefix = keys::resources(&caller.account);
    if inner.registry.store().scan(&prefix, None, RESOURCES_MAX).await?.len() >= RESOURCES_MAX {
        return Err(StateError::TooMany);
    }
    let record = ResourceRecord {
        id: RequestId::random(&inner.entropy).to_string(),
        name: name.clone(),
        writers: new.writers,
        created: inner.clock.now(),
        token: new.token,
        folder: new.folder.map(|folder| FolderRecord {
            kind: folder.kind,
            size_mib: folder.size.0,
            node: inner.node.clone(),
            host: inner.host_number(),
            generation: 1,
        }),
    };
    if record
        .folder
        .as_ref()
        .is_some_and(|folder| folder.kind == FolderKind::Volume)
    {
        inner.begin_keeping().await?;
    }
    inner.keep_folder(&caller.account, &record, Age::New).await?;
    let committed = commit_new(&inner, &caller, &record).await;
    match committed {
        Ok(()) => view(&inner, &caller.account, record).await,
        Err(error) => {
            // In doubt it stays; one that nothing names goes at the next start.
            if let (Some(folder), false) = (&record.folder, matches!(error, StateError::Unknown(_))) {
                let share = share_name(&record.id, folder.kind, folder.generation);
                inner.drop_folder(&share, &record.id).await;
            }
            Err(error)
        }
    }
}

/// Whether an earlier creation asked for the same, by the same token.
fn is_of(record: &ResourceRecord, new: &NewState) -> bool {
    let folder = record.folder.as_ref();
    new.token.is_some()
        && record.token == new.token
        && record.writers == new.writers
        && folder.map(|folder| (folder.kind, folder.size_mib)) == new.folder.map(|folder| (folder.kind, folder.size.0))
}

async fn commit_new(inner: &Inner, caller: &Caller, record: &ResourceRecord) -> Result<(), StateError> {
    let name = &record.name;
    let mut change = Change::default();
    let key = keys::resource(&caller.account, name);
    change.put(key, None, None, Some(record.encode()));
    let committed = inner
        .registry
        .commit(row(caller, "CreateState", name), &mut change)
        .await;
    match committed {
        Ok(_) => Ok(()),
        Err(Error::Conflict(_)) => Err(StateError::Exists(name.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// All resources of the account, by name.
pub(crate) async fn list(inner: &Inner, account: &AccountId) -> Result<Vec<StateView>, StateError> {
    let found = inner
        .registry
        .store()
        .scan(&keys::resources(account), None, RESOURCES_MAX)
        .await?;
    let mut views = Vec::with_capacity(found.len());
    for (_, entry) in found {
        views.push(view(inner, account, ResourceRecord::decode(&entry.value)?).await?);
    }
    Ok(views)
}

pub(crate) async fn show(inner: &Inner, account: &AccountId, name: &StateName) -> Result<StateView, StateError> {
    let found = find(inner, account, name).await?;
    view(inner, account, found.record).await
}

/// One entry.
pub(crate) async fn read(
    inner: &Inner,
    account: &AccountId,
    name: &StateName,
    key: &str,
) -> Result<StateEntry, StateError> {
    let found = find(inner, account, name).await?;
    if !is_key(key) {
        return Err(StateError::NoSuchEntry(name.to_string()));
    }
    vault(inner, &found.record).read(key).await
}

/// Lets a function of the same account use the resource.
pub(crate) async fn attach(
    inner: Arc<Inner>,
    caller: Caller,
    name: StateName,
    target: FunctionRef,
    attach: Attach,
) -> Result<StateView, StateError> {
    let _attaching = inner.state_lock.lock().await;
    let found = find(&inner, &caller.account, &name).await?;
    let (_alone, old) = function(&inner, &caller, &target).await?;
    let has = old.state();
    if has.is_some_and(|has| has.len() >= ATTACHED_MAX && !has.contains_key(&name)) {
        return Err(StateError::TooMany);
    }
    let attachment = attachment(&found.record, &old, attach)?;
    // It may be removed meanwhile, on another node too.
    let mut change = Change::default();
    change.only_while(keys::resource(&caller.account, &name), found.at);
    edit_while(&inner, (&caller, "AttachState", change), &old, &target, |to| {
        to.state.insert(name, attachment);
    })
    .await?;
    view(&inner, &caller.account, found.record).await
}

/// The resource as it is to be attached to the function.
fn attachment(record: &ResourceRecord, function: &FunctionEntry, attach: Attach) -> Result<Attachment, StateError> {
    let folder = match &record.folder {
        None if attach.at.is_some() => {
            let text = "a set of keys is mounted nowhere: leave the path out";
            return Err(StateError::Invalid(text.to_owned()));
        }
        None => None,
        Some(folder) => Some(attached_folder((record, folder), function, attach.at)?),
    };
    Ok(Attachment {
        id: record.id.clone(),
        access: attach.access,
        folder,
    })
}

fn attached_folder(
    (record, folder): (&ResourceRecord, &FolderRecord),
    function: &FunctionEntry,
    at: Option<String>,
) -> Result<AttachedFolder, StateError> {
    if function.configurations().any(|one| one.kind != SandboxKind::Linux) {
        return Err(StateError::Infeasible(format!(
            "`{}` is a WebAssembly function, which sees no folders: attach a set of keys, or deploy it for Linux",
            function.name
        )));
    }
    let at = folder::place(&record.name, at)?;
    let others = function.state().into_iter().flatten();
    let others = others.filter(|(name, _)| **name != record.name);
    for (name, other) in others.filter_map(|(name, other)| Some((name, other.folder.as_ref()?))) {
        if other.at == at {
            return Err(StateError::Invalid(format!(
                "`{at}` is where the function has `{name}`"
            )));
        }
        if other.node != folder.node {
            return Err(StateError::Infeasible(format!(
                "the function has `{name}`, which lies on node `{}`, and this one lies on node `{}`: it can run on one of them only",
                other.node, folder.node
            )));
        }
    }
    Ok(AttachedFolder {
        kind: folder.kind,
        at,
        writers: record.writers,
        node: folder.node.clone(),
        generation: folder.generation,
    })
}

/// Takes the resource from a function; one that does not have it stays as it is.
pub(crate) async fn detach(
    inner: Arc<Inner>,
    caller: Caller,
    name: StateName,
    target: FunctionRef,
) -> Result<(), StateError> {
    let (_alone, old) = function(&inner, &caller, &target).await?;
    if old.state().is_none_or(|state| !state.contains_key(&name)) {
        return Ok(());
    }
    edit(&inner, (&caller, "DetachState"), &old, &target, |to| {
        to.state.remove(&name);
    })
    .await?;
    Ok(())
}

/// The function as it is while its lock is held.
async fn function<'a>(
    inner: &'a Inner,
    caller: &Caller,
    target: &FunctionRef,
) -> Result<(tokio::sync::MutexGuard<'a, ()>, Arc<FunctionEntry>), StateError> {
    let missing = || StateError::NoSuchFunction(target.name.to_string());
    if target.account != caller.account {
        return Err(missing());
    }
    let alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(target).map_err(|_| missing())?;
    Ok((alone, old))
}

/// Removes a resource with all it holds; not while a function has it, whichever node attached it.
pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, name: StateName) -> Result<(), StateError> {
    let _removing = inner.state_lock.lock().await;
    for _ in 0..TRIES_MAX {
        let found = find(&inner, &caller.account, &name).await?;
        let seen = inner.registry.changed().await?;
        if inner.registry.sharing == Sharing::Shared {
            let followed = inner.follow().await;
            followed.map_err(|error| StateError::Unavailable(Box::new(error)))?;
        }
        if let Some(Use { function, .. }) = attached(&inner, &caller.account, &found.record).pop() {
            let state = name.to_string();
            return Err(StateError::InUse { state, function });
        }
        let mut change = removal(&inner, &caller.account, &found).await?;
        change.only_if_unchanged(seen);
        match inner
            .registry
            .commit(row(&caller, "DeleteState", &name), &mut change)
            .await
        {
            Ok(_) => {
                inner.drop_removed(&found.record).await;
                return Ok(());
            }
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StateError::Contended)
}

async fn removal(inner: &Inner, account: &AccountId, found: &Found) -> Result<Change, StateError> {
    let (store, id) = (inner.registry.store(), &found.record.id);
    let mut change = Change::default();
    let key = keys::resource(account, &found.record.name);
    change.put(key, Some(found.at), Some(found.record.encode()), None);
    let head = keys::head(id);
    if let Some(old) = store.get(&head).await? {
        change.put(head, Some(old.version), None, None);
    }
    for (key, entry) in store.scan(&keys::entries(id), None, ENTRIES_MAX as usize).await? {
        change.put(key, Some(entry.version), None, None);
    }
    Ok(change)
}

/// The functions that a resource is attached to, as this node knows them.
fn attached(inner: &Inner, account: &AccountId, record: &ResourceRecord) -> Vec<Use> {
    let generation = record.folder.as_ref().map(|folder| folder.generation);
    let functions = inner.registry.snapshot.of_account(account);
    let uses = functions.iter().filter_map(|entry| {
        let attachment = entry.state()?.get(&record.name)?;
        let folder = attachment.folder.as_ref();
        (attachment.id == record.id).then(|| Use {
            function: entry.name.to_string(),
            access: attachment.access,
            at: folder.map(|folder| folder.at.clone()),
            is_lost: folder.map(|folder| folder.generation) != generation,
        })
    });
    uses.collect()
}

async fn view(inner: &Inner, account: &AccountId, record: ResourceRecord) -> Result<StateView, StateError> {
    let (head, _) = vault(inner, &record).head().await?;
    let HeadRecord {
        version,
        entries,
        bytes,
        epoch,
        lease,
    } = head;
    let folder = record.folder.as_ref().map(|folder| FolderView {
        kind: folder.kind,
        size: Mebibytes(folder.size_mib),
        node: folder.node.clone(),
        is_here: folder.node == inner.node,
        generation: folder.generation,
        status: match inner.has_folder(&record.id, folder) {
            true => FolderStatus::Ready,
            false => FolderStatus::Away,
        },
    });
    Ok(StateView {
        folder,
        attached: attached(inner, account, &record),
        name: record.name,
        id: record.id,
        writers: record.writers,
        created: record.created,
        version,
        entries,
        bytes,
        epoch,
        holder: lease
            .filter(|lease| lease.until > inner.clock.now())
            .map(|lease| lease.holder),
    })
}

/// A resource's vault, to look into.
fn vault<'a>(inner: &'a Inner, record: &'a ResourceRecord) -> Vault<'a> {
    Vault {
        store: &**inner.registry.store(),
        name: record.name.as_str(),
        id: &record.id,
        writers: record.writers,
        anchor: Vec::new(),
    }
}

fn row<'a>(caller: &'a Caller, action: &'static str, name: &StateName) -> Audit<'a> {
    Audit {
        caller,
        action,
        subject: format!("{}/state/{name}", caller.account),
    }
}
