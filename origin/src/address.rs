//! Which addresses a registry, its redirects and its token realms may lead to.
//!
//! The name of a registry comes from clients, redirects and realms from registries: without rules, either
//! could make a node ask services that only it can reach. An address is checked where it is used: written
//! in a URL before each request, resolved from a name by the resolver that the connection is made with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::error::Refusal;
use crate::realm;

/// What one origin may connect to.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressRules {
    /// Hosts that may have any address: those that the operator wrote into this registry's configuration.
    pub(crate) trusted_hosts: Vec<String>,
    /// A domain all of whose hosts are trusted so: the configured registry's own.
    pub(crate) trusted_domain: Option<String>,
    /// Hosts of proxies: connected to, but never a target.
    pub(crate) proxies: Vec<String>,
}

impl AddressRules {
    /// Whether the operator vouches for the host.
    pub(crate) fn trusts(&self, host: &str) -> bool {
        let listed = self.trusted_hosts.iter().any(|trusted| trusted == host);
        listed
            || (self.trusted_domain.is_some()
                && realm::registrable_domain(host) == self.trusted_domain.as_deref())
    }

    /// Checks what a URL shows without resolving its name.
    pub(crate) fn check(&self, url: &Url) -> Result<(), Refusal> {
        let wrong = || Refusal::Url(url.host_str().unwrap_or(url.scheme()).to_owned());
        let plain = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !plain {
            return Err(wrong());
        }
        let (host, text) = url.host().zip(url.host_str()).ok_or_else(wrong)?;
        let refused = match host {
            _ if self.trusts(text) => false,
            Host::Ipv4(ip) => !is_public(ip.into()),
            Host::Ipv6(ip) => !is_public(ip.into()),
            Host::Domain(name) => self.proxies.iter().any(|proxy| proxy == name),
        };
        if refused { Err(Refusal::Address(text.to_owned())) } else { Ok(()) }
    }
}

/// A refused name, as an error that passes through the HTTP client.
#[derive(Debug, thiserror::Error)]
#[error("{0} resolves to addresses that are not public")]
pub(crate) struct NotPublic(pub(crate) String);

/// Resolves names, and leaves out the addresses that the rules forbid.
pub(crate) struct GuardedResolver(pub(crate) Arc<AddressRules>);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let rules = self.0.clone();
        Box::pin(async move {
            let host = name.as_str();
            let free = rules.trusts(host) || rules.proxies.iter().any(|proxy| proxy == host);
            let found = tokio::net::lookup_host((host, 0)).await?;
            let usable: Vec<SocketAddr> = found.filter(|addr| free || is_public(addr.ip())).collect();
            if usable.is_empty() {
                return Err(NotPublic(host.to_owned()).into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is one of the public Internet.
pub(crate) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

// The special-purpose blocks of RFC 6890 that lead into a private network, to this host or nowhere.
fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocol = (a, b, c) == (192, 0, 0);
    let benchmark = a == 198 && (b == 18 || b == 19);
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_documentation()
        || a == 0
        || a >= 240;
    !(special || shared || protocol || benchmark)
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    if let Some(v4) = ip.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let [a, b, c, d, e, f, g, h] = ip.segments();
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        // ::, ::1 and IPv4-compatible addresses, which are deprecated.
        (0, 0, 0, 0, 0, 0) => false,
        // NAT64, RFC 6052: the way to IPv4 from a network without it.
        (0x64, 0xff9b, 0, 0, 0, 0) => is_public_v4(embedded(g, h)),
        (0x64, 0xff9b, ..) => false,
        // 6to4, RFC 3056.
        (0x2002, high, low, ..) => is_public_v4(embedded(high, low)),
        // Teredo hides its IPv4 address; documentation.
        (0x2001, 0 | 0xdb8, ..) => false,
        // Only 2000::/3 is global unicast: not unique local, link local, site local, multicast.
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(host: &str, domain: Option<&str>) -> AddressRules {
        AddressRules {
            trusted_hosts: vec![host.to_owned()],
            trusted_domain: domain.map(str::to_owned),
            proxies: vec!["proxy.corp".to_owned()],
        }
    }

    #[test]
    fn addresses_that_are_not_public() {
        for text in [
            "127.0.0.1",
            "127.9.9.9",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "198.18.0.1",
            "192.0.0.8",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn addresses_that_are_public() {
        for text in
            ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
        {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn urls_with_forbidden_addresses_are_refused_however_written() {
        let rules = rules("registry.example", None);
        for text in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
            "https://017700000001/",
            "https://[::1]:5000/",
            "https://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/",
            "https://user@registry.example/",
            "file:///etc/passwd",
            "https://proxy.corp/",
        ] {
            assert!(rules.check(&Url::parse(text).unwrap()).is_err(), "{text}");
        }
        assert!(rules.check(&Url::parse("https://cdn.example/").unwrap()).is_ok());
    }

    #[test]
    fn what_the_operator_named_is_trusted() {
        let rules = rules("10.0.0.1", Some("example.com"));
        assert!(rules.check(&Url::parse("http://10.0.0.1:5000/").unwrap()).is_ok());
        assert!(rules.check(&Url::parse("http://10.0.0.2:5000/").unwrap()).is_err());
        assert!(rules.trusts("auth.example.com") && !rules.trusts("example.org") && !rules.trusts("com"));
    }

    #[tokio::test]
    async fn names_are_checked_after_they_are_resolved() {
        let resolve = async |rules: AddressRules| {
            let name: Name = "localhost".parse().unwrap();
            GuardedResolver(Arc::new(rules)).resolve(name).await.map(|found| found.count())
        };
        let refused = resolve(rules("registry.example", None)).await.unwrap_err();
        assert!(refused.is::<NotPublic>());
        assert!(resolve(rules("localhost", None)).await.unwrap() > 0);
    }
}
