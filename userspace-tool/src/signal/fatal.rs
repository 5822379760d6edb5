// SPDX-License-Identifier: GPL-2.0

//! Signals that end a process which does not handle them, where that has something to do first.
//!
//! By default the host does what they do. A process that has memory in common with others takes them itself, and ends
//! as by an end of its own, since others may wait for what its threads have locked there. SIGKILL cannot be taken. So
//! such a process is asked for it by another one of its task, by a [`WAKE`], and the signal follows.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::{set_collected, set_disposition, wake_info, Info, WAKE};

/// What comes with a [`WAKE`] that asks a process to end as by SIGKILL.
const KILL_VALUE: u64 = 0x7576_6973_6f72_0003;

/// Whether this process takes what is fatal. A child does if its parent does.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Whether it was asked to end as by SIGKILL.
static DOOMED: AtomicBool = AtomicBool::new(false);

/// Whether a signal ends a process that does not handle it.
pub fn is_fatal(number: i32) -> bool {
    !matches!(
        number,
        libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
            | libc::SIGCHLD
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGCONT
    )
}

/// From now on this process takes what is fatal, where [`set_default`] is called; false if it does already.
pub fn take_fatal() -> bool {
    !TAKEN.swap(true, SeqCst)
}

/// This process takes it no more, where [`set_default`] is called; false if it did not.
pub fn leave_fatal() -> bool {
    TAKEN.swap(false, SeqCst)
}

/// Whether this process takes what is fatal.
pub fn takes_fatal() -> bool {
    TAKEN.load(SeqCst)
}

/// Makes a signal do what it does by default.
pub fn set_default(number: i32) {
    match is_fatal(number) && takes_fatal() {
        true => set_collected(number, 0),
        false => set_disposition(number, libc::SIG_DFL),
    }
}

/// What asks a process to end as by SIGKILL: goes with a [`WAKE`].
pub fn kill_request() -> Info {
    wake_info(KILL_VALUE)
}

/// Whether a signal does that.
pub(super) fn is_kill_request(number: i32, info: &Info) -> bool {
    number == WAKE && crate::memory::word(info, 24) == KILL_VALUE
}

/// This process was asked to end as by SIGKILL. Async-signal-safe.
pub(super) fn doom() {
    DOOMED.store(true, SeqCst);
}

/// Whether it was.
pub fn is_doomed() -> bool {
    DOOMED.load(SeqCst)
}

/// This process is a new one: what was asked of its parent was not asked of it.
pub fn begin() {
    DOOMED.store(false, SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_what_else_wakes() {
        assert!(is_kill_request(WAKE, &kill_request()));
        assert!(!is_kill_request(libc::SIGTERM, &kill_request()));
        assert!(!is_kill_request(WAKE, &super::super::guests_wake()));
    }

    #[test]
    fn most_signals_are_fatal() {
        let others: Vec<i32> = (1..=WAKE).filter(|&number| !is_fatal(number)).collect();
        assert_eq!(others, [17, 18, 19, 20, 21, 22, 23, 28]);
    }
}
