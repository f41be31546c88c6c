//! What a sandbox must know of the version it runs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::limits::INIT_SECONDS_MAX;
use bowline_foundation::units::Mebibytes;
use serde::{Deserialize, Serialize};

use crate::image::ImageSpec;
use crate::logging::{LogFormat, Logging};
use crate::share::Mount;

/// The kind of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxKind {
    /// A WebAssembly instance inside the node.
    Wasm,
    /// A Linux process tree with its own namespaces.
    Linux,
}

/// A Lambda runtime identifier that some backend can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Runtime {
    /// `provided.al2023`: the package brings `bootstrap` or `bootstrap.wasm`.
    ProvidedAl2023,
    /// `provided.al2`: the same, the older name.
    ProvidedAl2,
    /// `python3.N`.
    Python {
        /// The N of `python3.N`.
        minor: u8,
    },
    /// `nodejsN.x`.
    NodeJs {
        /// The N of `nodejsN.x`.
        major: u8,
    },
}

/// A runtime identifier that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown runtime `{0}`")]
pub struct UnknownRuntime(pub String);

impl Runtime {
    /// The first Python that functions run on.
    pub const PYTHON_MINOR_MIN: u8 = 9;
    /// The first Node.js that functions run on.
    pub const NODE_MAJOR_MIN: u8 = 18;

    /// Whether it is too old to be served, whatever is installed.
    pub fn is_too_old(self) -> bool {
        match self {
            Self::ProvidedAl2023 | Self::ProvidedAl2 => false,
            Self::Python { minor } => minor < Self::PYTHON_MINOR_MIN,
            Self::NodeJs { major } => major < Self::NODE_MAJOR_MIN,
        }
    }
}

impl FromStr for Runtime {
    type Err = UnknownRuntime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownRuntime(text.to_owned());
        match text {
            "provided.al2023" => return Ok(Self::ProvidedAl2023),
            "provided.al2" => return Ok(Self::ProvidedAl2),
            _ => {}
        }
        if let Some(minor) = text.strip_prefix("python3.") {
            return canonical_number(minor)
                .map(|minor| Self::Python { minor })
                .ok_or_else(unknown);
        }
        let major = text.strip_prefix("nodejs").and_then(|rest| rest.strip_suffix(".x"));
        major
            .and_then(canonical_number)
            .map(|major| Self::NodeJs { major })
            .ok_or_else(unknown)
    }
}

fn canonical_number(text: &str) -> Option<u8> {
    let number = text.parse::<u8>().ok()?;
    (number.to_string() == text).then_some(number)
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ProvidedAl2023 => f.write_str("provided.al2023"),
            Self::ProvidedAl2 => f.write_str("provided.al2"),
            Self::Python { minor } => write!(f, "python3.{minor}"),
            Self::NodeJs { major } => write!(f, "nodejs{major}.x"),
        }
    }
}

impl TryFrom<String> for Runtime {
    type Error = UnknownRuntime;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Runtime> for String {
    fn from(runtime: Runtime) -> Self {
        runtime.to_string()
    }
}

/// Code that lies unpacked and read-only on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CodeDir {
    /// The digest of the deployment package the code came from.
    pub digest: Digest,
    /// The folder. Code becomes `/var/task`; a bare `.wasm` lies in it as `bootstrap.wasm`; an image becomes `/`.
    pub path: PathBuf,
}

/// What a sandbox has of the processors, in thousandths of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorShare {
    /// By which it competes with its neighbours.
    pub share_millis: u32,
    /// What it never exceeds.
    pub quota_millis: u32,
}

impl ProcessorShare {
    /// It competes by all that it may have.
    pub fn of(millis: u32) -> Self {
        Self {
            share_millis: millis,
            quota_millis: millis,
        }
    }
}

/// Everything that a sandbox needs to run one version; immutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionSpec {
    /// The account that owns the function.
    pub account: AccountId,
    /// The region the function lies in, for the guest's environment.
    pub region: String,
    /// The function's bare name.
    pub function: String,
    /// `$LATEST` or a version number.
    pub version: String,
    /// The runtime; that of an image is `provided.al2023`, for it brings its own.
    pub runtime: Runtime,
    /// The handler as given, `app.handler` say; may be empty for `provided.*`.
    pub handler: String,
    /// The code.
    pub code: CodeDir,
    /// What the version's layers hold, laid over one another in order; becomes `/opt`. Its digest names the
    /// combination.
    pub layers: Option<CodeDir>,
    /// What starts, if the code is a container image.
    pub image: Option<ImageSpec>,
    /// Which kind of sandbox runs it.
    pub kind: SandboxKind,
    /// The memory limit.
    pub memory: Mebibytes,
    /// The size of `/tmp`.
    pub ephemeral_storage: Mebibytes,
    /// The longest time an invocation may take.
    pub timeout: Duration,
    /// The owner's environment variables.
    pub environment: BTreeMap<String, String>,
    /// How its log is written.
    pub logging: Logging,
    /// Folders that its sandboxes share with others.
    pub mounts: Vec<Mount>,
    /// What a sandbox has of the processors; without it that follows from its memory alone.
    pub processors: Option<ProcessorShare>,
}

