//! A bounded number of seeds, and that a seed is a test case.

/// More are run by `cargo xtask sim`.
const SEEDS: u64 = 12;

#[test]
fn no_seed_of_the_first_ones_fails() {
    for seed in 1..=SEEDS {
        let report = bowline_sim::run(seed);
        assert_eq!(report.faults, Vec::<String>::new(), "seed {seed}");
        assert!(
            report.history.ended.events.len() > 100,
            "control: seed {seed} did something"
        );
    }
}

#[test]
fn one_seed_gives_one_history() {
    for seed in [3, 4] {
        let (first, second) = (bowline_sim::run(seed), bowline_sim::run(seed));
        for (step, (one, other)) in first.history.acked.iter().zip(&second.history.acked).enumerate() {
            assert_eq!(one, other, "append {step} of seed {seed}");
        }
        assert!(first.history == second.history, "seed {seed} gave two histories");
    }
    assert_ne!(
        bowline_sim::run(3).digest,
        bowline_sim::run(4).digest,
        "control: another seed, another history"
    );
}
