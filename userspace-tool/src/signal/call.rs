// SPDX-License-Identifier: GPL-2.0

//! System calls that may wait, which a signal that has arrived keeps from being made, without a gap.

use std::arch::global_asm;
use std::sync::atomic::AtomicU32;

use super::CURRENT;
use crate::errno::{Errno, SysResult};

/// What a thread without an inbox looks at: nothing ever arrives.
static QUIET: AtomicU32 = AtomicU32::new(0);

/// Makes a system call that may wait, unless a signal has arrived for the calling thread: `ERESTARTNOINTR` says
/// that it was not made.
///
/// # Safety
///
/// As for the call itself.
pub(crate) unsafe fn call(number: libc::c_long, arguments: &[u64; 6]) -> SysResult {
    let inbox = CURRENT.get();
    let pending = match inbox.is_null() {
        true => &QUIET,
        // SAFETY: It is alive as long as it is the thread's.
        false => unsafe { &(*inbox).pending },
    };
    // SAFETY: By the caller's promise.
    let value = unsafe { uvisor_call(number, arguments.as_ptr(), pending.as_ptr()) };
    match u64::try_from(value) {
        Ok(value) => Ok(value),
        Err(_) => Errno::check(value),
    }
}

/// Makes a system call that does not wait.
///
/// # Safety
///
/// As for the call itself.
pub(crate) unsafe fn plain_call(number: libc::c_long, arguments: &[u64; 6]) -> SysResult {
    let [a, b, c, d, e, f] = *arguments;
    // SAFETY: By the caller's promise.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(Errno::last()),
        value => Ok(value as u64),
    }
}

// A signal that arrives before SYSCALL has changed the word or finds us in the range that `collect` moves
// away from, so there is no gap.
global_asm!(
    ".pushsection .text.uvisor_call, \"ax\", @progbits",
    ".globl uvisor_call, uvisor_call_look, uvisor_call_made, uvisor_call_not_made",
    "uvisor_call:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov rdi, [rsi]",
    "mov rdx, [rsi + 16]",
    "mov r10, [rsi + 24]",
    "mov r8, [rsi + 32]",
    "mov r9, [rsi + 40]",
    "mov rsi, [rsi + 8]",
    "uvisor_call_look:",
    "cmp dword ptr [rcx], 0",
    "jne uvisor_call_not_made",
    "syscall",
    "uvisor_call_made:",
    "ret",
    "uvisor_call_not_made:",
    "mov rax, -513",
    "ret",
    ".popsection",
);

extern "C" {
    fn uvisor_call(number: libc::c_long, arguments: *const u64, pending: *const u32) -> i64;
    static uvisor_call_look: u8;
    static uvisor_call_made: u8;
    static uvisor_call_not_made: u8;
}

/// Where a thread goes on that a signal has stopped at `rip`: a call that has looked and is not made yet, is not.
pub(super) fn resume_at(rip: i64) -> i64 {
    let look = &raw const uvisor_call_look as i64;
    let made = &raw const uvisor_call_made as i64;
    match (look..made).contains(&rip) {
        true => &raw const uvisor_call_not_made as i64,
        false => rip,
    }
}
