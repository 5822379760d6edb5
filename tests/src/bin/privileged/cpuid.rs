// SPDX-License-Identifier: GPL-2.0

//! What CPUID says.

use uvisor::Exit;
use uvisor_tests::kernel::Kernel;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, CODE};

code! { cpuid_loop: "1: cpuid", "vmcall", "jmp 1b" }

/// What CPUID says, in all leaves.
pub(crate) fn cpuid() -> Outcome {
    let mut guest = Kernel::new(cpuid_loop(), 3);
    let mut ask = |leaf: u32, sub: u32| -> Result<[u32; 4], String> {
        guest.vcpu.regs_mut().rax = u64::from(leaf) | 0xdead << 32;
        guest.vcpu.regs_mut().rcx = u64::from(sub) | 0xdead << 32;
        let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
        equal("exit", exit, Exit::Hypercall { ring: 3 })?;
        let r = *guest.vcpu.regs();
        guest.vcpu.regs_mut().rip = CODE;
        let all = [r.rax, r.rbx, r.rcx, r.rdx];
        check(
            &format!("upper halves: {all:x?}"),
            all.iter().all(|v| v >> 32 == 0),
        )?;
        Ok(all.map(|v| v as u32))
    };
    let host = |leaf, sub| {
        // SAFETY: Every CPU with VT-x has CPUID.
        let r = unsafe { std::arch::x86_64::__cpuid_count(leaf, sub) };
        [r.eax, r.ebx, r.ecx, r.edx]
    };
    let max = ask(0, 0)?;
    equal("vendor", max[1..].to_vec(), host(0, 0)[1..].to_vec())?;
    check(
        &format!("highest leaf {}", max[0]),
        max[0] >= 7 && max[0] <= host(0, 0)[0],
    )?;
    let one = ask(1, 0)?;
    equal(
        "leaf 1: VMX, SMX, MONITOR, DS, PDCM, PCID, x2APIC, TSC deadline, hypervisor",
        one[2]
            & (1 << 5 | 1 << 6 | 1 << 3 | 1 << 2 | 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24 | 1 << 31),
        0,
    )?;
    equal(
        "leaf 1: APIC id and logical processors",
        one[1] & !0xff00,
        0,
    )?;
    equal(
        "leaf 1: APIC, MTRR, MCA, SYSENTER",
        one[3] & (1 << 9 | 1 << 12 | 1 << 14 | 1 << 11),
        0,
    )?;
    equal(
        "leaf 1: FPU, TSC, CX8, CMOV, SSE2",
        one[3] & 0x0600_8111,
        0x0600_8111,
    )?;
    equal("leaf 1: OSXSAVE", one[2] >> 26 & 3, 3)?;
    let seven = ask(7, 0)?;
    equal(
        "leaf 7: SGX, SMEP, INVPCID, RTM, HLE, MPX, PT",
        seven[1] & (1 << 2 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 4 | 1 << 14 | 1 << 25),
        0,
    )?;
    equal(
        "leaf 7: PKU, OSPKE, WAITPKG, shadow stack, LA57",
        seven[2] & (1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16),
        0,
    )?;
    equal(
        "leaf 7: IBT, PCONFIG, UINTR, AMX",
        seven[3] & (1 << 20 | 1 << 18 | 1 << 5 | 7 << 22),
        0,
    )?;
    let device = uvisor::Device::open().map_err(|e| e.to_string())?;
    let xcr0 = device.info().map_err(|e| e.to_string())?.xcr0;
    let xsave = ask(0xd, 0)?;
    equal(
        "leaf 0xd: XCR0",
        u64::from(xsave[0]) | u64::from(xsave[3]) << 32,
        xcr0,
    )?;
    equal("leaf 0xd.1: XSAVES", ask(0xd, 1)?[0] >> 3 & 1, 0)?;
    for leaf in [
        0xb,
        0x1f,
        0xa,
        0x12,
        0x14,
        0x4000_0000,
        0x4000_0001,
        0x4000_0100,
        0x8000_000a,
        0x8000_001f,
        0xc000_0000,
        u32::MAX,
    ] {
        for sub in [0, 1, 2, u32::MAX] {
            let seen = ask(leaf, sub)?;
            // A leaf beyond the highest may repeat the highest, as on Intel's CPUs.
            let ok = seen == [0; 4]
                || (leaf > max[0] && leaf < 0x4000_0000 && seen == ask(max[0], sub)?);
            check(&format!("leaf {leaf:#x}.{sub:#x}: {seen:x?}"), ok)?;
        }
    }
    let extended = ask(0x8000_0000, 0)?;
    equal(
        "highest extended leaf",
        extended[0],
        0x8000_0008.min(host(0x8000_0000, 0)[0]),
    )?;
    equal(
        "SYSCALL, NX, long mode",
        ask(0x8000_0001, 0)?[3] & (1 << 11 | 1 << 20 | 1 << 29),
        1 << 11 | 1 << 20 | 1 << 29,
    )?;
    for (leaf, sub) in (0..0x30).flat_map(|leaf| (0..4).map(move |sub| (leaf, sub))) {
        let seen = ask(leaf, sub)?;
        let text = seen.map(u32::to_le_bytes).concat();
        check(
            &format!("leaf {leaf:#x}.{sub}"),
            !text.windows(3).any(|w| w == b"KVM"),
        )?;
    }
    Ok(())
}
