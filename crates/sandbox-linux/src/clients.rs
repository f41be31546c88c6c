//! The runtime clients that the binary carries, laid out where a cell can see them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where a sandbox sees the clients.
pub(crate) const RUNTIME_DIR: &str = "/var/runtime";
/// The Python client, as a sandbox sees it.
pub(crate) const PYTHON_CLIENT: &str = "/var/runtime/bowline_client.py";
/// The Node.js client, as a sandbox sees it.
pub(crate) const NODE_CLIENT: &str = "/var/runtime/bowline_client.mjs";

const FILES: [(&str, &str); 2] = [
    ("bowline_client.py", include_str!("clients/bowline_client.py")),
    ("bowline_client.mjs", include_str!("clients/bowline_client.mjs")),
];

/// Writes the clients into a folder under `state_dir` and returns it. What lies there already is replaced
/// file by file, so that a cell that still runs never sees half a file.
pub(crate) fn lay_out(state_dir: &Path) -> io::Result<PathBuf> {
    let folder = state_dir.join("runtime");
    fs::create_dir_all(&folder)?;
    // The guest is nobody on the host: it reads as others do.
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    for (name, text) in FILES {
        let draft = folder.join(format!(".{name}.new"));
        fs::write(&draft, text)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o644))?;
        fs::rename(&draft, folder.join(name))?;
    }
    Ok(folder)
}
