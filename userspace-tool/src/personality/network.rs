// SPDX-License-Identifier: GPL-2.0

//! Which network a task has.
//!
//! Sockets that may reach nothing outside of the task are opened in a network namespace of its own, by a
//! process that is there for that alone ([`super::netns`]). It is there from the start, as a broker that is confined
//! cannot start one; namespaces are expensive, so it makes its own when the first such socket is wanted. Where a socket belongs, the kernel says itself (the cookie of
//! its namespace); so it does not matter how the task came by it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    recvmsg, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage,
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::{domain, netns, Access, Fds};
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;
use crate::profile::NetworkRules;

/// How long the broker waits for a socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a task can reach with `AF_INET` and `AF_INET6`. Its `AF_UNIX` sockets reach the task's only,
/// whatever this is: by their names as they are in a network of its own, by their paths as [`domain`] has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// A loopback of its own.
    #[default]
    None,
    /// What the host can.
    Host,
}

/// Who keeps sockets with paths apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Domain {
    /// A Landlock domain that this process is in already.
    Entered,
    /// One that it is to enter.
    Enter,
    /// Nobody, so that the task has none.
    None,
}

impl Policy {
    /// Where rules have sockets be: those that may reach some of what the host does are the host's, and their addresses
    /// are looked at.
    pub fn of(rules: &NetworkRules) -> Self {
        match rules {
            NetworkRules::None => Self::None,
            NetworkRules::Host | NetworkRules::Only(_) => Self::Host,
        }
    }
}

/// The network of a task. All of its processes share it, by descriptors that they inherit.
#[derive(Debug)]
pub struct Network {
    policy: Policy,
    /// Where requests for sockets are sent.
    asking: OwnedFd,
    /// The cookie of the host's network namespace.
    host: u64,
    /// Whether the kernel keeps sockets with paths apart ([`domain`]).
    paths: bool,
}

/// A pair of connected sockets.
fn pair() -> SysResult<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    Ok(socketpair(AddressFamily::UNIX, kind, flags, None)?)
}

/// The same in the broker's own range.
fn own_pair(fds: &Fds) -> SysResult<(OwnedFd, OwnedFd)> {
    let (one, other) = pair()?;
    Ok((fds.own(one.as_fd())?, fds.own(other.as_fd())?))
}

/// An integer option of a socket's.
pub(super) fn option<const N: usize>(fd: RawFd, level: i32, name: i32) -> SysResult<[u8; N]> {
    let mut value = [0; 1024];
    let mut len = (N as u32).to_le_bytes();
    pass!(GETSOCKOPT, fd, level, name, &mut value, &mut len)?;
    match (word32(&len, 0) as usize, value.first_chunk()) {
        (len, Some(value)) if len == N => Ok(*value),
        _ => Err(Errno::EINVAL),
    }
}

/// The cookie of the network namespace of a socket.
fn cookie(fd: RawFd) -> SysResult<u64> {
    option(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE).map(u64::from_le_bytes)
}

impl Network {
    /// The network of a new task, with the process that opens its sockets if it `has_sockets`.
    ///
    /// From now on the calling thread, and all that it starts, reach sockets with paths, if the kernel can keep
    /// them to those that they open, and to where `access` lets files be changed.
    pub fn start(access: &Access, has_sockets: bool, domain: Domain) -> SysResult<Self> {
        let paths = match domain {
            Domain::None => false,
            Domain::Entered => true,
            Domain::Enter => {
                let paths = domain::enter(access).is_ok();
                if !paths {
                    // What it lacks, it lacks: the broker decides, too.
                    let _ = domain::enter_scopes();
                }
                paths
            }
        };
        let (asking, answering) = pair()?;
        set_socket_timeout(&asking, Timeout::Send, Some(PATIENCE))?;
        if has_sockets {
            netns::spawn(answering.as_fd())?;
        }
        Ok(Self {
            policy: Policy::of(&access.rules().network),
            host: cookie(asking.as_raw_fd())?,
            asking,
            paths,
        })
    }

    /// The same, with the broker's own descriptor.
    pub(crate) fn keep(&self, fds: &Fds) -> SysResult<Self> {
        Ok(Self {
            asking: fds.own(self.asking.as_fd())?,
            ..*self
        })
    }

    /// Whether the task has sockets with paths: what the kernel refuses then is what it must not have.
    pub(super) fn has_paths(&self) -> bool {
        self.paths
    }

