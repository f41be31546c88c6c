//! The spawner as a program of its own, for the tests; the product executes itself instead.
//!
//! `cell-spawner __spawner` is the spawner. `cell-spawner node DIR` is a small node with two cells that
//! sleep: it says `up` and then waits to be killed.

use std::error::Error;

use bowline_sandbox_linux::cell::{CellPlan, Command, SPAWNER_ARGUMENT, Spawner, SpawnerOptions, Start, spawner_main};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [SPAWNER_ARGUMENT] => spawner_main(),
        ["node", dir] => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(be_a_node(dir)),
        _ => Err("this program is started by tests only".into()),
    }
}

async fn be_a_node(dir: &str) -> Result<(), Box<dyn Error>> {
    let spawner = Spawner::start(SpawnerOptions {
        state_dir: dir.into(),
        program: None,
    })?;
    let sleep = Command {
        argv: ["/usr/bin/sleep", "600"].map(Into::into).to_vec(),
        env: Vec::new(),
        cwd: "/".into(),
    };
    let mut cells = Vec::new();
    for _ in 0..2 {
        let start = Start::Now(sleep.clone());
        let (binds, image) = (Vec::new(), None);
        cells.push(spawner.create(CellPlan { binds, image, start }).await?);
    }
    println!("up");
    std::future::pending().await
}
