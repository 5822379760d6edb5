// SPDX-License-Identifier: GPL-2.0

//! The registers of the guest and of the host's thread: each keeps its own.

use std::arch::asm;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use uvisor::{Device, Event, Exit, RunFlags, PAGE_SIZE};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, CODE, DATA};

// Fills every register from RAX, then compares again and again; a wrong one ends in `ud2`.
code! { keep:
    "mov $0x500000, %edi",
    "mov %rax, (%rdi)",
    "fninit",
    "fildll (%rdi)",
    "fildll (%rdi)",
    "movl $0x1fa0, 8(%rdi)",
    "ldmxcsr 8(%rdi)",
    "movq %rax, %xmm0",
    "punpcklqdq %xmm0, %xmm0",
    "movdqa %xmm0, %xmm7",
    "movdqa %xmm0, %xmm15",
    "wrfsbase %rax",
    "mov %rax, %rbx",
    "mov %rax, %rbp",
    "mov %rax, %r8",
    "mov %rax, %r9",
    "mov %rax, %r10",
    "mov %rax, %r11",
    "mov %rax, %r12",
    "mov %rax, %r13",
    "mov %rax, %r14",
    "wrgsbase %rax",
    "mov $0x7a11, %esi",
    "1: movq %xmm7, %rdx",
    "cmp %rdx, %rax",
    "jne 2f",
    "pextrq $1, %xmm15, %rdx",
    "cmp %rdx, %rax",
    "jne 2f",
    "fistpll 24(%rdi)",
    "fildll (%rdi)",
    "cmp 24(%rdi), %rax",
    "jne 2f",
    "stmxcsr 12(%rdi)",
    "cmpl $0x1fa0, 12(%rdi)",
    "jne 2f",
    "rdfsbase %rdx",
    "cmp %rdx, %rax",
    "jne 2f",
    "rdgsbase %rdx",
    "cmp %rdx, %rax",
    "jne 2f",
    "cmp %rbx, %rax",
    "jne 2f",
    "cmp %rbp, %rax",
    "jne 2f",
    "cmp %r8, %rax",
    "jne 2f",
    "cmp %r9, %rax",
    "jne 2f",
    "cmp %r10, %rax",
    "jne 2f",
    "cmp %r11, %rax",
    "jne 2f",
    "cmp %r12, %rax",
    "jne 2f",
    "cmp %r13, %rax",
    "jne 2f",
    "cmp %r14, %rax",
    "jne 2f",
    "cmp $0x7a11, %esi",
    "jne 2f",
    "incq 16(%rdi)",
    "dec %rcx",
    "jnz 1b",
    "vmcall",
    "2: ud2",
}

// Stores the state that a vCPU begins with, then makes it another one.
code! { fresh:
    "mov $0x500000, %edi",
    "mov $-1, %eax",
    "mov $-1, %edx",
    "xsave (%rdi)",
    "vmcall",
    "movl $0x1f00, 0x800(%rdi)",
    "ldmxcsr 0x800(%rdi)",
    "pcmpeqd %xmm3, %xmm3",
    "fld1",
    "mov $-1, %eax",
    "mov $-1, %edx",
    "xsave (%rdi)",
    "vmcall",
    "mov $-1, %eax",
    "mov $-1, %edx",
    "xsave (%rdi)",
    "vmcall",
}

// The upper halves of YMM, and ZMM and a mask register where XCR0 has them.
code! { ymm:
    "mov $0x500000, %edi",
    "vmovdqu (%rdi), %ymm1",
    "vmovdqu (%rdi), %ymm14",
    "1: vmcall",
    "vmovdqu %ymm1, 0x40(%rdi)",
    "vmovdqu %ymm14, 0x80(%rdi)",
    "vmcall",
}

code! { zmm:
    "mov $0x500000, %edi",
    "vmovdqu64 (%rdi), %zmm2",
    "vmovdqu64 (%rdi), %zmm29",
    "mov $0x1234, %eax",
    "kmovw %eax, %k3",
    "vmcall",
    "vmovdqu64 %zmm2, 0x40(%rdi)",
    "vmovdqu64 %zmm29, 0x80(%rdi)",
    "kmovw %k3, %eax",
    "vmcall",
}

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

code! { flags: "pushq $0x0cd5", "popfq", "vmcall", "pushfq", "pop %rax", "vmcall" }
code! { steps: "nop", "mov $1, %eax", "inc %rax", "vmcall" }

/// A guest of `code` with room for an XSAVE area.
fn guest(code: &[u8]) -> Result<Guest, String> {
    let guest = Guest::new(code);
    let prot = uvisor::Prot::READ | uvisor::Prot::WRITE;
    let more = guest.vm.map_anonymous(DATA + PAGE_SIZE, PAGE_SIZE, prot);
    more.map_err(|e| e.to_string())?;
    Ok(guest)
}

