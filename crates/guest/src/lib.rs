//! Functions for Bowline in Rust, compiled to WebAssembly.
//!
//! A function is a library of type `cdylib`, built for `wasm32-wasip1`:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//! ```
//! ```ignore
//! use bowline_guest::{Error, Event, handler};
//! use serde_json::{Value, json};
//!
//! fn hello(event: Event<'_>) -> Result<Value, Error> {
//!     let input: Value = event.json()?;
//!     Ok(json!({"hello": input["name"]}))
//! }
//!
//! handler!(hello);
//! ```
//!
//! The instance stays between invocations: what a `static` holds is still there at the next one. What is
//! printed to standard output or error becomes the function's log. A handler that returns an [`Error`]
//! serves on; one that panics ends its sandbox, and the caller gets the panic's message.
//!
//! A handler may stream its answer: what it writes to [`Event::stream`] goes out at once. What its owner attached to the
//! function, it shares with other runs by [`Event::state`].
//!
//! Without the feature `json` a handler returns bytes (`Vec<u8>`, `String`, `&'static str`), which must be
//! JSON all the same.

mod context;
mod error;
mod event;
pub mod interface;
mod state;
mod stream;

pub use context::Context;
pub use error::Error;
pub use event::{Answer, Event};
pub use state::{Entry, Lease, SharedState};
pub use stream::ResponseStream;

/// Makes a function (and optionally an initialiser) the module's entry points.
///
/// `handler!(serve)` takes `fn serve(Event<'_>) -> Result<impl Answer, Error>`. With
/// `handler!(serve, init = prepare)`, `fn prepare()` runs once before the first event, while the platform
/// still counts the time as initialisation.
#[macro_export]
macro_rules! handler {
    ($serve:path) => {
        $crate::handler!($serve, init = $crate::interface::nothing);
    };
    ($serve:path, init = $init:path) => {
        const _: () = {
            #[unsafe(no_mangle)]
            extern "C" fn bowline_v1_init() {
                $crate::interface::initialise($init);
            }

            #[unsafe(no_mangle)]
            extern "C" fn bowline_v1_reserve(bytes: u32) -> u32 {
                $crate::interface::reserve(bytes)
            }

            #[unsafe(no_mangle)]
            extern "C" fn bowline_v1_invoke(bytes: u32) -> u64 {
                $crate::interface::invoke(bytes, |event| $serve(event).and_then($crate::Answer::into_answer))
            }
        };
    };
}
