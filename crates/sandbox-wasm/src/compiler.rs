//! Compiling a module, here or in a process of its own.
//!
//! A compiler's memory is many times its module's, and a hostile module makes it take long. In a process
//! of its own both end with it, and its low priority keeps it out of the way of running functions.

use std::fs;
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_checkpoint::{Plan, Poll, Refusal};
use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};
use wasmtime::Engine;

use crate::accept::{ModuleShape, accept};
use crate::engine;
use crate::image::CompileError;

/// The first argument by which a program is told to be the compiler; its `main` then calls
/// [`compiler_main`].
pub const COMPILER_ARGUMENT: &str = "__compile";

/// Processor time one module may take to compile, over all threads.
const CPU_SECONDS_MAX: u64 = 300;
/// What the compiler exits with when the module is at fault; the text is on its standard error.
const EXIT_UNFIT: i32 = 2;
/// The same when the module can be run, but not checkpointed.
const EXIT_REFUSED: i32 = 3;
/// The last argument when the module is to be checkpointed.
const CHECKPOINTED_ARGUMENT: &str = "checkpointed";
/// How much the compiler's process yields to others.
const NICENESS: i32 = 10;

/// What is made of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Plain,
    /// Instrumented, so that it can be stopped anywhere.
    Checkpointed,
}

/// How modules are instrumented here.
pub(crate) fn checkpoint_options() -> bowline_checkpoint::Options {
    bowline_checkpoint::Options {
        stack_bytes: engine::CHECKPOINTED_STACK_BYTES,
        poll: Poll::Word,
    }
}

/// Where modules are compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Compiler {
    /// In the process that needs them.
    #[default]
    Inside,
    /// In a process for each module, made from this program, which calls [`compiler_main`].
    Process(PathBuf),
}

impl Compiler {
    /// Compiles the module in `source` into a new file `target`, synced.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        source: &Path,
        target: &Path,
        form: Form,
    ) -> std::result::Result<(), CompileError> {
        match self {
            Self::Inside => compile_here(engine, source, target, form),
            Self::Process(program) => compile_in_process(program, source, target, form),
        }
    }
}

fn compile_here(engine: &Engine, source: &Path, target: &Path, form: Form) -> std::result::Result<(), CompileError> {
    let module = read_module(source)?;
    let image = match (accept(&module)?, form) {
        (ModuleShape::HttpComponent, Form::Plain) => engine.precompile_component(&module),
        (ModuleShape::Command | ModuleShape::Reactor, Form::Plain) => engine.precompile_module(&module),
        (ModuleShape::Command, Form::Checkpointed) => {
            let (_, instrumented) = Plan::instrument(module, checkpoint_options())?;
            engine.precompile_module(&instrumented)
        }
        (ModuleShape::HttpComponent, Form::Checkpointed) => return Err(Refusal::Component.into()),
        (ModuleShape::Reactor, Form::Checkpointed) => {
            return Err(CompileError::Refused(
                "functions of the guest SDK keep their instance between invocations: only commands can be \
                 checkpointed"
                    .to_owned(),
            ));
        }
    };
    let image = image.map_err(|error| CompileError::Unfit(format!("the module does not compile: {error:#}")))?;
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(target)?;
    file.write_all(&image)?;
    Ok(file.sync_all()?)
}

fn compile_in_process(
    program: &Path,
    source: &Path,
    target: &Path,
    form: Form,
) -> std::result::Result<(), CompileError> {
    let mut command = Command::new(program);
    command.arg(COMPILER_ARGUMENT).arg(source).arg(target);
    if form == Form::Checkpointed {
        command.arg(CHECKPOINTED_ARGUMENT);
    }
    let output = command.env_clear().stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.code() {
        Some(EXIT_UNFIT) => Err(CompileError::Unfit(text)),
        Some(EXIT_REFUSED) => Err(CompileError::Refused(text)),
        Some(_) => Err(Error::other(format!("the compiler failed: {text}")).into()),
        None => Err(CompileError::Unfit(format!(
            "the module cannot be compiled within {CPU_SECONDS_MAX} seconds of processor time: {}",
            output.status
        ))),
    }
}

/// The compiler's process: compiles the file its second argument names into the file its third names.
pub fn compiler_main() -> ! {
    let mut arguments = std::env::args_os().skip(2).map(PathBuf::from);
    let (Some(source), Some(target)) = (arguments.next(), arguments.next()) else {
        eprintln!("`{COMPILER_ARGUMENT}` takes two files; it is not for people");
        std::process::exit(1)
    };
    let form = match arguments.next() {
        Some(word) if word.as_os_str() == CHECKPOINTED_ARGUMENT => Form::Checkpointed,
        _ => Form::Plain,
    };
    match restrict().map_err(CompileError::from).and_then(|()| {
        let engine = match form {
            Form::Plain => engine::new(1),
            Form::Checkpointed => engine::checkpointed(),
        };
        let engine = engine.map_err(|error| Error::other(format!("{error:#}")))?;
        compile_here(&engine, &source, &target, form)
    }) {
        Ok(()) => std::process::exit(0),
        Err(CompileError::Unfit(text)) => {
            eprintln!("{text}");
            std::process::exit(EXIT_UNFIT)
        }
        Err(CompileError::Refused(text)) => {
            eprintln!("{text}");
            std::process::exit(EXIT_REFUSED)
        }
        Err(CompileError::Io(error)) => {
            eprintln!("{error}");
            std::process::exit(1)
        }
    }
}

/// Ends with the node, yields to running functions, and takes so much time and no more.
fn restrict() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    nice(NICENESS)?;
    let limit = Rlimit {
        current: Some(CPU_SECONDS_MAX),
        maximum: Some(CPU_SECONDS_MAX),
    };
    Ok(setrlimit(Resource::Cpu, limit)?)
}

fn read_module(source: &Path) -> std::result::Result<Vec<u8>, CompileError> {
    fs::read(source).map_err(|error| match error.kind() {
        ErrorKind::NotFound => CompileError::Unfit("the deployment package holds no `bootstrap.wasm`".to_owned()),
        _ => error.into(),
    })
}
