//! `bowline instance`: virtual servers from configuration files.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bowline_inventory::file::InstanceFile;
use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::{HeaderMap, Method};

use super::{cell, field, removed};
use crate::client::{Client, Remote, escape, header};
use crate::output::{self, Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Keep a configuration file and make an instance from it.
    Create {
        /// The file, or `-` for standard input.
        file: PathBuf,
        /// The instance's name [default: the file's `id`].
        #[arg(long)]
        name: Option<String>,
        /// One of the file's roles.
        #[arg(long)]
        role: Option<String>,
        /// The same token again names the instance that it made.
        #[arg(long, value_name = "TEXT")]
        token: Option<String>,
        #[command(flatten)]
        of: Of,
    },
    /// List instances.
    Ls {
        #[command(flatten)]
        of: Of,
    },
    /// Show an instance, with what happened to it.
    Show {
        /// The instance's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Give an instance no new work; what runs there ends as it would.
    Drain {
        /// The instance's name.
        name: String,
        /// Give it work again.
        #[arg(long)]
        undo: bool,
        #[command(flatten)]
        of: Of,
    },
    /// Have an instance that was held try again.
    Resume {
        /// The instance's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// End an instance for good; its volumes and its file stay.
    Rm {
        /// The instance's name.
        name: String,
        #[command(flatten)]
        of: Of,
    },
    /// Show which versions belong to which fleet by how often they are called, or change by what that is judged.
    Fleets {
        #[command(flatten)]
        criteria: Criteria,
        #[command(flatten)]
        of: Of,
    },
    /// The configuration files that instances are made from.
    #[command(subcommand)]
    Config(ConfigAction),
}

#[derive(Debug, Subcommand)]
enum ConfigAction {
    /// Keep a file; instances see it when they are replaced.
    Put {
        /// The file, or `-` for standard input.
        file: PathBuf,
        #[command(flatten)]
        of: Of,
    },
    /// Print a file as it was put.
    Get {
        /// Its `id`.
        id: String,
        #[command(flatten)]
        of: Of,
    },
    /// List files.
    Ls {
        #[command(flatten)]
        of: Of,
    },
    /// Forget a file.
    Rm {
        /// Its `id`.
        id: String,
        /// Also if instances could not be replaced then.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        of: Of,
    },
}

/// By what it is judged whether a version is called often; what is not said stays as it is.
#[derive(Debug, clap::Args)]
struct Criteria {
    /// Requests a second from which on a version belongs to the high fleet.
    #[arg(long, value_name = "RATE")]
    promote_at: Option<f64>,
    /// Requests a second below which it leaves that one again; other fleets are left as far below their line.
    #[arg(long, value_name = "RATE")]
    demote_at: Option<f64>,
    /// Over how long requests are counted.
    #[arg(long, value_name = "SECONDS")]
    window_seconds: Option<u64>,
    /// How long a version stays in a fleet at least.
    #[arg(long, value_name = "SECONDS")]
    dwell_seconds: Option<u64>,
    /// How long an idle sandbox of the low fleet stays at most.
    #[arg(long, value_name = "SECONDS")]
    low_idle_seconds: Option<u64>,
}

impl Criteria {
    /// What is said of them.
    fn said(&self) -> Vec<(&'static str, Value)> {
        let rates = [("promote_at", self.promote_at), ("demote_at", self.demote_at)];
        let times = [
            ("window_seconds", self.window_seconds),
            ("dwell_seconds", self.dwell_seconds),
            ("low_idle_seconds", self.low_idle_seconds),
        ];
        let rates = rates.into_iter().filter_map(|(name, rate)| Some((name, json!(rate?))));
        let times = times.into_iter().filter_map(|(name, time)| Some((name, json!(time?))));
        rates.chain(times).collect()
    }
}

/// Whose instances are meant, and where they are.
#[derive(Debug, clap::Args)]
struct Of {
    /// The account that owns them [default: the caller's].
    #[arg(long, value_name = "DIGITS")]
    account: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

impl Of {
    fn client(&self) -> Client {
        self.remote.client()
    }

    /// The path with the account behind it.
    fn path(&self, path: &str) -> String {
        match &self.account {
            None => path.to_owned(),
            Some(account) => format!("{path}?account={}", escape(account)),
        }
    }

    /// What the query of a list has beside its page.
    fn query(&self) -> String {
        match &self.account {
            None => String::new(),
            Some(account) => format!("&account={}", escape(account)),
        }
    }

    fn instance(&self, name: &str, rest: &str) -> String {
        self.path(&format!("/v1/instances/{}{rest}", escape(name)))
    }

    fn file(&self, id: &str) -> String {
        self.path(&format!("/v1/instance-files/{}", escape(id)))
    }
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create {
            file,
            name,
            role,
            token,
            of,
        } => {
            let kept = put(&of, &file)?;
            let body = json!({ "file": kept["id"], "name": name, "role": role });
            let mut headers = header("content-type", "application/json")?;
            if let Some(token) = token {
                headers.extend(header("idempotency-key", &token)?);
            }
            let made = of.client().send_json(
                Method::POST,
                &of.path("/v1/instances"),
                headers,
                body.to_string().into(),
            )?;
            output.print(&made, || shown(&made))?;
        }
        Action::Ls { of } => {
            let instances = of.client().pages("/v1/instances", &of.query())?;
            output.print(&json!({ "instances": instances }), || listed(&instances))?;
        }
        Action::Show { name, of } => {
            let mut instance = of.client().get(&of.instance(&name, ""))?;
            for more in ["history", "inventory"] {
                instance[more] = of.client().get(&of.instance(&name, &format!("/{more}")))?;
            }
            output.print(&instance, || {
                shown(&instance) + &there(&instance["inventory"]) + &happened(&instance["history"])
            })?;
        }
        Action::Drain { name, undo, of } => {
            let instance = of
                .client()
                .post(&of.instance(&name, "/drain"), &json!({ "draining": !undo }))?;
            output.print(&instance, || shown(&instance))?;
        }
        Action::Resume { name, of } => {
            let path = of.instance(&name, "/resume");
            let resumed = of
                .client()
                .send_json(Method::POST, &path, HeaderMap::new(), Vec::new())?;
            output.print(&resumed, || shown(&resumed))?;
        }
        Action::Rm { name, of } => {
            of.client().delete(&of.instance(&name, ""))?;
            output.print(&removed(&name), || format!("removed {name}"))?;
        }
        Action::Fleets { criteria, of } => {
            let mut fleets = of.client().get(&of.path("/v1/fleets"))?;
            let said = criteria.said();
            if !said.is_empty() {
                for (name, value) in said {
                    fleets["criteria"][name] = value;
                }
                let headers = header("content-type", "application/json")?;
                let body = fleets["criteria"].to_string().into();
                fleets = of
                    .client()
                    .send_json(Method::PUT, &of.path("/v1/fleets"), headers, body)?;
            }
            output.print(&fleets, || in_fleets(&fleets))?;
        }
        Action::Config(action) => return configure(action, output),
    }
    Ok(ExitCode::SUCCESS)
}

fn configure(action: ConfigAction, output: Output) -> anyhow::Result<ExitCode> {
    match action {
        ConfigAction::Put { file, of } => {
            let kept = put(&of, &file)?;
            output.print(&kept, || {
                let text = |member: &str| cell(&kept[member]);
                format!("{} revision {}, {}", text("id"), text("revision"), text("digest"))
            })?;
        }
        ConfigAction::Get { id, of } => {
            let answer = of
                .client()
                .send(Method::GET, &of.file(&id), HeaderMap::new(), Vec::new())?;
            if output.json {
                let text = String::from_utf8_lossy(&answer.body);
                output.print(&json!({ "id": id, "text": text }), String::new)?;
            } else {
                output::bytes(&answer.body)?;
            }
        }
        ConfigAction::Ls { of } => {
            let files = of.client().pages("/v1/instance-files", &of.query())?;
            output.print(&json!({ "files": files }), || {
                let row = |file: &Value| ["id", "revision", "changed", "digest"].map(|member| cell(&file[member]));
                let rows: Vec<_> = files.iter().map(row).collect();
                table(["ID", "REVISION", "CHANGED", "DIGEST"], &rows)
            })?;
        }
        ConfigAction::Rm { id, force, of } => {
            let mut path = of.file(&id);
            if force {
                path.push_str(if path.contains('?') {
                    "&force=true"
                } else {
                    "?force=true"
                });
            }
            of.client().delete(&path)?;
            output.print(&removed(&id), || format!("removed {id}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Keeps a file; what is wrong with it is told before the node is asked.
fn put(of: &Of, file: &Path) -> anyhow::Result<Value> {
    let shown = file.display();
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("cannot read `{shown}`"))?
    };
    let parsed = InstanceFile::parse(&text);
    let parsed =
        parsed.map_err(|error| anyhow::anyhow!("{shown}:{}:{}: {}", error.line, error.column, error.reason))?;
    let headers = header("content-type", "application/toml")?;
    let path = of.file(parsed.id.get_ref());
    Ok(of.client().send_json(Method::PUT, &path, headers, text.into())?)
}

/// By what versions are sent to fleets, and where they belong.
fn in_fleets(fleets: &Value) -> String {
    let criteria = [
        ("in use", &fleets["in_use"]),
        ("promote at", &fleets["criteria"]["promote_at"]),
        ("demote at", &fleets["criteria"]["demote_at"]),
        ("window s", &fleets["criteria"]["window_seconds"]),
        ("dwell s", &fleets["criteria"]["dwell_seconds"]),
        ("low idle s", &fleets["criteria"]["low_idle_seconds"]),
    ];
    let criteria: String = criteria.into_iter().map(|(label, value)| field(label, value)).collect();
    let row = |version: &Value| ["function", "version", "fleet", "count", "since"].map(|member| cell(&version[member]));
    let rows: Vec<_> = fleets["versions"].as_array().into_iter().flatten().map(row).collect();
    let versions = table(["FUNCTION", "VERSION", "FLEET", "REQUESTS", "SINCE"], &rows);
    let row = |fleet: &Value| {
        let instances = fleet["instances"].as_array().into_iter().flatten();
        let names: Vec<_> = instances.map(cell).collect();
        [cell(&fleet["fleet"]), cell(&fleet["from"]), names.join(" ")]
    };
    let rows: Vec<_> = fleets["fleets"].as_array().into_iter().flatten().map(row).collect();
    let bands = table(["FLEET", "REQUESTS FROM", "INSTANCES"], &rows);
    let row = |acquired: &Value| {
        ["at", "function", "version", "count", "fleet", "instance", "spilled"].map(|member| cell(&acquired[member]))
    };
    let rows: Vec<_> = fleets["acquired"].as_array().into_iter().flatten().map(row).collect();
    let acquired = table(
        [
            "ACQUIRED", "FUNCTION", "VERSION", "REQUESTS", "FLEET", "INSTANCE", "SPILLED",
        ],
        &rows,
    );
    format!("{criteria}\n{bands}\n{versions}\n{acquired}")
}

fn listed(instances: &[Value]) -> String {
    const SHOWN: [&str; 10] = [
        "name",
        "kind",
        "fleet",
        "state",
        "role",
        "address",
        "sandboxes",
        "waiting",
        "memory_mib",
        "server",
    ];
    let rows: Vec<_> = instances
        .iter()
        .map(|instance| SHOWN.map(|member| cell(&instance[member])))
        .collect();
    table(
        [
            "NAME",
            "KIND",
            "FLEET",
            "STATE",
            "ROLE",
            "ADDRESS",
            "SANDBOXES",
            "WAITING",
            "MIB",
            "SERVER",
        ],
        &rows,
    )
}

fn shown(instance: &Value) -> String {
    let fields = [
        ("name", "name"),
        ("state", "state"),
        ("held", "held"),
        ("error", "error"),
        ("kind", "kind"),
        ("fleet", "fleet"),
        ("runs as", "detail"),
        ("doing", "progress"),
        ("role", "role"),
        ("server", "server"),
        ("replaces", "replaces"),
        ("address", "address"),
        ("memory MiB", "memory_mib"),
        ("held MiB", "held_mib"),
        ("used bytes", "used_bytes"),
        ("processor ms", "used_cpu_ms"),
        ("sandboxes", "sandboxes"),
        ("waiting", "waiting"),
        ("scheduled", "scheduled"),
        ("draining", "draining"),
        ("revision", "revision"),
        ("since", "since"),
    ];
    let fields = fields.iter().map(|(label, member)| field(label, &instance[*member]));
    let more = [ports(&instance["ports"]), machine(&instance["machine"])];
    fields.chain(more.into_iter().flatten()).collect()
}

/// Where its services are reached: `8080 (web) 9090 (admin)`, say.
fn ports(ports: &Value) -> Option<String> {
    let text = |port: &Value| format!("{} ({})", cell(&port["port"]), cell(&port["service"]));
    let texts: Vec<_> = ports.as_array()?.iter().map(text).collect();
    Some(field("ports", &texts.join(" ").into()))
}

/// How a virtual machine runs.
fn machine(machine: &Value) -> Option<String> {
    let fields = [
        ("machine", "kind"),
        ("processors", "processors"),
        ("accelerator", "accelerator"),
        ("not KVM", "why_not_kvm"),
        ("snapshot", "golden_snapshot"),
        ("kept", "golden_was_kept"),
        ("ready ms", "ready_ms"),
    ];
    let shown = || fields.iter().map(|(label, member)| field(label, &machine[*member]));
    machine.is_object().then(|| shown().collect())
}

/// The sandboxes on it.
fn there(inventory: &Value) -> String {
    let row =
        |sandbox: &Value| ["id", "function", "version", "memory_mib", "code"].map(|member| cell(&sandbox[member]));
    let rows: Vec<_> = inventory["sandboxes"]
        .as_array()
        .into_iter()
        .flatten()
        .map(row)
        .collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!(
            "\n{}",
            table(["SANDBOX", "FUNCTION", "VERSION", "MEMORY MiB", "CODE"], &rows)
        ),
    }
}

fn happened(history: &Value) -> String {
    let row = |event: &Value| ["number", "at", "what", "server", "detail"].map(|member| cell(&event[member]));
    let rows: Vec<_> = history["events"].as_array().into_iter().flatten().map(row).collect();
    format!("\n{}", table(["N", "AT", "WHAT", "SERVER", "DETAIL"], &rows))
}
