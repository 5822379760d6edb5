// SPDX-License-Identifier: GPL-2.0

//! What ring 0 and ring 3 can do besides single instructions.

use uvisor::{Exit, Prot, VmFlags};
use uvisor_tests::guest::load;
use uvisor_tests::kernel::{enter, Kernel, SUPERVISOR, TABLES};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, CODE};

use crate::again;
use crate::cases::{has, SMEP};

// Returns to ring 3 in 32-bit mode, where `dec %eax` is what is a REX prefix in 64-bit mode.
code! { sysret32: "mov $0x400020, %ecx", "sysretl", ".org guest_sysret32_start + 0x20",
"mov $7, %eax", ".byte 0x48", "nop", "vmcall" }
// Returns to ring 3 in 32-bit mode, to the last two bytes below 4 GiB.
code! { sysret32_end: "mov $0xfffffffe, %ecx", "mov $0x202, %r11d", "sysretl" }
code! { fault_read: "mov (%rdi), %al", "vmcall" }
code! { fault_write: "mov %al, (%rdi)", "vmcall" }
code! { fault_jump: "jmp *%rdi", "vmcall" }
code! { cr2_probe: "mov %cr2, %rax", "vmcall" }
code! { crs: "mov %cr0, %rax", "mov %cr4, %rbx", "smsw %rcx", "vmcall" }
code! { cli_loop: "cli", "1: incq 0x500000", "jmp 1b" }

code! { rdtsc: "rdtsc", "vmcall" }
code! { rdtscp: "rdtscp", "vmcall" }

code! { star: "mov $0x2222, %eax", "swapgs", "vmcall" }

/// A page fault's error code and address, by its page tables.
pub(crate) fn page_faults() -> Outcome {
    let (present, write, user, fetch) = (1, 2, 4, 16);
    let far = 0x4000_0000;
    let kernel = SUPERVISOR + CODE;
    for (ring, code, address, error) in [
        (3, fault_read(), far, user),
        (3, fault_write(), far + 5, user | write),
        (3, fault_jump(), far + 7, user | fetch),
        (3, fault_read(), kernel, user | present),
        (3, fault_write(), kernel, user | present | write),
        (3, fault_jump(), kernel, user | present | fetch),
        (0, fault_read(), far, 0),
        (0, fault_write(), far, write),
        (0, fault_jump(), far, fetch),
        (0, fault_jump(), CODE, present | fetch),
        (0, fault_read(), 0xffff_8880_0000_0000, 0),
    ] {
        if (ring, address) == (0, CODE) && !has(SMEP) {
            // Without it, ring 0 executes what ring 3 can reach, here a jump to itself.
            continue;
        }
        let mut guest = Kernel::new(code, ring);
        guest.vcpu.regs_mut().rdi = address;
        let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
        // Without NX and SMEP in its own tables, a CPU may leave out that it was a fetch.
        let ok = matches!(exit, Exit::Exception { vector: 14, error_code, address: a }
            if a == address && (error_code == error || (error & fetch != 0 && error_code | fetch == error)));
        check(
            &format!("ring {ring}, {address:#x}: {exit:x?}, wanted code {error:#x}"),
            ok,
        )?;
    }
    Ok(())
}

/// What ring 0 can read of the host.
pub(crate) fn leaks() -> Outcome {
    let mut guest = Kernel::new(cr2_probe(), 0);
    // A page fault of the host's puts an address of this process into CR2 before.
    let page = uvisor_tests::raw::mmap(None, 0x1000, 3, libc::MAP_PRIVATE, 0)
        .map_err(|e| e.to_string())?;
    uvisor_tests::probe::store(page, 1).map_err(|e| format!("signal {e}"))?;
    equal(
        "exit",
        guest.vcpu.run().map_err(|e| e.to_string())?,
        Exit::Hypercall { ring: 0 },
    )?;
    equal("CR2", guest.vcpu.regs().rax, 0)?;
    let mut guest = Kernel::new(crs(), 0);
    equal(
        "exit",
        guest.vcpu.run().map_err(|e| e.to_string())?,
        Exit::Hypercall { ring: 0 },
    )?;
    let regs = guest.vcpu.regs();
    equal("CR0: PE, WP, PG", regs.rax & 0x8001_0001, 0x8001_0001)?;
    equal("CR0: TS, EM", regs.rax & 0xc, 0)?;
    equal(
        "CR4: VMXE, PCIDE, LA57, PKE",
        regs.rbx & (1 << 13 | 1 << 17 | 1 << 12 | 1 << 22),
        0,
    )?;
    equal("SMSW is CR0", regs.rcx & 0xffff, regs.rax & 0xffff)
}

