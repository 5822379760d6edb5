// SPDX-License-Identifier: GPL-2.0

//! What the host's thread has in registers that a guest, or its own XRSTOR, could change.

use std::arch::asm;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use uvisor_tests::own_state::ioctl_keeping;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, DATA};

use crate::guest;
use crate::guest_state::ymm;

code! { spoil:
    "pcmpeqd %xmm0, %xmm0",
    "pcmpeqd %xmm7, %xmm7",
    "pcmpeqd %xmm15, %xmm15",
    "fninit",
    "fldpi",
    "movl $0x9fc0, 0x500000",
    "ldmxcsr 0x500000",
    "mov $0x77770000, %eax",
    "wrfsbase %rax",
    "wrgsbase %rax",
    "vmcall",
}

// XRSTOR with every bit asked for, from a legacy area that names all components.
code! { xrstor:
    "mov $0x500000, %edi",
    "mov $-1, %eax",
    "mov $-1, %edx",
    "xrstor (%rdi)",
    "vmcall",
}

/// What the guest does to its registers does not reach the host's thread.
pub(crate) fn spoiled() -> Outcome {
    for code in [spoil(), ymm(), xrstor()] {
        let guest = guest(code)?;
        for _ in 0..3 {
            equal("RUN", ioctl_keeping(&guest.vcpu, uvisor_uapi::RUN)?, 0)?;
        }
    }
    Ok(())
}

/// The thread's PKRU, after XRSTOR in a guest named every component.
pub(crate) fn pkru() -> Outcome {
    let pkru = || -> u32 {
        let value;
        // SAFETY: The caller saw that the kernel uses protection keys.
        unsafe { asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _) };
        value
    };
    let before = pkru();
    let mut guest = guest(xrstor())?;
    // All components, of which PKRU has its 0 in the area.
    let all = 0x2e7u64.to_le_bytes();
    guest
        .vm
        .write_at(DATA + 512, &all)
        .map_err(|e| e.to_string())?;
    guest
        .vm
        .write_at(DATA + 24, &[0x80, 0x1f])
        .map_err(|e| e.to_string())?;
    guest.run_to_hypercall()?;
    check(
        "the host's is not 0, or this would show nothing",
        before != 0,
    )?;
    equal("PKRU", pkru(), before)
}

/// The thread's LDT and a selector of it in ES.
pub(crate) fn ldt_kept() -> Result<Option<&'static str>, String> {
    // Entry 0: a data segment, base 0, limit 0x123 bytes.
    let entry: [u32; 4] = [0, 0, 0x123, 1 | 1 << 6];
    // SAFETY: The call reads the structure.
    if unsafe { libc::syscall(libc::SYS_modify_ldt, 1, entry.as_ptr(), size_of_val(&entry)) } != 0 {
        return Ok(Some("the kernel has no modify_ldt"));
    }
    let guest = guest(spoil())?;
    let fd = guest.vcpu.as_fd().as_raw_fd();
    let (result, es, limit): (i64, u32, u32);
    // SAFETY: ES is put back; the segment lets every use of it here pass, as 64-bit code has none.
    unsafe {
        asm!(
            "mov es, {es:e}", "syscall", "mov {es:e}, es", "mov {limit:e}, 7",
            "lsl {limit:e}, {limit:e}", "xor {zero:e}, {zero:e}", "mov es, {zero:e}",
            es = inout(reg) 7u32 => es, limit = out(reg) limit, zero = out(reg) _,
            inout("rax") libc::SYS_ioctl => result,
            in("rdi") fd, in("rsi") uvisor_uapi::RUN as usize, in("rdx") 0,
            out("rcx") _, out("r11") _,
        );
    }
    equal("RUN", result, 0)?;
    equal("ES", es, 7)?;
    equal("the limit in the LDT", limit, 0x123)?;
    Ok(None)
}

/// A debugger's hardware breakpoint in the thread that runs a guest.
pub(crate) fn breakpoint() -> Outcome {
    static WATCHED: AtomicU32 = AtomicU32::new(0);
    // SAFETY: The child uses only what it makes, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: The parent is our debugger.
        unsafe {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0);
            libc::raise(libc::SIGSTOP);
        }
        let mut guest = Guest::new(spoil());
        for _ in 0..3 {
            let _ = guest.run_to_hypercall();
        }
        WATCHED.store(1, Ordering::SeqCst);
        // SAFETY: Ends the child.
        unsafe { libc::_exit(0) };
    }
    let wait = || {
        let mut status = 0;
        // SAFETY: Our child.
        unsafe { libc::waitpid(child, &mut status, 0) };
        status
    };
    let debug = |number: usize, value: usize| {
        let at = std::mem::offset_of!(libc::user, u_debugreg) + number * 8;
        // SAFETY: The child is stopped.
        unsafe { libc::ptrace(libc::PTRACE_POKEUSER, child, at, value) }
    };
    let mut status = wait();
    let set = debug(0, WATCHED.as_ptr() as usize) == 0 && debug(7, 0xd_0001) == 0;
    if set && libc::WIFSTOPPED(status) {
        // SAFETY: The child is stopped.
        unsafe { libc::ptrace(libc::PTRACE_CONT, child, 0, 0) };
        status = wait();
    }
    // SAFETY: Our child, which ends by this if it still lives.
    unsafe { libc::kill(child, libc::SIGKILL) };
    check("the breakpoint was set", set)?;
    check(
        &format!("status {status:#x}, wanted a stop by SIGTRAP"),
        libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP,
    )
}
