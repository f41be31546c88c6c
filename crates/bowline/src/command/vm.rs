//! `bowline vm`: builds what virtual machines boot from, and tries one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox_vm::image::{Build, Interpreter, Source, build};
use bowline_sandbox_vm::vm::Ran;
use bowline_sandbox_vm::{Golden, Host, Image, Machine, Options, Vm};
use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::settings::SettingFlags;
use super::up::runtime;
use crate::node::data_folder;
use crate::output::Output;
use crate::progress::{Progress, seconds, size};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// The images that virtual machines boot from.
    Image {
        #[command(subcommand)]
        action: ImageAction,
    },
    /// Start a virtual machine, run a command in it, and end it.
    Run(Run),
}

#[derive(Debug, Subcommand)]
enum ImageAction {
    /// Build one from Debian's packages and this program; what was built before is found again.
    Build(ImageBuild),
}

#[derive(Debug, clap::Args)]
struct ImageBuild {
    /// Take packages from this folder of `.deb` files instead of fetching them.
    #[arg(long, value_name = "DIR")]
    packages: Option<PathBuf>,
    /// Interpreters for functions of the Linux kind, with commas between.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    with: Vec<With>,
    #[command(flatten)]
    settings: SettingFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum With {
    Python,
    Node,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Its memory.
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory: u32,
    /// When to end the command.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// The program in the guest and its arguments.
    #[arg(required = true, last = true)]
    command: Vec<String>,
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Image {
            action: ImageAction::Build(build),
        } => build.run(output),
        Action::Run(run) => run.run(output),
    }
}

/// Where images, snapshots and what belongs to them lie.
fn folder(settings: SettingFlags) -> anyhow::Result<PathBuf> {
    Ok(data_folder(&settings.load()?.data)?.join("vm"))
}

impl ImageBuild {
    fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        let progress = Progress::stderr();
        let step = progress.step("building an image");
        let mut interpreters: Vec<_> = self.with.iter().map(|with| with.interpreter()).collect();
        interpreters.sort_unstable();
        interpreters.dedup();
        let wanted = Build {
            folder: folder(self.settings)?,
            agent: std::env::current_exe().context("cannot find the program itself")?,
            packages: self.packages.map_or(Source::Apt, Source::Folder),
            interpreters,
        };
        let built = build(&wanted, &|note| step.note(note)).context("cannot build an image")?;
        let (image, cached) = (built.image, built.cached);
        let what = if cached { "found the image" } else { "built the image" };
        step.done(&format!("{what} {}: {}", image.digest(), size(image.bytes())));
        let document = json!({
            "digest": image.digest(),
            "folder": image.folder(),
            "bytes": image.bytes(),
            "cached": cached,
            "packages": image.record().packages,
        });
        output.print(&document, || {
            format!(
                "{}\ntry it with: bowline vm run -- /bin/busybox uname -a",
                image.folder().display()
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

impl With {
    fn interpreter(self) -> Interpreter {
        match self {
            Self::Python => Interpreter::Python,
            Self::Node => Interpreter::Node,
        }
    }
}

impl Run {
    fn run(self, output: Output) -> anyhow::Result<ExitCode> {
        let folder = folder(self.settings)?;
        runtime()?.block_on(async {
            let vm = start(&folder, Mebibytes(self.memory)).await?;
            let argv: Vec<&str> = self.command.iter().map(String::as_str).collect();
            let ran = vm.run(&argv, Duration::from_secs(self.timeout)).await;
            let ran = ran.with_context(|| format!("cannot run `{}` in the guest", argv[0]))?;
            show(&vm, &ran, output)?;
            vm.kill().await;
            // As the command itself would have ended; a signal or the end of its time is a failure.
            let code = ran.code.and_then(|code| u8::try_from(code).ok());
            Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
        })
    }
}

/// A machine from the golden snapshot, which is made first if there is none.
async fn start(folder: &Path, memory: Mebibytes) -> anyhow::Result<Vm> {
    let progress = Progress::stderr();
    let image = Arc::new(Image::current(folder)?);
    let host = Host::find(Options {
        clock: Clock::system(),
        entropy: Entropy::system(),
        // Two commands, or a node and a command, may run at once.
        mark: format!("run-{}", std::process::id()),
        program: std::env::current_exe().context("cannot find the program itself")?,
    });
    let host = Arc::new(host.await?);
    if let Some(reason) = host.why_not_kvm() {
        progress.say(&format!("instructions are translated (tcg): {reason}"));
    }
    let step = progress.step("preparing the golden snapshot");
    let golden = Golden::make(host, image, &Machine::micro(memory), &folder.join("golden")).await?;
    step.done(&format!("golden snapshot {}", golden.snapshot().digest()));
    Ok(golden.start().await?)
}

fn show(vm: &Vm, ran: &Ran, output: Output) -> anyhow::Result<()> {
    let accelerator = vm.accelerator();
    let document = json!({
        "accelerator": accelerator,
        "origin": vm.origin(),
        "ready_ms": vm.ready_after().as_millis(),
        "resident_bytes": vm.resident_bytes(),
        "code": ran.code,
        "timed_out": ran.timed_out,
        "output": String::from_utf8_lossy(&ran.output),
    });
    let ready = seconds(vm.ready_after());
    Progress::stderr().say(&format!("ready after {ready} ({accelerator})"));
    output.print(&document, || String::from_utf8_lossy(&ran.output).into_owned())
}
