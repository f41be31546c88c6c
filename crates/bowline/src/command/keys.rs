//! `bowline keys`: makes, lists and removes access keys, by a running node or on a stopped node's data.

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use bowline_functions::access::AccessKeys;
use clap::Subcommand;
use serde_json::json;

use super::removed;
use super::settings::SettingFlags;
use super::up::runtime;
use crate::config::Config;
use crate::node::keys::{self, Order, Shown};
use crate::node::{data_folder, ground};
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a key and show its secret, this once. From the first key on every request must be signed.
    Create {
        /// Account the key is for, twelve digits; the default one is the operator's.
        #[arg(long, value_name = "N", default_value = "000000000000")]
        account: AccountId,
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// List the keys, without their secrets.
    Ls {
        /// Only those of this account.
        #[arg(long, value_name = "N")]
        account: Option<AccountId>,
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// Remove a key: nobody can sign with it any more.
    Rm {
        /// The key's identifier.
        id: String,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create { account, settings } => {
            let made = perform(&settings.load()?, Order::Create { account })?;
            let key = made.first().context("the node has not said which key it made")?;
            output.print(key, || new(key))?;
        }
        Action::Ls { account, settings } => {
            let mut found = perform(&settings.load()?, Order::List)?;
            found.retain(|key| account.as_ref().is_none_or(|account| *account == key.account));
            output.print(&json!({ "keys": found }), || {
                let row = |key: &Shown| [key.access_key_id.clone(), key.account.to_string(), key.created.clone()];
                let rows: Vec<_> = found.iter().map(row).collect();
                table(["ACCESS KEY ID", "ACCOUNT", "CREATED"], &rows)
            })?;
        }
        Action::Rm { id, settings } => {
            perform(&settings.load()?, Order::Remove { id: id.clone() })?;
            output.print(&removed(&id), || format!("removed `{id}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn new(key: &Shown) -> String {
    let (id, account) = (&key.access_key_id, &key.account);
    let secret = key.secret_access_key.as_deref().unwrap_or_default();
    format!(
        "A key of account {account}. The secret is not shown again.\n\n  export AWS_ACCESS_KEY_ID={id}\n  \
         export AWS_SECRET_ACCESS_KEY={secret}\n"
    )
}

fn perform(config: &Config, order: Order) -> anyhow::Result<Vec<Shown>> {
    runtime()?.block_on(async {
        let data = data_folder(&config.data)?;
        if let Some(outcome) = keys::ask(&data, &order).await? {
            return outcome.map_err(|reason| anyhow!(reason));
        }
        let store = ground::open_store(config, &data).await?;
        let access = AccessKeys::new(store, Clock::system(), Entropy::system());
        keys::perform(&access, order).await.map_err(|reason| anyhow!(reason))
    })
}
