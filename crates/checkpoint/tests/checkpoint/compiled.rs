//! Programs that compilers made of Rust and C, an interpreter among them: what they print must not depend on where they were stopped.

use crate::guest;
use crate::hops::Fault;
use crate::moves::move_about;
use crate::run::{Seen, Subject};

/// How often a program is moved at random times; `cargo xtask fuzz-checkpoints --moves` does so more often.
const MOVES: u64 = 40;

/// Moves a program at random times.
#[track_caller]
fn check_moves(subject: &Subject, plain: &Seen, moves: u64) {
    let moved = move_about(subject, plain, (moves, 1), None);
    assert!(moved.as_ref().is_ok_and(|done| done.moves == moves), "{moved:?}");
}

/// Stops a program at some hundred of its polls, evenly and unevenly spread, and at random times.
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
    check_moves(&subject, &plain, MOVES);
}

/// The control of what moves programs at random times: it notices a value that is spilled wrongly.
#[test]
fn moves_that_change_something_are_found() {
    let subject = Subject::binary(guest::rust("hashes"), "_start", &[]);
    let plain = subject.plain();
    let found = move_about(&subject, &plain, (MOVES, 1), Some(Fault::WrongSpill));
    assert!(found.is_err_and(|seen| *seen != plain));
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
    let plain = subject.plain();
    assert_eq!(seen, plain);
    assert_eq!(hops, 1);
    check_moves(&subject, &plain, 2);
}
