//! The services beside the node that it was told of.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use bowline_aws::s3::S3;
use bowline_aws::sqs::Sqs;
use bowline_aws::{Access, Credentials, Endpoint, Trust};
use bowline_foundation::clock::Clock;
use bowline_oci::registry::{Registry, RegistryAddress};

use crate::config::Config;

/// Clients of the services that are configured.
pub struct Remote {
    pub objects: Option<S3>,
    pub queues: Option<Sqs>,
    pub registries: Vec<Registry>,
}

impl Remote {
    /// Reads keys and certificates, if they are needed.
    pub fn new(config: &Config, clock: &Clock) -> anyhow::Result<Self> {
        let access = |endpoint: &Endpoint| {
            let access = Access {
                region: config.region.clone(),
                credentials: credentials(endpoint)?,
                clock: clock.clone(),
                trust: trust(endpoint, endpoint.is_private())?,
            };
            Ok::<_, anyhow::Error>((endpoint.clone(), access))
        };
        let objects = config.s3_endpoint.as_ref().map(access).transpose()?;
        let queues = config.sqs_endpoint.as_ref().map(access).transpose()?;
        Ok(Self {
            objects: objects.map(|(endpoint, access)| S3::new(endpoint, access)),
            queues: queues.map(|(endpoint, access)| Sqs::new(endpoint, access)),
            registries: config.registries.iter().map(registry).collect::<Result<_, _>>()?,
        })
    }
}

fn registry(address: &RegistryAddress) -> anyhow::Result<Registry> {
    let trust = trust(address, address.is_secure())?;
    Ok(Registry::new(address.clone(), Some(Arc::new(trust.client_config()))))
}

/// Whom the service is believed to be: by the variable that the clients of these services know, or as the system says.
fn trust(endpoint: &impl Display, speaks_tls: bool) -> anyhow::Result<Trust> {
    if !speaks_tls {
        return Ok(Trust::nobody());
    }
    let trust = match std::env::var_os("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        Some(path) => Trust::of_file(Path::new(&path)),
        None => Trust::of_system(),
    };
    trust.with_context(|| format!("cannot speak to `{endpoint}`"))
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
