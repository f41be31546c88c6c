//! One invocation without a node: a node of its own, in a temporary folder, for as long as it takes.

use std::path::Path;

use anyhow::{Context, bail};

use super::Invoked;
use crate::client::Client;
use crate::command::deploy::{Deployable, Making};
use crate::command::settings::SettingFlags;
use crate::command::up::{StopSignals, runtime};
use crate::config::Key;
use crate::node::{Node, log};
use crate::progress::Progress;

/// Packages the code at `path`, runs it once with `event` and leaves nothing behind.
pub fn invoke(path: &Path, making: &Making, event: Vec<u8>) -> anyhow::Result<Invoked> {
    let progress = Progress::stderr();
    let code = Deployable::make(&making.wanted(path.to_owned(), None), &progress)?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let config = SettingFlags {
        listen: Some("127.0.0.1:0".to_owned()),
        data: Some(folder.path().display().to_string()),
        store: Some(Key::Store.default().to_owned()),
        blobs: Some(Key::Blobs.default().to_owned()),
        object_stores: Some(Key::ObjectStores.default().to_owned()),
        log_level: Some("warn".to_owned()),
        ..SettingFlags::default()
    }
    .load()?;
    log::begin(&config);
    let settings = making.settings();
    let runtime = runtime()?;
    let invoked = runtime.block_on(async {
        let mut stop = StopSignals::listen()?;
        let node = Node::start(&config).await?;
        let client = Client::new(&format!("http://{}", node.address()));
        let once = tokio::task::spawn_blocking(move || {
            code.deploy(&client, &settings, &progress)?;
            Ok(super::invoke(&client, code.name(), None, event)?)
        });
        let invoked = tokio::select! {
            invoked = once => invoked.context("the invocation ended early")?,
            () = stop.next() => bail!("interrupted"),
        };
        node.stop().await;
        invoked
    });
    // After an interruption the invocation may still wait for its answer; nobody waits for it.
    runtime.shutdown_background();
    invoked
}
