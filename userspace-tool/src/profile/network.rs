// SPDX-License-Identifier: GPL-2.0

//! Network rules as text: `tcp:192.0.2.0/24:443`.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::{Host, NetworkRule, Origin, Protocol};

/// What `--net` has before a rule that is about being reached.
const LISTEN: &str = "listen:";

impl Protocol {
    /// What rules call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl NetworkRule {
    /// Reads what may be reached: `PROTOCOL:HOST:PORTS`.
    pub fn reach(text: &str, origin: Origin) -> Result<Self, String> {
        let (protocol, rest) = protocol(text)?;
        let (host, ports) = rest.rsplit_once(':').ok_or_else(|| {
            format!("what is reached has a port: write {text}:443, or {text}:* for any")
        })?;
        let ports = self::ports(ports)?;
        if ports == (0, 0) {
            return Err("nothing is reached at port 0: ports are 1 to 65535".into());
        }
        Ok(Self {
            listen: false,
            protocol,
            host: self::host(host)?,
            ports,
            origin,
        })
    }

    /// Reads where it may be reached: `PROTOCOL:PORTS`, or `PROTOCOL:ADDRESS:PORTS`.
    pub fn listen(text: &str, origin: Origin) -> Result<Self, String> {
        let (protocol, rest) = protocol(text)?;
        let (host, ports) = match rest.rsplit_once(':') {
            Some((host, ports)) => (self::host(host)?, ports),
            None => (Host::Any, rest),
        };
        if matches!(host, Host::Name(_)) {
            return Err("one listens on an address of the machine: write it in numbers".into());
        }
        Ok(Self {
            listen: true,
            protocol,
            host,
            ports: self::ports(ports)?,
            origin,
        })
    }
}

/// As `--net` has it: [`NetworkRule::reach`], or with `listen:` before it [`NetworkRule::listen`].
impl FromStr for NetworkRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let origin = Origin::Option("--net");
        match text.strip_prefix(LISTEN) {
            Some(rest) => Self::listen(rest, origin),
            None => Self::reach(text, origin),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name),
            Self::Network(IpAddr::V4(address), 32) => write!(f, "{address}"),
            Self::Network(IpAddr::V4(address), prefix) => write!(f, "{address}/{prefix}"),
            Self::Network(IpAddr::V6(address), 128) => write!(f, "[{address}]"),
            Self::Network(IpAddr::V6(address), prefix) => write!(f, "[{address}/{prefix}]"),
        }
    }
}

/// The rule as a profile has it, under the key that says whether it is about being reached.
impl fmt::Display for NetworkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.protocol.name(), self.host)?;
        match self.ports {
            (0, u16::MAX) => f.write_str("*"),
            (from, to) if from == to => write!(f, "{from}"),
            (from, to) => write!(f, "{from}-{to}"),
        }
    }
}

/// The protocol, and what is behind it.
fn protocol(text: &str) -> Result<(Protocol, &str), String> {
    match text.split_once(':') {
        Some(("tcp", rest)) => Ok((Protocol::Tcp, rest)),
        Some(("udp", rest)) => Ok((Protocol::Udp, rest)),
        _ => Err(format!(
            "`{text}` starts with no protocol: write tcp:... or udp:..., such as tcp:192.0.2.1:443"
        )),
    }
}

/// Reads ports: one, `FROM-TO` or `*`.
fn ports(text: &str) -> Result<(u16, u16), String> {
    if text == "*" {
        return Ok((0, u16::MAX));
    }
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    };
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (number(from), number(to)) {
        (Some(from), Some(to)) if from <= to => Ok((from, to)),
        (Some(_), Some(_)) => Err(format!(
            "there are no ports in {text}: write the lower one first"
        )),
        _ => Err(format!(
            "`{text}` is no port: write a number up to 65535, FROM-TO, or * for any"
        )),
    }
}

/// Reads what is before the ports.
fn host(text: &str) -> Result<Host, String> {
    if text == "*" {
        return Ok(Host::Any);
    }
    if let Some(inner) = text.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(|| {
            format!(
                "`{text}` has no end: write `]` behind the IPv6 address, and the port behind that"
            )
        })?;
        return network(inner, true);
    }
    if text.contains(':') {
        return Err(format!(
            "`{text}` is no host: write an IPv6 address in brackets, such as tcp:[2001:db8::1]:80"
        ));
    }
    let last = text.rsplit('.').next().unwrap_or_default();
    // No name ends in a number, which tells it from an address, and from one that has a mistake.
    let number = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    if number || text.contains('/') {
        return network(text, false);
    }
    name(text)
}

