//! Code from buckets and events from queues, at a server beside the node.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_test_postgres::{Server, is_installed};
use bowline_tests::node::Settings;
use bowline_tests::python::Python;
use bowline_tests::{Node, node, patience, skip};

use crate::authority::Authority;

const START_MAX: Duration = Duration::from_secs(60);

/// A server of buckets and queues on loopback; it ends when it is dropped.
pub struct Services {
    child: Child,
    pub endpoint: String,
}

impl Services {
    /// Starts it; with an authority it speaks TLS.
    pub fn start(python: &Python, authority: Option<&Authority>) -> Result<Self> {
        Self::start_at(python, authority, node::free_port()?)
    }

    /// The same at a port of one's choice.
    pub fn start_at(python: &Python, authority: Option<&Authority>, port: u16) -> Result<Self> {
        let scheme = if authority.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{port}");
        let mut server = python.command("moto_server", &endpoint);
        server.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        if let Some(authority) = authority {
            server.arg("--ssl").arg("--ssl-cert").arg(authority.certificate());
            server.arg("--ssl-key").arg(authority.key());
        }
        let child = server
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start moto_server")?;
        let services = Self { child, endpoint };
        let address = format!("127.0.0.1:{port}");
        let answers = patience::until(START_MAX, || std::net::TcpStream::connect(&address).ok());
        ensure!(answers.is_some(), "moto_server does not answer");
        Ok(services)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node that takes code and events from these services, and trusts an authority if it is told of one.
pub fn node_beside(services: &Services, authority: Option<&Authority>) -> Result<Node> {
    let trusted = authority.map(|authority| ("AWS_CA_BUNDLE".into(), authority.itself().into()));
    node_with(
        services,
        Settings {
            environment: trusted.into_iter().collect(),
            ..Settings::default()
        },
    )
}

/// The same with more settings.
pub fn node_with(services: &Services, mut settings: Settings) -> Result<Node> {
    let variable = |name: &str, value: &str| (name.into(), value.into());
    settings.environment.extend([
        variable("BOWLINE_S3_ENDPOINT", &services.endpoint),
        variable("BOWLINE_SQS_ENDPOINT", &services.endpoint),
        variable("AWS_ACCESS_KEY_ID", "test"),
        variable("AWS_SECRET_ACCESS_KEY", "test"),
    ]);
    Node::start_with(settings)
}

#[test]
fn code_comes_from_buckets_and_events_from_queues() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let services = Services::start(&python, None)?;
    let node = node_beside(&services, None)?;
    python.run_script("sources.py", &node.endpoint(), &[&node.endpoint(), &services.endpoint])
}

#[test]
fn services_that_speak_tls_are_believed_by_their_authority() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let authority = Authority::found()?;
    let services = Services::start(&python, Some(&authority))?;
    let run = |node: &Node, parts: &[&str]| -> Result<()> {
        let output = python
            .command("python", &node.endpoint())
            .env("AWS_CA_BUNDLE", authority.itself())
            .args(["sources.py", &node.endpoint(), &services.endpoint])
            .args(parts)
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        ensure!(
            output.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&text),
            node.log()
        );
        Ok(())
    };
    let trusting = node_beside(&services, Some(&authority))?;
    run(
        &trusting,
        &[
            "code_from_a_bucket",
            "layers_from_a_bucket",
            "messages_reach_a_function",
        ],
    )?;
    let stranger = node_beside(&services, Some(&Authority::found()?))?;
    run(&stranger, &["an_unknown_authority_is_not_believed"])
}

#[test]
fn a_limit_on_a_queues_invocations_holds_over_all_nodes() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    if !is_installed() {
        skip("there is no PostgreSQL for two nodes to share");
        return Ok(());
    }
    let (server, shared) = (Server::start()?, tempfile::tempdir()?);
    let services = Services::start(&python, None)?;
    let member = || {
        let environment = vec![
            ("BOWLINE_STORE".into(), server.url().into()),
            ("BOWLINE_BLOBS".into(), shared.path().into()),
        ];
        let settings = Settings {
            environment,
            ..Settings::default()
        };
        node_with(&services, settings)
    };
    let (mut first, second) = (member()?, member()?);
    let run = |node: &Node, other: &Node, part: &str| -> Result<()> {
        let status = python
            .command("python", &node.endpoint())
            .env("OTHER_NODE", other.endpoint())
            .args(["sources.py", &node.endpoint(), &services.endpoint, part])
            .status()?;
        ensure!(status.success(), "{part}: {}\n{}", node.log(), other.log());
        Ok(())
    };
    run(&first, &second, "a_limit_holds_over_all_nodes")?;
    first.terminate()?;
    first.wait_for_end()?;
    run(&second, &first, "another_node_goes_on")
}

#[test]
fn without_endpoints_buckets_and_queues_are_refused_by_name() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let node = Node::start()?;
    let script = "import boto3, sys
client = boto3.client('lambda')
role = 'arn:aws:iam::123456789012:role/any'
try:
    client.create_function(FunctionName='f', Runtime='python3.11', Handler='a.b', Role=role,
                           Code={'S3Bucket': 'bucket', 'S3Key': 'key'})
except client.exceptions.InvalidParameterValueException as error:
    assert '--s3-endpoint' in str(error), error
else:
    sys.exit('code from nowhere was accepted')
";
    let output = python
        .command("python", &node.endpoint())
        .args(["-c", script])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
