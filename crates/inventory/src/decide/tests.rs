//! Verdicts on failures, and when replacements wait or are held.

use super::*;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_micros(seconds * 1_000_000)
}

fn policy() -> Policy {
    Policy::default()
}

#[test]
fn a_crashed_service_is_repaired_so_often_and_a_lost_server_never() {
    let crashed = Failure::Service {
        service: "s1".to_owned(),
        reason: "it ended with status 1".to_owned(),
    };
    assert_eq!(judge(&crashed, 0, &policy()), Verdict::Repair);
    assert_eq!(judge(&crashed, 1, &policy()), Verdict::Repair);
    assert_eq!(judge(&crashed, 2, &policy()), Verdict::Replace);
    let reason = || "gone".to_owned();
    for failure in [
        Failure::Unreachable { reason: reason() },
        Failure::BootDeadline,
        Failure::NotStarted { reason: reason() },
        Failure::Unstartable {
            service: "s1".to_owned(),
            reason: reason(),
        },
        Failure::Reported {
            reason: reason(),
            repairable: false,
        },
    ] {
        assert_eq!(judge(&failure, 0, &policy()), Verdict::Replace, "{failure}");
        assert_eq!(failure.reason(), "not_repairable");
    }
}

#[test]
fn efficiency_must_be_strictly_below_the_least() {
    let policy = Policy {
        efficiency_min: Some(0.20),
        ..policy()
    };
    let failure = inefficient(0.10, &policy).expect("it is below");
    assert_eq!(failure.reason(), "efficiency");
    assert_eq!(judge(&failure, 0, &policy), Verdict::Replace);
    assert_eq!(inefficient(0.20, &policy), None);
    assert_eq!(
        inefficient(0.0, &Policy::default()),
        None,
        "the control: without a least nothing is below"
    );
}

#[test]
fn replacements_wait_longer_and_longer_and_then_are_held() {
    let policy = policy();
    assert_eq!(storm(&[], &policy, at(1000)), Storm::From(at(1000)));
    assert_eq!(storm(&[at(1000)], &policy, at(1000)), Storm::From(at(1001)));
    assert_eq!(storm(&[at(1000), at(1001)], &policy, at(1001)), Storm::From(at(1003)));
    let three = [at(1000), at(1001), at(1003)];
    assert_eq!(storm(&three, &policy, at(1003)), Storm::Hold);
    assert_eq!(storm(&three, &policy, at(1599)), Storm::Hold);
    assert_eq!(
        storm(&three, &policy, at(1600)),
        Storm::From(at(1600)),
        "the first has left the window"
    );
    assert_eq!(storm(&three, &policy, at(3000)), Storm::From(at(3000)));
}
