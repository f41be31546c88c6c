//! Random lives of executions: a function that replays, a clock that jumps, a node that dies between any two
//! steps, before a commit or after it. Whatever happens, each step's result is recorded once, and that result is
//! what the execution ends with.

use std::collections::{HashMap, HashSet};

use bowline_foundation::entropy::Entropy;
use serde_json::{Value, json};

use super::*;
use crate::durable::envelope::Answer;
use crate::durable::event::EventType;
use crate::durable::operation::{OperationStatus, OperationType, Payload};

const LIVES: u64 = 400;
const STEPS: usize = 6;

/// What one line of the function's program does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Line {
    Step,
    /// Fails so often before it succeeds.
    Retried(u32),
    Wait,
    Callback,
}

/// The world around one execution.
struct World {
    entropy: Entropy,
    now: u64,
    node: Node,
    /// What the store holds.
    stored: Execution,
    program: Vec<Line>,
    /// How often each line's code ran.
    runs: HashMap<usize, u32>,
    deaths: u32,
}

/// The node is dead; whatever was not committed is lost.
struct Dead;

impl World {
    fn new(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let line = |entropy: &Entropy| match entropy.number() % 5 {
            0 => Line::Wait,
            1 => Line::Callback,
            2 => Line::Retried(1 + (entropy.number() % 2) as u32),
            _ => Line::Step,
        };
        let program = (0..STEPS).map(|_| line(&entropy)).collect();
        let mut begun = beginning(Origin::Event);
        begun.config.execution_timeout_seconds = 1_000_000;
        let mut stored = Execution::start(begun, at(0));
        stored.changed = Changed::default();
        Self {
            entropy,
            now: 0,
            node: NODE,
            stored,
            program,
            runs: HashMap::new(),
            deaths: 0,
        }
    }

    fn chance(&self, one_in: u64) -> bool {
        self.entropy.number().is_multiple_of(one_in)
    }

    /// Dies now and then, as long as that was not too often.
    fn may_die(&mut self) -> Result<(), Dead> {
        if self.deaths < 20 && self.chance(8) {
            self.deaths += 1;
            self.node.number += 1;
            return Err(Dead);
        }
        Ok(())
    }

    /// Changes the execution in one commit.
    fn change<T>(&mut self, change: impl FnOnce(&mut Execution, Timestamp) -> T) -> Result<T, Dead> {
        let mut copy = Execution::load(self.stored.head.clone(), self.stored.operations.clone());
        let events = self.stored.changed.events.clone();
        let done = change(&mut copy, at(self.now));
        self.may_die()?;
        // The events of all commits, for the end.
        copy.changed.events = [events, copy.changed.events].concat();
        self.stored = copy;
        self.may_die()?;
        Ok(done)
    }

    /// The function: replays what is there and does what comes next, until it waits or ends.
    fn run(&mut self, mut token: CheckpointToken) -> Result<Answer, Dead> {
        let mut results = Vec::new();
        for (at, line) in self.program.clone().into_iter().enumerate() {
            let id = format!("l{at}");
            let known = self.stored.find(&id).map(|place| self.stored.operations[place].clone());
            let status = known.as_ref().map(|operation| operation.status);
            if status == Some(OperationStatus::Succeeded) {
                let result = known.and_then(|operation| operation.result);
                results.push(
                    result
                        .and_then(|result| result.here().map(str::to_owned))
                        .unwrap_or_default(),
                );
                continue;
            }
            match line {
                Line::Wait | Line::Callback if status.is_some() => return Ok(Answer::Pending),
                Line::Wait => {
                    let wait =
                        json!([{ "Id": id, "Type": "WAIT", "Action": "START", "WaitOptions": { "WaitSeconds": 10 } }]);
                    self.checkpoint(&mut token, wait)?;
                    return Ok(Answer::Pending);
                }
                Line::Callback => {
                    self.checkpoint(&mut token, json!([{ "Id": id, "Type": "CALLBACK", "Action": "START" }]))?;
                    return Ok(Answer::Pending);
                }
                Line::Step | Line::Retried(_) => {
                    if status == Some(OperationStatus::Pending) {
                        return Ok(Answer::Pending);
                    }
                    if status != Some(OperationStatus::Started) {
                        self.checkpoint(&mut token, json!([{ "Id": id, "Type": "STEP", "Action": "START" }]))?;
                    }
                    let runs = self.runs.entry(at).or_default();
                    *runs += 1;
                    let result = format!("{at}-{runs}");
                    let attempt = known.map_or(0, |operation| operation.attempt);
                    if matches!(line, Line::Retried(fails) if attempt < fails) {
                        let retry = json!([{ "Id": id, "Type": "STEP", "Action": "RETRY", "Error": {}, "StepOptions": { "NextAttemptDelaySeconds": 3 } }]);
                        self.checkpoint(&mut token, retry)?;
                        return Ok(Answer::Pending);
                    }
                    let end = json!([{ "Id": id, "Type": "STEP", "Action": "SUCCEED", "Payload": result }]);
                    self.checkpoint(&mut token, end)?;
                    results.push(result);
                }
            }
        }
        Ok(Answer::Succeeded(Some(results.join(","))))
    }

