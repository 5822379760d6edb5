// SPDX-License-Identifier: GPL-2.0

//! What the host does with signals that arrive for a task: its actions, set by the kernel's own call.

use std::arch::global_asm;
use std::{mem, ptr};

use super::{bit, collect};
use crate::pass;

/// The kernel's structure for `rt_sigaction`.
#[repr(C)]
struct KernelAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}

/// Makes the host collect a signal for the task; `flags` are those of the task that are the host's to obey.
pub fn set_collected(number: i32, flags: u64) {
    // SAFETY: All bytes zero are a valid value.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = collect as *const () as usize;
    let ours = libc::SA_NOCLDSTOP | libc::SA_NOCLDWAIT;
    action.sa_flags = libc::SA_SIGINFO | (flags as i32 & ours);
    set_action(number, &action, u64::MAX);
}

/// Makes the host ignore a signal (`SIG_IGN`), or do what it does by default (`SIG_DFL`).
pub fn set_disposition(number: i32, disposition: libc::sighandler_t) {
    // SAFETY: As above.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = disposition;
    set_action(number, &action, 0);
}

/// `rt_sigaction` for any signal; the C library's keeps two for itself.
fn set_action(number: i32, action: &libc::sigaction, mask: u64) {
    const SA_RESTORER: u64 = 0x0400_0000;
    let action = KernelAction {
        handler: action.sa_sigaction as u64,
        flags: action.sa_flags as u32 as u64 | SA_RESTORER,
        restorer: &raw const uvisor_restore as u64,
        mask,
    };
    // SAFETY: The structure is the kernel's; the handler is `collect`, which is async-signal-safe, or none.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            number,
            &action,
            ptr::null::<u8>(),
            8,
        )
    };
}

global_asm!(
    ".pushsection .text.uvisor_restore, \"ax\", @progbits",
    ".globl uvisor_restore",
    "uvisor_restore:",
    "mov eax, 15",
    "syscall",
    ".popsection",
);

extern "C" {
    static uvisor_restore: u8;
}

/// Ends this process by a signal, as its default action does.
pub fn die_of(number: i32) -> ! {
    let limit = [0u8; 16];
    // A core file would be the broker's memory, and none of the task's business.
    let _ = pass!(
        PRLIMIT,
        0,
        libc::RLIMIT_CORE as i32,
        &mut limit.clone(),
        None
    );
    set_disposition(number, libc::SIG_DFL);
    let mut mask = (!bit(number)).to_le_bytes();
    let _ = pass!(RT_SIGPROCMASK, libc::SIG_SETMASK, &mut mask, None, 8);
    let pid = crate::process::id() as i32;
    // To this thread: another one would take its time.
    let _ = pass!(TGKILL, pid, super::own_tid(), number);
    // Only a signal that does not kill comes back.
    std::process::abort()
}
