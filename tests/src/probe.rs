// SPDX-License-Identifier: GPL-2.0

//! Accesses that may raise SIGBUS or SIGSEGV, which become errors.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Once;

/// The signal of the last access that failed.
static SIGNAL: AtomicI32 = AtomicI32::new(0);

core::arch::global_asm!(
    ".globl uvt_load, uvt_store, uvt_failed",
    "uvt_load:",
    "movzbl (%rdi), %eax",
    "ret",
    "uvt_store:",
    "movb %sil, (%rdi)",
    "xor %eax, %eax",
    "ret",
    "uvt_failed:",
    "mov $-1, %rax",
    "ret",
    options(att_syntax)
);

extern "C" {
    fn uvt_load(at: *const u8) -> i64;
    fn uvt_store(at: *mut u8, value: u8) -> i64;
    fn uvt_failed();
}

/// Goes on behind an access of ours; any other fault is deadly, as without the handler.
extern "C" fn handler(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: The kernel gives the interrupted context.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let rip = &mut registers[libc::REG_RIP as usize];
    if *rip == uvt_load as *const () as i64 || *rip == uvt_store as *const () as i64 {
        SIGNAL.store(signal, Ordering::SeqCst);
        *rip = uvt_failed as *const () as i64;
    } else {
        // SAFETY: A plain system call; the fault repeats and then kills.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            // SAFETY: The action is initialised and the handler async-signal-safe.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO;
                libc::sigaction(signal, &action, std::ptr::null_mut());
            }
        }
    });
}

/// Reads a byte; the error is the signal.
#[allow(clippy::not_unsafe_ptr_arg_deref)] // Any address will do: that is what it is for.
pub fn load(at: *const u8) -> Result<u8, i32> {
    prepare();
    // SAFETY: If the address is not readable, the handler makes it an error.
    match unsafe { uvt_load(at) } {
        -1 => Err(SIGNAL.load(Ordering::SeqCst)),
        value => Ok(value as u8),
    }
}

/// Writes a byte; the error is the signal. The caller owns what is there, if anything.
#[allow(clippy::not_unsafe_ptr_arg_deref)] // Any address will do: that is what it is for.
pub fn store(at: *mut u8, value: u8) -> Result<(), i32> {
    prepare();
    // SAFETY: If the address is not writable, the handler makes it an error.
    match unsafe { uvt_store(at, value) } {
        -1 => Err(SIGNAL.load(Ordering::SeqCst)),
        _ => Ok(()),
    }
}
