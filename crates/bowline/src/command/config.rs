//! `bowline config`: the effective configuration with the origin of each value.

use std::process::ExitCode;

use serde_json::{Map, json};

use super::settings::SettingFlags;
use crate::config::shown;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    let member = |(key, value): (crate::config::Key, &crate::config::Value)| {
        (
            key.name().to_owned(),
            json!({ "value": shown(key, &value.text), "origin": value.origin.to_string() }),
        )
    };
    let document: Map<_, _> = config.values().map(member).collect();
    output.print(&document, || {
        let row = |(key, value): (crate::config::Key, &crate::config::Value)| {
            [key.name().to_owned(), shown(key, &value.text), value.origin.to_string()]
        };
        table(
            ["SETTING", "VALUE", "ORIGIN"],
            &config.values().map(row).collect::<Vec<_>>(),
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
