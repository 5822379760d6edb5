// SPDX-License-Identifier: GPL-2.0

//! Where a program stops to become a template.

use std::fmt;
use std::ptr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Result, Stdio, TemplateError};
use crate::errno::Errno;
use crate::memory::word32;
use crate::personality::{special, Special};
use crate::profile::time;
use crate::signal;
use crate::task::{End, Step, Task};

/// Where a program stops to become a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Point {
    /// Where it first reads standard input, or waits for it; nothing is read yet.
    Stdin,
    /// Where it opens `/dev/uvisor-checkpoint`.
    Checkpoint,
    /// When it has run for so long.
    After(Duration),
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdin => f.write_str("stdin"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::After(time) => write!(f, "{time:?}"),
        }
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stdin" => Ok(Self::Stdin),
            "checkpoint" => Ok(Self::Checkpoint),
            _ => time(text).map(Self::After).map_err(|why| {
                format!("it is neither `stdin` nor `checkpoint`, and as a time, {why}")
            }),
        }
    }
}

impl Point {
    /// Runs a task to here. If it ends before, says how.
    pub fn run(&self, task: &mut Task, stdio: &Stdio) -> Result<Option<End>> {
        let time = match self {
            Self::After(time) => Some(*time),
            _ => None,
        };
        run_until(task, time, |task| self.is_reached_by_call(task, stdio))
    }

    /// Whether the system call that the task is at is the point.
    fn is_reached_by_call(&self, task: &Task, stdio: &Stdio) -> bool {
        let regs = task.vcpu.regs();
        match self {
            Self::Stdin => reads_stdin(task, stdio),
            Self::Checkpoint => {
                let path = match regs.rax as i64 {
                    libc::SYS_open | libc::SYS_creat => regs.rdi,
                    libc::SYS_openat => regs.rsi,
                    _ => return false,
                };
                let path = task.memory.path(path);
                path.is_ok_and(|path| {
                    special(&path, crate::process::id()) == Some(Special::Checkpoint)
                })
            }
            Self::After(_) => false,
        }
    }
}

/// Runs a task until the time is up, or `is_reached` is true where it is at a system call, which is not served
/// then: whoever goes on with it makes it again. If it ends before, says how.
pub(super) fn run_until(
    task: &mut Task,
    time: Option<Duration>,
    mut is_reached: impl FnMut(&Task) -> bool,
) -> Result<Option<End>> {
    let _entered = task.inbox.enter(task.vcpu.exit_flag());
    let timer = time.map(Timer::start).transpose()?;
    loop {
        if timer.as_ref().is_some_and(Timer::is_up) {
            return Ok(None);
        }
        match task.step(&mut is_reached)? {
            Step::On => {}
            Step::Reached => return Ok(None),
            Step::Ended(ending) => {
                if let Some(end) = task.finish(ending) {
                    return Ok(Some(end));
                }
            }
        }
    }
}

/// Whether the system call that a task is at reads standard input, or waits for it.
fn reads_stdin(task: &Task, stdio: &Stdio) -> bool {
    let regs = task.vcpu.regs();
    let is_stdin = |fd: u64| {
        let fd = task.fds.guest(fd);
        fd.is_ok_and(|fd| stdio.find(fd) == Some(0))
    };
    match regs.rax as i64 {
        libc::SYS_read
        | libc::SYS_pread64
        | libc::SYS_readv
        | libc::SYS_preadv
        | libc::SYS_preadv2
        | libc::SYS_splice
        | libc::SYS_tee
        | libc::SYS_copy_file_range => is_stdin(regs.rdi),
        libc::SYS_sendfile => is_stdin(regs.rsi),
        libc::SYS_poll | libc::SYS_ppoll => {
            let count = regs.rsi.min(task.fds.limit() as u64) as usize;
            let Ok(array) = task.memory.read_vec(regs.rdi, count * 8) else {
                return false;
            };
            array.chunks_exact(8).any(|poll| {
                let events = word32(poll, 4) as i16;
                events & libc::POLLIN != 0 && is_stdin(u64::from(word32(poll, 0)))
            })
        }
        libc::SYS_select | libc::SYS_pselect6 => {
            let count = regs.rdi.min(task.fds.limit() as u64);
            let Ok(set) = task
                .memory
                .read_vec(regs.rsi, count.div_ceil(64) as usize * 8)
            else {
                return false;
            };
            (0..count).any(|fd| {
                let byte = set.get(fd as usize / 8);
                byte.is_some_and(|byte| (byte >> (fd % 8)) & 1 != 0) && is_stdin(fd)
            })
        }
        _ => false,
    }
}

/// A timer that ends what the broker's only thread is in.
struct Timer {
    timer: libc::timer_t,
    end: Instant,
}

impl Timer {
    fn start(time: Duration) -> Result<Self> {
        let failed = || TemplateError::Call {
            what: "cannot start a timer",
            error: Errno::last(),
        };
        // SAFETY: All bytes zero are a valid value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal::WAKE;
        event.sigev_value = signal::wake_value();
        let mut timer = ptr::null_mut();
        // SAFETY: Both structures live as long as the call.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) } < 0 {
            return Err(failed());
        }
        let end = Instant::now() + time;
        let timer = Self { timer, end };
        let timespec = |time: Duration| libc::timespec {
            tv_sec: time.as_secs() as libc::time_t,
            tv_nsec: time.subsec_nanos().into(),
        };
        let spec = libc::itimerspec {
            // Once is enough, if the clock that is looked at does not lag.
            it_interval: timespec(Duration::from_millis(10)),
            it_value: timespec(time),
        };
        // SAFETY: The timer is ours, and the structure complete.
        if unsafe { libc::timer_settime(timer.timer, 0, &spec, ptr::null_mut()) } < 0 {
            return Err(failed());
        }
        Ok(timer)
    }

    /// Whether the time is up.
    fn is_up(&self) -> bool {
        Instant::now() >= self.end
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: The timer is ours. A signal that is pending still has its handler.
        unsafe { libc::timer_delete(self.timer) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_names() {
        let point = |text: &str| text.parse::<Point>();
        assert_eq!(point("stdin"), Ok(Point::Stdin));
        assert_eq!(point("checkpoint"), Ok(Point::Checkpoint));
        assert_eq!(point("2s"), Ok(Point::After(Duration::from_secs(2))));
        assert_eq!(point("500ms"), Ok(Point::After(Duration::from_millis(500))));
        assert_eq!(point("2m"), Ok(Point::After(Duration::from_secs(120))));
        for text in [
            "",
            "s",
            "2",
            "-1s",
            "0s",
            "1e9s",
            "infs",
            "nans",
            "99999999m",
            "1.5s",
            "Stdin",
        ] {
            assert!(point(text).is_err(), "{text}");
        }
    }
}
