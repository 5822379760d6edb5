// SPDX-License-Identifier: GPL-2.0

//! What a task asks of its memory besides mapping it: locks, residence, keys, barriers.

use uvisor_uapi::PAGE_SIZE;

use super::{memory, process, Args};
use crate::errno::{Errno, SysResult};
use crate::layout::page_up;
use crate::memory::word;
use crate::pass;
use crate::space::Backing;
use crate::task::Task;

/// How many pages `mincore` answers for at once.
const PAGES: u64 = 4096;

/// `mincore`: all that is mapped is said to be in memory. Whether it is, the host does not tell the broker, and
/// what of files is in its memory is not the task's business.
pub(super) fn mincore(task: &mut Task, [start, len, vector, ..]: Args) -> SysResult {
    memory::check_range(task, [start, len, 0, 0, 0, 0])?;
    let pages = page_up(len).ok_or(Errno::ENOMEM)? / PAGE_SIZE;
    let mut done = 0;
    while done < pages {
        let count = (pages - done).min(PAGES);
        let at = vector.checked_add(done).ok_or(Errno::EFAULT)?;
        task.memory.write(at, &vec![1; count as usize])?;
        done += count;
    }
    Ok(0)
}

/// Whether so many bytes may be locked, as Linux has it. Nothing is locked: a micro-VM's memory is the host's to
/// give back, and never on its swap.
fn may_lock(task: &Task, bytes: u64) -> SysResult<()> {
    match word(&process::limit(task, libc::RLIMIT_MEMLOCK as usize)?, 0) {
        0 => Err(Errno::EPERM),
        limit if bytes > limit => Err(Errno::ENOMEM),
        _ => Ok(()),
    }
}

/// The range of whole pages that has the bytes of another.
fn whole_pages(start: u64, len: u64) -> SysResult<(u64, u64)> {
    let offset = start % PAGE_SIZE;
    let len = len.checked_add(offset).and_then(page_up);
    Ok((start - offset, len.ok_or(Errno::EINVAL)?))
}

pub(super) fn mlock(task: &mut Task, [start, len, ..]: Args) -> SysResult {
    mlock2(task, [start, len, 0, 0, 0, 0])
}

pub(super) fn mlock2(task: &mut Task, [start, len, flags, ..]: Args) -> SysResult {
    if flags as u32 & !libc::MLOCK_ONFAULT != 0 {
        return Err(Errno::EINVAL);
    }
    let (start, len) = whole_pages(start, len)?;
    may_lock(task, len)?;
    memory::check_range(task, [start, len, 0, 0, 0, 0])
}

pub(super) fn munlock(task: &mut Task, [start, len, ..]: Args) -> SysResult {
    let (start, len) = whole_pages(start, len)?;
    memory::check_range(task, [start, len, 0, 0, 0, 0])
}

pub(super) fn mlockall(task: &mut Task, [flags, ..]: Args) -> SysResult {
    let (flags, known) = (
        flags as i32,
        libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT,
    );
    if flags & !known != 0 || flags & !libc::MCL_ONFAULT == 0 {
        return Err(Errno::EINVAL);
    }
    let mapped = task.shared.book.lock().space.pieces(0, task.memory.limit());
    let mapped = mapped
        .iter()
        .filter(|piece| piece.backing != Backing::Reserved)
        .map(|piece| piece.end - piece.start)
        .sum();
    may_lock(
        task,
        match flags & libc::MCL_CURRENT {
            0 => 0,
            _ => mapped,
        },
    )?;
    Ok(0)
}

pub(super) fn munlockall(_: &mut Task, _: Args) -> SysResult {
    Ok(0)
}

/// `pkey_mprotect`: there are no keys, as the module does not switch PKRU, so only that of none will do.
pub(super) fn pkey_mprotect(task: &mut Task, [start, len, prot, key, ..]: Args) -> SysResult {
    match key as i32 {
        -1 => memory::mprotect(task, [start, len, prot, 0, 0, 0]),
        _ => Err(Errno::EINVAL),
    }
}

/// `membarrier`'s commands.
mod barrier {
    pub(super) const QUERY: u32 = 0;
    pub(super) const GLOBAL: u32 = 1 << 0;
    pub(super) const PRIVATE: u32 = 1 << 3;
    pub(super) const REGISTER_PRIVATE: u32 = 1 << 4;
    pub(super) const SYNC_CORE: u32 = 1 << 5;
    pub(super) const REGISTER_SYNC_CORE: u32 = 1 << 6;
}

/// `membarrier`, by the host's own.
///
/// A guest's thread is a thread of the broker's, with its address space. If it runs on another CPU, the host
/// interrupts that CPU, be it in the micro-VM or out of it: an interrupt ends the window (external-interrupt
/// exiting; it is not acknowledged by the exit, but taken as any other behind it), and its handler has a full
/// barrier, with all accesses of the guest's that came before it in program order on this CPU before, and all
/// that come after it behind. If it does not run, the switch to or from it has the barrier. For
/// instructions, the handler's IRET makes the CPU fetch them anew before the guest goes on.
pub(super) fn membarrier(_: &mut Task, [command, flags, cpu, ..]: Args) -> SysResult {
    const ALLOWED: u32 = barrier::GLOBAL
        | barrier::PRIVATE
        | barrier::REGISTER_PRIVATE
        | barrier::SYNC_CORE
        | barrier::REGISTER_SYNC_CORE;
    let command = command as u32;
    if flags as u32 != 0 {
        return Err(Errno::EINVAL);
    }
    if command == barrier::QUERY {
        return Ok(pass!(MEMBARRIER, 0, 0, 0)? & u64::from(ALLOWED));
    }
    if command & ALLOWED == 0 || !command.is_power_of_two() {
        return Err(Errno::EINVAL);
    }
    pass!(MEMBARRIER, u64::from(command), 0, cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_made_whole_pages() {
        assert_eq!(whole_pages(0x1001, 1), Ok((0x1000, 0x1000)));
        assert_eq!(whole_pages(0x1fff, 2), Ok((0x1000, 0x2000)));
        assert_eq!(whole_pages(0x1000, 0), Ok((0x1000, 0)));
        assert_eq!(whole_pages(0x1001, u64::MAX), Err(Errno::EINVAL));
        assert_eq!(whole_pages(0x1000, u64::MAX), Err(Errno::EINVAL));
    }
}
