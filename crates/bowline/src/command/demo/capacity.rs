//! `bowline demo capacity`: a spike that was announced finds servers that wait, an instance is killed and replaced, and a
//! new version takes over under load.
//!
//! ```text
//!   spike     three accounts call at once: by surprise ─▶ servers boot; announced by a [[schedule]] ─▶ servers wait
//!   loss      callers ─▶ instance, kill -9 ─▶ fenced ─▶ another from the same file ─▶ callers
//!   rollout   callers ─▶ alias `live` ─▶ version 1, then 2
//! ```

mod callers;
mod loss;
mod rollout;
mod spike;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bowline_api::auth::sigv4::Credentials;
use bowline_foundation::clock::{Clock, Timestamp};
use serde_json::{Value, json};

use crate::client::Client;
use crate::command::deploy::{self, Settings};
use crate::command::settings::SettingFlags;
use crate::command::up::{StopSignals, runtime, stop_node};
use crate::node::{Node, log};
use crate::output::{Output, table};
use crate::package::{self, Wanted};
use crate::progress::Progress;

/// The function of every part.
const FUNCTION: &str = "hello";
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Longer than anything takes that is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the show; 0 if each part of it holds.
pub fn run(output: Output) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("bowline-demo-").tempdir();
    let folder = folder.context("cannot make a temporary folder")?;
    let settings = SettingFlags {
        listen: Some("127.0.0.1:0".to_owned()),
        data: Some(folder.path().join("data").display().to_string()),
        instances: Some("process".to_owned()),
        log_level: Some("error".to_owned()),
        ..SettingFlags::default()
    };
    let config = settings.load()?;
    log::begin(&config);
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut stop = StopSignals::listen()?;
        let node = Node::start(&config).await?;
        let show = Show {
            endpoint: node.endpoint(),
            folder: folder.path().to_owned(),
            progress: Progress::stderr(),
            clock: Clock::system(),
        };
        let show = tokio::task::spawn_blocking(move || show.play());
        let parts = tokio::select! {
            parts = show => parts.context("the show ended early")?,
            () = stop.next() => return Ok(stop_node(node, stop).await),
        };
        let stopped = stop_node(node, stop).await;
        let parts = parts?;
        report(&parts, output)?;
        let all_hold = parts.iter().all(|part| part.holds);
        Ok(if all_hold { stopped } else { ExitCode::FAILURE })
    });
    // Callers may still wait for a node that is gone; nobody waits for them.
    runtime.shutdown_background();
    code
}

/// What one part has shown.
struct Part {
    name: &'static str,
    holds: bool,
    /// In words.
    seen: String,
    facts: Value,
}

fn report(parts: &[Part], output: Output) -> anyhow::Result<()> {
    let document = |part: &Part| json!({"part": part.name, "holds": part.holds, "facts": part.facts});
    let documents: Vec<_> = parts.iter().map(document).collect();
    let right = parts.iter().all(|part| part.holds);
    output.print(&json!({"right": right, "parts": documents}), || {
        let verdict = |part: &Part| if part.holds { "holds" } else { "DOES NOT HOLD" };
        let row = |part: &Part| [part.name.to_owned(), verdict(part).to_owned(), part.seen.clone()];
        table(
            ["PART", "", "WHAT WAS SEEN"],
            &parts.iter().map(row).collect::<Vec<_>>(),
        )
    })
}

/// A node, and what is done to it.
struct Show {
    endpoint: String,
    folder: PathBuf,
    progress: Progress,
    clock: Clock,
}

impl Show {
    fn play(&self) -> anyhow::Result<Vec<Part>> {
        let spike = spike::play(self)?;
        let home = Account::of(self, spike::HOME);
        let loss = loss::play(self, &home)?;
        let rollout = rollout::play(self, &home)?;
        Ok(vec![spike, loss, rollout])
    }

    /// A client of the operator's.
    fn operator(&self) -> Client {
        Client::new(&self.endpoint)
    }

    /// Asks again and again until there is an answer, for as long as it may take.
    fn until<T>(&self, what: &str, mut question: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
        let began = self.clock.monotonic();
        loop {
            if let Some(found) = question() {
                return Ok(found);
            }
            let is_late = self.clock.monotonic().since(began) > PATIENCE;
            anyhow::ensure!(!is_late, "{what} within {} seconds", PATIENCE.as_secs());
            std::thread::park_timeout(BETWEEN_LOOKS);
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

/// Somebody with functions, and an instance that they get when the first of them is called.
#[derive(Clone)]
struct Account {
    number: String,
    client: Client,
}

impl Account {
    fn of(show: &Show, number: &str) -> Self {
        // On loopback any signature is good, and twelve digits for a key are the account.
        let credentials = Credentials {
            access_key: number.to_owned(),
            secret: "any".to_owned(),
            region: "us-east-1".to_owned(),
        };
        Self {
            number: number.to_owned(),
            client: Client::signing(&show.endpoint, credentials),
        }
    }

    /// Gives the account a function that answers with a text.
    fn deploy(&self, show: &Show, text: &str) -> anyhow::Result<()> {
        let path = show.folder.join(format!("{FUNCTION}.py"));
        let source = format!("def handler(event, context):\n    return {}\n", json!(text));
        std::fs::write(&path, source).context("cannot write the function")?;
        let wanted = Wanted {
            path,
            name: Some(FUNCTION.to_owned()),
            ..Wanted::default()
        };
        let package = package::assemble(&wanted, &show.progress)?;
        deploy::deploy(&self.client, &package, &Settings::default(), &show.progress)?;
        Ok(())
    }

    /// Its instance, as the operator sees it.
    fn instance(&self, show: &Show, below: &str) -> Option<Value> {
        let path = format!("/v1/instances/default{below}?account={}", self.number);
        show.operator().get(&path).ok()
    }
}
