//! Code from buckets and events from queues, at a server beside the node.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::python::Python;
use bowline_tests::{Node, node, patience, skip};

const START_MAX: Duration = Duration::from_secs(60);

/// A server of buckets and queues on loopback; it ends when it is dropped.
struct Services {
    child: Child,
    endpoint: String,
}

impl Services {
    fn start(python: &Python) -> Result<Self> {
        let port = node::free_port()?;
        let endpoint = format!("http://127.0.0.1:{port}");
        let child = python
            .command("moto_server", &endpoint)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
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

#[test]
fn code_comes_from_buckets_and_events_from_queues() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let services = Services::start(&python)?;
    let variable = |name: &str, value: &str| (name.into(), value.into());
    let node = Node::start_with(Settings {
        environment: vec![
            variable("BOWLINE_S3_ENDPOINT", &services.endpoint),
            variable("BOWLINE_SQS_ENDPOINT", &services.endpoint),
            variable("AWS_ACCESS_KEY_ID", "test"),
            variable("AWS_SECRET_ACCESS_KEY", "test"),
        ],
        ..Settings::default()
    })?;
    python.run_script("sources.py", &node.endpoint(), &[&node.endpoint(), &services.endpoint])
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