    /// The descriptor, which all processes of the task have.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.asking.as_raw_fd()
    }

    /// What it reaches.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Opens a socket, whose kind has been checked; returns the guest's descriptor.
    pub(super) fn open(&self, fds: &Fds, domain: i32, kind: i32, protocol: i32) -> SysResult {
        match (self.policy, domain) {
            (Policy::Host, libc::AF_INET | libc::AF_INET6) => {
                fds.accept(pass!(SOCKET, domain, kind, protocol)?)
            }
            (Policy::Host, libc::AF_NETLINK) => {
                let opened = netns::without_capabilities(|| pass!(SOCKET, domain, kind, protocol));
                fds.accept(opened?)
            }
            _ => {
                let socket = self.ask(fds, domain, kind, protocol)?;
                if kind & libc::SOCK_CLOEXEC == 0 {
                    pass!(FCNTL, socket.as_raw_fd(), libc::F_SETFD, 0)?;
                }
                fds.accept(socket.into_raw_fd() as u64)
            }
        }
    }

    /// Checks that a socket may be given an address, to have or to reach: that it is in the task's network. One
    /// that the task was started with, or was sent, or that is half of a pair, may be in another.
    pub(super) fn check_own(&self, fd: RawFd) -> SysResult<()> {
        if cookie(fd)? != self.host {
            return Ok(());
        }
        if self.policy == Policy::Host {
            let domain = option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN).map(i32::from_le_bytes)?;
            if matches!(domain, libc::AF_INET | libc::AF_INET6 | libc::AF_NETLINK) {
                return Ok(());
            }
        }
        Err(Errno::EACCES)
    }

    /// The socket to ask which interfaces the task has, for one of its own of a kind.
    pub(super) fn interfaces(&self, fd: RawFd, domain: i32) -> SysResult<RawFd> {
        if (self.policy, domain) == (Policy::Host, libc::AF_UNIX) {
            // Such a one is in a network of its own for the sake of its names only.
            return Ok(self.asking.as_raw_fd());
        }
        self.check_own(fd).map(|()| fd)
    }

    /// Has a socket opened in the task's own network.
    fn ask(&self, fds: &Fds, domain: i32, kind: i32, protocol: i32) -> SysResult<OwnedFd> {
        let (ours, its) = own_pair(fds)?;
        set_socket_timeout(&ours, Timeout::Recv, Some(PATIENCE))?;
        let request = netns::Request {
            domain,
            kind,
            protocol,
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let reply = [its.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&reply));
        let bytes = request.to_bytes();
        let slices = [IoSlice::new(&bytes)];
        uninterrupted(|| sendmsg(&self.asking, &slices, &mut control, SendFlags::NOSIGNAL))?;
        // From now on it is the helper's: if that ends, the answer is the end of the stream.
        drop(its);
        answer(ours.as_fd())
    }
}

/// Makes a call again that a signal has interrupted, for as long as the broker has patience.
fn uninterrupted<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> SysResult<T> {
    let start = Instant::now();
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) if start.elapsed() < PATIENCE => {}
            // The helper does not answer.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Err(Errno::ENOBUFS),
            result => return Ok(result?),
        }
    }
}

