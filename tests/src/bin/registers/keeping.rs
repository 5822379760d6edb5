// SPDX-License-Identifier: GPL-2.0

//! A thread and guests that look at all of their registers again and again.

use uvisor::Event;
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::own_state::{ioctl_keeping, keeping};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, CODE};

use crate::guest;

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

/// Guests that check their registers, while timers fire and another thread calculates on their CPU.
pub(crate) fn preempted() -> Outcome {
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
                equal("RUN", ioctl_keeping(&guest.vcpu, uvisor_uapi::RUN)?, 0)?;
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
            keeping(libc::SYS_sched_yield, [0; 3])?;
        }
        Ok(())
    });
    threads.push(calculator);
    for thread in threads {
        thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(())
}
