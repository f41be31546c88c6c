//! Runs many seeds on all cores and prints what came of them: `seeds [COUNT] [FIRST]`.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use bowline_sim::Report;

/// Faults that are shown of a failing seed.
const FAULTS_SHOWN: usize = 10;

/// What all seeds together came to.
#[derive(Default)]
struct Total {
    seeds: u64,
    digests: BTreeSet<u64>,
    events: usize,
    pages: usize,
    chains: usize,
    adoptions: u64,
    forwards: usize,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.digests.insert(report.digest);
        self.events += report.history.ended.events.len();
        self.pages += report.history.reads.len();
        self.chains += report.chains;
        self.adoptions += report.adoptions;
        self.forwards += report.forwards;
    }

    fn print(&self) {
        println!(
            "{} seeds: {} distinct histories, {} events, {} pages read, {} chains, {} adoptions, {} forwards",
            self.seeds,
            self.digests.len(),
            self.events,
            self.pages,
            self.chains,
            self.adoptions,
            self.forwards
        );
    }
}

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (Ok(count), Ok(first)) = (numbers.next().unwrap_or(Ok(20)), numbers.next().unwrap_or(Ok(1))) else {
        eprintln!("usage: seeds [COUNT] [FIRST]");
        return ExitCode::FAILURE;
    };
    let next = AtomicU64::new(first);
    let (reports, received) = mpsc::channel();
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            let (reports, next) = (reports.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    // The receiver goes away once a seed has failed.
                    if seed >= first + count || reports.send(bowline_sim::run(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(reports);
        watch(received)
    })
}

fn watch(received: mpsc::Receiver<Report>) -> ExitCode {
    let mut total = Total::default();
    for report in received {
        if !report.faults.is_empty() {
            println!("seed {} fails with {} faults:", report.seed, report.faults.len());
            report
                .faults
                .iter()
                .take(FAULTS_SHOWN)
                .for_each(|fault| println!("  {fault}"));
            println!("run it alone: `cargo xtask sim --seeds 1 --first {}`", report.seed);
            return ExitCode::FAILURE;
        }
        total.add(&report);
        if total.seeds.is_multiple_of(500) {
            total.print();
        }
    }
    total.print();
    println!("no fault");
    ExitCode::SUCCESS
}
