// SPDX-License-Identifier: GPL-2.0

//! Waiting for descriptors: `poll` and `select`, all by the host's `ppoll`.

use super::precision::NANOS;
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::task::Task;

/// The size of a `struct pollfd`.
const POLLFD: usize = 8;

/// A descriptor that is never open, for those that the guest may not name.
const CLOSED: i32 = i32::MAX;

/// A descriptor to wait for.
#[derive(Clone, Copy, Debug)]
struct PollFd {
    fd: i32,
    events: i16,
    revents: i16,
}

/// Waits; returns how many are ready. The time is updated to what is left of it.
fn wait(
    task: &Task,
    fds: &mut [PollFd],
    timeout: &mut Option<[u8; 16]>,
    mask: &mut Option<[u8; 8]>,
) -> SysResult {
    let mut bytes: Vec<u8> = Vec::with_capacity(fds.len() * POLLFD);
    for poll in fds.iter() {
        let fd = match poll.fd {
            fd if fd < 0 || fd < task.fds.end() => fd,
            _ => CLOSED,
        };
        bytes.extend(fd.to_le_bytes());
        bytes.extend(poll.events.to_le_bytes());
        bytes.extend([0; 2]);
    }
    let count = fds.len() as u64;
    let ready = pass!(PPOLL, bytes.as_mut_slice(), count, &mut *timeout, mask, 8)?;
    if let Some(left) = timeout {
        task.coarsen(left, &[8], NANOS);
    }
    for (poll, bytes) in fds.iter_mut().zip(bytes.chunks_exact(POLLFD)) {
        poll.revents = (word32(bytes, 4) >> 16) as i16;
    }
    Ok(ready)
}

/// Copies the guest's array, waits, and writes what happened to it.
fn poll_array(
    task: &mut Task,
    address: u64,
    count: u64,
    timeout: &mut Option<[u8; 16]>,
    mask: &mut Option<[u8; 8]>,
) -> SysResult {
    if count > task.fds.limit() as u64 {
        return Err(Errno::EINVAL);
    }
    let bytes = task.memory.read_vec(address, count as usize * POLLFD)?;
    let mut fds: Vec<PollFd> = bytes
        .chunks_exact(POLLFD)
        .map(|bytes| PollFd {
            fd: word32(bytes, 0) as i32,
            events: word32(bytes, 4) as i16,
            revents: 0,
        })
        .collect();
    let ready = wait(task, &mut fds, timeout, mask)?;
    for (poll, index) in fds.iter().zip(0u64..) {
        let at = address + index * POLLFD as u64 + 6;
        task.memory.write(at, &poll.revents.to_le_bytes())?;
    }
    Ok(ready)
}

/// A `struct timespec`.
fn timespec(seconds: u64, nanoseconds: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seconds.to_le_bytes());
    bytes[8..].copy_from_slice(&nanoseconds.to_le_bytes());
    bytes
}

pub(super) fn poll(task: &mut Task, [fds, count, timeout, ..]: Args) -> SysResult {
    let mut timeout = u64::try_from(timeout as i32)
        .ok()
        .map(|ms| timespec(ms / 1000, ms % 1000 * 1_000_000));
    poll_array(task, fds, u64::from(count as u32), &mut timeout, &mut None)
}

pub(super) fn ppoll(task: &mut Task, [fds, count, timeout, mask, size, _]: Args) -> SysResult {
    let mut time = task.memory.read_optional::<16>(timeout)?;
    let mut mask = signal_mask(task, mask, size)?;
    let ready = poll_array(task, fds, u64::from(count as u32), &mut time, &mut mask);
    if let Some(left) = time {
        // As on Linux, a timeout that cannot be written is no error.
        let _ = task.memory.write(timeout, &left);
    }
    ready
}

