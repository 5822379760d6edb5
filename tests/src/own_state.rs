// SPDX-License-Identifier: GPL-2.0

//! System calls, of which the calling thread looks whether they changed its own registers.

use std::arch::asm;
use std::os::fd::{AsFd, AsRawFd};

use crate::tap::equal;

/// Makes a system call that does not write this thread's memory; an error if one of the thread's own
/// registers is another afterwards. Returns what the kernel returned.
pub fn keeping(number: i64, arguments: [usize; 3]) -> Result<i64, String> {
    let (result, wrong) = own_state_kept(number, arguments);
    let what = "changed (XMM6, XMM15, x87, MXCSR, GS, DS, ES from bit 0 on)";
    equal(what, wrong, 0)?;
    Ok(result)
}

/// Calls `command` without an argument, as [`keeping`].
pub fn ioctl_keeping(fd: &impl AsFd, command: u32) -> Result<i64, String> {
    let fd = fd.as_fd().as_raw_fd();
    // CAST: A descriptor is not negative.
    keeping(libc::SYS_ioctl, [fd as usize, command as usize, 0])
}

/// Makes a system call with values of this thread's own in all that the kernel keeps for it; returns
/// its result, and a bit for each that was not the same afterwards.
fn own_state_kept(number: i64, arguments: [usize; 3]) -> (i64, u64) {
    let value = 0x0000_1234_9abc_def1u64;
    // The thread's MXCSR, ours, our integer for the FPU and what comes back, MXCSR that comes back.
    let mut memory = [0x5f80u64 << 32, value, 0, 0];
    let (result, wrong): (i64, u64);
    // SAFETY: All that is changed is declared, or put back: MXCSR, GS, DS and ES; the FPU is left
    // empty. The system call is one that does not write this thread's memory.
    unsafe {
        asm!(
            "stmxcsr [r12]",
            "ldmxcsr [r12 + 4]",
            "movq xmm6, r13",
            "punpcklqdq xmm6, xmm6",
            "movdqa xmm15, xmm6",
            "wrgsbase r13",
            "fninit",
            "fild qword ptr [r12 + 8]",
            "mov r14d, 0x2b",
            "mov ds, r14d",
            "mov es, r14d",
            "syscall",
            "xor r14d, r14d",
            "xor r8d, r8d",
            "movq r9, xmm6",
            "cmp r9, r13",
            "setne r8b",
            "lea r14, [r8]",
            "pextrq r9, xmm15, 1",
            "cmp r9, r13",
            "setne r8b",
            "lea r14, [r14 + 2 * r8]",
            "fistp qword ptr [r12 + 16]",
            "cmp r13, [r12 + 16]",
            "setne r8b",
            "lea r14, [r14 + 4 * r8]",
            "stmxcsr [r12 + 24]",
            "mov r9d, [r12 + 24]",
            "and r9d, 0xffc0",
            "cmp r9d, [r12 + 4]",
            "setne r8b",
            "lea r14, [r14 + 8 * r8]",
            "rdgsbase r9",
            "cmp r9, r13",
            "setne r8b",
            "shl r8d, 4",
            "or r14, r8",
            "xor r8d, r8d",
            "mov r9d, ds",
            "cmp r9d, 0x2b",
            "setne r8b",
            "shl r8d, 5",
            "or r14, r8",
            "xor r8d, r8d",
            "mov r9d, es",
            "cmp r9d, 0x2b",
            "setne r8b",
            "shl r8d, 6",
            "or r14, r8",
            "xor r8d, r8d",
            "wrgsbase r8",
            "mov ds, r8d",
            "mov es, r8d",
            "ldmxcsr [r12]",
            "fninit",
            inout("rax") number => result,
            inout("rdi") arguments[0] => _,
            inout("rsi") arguments[1] => _,
            inout("rdx") arguments[2] => _,
            in("r12") memory.as_mut_ptr(),
            in("r13") value,
            out("r14") wrong,
            out("r8") _, out("r9") _, out("r10") _, out("rcx") _, out("r11") _,
            out("xmm6") _, out("xmm15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    (result, wrong)
}
