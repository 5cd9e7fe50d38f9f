//! Rules for addresses: loopback hosts, the addresses that a registry may redirect to, hosts of the same domain.

use crate::http::url::{Url, split_port};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

/// Returns whether a host, with or without a port, is this host: `localhost`, names under it, 127.0.0.0/8 and `[::1]`.
/// `.local` is the local network, and `127.0.0.1.example.com` can be any machine.
pub fn is_loopback(host: &str) -> bool {
    let name = split_port(host).0.to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return true;
    }
    literal(&name).is_some_and(|address| address.is_loopback())
}

/// Parses a host that is an IP address, with or without brackets.
pub fn literal(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    bare.parse().ok()
}

/// Which addresses a request may connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AddressPolicy {
    /// Any address: the user named the host.
    Any,
    /// All but link-local ones, where clouds serve credentials: a registry on a private network named the host.
    Private,
    /// Public addresses only: a public registry named the host.
    PublicOnly,
}

impl AddressPolicy {
    /// Returns the policy for hosts that this registry names: private addresses only if its own address is private.
    pub fn for_registry(registry: &Url) -> Self {
        let name = registry.host().trim_matches(['[', ']']);
        let addresses = (name, registry.port()).to_socket_addrs();
        let inside =
            addresses.is_ok_and(|mut found| found.any(|a| class_of(a.ip()) == AddressClass::Private));
        if inside { Self::Private } else { Self::PublicOnly }
    }

    /// Returns whether a request may connect to this address.
    pub fn allows(self, address: IpAddr) -> bool {
        match (self, class_of(address)) {
            (Self::Any, _) | (_, AddressClass::Public) => true,
            (Self::Private, AddressClass::Private) => true,
            (Self::PublicOnly, AddressClass::Private) | (_, AddressClass::Forbidden) => false,
        }
    }
}

/// The class of an address, as far as policies distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressClass {
    Public,
    /// Loopback and private networks.
    Private,
    /// Link-local, unspecified, multicast: no registry has such an address.
    Forbidden,
}

fn class_of(address: IpAddr) -> AddressClass {
    match address {
        IpAddr::V4(v4) => class_of_v4(v4),
        IpAddr::V6(v6) => class_of_v6(v6),
    }
}

fn class_of_v4(address: Ipv4Addr) -> AddressClass {
    let [a, b, ..] = address.octets();
    if address.is_link_local() || a == 0 || address.is_multicast() || address.is_broadcast() {
        return AddressClass::Forbidden;
    }
    // 100.64.0.0/10 is carrier-grade NAT, RFC 6598; some clouds serve their metadata there.
    if address.is_loopback() || address.is_private() || (a == 100 && (64..128).contains(&b)) {
        return AddressClass::Private;
    }
    AddressClass::Public
}

fn class_of_v6(address: Ipv6Addr) -> AddressClass {
    let v4_in = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        class_of_v4(Ipv4Addr::new(a, b, c, d))
    };
    let words = address.segments();
    match words {
        // ::ffff:a.b.c.d, and NAT64's 64:ff9b::a.b.c.d (RFC 6052): the IPv4 address counts.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4_in(high, low),
        [0, 0, 0, 0, 0, 0, 0, 1] => AddressClass::Private,
        // AWS serves instance metadata at fd00:ec2::254.
        [0xfd00, 0x0ec2, ..] => AddressClass::Forbidden,
        [first, ..] if first & 0xfe00 == 0xfc00 => AddressClass::Private,
        [first, ..] if first & 0xffc0 == 0xfe80 || first >> 8 == 0xff => AddressClass::Forbidden,
        [0, 0, 0, 0, 0, 0, ..] => AddressClass::Forbidden,
        _ => AddressClass::Public,
    }
}

/// Resolves names and refuses those with an address that the policy does not allow. A filter on names would not be
/// enough: anyone can let a name resolve to any address.
#[derive(Debug)]
pub struct FilteringResolver(pub AddressPolicy);

/// The error of [`FilteringResolver`], as the HTTP library returns it.
#[derive(Debug)]
pub struct ForbiddenAddress(pub IpAddr);

impl fmt::Display for ForbiddenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a public address", self.0)
    }
}

impl std::error::Error for ForbiddenAddress {}

impl Resolver for FilteringResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = DefaultResolver::default().resolve(uri, config, timeout)?;
        match found.iter().find(|address| !self.0.allows(address.ip())) {
            Some(refused) => Err(ureq::Error::Other(Box::new(ForbiddenAddress(refused.ip())))),
            None => Ok(found),
        }
    }
}

