// SPDX-License-Identifier: GPL-2.0

//! The broker as a child of this process, which is not confined, and does what there is to do when that has ended.

use std::io;
use std::os::fd::RawFd;

use super::{relay, FAILURE};

/// Parts into the broker, for which this returns none, and this process, for which it returns the broker. This one is
/// to wait for that, and has no say in what the terminal's keys do.
pub(super) fn part() -> io::Result<Option<i32>> {
    let parent = rustix::process::getpid();
    // SAFETY: This process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let signal = rustix::process::Signal::KILL;
            rustix::process::set_parent_process_death_signal(Some(signal))?;
            if rustix::process::getppid() != Some(parent) {
                // It had ended before.
                std::process::exit(FAILURE.into());
            }
            Ok(None)
        }
        broker => {
            for signal in [libc::SIGINT, libc::SIGQUIT] {
                // SAFETY: It is ignored from now on; no code of ours runs for it.
                unsafe { libc::signal(signal, libc::SIG_IGN) };
            }
            Ok(Some(broker))
        }
    }
}

/// Waits for the broker's end; its status.
pub(super) fn wait(broker: i32) -> io::Result<u8> {
    loop {
        match relay::wait(broker, 0) {
            Ok(status) => return Ok(relay::exit_status(status.unwrap_or(0))),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Closes all descriptors from 3 on but some, which are in order: the rest is not for a process beside the broker.
pub(super) fn close_but(kept: &[RawFd]) {
    let mut first = 3;
    for fd in kept.iter().map(|&fd| fd as u32).filter(|&fd| fd >= 3) {
        if fd > first {
            // SAFETY: Of what is closed, the caller uses nothing.
            unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) };
        }
        first = fd + 1;
    }
    // SAFETY: As above.
    unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
}
