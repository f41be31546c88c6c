//! Versions on instances: where code goes, when it goes there, and who answers meanwhile.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use bowline_foundation::entropy::Entropy;
use bowline_tests::artifact::zip_of;
use bowline_tests::{Artifact, Reply, patience};
use serde_json::{Value, json};

use super::{Fleet, PATIENCE, agent_pid, file, hexadecimal, node};

/// So many files take a while on their way to an instance.
const FILES: usize = 40_000;

/// A function that says which code it is, and what it was asked.
fn source(name: &str, begin: &str) -> Vec<u8> {
    format!("{begin}\ndef handler(event, context):\n    return {{'code': '{name}', 'asked': event['name']}}\n")
        .into_bytes()
}

/// One that is slow to reach an instance, and slow to begin there.
fn slow(name: &str) -> Result<Vec<u8>> {
    let app = source(name, "import time\ntime.sleep(2)");
    let names: Vec<String> = (0..FILES)
        .map(|number| format!("assets/{}/{number}", number % 100))
        .collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
    files.push(("app.py", &app));
    zip_of(&files)
}

/// The line of an inventory about code, or about the sandbox of a version.
fn code<'a>(inventory: &'a Value, digest: &str) -> Option<&'a Value> {
    inventory["code"]
        .as_array()?
        .iter()
        .find(|code| code["digest"] == digest)
}

fn sandbox<'a>(inventory: &'a Value, version: &str) -> Option<&'a Value> {
    inventory["sandboxes"]
        .as_array()?
        .iter()
        .find(|sandbox| sandbox["version"] == version)
}

/// What an answer says of itself: its version must be that of its code.
fn answered(reply: Reply, asked: &str) -> Result<String> {
    let reply = reply.expect(200)?;
    let (version, body) = (reply.header("x-amz-executed-version").to_owned(), reply.json());
    let own = match version.as_str() {
        "1" => "one",
        "2" => "two",
        other => anyhow::bail!("version `{other}` answers: {body}"),
    };
    ensure!(
        body == json!({"code": own, "asked": asked}),
        "version {version}: {body}"
    );
    Ok(version)
}

/// 06/T-F8, 06/T-F2: the trace of an upgrade. A request for version 2 has its code brought to the instance; version 1 is
/// loaded there, and its run with the request's parameters begins before that is over. Both have a sandbox there then.
#[test]
fn f_t8_f_t2_the_loaded_version_runs_while_the_newer_ones_code_is_on_its_way() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 1024, ""))?;
    fleet.running("shop")?;
    let settings = json!({"MemorySize": 128, "Publish": true, "Tags": {"bowline:stale-seconds": "600"}});
    let first = Artifact::python_source(&source("one", ""))?;
    fleet.lambda.deploy("f", &first, settings)?;
    let ask = |asked: &str| answered(fleet.lambda.invoke("f:2", &json!({ "name": asked }))?, asked);
    answered(fleet.lambda.invoke("f:1", &json!({"name": "ada"}))?, "ada")?;
    let digest = fleet.publish("f", &slow("two")?)?;
    let before = fleet.inventory("shop")?;
    ensure!(
        code(&before, &digest).is_none(),
        "published, it is not on the instance: {before}"
    );
    let old = sandbox(&before, "1").context("version 1 is not loaded")?["id"].clone();

    // Requests for version 2, one after the other: each run of version 1 has its place in the instance's order.
    let mut runs: Vec<u64> = Vec::new();
    let mut both = None;
    for number in 0.. {
        if ask(&format!("caller-{number}"))? == "2" {
            break;
        }
        let seen = fleet.inventory("shop")?;
        let old_one = sandbox(&seen, "1").with_context(|| format!("version 1 is gone: {seen}"))?;
        ensure!(old_one["id"] == old, "the sandbox that was loaded serves: {seen}");
        runs.extend(old_one["used"].as_u64());
        let new = sandbox(&seen, "2").filter(|new| new["ready"].is_null());
        both = both.or(new.map(|new| (old_one["id"].clone(), new["id"].clone())));
    }
    let (one, two) = both.context("version 2 was never being made beside version 1")?;
    ensure!(one != two, "two sandboxes on one instance");
    let after = fleet.inventory("shop")?;
    let (code, new) = (code(&after, &digest), sandbox(&after, "2"));
    let (code, new) = (code.context("the code did not come")?, new.context("no sandbox")?);
    let order = |value: &Value| {
        value
            .as_u64()
            .with_context(|| format!("no place in the order: {after}"))
    };
    let (begun, there) = (order(&code["begun"])?, order(&code["there"])?);
    ensure!(
        there < order(&new["made"])? && new["id"] == two,
        "made once its code was there: {after}"
    );
    ensure!(
        runs.iter().any(|run| (begun..there).contains(run)),
        "version 1 ran between {begun} and {there}: {runs:?}"
    );
    ensure!(
        runs.iter().any(|run| *run > there),
        "and until version 2 had begun: {runs:?}"
    );
    for number in 0..100 {
        ensure!(
            ask(&format!("later-{number}"))? == "2",
            "from then on version 2 answers"
        );
    }
    Ok(())
}

