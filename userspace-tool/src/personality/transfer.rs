// SPDX-License-Identifier: GPL-2.0

//! Calls that send and receive through sockets.
//!
//! The kernel moves the data itself, from and to the guest's memory. Whom it goes to is decided as when connecting.

use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::addresses::Purpose;
use super::control::{incoming, outgoing, pin};
use super::message::{Header, Message, ADDRESS_MAX, HEADER};
use super::sockets::{address, check_peer, Name};
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

/// The size of a `struct mmsghdr`, and where in it the length is.
const MMSGHDR: u64 = 64;
const MMSGHDR_LEN: u64 = HEADER as u64;

/// The most messages of one call.
const MESSAGES_MAX: u64 = 1024;

/// Flags of a call that sends, without what would need the guest's pages to be pinned.
fn send_flags(flags: u64) -> i32 {
    flags as i32 & !libc::MSG_ZEROCOPY
}

pub(super) fn sendto(task: &mut Task, [fd, buffer, len, flags, name, name_len]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    let mut name = match name {
        0 => Vec::new(),
        _ => address(task, name, name_len)?,
    };
    let flags = send_flags(flags);
    if name.is_empty() {
        return pass!(SENDTO, fd, buffer, len, flags, None, 0);
    }
    let pinned = task.fds.duplicate(fd)?;
    let fd = pinned.as_raw_fd();
    check_peer(task, fd, Purpose::Send, &name)?;
    let name_len = name.len() as u64;
    let name = name.as_mut_slice();
    pass!(SENDTO, fd, buffer, len, flags, name, name_len)
}

pub(super) fn recvfrom(
    task: &mut Task,
    [fd, buffer, len, flags, name, name_len]: Args,
) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let mut peer = Name::new(name, name_len);
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    let (bytes, size) = (&mut peer.bytes, &mut peer.len);
    let received = pass!(RECVFROM, fd, buffer, len, flags as i32, bytes, size)?;
    peer.write(task)?;
    Ok(received)
}

/// Whether credentials are the task's own: its process, and any of its users and groups.
fn own_credentials(credentials: &[u8; 12]) -> bool {
    let [mut real, mut effective, mut saved] = [[0; 4]; 3];
    let mut owns = |call: &crate::host::HostCall, id: u32| {
        let mut words = [&mut real, &mut effective, &mut saved].map(crate::host::Word::from);
        let got = crate::host::call(call, &mut words);
        got.is_ok() && [real, effective, saved].contains(&id.to_le_bytes())
    };
    word32(credentials, 0) == crate::process::id()
        && owns(&crate::host::GETRESUID, word32(credentials, 4))
        && owns(&crate::host::GETRESGID, word32(credentials, 8))
}

/// Sends the message that the header at `header` describes.
fn send_message(task: &Task, fd: RawFd, header: u64, flags: i32) -> SysResult {
    let header = Header::read(&task.memory, header)?;
    let name = task.memory.read_vec(header.name, header.name_len)?;
    let vectors = header.vectors(&task.memory)?;
    let control = header.control(&task.memory)?;
    let mut control = outgoing(&control, task.fds.end(), own_credentials)?;
    let _sent = match task.shared.threads.is_alone() {
        true => Vec::new(),
        false => pin(&mut control, &task.fds)?,
    };
    let pinned;
    let fd = match name.is_empty() {
        true => fd,
        false => {
            pinned = task.fds.duplicate(fd)?;
            check_peer(task, pinned.as_raw_fd(), Purpose::Send, &name)?;
            pinned.as_raw_fd()
        }
    };
    let mut message = Message::new(name, vectors, control);
    pass!(SENDMSG, fd, message.pointer(), flags)
}

