//! The shared suite, with a prober in Python and a native one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_sandbox::conformance::{Ability, Prober, Subject};
use bowline_sandbox::{Backend, ImageSpec, Runtime, VersionSpec};
use serde_json::Value;

use crate::harness::{World, python};
use crate::images;

const PYTHON_PROBER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/prober/app.py");
const NATIVE_PROBER: &str = env!("CARGO_BIN_EXE_linux-prober");

struct Linux {
    world: World,
    runtime: Runtime,
    code: std::path::PathBuf,
    control: Vec<&'static str>,
    /// Where guests see the code.
    place: &'static str,
    image: Option<ImageSpec>,
    lacks: &'static [Ability],
}

async fn with_python() -> Option<Linux> {
    let runtime = python()?;
    let world = World::start(1);
    let prober = fs::read(PYTHON_PROBER).expect("the prober is in the source tree");
    let code = world.code(&[("app.py", &prober)]);
    Some(Linux {
        world,
        runtime,
        code,
        control: vec!["python3", PYTHON_PROBER],
        place: "var/task",
        image: None,
        lacks: &[Ability::Stream],
    })
}

async fn native() -> Option<Linux> {
    let world = World::start(1);
    let prober = fs::read(NATIVE_PROBER).expect("the prober is built with the tests");
    let code = world.code(&[("bootstrap", &prober)]);
    Some(Linux {
        world,
        runtime: Runtime::ProvidedAl2023,
        code,
        control: vec![NATIVE_PROBER],
        place: "var/task",
        image: None,
        lacks: &[],
    })
}

/// The native prober with the libraries it needs, as the only content of a root file system.
async fn image() -> Option<Linux> {
    let world = World::start(1);
    let code = images::root(&world, "var/task/bootstrap", NATIVE_PROBER);
    Some(Linux {
        world,
        runtime: Runtime::ProvidedAl2023,
        code,
        control: vec![NATIVE_PROBER],
        place: "",
        image: Some(images::started_by("/var/task/bootstrap")),
        lacks: &[],
    })
}

impl Subject for Linux {
    fn backend(&self) -> Arc<dyn Backend> {
        self.world.backend.clone()
    }

    fn version(&self, prober: Prober) -> VersionSpec {
        VersionSpec {
            function: prober.function,
            memory: prober.memory,
            ephemeral_storage: prober.ephemeral_storage,
            timeout: prober.timeout,
            environment: prober.environment,
            image: self.image.clone(),
            ..self.world.version(self.runtime, "app.handler", self.code.clone())
        }
    }

    fn lacks(&self) -> &[Ability] {
        self.lacks
    }

    /// The processes that see the prober's code where a function's lies: those of the pool see none.
    fn traces(&self) -> Vec<String> {
        let code = place_of(&self.code).expect("the code is there");
        let processes = fs::read_dir("/proc").expect("/proc is there");
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let guests = pids.filter(|pid| place_of(format!("/proc/{pid}/root/{}", self.place)) == Some(code));
        guests.map(|pid| format!("process {pid}")).collect()
    }

    fn clock(&self) -> Clock {
        self.world.clock.clone()
    }

    fn outside(&self, event: &Value) -> Option<Value> {
        let output = Command::new(self.control[0])
            .args(&self.control[1..])
            .arg(event.to_string())
            // What the function `owner` would have, for the search of the process table.
            .env("SECRET", event["needle"].as_str().unwrap_or_default())
            .output()
            .expect("the prober runs outside");
        let answer = serde_json::from_slice(&output.stdout);
        Some(answer.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr))))
    }
}

/// What a folder is, wherever it is mounted.
fn place_of(folder: impl AsRef<Path>) -> Option<(u64, u64)> {
    let metadata = fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

mod python_prober {
    use super::with_python;

    bowline_sandbox::sandbox_conformance!(with_python);
}

mod image_prober {
    use super::image;

    bowline_sandbox::sandbox_conformance!(image);
}

mod native_prober {
    use super::native;

    bowline_sandbox::sandbox_conformance!(native);
}
