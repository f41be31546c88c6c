//! Terraform with its provider for AWS: what people write for functions is made, changed, left alone and removed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bowline_tests::artifact::zip_of;
use bowline_tests::place;
use bowline_tests::{Node, skip};
use serde_json::{Value, json};

const WRITTEN: &str = include_str!("../../terraform/main.tf");
const CODE: &str = "import words\n\n\ndef handler(event, context):\n    return words.greeting(event['name'])\n";
const LAYER: &str = "import os\n\n\ndef greeting(name):\n    return f'hello {name}' + os.environ['MARK']\n";

/// Where mirrors of providers lie, each in a folder of its own.
const MIRRORS: [&str; 3] = ["/opt", "/usr/share/terraform", "/usr/local/share/terraform"];

fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The folder of the provider's program for this machine, if one of the mirrors has it.
fn provider() -> Option<PathBuf> {
    let mirrors = MIRRORS.iter().flat_map(|base| children(Path::new(base)));
    let hosts = mirrors.flat_map(|mirror| children(&mirror));
    let versions = hosts.flat_map(|host| children(&host.join("hashicorp/aws")));
    versions
        .map(|version| version.join("linux_amd64"))
        .find(|folder| folder.is_dir())
}

/// Terraform in a folder of its own, with a node to speak to.
struct Tool {
    folder: tempfile::TempDir,
    node: Node,
}

impl Tool {
    fn set(provider: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let write = |name: &str, content: &[u8]| std::fs::write(folder.path().join(name), content);
        write("main.tf", WRITTEN.as_bytes())?;
        write("code.zip", &zip_of(&[("greeter.py", CODE.as_bytes())])?)?;
        write("layer.zip", &zip_of(&[("python/words.py", LAYER.as_bytes())])?)?;
        // The provider is taken as it lies there: nothing is fetched.
        let settings = format!(
            "provider_installation {{\n  dev_overrides {{\n    \"hashicorp/aws\" = {}\n  }}\n}}\n",
            json!(provider)
        );
        write("settings", settings.as_bytes())?;
        let node = Node::start()?;
        node.lambda()
            .post("/v1/streams", &json!({"name": "orders"}))?
            .expect(201)?;
        Ok(Self { folder, node })
    }

    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
        let mut tool = Command::new("terraform");
        tool.args(words)
            .current_dir(self.folder.path())
            .env("TF_CLI_CONFIG_FILE", self.folder.path().join("settings"))
            .env("CHECKPOINT_DISABLE", "1")
            .env("TF_IN_AUTOMATION", "1")
            .env("TF_VAR_endpoint", self.node.endpoint());
        for (name, value) in variables {
            tool.env(format!("TF_VAR_{name}"), value);
        }
        tool.output().context("cannot run `terraform`")
    }

    fn succeed(&self, words: &[&str], variables: &[(&str, &str)]) -> Result<String> {
        let output = self.run(words, variables)?;
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        ensure!(output.status.success(), "`terraform {words:?}`: {out}{error}");
        Ok(out.into_owned())
    }

    /// Whether there is nothing to do any more.
    fn is_settled(&self, variables: &[(&str, &str)]) -> Result<bool> {
        let output = self.run(&["plan", "-no-color", "-detailed-exitcode"], variables)?;
        let text = String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => Ok(true),
            Some(2) => {
                eprintln!("{text}");
                Ok(false)
            }
            _ => anyhow::bail!("`terraform plan`: {text}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn outputs(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.succeed(&["output", "-json"], &[])?)?)
    }
}

#[test]
fn terraform_makes_changes_and_removes_all_it_knows_of_functions() -> Result<()> {
    if !place::is_installed("terraform") || !place::is_installed("python3") {
        skip("there is no terraform or no python3");
        return Ok(());
    }
    let Some(provider) = provider() else {
        skip("no mirror on this machine has Terraform's provider for AWS");
        return Ok(());
    };
    let tool = Tool::set(&provider)?;
    let apply = ["apply", "-auto-approve", "-no-color"];
    tool.succeed(&apply, &[])?;
    let made = tool.outputs()?;
    ensure!(
        made["said"]["value"] == "\"hello ada!\"" && made["version"]["value"] == "1",
        "{made}"
    );
    ensure!(tool.is_settled(&[])?, "it reads back what it wrote");
    let larger = [("memory", "300")];
    ensure!(!tool.is_settled(&larger)?, "the control: a change is seen");
    tool.succeed(&apply, &larger)?;
    ensure!(tool.outputs()?["version"]["value"] == "2", "{}", tool.outputs()?);
    ensure!(tool.is_settled(&larger)?);
    let lambda = tool.node.lambda();
    let read = || lambda.get("/2015-03-31/functions/greeter/configuration");
    ensure!(read()?.expect(200)?.json()["MemorySize"] == 300);
    tool.succeed(&["destroy", "-auto-approve", "-no-color"], &larger)?;
    ensure!(read()?.status == 404, "it is gone");
    for (path, list) in [
        ("/2015-03-31/event-source-mappings", "EventSourceMappings"),
        ("/2018-10-31/layers", "Layers"),
    ] {
        let left = lambda.get(path)?.expect(200)?.json();
        ensure!(left[list] == json!([]), "{left}");
    }
    Ok(())
}
