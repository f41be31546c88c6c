//! The script that a child works through, and the model of what it must leave.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use bowline_foundation::digest::Digest;
use bowline_functions::Handle;
use bowline_functions::error::Error;
use bowline_functions::model::attached::{PutUrl, UrlAuth};
use bowline_functions::model::image::{PushImage, StoredImage};
use bowline_functions::model::layers::{
    LayerFilter, LayerPrincipal, LayerStatement, LayerVersion, PolicyTarget, PublishLayer,
};
use bowline_functions::model::{
    CreateAlias, CreateFunction, PageRequest, PublishVersion, Settings, UpdateAlias, UpdateCode, UpdateConfiguration,
};
use bowline_functions::name::image::Tag;
use bowline_functions::name::layer::LayerRef;
use bowline_functions::name::{FunctionRef, Version};
use bowline_oci::sample::{LayerSample, Packing, Sample};
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
    /// The function's layer is this version of the layer `knots`.
    UseLayer {
        name: &'static str,
        version: u64,
    },
    Layer(LayerStep),
    Image(ImageStep),
}

/// One mutation of the image `knot:latest`.
#[derive(Clone, Copy, Debug)]
pub enum ImageStep {
    /// Gives the tag to an image with a file `code` of this text.
    Push(&'static str),
    Delete,
}

/// One mutation of the layer `knots`.
#[derive(Clone, Copy, Debug)]
pub enum LayerStep {
    /// Publishes the next version, with a file `code` of this text.
    Publish(&'static str),
    Permit(u64),
    Forbid(u64),
    Delete(u64),
}

use Step::{
    Alias, Create, Delete, DeleteAlias, DeleteUrl, DeleteVersion, Describe, Image, Layer, MoveAlias, Publish,
    UpdateCode as Update, Url, UseLayer,
};

pub const SCRIPT: &[Step] = &[
    Create {
        name: "f",
        code: "f1",
        publish: false,
    },
    Image(ImageStep::Push("i1")),
    Layer(LayerStep::Publish("l1")),
    Layer(LayerStep::Permit(1)),
    UseLayer { name: "f", version: 1 },
    Publish { name: "f" },
    Layer(LayerStep::Publish("l2")),
    Image(ImageStep::Push("i2")),
    Image(ImageStep::Delete),
    Layer(LayerStep::Forbid(1)),
    Layer(LayerStep::Delete(1)),
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
    Image(ImageStep::Push("i2")),
    Delete { name: "f" },
    Create {
        name: "f",
        code: "f3",
        publish: true,
    },
    DeleteAlias { name: "g" },
    Delete { name: "g" },
    UseLayer { name: "f", version: 2 },
    Update {
        name: "f",
        code: "f4",
        publish: false,
    },
];

impl Step {
    /// Does the step, and waits for what it leaves to the background.
    pub async fn perform(self, handle: &Handle) {
        if let Layer(step) = self {
            return step.perform(handle).await;
        }
        if let Image(step) = self {
            return step.perform(handle).await;
        }
        let (caller, name) = (caller(), self.name());
        let target = target(name);
        match self {
            Layer(_) | Image(_) => unreachable!("done above"),
            UseLayer { version, .. } => use_layer(handle, &target, version).await,
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
            Describe { text, .. } => describe(handle, &target, text).await,
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
            | UseLayer { name, .. }
            | Url { name }
            | DeleteUrl { name }
            | Delete { name } => name,
            Layer(_) => "knots",
            Image(_) => "knot",
        }
    }

