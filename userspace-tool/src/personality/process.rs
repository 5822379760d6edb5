// SPDX-License-Identifier: GPL-2.0

//! The process: who it is, what it may, how it ends, where it runs.

use serde::{Deserialize, Serialize};

use super::precision::{tell, MICROS};
use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::{word, word32};
use crate::pass;
use crate::signal::own_tid;
use crate::task::{End, Ending, Task};

/// How many resource limits there are.
const LIMITS: usize = 16;

/// The resource limits that a task has set.
#[derive(Clone, Debug, Default)]
pub struct Limits([Option<[u8; 16]>; LIMITS]);

impl Limits {
    /// Those of this process. A core file would be the broker's memory, so the host makes none, whatever the task's
    /// limit is.
    pub(crate) fn inherit() -> SysResult<Self> {
        let core = libc::RLIMIT_CORE as usize;
        let mut limits = Self::default();
        let mut pair = [0; 16];
        pass!(PRLIMIT, 0, core as u64, None, &mut pair)?;
        let mut none = pair;
        none[..8].fill(0);
        pass!(PRLIMIT, 0, core as u64, &mut none, None)?;
        limits.0[core] = Some(pair);
        Ok(limits)
    }

    /// A limit, soft and hard.
    pub(crate) fn get(&self, index: usize) -> SysResult<(u64, u64)> {
        let mut pair = [0; 16];
        match self.0.get(index).copied().flatten() {
            Some(set) => pair = set,
            None => {
                pass!(PRLIMIT, 0, index as u64, None, &mut pair)?;
            }
        }
        Ok((word(&pair, 0), word(&pair, 8)))
    }

    /// Those that were set, for another process to go on with.
    pub(crate) fn state(&self) -> LimitState {
        let set = (0..).zip(self.0);
        LimitState(
            set.filter_map(|(index, limit)| Some((index, limit?)))
                .collect(),
        )
    }

    /// Goes on with those of another process; those that are the host's to enforce are set.
    pub(crate) fn restore(state: &LimitState) -> SysResult<Self> {
        let mut limits = Self::inherit()?;
        for (index, limit) in &state.0 {
            if HOST_LIMITS.contains(index) {
                pass!(PRLIMIT, 0, *index as u64, &mut limit.clone(), None)?;
            }
            *limits.0.get_mut(*index).ok_or(Errno::EINVAL)? = Some(*limit);
        }
        Ok(limits)
    }
}

/// [`Limits`] by their numbers, for another process to go on with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LimitState(Vec<(usize, [u8; 16])>);

/// Limits that mean the same for the broker as for the task, so that the host enforces them. The others,
/// such as that of the address space, would hit the broker and not the task.
const HOST_LIMITS: [usize; 2] = [libc::RLIMIT_CPU as usize, libc::RLIMIT_FSIZE as usize];

pub(super) fn exit_group(task: &mut Task, [status, ..]: Args) -> SysResult {
    task.end(End::Exit(status as u8));
    Ok(0)
}

pub(super) fn exit(task: &mut Task, [status, ..]: Args) -> SysResult {
    task.ending = Some(Ending::Thread(status as u8));
    Ok(0)
}

pub(super) fn getpid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETPID)
}

pub(super) fn gettid(_: &mut Task, _: Args) -> SysResult {
    Ok(own_tid() as u64)
}

pub(super) fn getppid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETPPID)
}

pub(super) fn getpgrp(_: &mut Task, _: Args) -> SysResult {
    pass!(GETPGID, 0)
}

/// A process or thread that the guest may ask about: those of the task, and its parent.
pub(super) fn known_process(task: &Task, pid: u64) -> SysResult {
    let pid = u64::from(pid as u32);
    if pid == 0 || task.is_own(pid) {
        return Ok(0);
    }
    if task.shared.threads.has(pid as i32) || task.is_member(pid) || pid == pass!(GETPPID)? {
        return Ok(pid);
    }
    Err(Errno::ESRCH)
}

pub(super) fn getpgid(task: &mut Task, [pid, ..]: Args) -> SysResult {
    pass!(GETPGID, known_process(task, pid)?)
}

pub(super) fn getsid(task: &mut Task, [pid, ..]: Args) -> SysResult {
    pass!(GETSID, known_process(task, pid)?)
}

pub(super) fn getuid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETUID)
}

pub(super) fn geteuid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETEUID)
}

pub(super) fn getgid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETGID)
}

pub(super) fn getegid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETEGID)
}

pub(super) fn getresuid(task: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    let id = |address| task.memory.range(address, 4);
    pass!(GETRESUID, id(real)?, id(effective)?, id(saved)?)
}

pub(super) fn getresgid(task: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    let id = |address| task.memory.range(address, 4);
    pass!(GETRESGID, id(real)?, id(effective)?, id(saved)?)
}

