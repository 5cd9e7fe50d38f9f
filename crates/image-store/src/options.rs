//! The options that every tool has for speaking to registries.

use registry_client::{PlainHttp, RegistryOptions, Reporting};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

/// For `#[command(flatten)]`.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Registries")]
pub struct RegistryArgs {
    /// Speak plain HTTP to this registry, or to all without a value
    ///
    /// Registries on this machine (localhost, 127.0.0.0/8, ::1) are spoken to so anyway, unless they are at port
    /// 443, have a folder in /etc/docker/certs.d, or --ca-file is given. Credentials go over plain HTTP too.
    #[arg(long, global = true, value_name = "HOST[:PORT]", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub plain_http: Vec<String>,
    /// Trust the certificates in this PEM file as well
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Believe any certificate
    #[arg(long, global = true)]
    pub insecure: bool,
    /// Take credentials from this file alone
    ///
    /// Without it: DOCKER_AUTH_CONFIG, docker's config.json, podman's auth.json, each with its credential helpers.
    /// REGISTRY_AUTH_FILE is the same as this option.
    #[arg(long, global = true, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// Give credentials to this token server too, although it is in another domain than the registry
    #[arg(long, global = true, value_name = "HOST")]
    pub allow_auth_host: Vec<String>,
    /// Ask for so many things at once at most; without it 8, and 24 where they are small
    #[arg(long, global = true, value_name = "N")]
    pub parallel: Option<NonZeroUsize>,
    /// Longest wait that a registry may ask for with Retry-After, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 60)]
    pub max_retry_after: u64,
    /// Give a request up that has not got through after so many seconds
    ///
    /// A manifest or a token must be here by then. A layer may take longer, as long as it keeps coming.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 600)]
    pub timeout: u64,
}

impl RegistryArgs {
    /// What was meant.
    pub fn options(&self, reporting: Reporting) -> RegistryOptions {
        let plain_http = if self.plain_http.iter().any(String::is_empty) {
            PlainHttp::All
        } else if self.plain_http.is_empty() {
            PlainHttp::Loopback
        } else {
            PlainHttp::Hosts(self.plain_http.clone())
        };
        let usual = RegistryOptions::default();
        RegistryOptions {
            plain_http,
            ca_file: self.ca_file.clone(),
            insecure: self.insecure,
            auth_file: self.auth_file.clone(),
            parallel: self.parallel,
            auth_hosts: self.allow_auth_host.clone(),
            retry_after_max: Duration::from_secs(self.max_retry_after),
            timeout: Duration::from_secs(self.timeout),
            // Nobody waits longer for a word than for the whole.
            idle_timeout: usual.idle_timeout.min(Duration::from_secs(self.timeout.max(1))),
            reporting,
            ..usual
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
    fn every_option_arrives() {
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
