//! Deployment packages: what is accepted, and how one is unpacked.
//!
//! [`check`] reads a whole package in memory and refuses what must never reach a disk; [`cache`] lays a
//! checked package out as the folder that a sandbox sees as `/var/task`, [`layers`] several as `/opt`.

pub(crate) mod cache;
mod check;
pub(crate) mod layers;
mod links;

pub use check::{ENTRIES_MAX, PackageError, PackageForm, PackageShape, check};

/// The name under which a WebAssembly program lies in a package.
pub(crate) const WASM_NAME: &str = "bootstrap.wasm";
