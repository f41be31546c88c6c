//! The script that a child works through, and the model of what it must leave.

use std::collections::{BTreeMap, BTreeSet};

use bowline_foundation::digest::Digest;
use bowline_functions::Handle;
use bowline_functions::error::Error;
use bowline_functions::model::attached::{PutUrl, UrlAuth};
use bowline_functions::model::{
    CreateAlias, CreateFunction, PageRequest, PublishVersion, Settings, UpdateAlias, UpdateCode, UpdateConfiguration,
};
use bowline_functions::name::{FunctionRef, Version};
use serde_json::json;

use crate::world::{World, caller, creation, package, target, update};

/// One mutation of function `f` or `g`.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Create {
        name: &'static str,
        code: &'static str,
        publish: bool,
    },
    UpdateCode {
        name: &'static str,
        code: &'static str,
        publish: bool,
    },
    Describe {
        name: &'static str,
        text: &'static str,
    },
    Publish {
        name: &'static str,
    },
    Alias {
        name: &'static str,
        version: u64,
    },
    MoveAlias {
        name: &'static str,
        version: u64,
    },
    DeleteAlias {
        name: &'static str,
    },
    DeleteVersion {
        name: &'static str,
        version: u64,
    },
    /// Gives the alias `live` a URL.
    Url {
        name: &'static str,
    },
    DeleteUrl {
        name: &'static str,
    },
    Delete {
        name: &'static str,
    },
}

use Step::{
    Alias, Create, Delete, DeleteAlias, DeleteUrl, DeleteVersion, Describe, MoveAlias, Publish, UpdateCode as Update,
    Url,
};

pub const SCRIPT: &[Step] = &[
    Create {
        name: "f",
        code: "f1",
        publish: false,
    },
    Publish { name: "f" },
    Update {
        name: "f",
        code: "f2",
        publish: false,
    },
    Describe {
        name: "f",
        text: "second",
    },
    Publish { name: "f" },
    Create {
        name: "g",
        code: "g1",
        publish: true,
    },
    Alias { name: "f", version: 1 },
    Url { name: "f" },
    MoveAlias { name: "f", version: 2 },
    DeleteVersion { name: "f", version: 1 },
    Alias { name: "g", version: 1 },
    Url { name: "g" },
    DeleteUrl { name: "g" },
    Url { name: "g" },
    Update {
        name: "g",
        code: "f2",
        publish: true,
    },
    MoveAlias { name: "g", version: 2 },
    DeleteVersion { name: "g", version: 1 },
    Describe {
        name: "g",
        text: "changed",
    },
    DeleteAlias { name: "f" },
    Delete { name: "f" },
    Create {
        name: "f",
        code: "f3",
        publish: true,
    },
    DeleteAlias { name: "g" },
    Delete { name: "g" },
    Update {
        name: "f",
        code: "f4",
        publish: false,
    },
];

