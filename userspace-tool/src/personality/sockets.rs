// SPDX-License-Identifier: GPL-2.0

//! Calls that make sockets and give them addresses.
//!
//! What a socket can reach is decided where it is opened ([`super::network`]) and where it gets an
//! address, its own or its peer's.

use std::ffi::CString;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};

use super::addresses::{self, Purpose};
use super::fds::give_pair;
use super::message::ADDRESS_MAX;
use super::network::option;
use super::status::status_at;
use super::Args;
use crate::audit::{notes, text};
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::profile::Protocol;
use crate::task::Task;

/// What may follow the kind of a socket.
const FLAGS: i32 = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// Checks that a task may have sockets of a kind; the errors are those of a kernel that has no others.
pub(super) fn check_kind(domain: i32, kind: i32, protocol: i32) -> SysResult<()> {
    /// One more than the last kind that Linux knows.
    const KINDS: i32 = 11;
    if kind & !(FLAGS | 0xf) != 0 || !(0..KINDS).contains(&(kind & 0xf)) {
        return Err(Errno::EINVAL);
    }
    let protocols: &[i32] = match (domain, kind & 0xf) {
        // On Linux a raw one is one for datagrams there.
        (
            libc::AF_UNIX,
            libc::SOCK_STREAM | libc::SOCK_DGRAM | libc::SOCK_SEQPACKET | libc::SOCK_RAW,
        ) => &[0, libc::PF_UNIX],
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM) => &[0, libc::IPPROTO_TCP],
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM) => &[0, libc::IPPROTO_UDP],
        (libc::AF_INET | libc::AF_INET6, libc::SOCK_RAW) => return Err(Errno::EPERM),
        (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_DGRAM) => &[libc::NETLINK_ROUTE],
        (libc::AF_UNIX | libc::AF_INET | libc::AF_INET6 | libc::AF_NETLINK, _) => {
            return Err(Errno::ESOCKTNOSUPPORT)
        }
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    match protocols.contains(&protocol) {
        true => Ok(()),
        false => Err(Errno::EPROTONOSUPPORT),
    }
}

pub(super) fn socket(task: &mut Task, [domain, kind, protocol, ..]: Args) -> SysResult {
    let (domain, kind, protocol) = (domain as i32, kind as i32, protocol as i32);
    check_kind(domain, kind, protocol)?;
    task.network.open(&task.fds, domain, kind, protocol)
}

pub(super) fn socketpair(task: &mut Task, [domain, kind, protocol, fds, ..]: Args) -> SysResult {
    let (domain, kind, protocol) = (domain as i32, kind as i32, protocol as i32);
    check_kind(domain, kind, protocol)?;
    if domain != libc::AF_UNIX {
        // No others come in pairs.
        return Err(Errno::EOPNOTSUPP);
    }
    // A pair needs no network to be in: who gives one of it an address is refused.
    let mut pair = [0; 8];
    pass!(SOCKETPAIR, domain, kind, protocol, &mut pair)?;
    give_pair(task, fds, &pair)
}

/// What an address that is for `AF_UNIX` names.
#[derive(Debug, PartialEq, Eq)]
enum UnixName {
    /// No path: nothing, or what the network namespace has.
    Abstract,
    /// A path.
    Path(CString),
}

/// The family of an address.
fn family(address: &[u8]) -> Option<i32> {
    let family = address.first_chunk()?;
    Some(u16::from_le_bytes(*family).into())
}

/// What an address for `AF_UNIX` names.
fn unix_name(address: &[u8]) -> UnixName {
    match address.get(2..) {
        None | Some([] | [0, ..]) => UnixName::Abstract,
        Some(path) => {
            // It ends at its NUL, or with the address.
            let path: Vec<u8> = path.iter().copied().take_while(|&byte| byte != 0).collect();
            UnixName::Path(CString::new(path).unwrap_or_default())
        }
    }
}

/// Copies an address.
pub(super) fn address(task: &Task, address: u64, len: u64) -> SysResult<Vec<u8>> {
    let len = usize::try_from(len as u32 as i32).map_err(|_| Errno::EINVAL)?;
    if len > ADDRESS_MAX {
        return Err(Errno::EINVAL);
    }
    task.memory.read_vec(address, len)
}

/// The path of an address, if the socket is one that takes it for a path.
fn path_of(fd: RawFd, address: &[u8]) -> SysResult<Option<CString>> {
    if family(address) != Some(libc::AF_UNIX) {
        return Ok(None);
    }
    match unix_name(address) {
        UnixName::Abstract => Ok(None),
        UnixName::Path(path) => {
            let domain = option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN).map(i32::from_le_bytes)?;
            Ok((domain == libc::AF_UNIX).then_some(path))
        }
    }
}

