//! The policies to compare with.

mod arima;
mod clairvoyant;
mod fixed;
mod hybrid;

pub use clairvoyant::clairvoyant;
pub use fixed::fixed;
pub use hybrid::hybrid;
