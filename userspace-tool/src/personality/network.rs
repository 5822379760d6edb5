// SPDX-License-Identifier: GPL-2.0

//! Which network a task has.
//!
//! Sockets that may reach nothing outside of the task are opened in a network namespace of its own, by a
//! process that is there for that alone ([`super::netns`]). Namespaces are expensive, so it is started
//! when the first such socket is wanted. Where a socket belongs, the kernel says itself (the cookie of
//! its namespace); so it does not matter how the task came by it.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    recv, recvmsg, send, sendmsg, socketpair, AddressFamily, RecvAncillaryBuffer,
    RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketFlags, SocketType,
};

use super::{netns, Fds};
use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::pass;

/// How long the broker waits for a socket.
const PATIENCE: Duration = Duration::from_secs(10);

/// What lies in the queue of [`Network::asking`] until somebody has taken it, who then starts the helper.
const TOKEN: &[u8] = b"T";

/// What a task can reach with `AF_INET` and `AF_INET6`. Its `AF_UNIX` sockets reach the task's only,
/// whatever this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// A loopback of its own.
    #[default]
    None,
    /// What the host can.
    Host,
}

/// The network of a task. All of its processes share it, by descriptors that they inherit.
#[derive(Debug)]
pub struct Network {
    policy: Policy,
    /// Where requests for sockets are sent.
    asking: OwnedFd,
    /// The other side, for the helper.
    answering: OwnedFd,
    /// The cookie of the host's network namespace.
    host: u64,
}

/// A pair of connected sockets in the broker's own range.
fn own_pair(fds: &Fds) -> SysResult<(OwnedFd, OwnedFd)> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let (one, other) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
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
    /// A network for a new task whose descriptors are `fds`.
    pub fn new(policy: Policy, fds: &Fds) -> SysResult<Self> {
        let (asking, answering) = own_pair(fds)?;
        set_socket_timeout(&asking, Timeout::Send, Some(PATIENCE))?;
        send(&answering, TOKEN, SendFlags::DONTWAIT)?;
        Ok(Self {
            policy,
            host: cookie(asking.as_raw_fd())?,
            asking,
            answering,
        })
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

    /// Has a socket opened in the task's own network.
    fn ask(&self, fds: &Fds, domain: i32, kind: i32, protocol: i32) -> SysResult<OwnedFd> {
        self.start()?;
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

    /// Starts the helper, if nobody has.
    fn start(&self) -> SysResult<()> {
        let mut token = [0; TOKEN.len()];
        match recv(&self.asking, &mut token[..], RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            result => result?,
        };
        netns::spawn(self.answering.as_fd()).inspect_err(|_| {
            // Whoever is next tries again. There is room for it: it was just taken out.
            let _ = send(&self.answering, TOKEN, SendFlags::DONTWAIT);
        })
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
