//! How a batch extends a chain: which events stay in the head and which move out into nodes. Pure.
//!
//! ```text
//!   head before:  [a b c d]            node n = [a b c]     head after:  [d e]         batch e
//!   head before:  [d e]                node n = [d e f..y]  head after:  [y' z]        batch f..z, large
//! ```
//! The new nodes and the new head go into one commit, which the store applies whole or not at all. So the
//! states of a two-step move-out, a node without a head that counts it, cannot exist; the crash points
//! that are left are `before_commit` and `after_commit`. The head always keeps the newest event and, where
//! it is small, an earlier one. An event is encoded once, written to the head with its batch, and once
//! more when it moves out; a batch larger than the head's limit goes to its nodes directly.

use crate::config::HeadLimits;
use crate::record::{Draft, Head, Node, Run};
use crate::{HostId, Stamp};

/// Newest events of a large batch that stay in the head.
const KEPT_EVENTS: usize = 2;

/// A chain's new head and the nodes that it counts from now on.
#[derive(Debug)]
pub(crate) struct Extended {
    pub head: Head,
    pub nodes: Vec<(u64, Node)>,
}

/// Adds `drafts`, at least one, with stamps from `first_stamp` on.
pub(crate) fn extend(
    head: &Head,
    (host, first_stamp): (HostId, Stamp),
    drafts: &[Draft],
    limits: &HeadLimits,
) -> Extended {
    let batch_bytes: usize = drafts.iter().map(Draft::encoded_bytes).sum();
    let events = head.events() + drafts.len();
    let mut next = head.clone();
    next.next_index += drafts.len() as u64;
    next.last_stamp = Stamp(first_stamp.0 + drafts.len() as u64 - 1);
    let place = |offset: usize| {
        (
            host,
            Stamp(first_stamp.0 + offset as u64),
            head.next_index + offset as u64,
        )
    };
    if head.run_bytes() + batch_bytes <= limits.bytes_max && events <= limits.events_max {
        next.runs.push(Run::encode(place(0), drafts.iter()));
        return Extended {
            head: next,
            nodes: Vec::new(),
        };
    }
    let mut moved = std::mem::take(&mut next.runs);
    let kept_from = if drafts.len() > KEPT_EVENTS {
        drafts.len() - KEPT_EVENTS
    } else {
        0
    };
    if kept_from == 0 {
        keep_newest(&mut moved, &mut next.runs, limits);
    }
    for (offset, part) in parts(&drafts[..kept_from], limits.node_bytes_max) {
        moved.push(Run::encode(place(offset), part.iter()));
    }
    next.runs
        .push(Run::encode(place(kept_from), drafts[kept_from..].iter()));
    let nodes = number(nodes_of(moved, limits.node_bytes_max), &mut next);
    Extended { head: next, nodes }
}

/// Leaves the newest run in the head if it is small.
fn keep_newest(moved: &mut Vec<Run>, kept: &mut Vec<Run>, limits: &HeadLimits) {
    if moved.len() > 1 && moved[moved.len() - 1].bytes.len() <= limits.bytes_max / 4 {
        kept.extend(moved.pop());
    }
}

/// Cuts a batch into parts of at most `bytes_max`, unless one event is larger.
fn parts(drafts: &[Draft], bytes_max: usize) -> Vec<(usize, &[Draft])> {
    let mut parts = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (at, draft) in drafts.iter().enumerate() {
        let size = draft.encoded_bytes();
        if at > from && bytes + size > bytes_max {
            parts.push((from, &drafts[from..at]));
            (from, bytes) = (at, 0);
        }
        bytes += size;
    }
    if from < drafts.len() {
        parts.push((from, &drafts[from..]));
    }
    parts
}

/// Gathers runs into nodes of at most `bytes_max`, unless one run is larger.
fn nodes_of(runs: Vec<Run>, bytes_max: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    let (mut open, mut bytes) = (Vec::new(), 0);
    for run in runs {
        if !open.is_empty() && bytes + run.bytes.len() > bytes_max {
            nodes.push(Node::of(std::mem::take(&mut open)));
            bytes = 0;
        }
        bytes += run.bytes.len();
        open.push(run);
    }
    if !open.is_empty() {
        nodes.push(Node::of(open));
    }
    nodes
}

fn number(nodes: Vec<Node>, head: &mut Head) -> Vec<(u64, Node)> {
    nodes
        .into_iter()
        .map(|node| {
            let number = head.next_node;
            head.next_node += 1;
            head.node_bytes += node.bytes();
            (number, node)
        })
        .collect()
}
