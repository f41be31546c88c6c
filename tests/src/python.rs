//! The public clients, boto3 and the AWS CLI, in a virtual environment that is made once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::place;

const REQUIREMENTS: [(&str, &str); 2] = [
    ("tests/requirements.txt", include_str!("../requirements.txt")),
    (
        "tests/requirements-alone.txt",
        include_str!("../requirements-alone.txt"),
    ),
];

/// A virtual environment with the clients of `requirements.txt`.
pub struct Python {
    bin: PathBuf,
}

impl Python {
    /// The environment, made if it is not there; `None` where there is no Python to make it with.
    pub fn find() -> Result<Option<Self>> {
        if !place::is_installed("python3") {
            return Ok(None);
        }
        place::exclusively("venv", make).map(Some)
    }

    /// A command for one of the environment's programs, set up to speak to `endpoint`.
    pub fn command(&self, program: &str, endpoint: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env("AWS_ENDPOINT_URL", endpoint)
            .env("AWS_ACCESS_KEY_ID", "123456789012")
            .env("AWS_SECRET_ACCESS_KEY", "any")
            .env("AWS_DEFAULT_REGION", "us-east-1")
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_PAGER", "")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // `sitecustomize.py` there has every answer checked against the service's model.
            .env("PYTHONPATH", place::root().join("tests/python"))
            .current_dir(place::root().join("tests/python"));
        command
    }

    /// The system's own interpreter of the environment's version, else the environment's.
    pub fn system_interpreter(&self) -> String {
        let environment = self.bin.join("python");
        let version = Command::new(&environment)
            .args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
            .output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let system = version.map(|version| PathBuf::from(format!("/usr/bin/python{version}")));
        let found = system.ok().filter(|path| path.is_file());
        found.unwrap_or(environment).to_string_lossy().into_owned()
    }

    /// Where the environment's packages lie.
    pub fn libraries(&self) -> Result<PathBuf> {
        let script = "import sysconfig; print(sysconfig.get_path('purelib'))";
        let output = Command::new(self.bin.join("python")).args(["-c", script]).output()?;
        Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
    }

    /// Runs a script of `tests/python` against `endpoint`; its output is the test's.
    pub fn run_script(&self, script: &str, endpoint: &str, words: &[&str]) -> Result<()> {
        let output = self.command("python", endpoint).arg(script).args(words).output()?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("`{script}` ended with {}", output.status);
        }
        Ok(())
    }
}

fn make() -> Result<Python> {
    let folder = place::target().join("venv");
    let bin = folder.join("bin");
    let mark = folder.join("requirements.txt");
    let wanted = REQUIREMENTS.map(|(_, text)| text).concat();
    if std::fs::read_to_string(&mark).is_ok_and(|made| made == wanted) {
        return Ok(Python { bin });
    }
    let made = Command::new("python3")
        .args(["-m", "venv", "--clear"])
        .arg(&folder)
        .status()?;
    if !made.success() {
        bail!("`python3 -m venv` ended with {made}; on Debian it needs the package `python3-venv`");
    }
    let [whole, alone] = REQUIREMENTS.map(|(path, _)| place::root().join(path));
    install(&bin, &[], &whole)?;
    install(&bin, &["--no-deps"], &alone)?;
    std::fs::write(&mark, wanted).with_context(|| format!("cannot write `{}`", mark.display()))?;
    Ok(Python { bin })
}

fn install(bin: &Path, flags: &[&str], requirements: &Path) -> Result<()> {
    let mut pip = Command::new(bin.join("python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
        .args(flags)
        .arg("--requirement")
        .arg(requirements);
    let installed = pip.status()?;
    if !installed.success() {
        bail!("`pip install` ended with {installed}");
    }
    Ok(())
}
