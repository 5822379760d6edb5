// SPDX-License-Identifier: GPL-2.0

//! Threads and processes: making them, waiting for them, and how they are grouped.

use super::process::known_process;
use super::Args;
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::pass;
use crate::task::{NewProcess, NewThread, Task};

/// What a `clone` says, as `struct clone_args` has it.
#[derive(Clone, Copy, Debug, Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    /// The stack pointer; 0 for the caller's.
    stack: u64,
    tls: u64,
}

/// The flag `name` of `clone`.
const fn flag(name: i32) -> u64 {
    name as u32 as u64
}

const VM: u64 = flag(libc::CLONE_VM);
const THREAD: u64 = flag(libc::CLONE_THREAD);
const VFORK: u64 = flag(libc::CLONE_VFORK);

/// Flags that a thread must have: all that threads share is shared.
const OF_THREADS: u64 =
    VM | flag(libc::CLONE_FS) | flag(libc::CLONE_FILES) | flag(libc::CLONE_SIGHAND) | THREAD;

/// Flags that say what is told to whom, or that a broker has in any case.
const TELLING: u64 = flag(libc::CLONE_PARENT_SETTID)
    | flag(libc::CLONE_CHILD_SETTID)
    | flag(libc::CLONE_CHILD_CLEARTID)
    | flag(libc::CLONE_SETTLS)
    | flag(libc::CLONE_PIDFD)
    | flag(libc::CLONE_SYSVSEM)
    | flag(libc::CLONE_DETACHED)
    | flag(libc::CLONE_UNTRACED)
    | CLEAR_SIGHAND;

/// `CLONE_CLEAR_SIGHAND`.
const CLEAR_SIGHAND: u64 = 1 << 32;

/// Flags that make namespaces.
const NAMESPACES: u64 = flag(libc::CLONE_NEWNS)
    | flag(libc::CLONE_NEWCGROUP)
    | flag(libc::CLONE_NEWUTS)
    | flag(libc::CLONE_NEWIPC)
    | flag(libc::CLONE_NEWUSER)
    | flag(libc::CLONE_NEWPID)
    | flag(libc::CLONE_NEWNET)
    | 0x80 /* CLONE_NEWTIME */;

impl CloneArgs {
    fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// An address that counts if `flag` is there; 0 if not.
    fn address(&self, flag: i32, address: u64) -> u64 {
        match self.has(self::flag(flag)) {
            true => address,
            false => 0,
        }
    }

    fn thread(&self) -> NewThread {
        NewThread {
            stack: self.stack,
            tls: self.has(flag(libc::CLONE_SETTLS)).then_some(self.tls),
            parent_tid: self.address(libc::CLONE_PARENT_SETTID, self.parent_tid),
            child_tid: self.address(libc::CLONE_CHILD_SETTID, self.child_tid),
            clear_tid: self.address(libc::CLONE_CHILD_CLEARTID, self.child_tid),
        }
    }
}

/// Makes what a `clone` says.
fn make(task: &mut Task, args: CloneArgs) -> SysResult {
    if args.has(NAMESPACES) {
        return Err(Errno::EPERM);
    }
    if args.has(flag(libc::CLONE_SETTLS)) && args.tls >> 47 != 0 {
        return Err(Errno::EPERM);
    }
    if args.flags & THREAD != 0 {
        let threadlike = args.flags & OF_THREADS == OF_THREADS;
        let known = args.flags & !(OF_THREADS | TELLING) == 0;
        if !threadlike || !known || args.has(flag(libc::CLONE_PIDFD) | CLEAR_SIGHAND) {
            return Err(Errno::EINVAL);
        }
        return task.spawn(args.thread());
    }
    notes::note(|notes| notes.forks = true);
    if !task.access.rules().fork {
        return Err(notes::denied(Errno::EPERM));
    }
    let vfork = args.flags & (VM | VFORK) == VM | VFORK;
    // A process that has the caller's memory and runs beside it, or its descriptors, would need one broker for two.
    let known = args.flags & !(VM | VFORK | TELLING) == 0 && (vfork || args.flags & VM == 0);
    if !known || args.exit_signal != libc::SIGCHLD as u64 {
        return Err(Errno::EINVAL);
    }
    let pidfd = args.address(libc::CLONE_PIDFD, args.pidfd);
    let waits = args.has(VFORK);
    if args.has(flag(libc::CLONE_PIDFD)) {
        // Behind this there is a child, which could not be taken back.
        task.memory.check_writable::<4>(pidfd)?;
    }
    let pid = task.fork(NewProcess {
        thread: args.thread(),
        vfork,
        waits,
        pidfd,
    })?;
    if pid == 0 && args.has(CLEAR_SIGHAND) {
        let mut actions = task.shared.actions.lock();
        actions.leave_handlers();
        *actions = actions.after_exec();
    }
    Ok(pid)
}