/// Copies a signal mask, if there is one.
pub(super) fn signal_mask(task: &mut Task, mask: u64, size: u64) -> SysResult<Option<[u8; 8]>> {
    match (mask, size) {
        (0, _) => Ok(None),
        (_, 8) => {
            let mask = task.memory.read(mask)?;
            Ok(Some(task.temporary_mask(mask)))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// The three sets of a `select`, and what each waits for and is told.
const SETS: [(i16, i16); 3] = [
    (
        libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND,
        libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR,
    ),
    (
        libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND,
        libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR,
    ),
    (libc::POLLPRI, libc::POLLPRI),
];

/// Waits for the descriptors in three sets.
fn select_sets(
    task: &mut Task,
    count: u64,
    addresses: [u64; 3],
    timeout: &mut Option<[u8; 16]>,
    mask: &mut Option<[u8; 8]>,
) -> SysResult {
    let count = usize::try_from(count as u32 as i32).map_err(|_| Errno::EINVAL)?;
    let count = count.min(task.fds.end() as usize);
    let size = count.div_ceil(64) * 8;
    let mut sets = Vec::with_capacity(3);
    for address in addresses {
        sets.push(match address {
            0 => None,
            _ => Some(task.memory.read_vec(address, size)?),
        });
    }
    let has = |set: &Option<Vec<u8>>, fd: usize| {
        let byte = set.as_ref().and_then(|set| set.get(fd / 8));
        byte.is_some_and(|byte| (byte >> (fd % 8)) & 1 != 0)
    };
    let mut fds = Vec::new();
    for fd in 0..count {
        let wanted = sets.iter().zip(SETS);
        let events = wanted.fold(0, |events, (set, (wait, _))| match has(set, fd) {
            true => events | wait,
            false => events,
        });
        if events != 0 {
            let (fd, revents) = (fd as i32, 0);
            fds.push(PollFd {
                fd,
                events,
                revents,
            });
        }
    }
    wait(task, &mut fds, timeout, mask)?;
    if fds.iter().any(|poll| poll.revents & libc::POLLNVAL != 0) {
        return Err(Errno::EBADF);
    }
    let mut total = 0;
    for ((set, address), (wait, told)) in sets.iter().zip(addresses).zip(SETS) {
        let Some(set) = set else { continue };
        let mut result = vec![0u8; set.len()];
        for poll in &fds {
            let fd = poll.fd as usize;
            let asked = poll.events & wait != 0 && (set[fd / 8] >> (fd % 8)) & 1 != 0;
            if asked && poll.revents & told != 0 {
                result[fd / 8] |= 1 << (fd % 8);
                total += 1;
            }
        }
        task.memory.write(address, &result)?;
    }
    Ok(total)
}

pub(super) fn select(task: &mut Task, args: Args) -> SysResult {
    let [count, read, write, except, timeout, _] = args;
    let mut time = match task.memory.read_optional::<16>(timeout)? {
        None => None,
        Some(time) => {
            // As on Linux, a second's worth of microseconds or more is carried.
            let (seconds, micros) = (word(&time, 0), word(&time, 8));
            if seconds > i64::MAX as u64 || micros > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            let seconds = seconds.saturating_add(micros / 1_000_000);
            Some(timespec(
                seconds.min(i64::MAX as u64),
                micros % 1_000_000 * 1000,
            ))
        }
    };
    let ready = select_sets(task, count, [read, write, except], &mut time, &mut None);
    if let Some(left) = time {
        let left = timespec(word(&left, 0), word(&left, 8) / 1000);
        let _ = task.memory.write(timeout, &left);
    }
    ready
}

pub(super) fn pselect6(task: &mut Task, args: Args) -> SysResult {
    let [count, read, write, except, timeout, mask] = args;
    let mut time = task.memory.read_optional::<16>(timeout)?;
    let mut mask = match task.memory.read_optional::<16>(mask)? {
        Some(pair) => signal_mask(task, word(&pair, 0), word(&pair, 8))?,
        None => None,
    };
    let ready = select_sets(task, count, [read, write, except], &mut time, &mut mask);
    if let Some(left) = time {
        let _ = task.memory.write(timeout, &left);
    }
    ready
}
