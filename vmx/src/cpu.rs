// SPDX-License-Identifier: GPL-2.0

//! What CPUID says that matters for the controls.

use x86::msr;

/// The registers that one CPUID leaf gives: EAX, EBX, ECX, EDX.
pub type Leaf = [u32; 4];

/// What the CPU's CPUID says that matters for the controls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuFeatures {
    /// RDTSCP exists.
    pub rdtscp: bool,
    /// INVPCID exists.
    pub invpcid: bool,
    /// XSAVE exists, with XGETBV and XSETBV.
    pub xsave: bool,
    /// XSAVES exists.
    pub xsaves: bool,
    /// UMWAIT and TPAUSE exist.
    pub waitpkg: bool,
    /// `IA32_PERF_GLOBAL_CTRL` exists: architectural performance monitoring of version 2 or later.
    pub perf_global_ctrl: bool,
    /// RDFSBASE and its kin exist.
    pub fsgsbase: bool,
    /// Supervisor code in user pages can be forbidden.
    pub smep: bool,
    /// SGDT and its kin can be forbidden to user code.
    pub umip: bool,
    /// Protection keys for user pages exist; micro-VMs run without them.
    pub pku: bool,
    /// Page tables can have 1 GiB leaves.
    pub page_1g: bool,
    /// Intel PT exists, which VMXON may stop (`Features::pt_in_vmx`).
    pub intel_pt: bool,
    /// The width of a physical address.
    pub phys_bits: u8,
    /// The width of a linear address.
    pub linear_bits: u8,
    /// The host's `IA32_EFER`, which the guest runs with.
    pub host_efer: u64,
}

impl CpuFeatures {
    /// Reads what is needed from CPUID, given as a function of leaf and subleaf, and from EFER.
    pub fn read(cpuid: impl Fn(u32, u32) -> Leaf, rdmsr: impl Fn(u32) -> Option<u64>) -> Self {
        let [highest, ..] = cpuid(0, 0);
        let [highest_extended, ..] = cpuid(0x8000_0000, 0);
        // A leaf beyond the highest gives the data of another one.
        let leaf = |number: u32, sub: u32| {
            let last = if number >= 0x8000_0000 {
                highest_extended
            } else {
                highest
            };
            if number <= last {
                cpuid(number, sub)
            } else {
                [0; 4]
            }
        };
        let has = |word: u32, mask: u32| word & mask != 0;

        let [_, _, ecx1, _] = leaf(1, 0);
        let [_, ebx7, ecx7, _] = leaf(7, 0);
        let [eax_a, ..] = leaf(0xa, 0);
        let [eax_d, ..] = leaf(0xd, 1);
        let [_, _, _, edx_e1] = leaf(0x8000_0001, 0);
        let [eax_e8, ..] = leaf(0x8000_0008, 0);
        let xsave = has(ecx1, 1 << 26);
        Self {
            rdtscp: has(edx_e1, 1 << 27),
            invpcid: has(ebx7, 1 << 10),
            xsave,
            xsaves: xsave && has(eax_d, 1 << 3),
            waitpkg: has(ecx7, 1 << 5),
            perf_global_ctrl: eax_a & 0xff >= 2,
            fsgsbase: has(ebx7, 1 << 0),
            smep: has(ebx7, 1 << 7),
            umip: has(ecx7, 1 << 2),
            pku: has(ecx7, 1 << 3),
            page_1g: has(edx_e1, 1 << 26),
            intel_pt: has(ebx7, 1 << 25),
            phys_bits: (eax_e8 & 0xff) as u8,
            linear_bits: ((eax_e8 >> 8) & 0xff) as u8,
            // Without EFER there is no 64-bit mode, and the negotiation refuses.
            host_efer: rdmsr(msr::IA32_EFER).unwrap_or(0),
        }
    }
}
