// SPDX-License-Identifier: GPL-2.0

//! Options of sockets: those that a task may use.

use super::network::option;
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::task::Task;

/// The largest value that is read.
const VALUE_MAX: usize = 1024;

/// What may be done with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// It can be read only.
    Get,
    /// It can be read, and set to a value of so many bytes at most.
    Set(usize),
    /// It can be set so, and not be read.
    Only(usize),
    /// It needs a privilege that tasks do not have.
    Privileged,
    /// It does not exist.
    Unknown,
}

use Use::{Get, Only, Privileged, Set, Unknown};

/// Options that `libc` does not have.
const SO_PEERGROUPS: i32 = 59;
const SO_TIMESTAMP_NEW: i32 = 63;
const SO_TIMESTAMPNS_NEW: i32 = 64;
const SO_RCVTIMEO_NEW: i32 = 66;
const SO_SNDTIMEO_NEW: i32 = 67;
const IP_LOCAL_PORT_RANGE: i32 = 51;
const IPV6_UNICAST_IF: i32 = 76;
const IPV6_FREEBIND: i32 = 78;
const TCP_INQ: i32 = 36;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const MCAST_FIRST: i32 = 42;
const MCAST_LAST: i32 = 47;

/// The sizes of what options take.
const INT: usize = 4;
const TIME: usize = 16;
/// `struct group_source_req`.
const GROUP: usize = 264;

/// What a task may do with an option.
fn usage(level: i32, name: i32) -> Use {
    match level {
        libc::SOL_SOCKET => socket_level(name),
        libc::IPPROTO_TCP => tcp_level(name),
        libc::IPPROTO_UDP => match name {
            libc::UDP_CORK | UDP_SEGMENT | UDP_GRO => Set(INT),
            _ => Unknown,
        },
        libc::IPPROTO_IP => ip_level(name),
        libc::IPPROTO_IPV6 => ipv6_level(name),
        libc::SOL_NETLINK => match name {
            libc::NETLINK_ADD_MEMBERSHIP
            | libc::NETLINK_DROP_MEMBERSHIP
            | libc::NETLINK_PKTINFO
            | libc::NETLINK_CAP_ACK
            | libc::NETLINK_EXT_ACK
            | libc::NETLINK_GET_STRICT_CHK => Set(INT),
            _ => Unknown,
        },
        _ => Unknown,
    }
}

fn socket_level(name: i32) -> Use {
    match name {
        libc::SO_TYPE
        | libc::SO_ERROR
        | libc::SO_PEERCRED
        | libc::SO_ACCEPTCONN
        | libc::SO_PROTOCOL
        | libc::SO_DOMAIN
        | libc::SO_COOKIE
        | libc::SO_MEMINFO
        | SO_PEERGROUPS => Get,
        libc::SO_REUSEADDR
        | libc::SO_DONTROUTE
        | libc::SO_BROADCAST
        | libc::SO_SNDBUF
        | libc::SO_RCVBUF
        | libc::SO_KEEPALIVE
        | libc::SO_OOBINLINE
        | libc::SO_PRIORITY
        | libc::SO_REUSEPORT
        | libc::SO_PASSCRED
        | libc::SO_RCVLOWAT
        | libc::SO_SNDLOWAT
        | libc::SO_TIMESTAMP
        | libc::SO_TIMESTAMPNS
        | SO_TIMESTAMP_NEW
        | SO_TIMESTAMPNS_NEW
        | libc::SO_RXQ_OVFL
        | libc::SO_PEEK_OFF => Set(INT),
        libc::SO_MAX_PACING_RATE | libc::SO_LINGER => Set(8),
        libc::SO_RCVTIMEO | libc::SO_SNDTIMEO | SO_RCVTIMEO_NEW | SO_SNDTIMEO_NEW => Set(TIME),
        libc::SO_DEBUG
        | libc::SO_MARK
        | libc::SO_SNDBUFFORCE
        | libc::SO_RCVBUFFORCE
        | libc::SO_BINDTODEVICE
        | libc::SO_ATTACH_FILTER
        | libc::SO_ATTACH_BPF
        | libc::SO_ATTACH_REUSEPORT_CBPF
        | libc::SO_ATTACH_REUSEPORT_EBPF
        | libc::SO_BUSY_POLL => Privileged,
        _ => Unknown,
    }
}

