//! Which file a guest's kernel means: numbers for places in the folder.
//!
//! A number stands for a name in a folder that has a number, and for what was there when it was given. So it costs no open
//! file. Another file that comes to be there gets another number, and the old one is stale.

use std::collections::HashMap;
use std::ffi::{CStr, CString};

use rustix::fs::Statx;
use rustix::io::Errno;

use super::request::NodeId;

/// The top of what the guest mounts; nothing is there but the folder.
pub(super) const TOP: NodeId = NodeId(1);
/// The folder itself.
pub(super) const FOLDER: NodeId = NodeId(2);
/// The longest path that a kernel takes, with its end.
const PATH_BYTES_MAX: usize = 4096;

/// What makes two sights of a file the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    kind: u16,
    /// Numbers are used again.
    born: (i64, u32),
}

impl From<&Statx> for Identity {
    fn from(file: &Statx) -> Self {
        Self {
            inode: file.stx_ino,
            kind: file.stx_mode & 0o170_000,
            born: (file.stx_btime.tv_sec, file.stx_btime.tv_nsec),
        }
    }
}

/// The numbers that a kernel holds.
pub(super) struct Tree {
    nodes: HashMap<NodeId, Node>,
    places: HashMap<(NodeId, CString), NodeId>,
    next: u64,
    nodes_max: usize,
}

struct Node {
    parent: NodeId,
    name: CString,
    identity: Identity,
    /// How often the kernel was given it.
    lookups: u64,
}

impl Tree {
    pub fn new(nodes_max: usize) -> Self {
        Self {
            nodes: HashMap::new(),
            places: HashMap::new(),
            next: FOLDER.0 + 1,
            nodes_max,
        }
    }

    /// The number of what was found in a folder; the kernel gets it once more.
    pub fn found(&mut self, parent: NodeId, name: &CStr, identity: Identity) -> Result<NodeId, Errno> {
        let place = (parent, name.to_owned());
        if let Some(id) = self.places.get(&place)
            && let Some(node) = self.nodes.get_mut(id)
            && node.identity == identity
        {
            node.lookups = node.lookups.saturating_add(1);
            return Ok(*id);
        }
        if self.nodes.len() >= self.nodes_max {
            return Err(Errno::NFILE);
        }
        let id = NodeId(self.next);
        self.next += 1;
        let node = Node {
            parent,
            name: place.1.clone(),
            identity,
            lookups: 1,
        };
        self.nodes.insert(id, node);
        self.places.insert(place, id);
        Ok(id)
    }

    /// The kernel has forgotten a number so often.
    pub fn forget(&mut self, id: NodeId, lookups: u64) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.lookups = node.lookups.saturating_sub(lookups);
        if node.lookups == 0
            && let Some(Node { parent, name, .. }) = self.nodes.remove(&id)
        {
            let place = (parent, name);
            if self.places.get(&place) == Some(&id) {
                self.places.remove(&place);
            }
        }
    }

    /// Where in the folder a number's file is, and what it is; the folder itself is `.`, whatever it is.
    pub fn path(&self, id: NodeId) -> Result<(CString, Option<Identity>), Errno> {
        if id == FOLDER {
            return Ok((c".".to_owned(), None));
        }
        let mut names = Vec::new();
        let (mut at, mut bytes) = (id, 0);
        while at != FOLDER {
            let node = self.nodes.get(&at).ok_or(Errno::STALE)?;
            bytes += node.name.count_bytes() + 1;
            if bytes > PATH_BYTES_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            names.push(node.name.to_bytes());
            at = node.parent;
        }
        names.reverse();
        let path = CString::new(names.join(&b'/')).map_err(|_| Errno::INVAL)?;
        Ok((path, self.nodes.get(&id).map(|node| node.identity)))
    }

    /// A file is elsewhere now, and what was there is nowhere, unless it is where this one was.
    pub fn moved(&mut self, from: (NodeId, &CStr), to: (NodeId, &CStr), is_exchanged: bool) {
        let place = |(parent, name): (NodeId, &CStr)| (parent, name.to_owned());
        let (from, to) = (place(from), place(to));
        let (one, other) = (self.places.remove(&from), self.places.remove(&to));
        let mut put = |id: Option<NodeId>, place: (NodeId, CString)| {
            if let Some(id) = id
                && let Some(node) = self.nodes.get_mut(&id)
            {
                (node.parent, node.name) = place.clone();
                self.places.insert(place, id);
            }
        };
        put(one, to);
        if is_exchanged {
            put(other, from);
        }
    }

    /// Nothing is there any more.
    pub fn gone(&mut self, parent: NodeId, name: &CStr) {
        self.places.remove(&(parent, name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(inode: u64) -> Identity {
        Identity {
            inode,
            kind: 0o040_000,
            born: (1, 2),
        }
    }

    fn path(tree: &Tree, id: NodeId) -> String {
        tree.path(id).unwrap().0.into_string().unwrap()
    }

    #[test]
    fn a_number_follows_what_is_moved_and_means_nothing_else() {
        let mut tree = Tree::new(10);
        let a = tree.found(FOLDER, c"a", identity(1)).unwrap();
        let b = tree.found(a, c"b", identity(2)).unwrap();
        assert_eq!(
            (path(&tree, b), path(&tree, FOLDER)),
            ("a/b".to_owned(), ".".to_owned())
        );
        tree.moved((FOLDER, c"a"), (FOLDER, c"c"), false);
        assert_eq!(path(&tree, b), "c/b");
        assert_eq!(
            tree.found(FOLDER, c"c", identity(1)),
            Ok(a),
            "the control: the same file"
        );
        let other = tree.found(FOLDER, c"c", identity(3)).unwrap();
        assert_ne!(other, a, "another file there");
        tree.moved((FOLDER, c"c"), (a, c"b"), true);
        assert_eq!((path(&tree, b), path(&tree, other)), ("c".to_owned(), "c/b".to_owned()));
    }

    #[test]
    fn numbers_are_forgotten_and_have_a_limit() {
        let mut tree = Tree::new(2);
        let a = tree.found(FOLDER, c"a", identity(1)).unwrap();
        tree.found(FOLDER, c"a", identity(1)).unwrap();
        tree.found(FOLDER, c"b", identity(2)).unwrap();
        assert_eq!(tree.found(FOLDER, c"c", identity(3)), Err(Errno::NFILE));
        tree.forget(a, 1);
        assert_eq!(
            tree.found(FOLDER, c"c", identity(3)),
            Err(Errno::NFILE),
            "it was given twice"
        );
        tree.forget(a, 1);
        assert!(tree.found(FOLDER, c"c", identity(3)).is_ok());
        assert_eq!(tree.path(a).unwrap_err(), Errno::STALE);
        assert_eq!(tree.path(TOP).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn paths_end_also_where_numbers_go_in_circles() {
        let mut tree = Tree::new(2);
        let a = tree.found(FOLDER, c"a", identity(1)).unwrap();
        let b = tree.found(a, c"b", identity(2)).unwrap();
        tree.moved((FOLDER, c"a"), (b, c"a"), false);
        assert_eq!(tree.path(b).unwrap_err(), Errno::NAMETOOLONG);
    }
}
