// SPDX-License-Identifier: GPL-2.0

//! The broker as a child of this process, which is not confined, and does what there is to do when that has ended.

use std::ffi::CStr;
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

/// What a process does that is to be beside the broker, with the name `name`: neither the terminal's signals nor the directory
/// of the task are its business, and what waits for the end of the task's output does not wait for it. It keeps standard
/// error and the descriptors `kept`.
pub(super) fn stand_beside(name: &CStr, kept: &[RawFd]) {
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    // SAFETY: Of what is closed, the caller uses nothing; the name is a string.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
        libc::close(0);
        libc::close(1);
        for (first, last) in uvisor::gaps(3, kept) {
            libc::syscall(libc::SYS_close_range, first, last, 0);
        }
    }
}
