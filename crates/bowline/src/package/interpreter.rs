//! The interpreters of this host, and the runtimes that run on them.

use std::process::Command;

use anyhow::bail;

use super::Missing;

/// `python3.N` of the `python3` on the path.
pub fn python() -> anyhow::Result<String> {
    let version = ask("python3", &["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])?;
    Ok(format!("python{version}"))
}

/// `nodejsN.x` of the `node` on the path.
pub fn node() -> anyhow::Result<String> {
    let version = ask("node", &["--version"])?;
    let major = version.trim_start_matches('v').split('.').next().unwrap_or_default();
    if major.parse::<u8>().is_err() {
        bail!("`node --version` says `{version}`, which is no version; name the runtime with --runtime");
    }
    Ok(format!("nodejs{major}.x"))
}

fn ask(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| {
        Missing(format!(
            "cannot run `{program}` to learn the runtime ({error}); install it, or name the runtime with --runtime"
        ))
    })?;
    if !output.status.success() {
        bail!(
            "`{program}` failed ({}); name the runtime with --runtime",
            output.status
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
