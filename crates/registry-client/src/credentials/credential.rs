//! One credential, and where it was found.

use crate::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A credential for a registry or its token server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// None.
    Anonymous,
    /// User name and password.
    Password { user: String, password: Secret },
    /// A refresh token, which the token server exchanges.
    Identity { user: String, token: Secret },
    /// A token that is sent to the registry unchanged.
    Registry(Secret),
}

impl Credential {
    /// Returns the `Authorization` header of the Basic scheme, if the credential has one.
    pub fn basic(&self) -> Option<Secret> {
        let (user, password) = match self {
            Self::Password { user, password } => (user.as_str(), password),
            // Docker's user name for an identity token.
            Self::Identity { user, token } => (if user.is_empty() { "<token>" } else { user }, token),
            Self::Anonymous | Self::Registry(_) => return None,
        };
        let pair = STANDARD.encode(format!("{user}:{}", password.reveal()));
        Some(Secret::new(format!("Basic {pair}")))
    }
}

/// Returns the hint for a request without a credential: registries refuse to say whether a private repository exists.
pub fn login_hint(host: &str) -> String {
    format!("if the repository exists, run: docker login {host}")
}

/// A credential and its source: a file, a helper, the command line.
#[derive(Clone, Debug)]
pub struct FoundCredential {
    pub credential: Credential,
    pub from: String,
}

impl FoundCredential {
    /// No credential was found.
    pub fn none() -> Self {
        Self { credential: Credential::Anonymous, from: String::new() }
    }

    /// Returns the hint for a registry at `host` that refused the credential, without any secret.
    pub fn auth_hint(&self, host: &str) -> String {
        let what = match &self.credential {
            Credential::Anonymous => return login_hint(host),
            Credential::Password { user, .. } => format!("for user \"{user}\""),
            Credential::Identity { .. } => "with the identity token".into(),
            Credential::Registry(_) => "with the registry token".into(),
        };
        format!("authentication failed {what} (credentials from {}); run: docker login {host}", self.from)
    }
}
