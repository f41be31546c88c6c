//! The black-box tests: the real binary, driven from outside.

mod authority;
mod bad_input;
mod cargo_lambda;
mod cluster;
mod command_line;
mod crash;
mod crowd;
mod data;
mod demo;
mod durable;
mod extensions;
mod images;
mod independent;
mod layers;
mod lifecycle;
mod load;
mod model;
mod neighbours;
mod outages;
mod permissions;
mod proxy;
mod sources;
mod stop;
mod streaming;
mod suite;
mod traces;