    fn checkpoint(&mut self, token: &mut CheckpointToken, batch: Value) -> Result<(), Dead> {
        let (used, batch) = (*token, updates(batch));
        let repeated = batch.clone();
        let done = self.change(|execution, now| execution.checkpoint(used, batch, Some("c"), (&OnePlain, now)))?;
        let done = done.expect("a function that replays rightly is never refused");
        if self.chance(6) {
            // The answer was lost; the client asks again and hears the same.
            let again =
                self.change(|execution, now| execution.checkpoint(used, repeated, Some("c"), (&OnePlain, now)))?;
            assert_eq!(again.expect("a repetition is no fault").token, done.token);
        }
        let stale =
            self.change(|execution, now| execution.checkpoint(used, Vec::new(), Some("other"), (&OnePlain, now)))?;
        assert_eq!(stale, Err(Refusal::Token));
        *token = done.token.expect("nothing is paused");
        Ok(())
    }

    /// The node's work until it dies or the execution is over.
    fn live(&mut self) -> Result<(), Dead> {
        while !self.stored.is_over() {
            let (node, chance) = (self.node, u128::from(self.entropy.number()));
            match self.change(|execution, now| execution.begin(node, chance, "r", now))? {
                Step::Invoke(ticket) => {
                    let outcome = match self.chance(10) {
                        true => Outcome::Failed(ErrorObject::default()),
                        false => Outcome::Answered(self.run(ticket.token)?),
                    };
                    self.change(|execution, now| execution.finish(ticket.token, outcome, DELAYS, now))?;
                    // So few failures in a row that the execution never gives up.
                    self.stored.head.failures = 0;
                }
                Step::Rest => self.outside()?,
                Step::Again => {}
                other => panic!("nothing else happens here: {other:?}"),
            }
        }
        Ok(())
    }

    /// Time passes, and somebody answers a callback.
    fn outside(&mut self) -> Result<(), Dead> {
        self.now += self.entropy.number() % 7;
        let open = self.stored.operations.iter().position(|operation| {
            operation.kind == OperationType::Callback && operation.status == OperationStatus::Started
        });
        if let Some(at) = open.filter(|_| self.chance(2)) {
            let id = self.stored.callback_id(at);
            let verdict = CallbackVerdict::Succeeded(Some(format!("called-{at}")));
            let called = self.change(|execution, now| execution.call_back(&id, verdict, now))?;
            assert_eq!(called, Ok(()));
        }
        Ok(())
    }

    fn check(&self, seed: u64) {
        assert_eq!(self.stored.head.status, ExecutionStatus::Succeeded, "seed {seed}");
        let events = &self.stored.changed.events;
        let numbers: Vec<u64> = events.iter().map(|event| event.number).collect();
        // The first event was told before the first commit that is counted here.
        assert_eq!(
            numbers,
            (2..=self.stored.head.events).collect::<Vec<_>>(),
            "seed {seed}"
        );
        let mut recorded = HashMap::new();
        for event in events.iter().filter(|event| event.kind == EventType::StepSucceeded) {
            let result = event.facts.result.clone();
            let earlier = recorded.insert(event.id.clone().unwrap(), result);
            assert!(earlier.is_none(), "seed {seed}: a step succeeded twice");
        }
        let ended = self
            .stored
            .head
            .result
            .as_ref()
            .and_then(Payload::here)
            .unwrap_or_default();
        let results: HashSet<&str> = ended.split(',').collect();
        for (id, result) in &recorded {
            let result = result.as_ref().and_then(Payload::here).unwrap_or_default();
            assert!(
                results.contains(result),
                "seed {seed}: {id} was recorded as {result}, not as in {ended}"
            );
        }
        let steps = self
            .program
            .iter()
            .filter(|line| matches!(line, Line::Step | Line::Retried(_)))
            .count();
        assert_eq!(recorded.len(), steps, "seed {seed}");
    }
}

#[test]
fn each_steps_effect_is_recorded_once_whatever_happens() {
    let (mut deaths, mut repeated_runs) = (0, 0);
    for seed in 0..LIVES {
        let mut world = World::new(seed);
        while world.live().is_err() {}
        world.check(seed);
        deaths += world.deaths;
        repeated_runs += world.runs.values().filter(|runs| **runs > 1).count();
    }
    // The control: nodes did die, and code that was not checkpointed did run again.
    assert!(deaths > LIVES as u32, "{deaths}");
    assert!(repeated_runs > 50, "{repeated_runs}");
}
