// SPDX-License-Identifier: GPL-2.0

//! Reading and writing.
//!
//! The kernel is pointed at the guest's memory itself, so that data is copied once.

use std::os::fd::AsRawFd;

use super::{procfs, Args};
use crate::errno::{Errno, SysResult};
use crate::host;
use crate::pass;
use crate::task::Task;

pub(super) fn read(task: &mut Task, [fd, buffer, len, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    pass!(READ, fd, buffer, len)
}

pub(super) fn write(task: &mut Task, [fd, buffer, len, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    pass!(WRITE, fd, buffer, len)
}

pub(super) fn pread64(task: &mut Task, [fd, buffer, len, offset, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    pass!(PREAD, fd, buffer, len, offset)
}

pub(super) fn pwrite64(task: &mut Task, [fd, buffer, len, offset, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    pass!(PWRITE, fd, buffer, len, offset)
}

pub(super) fn readv(task: &mut Task, [fd, vectors, count, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let vectors = task.memory.vectors(vectors, count)?;
    pass!(READV, fd, &vectors, count)
}

pub(super) fn writev(task: &mut Task, [fd, vectors, count, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let vectors = task.memory.vectors(vectors, count)?;
    pass!(WRITEV, fd, &vectors, count)
}

pub(super) fn preadv(task: &mut Task, [fd, vectors, count, low, high, _]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let vectors = task.memory.vectors(vectors, count)?;
    pass!(PREADV, fd, &vectors, count, low, high)
}

pub(super) fn pwritev(task: &mut Task, [fd, vectors, count, low, high, _]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let vectors = task.memory.vectors(vectors, count)?;
    pass!(PWRITEV, fd, &vectors, count, low, high)
}

pub(super) fn preadv2(task: &mut Task, [fd, vectors, count, low, high, flags]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let vectors = task.memory.vectors(vectors, count)?;
    pass!(PREADV2, fd, &vectors, count, low, high, flags)
}

pub(super) fn pwritev2(task: &mut Task, [fd, vectors, count, low, high, flags]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let vectors = task.memory.vectors(vectors, count)?;
    pass!(PWRITEV2, fd, &vectors, count, low, high, flags)
}

pub(super) fn lseek(task: &mut Task, [fd, offset, whence, ..]: Args) -> SysResult {
    pass!(LSEEK, task.fds.guest(fd)?, offset, whence)
}

pub(super) fn fsync(task: &mut Task, [fd, ..]: Args) -> SysResult {
    pass!(FSYNC, task.fds.guest(fd)?)
}

pub(super) fn fdatasync(task: &mut Task, [fd, ..]: Args) -> SysResult {
    pass!(FDATASYNC, task.fds.guest(fd)?)
}

pub(super) fn sync(_: &mut Task, _: Args) -> SysResult {
    pass!(SYNC)
}

pub(super) fn syncfs(task: &mut Task, [fd, ..]: Args) -> SysResult {
    pass!(SYNCFS, task.fds.guest(fd)?)
}

pub(super) fn sync_file_range(task: &mut Task, [fd, offset, len, flags, ..]: Args) -> SysResult {
    pass!(SYNC_FILE_RANGE, task.fds.guest(fd)?, offset, len, flags)
}

pub(super) fn cachestat(task: &mut Task, [fd, range, result, flags, ..]: Args) -> SysResult {
    let fd = task.fds.guest(fd)?;
    let mut range = task.memory.read::<16>(range)?;
    let result = task.memory.range(result, 40)?;
    pass!(CACHESTAT, fd, &mut range, result, flags)
}

pub(super) fn ftruncate(task: &mut Task, [fd, len, ..]: Args) -> SysResult {
    pass!(FTRUNCATE, task.fds.guest(fd)?, len)
}

pub(super) fn fallocate(task: &mut Task, [fd, mode, offset, len, ..]: Args) -> SysResult {
    pass!(FALLOCATE, task.fds.guest(fd)?, mode, offset, len)
}

pub(super) fn fadvise64(task: &mut Task, [fd, offset, len, advice, ..]: Args) -> SysResult {
    pass!(FADVISE, task.fds.guest(fd)?, offset, len, advice)
}

pub(super) fn readahead(task: &mut Task, [fd, offset, len, ..]: Args) -> SysResult {
    pass!(READAHEAD, task.fds.guest(fd)?, offset, len)
}

/// An offset that a call takes and gives back, or none.
struct Offset {
    address: u64,
    value: Option<[u8; 8]>,
}

impl Offset {
    fn read(task: &Task, address: u64) -> SysResult<Self> {
        let value = task.memory.read_optional(address)?;
        Ok(Self { address, value })
    }

    fn write(&self, task: &Task) -> SysResult<()> {
        match &self.value {
            Some(bytes) => task.memory.write(self.address, bytes),
            None => Ok(()),
        }
    }
}

pub(super) fn sendfile(task: &mut Task, [out, input, offset, count, ..]: Args) -> SysResult {
    let (out, input) = (task.fds.guest(out)?, task.fds.guest(input)?);
    let mut offset = Offset::read(task, offset)?;
    let sent = pass!(SENDFILE, out, input, &mut offset.value, count)?;
    offset.write(task)?;
    Ok(sent)
}

pub(super) fn copy_file_range(task: &mut Task, args: Args) -> SysResult {
    let [input, in_offset, out, out_offset, len, flags] = args;
    let (input, out) = (task.fds.guest(input)?, task.fds.guest(out)?);
    let mut from = Offset::read(task, in_offset)?;
    let mut to = Offset::read(task, out_offset)?;
    let (f, t) = (&mut from.value, &mut to.value);
    let copied = pass!(COPY_FILE_RANGE, input, f, out, t, len, flags)?;
    from.write(task)?;
    to.write(task)?;
    Ok(copied)
}

pub(super) fn splice(task: &mut Task, args: Args) -> SysResult {
    let [input, in_offset, out, out_offset, len, flags] = args;
    let (input, out) = (task.fds.guest(input)?, task.fds.guest(out)?);
    let mut from = Offset::read(task, in_offset)?;
    let mut to = Offset::read(task, out_offset)?;
    let (f, t) = (&mut from.value, &mut to.value);
    let moved = pass!(SPLICE, input, f, out, t, len, flags)?;
    from.write(task)?;
    to.write(task)?;
    Ok(moved)
}

pub(super) fn tee(task: &mut Task, [input, out, len, flags, ..]: Args) -> SysResult {
    pass!(
        TEE,
        task.fds.guest(input)?,
        task.fds.guest(out)?,
        len,
        flags
    )
}

pub(super) fn getdents(task: &mut Task, [fd, buffer, len, ..]: Args) -> SysResult {
    let pinned = task.fds.pin(fd)?;
    let fd = pinned.as_raw_fd();
    if let Some(hidden) = procfs::hidden(fd) {
        let call = (&host::GETDENTS, 18);
        return procfs::list(task, call, fd, [buffer, u64::from(len as u32)], hidden);
    }
    let (buffer, len) = task.memory.buffer(buffer, u64::from(len as u32))?;
    pass!(GETDENTS, fd, buffer, len)
}

pub(super) fn getdents64(task: &mut Task, [fd, buffer, len, ..]: Args) -> SysResult {
    let pinned = task.fds.pin(fd)?;
    let fd = pinned.as_raw_fd();
    if let Some(hidden) = procfs::hidden(fd) {
        let call = (&host::GETDENTS64, 19);
        return procfs::list(task, call, fd, [buffer, u64::from(len as u32)], hidden);
    }
    let (buffer, len) = task.memory.buffer(buffer, u64::from(len as u32))?;
    pass!(GETDENTS64, fd, buffer, len)
}

pub(super) fn getrandom(task: &mut Task, [buffer, len, flags, ..]: Args) -> SysResult {
    let (buffer, len) = task.memory.buffer(buffer, len)?;
    pass!(GETRANDOM, buffer, len, flags)
}

/// Refuses what would need pages of the guest's to be pinned.
pub(super) fn vmsplice(task: &mut Task, [fd, ..]: Args) -> SysResult {
    task.fds.guest(fd)?;
    Err(Errno::EINVAL)
}
