//! Agents as processes of their own: what is true of a sandbox in the node must be true of one behind an agent.

mod conformance;
mod harness;
mod leases;
