//! `bowline deploy`: makes a package and creates or updates the function through the Lambda API.

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_sandbox::suspension::CHECKPOINT_VARIABLE;
use serde_json::{Map, Value, json};

use super::{cell, image};
use crate::client::{Client, Remote, function_path};
use crate::output::Output;
use crate::package::{self, Package, Target, Wanted};
use crate::progress::{Progress, size};

/// The role that functions get; nothing checks it.
const ROLE: &str = "arn:aws:iam::000000000000:role/bowline";
/// How long a change may take; compiling a large module is the longest.
const SETTLE_MAX: Duration = Duration::from_secs(300);
const POLL_FIRST: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A Cargo project, a `.py`, `.js` or `.mjs` file, a folder, a `.zip`, a `.wasm` or a container image.
    path: PathBuf,
    /// The function's name [default: what the path is called].
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    making: Making,
    #[command(flatten)]
    remote: Remote,
}

/// How a package is made and configured; what is not given is detected, or stays as it is.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
pub struct Making {
    /// Lambda's name of the runtime [default: detected].
    #[arg(long)]
    runtime: Option<String>,
    /// Where the code is entered, `app.handler` say [default: detected].
    #[arg(long)]
    handler: Option<String>,
    /// Memory in MB.
    #[arg(long, value_name = "MB")]
    memory: Option<u32>,
    /// Longest time of an invocation.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// A variable of the function's environment; the ones given replace those it had.
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    environment: Vec<(String, String)>,
    /// Let invocations be suspended and resumed, and take a checkpoint of each so often, `--checkpoint=5s` say; without
    /// a time only on request. Sets BOWLINE_CHECKPOINT in the function's environment, as --env does.
    #[arg(long, value_name = "EVERY", num_args = 0..=1, default_missing_value = "on", require_equals = true)]
    checkpoint: Option<String>,
    /// The ARN of a layer version, in order, five at most; the ones given replace those it had.
    #[arg(long = "layer", value_name = "ARN")]
    layers: Vec<String>,
    /// Build a Cargo project as a static native program, not as WebAssembly.
    #[arg(long, conflicts_with = "target")]
    native: bool,
    /// Build a Cargo project for this target, `wasm32-wasip2` say.
    #[arg(long, value_name = "TRIPLE")]
    target: Option<String>,
    /// Which program of a Cargo project.
    #[arg(long, value_name = "NAME")]
    bin: Option<String>,
}

impl Making {
    /// What is to be packaged, and what it is to be called.
    pub fn wanted(&self, path: PathBuf, name: Option<String>) -> Wanted {
        Wanted {
            path,
            name,
            runtime: self.runtime.clone(),
            handler: self.handler.clone(),
            target: self
                .target
                .as_deref()
                .map(Target::named)
                .or(self.native.then(Target::native)),
            bin: self.bin.clone(),
        }
    }

    pub fn settings(&self) -> Settings {
        let variable = |(name, value): &(String, String)| (name.clone(), json!(value));
        let mut environment: Map<_, _> = self.environment.iter().map(variable).collect();
        if let Some(every) = &self.checkpoint {
            environment.insert(CHECKPOINT_VARIABLE.to_owned(), json!(every));
        }
        Settings {
            memory_mb: self.memory,
            timeout_seconds: self.timeout,
            environment: (!environment.is_empty()).then_some(environment),
            layers: (!self.layers.is_empty()).then(|| self.layers.clone()),
        }
    }
}

