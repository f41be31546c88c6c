//! Identifiers of traces, which the service makes for every request that brings none.

use crate::dispatch::Node;

/// A new one.
pub fn new_id(node: &Node) -> String {
    let seconds = node.clock.now().as_millis() / 1000;
    let (one, two) = (node.entropy.number(), node.entropy.number());
    format!("Root=1-{seconds:08x}-{one:016x}{:08x}", two >> 32)
}
