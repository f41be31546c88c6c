//! Access keys, signatures, TLS and policies, with the clients that people use.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use bowline_tests::node::{Settings, binary, free_port};
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, patience, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

const SEEN_MAX: Duration = Duration::from_secs(20);
/// In this time a node looks at its files at least twice.
const LOOKED_AT: Duration = Duration::from_millis(2500);
const PADDED_BYTES: usize = 4096;

/// A certificate for this machine, in files.
struct Certificate {
    folder: TempDir,
}

impl Certificate {
    fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certificate = Self { folder };
        certificate.renew()?;
        Ok(certificate)
    }

    /// Puts a new one in the place of what is there.
    fn renew(&self) -> Result<()> {
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let made = rcgen::generate_simple_self_signed(names)?;
        std::fs::write(self.key(), made.signing_key.serialize_pem())?;
        std::fs::write(self.chain(), made.cert.pem())?;
        Ok(())
    }

    /// The same, in such a way that neither size nor time of the files tells of it.
    fn renew_unseen(&self) -> Result<()> {
        let new = Self::make()?;
        for (from, to) in [(new.chain(), self.chain()), (new.key(), self.key())] {
            let text = std::fs::read_to_string(&from)?;
            std::fs::write(&from, format!("{text:\n<0$}", PADDED_BYTES))?;
            std::fs::File::options()
                .write(true)
                .open(&from)?
                .set_modified(SystemTime::UNIX_EPOCH)?;
            std::fs::rename(from, to)?;
        }
        Ok(())
    }

    fn chain(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// The certificate in one line.
    fn text(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.chain())?.replace(['\n', '\r'], ""))
    }

    fn start_node(&self) -> Result<Node> {
        Node::start_with(Settings {
            environment: vec![
                ("BOWLINE_TLS_CERT".into(), self.chain().into()),
                ("BOWLINE_TLS_KEY".into(), self.key().into()),
            ],
            ..Settings::default()
        })
    }
}

fn endpoint(node: &Node) -> String {
    format!("https://{}", node.address())
}

/// Runs `bowline` without anything of this process's environment that it could read.
fn bowline(words: &[&str], environment: &[(&str, &Path)]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.env_clear().envs(environment.iter().copied()).args(words);
    command.output().context("cannot run `bowline`")
}