impl Step {
    /// Does the step, and waits for what it leaves to the background.
    pub async fn perform(self, handle: &Handle) {
        let (caller, name) = (caller(), self.name());
        let target = target(name);
        match self {
            Create { code, publish, .. } => {
                let create = CreateFunction {
                    publish,
                    ..creation(name, code)
                };
                handle.create_function(&caller, create).await.map(drop)
            }
            Update { code, publish, .. } => {
                let update = UpdateCode {
                    publish,
                    ..update(code)
                };
                handle.update_code(&caller, &target, update).await.map(drop)
            }
            Describe { text, .. } => {
                let settings = Settings {
                    description: Some(text.to_owned()),
                    ..Settings::default()
                };
                let update = UpdateConfiguration {
                    settings,
                    ..UpdateConfiguration::default()
                };
                handle.update_configuration(&caller, &target, update).await.map(drop)
            }
            Publish { .. } => handle
                .publish_version(&caller, &target, PublishVersion::default())
                .await
                .map(drop),
            Alias { version, .. } => {
                let create = CreateAlias {
                    name: "live".parse().unwrap(),
                    version: Version::Number(version),
                    description: String::new(),
                    routing: None,
                };
                handle.create_alias(&caller, &target, create).await.map(drop)
            }
            MoveAlias { version, .. } => {
                let update = UpdateAlias {
                    version: Some(Version::Number(version)),
                    ..UpdateAlias::default()
                };
                handle
                    .update_alias(&caller, &target, &"live".parse().unwrap(), update)
                    .await
                    .map(drop)
            }
            DeleteAlias { .. } => handle.delete_alias(&caller, &target, &"live".parse().unwrap()).await,
            DeleteVersion { version, .. } => {
                let target = crate::world::target(&format!("{name}:{version}"));
                handle.delete_function(&caller, &target).await
            }
            Url { .. } => open_url(handle, name).await,
            DeleteUrl { .. } => handle.delete_url(&caller, &aliased(name)).await,
            Delete { .. } => handle.delete_function(&caller, &target).await,
        }
        .unwrap_or_else(|error| panic!("{self:?}: {error:?}"));
        if !matches!(self, Delete { .. }) {
            handle.settled(&target).await.unwrap();
        }
    }

    fn name(self) -> &'static str {
        match self {
            Create { name, .. }
            | Update { name, .. }
            | Describe { name, .. }
            | Publish { name }
            | Alias { name, .. }
            | MoveAlias { name, .. }
            | DeleteAlias { name }
            | DeleteVersion { name, .. }
            | Url { name }
            | DeleteUrl { name }
            | Delete { name } => name,
        }
    }

    /// The audit row of the step: its subject and action.
    fn row(self) -> (String, &'static str) {
        let action = match self {
            Create { .. } => "CreateFunction",
            Update { .. } => "UpdateFunctionCode",
            Describe { .. } => "UpdateFunctionConfiguration",
            Publish { .. } => "PublishVersion",
            Alias { .. } => "CreateAlias",
            MoveAlias { .. } => "UpdateAlias",
            DeleteAlias { .. } => "DeleteAlias",
            Url { .. } => "CreateFunctionUrlConfig",
            DeleteUrl { .. } => "DeleteFunctionUrlConfig",
            DeleteVersion { .. } | Delete { .. } => "DeleteFunction",
        };
        let qualifier = match self {
            DeleteVersion { version, .. } => format!(":{version}"),
            // The script publishes by itself only the first and the second version of `f`.
            Publish { .. } => ":*".to_owned(),
            Alias { .. } | MoveAlias { .. } | DeleteAlias { .. } | Url { .. } | DeleteUrl { .. } => ":live".to_owned(),
            _ => String::new(),
        };
        (format!("000000000000/{}{qualifier}", self.name()), action)
    }
}

/// A function's code (the text in its package) and description, its versions' code, its alias's version and URL.
#[derive(Clone, Debug, Default, PartialEq)]
struct Function {
    code: String,
    description: String,
    versions: BTreeMap<u64, String>,
    alias: Option<u64>,
    has_url: bool,
}

/// Everything the store should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    functions: BTreeMap<String, Function>,
    rows: BTreeMap<String, Vec<String>>,
}

impl Model {
    /// What the first steps of the script leave.
    pub fn after(steps: usize) -> Self {
        let mut model = Self::default();
        let mut next = BTreeMap::new();
        for step in &SCRIPT[..steps] {
            model.apply(*step, next.entry(step.name()).or_insert(1));
        }
        model
    }

