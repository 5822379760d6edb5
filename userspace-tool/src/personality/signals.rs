// SPDX-License-Identifier: GPL-2.0

//! Signals. A task's masks and ignored signals are the broker's own, so that the host decides what
//! arrives; what arrives has its default action, also if the task has set a handler.

use serde::{Deserialize, Serialize};

use super::Args;
use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::pass;
use crate::task::{End, Task};

/// One more than the highest signal.
const SIGNALS: usize = 65;

/// The size of a signal mask.
const MASK: u64 = 8;

/// An action: handler, flags, restorer and mask, as the kernel's `struct sigaction` has them.
type Action = [u8; 32];

/// The handlers that are none.
const DEFAULT: u64 = 0;
const IGNORE: u64 = 1;

/// The signals of a task.
#[derive(Clone, Debug)]
pub struct Signals {
    actions: [Action; SIGNALS],
    stack: [u8; 24],
    /// A signal that the broker needs for itself while it has one: the task cannot block or ignore it on
    /// the host.
    pub(crate) reserved: Option<i32>,
}

/// The signals of a task, for another process to go on with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SignalState {
    /// The actions that are not the default, by signal.
    actions: Vec<(i32, Action)>,
    /// The alternate stack.
    stack: [u8; 24],
    /// Which are blocked.
    mask: [u8; 8],
}

impl Signals {
    /// Those that the broker has inherited; `pipe_ignored` is what it was for SIGPIPE.
    ///
    /// What the Rust runtime set for itself is undone, in the broker too.
    pub fn inherit(pipe_ignored: bool) -> Self {
        let mut actions = [[0; 32]; SIGNALS];
        for (number, action) in actions.iter_mut().enumerate().skip(1) {
            let number = number as i32;
            let ignored = match number {
                libc::SIGPIPE => pipe_ignored,
                libc::SIGSEGV | libc::SIGBUS => false,
                _ => is_ignored(number),
            };
            if ignored {
                action[0] = IGNORE as u8;
            }
            if matches!(number, libc::SIGPIPE | libc::SIGSEGV | libc::SIGBUS) {
                set_host_action(number, ignored);
            }
        }
        let mut stack = [0; 24];
        stack[8] = libc::SS_DISABLE as u8;
        Self {
            actions,
            stack,
            reserved: None,
        }
    }

    /// What another process needs to go on with them.
    pub fn state(&self) -> SysResult<SignalState> {
        let mut mask = [0; 8];
        pass!(RT_SIGPROCMASK, libc::SIG_BLOCK, None, &mut mask, MASK)?;
        let all = (0..).zip(self.actions);
        Ok(SignalState {
            actions: all.filter(|(_, action)| *action != [0; 32]).collect(),
            stack: self.stack,
            mask,
        })
    }

    /// Goes on with those of another process. What that one ignored, this one ignores from now on, besides
    /// what it ignored when it started (`pipe_ignored` is what that was for SIGPIPE).
    pub fn restore(state: &SignalState, pipe_ignored: bool) -> SysResult<Self> {
        let mut signals = Self {
            actions: [[0; 32]; SIGNALS],
            stack: state.stack,
            reserved: None,
        };
        for (number, action) in &state.actions {
            let slot = usize::try_from(*number).ok();
            let slot = slot.and_then(|number| signals.actions.get_mut(number));
            *slot.ok_or(Errno::EINVAL)? = *action;
            if word(action, 0) == IGNORE {
                set_host_action(*number, true);
            }
        }
        for number in [libc::SIGPIPE, libc::SIGSEGV, libc::SIGBUS] {
            let inherited = number == libc::SIGPIPE && pipe_ignored;
            set_host_action(number, inherited || signals.ignores(number));
        }
        let mut mask = state.mask;
        pass!(RT_SIGPROCMASK, libc::SIG_SETMASK, &mut mask, None, MASK)?;
        Ok(signals)
    }

    /// A mask of the task's for the host.
    pub(super) fn host_mask(&self, mask: [u8; 8]) -> [u8; 8] {
        match self.reserved {
            Some(number) => (u64::from_le_bytes(mask) & !(1 << (number - 1))).to_le_bytes(),
            None => mask,
        }
    }

    /// Whether the task ignores a signal.
    pub fn ignores(&self, number: i32) -> bool {
        self.handler(number) == IGNORE
    }

    /// Those of the program that takes this one's place: handlers go, what is ignored stays.
    pub fn after_exec(&self) -> Self {
        let mut after = self.clone();
        for action in after.actions.iter_mut().skip(1) {
            if word(action, 0) != IGNORE {
                *action = [0; 32];
            }
        }
        after.stack = [0; 24];
        after.stack[8] = libc::SS_DISABLE as u8;
        after
    }

    /// The handler of a signal.
    fn handler(&self, number: i32) -> u64 {
        let action = usize::try_from(number)
            .ok()
            .and_then(|number| self.actions.get(number));
        action.map_or(DEFAULT, |action| word(action, 0))
    }
}