/// Checks that the task may make a socket at `path`. That it is made there is then the kernel's to see to, as the
/// path may lead elsewhere by then.
fn may_make_at(task: &Task, path: &CString) -> SysResult<()> {
    match task.scope().place_to_make(libc::AT_FDCWD, path) {
        Ok(_) if task.network.has_paths() => Ok(()),
        Ok(_) => Err(Errno::EACCES),
        Err(Errno::EEXIST) => Err(Errno::EADDRINUSE),
        Err(errno) => Err(errno),
    }
}

/// Notes whom an address is of.
fn note_address(fd: RawFd, address: &[u8]) {
    let protocol = match addresses::protocol(fd) {
        Ok(Some(Protocol::Tcp)) => "tcp",
        Ok(Some(Protocol::Udp)) => "udp",
        _ => "unix",
    };
    let named = match (addresses::named(address), unix_name(address)) {
        (Some((ip, port)), _) => SocketAddr::new(ip, port).to_string(),
        (None, _) if family(address) != Some(libc::AF_UNIX) => return,
        (None, UnixName::Path(path)) => text(path.as_bytes()),
        (None, UnixName::Abstract) => match address.get(3..) {
            Some(name) => format!("@{}", text(name)),
            None => return,
        },
    };
    notes::note(|notes| notes.address = Some((named, protocol.to_owned())));
}

/// Checks an address to reach.
pub(super) fn check_peer(
    task: &Task,
    fd: RawFd,
    purpose: Purpose,
    address: &[u8],
) -> SysResult<()> {
    if notes::is_on() {
        note_address(fd, address);
    }
    may_reach(task, fd, purpose, address).map_err(notes::denied)
}

/// Whether the task may reach an address.
fn may_reach(task: &Task, fd: RawFd, purpose: Purpose, address: &[u8]) -> SysResult<()> {
    task.network.check_own(fd)?;
    addresses::check(&task.access.rules().network, fd, purpose, address)?;
    if family(address) == Some(libc::AF_NETLINK) && (4..12).any(|at| address.get(at) != Some(&0)) {
        // The kernel is there to talk to, and no process.
        return Err(Errno::EPERM);
    }
    match path_of(fd, address)? {
        None => Ok(()),
        // The host's sockets are not for a task: whoever listens there acts for it, with powers of its own.
        Some(_) if task.network.has_paths() => Ok(()),
        Some(path) => match status_at(libc::AT_FDCWD, &path, 0)?.is_socket() {
            true => Err(Errno::EACCES),
            false => Err(Errno::ECONNREFUSED),
        },
    }
}

pub(super) fn bind(task: &mut Task, [fd, name, len, ..]: Args) -> SysResult {
    let pinned = task.fds.pin(fd)?;
    let fd = pinned.as_raw_fd();
    let mut name = address(task, name, len)?;
    task.network.check_own(fd)?;
    if notes::is_on() {
        note_address(fd, &name);
    }
    addresses::check(&task.access.rules().network, fd, Purpose::Bind, &name)
        .map_err(notes::denied)?;
    if let Some(path) = path_of(fd, &name)? {
        may_make_at(task, &path)?;
    }
    let len = name.len() as u64;
    pass!(BIND, fd, name.as_mut_slice(), len)
}

pub(super) fn connect(task: &mut Task, [fd, name, len, ..]: Args) -> SysResult {
    let pinned = task.fds.pin(fd)?;
    let fd = pinned.as_raw_fd();
    let mut name = address(task, name, len)?;
    check_peer(task, fd, Purpose::Connect, &name)?;
    let len = name.len() as u64;
    pass!(CONNECT, fd, name.as_mut_slice(), len)
}

pub(super) fn listen(task: &mut Task, [fd, backlog, ..]: Args) -> SysResult {
    let pinned = task.fds.pin(fd)?;
    let fd = pinned.as_raw_fd();
    // Without an address it gets one.
    task.network.check_own(fd)?;
    addresses::check_listen(&task.access.rules().network, fd)?;
    pass!(LISTEN, fd, backlog as i32)
}

pub(super) fn accept(task: &mut Task, [fd, name, len, ..]: Args) -> SysResult {
    accept4(task, [fd, name, len, 0, 0, 0])
}

