//! Programs that compilers made of Rust and C, an interpreter among them: what they print must not depend on where they were stopped.

use crate::guest;
use crate::run::Subject;

/// Stops a program at some hundred of its polls, evenly and unevenly spread.
#[track_caller]
fn check(module: Vec<u8>, polls: u32, hops_min: usize) {
    let subject = Subject::binary(module, "_start", &[]);
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
    check(guest::rust("bodies"), 401, 50);
}

#[test]
fn a_hash_chain() {
    check(guest::rust("hashes"), 307, 50);
}

#[test]
fn trees_in_boxes_behind_dynamic_calls() {
    check(guest::rust("trees"), 1_003, 50);
}

#[test]
fn text_that_is_formatted_and_parsed() {
    check(guest::rust("text"), 997, 50);
}

#[test]
fn a_fractal_in_three_loops() {
    check(guest::rust("mandelbrot"), 1_001, 50);
}

#[test]
fn a_codec_that_packs_and_unpacks() {
    check(guest::rust("codec"), 8_009, 50);
}

#[test]
fn a_program_in_c() {
    if let Some(module) = guest::c("sort") {
        check(module, 3_001, 50);
    }
}

#[test]
fn an_interpreter_that_runs_a_script() {
    let Some(module) = guest::interpreter() else {
        return;
    };
    // The interpreter's own loop is one huge function, whose continuations take a second each to compile: so there is one hop.
    let subject = Subject::binary(module, "_start", &[]);
    let (seen, hops) = subject.hopping(300_007, |_, _| {});
    assert_eq!(seen, subject.plain());
    assert_eq!(hops, 1);
}