/// The socket that the helper sends, or why there is none.
fn answer(socket: BorrowedFd<'_>) -> SysResult<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = uninterrupted(|| {
        recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut control,
            flags,
        )
    })?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    match (received.bytes, word32(&bytes, 0) as i32, fd) {
        (4, 0, Some(fd)) => Ok(fd),
        // It came without: there is no room for one more.
        (4, 0, None) => Err(Errno::EMFILE),
        (4, error, _) => Err(Errno::from(std::io::Error::from_raw_os_error(error))),
        _ => Err(Errno::ENOBUFS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Rules;
    use rustix::net::send;

    /// A network by a policy.
    fn of(policy: Policy) -> Network {
        let network = match policy {
            Policy::None => NetworkRules::None,
            Policy::Host => NetworkRules::Host,
        };
        let rules = Rules {
            network,
            ..Rules::default()
        };
        let access = Access::new(rules, false).unwrap();
        Network::start(&access, true, Domain::Enter).unwrap()
    }

    /// A socket of the task's.
    fn open(network: &Network, fds: &Fds, domain: i32, kind: i32) -> SysResult<OwnedFd> {
        use std::os::fd::FromRawFd;
        let fd = network.open(fds, domain, kind, 0)?;
        // SAFETY: It was just opened, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    #[test]
    fn sockets_come_from_a_network_of_the_tasks_own() {
        let fds = Fds::reserve().unwrap();
        let network = of(Policy::None);
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let one = match open(&network, &fds, libc::AF_INET, kind) {
            Err(error @ (Errno::EPERM | Errno::ENOSPC | Errno::EACCES)) => {
                // Also that is an answer; where it comes from is said by what it is.
                println!("skipped: this machine lets nobody make network namespaces: {error}");
                return;
            }
            result => result.unwrap(),
        };
        let two = open(&network, &fds, libc::AF_UNIX, libc::SOCK_STREAM).unwrap();
        let cookies = [&one, &two].map(|socket| cookie(socket.as_raw_fd()).unwrap());
        assert_eq!(cookies[0], cookies[1]);
        assert_ne!(cookies[0], network.host);
        assert_eq!(network.check_own(one.as_raw_fd()), Ok(()));
        let flags = |fd: &OwnedFd| pass!(FCNTL, fd.as_raw_fd(), libc::F_GETFD, 0).unwrap();
        assert_eq!((flags(&one), flags(&two)), (1, 0));
        let status = pass!(FCNTL, one.as_raw_fd(), libc::F_GETFL, 0).unwrap();
        assert_ne!(status & libc::O_NONBLOCK as u64, 0);

        // Its loopback is up, and nothing else is there.
        let bind = |socket: &OwnedFd, address: [u8; 4]| {
            let mut name = [0; 16];
            name[0] = libc::AF_INET as u8;
            name[4..8].copy_from_slice(&address);
            pass!(BIND, socket.as_raw_fd(), &mut name, 16)
        };
        assert_eq!(bind(&one, [192, 0, 2, 1]), Err(Errno::EADDRNOTAVAIL));
        assert_eq!(bind(&one, [127, 0, 0, 1]), Ok(0));
        let mut nowhere = [2, 0, 0, 9, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let sent = pass!(CONNECT, one.as_raw_fd(), &mut nowhere, 16);
        assert_eq!(sent, Err(Errno::ENETUNREACH));

        // Another task has another one.
        let other = of(Policy::Host);
        let unix = open(&other, &fds, libc::AF_UNIX, libc::SOCK_DGRAM).unwrap();
        let foreign = cookie(unix.as_raw_fd()).unwrap();
        assert!(foreign != cookies[0] && foreign != network.host);
        let inet = open(&other, &fds, libc::AF_INET, libc::SOCK_DGRAM).unwrap();
        assert_eq!(cookie(inet.as_raw_fd()), Ok(network.host));
        assert_eq!(other.check_own(inet.as_raw_fd()), Ok(()));
        assert_eq!(network.check_own(inet.as_raw_fd()), Err(Errno::EACCES));
        // What reaches the host's sockets is nobody's.
        let pair = own_pair(&fds).unwrap();
        assert_eq!(other.check_own(pair.0.as_raw_fd()), Err(Errno::EACCES));
    }

    #[test]
    fn netlink_sockets_have_no_power() {
        let fds = Fds::reserve().unwrap();
        for policy in [Policy::None, Policy::Host] {
            let network = of(policy);
            let socket = match open(&network, &fds, libc::AF_NETLINK, libc::SOCK_RAW) {
                Err(error) if policy == Policy::None => {
                    println!("skipped: this machine lets nobody make network namespaces: {error}");
                    continue;
                }
                result => result.unwrap(),
            };
            // RTM_NEWLINK for interface 1 with an acknowledgement, which changes nothing.
            let mut request = [0; 32];
            request[0] = 32;
            request[4] = libc::RTM_NEWLINK as u8;
            request[6] = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u8;
            request[20] = 1;
            let len = request.len() as u64;
            let fd = socket.as_raw_fd();
            assert_eq!(pass!(WRITE, fd, &mut request, len), Ok(len));
            let mut reply = [0; 256];
            pass!(READ, fd, &mut reply, 256).unwrap();
            assert_eq!(word32(&reply, 4) as u16, libc::NLMSG_ERROR as u16);
            let error = Errno::EPERM.number();
            assert_eq!(word32(&reply, 16) as i32, -error, "{policy:?}");
        }
    }

    #[test]
    fn whoever_finds_no_helper_gets_an_error() {
        let fds = Fds::reserve().unwrap();
        let (ours, its) = own_pair(&fds).unwrap();
        drop(its);
        assert_eq!(answer(ours.as_fd()).unwrap_err(), Errno::ENOBUFS);
        let (ours, its) = own_pair(&fds).unwrap();
        send(
            &its,
            &Errno::EPERM.number().to_le_bytes(),
            SendFlags::NOSIGNAL,
        )
        .unwrap();
        assert_eq!(answer(ours.as_fd()).unwrap_err(), Errno::EPERM);
        send(&its, &[0; 4], SendFlags::NOSIGNAL).unwrap();
        assert_eq!(answer(ours.as_fd()).unwrap_err(), Errno::EMFILE);
        send(&its, b"x", SendFlags::NOSIGNAL).unwrap();
        assert_eq!(answer(ours.as_fd()).unwrap_err(), Errno::ENOBUFS);
    }
}
