// SPDX-License-Identifier: GPL-2.0

//! What CPUID says in a guest: of the host's answers, what a task may see and use.
//!
//! A leaf that is not named here is all zeros. Hidden are what belongs to a kernel (VMX, x2APIC,
//! PCID, SMEP, ...), what the module does not switch (AMX, PKU, CET, TSX), and what tells one CPU
//! of the machine from another (APIC ids, topology).

use kernel::prelude::*;

use uvisor_vmx::Controls;

use crate::sys::cpu;

/// EAX, EBX, ECX, EDX.
pub(crate) type Leaf = [u32; 4];

/// All bits of a register.
const ALL: u32 = u32::MAX;

/// Bits by their numbers.
const fn bits<const N: usize>(numbers: [u32; N]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < N {
        mask |= 1 << numbers[i];
        i += 1;
    }
    mask
}

/// Leaf 1, ECX: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE,
/// OSXSAVE, AVX, F16C, RDRAND.
const LEAF1_ECX: u32 = bits([0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 27, 28, 29, 30]);
/// Leaf 1, EDX: FPU, TSC, PAE, CX8, CMOV, CLFLUSH, MMX, FXSR, SSE, SSE2, self snoop.
const LEAF1_EDX: u32 = bits([0, 4, 6, 8, 15, 19, 23, 24, 25, 26, 27]);
/// Leaf 1, EBX: CLFLUSH line size only.
const LEAF1_EBX: u32 = 0xff00;
/// Leaf 7, EBX: FSGSBASE, BMI1, AVX2, BMI2, ERMS, AVX512F, DQ, RDSEED, ADX, IFMA, CLFLUSHOPT, CLWB,
/// AVX512CD, SHA, BW, VL.
const LEAF7_EBX: u32 = bits([0, 3, 5, 8, 9, 16, 17, 18, 19, 21, 23, 24, 28, 29, 30, 31]);
/// Leaf 7, ECX: VBMI, UMIP, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID, MOVDIRI,
/// MOVDIR64B.
const LEAF7_ECX: u32 = bits([1, 2, 6, 8, 9, 10, 11, 12, 14, 22, 27, 28]);
/// Leaf 7, EDX: FSRM, VP2INTERSECT, SERIALIZE.
const LEAF7_EDX: u32 = bits([4, 8, 14]);
/// Leaf 7.1, EAX: AVX-VNNI, AVX512_BF16, fast zero-length and short string operations.
const LEAF7_1_EAX: u32 = bits([4, 5, 10, 11, 12]);
/// Leaf 0xd.1, EAX: XSAVEOPT, XSAVEC, XGETBV with ECX = 1.
const LEAFD_1_EAX: u32 = bits([0, 1, 2]);
/// Leaf 0x8000_0001, ECX: LAHF, LZCNT, PREFETCHW.
const EXT1_ECX: u32 = bits([0, 5, 8]);
/// Leaf 0x8000_0001, EDX: SYSCALL, NX, 1 GiB pages, RDTSCP, long mode.
const EXT1_EDX: u32 = bits([11, 20, 26, 27, 29]);
/// RDTSCP in it.
const EXT1_EDX_RDTSCP: u32 = bits([27]);
/// RDPID in leaf 7, ECX.
const LEAF7_ECX_RDPID: u32 = bits([22]);

/// The highest basic leaf.
const MAX_BASIC: u32 = 0x16;
/// The first extended leaf.
const EXTENDED: u32 = 0x8000_0000;
/// The highest extended leaf.
const MAX_EXTENDED: u32 = 0x8000_0008;
/// How many XSAVE components have leaves: 0 and 1 are x87 and SSE, whose places are fixed.
const COMPONENTS: u32 = 10;
/// How many caches leaf 4 tells of.
const CACHES: u32 = 5;

/// The size in bytes of the legacy area and the header of an XSAVE area.
const XSAVE_BASE: u32 = 576;

/// The answers, made when the module is loaded.
pub(crate) struct CpuidTable {
    basic: KVec<Leaf>,
    extended: KVec<Leaf>,
    caches: KVec<Leaf>,
    components: KVec<Leaf>,
    leaf7_1: Leaf,
}

