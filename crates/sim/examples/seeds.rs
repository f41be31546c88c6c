//! Runs many seeds and prints what came of them: `seeds [COUNT] [FIRST]`.

use std::collections::BTreeSet;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(count), Ok(first)) = (numbers.next().unwrap_or(Ok(20)), numbers.next().unwrap_or(Ok(1))) else {
        eprintln!("usage: seeds [COUNT] [FIRST]");
        return ExitCode::FAILURE;
    };
    let (mut digests, mut events, mut reads) = (BTreeSet::new(), 0, 0);
    let (mut chains, mut adoptions, mut forwards) = (0, 0, 0);
    for seed in first..first + count {
        let report = bowline_sim::run(seed);
        if !report.faults.is_empty() {
            println!("seed {seed} fails with {} faults:", report.faults.len());
            report.faults.iter().take(10).for_each(|fault| println!("  {fault}"));
            return ExitCode::FAILURE;
        }
        digests.insert(report.digest);
        events += report.history.ended.events.len();
        reads += report.history.reads.len();
        (chains, adoptions, forwards) = (
            chains + report.chains,
            adoptions + report.adoptions,
            forwards + report.forwards,
        );
        if (seed - first + 1).is_multiple_of(100) {
            println!("{} seeds, {events} events", seed - first + 1);
        }
    }
    println!(
        "{count} seeds from {first}: {} distinct histories, {events} events, {reads} pages read, \
         {chains} chains, {adoptions} adoptions, {forwards} forwards; no fault",
        digests.len()
    );
    ExitCode::SUCCESS
}
