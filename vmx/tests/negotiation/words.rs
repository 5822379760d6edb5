// SPDX-License-Identifier: GPL-2.0

//! What is to be on and off, written down a second time, by bit number from the manual.

use uvisor_vmx::{CapabilityMsrs, Controls};

/// One of the control words.
pub struct Word {
    /// Its name.
    pub name: &'static str,
    /// What was negotiated.
    pub value: fn(&Controls) -> u32,
    /// The capability MSR, to be broken.
    pub msr: fn(&mut CapabilityMsrs) -> &mut u64,
    /// Bits that are to be on, always.
    pub on: &'static [(u32, &'static str)],
    /// Bits that are to be on where allowed.
    pub wanted: &'static [u32],
    /// Bits that are to be off, always.
    pub off: &'static [(u32, &'static str)],
    /// Bits that are on only where the CPU insists, or for reasons that have their own tests.
    pub tolerated: &'static [u32],
}

/// All control words.
pub const WORDS: &[Word] = &[
    Word {
        name: "pin",
        value: |c| c.pin,
        msr: |m| &mut m.pin,
        on: &[(0, "external-interrupt exiting"), (3, "NMI exiting")],
        wanted: &[6],
        off: &[(5, "virtual NMIs"), (7, "process posted interrupts")],
        tolerated: &[],
    },
    Word {
        name: "primary",
        value: |c| c.primary,
        msr: |m| &mut m.primary,
        on: &[
            (7, "HLT exiting"),
            (9, "INVLPG exiting"),
            (10, "MWAIT exiting"),
            (11, "RDPMC exiting"),
            (15, "CR3-load exiting"),
            (16, "CR3-store exiting"),
            (19, "CR8-load exiting"),
            (20, "CR8-store exiting"),
            (23, "MOV-DR exiting"),
            (24, "unconditional I/O exiting"),
            (29, "MONITOR exiting"),
        ],
        // Bit 31 is on always, but its lack has a refusal of its own.
        wanted: &[31],
        off: &[
            (2, "interrupt-window exiting"),
            (3, "use TSC offsetting"),
            (12, "RDTSC exiting"),
            (17, "activate tertiary controls"),
            (21, "use TPR shadow"),
            (22, "NMI-window exiting"),
            (25, "use I/O bitmaps"),
            (27, "monitor trap flag"),
            (28, "use MSR bitmaps"),
            (30, "PAUSE exiting"),
        ],
        tolerated: &[],
    },
    Word {
        name: "secondary",
        value: |c| c.secondary,
        msr: |m| &mut m.secondary,
        on: &[],
        // Bit 1 is EPT, whose lack has a refusal of its own.
        wanted: &[1, 2, 6, 15, 19, 28],
        off: &[
            (0, "virtualize APIC accesses"),
            (4, "virtualize x2APIC mode"),
            (7, "unrestricted guest"),
            (8, "APIC-register virtualization"),
            (9, "virtual-interrupt delivery"),
            (10, "PAUSE-loop exiting"),
            (11, "RDRAND exiting"),
            (12, "enable INVPCID"),
            (13, "enable VM functions"),
            (14, "VMCS shadowing"),
            (16, "RDSEED exiting"),
            (17, "enable PML"),
            (18, "EPT-violation #VE"),
            (20, "enable XSAVES/XRSTORS"),
            (21, "PASID translation"),
            (22, "mode-based execute control for EPT"),
            (23, "sub-page write permissions for EPT"),
            (24, "Intel PT uses guest physical addresses"),
            (25, "use TSC scaling"),
            (26, "enable user wait and pause"),
            (27, "enable PCONFIG"),
            (30, "VMM bus-lock detection"),
            (31, "instruction timeout"),
        ],
        tolerated: &[3, 5],
    },
    Word {
        name: "exit",
        value: |c| c.exit,
        msr: |m| &mut m.exit,
        on: &[(9, "host address-space size")],
        wanted: &[24],
        off: &[
            (15, "acknowledge interrupt on exit"),
            (23, "clear IA32_BNDCFGS"),
            (25, "clear IA32_RTIT_CTL"),
            (26, "clear IA32_LBR_CTL"),
            (27, "clear UINV"),
            (28, "load CET state on exit"),
            (29, "load PKRS on exit"),
            (30, "save IA32_PERF_GLOBAL_CTRL"),
            (31, "activate secondary exit controls"),
        ],
        tolerated: &[2, 12, 18, 19, 20, 21, 22],
    },
    Word {
        name: "entry",
        value: |c| c.entry,
        msr: |m| &mut m.entry,
        on: &[(2, "load debug controls"), (9, "IA-32e mode guest")],
        wanted: &[17],
        off: &[
            (10, "entry to SMM"),
            (11, "deactivate dual-monitor treatment"),
            (16, "load IA32_BNDCFGS"),
            (18, "load IA32_RTIT_CTL"),
            (19, "load UINV"),
            (20, "load CET state on entry"),
            (21, "load IA32_LBR_CTL"),
            (22, "load PKRS on entry"),
            (23, "load FRED state"),
        ],
        tolerated: &[13, 14, 15],
    },
];

impl Word {
    /// What the capability MSR demands and allows, as the manual has it.
    pub fn allowed(&self, msrs: &CapabilityMsrs) -> (u32, u32) {
        let mut copy = *msrs;
        let msr = *(self.msr)(&mut copy);
        (msr as u32, (msr >> 32) as u32)
    }

    /// Fails unless the word is one that VM entry takes and that micro-VMs are to run with.
    pub fn check(&self, msrs: &CapabilityMsrs, controls: &Controls) {
        let (must, may) = self.allowed(msrs);
        let value = (self.value)(controls);
        assert_eq!(value & must, must, "{}: forced bits", self.name);
        assert_eq!(value & !may, 0, "{}: bits not allowed", self.name);
        for (bit, name) in self.on {
            assert_ne!(value & (1 << bit), 0, "{}: {name} is off", self.name);
        }
        for (bit, name) in self.off {
            assert_eq!(value & (1 << bit), 0, "{}: {name} is on", self.name);
        }
        for bit in self.wanted {
            let mask = 1 << bit;
            assert_eq!(value & mask, may & mask, "{}: bit {bit}", self.name);
        }
        let named = self.on.iter().chain(self.off).map(|(bit, _)| bit);
        let named = named.chain(self.wanted).chain(self.tolerated);
        let unnamed = named.fold(u32::MAX, |mask, bit| mask & !(1 << bit));
        assert_eq!(value & unnamed, must & unnamed, "{}: others", self.name);
    }
}
