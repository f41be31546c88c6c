//! The services beside the node that it was told of.

use anyhow::Context;
use bowline_aws::s3::S3;
use bowline_aws::sqs::Sqs;
use bowline_aws::{Credentials, Endpoint};
use bowline_foundation::clock::Clock;

use crate::config::Config;

/// Clients of the services that are configured.
pub struct Remote {
    pub objects: Option<S3>,
    pub queues: Option<Sqs>,
}

impl Remote {
    /// Reads the keys from the environment, if they are needed.
    pub fn new(config: &Config, clock: &Clock) -> anyhow::Result<Self> {
        let region = &config.region;
        let with_keys = |endpoint: &Endpoint| Ok::<_, anyhow::Error>((endpoint.clone(), credentials(endpoint)?));
        let objects = config.s3_endpoint.as_ref().map(with_keys).transpose()?;
        let queues = config.sqs_endpoint.as_ref().map(with_keys).transpose()?;
        Ok(Self {
            objects: objects.map(|(endpoint, keys)| S3::new(endpoint, region, keys, clock.clone())),
            queues: queues.map(|(endpoint, keys)| Sqs::new(endpoint, region, keys, clock.clone())),
        })
    }
}

fn credentials(endpoint: &Endpoint) -> anyhow::Result<Credentials> {
    let variable = |name: &str| {
        std::env::var(name)
            .ok()
            .filter(|value| !value.is_empty())
            .with_context(|| format!("requests to `{endpoint}` are signed, but `{name}` is not in the environment"))
    };
    Ok(Credentials {
        access_key: variable("AWS_ACCESS_KEY_ID")?,
        secret_key: variable("AWS_SECRET_ACCESS_KEY")?,
        session_token: variable("AWS_SESSION_TOKEN").ok(),
    })
}