    /// The audit row of the step: its subject and action.
    fn row(self) -> (String, &'static str) {
        let action = match self {
            Create { .. } => "CreateFunction",
            Update { .. } => "UpdateFunctionCode",
            Describe { .. } | UseLayer { .. } => "UpdateFunctionConfiguration",
            Publish { .. } => "PublishVersion",
            Alias { .. } => "CreateAlias",
            MoveAlias { .. } => "UpdateAlias",
            DeleteAlias { .. } => "DeleteAlias",
            Url { .. } => "CreateFunctionUrlConfig",
            DeleteUrl { .. } => "DeleteFunctionUrlConfig",
            DeleteVersion { .. } | Delete { .. } => "DeleteFunction",
            Layer(LayerStep::Publish(_)) => "PublishLayerVersion",
            Layer(LayerStep::Permit(_)) => "AddLayerVersionPermission",
            Layer(LayerStep::Forbid(_)) => "RemoveLayerVersionPermission",
            Layer(LayerStep::Delete(_)) => "DeleteLayerVersion",
            Image(ImageStep::Push(_)) => "PushImage",
            Image(ImageStep::Delete) => "DeleteImage",
        };
        let qualifier = match self {
            Layer(LayerStep::Publish(_)) => return ("000000000000/layer:knots:*".to_owned(), action),
            Layer(LayerStep::Permit(version) | LayerStep::Forbid(version) | LayerStep::Delete(version)) => {
                return (format!("000000000000/layer:knots:{version}"), action);
            }
            Image(_) => return ("000000000000/image/knot:latest".to_owned(), action),
            DeleteVersion { version, .. } => format!(":{version}"),
            // The script publishes by itself only the first and the second version of `f`.
            Publish { .. } => ":*".to_owned(),
            Alias { .. } | MoveAlias { .. } | DeleteAlias { .. } | Url { .. } | DeleteUrl { .. } => ":live".to_owned(),
            _ => String::new(),
        };
        (format!("000000000000/{}{qualifier}", self.name()), action)
    }
}

impl LayerStep {
    async fn perform(self, handle: &Handle) {
        let (caller, layer) = (caller(), knots());
        let target = |number| PolicyTarget {
            layer: knots(),
            number,
            revision_id: None,
        };
        match self {
            Self::Publish(text) => {
                let request = PublishLayer {
                    description: String::new(),
                    license: None,
                    runtimes: Vec::new(),
                    architectures: Vec::new(),
                    content: package(text),
                };
                handle.publish_layer(&caller, &layer, request).await.map(drop)
            }
            Self::Permit(version) => {
                let statement = LayerStatement {
                    id: "all".to_owned(),
                    principal: LayerPrincipal::Everybody,
                    organization: None,
                };
                handle
                    .add_layer_permission(&caller, target(version), statement)
                    .await
                    .map(drop)
            }
            Self::Forbid(version) => handle.remove_layer_permission(&caller, target(version), "all").await,
            Self::Delete(version) => handle.delete_layer_version(&caller, &layer, version).await,
        }
        .unwrap_or_else(|error| panic!("{self:?}: {error:?}"));
    }
}

impl ImageStep {
    async fn perform(self, handle: &Handle) {
        let (caller, name, tag) = (caller(), "knot".parse().unwrap(), Tag::default());
        match self {
            Self::Push(text) => {
                let archive = image(text).archive();
                let staging = handle.stage_image(&caller, &name);
                let mut staging = staging.await.unwrap();
                staging.archive.write_all(&archive).unwrap();
                let push = PushImage { name, tag, staging };
                handle.push_image(&caller, push).await.map(drop)
            }
            Self::Delete => handle.delete_image(&caller, &name, &tag).await,
        }
        .unwrap_or_else(|error| panic!("{self:?}: {error:?}"));
    }
}

/// An image of two layers, of which all images of the script share the first.
fn image(text: &str) -> Sample {
    let layer = |path: &str, text: &str| LayerSample::default().file(path, 0o644, text.as_bytes());
    let shared = Sample::default().layer(layer("shared", "shared"), Packing::Gzip);
    shared.layer(layer("code", text), Packing::Gzip)
}

fn images(world: &World) -> Vec<StoredImage> {
    let found = world.handle.list_images(&caller(), &PageRequest::default());
    found.unwrap().items
}

async fn describe(handle: &Handle, target: &FunctionRef, text: &str) -> Result<(), Error> {
    let settings = Settings {
        description: Some(text.to_owned()),
        ..Settings::default()
    };
    let update = UpdateConfiguration {
        settings,
        ..UpdateConfiguration::default()
    };
    handle.update_configuration(&caller(), target, update).await.map(drop)
}

async fn use_layer(handle: &Handle, target: &FunctionRef, version: u64) -> Result<(), Error> {
    let settings = Settings {
        layers: Some(vec![format!(
            "arn:aws:lambda:us-east-1:000000000000:layer:knots:{version}"
        )]),
        ..Settings::default()
    };
    let update = UpdateConfiguration {
        settings,
        ..UpdateConfiguration::default()
    };
    handle.update_configuration(&caller(), target, update).await.map(drop)
}

fn knots() -> LayerRef {
    LayerRef::parse("knots", &caller().account).unwrap()
}

/// A function's code (the text in its package) and description, its versions' code, its alias's version and URL.
#[derive(Clone, Debug, Default, PartialEq)]
struct Function {
    code: String,
    description: String,
    versions: BTreeMap<u64, String>,
    alias: Option<u64>,
    layer: Option<String>,
    has_url: bool,
}

/// Everything the store should hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    functions: BTreeMap<String, Function>,
    /// Versions of `knots`: the text in it, whether everybody may use it.
    layers: BTreeMap<u64, (String, bool)>,
    /// The image that has the tag.
    image: Option<Digest>,
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
        match step {
            Delete { name } => {
                self.functions.remove(name);
                return;
            }
            Layer(step) => return self.apply_to_layer(step, next_version),
            Image(ImageStep::Push(text)) => {
                self.image = Some(image(text).digest());
                return;
            }
            Image(ImageStep::Delete) => {
                self.image = None;
                return;
            }
            _ => {}
        }
        let function = self.functions.entry(step.name().to_owned()).or_default();
        match step {
            Create { code, .. } | Update { code, .. } => function.code = code.to_owned(),
            Describe { text, .. } => function.description = text.to_owned(),
            Alias { version, .. } | MoveAlias { version, .. } => function.alias = Some(version),
            DeleteAlias { .. } => (function.alias, function.has_url) = (None, false),
            Url { .. } | DeleteUrl { .. } => function.has_url = matches!(step, Url { .. }),
            DeleteVersion { version, .. } => drop(function.versions.remove(&version)),
            UseLayer { version, .. } => function.layer = Some(self.layers[&version].0.clone()),
            Publish { .. } | Delete { .. } | Layer(_) | Image(_) => {}
        }
        if matches!(
            step,
            Publish { .. } | Create { publish: true, .. } | Update { publish: true, .. }
        ) {
            function.versions.insert(*next_version, function.code.clone());
            *next_version += 1;
        }
    }

