//! Limits hold, and what is within them goes through.

use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::ProcessorShare;
use bowline_sandbox_linux::cell::ExitStatus;

use crate::harness::{Bench, is_root, lines, read_line};

#[tokio::test]
async fn a_memory_hog_is_killed_and_reported_with_a_cgroup() {
    if !is_root("a_memory_hog_is_killed_and_reported_with_a_cgroup") {
        return;
    }
    let bench = Bench::start();
    let script = "data = bytearray(128 << 20)\nfor i in range(0, len(data), 4096): data[i] = 1\nprint('done')";
    let within = bench
        .run_with(script, |furnishing| furnishing.memory = Mebibytes(256))
        .await;
    assert_eq!((within.output.as_str(), within.exit.out_of_memory), ("done\n", false));
    assert!(within.usage.memory_bytes_max > 128 << 20, "{:?}", within.usage);

    let beyond = bench
        .run_with(script, |furnishing| furnishing.memory = Mebibytes(64))
        .await;
    assert_eq!(beyond.exit.status, ExitStatus::Signal(libc::SIGKILL));
    assert!(beyond.exit.out_of_memory);
    assert_eq!(beyond.exit.status.to_string(), "signal: killed");
    assert!(beyond.usage.memory_bytes_max <= 64 << 20, "{:?}", beyond.usage);
}

#[tokio::test]
async fn processes_are_counted_with_a_cgroup() {
    if !is_root("processes_are_counted_with_a_cgroup") {
        return;
    }
    let bench = Bench::start();
    let script = "
def bear():
    if os.fork() == 0:
        time.sleep(60)
for _ in range(40):
    bear()
attempt(bear)";
    let within = bench.run_with(script, |furnishing| furnishing.pids = 42).await;
    assert_eq!(within.output, "ok\n");
    let beyond = bench.run_with(script, |furnishing| furnishing.pids = 41).await;
    assert_eq!(beyond.output, "EAGAIN\n");
    let flood = bench.run_with(script, |furnishing| furnishing.pids = 16).await;
    assert_eq!(flood.exit.status, ExitStatus::Code(1), "{}", flood.output);
}

#[tokio::test]
async fn processor_time_is_bounded_with_a_cgroup() {
    if !is_root("processor_time_is_bounded_with_a_cgroup") {
        return;
    }
    let bench = Bench::start();
    let script = "
end = time.monotonic() + 2
while time.monotonic() < end: pass
print(time.process_time())";
    let bounded = bench
        .run_with(script, |furnishing| furnishing.processors = ProcessorShare::of(200))
        .await;
    let free = bench
        .run_with(script, |furnishing| furnishing.processors = ProcessorShare::of(1000))
        .await;
    let seconds = |text: &str| text.trim().parse::<f64>().unwrap();
    let (bounded_s, free_s) = (seconds(&bounded.output), seconds(&free.output));
    assert!(bounded_s < 0.7, "a fifth of two seconds: {bounded_s}");
    assert!(
        free_s > bounded_s,
        "{free_s} of a whole processor, {bounded_s} of a fifth"
    );
    assert!(
        bounded.usage.cpu >= Duration::from_secs_f64(bounded_s),
        "{:?}",
        bounded.usage
    );
}

#[tokio::test]
async fn tmp_has_a_size() {
    let bench = Bench::start();
    let script = "attempt(lambda: open('/tmp/fill', 'wb').write(bytes(12 << 20)))";
    let within = bench
        .run_with(script, |furnishing| furnishing.tmp = Mebibytes(16))
        .await;
    assert_eq!(within.output, "ok\n");
    let beyond = bench.run_with(script, |furnishing| furnishing.tmp = Mebibytes(8)).await;
    assert_eq!(beyond.output, "ENOSPC\n");
}

#[tokio::test]
async fn a_frozen_cell_uses_no_processor_time_with_a_cgroup() {
    if !is_root("a_frozen_cell_uses_no_processor_time_with_a_cgroup") {
        return;
    }
    let bench = Bench::start();
    let mut cell = bench
        .running("print('spinning', flush=True)\nwhile True: pass", |_| {})
        .await;
    let mut output = lines(cell.take_output());
    assert_eq!(read_line(&mut output).await, "spinning");

    let window = Duration::from_millis(200);
    let used = async |cell: &bowline_sandbox_linux::cell::Cell| {
        let before = cell.usage().cpu;
        tokio::time::sleep(window).await;
        cell.usage().cpu - before
    };
    assert!(used(&cell).await > Duration::ZERO, "the control: it spins");
    cell.freeze().unwrap();
    // Standing still takes a moment.
    while used(&cell).await > Duration::ZERO {}
    assert_eq!(used(&cell).await, Duration::ZERO);
    cell.thaw().unwrap();
    assert!(used(&cell).await > Duration::ZERO);
    cell.freeze().unwrap();
    cell.destroy().await;
}