fn tcp_level(name: i32) -> Use {
    match name {
        // Setting it can load a module.
        libc::TCP_INFO | libc::TCP_CONGESTION => Get,
        libc::TCP_NODELAY
        | libc::TCP_MAXSEG
        | libc::TCP_CORK
        | libc::TCP_KEEPIDLE
        | libc::TCP_KEEPINTVL
        | libc::TCP_KEEPCNT
        | libc::TCP_SYNCNT
        | libc::TCP_LINGER2
        | libc::TCP_DEFER_ACCEPT
        | libc::TCP_WINDOW_CLAMP
        | libc::TCP_QUICKACK
        | libc::TCP_THIN_LINEAR_TIMEOUTS
        | libc::TCP_THIN_DUPACK
        | libc::TCP_USER_TIMEOUT
        | libc::TCP_FASTOPEN
        | libc::TCP_FASTOPEN_CONNECT
        | libc::TCP_NOTSENT_LOWAT
        | TCP_INQ => Set(INT),
        libc::TCP_REPAIR => Privileged,
        _ => Unknown,
    }
}

fn ip_level(name: i32) -> Use {
    match name {
        libc::IP_MTU => Get,
        libc::IP_TOS
        | libc::IP_TTL
        | libc::IP_PKTINFO
        | libc::IP_MTU_DISCOVER
        | libc::IP_RECVERR
        | libc::IP_RECVTTL
        | libc::IP_RECVTOS
        | libc::IP_FREEBIND
        | libc::IP_BIND_ADDRESS_NO_PORT
        | libc::IP_MULTICAST_TTL
        | libc::IP_MULTICAST_LOOP
        | libc::IP_MULTICAST_ALL
        | libc::IP_UNICAST_IF
        | IP_LOCAL_PORT_RANGE => Set(INT),
        // An address, a `struct ip_mreq` or a `struct ip_mreqn`.
        libc::IP_MULTICAST_IF => Set(12),
        libc::IP_ADD_MEMBERSHIP
        | libc::IP_DROP_MEMBERSHIP
        | libc::IP_ADD_SOURCE_MEMBERSHIP
        | libc::IP_DROP_SOURCE_MEMBERSHIP
        | libc::IP_BLOCK_SOURCE
        | libc::IP_UNBLOCK_SOURCE => Only(12),
        MCAST_FIRST..=MCAST_LAST => Only(GROUP),
        libc::IP_TRANSPARENT => Privileged,
        _ => Unknown,
    }
}

fn ipv6_level(name: i32) -> Use {
    match name {
        libc::IPV6_MTU => Set(INT),
        libc::IPV6_V6ONLY
        | libc::IPV6_UNICAST_HOPS
        | libc::IPV6_MULTICAST_IF
        | libc::IPV6_MULTICAST_HOPS
        | libc::IPV6_MULTICAST_LOOP
        | libc::IPV6_MULTICAST_ALL
        | libc::IPV6_MTU_DISCOVER
        | libc::IPV6_RECVERR
        | libc::IPV6_RECVPKTINFO
        | libc::IPV6_RECVHOPLIMIT
        | libc::IPV6_RECVTCLASS
        | libc::IPV6_RECVPATHMTU
        | libc::IPV6_TCLASS
        | libc::IPV6_DONTFRAG
        | libc::IPV6_AUTOFLOWLABEL
        | libc::IPV6_ADDR_PREFERENCES
        | IPV6_UNICAST_IF
        | IPV6_FREEBIND => Set(INT),
        libc::IPV6_ADD_MEMBERSHIP | libc::IPV6_DROP_MEMBERSHIP => Only(20),
        MCAST_FIRST..=MCAST_LAST => Only(GROUP),
        libc::IPV6_TRANSPARENT => Privileged,
        _ => Unknown,
    }
}

/// Checks that a descriptor is one of a socket.
fn check_socket(fd: i32) -> SysResult<()> {
    option::<4>(fd, libc::SOL_SOCKET, libc::SO_TYPE).map(drop)
}

