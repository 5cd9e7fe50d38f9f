//! A single HTTP exchange: URLs, addresses, proxies, redirects, TLS.

pub mod address;
pub mod flow;
pub mod proxy;
pub mod redirect;
pub mod tls;
pub mod transport;
pub mod url;
