//! Whose certificates are believed when a service speaks TLS.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// The authorities that are believed.
#[derive(Clone, Debug)]
pub struct Trust(Arc<RootCertStore>);

/// Why there are no authorities to believe.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error("cannot read certificates of authorities from `{}`: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error(
        "this system has no certificates of authorities, so that no service with `https://` is trusted: install them \
         (`ca-certificates`), or name a file in `AWS_CA_BUNDLE`"
    )]
    NoneOnSystem,
}

impl Trust {
    /// Nobody: for services that do not speak TLS.
    pub fn nobody() -> Self {
        Self(Arc::new(RootCertStore::empty()))
    }

    /// The authorities in a file, in PEM, and no others.
    pub fn of_file(path: &Path) -> Result<Self, TrustError> {
        let unreadable = |reason: String| TrustError::File {
            path: path.to_owned(),
            reason,
        };
        let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.map_err(|error| unreadable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(unreadable("there is none in it".to_owned()));
        }
        Ok(Self(Arc::new(roots)))
    }

    /// The authorities that this system believes.
    pub fn of_system() -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        // Some of a system's certificates may be too old to be understood; the others serve.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TrustError::NoneOnSystem);
        }
        Ok(Self(Arc::new(roots)))
    }

    /// For clients that speak TLS.
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of all versions")
            .with_root_certificates(self.0.clone())
            .with_no_client_auth()
    }
}

/// Why a certificate is not believed, if that is what an error is about.
pub(crate) fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(reason.to_string());
        }
        next = match error.downcast_ref::<io::Error>() {
            // What it wraps is not its source, but what it shows as itself.
            Some(wrapper) => wrapper.get_ref().map(|wrapped| wrapped as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_hold_no_authority_are_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        let refused = |says: &str| {
            let error = Trust::of_file(&path).expect_err("no authority").to_string();
            assert!(error.contains("ca.pem") && error.contains(says), "{error}");
        };
        refused("No such file");
        for (text, says) in [
            ("", "there is none in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ""),
        ] {
            std::fs::write(&path, text).expect("a file");
            refused(says);
        }
    }
}
