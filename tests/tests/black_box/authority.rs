//! An authority of the tests' own, and a certificate for this machine that it has signed.

use std::path::PathBuf;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

/// The certificates in files.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    pub fn found() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "an authority for tests");
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let issuer = Issuer::new(params, key);
        let (names, service_key) = (["127.0.0.1".to_owned(), "localhost".to_owned()], KeyPair::generate()?);
        let service = CertificateParams::new(names)?.signed_by(&service_key, &issuer)?;
        let authority = Self { folder };
        std::fs::write(authority.itself(), certificate.pem())?;
        std::fs::write(authority.certificate(), service.pem())?;
        std::fs::write(authority.key(), service_key.serialize_pem())?;
        Ok(authority)
    }

    /// What to trust.
    pub fn itself(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What a service shows.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// The key of what a service shows.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }
}
