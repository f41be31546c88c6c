//! The policy on a fake clock.

use bowline_foundation::clock::{Clock, Timestamp};

use super::*;

struct Case {
    clock: Clock,
    detector: Detector,
}

impl Case {
    fn new() -> Self {
        let clock = Clock::fake(Timestamp::from_micros(0));
        let detector = Detector::new(DetectorOptions::default(), 0.5, clock.monotonic());
        Self { clock, detector }
    }

    fn call(&mut self, outcome: Outcome) -> Option<Health> {
        self.clock.advance(Duration::from_millis(100));
        self.detector
            .observe(self.clock.monotonic(), outcome, Duration::from_millis(1))
    }

    fn calls(&mut self, count: usize, outcome: Outcome) {
        for _ in 0..count {
            self.call(outcome);
        }
    }
}

#[test]
fn five_failures_in_a_row_are_down_and_four_are_not() {
    let mut case = Case::new();
    case.calls(20, Outcome::Answered);
    case.calls(4, Outcome::Failed);
    assert_eq!(case.detector.health(), Health::Up);
    case.call(Outcome::Answered);
    case.calls(4, Outcome::Failed);
    assert_eq!(case.detector.health(), Health::Up);
    assert_eq!(case.call(Outcome::Failed), Some(Health::Down));
    assert_eq!(case.detector.weight(), 0.0);
}

#[test]
fn half_the_calls_failing_are_down_without_five_in_a_row() {
    let mut case = Case::new();
    for _ in 0..5 {
        assert_eq!(case.detector.health(), Health::Up);
        case.call(Outcome::Answered);
        case.call(Outcome::Failed);
    }
    assert_eq!(case.detector.health(), Health::Down);
    // Control: a third is not half.
    let mut case = Case::new();
    for _ in 0..10 {
        case.calls(2, Outcome::Answered);
        case.call(Outcome::Failed);
    }
    assert_eq!(case.detector.health(), Health::Up);
}

#[test]
fn failures_before_the_window_do_not_count() {
    let mut case = Case::new();
    for _ in 0..4 {
        case.call(Outcome::Failed);
        case.call(Outcome::Answered);
    }
    case.clock.advance(Duration::from_secs(11));
    case.calls(8, Outcome::Answered);
    case.calls(2, Outcome::Failed);
    assert_eq!(case.detector.health(), Health::Up);
    assert_eq!(case.detector.error_rate(case.clock.monotonic()), Some(0.2));
}

#[test]
fn slow_answers_count_as_failures() {
    let mut case = Case::new();
    for latency in [999, 1001] {
        for _ in 0..5 {
            case.detector.observe(
                case.clock.monotonic(),
                Outcome::Answered,
                Duration::from_millis(latency),
            );
        }
        let expected = if latency < 1000 { Health::Up } else { Health::Down };
        assert_eq!(case.detector.health(), expected);
    }
}

#[test]
fn a_store_comes_back_in_steps_and_a_relapse_takes_all() {
    let mut case = Case::new();
    case.calls(5, Outcome::Failed);
    assert_eq!(case.call(Outcome::Answered), Some(Health::Recovering));
    let mut weights = vec![case.detector.weight()];
    for _ in 0..400 {
        case.call(Outcome::Answered);
        if weights.last() != Some(&case.detector.weight()) {
            weights.push(case.detector.weight());
        }
    }
    assert_eq!(weights, [0.05, 0.1, 0.2, 0.4, 0.5]);
    assert_eq!(case.detector.health(), Health::Up);

    case.calls(5, Outcome::Failed);
    case.call(Outcome::Answered);
    case.calls(110, Outcome::Answered);
    assert_eq!(case.detector.weight(), 0.1);
    assert_eq!(
        case.call(Outcome::Failed),
        Some(Health::Down),
        "one failure while recovering"
    );
    assert_eq!(case.detector.weight(), 0.0);
    case.call(Outcome::Answered);
    assert_eq!(case.detector.weight(), 0.05, "it begins anew");
}

#[test]
fn without_calls_no_weight_grows() {
    let mut case = Case::new();
    case.calls(5, Outcome::Failed);
    case.call(Outcome::Answered);
    case.clock.advance(Duration::from_secs(100));
    assert_eq!(case.detector.weight(), 0.05);
}

#[test]
fn draws_fall_on_cumulated_weights() {
    assert_eq!(pick(&[0.5, 0.5], 0.0), Some(0));
    assert_eq!(pick(&[0.5, 0.5], 0.499), Some(0));
    assert_eq!(pick(&[0.5, 0.5], 0.5), Some(1));
    assert_eq!(pick(&[0.0, 0.5], 0.0), Some(1));
    assert_eq!(pick(&[0.5, 0.0], 0.999_999), Some(0));
    assert_eq!(pick(&[0.0, 0.0], 0.3), None);
    assert_eq!(pick(&[0.1, 0.2, 0.7], 0.299), Some(1));
    assert_eq!(pick(&[], 0.3), None);
}