/// Returns whether two hosts have the same registrable domain, so that one may receive the credentials of the other.
/// There is no list of public suffixes: a domain has two components, or three under suffixes like `co.uk`.
pub fn shares_domain(registry: &str, host: &str) -> bool {
    if registry == host {
        return true;
    }
    if literal(registry).is_some() || literal(host).is_some() {
        return false;
    }
    match (domain(registry), domain(host)) {
        (Some(ours), Some(theirs)) => ours == theirs,
        _ => false,
    }
}

fn domain(host: &str) -> Option<String> {
    let labels: Vec<&str> = host.trim_end_matches('.').split('.').collect();
    let [.., second, top] = labels.as_slice() else { return None };
    let take = if top.len() == 2 && second.len() <= 3 { 3 } else { 2 };
    let start = labels.len().checked_sub(take)?;
    Some(labels[start..].join(".").to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in [
            "localhost",
            "localhost:5000",
            "a.b.localhost",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
            "LOCALHOST",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "box.local",
            "127.0.0.1.evil.com",
            "localhost.evil.com",
            "notlocalhost",
            "128.0.0.1",
            "127.1",
            "[::2]",
            "docker.io",
            "10.0.0.1",
            "0.0.0.0",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn policies_allow_public_and_private_addresses() {
        let check = |address: &str, inside: bool, public: bool| {
            let ip = address.parse().unwrap();
            assert_eq!(
                (AddressPolicy::Private.allows(ip), AddressPolicy::PublicOnly.allows(ip)),
                (inside, public),
                "{address}"
            );
            assert!(AddressPolicy::Any.allows(ip));
        };
        check("93.184.216.34", true, true);
        check("2606:2800:220:1::1", true, true);
        check("127.0.0.1", true, false);
        check("10.1.2.3", true, false);
        check("192.168.0.1", true, false);
        check("100.100.100.200", true, false);
        check("::1", true, false);
        check("fd12::1", true, false);
        check("::ffff:10.0.0.1", true, false);
        check("169.254.169.254", false, false);
        check("::ffff:169.254.169.254", false, false);
        check("64:ff9b::169.254.169.254", false, false);
        check("fe80::1", false, false);
        check("fd00:ec2::254", false, false);
        check("0.0.0.0", false, false);
        check("::", false, false);
        check("::169.254.169.254", false, false);
        check("255.255.255.255", false, false);
        check("224.0.0.1", false, false);
    }

    #[test]
    fn names_are_filtered_by_their_addresses() {
        let uri: Uri = "http://localhost:1/".parse().unwrap();
        let found = |address_policy: AddressPolicy| {
            FilteringResolver(address_policy).resolve(&uri, &Config::default(), NextTimeout::default())
        };
        assert!(found(AddressPolicy::Any).is_ok());
        assert!(found(AddressPolicy::Private).is_ok());
        assert!(
            found(AddressPolicy::PublicOnly).unwrap_err().to_string().contains("is not a public address")
        );
        let policy_of = |registry: &str| AddressPolicy::for_registry(&Url::parse(registry).unwrap());
        assert_eq!(policy_of("http://localhost:5000"), AddressPolicy::Private);
        assert_eq!(policy_of("http://[::1]:5000"), AddressPolicy::Private);
        assert_eq!(policy_of("http://10.0.0.1"), AddressPolicy::Private);
        assert_eq!(policy_of("http://93.184.216.34"), AddressPolicy::PublicOnly);
        assert_eq!(policy_of("http://name.invalid"), AddressPolicy::PublicOnly);
    }

    #[test]
    fn credentials_stay_in_their_domain() {
        let check = |registry: &str, host: &str, may: bool| {
            assert_eq!(shares_domain(registry, host), may, "{registry} {host}");
        };
        check("registry-1.docker.io", "auth.docker.io", true);
        check("quay.io", "quay.io", true);
        check("registry.gitlab.com", "gitlab.com", true);
        check("localhost", "localhost", true);
        check("127.0.0.1", "127.0.0.1", true);
        check("a.example.co.uk", "auth.example.co.uk", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("1.2.3.4", "9.9.3.4", false);
        check("example.com", "example.com.evil.com", false);
        check("example.co.uk", "evil.co.uk", false);
        check("r.com.au", "evil.com.au", false);
        check("localhost", "a.localhost", false);
        check("docker.io", "docker.io.", true);
        check("registry.io", "auth.docker.io", false);
    }
}
