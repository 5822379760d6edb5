// SPDX-License-Identifier: GPL-2.0

//! Switching from one view to another, by the guest itself.

use uvisor::{Features, Prot, ViewFlags};
use uvisor_tests::guest::has;
use uvisor_tests::{code, Guest};

use crate::machine::Figure;
use crate::uv::events;
use uvisor_tests::bench::measure::{time, Samples};

/// How often a run goes to the other view and back.
const ROUNDS: u64 = 500;
const RUNS: usize = 42;

// rdi times to the view in r12 and to that in r13, by VMFUNC; then it exits; again and again.
code! { by_vmfunc:
    "1: mov %rdi, %rbx",
    "2: xor %eax, %eax",
    "mov %r12, %rcx",
    "vmfunc",
    "xor %eax, %eax",
    "mov %r13, %rcx",
    "vmfunc",
    "dec %rbx",
    "jnz 2b",
    "xor %eax, %eax",
    "vmcall",
    "jmp 1b",
}

// The same by hypercall.
code! { by_hypercall:
    "1: mov %rdi, %rbx",
    "movabs $0x7675000000000001, %rsi",
    "2: mov %rsi, %rax",
    "mov %r12, %rcx",
    "vmcall",
    "mov %rsi, %rax",
    "mov %r13, %rcx",
    "vmcall",
    "dec %rbx",
    "jnz 2b",
    "xor %eax, %eax",
    "vmcall",
    "jmp 1b",
}

/// By VMFUNC; or why not.
pub fn vmfunc() -> Result<Figure, String> {
    if !has(Features::VMFUNC) {
        return Err("this CPU has no VMFUNC".into());
    }
    Ok(switches(by_vmfunc()))
}

/// By hypercall.
pub fn hypercall() -> Figure {
    switches(by_hypercall())
}

/// What one switch takes, with the instructions that say where to.
fn switches(code: &[u8]) -> Figure {
    let mut guest = Guest::new(code);
    let all = Prot::READ | Prot::WRITE | Prot::EXEC;
    for _ in 0..2 {
        guest
            .vm
            .create_view(all, ViewFlags::GUEST)
            .expect("VIEW_CREATE");
    }
    let regs = guest.vcpu.regs_mut();
    (regs.rdi, regs.r12, regs.r13) = (1, 2, 1);
    // Both views are opened and filled.
    guest.run_to_hypercall().expect("RUN");
    let mut run = |rounds: u64| {
        guest.vcpu.regs_mut().rdi = rounds;
        time(|| guest.run_to_hypercall().expect("RUN"))
    };
    let samples: Samples = (0..RUNS)
        .map(|_| {
            let one = run(1);
            run(ROUNDS + 1).saturating_sub(one) / (2 * ROUNDS)
        })
        .collect();
    let before = events(&guest.vm);
    guest.vcpu.regs_mut().rdi = ROUNDS;
    guest.run_to_hypercall().expect("RUN");
    Figure {
        summary: samples.summary(),
        events: events(&guest.vm).since(&before).per(2 * ROUNDS),
    }
}