/// The control of both: without the owner's word a request for version 2 waits for it.
#[test]
fn f_t8_control_without_the_owners_word_a_version_is_waited_for() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 1024, ""))?;
    fleet.running("shop")?;
    let first = Artifact::python_source(&source("one", ""))?;
    fleet
        .lambda
        .deploy("f", &first, json!({"MemorySize": 128, "Publish": true}))?;
    answered(fleet.lambda.invoke("f:1", &json!({"name": "ada"}))?, "ada")?;
    fleet.publish(
        "f",
        &zip_of(&[("app.py", &source("two", "import time\ntime.sleep(2)"))])?,
    )?;
    let version = answered(fleet.lambda.invoke("f:2", &json!({"name": "bob"}))?, "bob")?;
    ensure!(version == "2", "{version}");
    Ok(())
}

/// The files below a folder that hold `mark`.
fn holders(folder: &Path, mark: &str) -> Result<Vec<PathBuf>> {
    let (mut folders, mut found) = (vec![folder.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        // What is not code may go meanwhile.
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file()
                && String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).contains(mark)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// 06/T-F4: where an account has no instance, code goes to the node's own store of code, and nowhere else; where it has
/// one, to that instance's cache too, and to no other's. 05/T-E7: not before it is asked for.
#[test]
fn f_t4_e_t7_code_goes_to_its_destination_and_nowhere_else() -> Result<()> {
    let node = node()?;
    let (fleet, data) = (Fleet::of(&node), node.data());
    let place = |folder: PathBuf, digest: &str| folder.join(digest).join("app.py");
    let deploy = |name: &str| -> Result<(String, String)> {
        let mark = format!("{:032x}", Entropy::system().number());
        let artifact = Artifact::python_source(&source("one", &format!("MARK = '{mark}'")))?;
        fleet.lambda.deploy(name, &artifact, json!({"MemorySize": 128}))?;
        let shown = fleet
            .lambda
            .get(&format!("/2015-03-31/functions/{name}"))?
            .expect(200)?
            .json();
        let digest = shown["Configuration"]["CodeSha256"].as_str().context("no digest")?;
        Ok((mark, hexadecimal(digest)?))
    };
    let call = |name: &str| {
        fleet
            .lambda
            .invoke(name, &json!({"name": "ada"}))?
            .expect(200)
            .map(drop)
    };

    let (mark, digest) = deploy("inline")?;
    call("inline")?;
    let own = |digest: &str| place(data.join("code"), digest);
    ensure!(
        holders(&data, &mark)? == [own(&digest)],
        "the node's store of code: {:?}",
        holders(&data, &mark)?
    );

    // The roomier one is asked first.
    fleet.make("shop", &file("shop", 1024, ""))?;
    fleet.make("store", &file("store", 512, ""))?;
    let (shop, store) = (fleet.running("shop")?, fleet.running("store")?);
    let (mark, digest) = deploy("there")?;
    ensure!(holders(&data, &mark)? == [own(&digest)], "nobody has asked for it");
    call("there")?;
    let cache = |shown: &Value| {
        let server = shown["server"].as_str().unwrap_or_default();
        place(data.join("instances").join(server).join("code"), &digest)
    };
    let mut wanted = vec![own(&digest), cache(&shop)];
    wanted.sort();
    ensure!(
        holders(&data, &mark)? == wanted,
        "the instance's cache: {:?}",
        holders(&data, &mark)?
    );
    ensure!(!cache(&store).exists() && code(&fleet.inventory("store")?, &digest).is_none());
    // What the sandbox has is what lies there.
    fleet.lambda.delete("/2015-03-31/functions/there")?.expect(200)?;
    let gone = patience::until(PATIENCE, || holders(&data, &mark).ok()?.is_empty().then_some(()));
    gone.with_context(|| format!("code that nobody names stays: {:?}", holders(&data, &mark)))
}

/// 06/T-F4 of WebAssembly: what the node compiled goes to the instance that runs it, as the same file, and to no other; none sees the
/// node's own, or can change what it got.
#[test]
fn f_t4_a_compiled_module_goes_to_its_instance_alone_and_is_not_made_again() -> Result<()> {
    let node = node()?;
    let (fleet, data) = (Fleet::of(&node), node.data().canonicalize()?);
    fleet.make("shop", &file("shop", 1024, ""))?;
    fleet.make("store", &file("store", 512, ""))?;
    let (shop, _) = (fleet.running("shop")?, fleet.running("store")?);
    let mark = format!("{:032x}", Entropy::system().number());
    fleet.lambda.deploy(
        "f",
        &Artifact::answering(&format!("\"{mark}\""))?,
        json!({"MemorySize": 128}),
    )?;
    let compiled = |folder: &Path| -> Result<PathBuf> {
        let all = holders(folder, &mark)?;
        let found = all
            .iter()
            .find(|path| path.extension().is_some_and(|end| end == "cwasm"));
        found.cloned().with_context(|| format!("no compiled module in {all:?}"))
    };
    let own = compiled(&data.join("wasm"))?;
    let (server, agent) = (shop["server"].as_str().context("no server")?, agent_pid(&shop)?);
    let cache = data.join("instances").join(server).join("code");
    ensure!(holders(&cache, &mark)?.is_empty(), "nobody has asked for it");
    ensure!(fleet.lambda.invoke("f", &json!({}))?.expect(200)?.json() == mark.as_str());
    ensure!(fleet.show("shop")?["sandboxes"] == 1, "it runs there");
    let laid = compiled(&cache)?;
    let number = |path: &Path| -> Result<u64> { Ok(std::os::unix::fs::MetadataExt::ino(&path.metadata()?)) };
    ensure!(number(&laid)? == number(&own)?, "it is made anew");
    // With each, the package that it was made of.
    let holders = holders(&data, &mark)?;
    ensure!(holders.len() == 4, "it is elsewhere too: {holders:?}");

    let inside = |path: &Path| PathBuf::from(format!("/proc/{agent}/root{}", path.display()));
    ensure!(inside(&laid).exists(), "the control: it sees its own");
    ensure!(!inside(&own).exists(), "it sees the node's, and whatever else is there");
    let refused = std::fs::OpenOptions::new().append(true).open(inside(&laid));
    ensure!(
        refused
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem),
        "it can change what others run: {refused:?}"
    );
    fleet.lambda.delete("/2015-03-31/functions/f")?.expect(200)?;
    let gone = patience::until(PATIENCE, || (!laid.exists() && !own.exists()).then_some(()));
    gone.context("what nobody names stays")
}

/// What a function sees of itself.
const LOOKS: &[u8] = b"import hashlib, os
def handler(event, context):
    with open('/var/task/app.py', 'rb') as file:
        code = hashlib.sha256(file.read()).hexdigest()
    return {'code': code, 'asked': event, 'memory': os.environ['AWS_LAMBDA_FUNCTION_MEMORY_SIZE'],
            'said': int(context.memory_limit_in_mb)}
";

/// 05/T-E14, 05/E8: what a function sees of its code, its arguments and its limit is what the request said; the instance had
/// the code before the sandbox was made.
#[test]
fn e_t14_the_view_from_inside_is_that_of_the_request_and_the_code_was_there_before() -> Result<()> {
    use bowline_foundation::digest::Digest;
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 2048, ""))?;
    fleet.running("shop")?;
    let artifact = Artifact::python_source(LOOKS)?;
    let package = Digest::of(&artifact.code).to_string();
    for (name, memory) in [("small", 192), ("large", 320)] {
        fleet.lambda.deploy(name, &artifact, json!({ "MemorySize": memory }))?;
        let asked = json!({"name": name, "numbers": [1, 2, 3]});
        let reply = fleet.lambda.invoke(name, &asked)?.expect(200)?;
        let inside = json!({
            "code": Digest::of(LOOKS).to_string(), "asked": asked, "memory": memory.to_string(), "said": memory,
        });
        ensure!(reply.json() == inside, "{}", reply.json());
        let inventory = fleet.inventory("shop")?;
        let there = code(&inventory, &package).context("the instance does not have the code")?["there"].as_u64();
        let sandboxes = inventory["sandboxes"].as_array().context("no sandboxes")?;
        let made = sandboxes
            .iter()
            .find(|sandbox| sandbox["function"] == name)
            .context("no sandbox")?;
        ensure!(
            made["code"] == package.as_str() && made["memory_mib"] == memory,
            "{inventory}"
        );
        ensure!(
            there.is_some() && there < made["made"].as_u64() && made["made"].as_u64() < made["used"].as_u64(),
            "code, then sandbox, then run: {inventory}"
        );
    }
    let inventory = fleet.inventory("shop")?;
    ensure!(
        inventory["code"].as_array().map(Vec::len) == Some(1),
        "both run the same code: {inventory}"
    );
    Ok(())
}