    fn apply_to_layer(&mut self, step: LayerStep, next_version: &mut u64) {
        match step {
            LayerStep::Publish(text) => {
                self.layers.insert(*next_version, (text.to_owned(), false));
                *next_version += 1;
            }
            LayerStep::Permit(version) => self.layers.entry(version).or_default().1 = true,
            LayerStep::Forbid(version) => self.layers.entry(version).or_default().1 = false,
            LayerStep::Delete(version) => drop(self.layers.remove(&version)),
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
            function.layer = latest.layers.first().map(|layer| {
                let known = TEXTS
                    .into_iter()
                    .find(|text| Digest::of(&package(text)) == layer.code.digest);
                known.expect("the layer is one of the script's").to_owned()
            });
            function.has_url = world.handle.get_url(&aliased(&name)).is_ok();
            model.functions.insert(name, function);
        }
        for version in layer_versions(world) {
            let stored = world
                .handle
                .read_layer(&caller(), &knots(), version.number)
                .await
                .unwrap();
            let permitted = !version.policy.statements.is_empty();
            model
                .layers
                .insert(version.number, (text_of(&stored).to_owned(), permitted));
        }
        model.image = images(world).first().map(|image| image.parts.digest);
        for subject in subjects() {
            let mut rows = world.handle.audited(&subject).await.unwrap();
            rows.retain(|action| action != "Settle");
            if !rows.is_empty() {
                model.rows.insert(subject, rows);
            }
        }
        model
    }

    /// Every version runs the code that its record names, and the image that is there lies unpacked.
    pub async fn check_code(&self, world: &World) {
        if let Some(digest) = self.image {
            let root = world.path().join("code").join(digest.to_string());
            assert!(root.join("shared").is_file() && root.join("etc/hosts").is_file());
        }
        for (name, function) in &self.functions {
            let settled = world.handle.settled(&target(name)).await.unwrap();
            assert_eq!(settled.state, bowline_functions::model::State::Active);
            let answer = world.answer(name, json!({})).await;
            assert_eq!(answer["code"], function.code.as_str());
            assert_eq!(answer["opt"]["code"].as_str(), function.layer.as_deref());
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
    text_of(&stored).to_owned()
}

const TEXTS: [&str; 7] = ["f1", "f2", "f3", "f4", "g1", "l1", "l2"];

fn text_of(stored: &[u8]) -> &'static str {
    let known = TEXTS.into_iter().find(|text| package(text) == stored);
    known.expect("the package is one of the script's")
}

fn layer_versions(world: &World) -> Vec<LayerVersion> {
    let page = PageRequest::default();
    let filter = LayerFilter::default();
    let found = world.handle.list_layer_versions(&caller(), &knots(), &filter, &page);
    found.unwrap().items
}

fn subjects() -> BTreeSet<String> {
    let all = Model::after(SCRIPT.len());
    all.rows.into_keys().collect()
}

/// The packages that functions and layers name.
pub fn digests(world: &World) -> BTreeSet<Digest> {
    let shown = world
        .handle
        .list_functions(&caller(), true, &PageRequest::default())
        .unwrap();
    let code = shown.items.iter().map(|configuration| configuration.code.digest);
    let used = shown.items.iter().flat_map(|configuration| &configuration.layers);
    let layers = layer_versions(world).into_iter().map(|version| version.code.digest);
    let images = images(world);
    let images = images.iter().flat_map(|image| image.parts.digests());
    let used = used.map(|layer| layer.code.digest);
    code.chain(used).chain(layers).chain(images).collect()
}