pub(super) fn fork(task: &mut Task, _: Args) -> SysResult {
    make(
        task,
        CloneArgs {
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        },
    )
}

pub(super) fn vfork(task: &mut Task, _: Args) -> SysResult {
    make(
        task,
        CloneArgs {
            flags: VM | VFORK,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        },
    )
}

pub(super) fn clone(
    task: &mut Task,
    [flags, stack, parent_tid, child_tid, tls, _]: Args,
) -> SysResult {
    const EXIT_SIGNAL: u64 = 0xff;
    let flags = flags as u32 as u64;
    make(
        task,
        CloneArgs {
            flags: flags & !EXIT_SIGNAL,
            // The older call has one place for both.
            pidfd: parent_tid,
            child_tid,
            parent_tid,
            exit_signal: flags & EXIT_SIGNAL,
            stack,
            tls,
        },
    )
}

pub(super) fn clone3(task: &mut Task, [args, size, ..]: Args) -> SysResult {
    /// The sizes that the structure had first, and has now.
    const FIRST: u64 = 64;
    const NOW: usize = 88;
    if size < FIRST {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let bytes = task.memory.read_vec(args, size as usize)?;
    if bytes.iter().skip(NOW).any(|&byte| byte != 0) {
        return Err(Errno::E2BIG);
    }
    let field = |index: usize| word(&bytes, index * 8);
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls] =
        std::array::from_fn(field);
    let [set_tid, set_tid_size, cgroup] = [8, 9, 10].map(field);
    if set_tid | set_tid_size | cgroup != 0 {
        return Err(Errno::EPERM);
    }
    if (stack == 0) != (stack_size == 0) || flags & 0xff != 0 || exit_signal > 64 {
        return Err(Errno::EINVAL);
    }
    make(
        task,
        CloneArgs {
            flags,
            pidfd,
            child_tid,
            parent_tid,
            exit_signal,
            stack: stack.wrapping_add(stack_size),
            tls,
        },
    )
}

/// The options of a call that waits for children. All of a task's are of one kind, which say SIGCHLD when they end; what
/// are of the other kind are processes of the broker's own.
fn waits_for(options: u64) -> SysResult<i32> {
    let options = options as u32 as i32;
    match options & (libc::__WALL | libc::__WCLONE) {
        libc::__WCLONE => Err(Errno::ECHILD),
        _ => Ok(options & !(libc::__WALL | libc::__WCLONE)),
    }
}

pub(super) fn wait4(task: &mut Task, [pid, status, options, usage, ..]: Args) -> SysResult {
    let options = waits_for(options)?;
    let status = task.memory.optional(status, 4)?;
    let usage = task.memory.optional(usage, 144)?;
    pass!(WAIT4, pid as u32 as i32, status, options, usage)
}

pub(super) fn waitid(task: &mut Task, [kind, id, info, options, usage, _]: Args) -> SysResult {
    let options = waits_for(options)?;
    let id = match kind as i32 {
        // A descriptor of the guest's.
        3 => task.fds.guest(id)?,
        _ => id as u32 as i32,
    };
    let info = task.memory.optional(info, 128)?;
    let usage = task.memory.optional(usage, 144)?;
    pass!(WAITID, kind as u32 as i32, id, info, options, usage)
}

pub(super) fn setpgid(task: &mut Task, [pid, group, ..]: Args) -> SysResult {
    let pid = known_process(task, pid)?;
    let group = match task.is_own(group) {
        true => crate::process::id() as i32,
        false => group as u32 as i32,
    };
    if group > 0 && !is_group(task, group) && !task.is_member(group as u64) {
        return Err(Errno::EPERM);
    }
    pass!(SETPGID, pid, group)
}

/// Whether a process group has a process of the task's in it.
pub(super) fn is_group(task: &Task, group: i32) -> bool {
    let is_in = |pid: u64| pass!(GETPGID, pid) == Ok(group as u64);
    is_in(0) || task.others().into_iter().any(|pid| is_in(pid.into()))
}

pub(super) fn setsid(_: &mut Task, _: Args) -> SysResult {
    pass!(SETSID)
}