/// Whether this process ignores a signal.
pub fn is_ignored(number: i32) -> bool {
    let mut old = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: It only writes to `old`, which is large enough.
    let result = unsafe { libc::sigaction(number, std::ptr::null(), old.as_mut_ptr()) };
    // SAFETY: All bytes are initialised, and any are valid for this structure.
    result == 0 && unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Makes the broker ignore a signal, or have its default action.
fn set_host_action(number: i32, ignore: bool) {
    let handler = if ignore { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: Neither runs any code of this process.
    unsafe { libc::signal(number, handler) };
}

/// The number of a signal, if it is one.
fn signal(number: u64) -> SysResult<i32> {
    match number as u32 as usize {
        number @ 1..SIGNALS => Ok(number as i32),
        _ => Err(Errno::EINVAL),
    }
}

pub(super) fn rt_sigaction(task: &mut Task, [number, new, old, size, ..]: Args) -> SysResult {
    if size != MASK {
        return Err(Errno::EINVAL);
    }
    let number = signal(number)?;
    let new = task.memory.read_optional::<32>(new)?;
    if new.is_some() && matches!(number, libc::SIGKILL | libc::SIGSTOP) {
        return Err(Errno::EINVAL);
    }
    let slot = &mut task.signals.actions[number as usize];
    let before = *slot;
    if let Some(new) = new {
        *slot = new;
        let ignore = word(&new, 0) == IGNORE;
        if ignore != (word(&before, 0) == IGNORE) && task.signals.reserved != Some(number) {
            set_host_action(number, ignore);
        }
    }
    task.memory.write_optional(old, &before)?;
    Ok(0)
}

pub(super) fn rt_sigprocmask(task: &mut Task, [how, new, old, size, ..]: Args) -> SysResult {
    let new = task.memory.read_optional::<8>(new)?;
    let mut new = new.map(|mask| task.signals.host_mask(mask));
    let mut before = [0; 8];
    pass!(RT_SIGPROCMASK, how, &mut new, &mut before, size)?;
    task.memory.write_optional(old, &before)?;
    Ok(0)
}

pub(super) fn rt_sigpending(task: &mut Task, [set, size, ..]: Args) -> SysResult {
    if size > MASK {
        return Err(Errno::EINVAL);
    }
    pass!(RT_SIGPENDING, task.memory.range(set, 8)?, size)
}

pub(super) fn rt_sigsuspend(task: &mut Task, [mask, size, ..]: Args) -> SysResult {
    let mut mask = task.signals.host_mask(task.memory.read::<8>(mask)?);
    pass!(RT_SIGSUSPEND, &mut mask, size)
}

pub(super) fn rt_sigtimedwait(task: &mut Task, [set, info, time, size, ..]: Args) -> SysResult {
    let mut set = task.signals.host_mask(task.memory.read::<8>(set)?);
    let mut time = task.memory.read_optional::<16>(time)?;
    let info = task.memory.optional(info, 128)?;
    pass!(RT_SIGTIMEDWAIT, &mut set, info, &mut time, size)
}

pub(super) fn pause(_: &mut Task, _: Args) -> SysResult {
    pass!(PAUSE)
}

pub(super) fn sigaltstack(task: &mut Task, [new, old, ..]: Args) -> SysResult {
    let new = task.memory.read_optional::<24>(new)?;
    let before = task.signals.stack;
    if let Some(mut new) = new {
        let flags = word(&new, 8) as u32 as i32;
        match flags & !(1 << 31) {
            0 | libc::SS_ONSTACK if word(&new, 16) < 2048 => return Err(Errno::ENOMEM),
            // Being on it is a state, not a setting.
            0 | libc::SS_ONSTACK => new[8] &= !(libc::SS_ONSTACK as u8),
            libc::SS_DISABLE => {
                new = [0; 24];
                new[8] = libc::SS_DISABLE as u8;
            }
            _ => return Err(Errno::EINVAL),
        }
        task.signals.stack = new;
    }
    task.memory.write_optional(old, &before)?;
    Ok(0)
}

/// Whether the broker's thread blocks a signal.
fn is_blocked(number: i32) -> SysResult<bool> {
    let mut mask = [0; 8];
    pass!(RT_SIGPROCMASK, libc::SIG_BLOCK, None, &mut mask, MASK)?;
    Ok((word(&mask, 0) >> (number - 1)) & 1 != 0)
}

/// Sends a signal to the task itself.
fn raise(task: &mut Task, number: u64) -> SysResult {
    if number as u32 == 0 {
        return Ok(0);
    }
    let number = signal(number)?;
    let stops = matches!(
        number,
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU
    );
    let harmless = matches!(
        number,
        libc::SIGCHLD | libc::SIGURG | libc::SIGWINCH | libc::SIGCONT
    );
    let handler = task.signals.handler(number);
    if stops || harmless || handler == IGNORE || is_blocked(number)? {
        // The host knows what to do about it, at once or when it is no longer blocked.
        return pass!(KILL, pass!(GETPID)?, number);
    }
    task.end = Some(End::Signal(number));
    Ok(0)
}

pub(super) fn kill(task: &mut Task, [pid, number, ..]: Args) -> SysResult {
    if !task.process.is_own(pid) {
        // Other processes are none of the task's business; whether they exist is not told.
        return Err(Errno::EPERM);
    }
    raise(task, number)
}

pub(super) fn tkill(task: &mut Task, [tid, number, ..]: Args) -> SysResult {
    kill(task, [tid, number, 0, 0, 0, 0])
}

pub(super) fn tgkill(task: &mut Task, [group, tid, number, ..]: Args) -> SysResult {
    if group as u32 != tid as u32 {
        return Err(Errno::ESRCH);
    }
    kill(task, [tid, number, 0, 0, 0, 0])
}
