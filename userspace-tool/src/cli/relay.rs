// SPDX-License-Identifier: GPL-2.0

//! `uvctl run --tty`: the program has a terminal of its own, and this process passes on between that and the user's.
//!
//! So the program is the leader of a session, with job control, and what it does to its terminal's settings stays
//! there. The broker is a child of this process and ends with it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::{poll, PollFd, PollFlags};
use rustix::pty::{grantpt, ioctl_tiocgptpeer, openpt, unlockpt, OpenptFlags};
use rustix::stdio::{stdin, stdout};
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize, OptionalActions, Termios};

/// Where this process goes on.
pub(super) enum Side {
    /// As the broker, on the new terminal.
    Broker,
    /// As what passes on; the broker has ended with this wait status.
    Ended(i32),
}

/// The user's terminal, which gets its settings back when this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    /// Makes the user's terminal pass everything on, if standard input is one.
    fn new() -> Self {
        let before = tcgetattr(stdin()).ok();
        if let Some(settings) = &before {
            let mut raw = settings.clone();
            raw.make_raw();
            // What cannot be set stays as it is: the program works, with an echo too many.
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // There is nobody left to tell.
            let _ = tcsetattr(stdin(), OptionalActions::Flush, settings);
        }
    }
}

/// Parts into the broker, in a session of its own on a new terminal, and this process, which passes on until
/// that has ended.
pub(super) fn part() -> io::Result<Side> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    copy_size(&master);
    if let Ok(settings) = tcgetattr(stdin()) {
        tcsetattr(&slave, OptionalActions::Now, &settings)?;
    }
    // Before there is a child, so that none of its signals is missed.
    mask(libc::SIG_BLOCK)?;
    let signals = signal_file()?;
    // SAFETY: This process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            drop((master, signals));
            mask(libc::SIG_UNBLOCK)?;
            take_terminal(slave)?;
            Ok(Side::Broker)
        }
        broker => {
            drop(slave);
            let raw = Raw::new();
            let status = pass_on(&master.into(), &signals, broker);
            drop(raw);
            status.map(Side::Ended)
        }
    }
}

/// What [`pass_on`] waits for besides input and output.
fn signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: The first call initialises the set, to which the others add.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGCHLD);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGWINCH);
        set.assume_init()
    }
}

/// Blocks or unblocks them (`SIG_BLOCK`, `SIG_UNBLOCK`).
fn mask(how: i32) -> io::Result<()> {
    // SAFETY: The set lives as long as the call.
    match unsafe { libc::sigprocmask(how, &signals(), std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Where they are read from.
fn signal_file() -> io::Result<File> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: The set lives as long as the call.
    match unsafe { libc::signalfd(-1, &signals(), flags) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: The kernel just made this descriptor for us.
        fd => Ok(unsafe { File::from_raw_fd(fd) }),
    }
}

/// Makes `slave` the terminal of a new session, and standard input, output and error.
fn take_terminal(slave: OwnedFd) -> io::Result<()> {
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    rustix::stdio::dup2_stderr(&slave)?;
    Ok(())
}

/// Gives the new terminal the size of the user's.
fn copy_size(master: impl AsFd) {
    if let Ok(size) = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())) {
        // A program that does not know the size takes 80 by 24.
        let _ = tcsetwinsize(master, size);
    }
}

/// Passes on until the broker has ended and all of its output was passed on; returns its wait status.
fn pass_on(mut master: &File, mut signals: &File, broker: i32) -> io::Result<i32> {
    let (mut user, mut screen) = (owned(stdin())?, owned(stdout())?);
    let mut input = true;
    let mut status = None;
    let mut buffer = [0u8; 4096];
    loop {
        let mut fds = vec![
            PollFd::new(master, PollFlags::IN),
            PollFd::new(signals, PollFlags::IN),
        ];
        if input {
            fds.push(PollFd::new(&user, PollFlags::IN));
        }
        let timeout = status.is_some().then_some(rustix::time::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => {
                if let Some(status) = status {
                    return Ok(status);
                }
            }
            result => drop(result?),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[0] {
            match master.read(&mut buffer) {
                Ok(count @ 1..) => screen.write_all(&buffer[..count])?,
                // Nobody has the slave any more.
                _ => match status {
                    Some(status) => return Ok(status),
                    None => status = Some(wait(broker, 0)?.unwrap_or(0)),
                },
            }
        }
        if ready[1] {
            // What they say is found out anew.
            let _ = signals.read(&mut buffer);
            copy_size(master);
            if status.is_none() {
                status = wait(broker, libc::WNOHANG)?;
            }
        }
        if ready.get(2) == Some(&true) {
            match user.read(&mut buffer) {
                Ok(count @ 1..) => master.write_all(&buffer[..count])?,
                _ => {
                    input = false;
                    // As a terminal has it at the end of what is typed.
                    let end =
                        tcgetattr(master)?.special_codes[rustix::termios::SpecialCodeIndex::VEOF];
                    master.write_all(&[end])?;
                }
            }
        }
    }
}

/// A descriptor as a file.
fn owned(fd: BorrowedFd<'_>) -> io::Result<File> {
    fd.try_clone_to_owned().map(File::from)
}

/// The wait status of the broker, if it has ended.
pub(super) fn wait(broker: i32, options: i32) -> io::Result<Option<i32>> {
    let mut status = 0;
    // SAFETY: The status is ours.
    match unsafe { libc::waitpid(broker, &mut status, options) } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => Ok(Some(status)),
    }
}

/// What a wait status is for a shell.
pub(super) fn exit_status(status: i32) -> u8 {
    match libc::WIFEXITED(status) {
        true => libc::WEXITSTATUS(status) as u8,
        false => 128 + libc::WTERMSIG(status) as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_that_of_shells() {
        assert_eq!(exit_status(3 << 8), 3);
        assert_eq!(exit_status(libc::SIGTERM), 143);
    }
}
