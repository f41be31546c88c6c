//! The server over the real functions service, with an embedded store and a scripted sandbox backend,
//! spoken to over real sockets.

mod backend;
mod harness;

mod absent;
mod aliases;
mod connections;
mod data;
mod events;
mod functions;
mod invoke;
mod keys;
mod layers;
mod native;
mod policies;
mod provisioned;
mod settings;
mod streaming;
mod url_streams;
mod urls;
mod versions;