pub(super) fn getgroups(task: &mut Task, [size, list, ..]: Args) -> SysResult {
    let size = u32::try_from(size as i32).map_err(|_| Errno::EINVAL)?;
    // The kernel has no more groups than that.
    let size = size.min(65536);
    let mut groups = vec![0; size as usize * 4];
    let count = pass!(GETGROUPS, u64::from(size), groups.as_mut_slice())?;
    if size > 0 {
        let groups = groups.get(..count as usize * 4).ok_or(Errno::EIO)?;
        task.memory.write(list, groups)?;
    }
    Ok(count)
}

/// The version of what `capget` and `capset` are given that is not obsolete.
const VERSION_3: u32 = 0x2008_0522;

/// `capget`: a task has no capabilities.
pub(super) fn capget(task: &mut Task, [header, data, ..]: Args) -> SysResult {
    let version = u32::from_le_bytes(task.memory.read(header)?);
    if version == VERSION_3 {
        // The process that it is about, which is looked at, and not told from the task's own.
        task.memory.read::<8>(header)?;
    } else {
        task.memory.write(header, &VERSION_3.to_le_bytes())?;
        return match data {
            0 => Ok(0),
            _ => Err(Errno::EINVAL),
        };
    }
    task.memory.write_optional(data, &[0; 24])?;
    Ok(0)
}

/// `capset`: to have none is no change.
pub(super) fn capset(task: &mut Task, [header, data, ..]: Args) -> SysResult {
    let header_bytes = task.memory.read::<8>(header)?;
    if word32(&header_bytes, 0) != VERSION_3 {
        task.memory.write(header, &VERSION_3.to_le_bytes())?;
        return Err(Errno::EINVAL);
    }
    let (pid, sets) = (word32(&header_bytes, 4), task.memory.read::<24>(data)?);
    match sets == [0; 24] && (pid == 0 || task.is_own(pid.into())) {
        true => Ok(0),
        false => Err(Errno::EPERM),
    }
}

pub(super) fn getrlimit(task: &mut Task, [resource, limit, ..]: Args) -> SysResult {
    prlimit64(task, [0, resource, 0, present(limit)?, 0, 0])
}

pub(super) fn setrlimit(task: &mut Task, [resource, limit, ..]: Args) -> SysResult {
    prlimit64(task, [0, resource, present(limit)?, 0, 0, 0])
}

/// An address that must not be null.
fn present(address: u64) -> SysResult {
    match address {
        0 => Err(Errno::EFAULT),
        _ => Ok(address),
    }
}

pub(super) fn prlimit64(task: &mut Task, [pid, resource, new, old, ..]: Args) -> SysResult {
    let pid = u64::from(pid as u32);
    if pid != 0 && !task.is_own(pid) {
        // Another's limits are its broker's to know.
        return Err(match task.is_member(pid) {
            true => Errno::EPERM,
            false => Errno::ESRCH,
        });
    }
    let index = resource as u32 as usize;
    if index >= LIMITS {
        return Err(Errno::EINVAL);
    }
    let new = task.memory.read_optional::<16>(new)?;
    let before = limit(task, index)?;
    if let Some(new) = new {
        set_limit(task, index, &before, &new)?;
    }
    task.memory.write_optional(old, &before)?;
    Ok(0)
}

/// A limit as the guest sees it.
pub(super) fn limit(task: &Task, index: usize) -> SysResult<[u8; 16]> {
    if index == libc::RLIMIT_NOFILE as usize {
        let (soft, hard) = task.fds.rlimit();
        let mut pair = [0; 16];
        pair[..8].copy_from_slice(&soft.to_le_bytes());
        pair[8..].copy_from_slice(&hard.to_le_bytes());
        return Ok(pair);
    }
    let (soft, hard) = task.shared.limits.lock().get(index)?;
    let mut pair = [0; 16];
    pair[..8].copy_from_slice(&soft.to_le_bytes());
    pair[8..].copy_from_slice(&hard.to_le_bytes());
    Ok(pair)
}

/// Sets a limit of the guest's.
fn set_limit(task: &mut Task, index: usize, before: &[u8; 16], new: &[u8; 16]) -> SysResult<()> {
    let (soft, hard) = (word(new, 0), word(new, 8));
    if soft > hard {
        return Err(Errno::EINVAL);
    }
    if hard > word(before, 8) {
        return Err(Errno::EPERM);
    }
    if index == libc::RLIMIT_NOFILE as usize {
        return task.fds.lower(soft);
    }
    if HOST_LIMITS.contains(&index) {
        pass!(PRLIMIT, 0, index as u64, &mut new.clone(), None)?;
    }
    if let Some(slot) = task.shared.limits.lock().0.get_mut(index) {
        *slot = Some(*new);
    }
    Ok(())
}

pub(super) fn getrusage(task: &mut Task, [who, usage, ..]: Args) -> SysResult {
    if !task.is_imprecise() {
        return pass!(GETRUSAGE, who, task.memory.range(usage, 144)?);
    }
    task.memory.range(usage, 144)?;
    tell::<144>(task, usage, (&[8, 24], MICROS), |all| {
        pass!(GETRUSAGE, who, all)
    })
}

pub(super) fn uname(task: &mut Task, [buffer, ..]: Args) -> SysResult {
    pass!(UNAME, task.memory.range(buffer, 390)?)
}

