//! What is shown to a registry or its token server.

use crate::credentials::secret::Secret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What we show a registry or its token server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    Anonymous,
    Password {
        user: String,
        password: Secret,
    },
    /// A refresh token, to be exchanged at the token server.
    Identity {
        user: String,
        token: Secret,
    },
    /// A token that the registry takes as it is.
    Registry(Secret),
}

impl Credential {
    /// The `Authorization` of the Basic scheme, if there is anything to show.
    pub fn basic(&self) -> Option<Secret> {
        let (user, password) = match self {
            Self::Password { user, password } => (user.as_str(), password),
            // Docker's name for the user of an identity token.
            Self::Identity { user, token } => (if user.is_empty() { "<token>" } else { user }, token),
            Self::Anonymous | Self::Registry(_) => return None,
        };
        let pair = STANDARD.encode(format!("{user}:{}", password.reveal()));
        Some(Secret::new(format!("Basic {pair}")))
    }
}

/// A credential, and whence it came: a file, a helper, the command line.
#[derive(Clone, Debug)]
pub struct FoundCredential {
    pub credential: Credential,
    pub from: String,
}

impl FoundCredential {
    pub fn nothing() -> Self {
        Self { credential: Credential::Anonymous, from: String::new() }
    }

    /// What to do about a registry at `host` that says no to it. Never a word of the secret.
    pub fn auth_hint(&self, host: &str) -> String {
        let what = match &self.credential {
            Credential::Anonymous => return format!("if the repository exists, run: docker login {host}"),
            Credential::Password { user, .. } => format!("for user \"{user}\""),
            Credential::Identity { .. } => "with the identity token".into(),
            Credential::Registry(_) => "with the registry token".into(),
        };
        format!("authentication failed {what} (credentials from {}); run: docker login {host}", self.from)
    }
}
