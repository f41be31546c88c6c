//! Linux sandboxes as the platform sees them: the shared suite with a prober in Python and one in native
//! code, the public runtime clients, the clients that the binary carries.

mod claim;
mod clients;
mod conformance;
mod extensions;
mod harness;
mod images;
mod layers;
mod logging;
mod pool;
mod streaming;
mod telemetry;
