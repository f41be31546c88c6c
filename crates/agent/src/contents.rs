//! What is on an instance: code and sandboxes, and in which order that came to be.
//!
//! ```text
//!   code:    begun ─▶ there        sandbox: begun ─▶ made ─▶ ready ─▶ used, used, …
//! ```
//! Whatever happens on an instance has a number; a greater one is later. Nothing of this is written down: it goes with the
//! instance.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::VersionSpec;
use parking_lot::Mutex;

/// All that is on an instance at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// By the order in which it came.
    pub code: Vec<CodeThere>,
    /// Likewise.
    pub sandboxes: Vec<SandboxThere>,
}

/// A package, or the layers of a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeThere {
    pub digest: Digest,
    pub begun: u64,
    /// When it was whole; until then it is on its way.
    pub there: Option<u64>,
}

/// A sandbox, also one that is being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxThere {
    /// When it was begun, which names it on its instance.
    pub begun: u64,
    pub function: String,
    pub version: String,
    pub code: Digest,
    pub memory: Mebibytes,
    /// When the agent was told to make it; its code was there.
    pub made: Option<u64>,
    /// When it was initialised.
    pub ready: Option<u64>,
    /// When its last invocation began.
    pub used: Option<u64>,
}

/// The node's record of it.
#[derive(Default)]
pub(crate) struct Contents {
    last: AtomicU64,
    code: Mutex<BTreeMap<Digest, (u64, Option<u64>)>>,
    sandboxes: Mutex<BTreeMap<u64, Arc<Facts>>>,
}

struct Facts {
    function: String,
    version: String,
    /// The package, then the layers.
    code: Vec<Digest>,
    memory: Mebibytes,
    /// Zero before.
    made: AtomicU64,
    ready: AtomicU64,
    used: AtomicU64,
}

impl Contents {
    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Says that code is on its way; `None` if it is there.
    pub fn deliver(self: &Arc<Self>, digest: &Digest) -> Option<Delivery> {
        let mut code = self.code.lock();
        let (_, there) = code.entry(*digest).or_insert_with(|| (self.next(), None));
        there.is_none().then(|| Delivery {
            contents: self.clone(),
            digest: *digest,
        })
    }

    /// Forgets code that nobody uses; returns what is used, that of sandboxes there too.
    pub fn keep(&self, in_use: Vec<Digest>) -> Vec<Digest> {
        let mut used: HashSet<Digest> = in_use.into_iter().collect();
        used.extend(
            self.sandboxes
                .lock()
                .values()
                .flat_map(|facts| facts.code.iter().copied()),
        );
        self.code
            .lock()
            .retain(|digest, (_, there)| there.is_none() || used.contains(digest));
        used.into_iter().collect()
    }

    /// Says that a sandbox is being made.
    pub fn enter(self: &Arc<Self>, version: &VersionSpec) -> Line {
        let code = std::iter::once(&version.code).chain(&version.layers);
        let facts = Arc::new(Facts {
            function: version.function.clone(),
            version: version.version.clone(),
            code: code.map(|code| code.digest).collect(),
            memory: version.memory,
            made: AtomicU64::new(0),
            ready: AtomicU64::new(0),
            used: AtomicU64::new(0),
        });
        let begun = self.next();
        self.sandboxes.lock().insert(begun, facts.clone());
        Line {
            contents: self.clone(),
            begun,
            facts,
        }
    }

    pub fn inventory(&self) -> Inventory {
        let entry = |(digest, (begun, there)): (&Digest, &(u64, Option<u64>))| CodeThere {
            digest: *digest,
            begun: *begun,
            there: *there,
        };
        let mut code: Vec<CodeThere> = self.code.lock().iter().map(entry).collect();
        code.sort_by_key(|code| code.begun);
        let sandboxes = self.sandboxes.lock();
        let sandboxes = sandboxes.iter().map(|(begun, facts)| facts.shown(*begun)).collect();
        Inventory { code, sandboxes }
    }
}

impl Facts {
    fn shown(&self, begun: u64) -> SandboxThere {
        let number = |number: &AtomicU64| Some(number.load(Ordering::Relaxed)).filter(|number| *number != 0);
        SandboxThere {
            begun,
            function: self.function.clone(),
            version: self.version.clone(),
            code: self.code[0],
            memory: self.memory,
            made: number(&self.made),
            ready: number(&self.ready),
            used: number(&self.used),
        }
    }
}

/// Code on its way; given up if it is dropped.
pub(crate) struct Delivery {
    contents: Arc<Contents>,
    digest: Digest,
}

impl Delivery {
    /// Says that it has arrived.
    pub fn done(self) {
        let mut code = self.contents.code.lock();
        let number = self.contents.next();
        let (_, there) = code.entry(self.digest).or_insert((number, None));
        there.get_or_insert(number);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let mut code = self.contents.code.lock();
        if matches!(code.get(&self.digest), Some((_, None))) {
            code.remove(&self.digest);
        }
    }
}

/// A sandbox's line in the inventory, for as long as it lives.
pub(crate) struct Line {
    contents: Arc<Contents>,
    begun: u64,
    facts: Arc<Facts>,
}

impl Line {
    pub fn is_made(&self) {
        self.facts.made.store(self.contents.next(), Ordering::Relaxed);
    }

    pub fn is_ready(&self) {
        self.facts.ready.store(self.contents.next(), Ordering::Relaxed);
    }

    pub fn is_used(&self) {
        self.facts.used.store(self.contents.next(), Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.contents.sandboxes.lock().remove(&self.begun);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::tests::version;

    #[test]
    fn what_comes_has_a_place_in_the_order_and_what_goes_is_not_there() {
        let contents = Arc::new(Contents::default());
        let version = version();
        let line = contents.enter(&version);
        let delivery = contents.deliver(&version.code.digest).expect("it is not there");
        assert_eq!(contents.inventory().code[0].there, None, "it is on its way");
        delivery.done();
        assert!(contents.deliver(&version.code.digest).is_none(), "it is there");
        line.is_made();
        line.is_ready();
        line.is_used();
        line.is_used();
        let inventory = contents.inventory();
        let code = &inventory.code[0];
        assert_eq!((code.digest, code.begun, code.there), (version.code.digest, 2, Some(3)));
        let sandbox = &inventory.sandboxes[0];
        assert_eq!((sandbox.begun, sandbox.made, sandbox.ready), (1, Some(4), Some(5)));
        assert_eq!(sandbox.used, Some(7), "the last time");
        assert_eq!((sandbox.code, sandbox.memory), (version.code.digest, version.memory));
        // Code of a sandbox that lives is in use, whoever has forgotten it.
        assert_eq!(contents.keep(Vec::new()), [version.code.digest]);
        drop(line);
        assert!(contents.keep(Vec::new()).is_empty());
        assert_eq!(contents.inventory(), Inventory::default());
    }

    #[test]
    fn a_delivery_that_is_given_up_begins_anew() {
        let contents = Arc::new(Contents::default());
        let digest = Digest::of(b"code");
        drop(contents.deliver(&digest));
        assert_eq!(contents.inventory(), Inventory::default());
        contents.deliver(&digest).expect("it is not there").done();
        drop(contents.deliver(&digest));
        assert_eq!(contents.inventory().code.len(), 1, "what is there stays");
    }
}
