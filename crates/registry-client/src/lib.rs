//! HTTP client for the OCI distribution-spec: authentication, credentials, TLS, redirects, retries.

pub mod api_error;
mod auth;
mod client;
mod credentials;
mod download;
mod http;
pub mod meter;
mod options;
mod retry;

pub use auth::challenge::{Challenge, parse as parse_challenges};
pub use auth::scope::Scopes;
pub use auth::{RegistryAuth, RequiredScopes};
pub use client::{ApiRequest, Client};
pub use credentials::secret::Secret;
pub use download::Download;
pub use http::address::is_loopback;
pub use http::redirect::upload_location;
pub use http::transport::{HttpResponse, OpenContent, RequestBody, ResponseHead};
pub use http::url::Url;
pub use options::{Login, PlainHttp, RegistryOptions, Reporting};
pub use retry::{RequestFailure, RetryAfter, RetryPolicy, retry};
