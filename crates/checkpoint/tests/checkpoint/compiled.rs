//! Programs that a compiler made of Rust: what they print must not depend on where they were stopped.

use std::path::Path;
use std::process::Command;

use crate::run::Subject;

/// Compiles a guest of `tests/guests`.
fn compile(name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests").join(name);
    let output = folder.path().join("guest.wasm");
    let built = Command::new("rustc")
        .args([
            "--edition",
            "2024",
            "--target",
            "wasm32-wasip1",
            "-Copt-level=3",
            "-Cstrip=symbols",
        ])
        .arg(source)
        .arg("-o")
        .arg(&output)
        .status()
        .expect("rustc runs");
    assert!(built.success(), "`{name}` compiles for wasm32-wasip1");
    std::fs::read(output).expect("rustc wrote the module")
}

/// Stops a program at some hundred of its polls, evenly and unevenly spread.
#[track_caller]
fn check(name: &str, polls: u32, hops_min: usize) {
    let subject = Subject::binary(compile(name), "_start", &[]);
    let plain = subject.plain();
    assert_eq!(
        plain.end,
        Ok(Vec::new()),
        "{}",
        String::from_utf8_lossy(&plain.world.log)
    );
    assert!(!plain.world.log.is_empty(), "it prints what it found");
    let (seen, hops) = subject.hopping(polls, |_, _| {});
    assert_eq!(seen, plain);
    assert!(hops >= hops_min, "{hops} hops");
    let uneven = |hop: usize| 1 + polls * (hop as u32 * 7 % 13) / 6;
    let (seen, _) = subject.hopping_by(uneven, |_, _| {});
    assert_eq!(seen, plain);
}

#[test]
fn a_simulation_of_bodies_in_floats() {
    check("bodies.rs", 401, 50);
}

#[test]
fn a_hash_chain() {
    check("hashes.rs", 307, 50);
}

#[test]
fn trees_in_boxes_behind_dynamic_calls() {
    check("trees.rs", 2_003, 50);
}

#[test]
fn text_that_is_formatted_and_parsed() {
    check("text.rs", 997, 50);
}

#[test]
fn a_fractal_in_three_loops() {
    check("mandelbrot.rs", 1_001, 50);
}
