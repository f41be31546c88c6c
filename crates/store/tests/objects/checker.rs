//! What must be true of a history and of the stores it left behind.
//!
//! Bodies are `KEY/ATTEMPT`: no two attempts share one, and each says under which key its version is found.
//! Versions make the check of linearizability simple: an acknowledged change is the event of exactly its
//! version, a read shows exactly the event of its version, and no operation that began after another one
//! ended is told of an earlier version.

use std::collections::{BTreeMap, BTreeSet};

use bowline_store::objects::{EventKind, GetError, ObjectId, Objects};

use crate::world::find;

/// One operation that ended, with its place in real time.
#[derive(Clone, Debug)]
pub struct Record {
    pub began: u64,
    pub ended: u64,
    pub done: Done,
}

#[derive(Clone, Debug)]
pub enum Done {
    Created {
        id: ObjectId,
        body: String,
    },
    /// Nothing may have come of it.
    Refused {
        body: String,
    },
    Changed {
        id: ObjectId,
        version: u64,
        body: String,
    },
    Deleted {
        id: ObjectId,
        version: u64,
    },
    Read {
        id: ObjectId,
        version: u64,
        body: String,
    },
    Hit {
        id: ObjectId,
        version: u64,
        key: String,
    },
}

/// The bodies of an object's versions, from 1 on, in the order of its events.
type Story = Vec<(EventKind, String)>;

/// Everything that is wrong; nothing if all is well.
pub async fn faults(objects: &Objects, ids: &BTreeSet<ObjectId>, history: &[Record]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut stories = BTreeMap::new();
    for id in ids {
        match story(objects, id).await {
            Ok(story) => {
                stories.insert(id.clone(), story);
            }
            Err(fault) => faults.push(fault),
        }
    }
    faults.extend(check_history(&stories, history));
    faults.extend(check_order(history));
    faults.extend(check_index(objects, &stories).await);
    faults
}

/// The events of an object, which must agree with what it is.
async fn story(objects: &Objects, id: &ObjectId) -> Result<Story, String> {
    let mut story = Story::new();
    let mut after = 0;
    loop {
        let page = match objects.events(id, after, 3).await {
            Ok(page) => page,
            // Barred, or never made.
            Err(GetError::NotFound) if after == 0 => return Ok(story),
            Err(error) => return Err(format!("{id}: events: {error}")),
        };
        for event in page.events {
            after += 1;
            if event.version != after {
                return Err(format!("{id}: event {after} is missing, {} is there", event.version));
            }
            story.push((event.kind, String::from_utf8_lossy(&event.body).into_owned()));
        }
        if page.next.is_none() {
            break;
        }
    }
    let first_only = story.iter().skip(1).all(|(kind, _)| *kind != EventKind::Create);
    if !first_only || story.first().is_none_or(|(kind, _)| *kind != EventKind::Create) {
        return Err(format!("{id}: does not begin with one create: {story:?}"));
    }
    let last = story.last().unwrap();
    match objects.get(id).await {
        Ok(object) if object.version == after && object.body == last.1 && last.0 != EventKind::Delete => Ok(story),
        Err(GetError::NotFound) if last.0 == EventKind::Delete => Ok(story),
        other => Err(format!(
            "{id}: object {other:?} does not agree with {after} events, the last {last:?}"
        )),
    }
}

fn check_history(stories: &BTreeMap<ObjectId, Story>, history: &[Record]) -> Vec<String> {
    let mut faults = Vec::new();
    let at = |id: &ObjectId, version: u64| {
        let story = stories.get(id)?;
        story.get(usize::try_from(version).ok()?.checked_sub(1)?)
    };
    for Record { done, .. } in history {
        let good = match done {
            Done::Created { id, body } => at(id, 1).is_some_and(|event| event.1 == *body),
            Done::Changed { id, version, body } | Done::Read { id, version, body } => {
                at(id, *version).is_some_and(|event| event.1 == *body)
            }
            Done::Deleted { id, version } => at(id, *version).is_some_and(|event| event.0 == EventKind::Delete),
            Done::Hit { id, version, key } => at(id, *version).is_some_and(|event| key_of(&event.1) == key),
            Done::Refused { body } => !stories.values().flatten().any(|event| event.1 == *body),
        };
        if !good {
            faults.push(format!("the events do not bear out {done:?}"));
        }
    }
    for (id, story) in stories {
        let mut bodies = BTreeSet::new();
        let changes = story.iter().filter(|event| event.0 != EventKind::Delete);
        for (_, body) in changes.filter(|(_, body)| !bodies.insert(body.clone())) {
            faults.push(format!("{id}: `{body}` was applied twice"));
        }
    }
    faults
}

/// No operation is told of a version earlier than one that ended before it began.
fn check_order(history: &[Record]) -> Vec<String> {
    let mut told: BTreeMap<&ObjectId, Vec<(u64, u64, u64)>> = BTreeMap::new();
    for Record { began, ended, done } in history {
        let (id, version) = match done {
            Done::Created { id, .. } => (id, 1),
            Done::Changed { id, version, .. }
            | Done::Deleted { id, version }
            | Done::Read { id, version, .. }
            | Done::Hit { id, version, .. } => (id, *version),
            Done::Refused { .. } => continue,
        };
        told.entry(id).or_default().push((*began, *ended, version));
    }
    let mut faults = Vec::new();
    for (id, mut operations) in told {
        operations.sort_unstable();
        for (began, _, version) in &operations {
            let newest = operations
                .iter()
                .filter(|other| other.1 < *began)
                .map(|other| other.2)
                .max();
            if newest.is_some_and(|newest| newest > *version) {
                faults.push(format!("{id}: version {version} was told after {newest:?}"));
            }
        }
    }
    faults
}

/// Every live object is found by its key, and by none that it had before.
async fn check_index(objects: &Objects, stories: &BTreeMap<ObjectId, Story>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut wanted: BTreeMap<String, BTreeSet<ObjectId>> = BTreeMap::new();
    for (id, story) in stories {
        for (_, body) in story.iter().filter(|event| event.0 != EventKind::Delete) {
            wanted.entry(key_of(body).to_owned()).or_default();
        }
        if let Some((kind, body)) = story.last()
            && *kind != EventKind::Delete
        {
            wanted.entry(key_of(body).to_owned()).or_default().insert(id.clone());
        }
    }
    for (key, ids) in wanted {
        let found = find(objects, &key).await;
        let known: BTreeSet<_> = found.iter().filter(|id| stories.contains_key(id)).cloned().collect();
        if known != ids || found.len() != known.len() {
            faults.push(format!("`{key}` finds {found:?}, expected {ids:?}"));
        }
    }
    faults
}

fn key_of(body: &str) -> &str {
    body.split('/').next().unwrap_or_default()
}
