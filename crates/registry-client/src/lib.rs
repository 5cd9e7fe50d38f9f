//! HTTP client for the OCI distribution-spec: authentication, credentials, TLS, redirects, retries.
//!
//! It knows the protocol and no store: `image-store` builds the operations of a repository on it. Start at [`Client`],
//! which sends an [`ApiRequest`] to the registry of a [`RegistryAuth`]; [`RegistryOptions`] are the user's choices.
//!
//! A `client` sends requests and follows redirects; `auth` answers challenges and caches tokens; `credentials` reads
//! Docker's and Podman's files; `http` is a single exchange; `retry` decides whether to try again; [`api_error`] converts
//! error responses.
//!
//! ```
//! use registry_client::{ApiRequest, Client, RegistryOptions, RequestBody, RequiredScopes, Scopes, api_error};
//!
//! fn list_tags(host: &str, repository: &str) -> Result<Vec<u8>, error::Error> {
//!     let client = Client::new(RegistryOptions::default())?;
//!     let scopes = Scopes::repository(repository, &["pull"]);
//!     let auth = client.auth(host, &scopes)?;
//!     let required = RequiredScopes { repository: repository.into(), scopes, extra: Scopes::default() };
//!     let action = format!("list the tags of \"{host}/{repository}\"");
//!     let request = ApiRequest {
//!         action: &action,
//!         method: "GET",
//!         url: auth.registry().with_path(&format!("/v2/{repository}/tags/list")),
//!         headers: vec![("Accept", "application/json".into())],
//!         body: RequestBody::Empty,
//!         required: &required,
//!         auth: &auth,
//!     };
//!     let (head, body) = client.fetch(&request, 1 << 20)?;
//!     if head.status == 200 { Ok(body) } else { Err(api_error::from_head(&action, &head, &body)) }
//! }
//! ```

#![warn(clippy::missing_errors_doc, missing_docs)]

pub mod api_error;
mod auth;
mod client;
mod credentials;
mod download;
mod http;
pub mod meter;
mod options;
mod retry;
mod secret;

pub use auth::challenge::{Challenge, parse as parse_challenges};
pub use auth::scope::Scopes;
pub use auth::{RegistryAuth, RequiredScopes};
pub use client::{ApiRequest, Client};
pub use download::Download;
pub use http::address::is_loopback;
pub use http::redirect::upload_location;
pub use http::transport::{HttpResponse, OpenContent, RequestBody, ResponseHead};
pub use http::url::Url;
pub use options::{Login, PlainHttp, RegistryOptions, Reporting};
pub use retry::{RequestFailure, RetryAfter, RetryPolicy, retry};
pub use secret::Secret;