fn read(guest: &Guest, offset: u64, bytes: &mut [u8]) -> Outcome {
    let result = guest.vm.read_at(DATA + offset, bytes);
    result.map_err(|e| e.to_string())
}

/// Makes a system call with values of this thread's own in all that the kernel keeps for it; returns
/// its result, and a bit for each that was not the same afterwards.
fn keeping_own_state(number: i64, arguments: [usize; 3]) -> (i64, u64) {
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

/// RUN, with the thread's own state looked at.
fn run_keeping_own_state(guest: &Guest) -> Result<i64, String> {
    let fd = guest.vcpu.as_fd().as_raw_fd() as usize;
    let (result, wrong) = keeping_own_state(libc::SYS_ioctl, [fd, uvisor_uapi::RUN as usize, 0]);
    let what = "changed (XMM6, XMM15, x87, MXCSR, GS, DS, ES from bit 0 on)";
    equal(what, wrong, 0)?;
    Ok(result)
}

/// Guests that check their registers, while timers fire and another thread calculates on their CPU.
fn preempted() -> Outcome {
    const MS: u128 = 400;
    let start = std::time::Instant::now();
    let mut threads = vec![];
    for number in 1..=2u64 {
        threads.push(std::thread::spawn(move || -> Outcome {
            pin_to_cpu(0);
            let mut guest = guest(keep())?;
            guest.vcpu.regs_mut().rax = 0x0000_1234_5678_0000 + number;
            let mut runs = 0;
            while start.elapsed().as_millis() < MS {
                // So long that several threads' turns pass.
                guest.vcpu.regs_mut().rcx = 200_000;
                equal("RUN", run_keeping_own_state(&guest)?, 0)?;
                if guest.vcpu.raw_exit().reason != uvisor_uapi::ExitReason::Hypercall as u32 {
                    let regs = guest.vcpu.regs();
                    return Err(format!("the guest saw a change: {regs:x?}"));
                }
                guest.vcpu.regs_mut().rip = CODE;
                runs += 1;
            }
            let stats = guest.vm.stats().map_err(|e| e.to_string())?;
            let ended = stats.events[Event::ExitInterrupt as usize]
                + stats.events[Event::ExitTimer as usize];
            check(
                &format!("{runs} runs, {ended} interruptions"),
                runs > 0 && ended > 10,
            )
        }));
    }
    let calculator = std::thread::spawn(move || -> Outcome {
        pin_to_cpu(0);
        while start.elapsed().as_millis() < MS {
            let (_, wrong) = keeping_own_state(libc::SYS_sched_yield, [0; 3]);
            equal("changed in a thread without a guest", wrong, 0)?;
        }
        Ok(())
    });
    threads.push(calculator);
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(())
}

/// What the guest does to its registers does not reach the host's thread.
fn spoiled() -> Outcome {
    for code in [spoil(), ymm(), xrstor()] {
        let guest = guest(code)?;
        for _ in 0..3 {
            equal("RUN", run_keeping_own_state(&guest)?, 0)?;
        }
    }
    Ok(())
}

/// What a vCPU begins with, again after RESET_FPU, and not without.
fn initial() -> Outcome {
    let mut guest = guest(fresh())?;
    // So that a state of the host's would be seen.
    let mut area = [0u8; 576];
    let run = |guest: &mut Guest, area: &mut [u8]| -> Outcome {
        guest
            .vm
            .write_at(DATA, &[0; 576])
            .map_err(|e| e.to_string())?;
        guest.run_to_hypercall()?;
        read(guest, 0, area)
    };
    let initial = |area: &[u8]| -> Outcome {
        equal("FCW", &area[..2], &[0x7f, 3])?;
        equal("FSW, FTW", &area[2..5], &[0; 3])?;
        equal("MXCSR", &area[24..28], &[0x80, 0x1f, 0, 0])?;
        equal("ST and XMM", area[32..416].iter().any(|b| *b != 0), false)
    };
    let other = |area: &[u8]| -> Outcome {
        equal("FTW", area[4], 0x80)?;
        equal("MXCSR", &area[24..28], &[0, 0x1f, 0, 0])?;
        equal("XMM3", &area[160 + 3 * 16..160 + 4 * 16], &[0xff; 16])
    };
    run(&mut guest, &mut area)?;
    initial(&area).map_err(|e| format!("at first: {e}"))?;
    run(&mut guest, &mut area)?;
    other(&area).map_err(|e| format!("changed: {e}"))?;
    run(&mut guest, &mut area)?;
    other(&area).map_err(|e| format!("kept: {e}"))?;
    guest.vcpu.regs_mut().rip = CODE;
    guest.vcpu.set_flags(RunFlags::RESET_FPU);
    run(&mut guest, &mut area)?;
    initial(&area).map_err(|e| format!("RESET_FPU: {e}"))?;
    run(&mut guest, &mut area)?;
    other(&area).map_err(|e| format!("RESET_FPU is obeyed once: {e}"))
}

/// Two vCPUs by turns, each with its own wide registers.
fn wide(code: &'static [u8], len: usize) -> Outcome {
    let mut guests = [guest(code)?, guest(code)?];
    for (guest, fill) in guests.iter_mut().zip([0x11u8, 0x22]) {
        let bytes = vec![fill; len];
        guest.vm.write_at(DATA, &bytes).map_err(|e| e.to_string())?;
        guest.run_to_hypercall()?;
    }
    for (guest, fill) in guests.iter_mut().zip([0x11u8, 0x22]) {
        guest.run_to_hypercall()?;
        for offset in [0x40, 0x80] {
            let mut bytes = vec![0; len];
            read(guest, offset, &mut bytes)?;
            equal("register", bytes, vec![fill; len])?;
        }
        if len == 64 {
            equal("mask register", guest.vcpu.regs().rax, 0x1234)?;
        }
    }
    Ok(())
}

/// The thread's PKRU, after XRSTOR in a guest named every component.
fn pkru() -> Outcome {
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

/// Flags that the guest sets are in the register file, and back in the guest.
fn flags_kept() -> Outcome {
    let mut guest = guest(flags())?;
    guest.run_to_hypercall()?;
    let arithmetic = 0xcd5;
    equal(
        "set by the guest",
        guest.vcpu.regs().rflags & arithmetic,
        0xcd5,
    )?;
    guest.vcpu.regs_mut().rflags = 0x202 | 0x851 | 0x3_7000 | 1 << 19 | 1 << 20 | u64::MAX << 22;
    guest.run_to_hypercall()?;
    equal(
        "given to the guest, without IOPL, NT, RF, VM, VIF, VIP",
        guest.vcpu.regs().rax,
        0x202 | 0x851,
    )
}

/// Single steps by TF.
fn single_steps() -> Outcome {
    let mut guest = guest(steps())?;
    for (rip, rax) in [(1, 0), (6, 1), (9, 2)] {
        guest.vcpu.regs_mut().rflags |= 0x100;
        let exit = guest.run();
        let step =
            matches!(exit, Exit::Exception { vector: 1, address, .. } if address & 0x4000 != 0);
        check(&format!("a step to +{rip}: {exit:x?}"), step)?;
        equal("rip", guest.vcpu.regs().rip, CODE + rip)?;
        equal("rax", guest.vcpu.regs().rax, rax)?;
    }
    guest.vcpu.regs_mut().rflags &= !0x100;
    guest.run_to_hypercall()
}

/// The thread's LDT and a selector of it in ES.
fn ldt_kept() -> Result<Option<&'static str>, String> {
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
fn breakpoint() -> Outcome {
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

fn main() {
    let mut tap = Tap::new();
    pin_to_cpu(0);
    let xcr0 = Device::open().and_then(|d| d.info()).map_or(0, |i| i.xcr0);
    let keys = std::arch::is_x86_feature_detected!("xsave") && has_protection_keys();
    let preempted_name = "guests and host threads keep their registers when they take turns";
    tap.test(preempted_name, preempted);
    tap.test(
        "what the guest loads does not reach the host's thread",
        spoiled,
    );
    tap.test("the initial state of a vCPU, and RESET_FPU", initial);
    for (name, code, len, bits) in [
        ("YMM of two vCPUs", ymm as fn() -> &'static [u8], 32, 0b100),
        ("ZMM and mask registers of two vCPUs", zmm, 64, 0xe0),
    ] {
        if xcr0 & bits == bits {
            tap.test(name, || wide(code(), len));
        } else {
            tap.skip(name, "the CPU does not have them");
        }
    }
    if keys {
        tap.test("PKRU of the host's thread", pkru);
    } else {
        tap.skip(
            "PKRU of the host's thread",
            "the kernel uses no protection keys",
        );
    }
    tap.test("flags", flags_kept);
    tap.test("single steps", single_steps);
    match ldt_kept() {
        Ok(Some(why)) => tap.skip("LDT and ES of the host's thread", why),
        other => tap.test("LDT and ES of the host's thread", || other.map(drop)),
    }
    tap.test("a hardware breakpoint in the host's thread", breakpoint);
    tap.finish();
}

/// Whether the kernel turned protection keys on.
fn has_protection_keys() -> bool {
    // SAFETY: Every CPU with VT-x has CPUID.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
    leaf.ecx >> 4 & 1 != 0
}