impl VersionSpec {
    /// How long a sandbox may take to initialise. The service begins anew after ten seconds, with the time of an
    /// invocation; here the initialisation goes on.
    pub fn init_limit(&self) -> Duration {
        Duration::from_secs(INIT_SECONDS_MAX.into()).max(self.timeout)
    }

    /// The environment every Lambda runtime promises, with the owner's variables; what depends on the
    /// sandbox's kind (`AWS_LAMBDA_RUNTIME_API`, `PATH` and the like) is added by the backend.
    pub fn lambda_environment(&self) -> BTreeMap<String, String> {
        let mut variables = self.environment.clone();
        let group = self.logging.group.clone();
        let format = match self.logging.format {
            LogFormat::Text => "Text",
            LogFormat::Json { .. } => "JSON",
        };
        let fixed = [
            ("AWS_LAMBDA_FUNCTION_NAME", self.function.clone()),
            ("AWS_LAMBDA_FUNCTION_VERSION", self.version.clone()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", self.memory.0.to_string()),
            (
                "AWS_LAMBDA_LOG_GROUP_NAME",
                group.unwrap_or_else(|| format!("/aws/lambda/{}", self.function)),
            ),
            ("AWS_LAMBDA_LOG_STREAM_NAME", self.version.clone()),
            ("AWS_LAMBDA_LOG_FORMAT", format.to_owned()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_DEFAULT_REGION", self.region.clone()),
        ];
        variables.extend(fixed.map(|(name, value)| (name.to_owned(), value)));
        if let LogFormat::Json { application, .. } = self.logging.format {
            variables.insert("AWS_LAMBDA_LOG_LEVEL".to_owned(), application.name().to_owned());
        }
        // An image is told by its command what to run.
        if self.image.is_none() {
            variables.insert("_HANDLER".to_owned(), self.handler.clone());
        }
        // The platform's own too, but not the same for every sandbox of a version.
        variables
            .entry("AWS_LAMBDA_INITIALIZATION_TYPE".to_owned())
            .or_insert_with(|| "on-demand".to_owned());
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::{ApplicationLogLevel, SystemLogLevel};

    #[test]
    fn guests_are_told_how_to_log() {
        let told = |logging| {
            let version = VersionSpec {
                account: AccountId::default_account(),
                region: "eu-central-1".to_owned(),
                function: "f".to_owned(),
                version: "7".to_owned(),
                runtime: Runtime::ProvidedAl2023,
                handler: String::new(),
                code: CodeDir {
                    digest: Digest::of(b""),
                    path: PathBuf::new(),
                },
                layers: None,
                image: None,
                kind: SandboxKind::Wasm,
                memory: Mebibytes(128),
                ephemeral_storage: Mebibytes(512),
                timeout: Duration::from_secs(3),
                environment: BTreeMap::from([("AWS_LAMBDA_LOG_FORMAT".to_owned(), "mine".to_owned())]),
                logging,
                mounts: Vec::new(),
                processors: None,
            };
            let mut variables = version.lambda_environment();
            ["FORMAT", "LEVEL", "GROUP_NAME"].map(|name| variables.remove(&format!("AWS_LAMBDA_LOG_{name}")))
        };
        let texts = |texts: [Option<&str>; 3]| texts.map(|text| text.map(str::to_owned));
        assert_eq!(
            told(Logging::default()),
            texts([Some("Text"), None, Some("/aws/lambda/f")])
        );
        let json = |application| LogFormat::Json {
            application,
            system: SystemLogLevel::Warn,
        };
        for (application, name) in [
            (ApplicationLogLevel::Trace, "TRACE"),
            (ApplicationLogLevel::Info, "INFO"),
            (ApplicationLogLevel::Fatal, "FATAL"),
        ] {
            let logging = Logging {
                format: json(application),
                group: Some("/mine".to_owned()),
            };
            assert_eq!(told(logging), texts([Some("JSON"), Some(name), Some("/mine")]));
        }
    }

    #[test]
    fn runtimes_survive_their_text_form() {
        for text in ["provided.al2023", "provided.al2", "python3.11", "nodejs20.x"] {
            assert_eq!(
                text.parse::<Runtime>().map(|runtime| runtime.to_string()),
                Ok(text.to_owned())
            );
        }
        for bad in [
            "",
            "python2.7",
            "python3.",
            "python3.011",
            "nodejs20",
            "nodejs.x",
            "ruby3.3",
            "provided",
        ] {
            assert!(bad.parse::<Runtime>().is_err(), "{bad}");
        }
    }
}