impl CpuidTable {
    /// Reads the host's answers and keeps what a guest with `xcr0` may see.
    pub(crate) fn new(xcr0: u64, controls: &Controls) -> Result<Self> {
        let max_basic = cpu::cpuid(0, 0)[0].min(MAX_BASIC);
        let max_extended = cpu::cpuid(EXTENDED, 0)[0].min(MAX_EXTENDED);
        let max_sub7 = cpu::cpuid(7, 0)[0];
        let mut table = Self {
            basic: KVec::new(),
            extended: KVec::new(),
            caches: KVec::new(),
            components: KVec::new(),
            leaf7_1: [0; 4],
        };
        for leaf in 0..=max_basic {
            let mut r = keep(cpu::cpuid(leaf, 0), basic_mask(leaf));
            match leaf {
                0 => r[0] = max_basic,
                7 => {
                    r[0] = max_sub7.min(1);
                    if !controls.features.rdtscp {
                        r[2] &= !LEAF7_ECX_RDPID;
                    }
                }
                _ => {}
            }
            table.basic.push(r, GFP_KERNEL)?;
        }
        for leaf in EXTENDED..=max_extended {
            let mut r = keep(cpu::cpuid(leaf, 0), extended_mask(leaf));
            match leaf {
                EXTENDED => r[0] = max_extended,
                0x8000_0001 if !controls.features.rdtscp => r[3] &= !EXT1_EDX_RDTSCP,
                _ => {}
            }
            table.extended.push(r, GFP_KERNEL)?;
        }
        for cache in 0..CACHES {
            // The low bits of EAX: type, level and properties; not how many CPUs share it.
            let r = keep(cpu::cpuid(4, cache), [0x3fff, ALL, ALL, ALL]);
            table.caches.push(r, GFP_KERNEL)?;
        }
        if max_basic >= 0xd {
            table.fill_components(xcr0)?;
        }
        if max_sub7 >= 1 {
            table.leaf7_1 = keep(cpu::cpuid(7, 1), [LEAF7_1_EAX, 0, 0, 0]);
        }
        Ok(table)
    }

    /// Leaf 0xd: sizes of XSAVE areas for the components in `xcr0`.
    fn fill_components(&mut self, xcr0: u64) -> Result {
        let (mut standard, mut compact) = (XSAVE_BASE, XSAVE_BASE);
        for component in 0..COMPONENTS {
            let mut r = [0; 4];
            if component >= 2 && xcr0 >> component & 1 != 0 {
                r = keep(cpu::cpuid(0xd, component), [ALL, ALL, 0b10, 0]);
                let [size, offset, flags, _] = r;
                standard = standard.max(offset.saturating_add(size));
                if flags & 0b10 != 0 {
                    compact = compact.next_multiple_of(64);
                }
                compact = compact.saturating_add(size);
            }
            self.components.push(r, GFP_KERNEL)?;
        }
        // CAST: XCR0 is told in two halves.
        let halves = [xcr0 as u32, (xcr0 >> 32) as u32];
        let features = cpu::cpuid(0xd, 1)[0] & LEAFD_1_EAX;
        if let [first, second, ..] = self.components.as_mut_slice() {
            *first = [halves[0], standard, standard, halves[1]];
            *second = [features, compact, 0, 0];
        }
        Ok(())
    }

    /// The answer for a leaf and subleaf.
    pub(crate) fn get(&self, leaf: u32, subleaf: u32) -> Leaf {
        let (table, index) = match leaf {
            4 => (&self.caches, subleaf),
            7 if subleaf == 1 => return self.leaf7_1,
            7 if subleaf > 1 => return [0; 4],
            0xd => (&self.components, subleaf),
            EXTENDED.. => (&self.extended, leaf - EXTENDED),
            _ => (&self.basic, leaf),
        };
        // CAST: A 32-bit number fits.
        table.get(index as usize).copied().unwrap_or([0; 4])
    }
}

/// Which bits of a basic leaf a guest sees.
fn basic_mask(leaf: u32) -> Leaf {
    match leaf {
        0 | 2 | 0x15 | 0x16 => [ALL; 4],
        1 => [ALL, LEAF1_EBX, LEAF1_ECX, LEAF1_EDX],
        7 => [0, LEAF7_EBX, LEAF7_ECX, LEAF7_EDX],
        _ => [0; 4],
    }
}

/// Which bits of an extended leaf a guest sees.
fn extended_mask(leaf: u32) -> Leaf {
    match leaf {
        0x8000_0000 => [ALL, 0, 0, 0],
        0x8000_0001 => [0, 0, EXT1_ECX, EXT1_EDX],
        0x8000_0002..=0x8000_0006 => [ALL; 4],
        // The time-stamp counter's rate does not change.
        0x8000_0007 => [0, 0, 0, 1 << 8],
        0x8000_0008 => [0xffff, 0, 0, 0],
        _ => [0; 4],
    }
}

/// The bits of `leaf` that are in `mask`.
fn keep(leaf: Leaf, mask: Leaf) -> Leaf {
    [
        leaf[0] & mask[0],
        leaf[1] & mask[1],
        leaf[2] & mask[2],
        leaf[3] & mask[3],
    ]
}
