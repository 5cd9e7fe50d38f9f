#![allow(clippy::unwrap_used)]
mod registry_client;
