// SPDX-License-Identifier: GPL-2.0

//! Which addresses of the host's network a task may reach, and be reached at.
//!
//! An address is copied once, looked at as the kernel will look at it, and then used as it was copied.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use super::network::option;
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::profile::{Host, NetworkRule, NetworkRules, Protocol};

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// `connect`: an address of no family takes the peer away.
    Connect,
    /// To send something there: without a family it is one of IPv4.
    Send,
    /// To be reached there; without a family it is one of IPv4 as well.
    Bind,
}

/// An address with a port; none if it is of another family, or of no length that the kernel would take.
fn parse(address: &[u8]) -> Option<(IpAddr, u16)> {
    let family = i32::from(u16::from_le_bytes(*address.first_chunk()?));
    let port = u16::from_be_bytes(address.get(2..4)?.try_into().ok()?);
    let ip = match family {
        libc::AF_INET | libc::AF_UNSPEC => {
            let bytes: [u8; 4] = address.get(4..8)?.try_into().ok()?;
            IpAddr::V4(Ipv4Addr::from(bytes))
        }
        libc::AF_INET6 => {
            let bytes: [u8; 16] = address.get(8..24)?.try_into().ok()?;
            // What stands for one of IPv4 is that.
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((ip, port))
}

/// The address with a port of a family that has some, if it names one.
pub(super) fn named(address: &[u8]) -> Option<(IpAddr, u16)> {
    let family = i32::from(u16::from_le_bytes(*address.first_chunk()?));
    (family != libc::AF_UNSPEC)
        .then(|| parse(address))
        .flatten()
}

/// Whether an address is of a network.
fn is_in(address: IpAddr, network: IpAddr, prefix: u8) -> bool {
    let shift = |width: u32| width.checked_sub(prefix.into());
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) => shift(32).is_some_and(|shift| {
            let differs = u32::from(address) ^ u32::from(network);
            differs.checked_shr(shift).unwrap_or(0) == 0
        }),
        (IpAddr::V6(address), IpAddr::V6(network)) => shift(128).is_some_and(|shift| {
            let differs = u128::from(address) ^ u128::from(network);
            differs.checked_shr(shift).unwrap_or(0) == 0
        }),
        _ => false,
    }
}

/// Whether a rule is about an address.
fn covers(rule: &NetworkRule, listen: bool, protocol: Protocol, at: (IpAddr, u16)) -> bool {
    let (address, port) = at;
    let host = match rule.host {
        Host::Any => true,
        Host::Network(network, prefix) => is_in(address, network, prefix),
        // Whoever started the task has looked it up, or it has no address.
        Host::Name(_) => false,
    };
    rule.listen == listen
        && rule.protocol == protocol
        && (rule.ports.0..=rule.ports.1).contains(&port)
        && host
}

/// What a socket of IPv4 or IPv6 speaks; none for one of another family.
pub(super) fn protocol(fd: RawFd) -> SysResult<Option<Protocol>> {
    let number = |name| option(fd, libc::SOL_SOCKET, name).map(i32::from_le_bytes);
    Ok(match (number(libc::SO_DOMAIN)?, number(libc::SO_TYPE)?) {
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => Some(Protocol::Tcp),
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => Some(Protocol::Udp),
        _ => None,
    })
}

/// Refuses to use an address that no rule is about, on a socket in the host's network.
pub(super) fn check(
    rules: &NetworkRules,
    fd: RawFd,
    purpose: Purpose,
    address: &[u8],
) -> SysResult<()> {
    let NetworkRules::Only(rules) = rules else {
        return Ok(());
    };
    let Some(protocol) = protocol(fd)? else {
        return Ok(());
    };
    let no_family = address.first_chunk() == Some(&(libc::AF_UNSPEC as u16).to_le_bytes());
    if purpose == Purpose::Connect && no_family {
        return Ok(());
    }
    let listen = purpose == Purpose::Bind;
    let at = parse(address).ok_or(Errno::EAFNOSUPPORT)?;
    // A port that the kernel chooses is for answers, until somebody listens there.
    let chosen = listen && at.1 == 0;
    let mut rules = rules.iter();
    match rules.find(|rule| covers(rule, listen, protocol, at)) {
        Some(rule) => notes::note(|notes| notes.rule = Some(rule.origin.to_string())),
        None if chosen => {}
        None => return Err(Errno::EACCES),
    }
    Ok(())
}

