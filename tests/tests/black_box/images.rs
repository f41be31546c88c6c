//! Container images through boto3, the command line, `skopeo` and real sandboxes.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, node, patience, place, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authority::Authority;

const SETTLE_MAX: Duration = Duration::from_secs(20);
const FUNCTIONS: &str = "/2015-03-31/functions";
/// What manifests and configurations of these tests are smaller than, and layers larger.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;

fn bowline(node: &Node, words: &[&str]) -> Result<Output> {
    let mut command = Command::new(node::binary()?);
    command.args(words).env("BOWLINE_ENDPOINT", node.endpoint());
    // The account of the images that the script uploads.
    let signed = [
        ("AWS_ACCESS_KEY_ID", "123456789012"),
        ("AWS_SECRET_ACCESS_KEY", "any"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ];
    Ok(command.envs(signed).output()?)
}

fn succeed(node: &Node, words: &[&str]) -> Result<Value> {
    let output = bowline(node, words)?;
    if !output.status.success() {
        bail!(
            "`bowline {}` ended with {}: {}",
            words.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    serde_json::from_slice(&output.stdout).context("JSON was asked for")
}

/// What of images lies in a node's data folder, by folder and name.
fn kept(node: &Node) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for folder in ["code", "blobs"] {
        for entry in std::fs::read_dir(node.data().join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') && !["cold", "checkpoints"].contains(&&*name) {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    Ok(found)
}

fn nothing_stays(node: &Node) -> Result<()> {
    let gone = patience::until(SETTLE_MAX, || kept(node).ok().filter(Vec::is_empty));
    ensure!(gone.is_some(), "left behind: {:?}", kept(node)?);
    let uploads = std::fs::read_dir(node.data())?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let uploads: Vec<_> = uploads.filter(|name| name.starts_with("upload")).collect();
    ensure!(uploads.is_empty(), "left behind: {uploads:?}");
    Ok(())
}

/// Deploys what lies at `path`, asks it something, and removes it again; gives the answer.
fn deployed(node: &Node, path: &Path) -> Result<Value> {
    let path = path.to_string_lossy();
    let configuration = succeed(node, &["deploy", &path, "--name", "Guest", "--memory", "256", "--json"])?;
    ensure!(configuration["PackageType"] == "Image", "{configuration}");
    ensure!(configuration["MemorySize"] == 256, "{configuration}");
    let again = succeed(node, &["deploy", &path, "--name", "Guest", "--json"])?;
    ensure!(
        again["RevisionId"] == configuration["RevisionId"],
        "left as it was: {again}"
    );
    let answer = succeed(node, &["invoke", "Guest", "-d", "{}"])?;
    succeed(node, &["functions", "rm", "Guest", "--json"])?;
    let listed = succeed(node, &["image", "ls", "--json"])?;
    ensure!(listed["images"][0]["ImageUri"] == "guest:latest", "{listed}");
    succeed(node, &["image", "rm", "guest", "--json"])?;
    Ok(answer)
}

#[test]
fn functions_come_as_images() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let mut node = Node::start()?;
    let folder = tempfile::tempdir()?;
    let program = Artifact::image_guest()?;
    let words = [program.to_string_lossy(), folder.path().to_string_lossy()];
    python.run_script("images.py", &node.endpoint(), &[&words[0], &words[1]])?;
    nothing_stays(&node)?;
    let layout = folder.path().join("layout");
    let answer = deployed(&node, &layout)?;
    ensure!(answer["words"][1] == "--from-the-image", "{answer}");
    nothing_stays(&node)?;
    let pushed = succeed(
        &node,
        &[
            "image",
            "push",
            &layout.to_string_lossy(),
            "--name",
            "kept:v1",
            "--json",
        ],
    )?;
    ensure!(pushed["ImageUri"] == "kept:v1", "{pushed}");
    ensure!(
        !kept(&node)?.is_empty(),
        "the control: an image that is kept lies there"
    );
    node.kill()?;
    node.start_again()?;
    ensure!(!kept(&node)?.is_empty(), "it outlives the node");
    succeed(&node, &["image", "rm", "kept:v1", "--json"])?;
    nothing_stays(&node)?;
    let refused = bowline(&node, &["image", "push", "/etc/hostname"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(text.contains("holds no image"), "{text}");
    if !place::is_installed("skopeo") {
        skip("there is no skopeo, so only archives of our own making are read");
        return Ok(());
    }
    from_skopeo(&node, &layout)?;
    if !place::is_installed("docker-registry") {
        skip("there is no docker-registry to fetch images from");
        return Ok(());
    }
    from_registry(&layout)?;
    from_registry_by_tls(&layout)
}

/// A public registry with one user, `user` with the password `secret`; gone when it is dropped. With an authority it speaks
/// TLS.
struct Registry {
    process: Child,
    host: String,
    folder: TempDir,
}

impl Registry {
    fn start(authority: Option<&Authority>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let host = format!("127.0.0.1:{}", node::free_port()?);
        let users = folder.path().join("users");
        std::fs::write(&users, format!("user:{PASSWORD_HASH}\n"))?;
        let config = folder.path().join("config.yml");
        let tls = authority.map(|authority| {
            let (certificate, key) = (authority.certificate(), authority.key());
            format!(
                "  tls:\n    certificate: {}\n    key: {}\n",
                certificate.display(),
                key.display()
            )
        });
        let tls = tls.unwrap_or_default();
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n{tls}auth:\n  htpasswd:\n    \
             realm: tests\n    path: {}\n",
            folder.path().join("store").display(),
            users.display()
        );
        std::fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().context("cannot start docker-registry")?;
        let registry = Self { process, host, folder };
        let up = patience::until(SETTLE_MAX, || TcpStream::connect(&registry.host).ok());
        ensure!(up.is_some(), "docker-registry does not listen on {}", registry.host);
        Ok(registry)
    }
}

impl Registry {
    /// Loses all blobs that are too large for documents.
    fn lose_layers(&self) -> Result<()> {
        let blobs = self.folder.path().join("store/docker/registry/v2/blobs/sha256");
        for prefix in std::fs::read_dir(&blobs)? {
            for blob in std::fs::read_dir(prefix?.path())? {
                let data = blob?.path().join("data");
                if data.metadata()?.len() > DOCUMENT_BYTES_MAX {
                    std::fs::remove_file(data)?;
                }
            }
        }
        Ok(())
    }

    /// Puts the image of a layout there; gives its reference.
    fn push(&self, layout: &Path) -> Result<String> {
        let uri = format!("{}/team/guest:1", self.host);
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        skopeo.args(["--dest-creds", "user:secret"]);
        skopeo.args([format!("oci:{}", layout.display()), format!("docker://{uri}")]);
        ensure!(skopeo.status()?.success(), "skopeo cannot push");
        Ok(uri)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `secret`, by bcrypt.
const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a";

/// By a reference to a registry, whose password the node was told.
fn from_registry(layout: &Path) -> Result<()> {
    let registry = Registry::start(None)?;
    let uri = registry.push(layout)?;
    let start = |user: &str| {
        Node::start_with(node::Settings {
            environment: vec![(
                "BOWLINE_REGISTRIES".into(),
                format!("http://{user}{}", registry.host).into(),
            )],
            ..node::Settings::default()
        })
    };
    let node = start("user:secret@")?;
    let (status, missing) = create(&node, &format!("{}/team/other:1", registry.host))?;
    ensure!(
        status == 400 && missing.to_string().contains("does not exist"),
        "{missing}"
    );
    let (status, created) = create(&node, &uri)?;
    ensure!(status == 201, "{created}");
    let shown = node.lambda().get(&format!("{FUNCTIONS}/guest"))?.json();
    let resolved = shown["Code"]["ResolvedImageUri"].as_str().unwrap_or_default();
    ensure!(
        resolved.starts_with(&format!("{}/team/guest@sha256:", registry.host)),
        "{shown}"
    );
    let stranger = start("user:wrong@")?;
    let (status, refused) = create(&stranger, &uri)?;
    ensure!(
        status == 400 && refused.to_string().contains("does not let"),
        "{refused}"
    );
    ensure!(!refused.to_string().contains("wrong"), "{refused}");
    ensure!(!stranger.log().contains("wrong@"), "the log holds the password");
    // Once it is here, the registry is needed no more.
    answers(&node)?;
    drop(registry);
    answers(&node)?;
    node.lambda().send("DELETE", &format!("{FUNCTIONS}/guest"), &[], b"")?;
    nothing_stays(&node)
}

/// By TLS, with an authority that only one of two nodes knows.
fn from_registry_by_tls(layout: &Path) -> Result<()> {
    let authority = Authority::found()?;
    let registry = Registry::start(Some(&authority))?;
    let uri = registry.push(layout)?;
    let start = |trusted: &Authority| {
        let address = format!("https://user:secret@{}", registry.host);
        Node::start_with(node::Settings {
            environment: vec![
                ("BOWLINE_REGISTRIES".into(), address.into()),
                ("AWS_CA_BUNDLE".into(), trusted.itself().into()),
            ],
            ..node::Settings::default()
        })
    };
    let node = start(&authority)?;
    let (status, created) = create(&node, &uri)?;
    ensure!(status == 201, "{created}");
    answers(&node)?;
    let stranger = start(&Authority::found()?)?;
    let (status, refused) = create(&stranger, &uri)?;
    let text = refused.to_string();
    ensure!(
        status == 400 && text.contains("not trusted") && text.contains("AWS_CA_BUNDLE"),
        "{refused}"
    );
    ensure!(!text.contains("secret"), "{refused}");
    nothing_stays(&stranger)?;
    drop(stranger);
    registry.lose_layers()?;
    let unlucky = start(&authority)?;
    let (status, created) = create(&unlucky, &uri)?;
    ensure!(
        status == 201 && created["State"] == "Pending",
        "the layers come later: {created}"
    );
    let failed = patience::until(SETTLE_MAX, || {
        let shown = unlucky
            .lambda()
            .get(&format!("{FUNCTIONS}/guest/configuration"))
            .ok()?
            .json();
        (shown["State"] == "Failed").then_some(shown)
    });
    let failed = failed.context("a function whose layers are gone does not fail")?;
    let reason = failed["StateReason"].as_str().unwrap_or_default();
    ensure!(
        failed["StateReasonCode"] == "ImageDeleted" && reason.contains("cannot be fetched"),
        "{failed}"
    );
    unlucky
        .lambda()
        .send("DELETE", &format!("{FUNCTIONS}/guest"), &[], b"")?;
    nothing_stays(&unlucky)
}

fn create(node: &Node, uri: &str) -> Result<(u16, Value)> {
    let body = json!({
        "FunctionName": "guest", "Role": "arn:aws:iam::000000000000:role/any", "PackageType": "Image",
        "Code": { "ImageUri": uri }, "Timeout": 20,
    });
    let headers = [("content-type", "application/json")];
    let reply = node
        .lambda()
        .send("POST", FUNCTIONS, &headers, body.to_string().as_bytes())?;
    Ok((reply.status, reply.json()))
}

fn answers(node: &Node) -> Result<()> {
    let answer = patience::until(SETTLE_MAX, || {
        let reply = node
            .lambda()
            .send("POST", &format!("{FUNCTIONS}/guest/invocations"), &[], b"{}");
        let answer = reply.ok().map(|reply| reply.json());
        answer.filter(|answer| answer["words"][1] == "--from-the-image")
    });
    let shown = node.lambda().get(&format!("{FUNCTIONS}/guest"))?.json();
    ensure!(
        answer.is_some(),
        "the function of a fetched image does not answer: {shown}"
    );
    Ok(())
}

/// What a public tool writes, in each of its forms.
fn from_skopeo(node: &Node, layout: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let source = format!("oci:{}", layout.display());
    for (form, name) in [
        ("oci-archive", "archive.tar"),
        ("docker-archive", "saved.tar"),
        ("oci", "layout"),
    ] {
        let path = folder.path().join(name);
        let mut target = format!("{form}:{}", path.display());
        if form == "docker-archive" {
            target.push_str(":guest:1");
        }
        let mut skopeo = Command::new("skopeo");
        let copied = skopeo
            .args(["--insecure-policy", "copy", "--quiet", &source, &target])
            .status()?;
        ensure!(copied.success(), "skopeo cannot write {form}");
        let mut paths = vec![path];
        if form == "docker-archive" {
            let gzipped = Command::new("gzip").arg("--keep").arg(&paths[0]).status()?;
            ensure!(gzipped.success(), "gzip ended with {gzipped}");
            paths.push(folder.path().join(format!("{name}.gz")));
        }
        for path in paths {
            let answer = deployed(node, &path)?;
            ensure!(answer["words"][1] == "--from-the-image", "{}: {answer}", path.display());
            nothing_stays(node)?;
        }
    }
    Ok(())
}
