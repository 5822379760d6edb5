// SPDX-License-Identifier: GPL-2.0

//! What is left of a clone after a reset: nothing, in any register.

use std::arch::x86_64::__cpuid_count;

use uvisor::{Exit, Prot, Regs, Vcpu, Vm, PAGE_SIZE};
use uvisor_tests::code;
use uvisor_tests::heap::{step, text};
use uvisor_tests::kernel::{Kernel, SUPERVISOR};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::CODE;

/// Where the extended state is loaded from, and where it is stored.
const LOAD: u64 = 0x900_0000;
const STORE: u64 = 0x910_0000;
const AREA: usize = 2 * PAGE_SIZE as usize;
/// Protection keys, in XCR0.
const PKRU: u64 = 1 << 9;
/// Basic exit reasons of the SDM.
const MOV_DR: u64 = 29;
const RDMSR: u64 = 31;
const WRMSR: u64 = 32;

// Loads the extended state, and exits; stores it, and what bases there are, and exits.
code! { load_and_store:
    "mov $-1, %eax",
    "mov $-1, %edx",
    "xrstor (%rsi)",
    "vmcall",
    "mov $-1, %eax",
    "mov $-1, %edx",
    "xsave (%rdi)",
    "rdfsbase %r8",
    "rdgsbase %r9",
    "swapgs",
    "rdgsbase %r10",
    "swapgs",
    "vmcall",
}

// What ring 0 can change besides, and what it cannot.
code! { spoil:
    "swapgs",
    "mov $0x7777000, %rax",
    "wrgsbase %rax",
    "wrfsbase %rax",
    "std",
    "vmcall",
    "mov %rax, %dr0",
    "mov %rax, %dr6",
    "mov %rax, %dr7",
    "wrmsr",
    "rdmsr",
    "vmcall",
}

/// An area to load: `byte` in all registers that this CPU has, but for what could not be loaded.
fn area(byte: u8, initial: &[u8]) -> Vec<u8> {
    let mut area = vec![byte; AREA];
    // Control words, the legacy header's masks, and the header, as the CPU stores them; reserved bytes 0.
    area[..32].copy_from_slice(&initial[..32]);
    area[512..576].fill(0);
    // SAFETY: XGETBV is there where XSAVE is used.
    let xcr0: u64 = unsafe {
        let (low, high): (u32, u32);
        std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack));
        u64::from(high) << 32 | u64::from(low)
    };
    // Those that a guest has: no AMX.
    area[512..520].copy_from_slice(&(xcr0 & 0x2e7).to_le_bytes());
    if xcr0 & PKRU != 0 {
        // SAFETY: Where XSAVE is used there is CPUID, and this leaf.
        let at = unsafe { __cpuid_count(0xd, 9) }.ebx as usize;
        // Key 0 is that of all its pages.
        let pkru = u32::from_le_bytes([byte; 4]) & !3;
        area[at..at + 8].copy_from_slice(&u64::from(pkru).to_le_bytes());
    }
    area
}

/// Runs a vCPU that is about to store its state; what it stored, and its registers.
fn stored(vm: &Vm, vcpu: &mut Vcpu) -> Result<(Vec<u8>, Regs), String> {
    vm.write_at(STORE, &vec![0; AREA]).map_err(text)?;
    step(vcpu)?;
    let mut bytes = vec![0; AREA];
    vm.read_at(STORE, &mut bytes).map_err(text)?;
    Ok((bytes, *vcpu.regs()))
}

/// Whatever a clone did, in ring 0, is undone by a reset: it then stores what another clone of the same
/// template stores that did nothing.
pub(crate) fn registers() -> Outcome {
    let mut code = load_and_store().to_vec();
    let spoil_at = code.len() as u64;
    code.extend(spoil());
    let mut kernel = Kernel::new(&code, 0);
    let rw = Prot::READ | Prot::WRITE;
    for at in [LOAD, STORE] {
        kernel.vm.map_anonymous(at, AREA as u64, rw).map_err(text)?;
    }
    let regs = kernel.vcpu.regs_mut();
    (regs.rsi, regs.rdi) = (SUPERVISOR + LOAD, SUPERVISOR + STORE);
    (regs.fs_base, regs.gs_base, regs.kernel_gs_base) = (0x1000, 0x2000, 0x3000);
    (regs.rbx, regs.rbp, regs.r15) = (1, 2, 3);
    // What it begins with is what the areas are made from.
    let mut initial = vec![0; AREA];
    let start = SUPERVISOR + CODE;
    let store = load_and_store()
        .windows(3)
        .position(|bytes| bytes == [0x0f, 0x01, 0xc1]);
    let store = start + store.ok_or("no VMCALL")? as u64 + 3;
    kernel.vcpu.regs_mut().rip = store;
    step(&mut kernel.vcpu)?;
    kernel.vm.read_at(STORE, &mut initial).map_err(text)?;
    kernel
        .vm
        .write_at(LOAD, &area(0xa5, &initial))
        .map_err(text)?;
    kernel.vcpu.regs_mut().rip = start;
    step(&mut kernel.vcpu)?;
    kernel.vm.freeze().map_err(text)?;

    let untouched = kernel.vm.share(0).map_err(text)?;
    let mut vcpu = untouched.create_vcpu_from(&kernel.vcpu).map_err(text)?;
    let wanted = stored(&untouched, &mut vcpu)?;
    check("it stored its vectors", wanted.0[160..416] == [0xa5; 256])?;

    let clone = kernel.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&kernel.vcpu).map_err(text)?;
    for round in 0..3 {
        clone.write_at(LOAD, &area(0x5a, &initial)).map_err(text)?;
        vcpu.regs_mut().rip = start;
        step(&mut vcpu)?;
        let (bytes, _) = stored(&clone, &mut vcpu)?;
        check("other vectors", bytes[160..416] == [0x5a; 256])?;
        vcpu.regs_mut().rip = start + spoil_at;
        step(&mut vcpu)?;
        for reason in [MOV_DR, MOV_DR, MOV_DR, WRMSR, RDMSR] {
            let exit = vcpu.run().map_err(text)?;
            let Exit::Privileged {
                reason: seen,
                insn_len,
                ..
            } = exit
            else {
                return Err(format!("it went through: {exit:x?}"));
            };
            equal("the exit", seen, reason)?;
            vcpu.regs_mut().rip += u64::from(insn_len);
        }
        let regs = vcpu.regs_mut();
        (regs.rbx, regs.rbp, regs.r15, regs.rsp) = (0xbad, 0xbad, 0xbad, 0xbad0);
        step(&mut vcpu)?;
        check(
            "it is another state",
            vcpu.regs().fs_base != kernel.vcpu.regs().fs_base,
        )?;

        clone.reset().map_err(text)?;
        vcpu.reset().map_err(text)?;
        equal("DIFF", clone.diff().map_err(text)?, vec![])?;
        equal("registers", vcpu.regs(), kernel.vcpu.regs())?;
        let seen = stored(&clone, &mut vcpu)?;
        let differs = seen.0.iter().zip(&wanted.0).position(|(a, b)| a != b);
        equal(&format!("extended state in round {round}"), differs, None)?;
        equal("registers behind it", seen.1, wanted.1)?;
        clone.reset().map_err(text)?;
        vcpu.reset().map_err(text)?;
    }
    Ok(())
}