/// Refuses to listen where no rule lets the task be reached; a socket without an address would get any port.
pub(super) fn check_listen(rules: &NetworkRules, fd: RawFd) -> SysResult<()> {
    let NetworkRules::Only(rules) = rules else {
        return Ok(());
    };
    let Some(protocol) = protocol(fd)? else {
        return Ok(());
    };
    let (mut name, mut len) = ([0; 128], 128u32.to_le_bytes());
    pass!(GETSOCKNAME, fd, &mut name, &mut len)?;
    let name = name.get(..word32(&len, 0) as usize).unwrap_or(&name);
    let at = parse(name).ok_or(Errno::EACCES)?;
    let mut rules = rules.iter();
    match rules.any(|rule| covers(rule, true, protocol, at)) {
        true => Ok(()),
        false => Err(Errno::EACCES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Origin;
    use std::os::fd::AsRawFd;

    /// An address of IPv4, as it is in memory.
    fn v4(address: [u8; 4], port: u16, family: i32) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes[..2].copy_from_slice(&(family as u16).to_le_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[4..8].copy_from_slice(&address);
        bytes
    }

    fn v6(address: Ipv6Addr, port: u16) -> Vec<u8> {
        let mut bytes = vec![0; 28];
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_le_bytes());
        bytes[2..4].copy_from_slice(&port.to_be_bytes());
        bytes[8..24].copy_from_slice(&address.octets());
        bytes
    }

    fn rule(listen: bool, protocol: Protocol, host: Host, ports: (u16, u16)) -> NetworkRule {
        NetworkRule {
            listen,
            protocol,
            host,
            ports,
            origin: Origin::Program,
        }
    }

    #[test]
    fn only_what_a_rule_is_about_is_reached() {
        let network = Host::Network(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 0)), 24);
        let six = Host::Network("2001:db8::1".parse().unwrap(), 128);
        let rules = NetworkRules::Only(vec![
            rule(false, Protocol::Tcp, network, (80, 443)),
            rule(false, Protocol::Tcp, six, (1, 65535)),
            rule(false, Protocol::Udp, Host::Any, (53, 53)),
            rule(true, Protocol::Tcp, Host::Any, (8080, 8080)),
        ]);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (tcp, udp) = (tcp.as_raw_fd(), udp.as_raw_fd());
        let (inet, none) = (libc::AF_INET, libc::AF_UNSPEC);
        let mapped = |a: [u8; 4]| Ipv4Addr::from(a).to_ipv6_mapped();
        let (refused, family) = (Err(Errno::EACCES), Err(Errno::EAFNOSUPPORT));
        use Purpose::{Bind, Connect, Send};
        for (fd, purpose, address, result) in [
            (tcp, Connect, v4([192, 0, 2, 9], 443, inet), Ok(())),
            (tcp, Connect, v4([192, 0, 3, 9], 443, inet), refused),
            (tcp, Connect, v4([192, 0, 2, 9], 444, inet), refused),
            (tcp, Connect, v4([192, 0, 2, 9], 444, none), Ok(())),
            (tcp, Send, v4([192, 0, 2, 9], 444, none), refused),
            (tcp, Connect, v6(mapped([192, 0, 2, 9]), 80), Ok(())),
            (tcp, Connect, v6(mapped([192, 0, 9, 9]), 80), refused),
            (tcp, Connect, v6("2001:db8::1".parse().unwrap(), 9), Ok(())),
            (tcp, Connect, v6("2001:db8::2".parse().unwrap(), 9), refused),
            (tcp, Bind, v4([0; 4], 8080, inet), Ok(())),
            (tcp, Bind, v4([0; 4], 8080, none), Ok(())),
            (tcp, Bind, v4([0; 4], 8081, inet), refused),
            (tcp, Bind, v4([0; 4], 8081, none), refused),
            (tcp, Bind, v4([0; 4], 0, inet), Ok(())),
            (udp, Send, v4([203, 0, 113, 1], 53, inet), Ok(())),
            (udp, Send, v4([203, 0, 113, 1], 54, inet), refused),
            (udp, Send, v4([203, 0, 113, 1], 54, none), refused),
            (udp, Connect, v4([192, 0, 2, 9], 443, inet), refused),
            (udp, Connect, vec![2, 0, 1], family),
            (udp, Connect, vec![2], family),
            (udp, Send, vec![1, 0, b'/', b'x'], family),
        ] {
            let text = format!("{fd} {purpose:?} {address:?}");
            assert_eq!(check(&rules, fd, purpose, &address), result, "{text}");
            let all = check(&NetworkRules::Host, fd, purpose, &address);
            assert_eq!(all, Ok(()), "{text}");
        }
        // The port that the kernel chose is none of the rules'.
        assert_eq!(check_listen(&rules, tcp), refused);
        assert_eq!(check_listen(&NetworkRules::Host, tcp), Ok(()));
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(check(&rules, unix.as_raw_fd(), Connect, &[1, 0]), Ok(()));
    }

    #[test]
    fn networks_have_prefixes() {
        let is_in = |address: &str, network: &str, prefix| {
            is_in(address.parse().unwrap(), network.parse().unwrap(), prefix)
        };
        assert!(is_in("10.1.2.3", "10.0.0.0", 8));
        assert!(!is_in("11.1.2.3", "10.0.0.0", 8));
        assert!(is_in("11.1.2.3", "0.0.0.0", 0));
        assert!(is_in("2001:db8::1", "::", 0));
        assert!(!is_in("10.0.0.1", "::", 0));
        assert!(is_in("2001:db8::1", "2001:db8::1", 128));
        assert!(!is_in("10.0.0.1", "10.0.0.1", 33));
    }
}