pub(super) fn setsockopt(task: &mut Task, [fd, level, name, value, len, _]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (level, name) = (level as i32, name as i32);
    let len = usize::try_from(len as u32 as i32).map_err(|_| Errno::EINVAL)?;
    let max = match usage(level, name) {
        Set(max) | Only(max) => max,
        Get | Unknown => return check_socket(fd).and(Err(Errno::ENOPROTOOPT)),
        Privileged => return check_socket(fd).and(Err(Errno::EPERM)),
    };
    // The kernel reads no more of any of them.
    let mut bytes = task.memory.read_vec(value, len.min(max))?;
    if (level, name) == (libc::SOL_SOCKET, libc::SO_PRIORITY) && word32(&bytes, 0) > 6 {
        return check_socket(fd).and(Err(Errno::EPERM));
    }
    let len = bytes.len() as u64;
    pass!(SETSOCKOPT, fd, level, name, bytes.as_mut_slice(), len)
}

pub(super) fn getsockopt(task: &mut Task, [fd, level, name, value, len, _]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (level, name) = (level as i32, name as i32);
    if !matches!(usage(level, name), Get | Set(_)) {
        return check_socket(fd).and(Err(Errno::ENOPROTOOPT));
    }
    let wanted = word32(&task.memory.read::<4>(len)?, 0) as i32;
    let wanted = usize::try_from(wanted).map_err(|_| Errno::EINVAL)?;
    let mut bytes = [0; VALUE_MAX];
    let mut got = (wanted.min(VALUE_MAX) as u32).to_le_bytes();
    let result = pass!(GETSOCKOPT, fd, level, name, &mut bytes, &mut got)?;
    let filled = (word32(&got, 0) as usize).min(wanted).min(VALUE_MAX);
    task.memory.write(value, &bytes[..filled])?;
    task.memory.write(len, &got)?;
    Ok(result)
}

/// Whether a call that waits at a socket does so for a time that was set for it: then it is not made again when a
/// signal has interrupted it, as the time would begin anew; see signal(7).
pub(crate) fn waits_for_a_time(task: &Task, number: u64, args: &Args) -> bool {
    let (fd, name) = match number as libc::c_long {
        libc::SYS_read
        | libc::SYS_readv
        | libc::SYS_recvfrom
        | libc::SYS_recvmsg
        | libc::SYS_recvmmsg
        | libc::SYS_accept
        | libc::SYS_accept4
        | libc::SYS_splice => (args[0], libc::SO_RCVTIMEO),
        libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_sendto
        | libc::SYS_sendmsg
        | libc::SYS_sendmmsg
        | libc::SYS_connect
        | libc::SYS_sendfile => (args[0], libc::SO_SNDTIMEO),
        _ => return false,
    };
    let Ok(fd) = task.fds.guest(fd) else {
        return false;
    };
    // None is zero; and what is no socket has none.
    option::<TIME>(fd, libc::SOL_SOCKET, name).is_ok_and(|time| time != [0; TIME])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_power_is_not_served() {
        for name in [
            libc::SO_ATTACH_FILTER,
            libc::SO_ATTACH_BPF,
            libc::SO_BINDTODEVICE,
            libc::SO_MARK,
            libc::SO_RCVBUFFORCE,
        ] {
            assert_eq!(usage(libc::SOL_SOCKET, name), Privileged);
        }
        // Netfilter's start at 64 on both levels; on one IPv6's own are there as well.
        for name in (64..1024).chain([0x7fff, -1]) {
            assert_eq!(usage(libc::IPPROTO_IP, name), Unknown, "{name}");
        }
        for name in [64, 65, 68, 69, 80, 128] {
            assert_eq!(usage(libc::IPPROTO_IPV6, name), Unknown, "{name}");
        }
        for (level, name) in [
            (libc::SOL_SOCKET, libc::SO_ZEROCOPY),
            (libc::SOL_SOCKET, libc::SO_PEERSEC),
            (libc::SOL_SOCKET, 76),
            (libc::SOL_SOCKET, 77),
            (libc::IPPROTO_TCP, libc::TCP_ULP),
            (libc::IPPROTO_TCP, libc::TCP_MD5SIG),
            (libc::IPPROTO_TCP, libc::TCP_ZEROCOPY_RECEIVE),
            (libc::IPPROTO_IP, libc::IP_HDRINCL),
            (libc::IPPROTO_IP, libc::IP_OPTIONS),
            (libc::SOL_PACKET, 1),
            (-1, 1),
        ] {
            assert_eq!(usage(level, name), Unknown, "{level} {name}");
        }
    }

    #[test]
    fn values_are_bounded() {
        for level in [0, 1, 6, 17, 41, 270] {
            for name in 0..1024 {
                if let Set(len) | Only(len) = usage(level, name) {
                    assert!(len <= VALUE_MAX);
                }
            }
        }
    }
}
