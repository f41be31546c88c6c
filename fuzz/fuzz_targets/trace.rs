//! Traces: any text is a day of counts, or durations, or memory, or is refused by its line.
#![no_main]

use bowline_replay::trace::{Builder, COUNT_MAX, DAY};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (kind, text) = text.split_at_checked(1).unwrap_or_default();
    let mut builder = Builder::default();
    let heading = "HashOwner,HashApp,HashFunction,Trigger";
    let one = format!("{heading}\no,a,f,timer{}\n", ",1".repeat(DAY as usize));
    builder.invocations(0, &one).expect("a whole day is understood");
    let result = match kind {
        "d" => builder.durations(text),
        "m" => builder.memory(text),
        // A short line stands for a whole day, so that a fuzzer finds its way into the counts.
        "s" => {
            let rows: Vec<String> = text
                .lines()
                .map(|line| format!("{line}{}", ",0".repeat(DAY as usize - 1)))
                .collect();
            builder.invocations(1, &format!("{heading}\n{}", rows.join("\n")))
        }
        _ => builder.invocations(1, text),
    };
    let trace = builder.finish();
    assert!(trace.days >= 1 && trace.functions[0].minutes.len() >= DAY as usize);
    for function in &trace.functions {
        assert!(function.minutes.is_sorted_by(|a, b| a < b), "minutes ascend");
        assert!(function.minutes.last().is_none_or(|last| *last < trace.minutes()));
        assert!(function.invocations <= u64::from(COUNT_MAX) * u64::from(trace.minutes()));
        assert!(function.runs_on <= DAY && function.kept.memory.0 > 0);
    }
    if let Err(error) = result {
        assert!(error.to_string().len() < 300, "an error is short, whatever the line is");
    }
});
