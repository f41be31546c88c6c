//! The black-box tests: the real binary, driven from outside.

mod bad_input;
mod cluster;
mod command_line;
mod crash;
mod data;
mod demo;
mod lifecycle;
mod model;
mod neighbours;
mod permissions;
mod stop;
mod streaming;
