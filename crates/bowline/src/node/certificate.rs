//! The node's certificate: read at the start, and again whenever its files change or SIGHUP comes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bowline_api::Tls;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::config::{Certificate, Config};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the certificate that the configuration names, if it names one.
pub fn load(config: &Config) -> anyhow::Result<Option<Arc<Tls>>> {
    let Some(Certificate { chain, key }) = &config.certificate else {
        return Ok(None);
    };
    let tls = Tls::load(chain, key).context("cannot serve HTTPS")?;
    Ok(Some(Arc::new(tls)))
}

/// Keeps the certificate up to its files.
pub fn follow(tls: Arc<Tls>) -> anyhow::Result<JoinHandle<()>> {
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    Ok(tokio::spawn(async move {
        let mut seen = tls.mark();
        loop {
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let mark = tls.mark();
            if !asked && mark == seen {
                continue;
            }
            match tls.reload() {
                Ok(()) => tracing::info!("the certificate was read again"),
                // Half of a pair that is being replaced: its other half changes the mark once more.
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the old certificate stays"),
            }
            seen = mark;
        }
    }))
}