    fn apply(&mut self, step: Step, next_version: &mut u64) {
        let (subject, action) = step.row();
        let subject = subject.replace('*', &next_version.to_string());
        self.rows.entry(subject).or_default().push(action.to_owned());
        if let Delete { name } = step {
            self.functions.remove(name);
            return;
        }
        let function = self.functions.entry(step.name().to_owned()).or_default();
        match step {
            Create { code, .. } | Update { code, .. } => function.code = code.to_owned(),
            Describe { text, .. } => function.description = text.to_owned(),
            Alias { version, .. } | MoveAlias { version, .. } => function.alias = Some(version),
            DeleteAlias { .. } => (function.alias, function.has_url) = (None, false),
            Url { .. } | DeleteUrl { .. } => function.has_url = matches!(step, Url { .. }),
            DeleteVersion { version, .. } => drop(function.versions.remove(&version)),
            Publish { .. } | Delete { .. } => {}
        }
        if matches!(
            step,
            Publish { .. } | Create { publish: true, .. } | Update { publish: true, .. }
        ) {
            function.versions.insert(*next_version, function.code.clone());
            *next_version += 1;
        }
    }

    /// What a service shows.
    pub async fn of(world: &World) -> Self {
        let mut model = Self::default();
        let shown = world
            .handle
            .list_functions(&caller(), false, &PageRequest::default())
            .unwrap();
        for latest in shown.items {
            let name = latest.name.to_string();
            let target = target(&name);
            let mut function = Function {
                code: code_of(world, &name).await,
                description: latest.description,
                ..Function::default()
            };
            for version in world
                .handle
                .list_versions(&target, &PageRequest::default())
                .unwrap()
                .items
            {
                if let Version::Number(number) = version.version {
                    function
                        .versions
                        .insert(number, code_of(world, &format!("{name}:{number}")).await);
                }
            }
            let aliases = world
                .handle
                .list_aliases(&target, None, &PageRequest::default())
                .unwrap()
                .items;
            function.alias = aliases.first().map(|alias| match alias.version {
                Version::Number(number) => number,
                Version::Latest => 0,
            });
            function.has_url = world.handle.get_url(&aliased(&name)).is_ok();
            model.functions.insert(name, function);
        }
        for subject in subjects() {
            let mut rows = world.handle.audited(&subject).await.unwrap();
            rows.retain(|action| action != "Settle");
            if !rows.is_empty() {
                model.rows.insert(subject, rows);
            }
        }
        model
    }

    /// Every version runs the code that its record names.
    pub async fn check_code(&self, world: &World) {
        for (name, function) in &self.functions {
            let settled = world.handle.settled(&target(name)).await.unwrap();
            assert_eq!(settled.state, bowline_functions::model::State::Active);
            assert_eq!(world.answer(name, json!({})).await["code"], function.code.as_str());
            for (number, code) in &function.versions {
                let version = format!("{name}:{number}");
                assert_eq!(world.answer(&version, json!({})).await["code"], code.as_str());
            }
        }
    }
}

fn aliased(name: &str) -> FunctionRef {
    target(&format!("{name}:live"))
}

/// Gives the alias a URL.
async fn open_url(handle: &Handle, name: &str) -> Result<(), Error> {
    let open = PutUrl {
        auth: Some(UrlAuth::None),
        ..PutUrl::default()
    };
    handle.create_url(&caller(), &aliased(name), open).await.map(drop)
}

/// The text in the package that is stored for a version.
async fn code_of(world: &World, name: &str) -> String {
    let stored = world.handle.read_code(&target(name)).await.unwrap();
    let shown = world.handle.get_function(&target(name)).unwrap().configuration;
    assert_eq!(Digest::of(&stored), shown.code.digest);
    let texts = ["f1", "f2", "f3", "f4", "g1"];
    let known = texts.into_iter().find(|text| package(text) == stored);
    known.expect("the package is one of the script's").to_owned()
}

fn subjects() -> BTreeSet<String> {
    let all = Model::after(SCRIPT.len());
    all.rows.into_keys().collect()
}

/// The packages that functions name.
pub fn digests(world: &World) -> BTreeSet<Digest> {
    let shown = world
        .handle
        .list_functions(&caller(), true, &PageRequest::default())
        .unwrap();
    shown
        .items
        .iter()
        .map(|configuration| configuration.code.digest)
        .collect()
}
