//! Container images: what their documents say, where their parts lie, and their file system as a folder.
//!
//! ```text
//!   archive ─▶ Upload::read ─▶ index ▸ manifest ▸ configuration ─▶ Image
//!                                                                    │ layers, each checked by its digests
//!                                                                    ▼
//!                                                                 unpack ─▶ a root folder
//! ```
//! Everything here comes from strangers: sizes and counts are bounded, and nothing is ever written outside the
//! folder that an image is unpacked to.

pub mod archive;
pub mod compression;
pub mod error;
pub mod image;
mod meter;
pub mod registry;
pub mod sample;
pub mod unpack;

pub use archive::Upload;
pub use error::ImageError;
pub use image::{Image, Layer, Process};
