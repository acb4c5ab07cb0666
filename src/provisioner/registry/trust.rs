//! Which certificates a server with authorities of its own may show.
//!
//! Besides what those and the machine's have signed, a certificate that is itself configured as an
//! authority: `openssl req -x509` makes such ones, and Docker, containerd and curl take them. webpki
//! does not, since it lets no authority speak for a server.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::Verifier;

/// Why a certificate of a server's configuration is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrustError {
    /// It is something else.
    #[error("can't be read: it must be PEM (-----BEGIN CERTIFICATE-----)")]
    Pem,
    /// rustls does not take it.
    #[error("can't be used: {0}")]
    Refused(String),
}

impl From<Error> for TrustError {
    fn from(error: Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// How to reach a server with these authorities (PEM).
///
/// # Errors
/// When one of them is of no use.
pub(super) fn config(pems: &[Vec<u8>]) -> Result<ClientConfig, TrustError> {
    let mut authorities = Vec::new();
    for pem in pems {
        let before = authorities.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            authorities.push(certificate.map_err(|_| TrustError::Pem)?);
        }
        if authorities.len() == before {
            return Err(TrustError::Pem);
        }
    }
    let provider = Arc::new(ring::default_provider());
    let usual = usual(&authorities, &provider)?;
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions()?;
    let trust = Arc::new(Trust { usual, authorities });
    Ok(builder.dangerous().with_custom_certificate_verifier(trust).with_no_client_auth())
}

/// What the machine's authorities and these have signed.
fn usual(
    authorities: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TrustError> {
    let machine = Verifier::new_with_extra_roots(authorities.to_vec(), Arc::clone(provider));
    if let Ok(machine) = machine {
        return Ok(Arc::new(machine));
    }
    // A machine without any authorities can still speak to those that are configured.
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    let verifier = verifier.map_err(|error| TrustError::Refused(error.to_string()))?;
    Ok(verifier)
}

#[derive(Debug)]
struct Trust {
    usual: Arc<dyn ServerCertVerifier>,
    authorities: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.usual.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        // webpki has looked at its dates before it says so (`check_issuer_independent_properties`).
        let is_authority = |error: &Error| format!("{error:?}").contains("CaUsedAsEndEntity");
        match verified {
            Err(error) if is_authority(&error) && self.authorities.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
