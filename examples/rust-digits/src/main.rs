//! A long computation that knows nothing of being moved: the first digits of pi, by the spigot of Rabinowitz and Wagon.
//! The event is how many digits are wanted; how far it is goes to the log, with the time, and the digits are the answer.

use std::error::Error;
use std::io::{Read, Write};
use std::time::{SystemTime, UNIX_EPOCH};

/// The spigot gives so many digits at a time.
const GROUP_DIGITS: usize = 4;
const BASE: u64 = 10_000;
/// Terms of the series for each group: more than log2(BASE).
const GROUP_TERMS: usize = 14;
/// How often it says how far it is, in a whole run.
const PARTS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut event = String::new();
    std::io::stdin().read_to_string(&mut event)?;
    let wanted: usize = event.trim().parse()?;
    let groups = pi(wanted.div_ceil(GROUP_DIGITS))?;
    let digits: String = groups.iter().map(|group| format!("{group:04}")).collect();
    write!(std::io::stdout(), "\"{}\"", &digits[..wanted])?;
    Ok(())
}

/// The digits of pi in groups, the first of which is 3141.
fn pi(groups: usize) -> Result<Vec<u64>, Box<dyn Error>> {
    // pi = 2 + 1/3 (2 + 2/5 (2 + 3/7 (2 + ...))): all its digits in that mixed base are 2.
    let mut terms = vec![BASE / 5; groups * GROUP_TERMS + 1];
    let mut digits: Vec<u64> = Vec::with_capacity(groups);
    let (mut held, mut told) = (0, 0);
    for group in 0..groups {
        let mut carry = 0;
        for place in (1..terms.len() as u64).rev() {
            let term = &mut terms[place as usize];
            let sum = carry * place + *term * BASE;
            (carry, *term) = (sum / (2 * place - 1), sum % (2 * place - 1));
        }
        push(&mut digits, held + carry / BASE);
        held = carry % BASE;
        // What this group has used up.
        terms.truncate(terms.len() - GROUP_TERMS);
        let (left, all) = ((groups - group - 1) as u64, groups as u64);
        let part = PARTS - PARTS * left * left / (all * all);
        if part > told {
            told = part;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
            eprintln!("part {part} at {now}");
        }
    }
    Ok(digits)
}

/// Adds a group, which may be one too large: then that belongs to those before it.
fn push(digits: &mut Vec<u64>, group: u64) {
    digits.push(group % BASE);
    let mut over = group / BASE;
    for before in digits.iter_mut().rev().skip(1) {
        if over == 0 {
            break;
        }
        *before += over;
        over = *before / BASE;
        *before %= BASE;
    }
}