/// Receives a message into what the header at `header` describes.
fn receive_message(task: &Task, fd: RawFd, header: u64, flags: i32) -> SysResult {
    let header = Header::read(&task.memory, header)?;
    let room = match header.name {
        0 => 0,
        _ => ADDRESS_MAX,
    };
    let vectors = header.vectors(&task.memory)?;
    let mut message = Message::new(vec![0; room], vectors, header.control_room());
    let received = pass!(RECVMSG, fd, message.pointer(), flags)?;
    let came = incoming(message.control(), task.fds.limit());
    let close = |fds: &[RawFd]| {
        for fd in fds {
            // The kernel has just opened it.
            let _ = pass!(CLOSE, *fd);
        }
    };
    close(&came.refused);
    let mut flags = message.flags();
    if !came.refused.is_empty() {
        flags |= libc::MSG_CTRUNC;
    }
    let (name, len) = message.name();
    let name = name.get(..header.name_len).unwrap_or(name);
    header
        .write(&task.memory, (name, len), &came.control, flags)
        .inspect_err(|_| close(&came.fds))?;
    Ok(received)
}

pub(super) fn sendmsg(task: &mut Task, [fd, header, flags, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    send_message(task, fd, header, send_flags(flags))
}

pub(super) fn recvmsg(task: &mut Task, [fd, header, flags, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    receive_message(task, fd, header, flags as i32)
}

/// Does something with each header of an array, until one fails; returns how many did not. The error counts if
/// it is the first's.
fn each(
    task: &Task,
    array: u64,
    count: u64,
    mut message: impl FnMut(u64, u64) -> SysResult<Option<u64>>,
) -> SysResult {
    let count = u64::from(count as u32).min(MESSAGES_MAX);
    for index in 0..count {
        let header = array.checked_add(index * MMSGHDR).ok_or(Errno::EFAULT)?;
        let done = message(index, header).and_then(|done| match done {
            None => Ok(false),
            Some(len) => {
                let len = (len as u32).to_le_bytes();
                let address = header.checked_add(MMSGHDR_LEN).ok_or(Errno::EFAULT)?;
                task.memory.write(address, &len).map(|()| true)
            }
        });
        match done {
            Ok(true) => {}
            Ok(false) => return Ok(index),
            Err(error) if index == 0 => return Err(error),
            Err(_) => return Ok(index),
        }
    }
    Ok(count)
}

pub(super) fn sendmmsg(task: &mut Task, [fd, array, count, flags, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let flags = send_flags(flags);
    each(task, array, count, |_, header| {
        send_message(task, fd, header, flags).map(Some)
    })
}

pub(super) fn recvmmsg(task: &mut Task, [fd, array, count, flags, timeout, _]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    // As on Linux, the time is looked at when a message has come, and only then.
    let end = match task.memory.read_optional::<16>(timeout)? {
        None => None,
        Some(time) => deadline(word(&time, 0), word(&time, 8))?,
    };
    let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
    let flags = flags as i32;
    let once = flags & !libc::MSG_WAITFORONE;
    let received = each(task, array, count, |index, header| {
        if index > 0 && left() == Some(Duration::ZERO) {
            return Ok(None);
        }
        let flags = match index > 0 && flags & libc::MSG_WAITFORONE != 0 {
            true => once | libc::MSG_DONTWAIT,
            false => once,
        };
        receive_message(task, fd, header, flags).map(Some)
    })?;
    if let Some(left) = left() {
        let nanoseconds = u64::from(left.subsec_nanos());
        let time = [left.as_secs(), nanoseconds].map(u64::to_le_bytes);
        task.memory.write(timeout, time.as_flattened())?;
    }
    Ok(received)
}

/// When a time from now is over; `None` if that is too far away to say.
fn deadline(seconds: u64, nanoseconds: u64) -> SysResult<Option<Instant>> {
    if seconds > i64::MAX as u64 || nanoseconds >= 1_000_000_000 {
        return Err(Errno::EINVAL);
    }
    let time = Duration::new(seconds, nanoseconds as u32);
    Ok(Instant::now().checked_add(time))
}
