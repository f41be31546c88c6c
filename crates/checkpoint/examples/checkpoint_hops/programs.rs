//! The programs that are stopped: those of `tests/guests`, as their compilers make them when told to optimise much,
//! for size, or not at all.

use std::collections::HashMap;
use std::sync::Arc;

use crate::guest;
use crate::run::{Seen, Subject};

const RUST: &[&str] = &["bodies", "mandelbrot", "hashes", "trees", "text", "codec", "steps"];
const C: &[&str] = &["sort"];
/// A JavaScript engine that runs a script.
const INTERPRETER: &str = "script";
const OPTIMISED: &[&str] = &["3", "s", "0"];
/// Little stack, so that little memory is copied.
const STACK: &str = "-Clink-arg=-zstack-size=65536";

/// A program and what can be seen of its run.
pub struct Program {
    pub name: String,
    pub subject: Subject,
    pub plain: Seen,
}

/// Programs by their numbers, compiled when they are first asked for.
#[derive(Default)]
pub struct Programs(HashMap<u64, Arc<Program>>);

impl Programs {
    /// One of them; any number will do.
    pub fn get(&mut self, number: u64) -> Arc<Program> {
        let sources = RUST.len() + C.len();
        let number = number % (sources * OPTIMISED.len()) as u64;
        let make = || Arc::new(make(number as usize % sources, OPTIMISED[number as usize / sources]));
        self.0.entry(number).or_insert_with(make).clone()
    }
}

/// The names of all programs, that of the interpreter last.
pub fn real() -> impl Iterator<Item = &'static str> {
    RUST.iter().chain(C).copied().chain([INTERPRETER])
}

/// A program as somebody would deploy it; none where what compiles it is not there.
pub fn as_deployed(name: &str) -> Option<Program> {
    let module = match name {
        INTERPRETER => guest::interpreter()?,
        name if C.contains(&name) => guest::c(name)?,
        name => guest::rust(name),
    };
    Some(program(name.to_owned(), module))
}

/// A program in Rust stands for one in C where that cannot be compiled.
fn make(source: usize, optimised: &str) -> Program {
    let level = format!("-Copt-level={optimised}");
    let rust = |name| (name, guest::rust_with(name, &[STACK, &level]));
    let (name, module) = match source.checked_sub(RUST.len()) {
        None => rust(RUST[source]),
        Some(source) => match guest::c_with(C[source], &[&format!("-O{optimised}")]) {
            Some(module) => (C[source], module),
            None => rust(RUST[0]),
        },
    };
    program(format!("{name}, -O{optimised}"), module)
}

fn program(name: String, module: Vec<u8>) -> Program {
    let subject = Subject::binary(module, "_start", &[]);
    Program {
        name,
        plain: subject.plain(),
        subject,
    }
}