/// Where the time-stamp counter is not to be read, no ring reads it, nor do clones.
pub(crate) fn no_counter() -> Outcome {
    // RDTSCP is #UD where guests do not have it.
    for (code, wanted, or_none) in [(rdtsc(), 16, false), (rdtscp(), 51, true)] {
        for ring in [3, 0] {
            let mut guest = Kernel::with(code, ring, VmFlags::NO_TSC);
            let clone = guest.vm.share(0).map_err(|e| e.to_string())?;
            let mut of_clone = clone.create_vcpu(TABLES, 0, 0).map_err(|e| e.to_string())?;
            enter(&mut of_clone, ring);
            for (vcpu, whose) in [(&mut guest.vcpu, "its own"), (&mut of_clone, "a clone's")] {
                let start = vcpu.regs().rip;
                vcpu.regs_mut().rax = 0x1234_5678;
                let exit = vcpu.run().map_err(|e| e.to_string())?;
                let left = matches!(exit, Exit::Privileged { reason, insn_len, .. }
                    if reason == wanted && u64::from(insn_len) == code.len() as u64 - 3);
                let none = or_none && matches!(exit, Exit::Exception { vector: 6, .. });
                check(&format!("ring {ring}, {whose}: {exit:x?}"), left || none)?;
                let regs = vcpu.regs();
                equal("rax and rip", (regs.rax, regs.rip), (0x1234_5678, start))?;
            }
        }
    }
    Ok(())
}

/// A guest that wants no interrupts is interrupted all the same.
pub(crate) fn no_interrupts() -> Outcome {
    let mut guest = Kernel::new(cli_loop(), 0);
    uvisor_tests::host::on_alarm();
    let mut last = 0;
    for round in 0..3 {
        uvisor_tests::host::alarm_in_ms(20);
        let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
        equal("ended by the signal", exit, Exit::Interrupted)?;
        let mut count = [0; 8];
        guest
            .vm
            .read_at(uvisor_tests::DATA, &mut count)
            .map_err(|e| e.to_string())?;
        let count = u64::from_le_bytes(count);
        check(
            &format!("round {round}: {count} after {last}"),
            count > last,
        )?;
        last = count;
    }
    equal("ring", guest.vcpu.regs().cpl, 0)?;
    let kicker = guest.vcpu.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        kicker.kick().expect("KICK");
    });
    let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
    thread.join().map_err(|_| "the kicker panicked")?;
    equal("ended by the kick", exit, Exit::Interrupted)
}

/// SWAPGS exchanges what the register file says.
pub(crate) fn swapgs() -> Outcome {
    let mut guest = Kernel::new(star(), 0);
    guest.vcpu.regs_mut().gs_base = 0x1111_0000;
    guest.vcpu.regs_mut().kernel_gs_base = 0xffff_ffff_2222_0000;
    equal(
        "exit",
        guest.vcpu.run().map_err(|e| e.to_string())?,
        Exit::Hypercall { ring: 0 },
    )?;
    equal("gs_base", guest.vcpu.regs().gs_base, 0xffff_ffff_2222_0000)?;
    equal(
        "kernel_gs_base",
        guest.vcpu.regs().kernel_gs_base,
        0x1111_0000,
    )
}

/// CPUID as the last instruction below 4 GiB: what comes next in 32-bit code is at 0, as on a CPU.
pub(crate) fn end_of_32_bits() -> Outcome {
    const GIB: u64 = 1 << 30;
    // Behind the page tables, which are larger where the CPU has no 1 GiB pages.
    const PLACE: u64 = GIB / 2;
    let mut guest = Guest::new(fault_read());
    let mut page = vec![0x90; 4094];
    page.extend([0x0f, 0xa2]);
    load(&guest.vm, 0xffff_f000, &page);
    // The last GiB is ring 0's, at the end of the address space.
    let last = guest.vm.size() - GIB;
    load(&guest.vm, last + PLACE, sysret32_end());
    let regs = guest.vcpu.regs_mut();
    (regs.rip, regs.cpl) = (u64::MAX - GIB + 1 + PLACE, 0);
    match guest.vcpu.run().map_err(|e| e.to_string())? {
        Exit::Memory { gpa: 0, access, .. } => equal("access", access, Prot::EXEC),
        other => Err(format!("{other:x?} at {:x?}", guest.vcpu.regs())),
    }
}

/// Ring 0 can return to 32-bit code; the next RUN in 64-bit mode does not suffer from it.
pub(crate) fn compatibility_mode() -> Outcome {
    let mut guest = Kernel::new(sysret32(), 0);
    let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
    equal("exit", exit, Exit::Hypercall { ring: 3 })?;
    equal("rax, decremented by 32-bit code", guest.vcpu.regs().rax, 6)?;
    again(&mut guest, 3)?;
    again(&mut guest, 0)
}