/// Reads an address, with a prefix or not.
fn network(text: &str, six: bool) -> Result<Host, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .ok()
        .filter(|address: &IpAddr| address.is_ipv6() == six)
        .ok_or_else(|| {
            let (kind, example) = match six {
                true => ("IPv6", "2001:db8::1"),
                false => ("IPv4", "192.0.2.1"),
            };
            format!("`{address}` is no {kind} address; {example} is one")
        })?;
    // The kernel takes it for the IPv4 address: a rule that is only about one of them would be half of one.
    if matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some()) {
        return Err(format!("`{address}` is an IPv4 address: write it as one"));
    }
    let bits = if six { 128 } else { 32 };
    let prefix = match prefix {
        None => bits,
        Some(prefix) => prefix
            .parse()
            .ok()
            .filter(|prefix| *prefix <= bits)
            .ok_or_else(|| format!("`/{prefix}` is no length of a prefix: it is 0 to {bits}"))?,
    };
    let start = mask(address, prefix);
    match start == address {
        true => Ok(Host::Network(address, prefix)),
        false => Err(format!(
            "{address} is not the start of a network of /{prefix}: write {start}/{prefix}"
        )),
    }
}

/// An address with zeroes behind a prefix.
pub(super) fn mask(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(prefix.min(32)));
            IpAddr::V4((address.to_bits() & keep.unwrap_or(0)).into())
        }
        IpAddr::V6(address) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(prefix.min(128)));
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & keep.unwrap_or(0)))
        }
    }
}

/// Reads a host's name.
fn name(text: &str) -> Result<Host, String> {
    let good = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // The root that a name can end with says nothing.
    let text = text.strip_suffix('.').unwrap_or(text);
    match text.len() <= 253 && text.split('.').all(good) {
        true => Ok(Host::Name(text.to_ascii_lowercase())),
        false => Err(format!(
            "`{text}` is no host: write an address, a network such as 192.0.2.0/24, a name, or * for any"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_and_printed() {
        for (text, printed) in [
            ("tcp:192.0.2.1:443", "tcp:192.0.2.1:443"),
            ("udp:192.0.2.0/24:53", "udp:192.0.2.0/24:53"),
            ("tcp:[2001:db8::1]:80", "tcp:[2001:db8::1]:80"),
            ("tcp:[2001:db8::/32]:1-9", "tcp:[2001:db8::/32]:1-9"),
            ("tcp:0.0.0.0/0:1", "tcp:0.0.0.0/0:1"),
            ("tcp:*:1-1023", "tcp:*:1-1023"),
            ("tcp:Example.org.:*", "tcp:example.org:*"),
            ("tcp:*:7-7", "tcp:*:7"),
        ] {
            let rule: NetworkRule = text.parse().unwrap();
            assert!(!rule.listen);
            assert_eq!(rule.origin, Origin::Option("--net"));
            assert_eq!(rule.to_string(), printed);
            assert_eq!(printed.parse(), Ok(rule));
        }
        for (text, printed) in [
            ("listen:tcp:8080", "tcp:*:8080"),
            ("listen:udp:127.0.0.1:0", "udp:127.0.0.1:0"),
            ("listen:udp:[::1]:*", "udp:[::1]:*"),
        ] {
            let rule: NetworkRule = text.parse().unwrap();
            assert!(rule.listen);
            assert_eq!(rule.to_string(), printed);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, part) in [
            ("", "starts with no protocol"),
            ("sctp:192.0.2.1:1", "starts with no protocol"),
            ("tcp:192.0.2.1", "has a port"),
            ("tcp:192.0.2.1:0", "ports are 1 to 65535"),
            ("tcp:192.0.2.1:65536", "is no port"),
            ("tcp:192.0.2.1:+1", "is no port"),
            ("tcp:192.0.2.1:", "is no port"),
            ("tcp:192.0.2.1:9-1", "lower one first"),
            ("tcp:192.0.2.300:1", "is no IPv4 address"),
            ("tcp:192.0.2:1", "is no IPv4 address"),
            ("tcp:192.0.2.1/24:1", "write 192.0.2.0/24"),
            ("tcp:192.0.2.0/33:1", "it is 0 to 32"),
            ("tcp:2001:db8::1:80", "in brackets"),
            ("tcp:[2001:db8::1:80", "has no end"),
            ("tcp:[192.0.2.1]:80", "is no IPv6 address"),
            ("tcp:[::ffff:192.0.2.1]:80", "write it as one"),
            ("tcp::80", "is no host"),
            ("tcp:a..b:80", "is no host"),
            ("tcp:*.example.org:80", "is no host"),
            ("tcp:-x:80", "is no host"),
            ("listen:tcp:localhost:80", "in numbers"),
            ("listen:tcp:", "is no port"),
        ] {
            let error = text.parse::<NetworkRule>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn masks_keep_the_prefix() {
        let masked = |text: &str, prefix| mask(text.parse().unwrap(), prefix).to_string();
        assert_eq!(masked("192.0.2.255", 25), "192.0.2.128");
        assert_eq!(masked("192.0.2.255", 0), "0.0.0.0");
        assert_eq!(masked("192.0.2.255", 32), "192.0.2.255");
        assert_eq!(masked("2001:db8:ffff::1", 33), "2001:db8:8000::");
        assert_eq!(masked("::1", 0), "::");
    }
}
