//! Proxies from the environment: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY.

use crate::http::address::{is_loopback, literal};
use crate::http::url::{Url, split_port};
use ureq::Proxy;

/// Returns the proxy for a URL; none for this host and for hosts in NO_PROXY.
///
/// # Errors
/// The reason, without the value of the variable: it may contain a password.
pub fn for_url(url: &Url, env: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, String> {
    let first = |names: &[&'static str]| {
        names
            .iter()
            .find_map(|name| env(name).filter(|text| !text.trim().is_empty()).map(|text| (*name, text)))
    };
    let names: [&str; 4] = match url.is_tls() {
        true => ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"],
        // A CGI server passes the Proxy header of a request as HTTP_PROXY, so the lowercase name comes first.
        false => ["http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"],
    };
    let Some((name, text)) = first(&names) else { return Ok(None) };
    let exempt = first(&["NO_PROXY", "no_proxy"]).map(|(_, list)| list).unwrap_or_default();
    if is_loopback(url.host()) || is_exempt(url, &exempt) {
        return Ok(None);
    }
    match Proxy::new(text.trim()) {
        Ok(proxy) => Ok(Some(proxy)),
        Err(_) => Err(format!("{name} is not the URL of an http or https proxy")),
    }
}

/// Matches NO_PROXY like curl and Go: `*`, or a list of hosts (including their subdomains), `.suffix`, `host:port`,
/// addresses and networks in CIDR notation.
fn is_exempt(url: &Url, list: &str) -> bool {
    let host = url.host();
    list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" || in_network(host, entry) {
            return true;
        }
        let entry = entry.to_ascii_lowercase();
        let (name, port) = split_port(&entry);
        if port.is_some_and(|port| port.parse() != Ok(url.port())) {
            return false;
        }
        let name = name.trim_start_matches('*').trim_start_matches('.').trim_matches(['[', ']']);
        let host = host.trim_matches(['[', ']']);
        host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
    })
}

fn in_network(host: &str, entry: &str) -> bool {
    let Some((network, length)) = entry.split_once('/') else { return false };
    let (Some(address), Ok(network), Ok(length)) = (literal(host), network.parse(), length.parse::<u32>())
    else {
        return false;
    };
    use std::net::IpAddr::{V4, V6};
    match (address, network) {
        (V4(address), V4(network)) if length <= 32 => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            (address.to_bits() ^ std::net::Ipv4Addr::to_bits(network)) & mask == 0
        }
        (V6(address), V6(network)) if length <= 128 => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            (address.to_bits() ^ std::net::Ipv6Addr::to_bits(network)) & mask == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy_of(url: &str, settings: &[(&str, &str)]) -> Result<String, String> {
        let url = Url::parse(url).unwrap();
        let env = |name: &str| settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_string());
        Ok(for_url(&url, env)?.map_or("direct".into(), |proxy| format!("{}:{}", proxy.host(), proxy.port())))
    }

    #[test]
    fn the_proxy_depends_on_the_scheme_and_excludes_this_machine() {
        let both = [
            ("HTTPS_PROXY", "http://s:1"),
            ("http_proxy", "p:2"),
            ("NO_PROXY", "corp.example, 10.0.0.0/8,x:81"),
        ];
        let check = |url: &str, proxy: &str| assert_eq!(proxy_of(url, &both).unwrap(), proxy, "{url}");
        check("https://docker.io/", "s:1");
        check("http://docker.io/", "p:2");
        check("http://127.0.0.1:5000/", "direct");
        check("https://localhost/", "direct");
        check("https://corp.example/", "direct");
        check("https://r.corp.example/", "direct");
        check("https://notcorp.example/", "s:1");
        check("https://10.1.2.3/", "direct");
        check("https://11.1.2.3/", "s:1");
        check("http://x:81/", "direct");
        check("http://x/", "p:2");
        assert_eq!(proxy_of("https://h/", &[("ALL_PROXY", "http://a:3")]).unwrap(), "a:3");
        assert_eq!(
            proxy_of("https://h/", &[("HTTPS_PROXY", "http://a:3"), ("no_proxy", "*")]).unwrap(),
            "direct"
        );
        assert_eq!(proxy_of("https://h/", &[("HTTPS_PROXY", ""), ("HTTP_PROXY", "x")]).unwrap(), "direct");
    }

    #[test]
    fn an_invalid_setting_is_reported_without_its_password() {
        let error = proxy_of("https://h/", &[("HTTPS_PROXY", "gopher://u:secret@h")]).unwrap_err();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
    }
}
