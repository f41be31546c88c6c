//! Deployment packages: what is accepted, and how one is unpacked.
//!
//! [`check`] reads a whole package in memory and refuses what must never reach a disk; [`cache`] lays a
//! checked package out as the folder that a sandbox sees as `/var/task`.

pub(crate) mod cache;
mod check;
mod links;

pub use check::{ENTRIES_MAX, PackageError, PackageForm, PackageShape, check};

/// The name under which a WebAssembly program lies in a package.
pub(crate) const WASM_NAME: &str = "bootstrap.wasm";
