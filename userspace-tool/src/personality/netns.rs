// SPDX-License-Identifier: GPL-2.0

//! The helper: a process in a network namespace of its own, with a loopback, that opens sockets there for
//! the brokers of one task. It has given up its capabilities, so the sockets have none either, and ends
//! with the last broker.
//!
//! It is a fork of a broker that may have threads, so it allocates nothing and takes no locks.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::errno::{Errno, SysResult};
use crate::memory::word32;
use crate::process::fork_unseen;

/// Version 3 of the interface for capabilities: two words of each set.
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Asks for a socket; the socket for the answer comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// As `socket` has it.
    pub(super) domain: i32,
    /// As `socket` has it, with flags.
    pub(super) kind: i32,
    /// As `socket` has it.
    pub(super) protocol: i32,
}

impl Request {
    /// How it is sent.
    pub(super) fn to_bytes(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.domain.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..].copy_from_slice(&self.protocol.to_le_bytes());
        bytes
    }

    /// What was sent.
    fn from_bytes(bytes: &[u8; 12]) -> Self {
        let [domain, kind, protocol] = [0, 4, 8].map(|at| word32(bytes, at) as i32);
        Self {
            domain,
            kind,
            protocol,
        }
    }
}

/// The rest of a call of C's that returns -1 for an error.
fn check(value: libc::c_int) -> SysResult<libc::c_int> {
    match value {
        -1 => Err(Errno::last()),
        value => Ok(value),
    }
}

/// Ends this process at once, without what a program does at its end.
fn end(status: libc::c_int) -> ! {
    // SAFETY: It does not return, and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Starts the helper, which answers what comes to the other side of `service`. It is a child of this process that says
/// no SIGCHLD, and that who waits for children does not see.
pub(super) fn spawn(service: BorrowedFd<'_>) -> SysResult<()> {
    // Handlers of the broker's must not run in the copy.
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut old = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: The sets are there for the writing; the first is full when it is read.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), old.as_mut_ptr());
    }
    // SAFETY: The copy goes on in `run`, which neither allocates nor takes locks.
    let helper = unsafe { fork_unseen() };
    if helper == Ok(0) {
        run(service);
    }
    // SAFETY: The call above has filled it.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old.as_ptr(), std::ptr::null_mut()) };
    helper.map(drop)
}

/// What the helper does.
fn run(service: BorrowedFd<'_>) -> ! {
    // SAFETY: This copy of the process uses no descriptor but the one that becomes 0, and no memory but
    // its stack. Neither the terminal nor the directory of the task are its business.
    let settled = unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"uvctl-net".as_ptr());
        libc::chdir(c"/".as_ptr()) == 0
            && libc::dup2(service.as_raw_fd(), 0) == 0
            && libc::syscall(libc::SYS_close_range, 1, libc::c_uint::MAX, 0) == 0
    };
    if !settled {
        end(1);
    }
    // SAFETY: It was just made, and is open for as long as this process lives.
    let service = unsafe { BorrowedFd::borrow_raw(0) };
    let mut prepared = None;
    loop {
        match answer(service, &mut prepared) {
            Ok(true) | Err(rustix::io::Errno::INTR) => {}
            // There is no broker any more.
            Ok(false) => end(0),
            Err(_) => end(1),
        }
    }
}

/// Goes to a new network namespace; who may not make one may in a user namespace of its own.
fn enter() -> SysResult<()> {
    // SAFETY: This process has one thread, and nothing that depends on its namespaces.
    let unshare = |flags| check(unsafe { libc::unshare(flags) }).map(drop);
    match unshare(libc::CLONE_NEWNET) {
        Err(Errno::EPERM) => unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET),
        result => result,
    }
}

/// Brings the loopback up, which also gives it its addresses.
fn loopback() -> SysResult<()> {
    let flags = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    // SAFETY: It takes numbers only.
    let socket = check(unsafe { libc::socket(libc::AF_INET, flags, 0) })?;
    // SAFETY: The kernel just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: All bits of it may be zero.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: The call reads an `ifreq`.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }).map(drop)
}

/// Gives all capabilities up, also for the sockets opened from now on: what the kernel asks of the opener
/// of a netlink socket, or of a raw one, nobody will have.
fn disarm() -> SysResult<()> {
    set_capabilities([0; 6])
}

/// Sets the capabilities of this thread: two words each of effective, permitted, inheritable, in turns.
fn set_capabilities(sets: [u32; 6]) -> SysResult<()> {
    let header = [CAPABILITY_VERSION, 0];
    // SAFETY: The kernel reads two and six words.
    let value = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    check(value as libc::c_int).map(drop)
}

/// Does `call` without any capability of this thread's in effect.
pub(super) fn without_capabilities<T>(call: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
    let header = [CAPABILITY_VERSION, 0];
    let mut sets = [0u32; 6];
    // SAFETY: The kernel reads two words and writes six.
    let got = unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) };
    check(got as libc::c_int)?;
    let [_, permitted, inheritable, _, permitted_high, inheritable_high] = sets;
    set_capabilities([
        0,
        permitted,
        inheritable,
        0,
        permitted_high,
        inheritable_high,
    ])?;
    let result = call();
    // They are still permitted, so this cannot fail.
    set_capabilities(sets)?;
    result
}

/// Answers one request; false if there will be no more.
fn answer(
    service: BorrowedFd<'_>,
    prepared: &mut Option<SysResult<()>>,
) -> Result<bool, rustix::io::Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 12];
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(service, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(false);
    }
    let reply = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let Some(reply) = reply else {
        return Ok(true);
    };
    // Namespaces are expensive, so there is one when it is wanted. Whoever asks is told if that failed.
    let prepare = || enter().and_then(|()| loopback()).and_then(|()| disarm());
    let prepared = *prepared.get_or_insert_with(prepare);
    let opened = prepared.and_then(|()| open(Request::from_bytes(&bytes)));
    let error = opened.as_ref().err().map_or(0, |error| error.number());
    let error = error.to_le_bytes();
    let slices = [IoSlice::new(&error)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fd = opened.as_ref().map(|socket| [socket.as_fd()]);
    if let Ok(fd) = &fd {
        control.push(SendAncillaryMessage::ScmRights(fd));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    // If who asked has gone, it does not need it.
    let _ = sendmsg(&reply, &slices, &mut control, flags);
    Ok(true)
}

/// Opens a socket.
fn open(request: Request) -> SysResult<OwnedFd> {
    // Who asks may be a broker that was taken over.
    super::sockets::check_kind(request.domain, request.kind, request.protocol)?;
    let kind = request.kind | libc::SOCK_CLOEXEC;
    // SAFETY: It takes numbers only.
    let socket = check(unsafe { libc::socket(request.domain, kind, request.protocol) })?;
    // SAFETY: The kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}