pub(super) fn sysinfo(task: &mut Task, [buffer, ..]: Args) -> SysResult {
    pass!(SYSINFO, task.memory.range(buffer, 112)?)
}

pub(super) fn arch_prctl(task: &mut Task, [code, address, ..]: Args) -> SysResult {
    const SET_GS: u32 = 0x1001;
    const SET_FS: u32 = 0x1002;
    const GET_FS: u32 = 0x1003;
    const GET_GS: u32 = 0x1004;
    let regs = task.vcpu.regs_mut();
    match code as u32 {
        // Nothing above what a task can address is canonical for it.
        SET_FS | SET_GS if address >= 1 << 47 => return Err(Errno::EPERM),
        SET_FS => regs.fs_base = address,
        SET_GS => regs.gs_base = address,
        GET_FS => {
            let base = regs.fs_base;
            task.memory.write(address, &base.to_le_bytes())?;
        }
        GET_GS => {
            let base = regs.gs_base;
            task.memory.write(address, &base.to_le_bytes())?;
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

pub(super) fn set_tid_address(task: &mut Task, [address, ..]: Args) -> SysResult {
    task.thread.clear_tid = address;
    gettid(task, [0; 6])
}

pub(super) fn set_robust_list(task: &mut Task, [head, size, ..]: Args) -> SysResult {
    if size != 24 {
        return Err(Errno::EINVAL);
    }
    task.thread.robust = head;
    Ok(0)
}

/// What a thread is called in lists: a name as far as there is room.
pub(crate) fn short_name(name: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (byte, &from) in bytes[..15].iter_mut().zip(name) {
        *byte = from;
    }
    bytes
}

pub(super) fn prctl(task: &mut Task, [option, argument, ..]: Args) -> SysResult {
    match option as i32 {
        libc::PR_SET_NAME => {
            // No more is looked at than there is room for.
            let name = task.memory.start_of_text::<15>(argument)?;
            pass!(PRCTL_NAME, libc::PR_SET_NAME, &mut short_name(&name))
        }
        libc::PR_GET_NAME => {
            pass!(
                PRCTL_NAME,
                libc::PR_GET_NAME,
                task.memory.range(argument, 16)?
            )
        }
        libc::PR_GET_DUMPABLE | libc::PR_SET_NO_NEW_PRIVS | libc::PR_GET_NO_NEW_PRIVS => {
            // A task cannot gain privileges in any case.
            Ok(u64::from(option as i32 != libc::PR_SET_NO_NEW_PRIVS))
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `setfsuid`, which tells what it is, and changes nothing without a capability.
pub(super) fn setfsuid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETEUID)
}

/// `setfsgid`, likewise.
pub(super) fn setfsgid(_: &mut Task, _: Args) -> SysResult {
    pass!(GETEGID)
}

/// Sets identities: to those that the task has is no change, and any other is refused. `own` are the real and the
/// effective one; -1 stands for what there is.
fn keep_identity(wanted: &[u64], own: [u64; 2]) -> SysResult {
    let none = |id: u32| id == u32::MAX && wanted.len() > 1;
    let same = |id: u32| own.iter().all(|&own| own == u64::from(id));
    match wanted.iter().all(|&id| none(id as u32) || same(id as u32)) {
        true => Ok(0),
        false => Err(Errno::EPERM),
    }
}

/// The real and the effective user.
fn users() -> SysResult<[u64; 2]> {
    Ok([pass!(GETUID)?, pass!(GETEUID)?])
}

/// The real and the effective group.
fn groups() -> SysResult<[u64; 2]> {
    Ok([pass!(GETGID)?, pass!(GETEGID)?])
}

pub(super) fn setuid(_: &mut Task, [id, ..]: Args) -> SysResult {
    keep_identity(&[id], users()?)
}

pub(super) fn setgid(_: &mut Task, [id, ..]: Args) -> SysResult {
    keep_identity(&[id], groups()?)
}

pub(super) fn setreuid(_: &mut Task, [real, effective, ..]: Args) -> SysResult {
    keep_identity(&[real, effective], users()?)
}

pub(super) fn setregid(_: &mut Task, [real, effective, ..]: Args) -> SysResult {
    keep_identity(&[real, effective], groups()?)
}

pub(super) fn setresuid(_: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    keep_identity(&[real, effective, saved], users()?)
}

pub(super) fn setresgid(_: &mut Task, [real, effective, saved, ..]: Args) -> SysResult {
    keep_identity(&[real, effective, saved], groups()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_stay() {
        let none = u64::from(u32::MAX);
        assert_eq!(keep_identity(&[7], [7, 7]), Ok(0));
        assert_eq!(keep_identity(&[7 | 1 << 32, none, 7], [7, 7]), Ok(0));
        for (wanted, own) in [
            (&[8][..], [7, 7]),
            // It is a number there like any other.
            (&[none], [7, 7]),
            (&[7, 0], [7, 7]),
            (&[none, 7, 8], [7, 7]),
            (&[7, 7], [7, 8]),
        ] {
            assert_eq!(keep_identity(wanted, own), Err(Errno::EPERM), "{wanted:?}");
        }
    }
}
