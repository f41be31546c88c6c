//! The command line: which commands there are, and what a failed one leaves behind.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::command::{
    agent, aliases, checkpoint, config, demo, deploy, executions, functions, image, instance, invoke, keys, layer,
    logs, nodes, object, session, state, store, stores, stream, up, versions, vm,
};
use crate::output::Output;

/// The exit code of a command that failed; a function's own error gives 1.
const FAILED: u8 = 2;

/// A serverless platform in one binary that speaks the AWS Lambda API.
#[derive(Debug, Parser)]
#[command(name = "bowline", version, max_term_width = 100)]
pub struct Cli {
    /// Print one JSON document on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    Up(up::Args),
    /// Run a node with the example functions on it.
    Demo(demo::Args),
    /// Create or update a function from a project, a file, a folder or an archive.
    Deploy(deploy::Args),
    /// Invoke a function and print its answer.
    Invoke(invoke::Args),
    /// Print what a function has logged.
    Logs(logs::Args),
    /// List, show and remove functions.
    Functions(functions::Args),
    /// List, show, publish and remove versions of a function.
    Versions(versions::Args),
    /// List, show, set and remove aliases of a function.
    Aliases(aliases::Args),
    /// List, show and stop durable executions.
    Executions(executions::Args),
    /// Take, list, show, resume and remove checkpoints of running invocations.
    Checkpoint(checkpoint::Args),
    /// Publish, list and remove layers.
    Layer(layer::Args),
    /// Upload, list and remove container images.
    Image(image::Args),
    /// Make, fill, read and follow ordered event streams.
    Stream(stream::Args),
    /// Read a stream from a place that the service remembers.
    Session(session::Args),
    /// Keep objects that can be created while a store is down.
    Object(object::Args),
    /// Show how the independent stores of objects do.
    Stores(stores::Args),
    /// List the nodes of a cluster.
    Nodes(nodes::Args),
    /// Make, show, attach and remove state that functions share.
    State(state::Args),
    /// Build what virtual machines boot from, and try one.
    Vm(vm::Args),
    /// Make, watch and remove instances: virtual servers for functions and services.
    Instance(instance::Args),
    /// Make, list and remove access keys.
    Keys(keys::Args),
    /// Check a node's store, and move it to another.
    Store(store::Args),
    /// Serve a node from inside an instance; the node starts this itself.
    #[command(hide = true)]
    Agent(agent::Args),
    /// Print the effective configuration of a node and where each value comes from.
    Config(config::Args),
    /// Print a completion script.
    Completions {
        /// The shell it is for.
        shell: Shell,
    },
}

impl Cli {
    /// Runs the command; the error, if any, is printed with its causes on one line.
    pub fn run(self) -> ExitCode {
        let output = Output { json: self.json };
        let result = match self.command {
            Command::Up(args) => up::run(args, output),
            Command::Demo(args) => demo::run(args, output),
            Command::Deploy(args) => deploy::run(args, output),
            Command::Invoke(args) => invoke::run(args, output),
            Command::Logs(args) => logs::run(args, output),
            Command::Functions(args) => functions::run(args, output),
            Command::Versions(args) => versions::run(args, output),
            Command::Aliases(args) => aliases::run(args, output),
            Command::Executions(args) => executions::run(args, output),
            Command::Checkpoint(args) => checkpoint::run(args, output),
            Command::Layer(args) => layer::run(args, output),
            Command::Image(args) => image::run(args, output),
            Command::Stream(args) => stream::run(args, output),
            Command::Session(args) => session::run(args, output),
            Command::Object(args) => object::run(args, output),
            Command::Stores(args) => stores::run(args, output),
            Command::State(args) => state::run(args, output),
            Command::Nodes(args) => nodes::run(args, output),
            Command::Vm(args) => vm::run(args, output),
            Command::Instance(args) => instance::run(args, output),
            Command::Keys(args) => keys::run(args, output),
            Command::Store(args) => store::run(args, output),
            Command::Agent(args) => agent::run(args),
            Command::Config(args) => config::run(args, output),
            Command::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut Self::command(), "bowline", &mut script);
                crate::output::bytes(&script).map(|()| ExitCode::SUCCESS)
            }
        };
        result.unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            ExitCode::from(FAILED)
        })
    }
}

#[cfg(test)]
mod tests;
