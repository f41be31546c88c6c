//! How versions that are container images are started.

use std::collections::BTreeMap;

use bowline_sandbox::{CreateError, FunctionError, ImageSpec, MOUNTS_DIR, PrepareError, RUNTIME_API, VersionSpec};

use super::{Recipe, os_strings};
use crate::cell::{CellPlan, Command, Start};

/// What a guest is given where its image says nothing.
const DEFAULTS: [(&str, &str); 3] = [
    ("HOME", "/tmp"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("TZ", ":UTC"),
];

/// Nothing waits for an image: its root is made with the cell.
pub(super) fn recipe(version: &VersionSpec, image: &ImageSpec) -> Recipe {
    let environment = environment(version, image);
    Recipe {
        name: "image".to_owned(),
        plan: CellPlan {
            binds: Vec::new(),
            image: Some(version.code.path.clone()),
            start: Start::Later,
        },
        program: Command {
            argv: image.words.iter().map(Into::into).collect(),
            env: os_strings(&environment),
            cwd: image.working_directory.clone().into(),
        },
        fresh: true,
        environment,
    }
}

fn environment(version: &VersionSpec, image: &ImageSpec) -> BTreeMap<String, String> {
    let mut variables: BTreeMap<String, String> =
        DEFAULTS.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let own = image.environment.iter();
    variables.extend(own.map(|(name, value)| (name.clone(), value.clone())));
    variables.extend(version.lambda_environment());
    variables.insert("AWS_LAMBDA_RUNTIME_API".to_owned(), RUNTIME_API.to_owned());
    variables
}

/// Whether there is anything to start, in a folder that can be.
pub(super) fn check(image: &ImageSpec) -> Result<(), PrepareError> {
    let invalid = |text: String| Err(PrepareError::InvalidCode(text));
    if image.words.first().is_none_or(String::is_empty) {
        return invalid("the image has neither an entry point nor a command: give one of them".to_owned());
    }
    if !image.working_directory.starts_with('/') {
        let folder = &image.working_directory;
        return invalid(format!("the working directory `{folder}` does not begin with `/`"));
    }
    let texts = image.words.iter().chain([&image.working_directory]);
    let variables = image.environment.iter().flat_map(|(name, value)| [name, value]);
    if texts.chain(variables).any(|text| text.contains('\0')) {
        return invalid("the image's entry point, command or environment holds a zero byte".to_owned());
    }
    Ok(())
}

/// Whether an image has the folder in which it is to see what it shares.
pub(super) fn check_mounts(version: &VersionSpec) -> Result<(), CreateError> {
    let is_missing = || {
        let folder = version.code.path.join(MOUNTS_DIR.trim_start_matches('/'));
        version.image.is_some() && !folder.is_dir()
    };
    if version.mounts.is_empty() || !is_missing() {
        return Ok(());
    }
    let text = format!("Error: the image has no folder `{MOUNTS_DIR}`, in which shared state is mounted: add it");
    Err(CreateError::Init(FunctionError::new("Runtime.InvalidMount", &text)))
}