/// What a deployment sets besides the package; what is `None` stays as it is.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub memory_mb: Option<u32>,
    pub timeout_seconds: Option<u32>,
    pub environment: Option<Map<String, Value>>,
    pub layers: Option<Vec<String>>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let progress = Progress::stderr();
    let client = args.remote.client();
    let wanted = args.making.wanted(args.path, args.name);
    let settings = args.making.settings();
    // Asked first, so that nobody waits for a build only to learn that there is no node.
    client.get("/2016-08-19/account-settings")?;
    let code = Deployable::make(&wanted, &progress)?;
    let deployed = code.deploy(&client, &settings, &progress)?;
    output.print(&deployed, || {
        let name = cell(&deployed["FunctionName"]);
        let elsewhere = match client.endpoint() {
            "http://127.0.0.1:9000" => String::new(),
            endpoint => format!(" --endpoint {endpoint}"),
        };
        format!(
            "{}\ninvoke it with: bowline invoke {name}{elsewhere} -d '{{}}'\n           or: aws --endpoint-url {} lambda invoke --function-name {name} \
             --payload '{{}}' --cli-binary-format raw-in-base64-out /dev/stdout",
            cell(&deployed["FunctionArn"]),
            client.endpoint()
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What becomes a function.
pub enum Deployable {
    Package(Package),
    Image { name: String, archive: File },
}

impl Deployable {
    /// Makes the package, or finds the image.
    pub fn make(wanted: &Wanted, progress: &Progress) -> anyhow::Result<Self> {
        match package::image::find(&wanted.path)? {
            None => package::assemble(wanted, progress).map(Self::Package),
            Some(_) if wanted.runtime.is_some() || wanted.handler.is_some() => {
                bail!("a container image brings its own runtime and handler: leave out --runtime and --handler")
            }
            Some(archive) => Ok(Self::Image {
                name: package::name(wanted, &wanted.path)?,
                archive,
            }),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Package(package) => &package.name,
            Self::Image { name, .. } => name,
        }
    }

    /// Creates or updates the function and waits until it can be invoked; gives its configuration.
    pub fn deploy(&self, client: &Client, settings: &Settings, progress: &Progress) -> anyhow::Result<Value> {
        match self {
            Self::Package(package) => deploy(client, package, settings, progress),
            Self::Image { name, archive } => {
                let archive = archive.try_clone().context("cannot read the archive")?;
                deploy_image(client, (name, archive), settings, progress)
            }
        }
    }
}

/// Uploads the image under the function's name, and creates or updates the function with it.
fn deploy_image(
    client: &Client,
    (name, archive): (&str, File),
    settings: &Settings,
    progress: &Progress,
) -> anyhow::Result<Value> {
    let image = image::push(client, &image::named_after(name), archive, progress)?;
    let step = progress.step(&format!("deploying {name}"));
    let code = json!({ "ImageUri": image["ImageUri"] });
    let wanted = common(settings);
    let (configuration, what) = match find(client, name)? {
        None => {
            let mut body = wanted;
            body.insert("PackageType".to_owned(), json!("Image"));
            (create(client, name, (body, code))?, "created")
        }
        Some(found) => {
            let digest = cell(&image["ImageDigest"]);
            let digest = digest.trim_start_matches("sha256:");
            update(client, name, (wanted, code, digest), &found)?
        }
    };
    step.done(&format!("{what} {name} from {}", cell(&image["ImageUri"])));
    Ok(configuration)
}

/// The function's configuration, if there is one.
fn find(client: &Client, name: &str) -> anyhow::Result<Option<Value>> {
    match client.get(&function_path(name, "/configuration")) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates or updates the function and waits until it can be invoked; gives its configuration.
pub fn deploy(client: &Client, package: &Package, settings: &Settings, progress: &Progress) -> anyhow::Result<Value> {
    let name = &package.name;
    let found = find(client, name)?;
    let step = progress.step(&format!("deploying {name}: {} zipped", size(package.code.len() as u64)));
    let wanted = configuration(package, settings);
    let code = json!({ "ZipFile": BASE64.encode(&package.code) });
    let (configuration, what) = match found {
        None => (create(client, name, (wanted, code))?, "created"),
        Some(found) => {
            let digest = BASE64.encode(Digest::of(&package.code).as_bytes());
            update(client, name, (wanted, code, &digest), &found)?
        }
    };
    step.done(&format!(
        "{what} {name} ({}, handler {}) from {}",
        cell(&configuration["Runtime"]),
        cell(&configuration["Handler"]),
        package.origin
    ));
    Ok(configuration)
}

fn create(client: &Client, name: &str, (mut body, code): (Map<String, Value>, Value)) -> anyhow::Result<Value> {
    body.insert("FunctionName".to_owned(), json!(name));
    body.insert("Role".to_owned(), json!(ROLE));
    body.insert("Code".to_owned(), code);
    client.post("/2015-03-31/functions", &Value::Object(body))?;
    let settled = settled(client, name);
    if settled.is_err() {
        // A first deployment that cannot run leaves nothing behind.
        let _ = client.delete(&function_path(name, ""));
    }
    settled
}

fn update(
    client: &Client,
    name: &str,
    (wanted, code, digest): (Map<String, Value>, Value, &str),
    found: &Value,
) -> anyhow::Result<(Value, &'static str)> {
    let mut latest = found.clone();
    let differs = |(member, value): (&String, &Value)| match member.as_str() {
        "Layers" => layer_arns(found) != *value,
        _ => found[member] != *value,
    };
    let other_configuration = wanted.iter().any(differs);
    if other_configuration {
        client.put(&function_path(name, "/configuration"), &Value::Object(wanted))?;
        latest = settled(client, name)?;
    }
    if latest["CodeSha256"].as_str() == Some(digest) {
        let what = if other_configuration {
            "reconfigured"
        } else {
            "left as it was"
        };
        return Ok((latest, what));
    }
    client.put(&function_path(name, "/code"), &code)?;
    Ok((settled(client, name)?, "updated"))
}

/// The layers of a configuration as a request names them.
fn layer_arns(configuration: &Value) -> Value {
    let layers = configuration["Layers"].as_array();
    layers.into_iter().flatten().map(|layer| layer["Arn"].clone()).collect()
}

fn configuration(package: &Package, settings: &Settings) -> Map<String, Value> {
    let mut body = common(settings);
    body.insert("Runtime".to_owned(), json!(package.runtime));
    body.insert("Handler".to_owned(), json!(package.handler));
    body
}

/// What is set whatever the code is.
fn common(settings: &Settings) -> Map<String, Value> {
    let mut body = Map::new();
    let mut set = |member: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(member.to_owned(), value);
        }
    };
    set("MemorySize", settings.memory_mb.map(|mb| json!(mb)));
    set("Timeout", settings.timeout_seconds.map(|seconds| json!(seconds)));
    set("Layers", settings.layers.as_ref().map(|layers| json!(layers)));
    set(
        "Environment",
        settings
            .environment
            .as_ref()
            .map(|variables| json!({ "Variables": variables })),
    );
    body
}

/// Waits until the function's last change has ended.
fn settled(client: &Client, name: &str) -> anyhow::Result<Value> {
    let clock = Clock::system();
    let began = clock.monotonic();
    let mut pause = POLL_FIRST;
    loop {
        let configuration = client.get(&function_path(name, "/configuration"))?;
        match (
            configuration["State"].as_str(),
            configuration["LastUpdateStatus"].as_str(),
        ) {
            (Some("Active"), Some("Successful")) => return Ok(configuration),
            (Some("Failed"), _) => bail!("`{name}` cannot run: {}", cell(&configuration["StateReason"])),
            (_, Some("Failed")) => {
                bail!(
                    "`{name}` could not be updated: {}",
                    cell(&configuration["LastUpdateStatusReason"])
                )
            }
            (state, update) if clock.monotonic().since(began) > SETTLE_MAX => bail!(
                "`{name}` is still not ready after {} s: State is `{}`, LastUpdateStatus is `{}`",
                SETTLE_MAX.as_secs(),
                state.unwrap_or("absent"),
                update.unwrap_or("absent")
            ),
            _ => wait(pause),
        }
        pause = (pause * 2).min(POLL_MAX);
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the API has no way to wait for a change but to ask again"
)]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}
