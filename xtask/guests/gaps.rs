//! Runs for so many milliseconds, as the event says, with 16 MiB of its own, and answers with the gaps in its run: pairs of when one
//! was over, in microseconds since 1970, and how long it was.

use std::error::Error;
use std::io::Read;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const WORDS: usize = 2 << 20;
/// Words that are changed between two looks at the clock: some microseconds' work.
const WORDS_AT_ONCE: usize = 1 << 10;
/// Shorter ones are not told.
const GAP_MIN: Duration = Duration::from_millis(3);

fn main() -> Result<(), Box<dyn Error>> {
    let mut event = String::new();
    std::io::stdin().read_to_string(&mut event)?;
    let wanted = Duration::from_millis(event.trim().parse()?);
    let mut words: Vec<u64> = (1..=WORDS as u64).map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let mut gaps = Vec::new();
    let began = SystemTime::now();
    let mut last = began;
    let mut at = 0;
    while last.duration_since(began)? < wanted {
        for word in &mut words[at..at + WORDS_AT_ONCE] {
            *word = word.rotate_left(7) ^ at as u64;
        }
        at = (at + WORDS_AT_ONCE) % WORDS;
        let now = SystemTime::now();
        let gap = now.duration_since(last).unwrap_or_default();
        if gap >= GAP_MIN {
            gaps.push([now.duration_since(UNIX_EPOCH)?.as_micros(), gap.as_micros()]);
        }
        last = now;
    }
    let digest = words.iter().fold(0, |sum: u64, word| sum.rotate_left(1) ^ word);
    println!("{{\"digest\": \"{digest:x}\", \"gaps\": {gaps:?}}}");
    Ok(())
}
