//! The command-line options for access to registries, shared by all programs.

use registry_client::{PlainHttp, RegistryOptions, Reporting};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// Registry options, to be included with `#[command(flatten)]`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// Use plain HTTP for HOST (for all registries if no HOST is given)
    ///
    /// Registries on this host (localhost, 127.0.0.0/8, ::1) use plain HTTP by default, unless their port is 443,
    /// they have a directory in /etc/docker/certs.d, or --ca-file is given. Credentials are sent over plain HTTP too.
    #[arg(long, global = true, value_name = "HOST[:PORT]", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub plain_http: Vec<String>,
    /// Trust the CA certificates in this PEM file, in addition to the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Skip TLS certificate verification (insecure)
    #[arg(long, global = true)]
    pub insecure: bool,
    /// Read credentials from this file only
    ///
    /// By default, credentials are read from DOCKER_AUTH_CONFIG, Docker's config.json and Podman's auth.json, in this
    /// order, and from the credential helpers that they name. REGISTRY_AUTH_FILE has the same effect as this option.
    #[arg(long, global = true, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Send credentials to this token server even if it is in another domain than the registry
    #[arg(long, global = true, value_name = "HOST")]
    pub allow_auth_host: Vec<String>,
    /// Maximum concurrent requests [default: 8; 24 for small objects]
    #[arg(long, global = true, value_name = "N")]
    pub parallel: Option<NonZeroUsize>,
    /// Maximum Retry-After delay to accept from a registry, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    pub max_retry_after: u64,
    /// Request timeout in seconds
    ///
    /// Limits each request for a manifest or token, retries included. A layer transfer may take longer as long as data
    /// keeps arriving.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

impl RegistryArgs {
    /// The client options that these arguments select; what has no argument gets its default.
    pub fn options(&self, reporting: Reporting) -> RegistryOptions {
        let plain_http = if self.plain_http.iter().any(String::is_empty) {
            PlainHttp::All
        } else if self.plain_http.is_empty() {
            PlainHttp::Loopback
        } else {
            PlainHttp::Hosts(self.plain_http.clone())
        };
        let defaults = RegistryOptions::default();
        RegistryOptions {
            plain_http,
            ca_file: self.ca_file.clone(),
            insecure: self.insecure,
            auth_file: self.auth_file.clone(),
            parallel: self.parallel,
            auth_hosts: self.allow_auth_host.clone(),
            retry_after_max: Duration::from_secs(self.max_retry_after),
            timeout: Duration::from_secs(self.timeout),
            // The time limit of one read must not exceed that of the whole request.
            idle_timeout: defaults.idle_timeout.min(Duration::from_secs(self.timeout.max(1))),
            reporting,
            ..defaults
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Tool {
        #[command(flatten)]
        registry: RegistryArgs,
        image: Option<String>,
    }

    #[test]
    fn plain_http_takes_a_host_or_means_all() {
        let check = |args: &[&str], meant: PlainHttp| {
            let tool = Tool::try_parse_from(std::iter::once(&"tool").chain(args)).unwrap();
            assert_eq!(tool.registry.options(Reporting::default()).plain_http, meant, "{args:?}");
            assert_eq!(tool.image.as_deref(), Some("image"));
        };
        check(&["image"], PlainHttp::Loopback);
        check(&["--plain-http", "image"], PlainHttp::All);
        check(&["--plain-http=box:5000", "image"], PlainHttp::Hosts(vec!["box:5000".into()]));
        check(
            &["--plain-http=a", "image", "--plain-http=b:1"],
            PlainHttp::Hosts(vec!["a".into(), "b:1".into()]),
        );
        check(&["--plain-http=a", "--plain-http", "image"], PlainHttp::All);
    }

    #[test]
    fn every_option_is_used() {
        let args = "tool --ca-file ca.pem --insecure --auth-file auth.json --timeout 5 --max-retry-after 7 --allow-auth-host a.b --parallel 3";
        let args = args.split(' ');
        let options = Tool::try_parse_from(args).unwrap().registry.options(Reporting::default());
        assert_eq!(options.ca_file, Some("ca.pem".into()));
        assert_eq!(options.auth_file, Some("auth.json".into()));
        assert!(options.insecure);
        assert_eq!((options.timeout.as_secs(), options.retry_after_max.as_secs()), (5, 7));
        assert_eq!(options.idle_timeout.as_secs(), 5);
        assert_eq!(options.auth_hosts, ["a.b"]);
        assert_eq!(options.parallel, NonZeroUsize::new(3));
    }
}
