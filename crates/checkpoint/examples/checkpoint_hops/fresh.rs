//! Runs of which each hop goes on in a process of its own, which knows nothing but a module and a checkpoint.

use std::path::Path;
use std::process::Command;

use crate::run::{Leg, Subject};

/// Checkpoints of one run in a row; then it runs to its end.
const HOPS_IN_A_ROW: u64 = 12;

pub struct Fresh {
    /// One run in so many hops so; none if zero.
    pub every: u64,
    /// The program, with its first words, that makes every other one of these hops; this one if there are no words.
    pub other: Vec<String>,
}

impl Fresh {
    pub fn takes(&self, seed: u64) -> bool {
        self.every > 0 && seed.is_multiple_of(self.every)
    }

    /// What can be seen of the run in the end, and how many hops it made; `polls` says how many polls pass before each, of
    /// so many in a row.
    pub fn travel(&self, subject: &Subject, polls: impl Fn(u64, u64) -> u32) -> (String, u64) {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let (module, file) = (folder.path().join("module.wasm"), folder.path().join("checkpoint"));
        std::fs::write(&module, subject.module()).expect("the folder can be written to");
        let mut checkpoint = match subject.first_leg(polls(0, HOPS_IN_A_ROW)) {
            Leg::Ended(seen) => return (format!("{seen:?}"), 0),
            Leg::Stopped(checkpoint) => checkpoint,
        };
        for hop in 1.. {
            std::fs::write(&file, &checkpoint).expect("the folder can be written to");
            let polls = polls(hop, HOPS_IN_A_ROW).to_string();
            let mut command = self.program(hop);
            command
                .arg("--leg")
                .arg(&module)
                .arg(&subject.export)
                .arg(&file)
                .arg(polls);
            let output = command.output().expect("this program can be started again");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let ended = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
            if !ended.is_empty() {
                return (ended, hop);
            }
            checkpoint = std::fs::read(&file).expect("the process left a checkpoint").into();
        }
        unreachable!("the range has no end")
    }

    fn program(&self, hop: u64) -> Command {
        match self.other.split_first() {
            Some((program, words)) if hop % 2 == 1 => {
                let mut command = Command::new(program);
                command.args(words);
                command
            }
            _ => Command::new(std::env::current_exe().expect("this program has a file")),
        }
    }
}

/// One hop, in its process.
pub fn leg(module: &str, export: &str, checkpoint: &str, polls: u32) {
    let bytes = std::fs::read(Path::new(module)).expect("the module can be read");
    // A call that goes on needs no arguments.
    let subject = Subject::binary(bytes, export, &[]);
    let from = std::fs::read(checkpoint).expect("the checkpoint can be read");
    match subject.next_leg(&from.into(), polls) {
        Leg::Stopped(next) => std::fs::write(checkpoint, next).expect("the checkpoint can be written"),
        Leg::Ended(seen) => println!("{seen:?}"),
    }
}