fn keys(node: &Node, words: &[&str]) -> Result<Value> {
    let data = node.data();
    let data = data.to_str().context("a path of text")?;
    let output = bowline(&[&["keys"], words, &["--json", "--data", data]].concat(), &[])?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn clients_with_keys_are_served_over_tls_and_nobody_else() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let certificate = Certificate::make()?;
    let node = certificate.start_node()?;
    let owner = keys(&node, &["create"])?;
    let partner = keys(&node, &["create", "--account", "111122223333"])?;
    let artifact = Artifact::command()?;
    let folder = tempfile::tempdir()?;
    let case = json!({
        "endpoint": endpoint(&node),
        "owner": owner,
        "partner": partner,
        "zip": artifact.write_to(folder.path())?,
        "runtime": artifact.runtime,
        "handler": artifact.handler,
    });
    let text = |member: &str| owner[member].as_str().unwrap_or_default().to_owned();
    let output = python
        .command("python", &endpoint(&node))
        .env("AWS_ACCESS_KEY_ID", text("access_key_id"))
        .env("AWS_SECRET_ACCESS_KEY", text("secret_access_key"))
        .env("AWS_CA_BUNDLE", certificate.chain())
        .env("SSL_CERT_FILE", certificate.chain())
        .args(["permissions.py", &case.to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let log = node.log();
    for key in [&owner, &partner] {
        let secret = key["secret_access_key"].as_str().context("a secret")?;
        ensure!(!log.contains(secret), "a secret is in the log");
    }
    Ok(())
}

#[test]
fn the_command_line_signs_and_trusts_what_it_is_told_to() -> Result<()> {
    let certificate = Certificate::make()?;
    let node = certificate.start_node()?;
    let chain = certificate.chain();
    let endpoint = endpoint(&node);
    let ls = |environment: &[(&str, &Path)]| bowline(&["functions", "ls", "--endpoint", &endpoint], environment);
    let says = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let trusting = [("BOWLINE_CA", chain.as_path())];
    ensure!(ls(&trusting)?.status.success(), "a node without keys is open");
    let stranger = ls(&[])?;
    ensure!(!stranger.status.success(), "an unknown certificate was trusted");
    let key = keys(&node, &["create"])?;
    let unsigned = ls(&trusting)?;
    ensure!(
        says(&unsigned).contains("MissingAuthenticationToken"),
        "{}",
        says(&unsigned)
    );
    let file = node.data().join("credentials");
    let profile = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        key["access_key_id"].as_str().unwrap_or_default(),
        key["secret_access_key"].as_str().unwrap_or_default()
    );
    std::fs::write(&file, profile)?;
    let signing = [trusting[0], ("AWS_SHARED_CREDENTIALS_FILE", file.as_path())];
    let signed = ls(&signing)?;
    ensure!(signed.status.success(), "{}", says(&signed));
    keys(&node, &["rm", key["access_key_id"].as_str().unwrap_or_default()])?;
    ensure!(
        ls(&trusting)?.status.success(),
        "without its last key the node is open again"
    );
    Ok(())
}

#[test]
fn keys_are_changed_while_a_node_runs_and_while_it_does_not() -> Result<()> {
    let mut node = Node::start()?;
    ensure!(keys(&node, &["ls"])? == json!({ "keys": [] }));
    let first = keys(&node, &["create"])?;
    let lambda = node.lambda();
    let refused = lambda.get("/2015-03-31/functions")?.expect(403)?;
    ensure!(refused.error() == "MissingAuthenticationTokenException");
    node.kill()?;
    let second = keys(&node, &["create", "--account", "111122223333"])?;
    node.start_again()?;
    let shown = keys(&node, &["ls"])?;
    ensure!(shown["keys"].as_array().is_some_and(|keys| keys.len() == 2), "{shown}");
    ensure!(!shown.to_string().contains("secret"), "{shown}");
    for key in [&first, &second] {
        let id = key["access_key_id"].as_str().context("an id")?;
        lambda.get("/2015-03-31/functions")?.expect(403)?;
        keys(&node, &["rm", id])?;
    }
    lambda.get("/2015-03-31/functions")?.expect(200)?;
    Ok(())
}

#[test]
fn another_address_needs_keys_and_a_certificate() -> Result<()> {
    let certificate = Certificate::make()?;
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let data = data.to_str().context("a path of text")?;
    let port = free_port()?;
    let listen = format!("0.0.0.0:{port}");
    let (chain, key) = (certificate.chain(), certificate.key());
    let tls = [
        ("BOWLINE_TLS_CERT", chain.as_path()),
        ("BOWLINE_TLS_KEY", key.as_path()),
    ];
    let refused = |environment: &[(&str, &Path)]| -> Result<String> {
        let output = bowline(&["up", "--listen", &listen, "--data", data], environment)?;
        ensure!(!output.status.success(), "the node has started");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (no_key, no_certificate) = ("bowline keys create", "--tls-cert");
    let neither = refused(&[])?;
    ensure!(
        neither.contains(no_key) && neither.contains(no_certificate),
        "{neither}"
    );
    let keyless = refused(&tls)?;
    ensure!(
        keyless.contains(no_key) && !keyless.contains(no_certificate),
        "{keyless}"
    );
    let made = bowline(&["keys", "create", "--data", data], &[])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let plain = refused(&[])?;
    ensure!(!plain.contains(no_key) && plain.contains(no_certificate), "{plain}");
    let mut node = Command::new(binary()?)
        .env_clear()
        .envs(tls)
        .args(["up", "--listen", &listen, "--data", data])
        .spawn()?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let up = patience::until(SEEN_MAX, || std::net::TcpStream::connect(address).ok());
    node.kill()?;
    node.wait()?;
    ensure!(up.is_some(), "with keys and a certificate it must start");
    Ok(())
}

/// The certificate that a node shows, in one line.
fn shown(python: &Python, node: &Node) -> Result<String> {
    let address = node.address();
    let (host, port) = address.rsplit_once(':').context("an address")?;
    let script = "import ssl, sys; print(ssl.get_server_certificate((sys.argv[1], int(sys.argv[2]))))";
    let output = python
        .command("python", &endpoint(node))
        .args(["-c", script, host, port])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.replace(['\n', '\r'], ""))
}

#[test]
fn a_certificate_is_renewed_while_the_node_runs() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3 to look at certificates with");
        return Ok(());
    };
    let certificate = Certificate::make()?;
    let node = certificate.start_node()?;
    let shown = || shown(&python, &node);
    let before = shown()?;
    ensure!(shown()? == before, "control: nothing has changed yet");
    certificate.renew()?;
    let file = certificate.text()?;
    let renewed = patience::until(SEEN_MAX, || shown().ok().filter(|shown| *shown == file));
    ensure!(renewed.is_some(), "the old certificate is still shown:\n{}", node.log());
    std::fs::write(certificate.key(), "no key")?;
    let noticed = patience::until(SEEN_MAX, || {
        node.log().contains("the old certificate stays").then_some(())
    });
    ensure!(noticed.is_some(), "{}", node.log());
    ensure!(
        shown()? == file,
        "what cannot be read must not take the certificate away"
    );
    Ok(())
}

#[test]
fn a_hangup_has_the_certificate_read_again() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3 to look at certificates with");
        return Ok(());
    };
    let certificate = Certificate::make()?;
    certificate.renew_unseen()?;
    let node = certificate.start_node()?;
    let before = shown(&python, &node)?;
    ensure!(before == certificate.text()?, "another certificate is shown");
    certificate.renew_unseen()?;
    let file = certificate.text()?;
    let is_new = || shown(&python, &node).ok().filter(|shown| *shown == file);
    let noticed = patience::until(LOOKED_AT, is_new);
    ensure!(
        noticed.is_none(),
        "control: files that look unchanged were read by themselves"
    );
    node.hang_up()?;
    let renewed = patience::until(SEEN_MAX, is_new);
    ensure!(renewed.is_some(), "the old certificate is still shown:\n{}", node.log());
    Ok(())
}

#[test]
fn who_speaks_plainly_to_a_private_address_is_told_so() -> Result<()> {
    let certificate = Certificate::make()?;
    let node = certificate.start_node()?;
    let lambda = node.lambda();
    for (method, path, body) in [
        ("GET", "/2015-03-31/functions", &b""[..]),
        ("POST", "/2015-03-31/functions/f/invocations", &[b'x'; 100_000]),
    ] {
        let reply = lambda.send(method, path, &[], body)?.expect(400)?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        ensure!(text.contains("begin the endpoint with https://"), "{text}");
    }
    let chain = certificate.chain();
    let trusting = [("BOWLINE_CA", chain.as_path())];
    let private = bowline(&["functions", "ls", "--endpoint", &endpoint(&node)], &trusting)?;
    ensure!(
        private.status.success(),
        "control: {}",
        String::from_utf8_lossy(&private.stderr)
    );
    Ok(())
}
