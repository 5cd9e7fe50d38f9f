//! HTTP client for the OCI distribution-spec: authentication, credentials, TLS, redirects, retries.

pub mod auth;
pub mod client;
pub mod credentials;
pub mod download;
pub mod http;
pub mod meter;
pub mod options;
pub mod refusal;
pub mod retry;

pub use client::Client;
pub use credentials::secret::Secret;
pub use http::address::is_loopback;
pub use http::transport::OpenContent;
pub use options::{Login, Messages, PlainHttp, RegistryOptions};
