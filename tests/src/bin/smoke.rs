// SPDX-License-Identifier: GPL-2.0

//! The thinnest path: a guest runs, computes, touches memory and exits.

use uvisor::{Exit, MemoryCause, Prot};
use uvisor_tests::tap::{check, equal};
use uvisor_tests::{code, Guest, Tap, DATA};

code! { answer:
    "mov $42, %eax",
    "mov $0x123456789abcdef0, %rbx",
    "vmcall",
    "hlt",
}

code! { memory:
    "mov $0x500000, %edi",
    "mov (%rdi), %rax",
    "movq $7, 8(%rdi)",
    "push %rdi",
    "mov $0x600000, %edi",
    "mov %rax, (%rdi)",
}

code! { system_call:
    "mov $39, %eax",
    "syscall",
    "mov %rax, %rdi",
    "ud2",
}

fn main() {
    let mut tap = Tap::new();

    tap.test("a guest in ring 3 computes and makes a hypercall", || {
        let mut guest = Guest::new(answer());
        equal("exit", guest.run(), Exit::Hypercall { ring: 3 })?;
        equal("rax", guest.vcpu.regs().rax, 42)?;
        equal("rbx", guest.vcpu.regs().rbx, 0x1234_5678_9abc_def0)
    });

    tap.test(
        "anonymous memory is zero, can be written, and ends where it ends",
        || {
            let mut guest = Guest::new(memory());
            let exit = guest.run();
            let wanted = Exit::Memory {
                gpa: 0x60_0000,
                linear: Some(0x60_0000),
                access: Prot::WRITE,
                cause: MemoryCause::Unmapped,
            };
            equal("exit", exit, wanted)?;
            equal("what was read", guest.vcpu.regs().rax, 0)?;
            let mut word = [0; 8];
            guest
                .vm
                .read_at(DATA + 8, &mut word)
                .map_err(|e| e.to_string())?;
            equal("what was written", u64::from_le_bytes(word), 7)
        },
    );

    tap.test(
        "a system call enters the shim and comes back with an answer",
        || {
            let mut guest = Guest::new(system_call());
            equal("exit", guest.run(), Exit::Hypercall { ring: 0 })?;
            equal("number", guest.vcpu.regs().rax, 39)?;
            check("ring", guest.vcpu.regs().cpl == 0)?;
            guest.vcpu.regs_mut().rax = 1234;
            guest.vcpu.regs_mut().rip += uvisor::HYPERCALL_LEN;
            let exit = guest.run();
            check(
                &format!("the UD2 after it: {exit:?}"),
                matches!(exit, Exit::Exception { vector: 6, .. }),
            )?;
            equal("the answer", guest.vcpu.regs().rdi, 1234)?;
            equal("ring", guest.vcpu.regs().cpl, 3)
        },
    );

    tap.finish();
}