pub(super) fn accept4(task: &mut Task, [fd, name, len, flags, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    if flags as i32 & !FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let mut peer = Name::new(name, len);
    let new = pass!(ACCEPT4, fd, &mut peer.bytes, &mut peer.len, flags as i32)?;
    let new = task.fds.accept(new)?;
    if let Err(error) = peer.write(task) {
        pass!(CLOSE, new)?;
        return Err(error);
    }
    Ok(new)
}

/// An address for the guest, and where it wants it.
pub(super) struct Name {
    pub(super) bytes: [u8; ADDRESS_MAX],
    pub(super) len: [u8; 4],
    address: u64,
    len_address: u64,
}

impl Name {
    /// For an address at `address`, which may be null, with its length at `len`.
    pub(super) fn new(address: u64, len: u64) -> Self {
        Self {
            bytes: [0; ADDRESS_MAX],
            len: (ADDRESS_MAX as u32).to_le_bytes(),
            address,
            len_address: len,
        }
    }

    /// Writes what there is room for, and the length of all; when the call is over, as Linux does.
    pub(super) fn write(&self, task: &Task) -> SysResult<()> {
        if self.address == 0 {
            return Ok(());
        }
        self.write_anywhere(task)
    }

    /// As [`Self::write`], also to a null pointer, which is an error then.
    fn write_anywhere(&self, task: &Task) -> SysResult<()> {
        let room = word32(&task.memory.read::<4>(self.len_address)?, 0) as i32;
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
        let len = (word32(&self.len, 0) as usize).min(ADDRESS_MAX);
        task.memory
            .write(self.address, &self.bytes[..len.min(room)])?;
        task.memory.write(self.len_address, &self.len)
    }
}

pub(super) fn getsockname(task: &mut Task, [fd, name, len, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let mut own = Name::new(name, len);
    pass!(GETSOCKNAME, fd, &mut own.bytes, &mut own.len)?;
    own.write_anywhere(task)?;
    Ok(0)
}

pub(super) fn getpeername(task: &mut Task, [fd, name, len, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let mut peer = Name::new(name, len);
    pass!(GETPEERNAME, fd, &mut peer.bytes, &mut peer.len)?;
    peer.write_anywhere(task)?;
    Ok(0)
}

pub(super) fn shutdown(task: &mut Task, [fd, how, ..]: Args) -> SysResult {
    pass!(SHUTDOWN, task.fds.guest(fd)?, how as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_kinds_can_be_had() {
        let (stream, datagram, raw) = (libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW);
        for (domain, kind, protocol, result) in [
            (libc::AF_INET, stream, 0, Ok(())),
            (libc::AF_INET6, stream | FLAGS, libc::IPPROTO_TCP, Ok(())),
            (libc::AF_INET, datagram, libc::IPPROTO_UDP, Ok(())),
            (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, Ok(())),
            (libc::AF_NETLINK, raw, libc::NETLINK_ROUTE, Ok(())),
            (libc::AF_NETLINK, raw, 9, Err(Errno::EPROTONOSUPPORT)),
            (libc::AF_INET, raw, 1, Err(Errno::EPERM)),
            (libc::AF_INET6, raw, 255, Err(Errno::EPERM)),
            (libc::AF_INET, datagram, 1, Err(Errno::EPROTONOSUPPORT)),
            (libc::AF_INET, stream, 262, Err(Errno::EPROTONOSUPPORT)),
            // SOCK_PACKET would be one of AF_PACKET.
            (libc::AF_INET, 10, 0x300, Err(Errno::ESOCKTNOSUPPORT)),
            (libc::AF_PACKET, raw, 0x300, Err(Errno::EAFNOSUPPORT)),
            (libc::AF_VSOCK, stream, 0, Err(Errno::EAFNOSUPPORT)),
            (libc::AF_ALG, 5, 0, Err(Errno::EAFNOSUPPORT)),
            (0, stream, 0, Err(Errno::EAFNOSUPPORT)),
            (-1, stream, 0, Err(Errno::EAFNOSUPPORT)),
            (libc::AF_INET, 11, 0, Err(Errno::EINVAL)),
            (libc::AF_INET, stream | 0x100, 0, Err(Errno::EINVAL)),
            (libc::AF_INET, -1, 0, Err(Errno::EINVAL)),
        ] {
            assert_eq!(
                check_kind(domain, kind, protocol),
                result,
                "{domain} {kind} {protocol}"
            );
        }
    }

    #[test]
    fn names_are_read_as_the_kernel_does() {
        let path = |text: &str| UnixName::Path(CString::new(text).unwrap());
        for (address, name) in [
            (&b""[..], UnixName::Abstract),
            (b"\x01\0", UnixName::Abstract),
            (b"\x01\0\0/run/x", UnixName::Abstract),
            (b"\x01\0/run/x", path("/run/x")),
            (b"\x01\0/run/x\0/etc", path("/run/x")),
            (b"\x01\0x", path("x")),
        ] {
            assert_eq!(unix_name(address), name, "{address:?}");
        }
        assert_eq!(family(b"\x01"), None);
        assert_eq!(family(b"\x02\0rest"), Some(libc::AF_INET));
    }
}
