// SPDX-License-Identifier: GPL-2.0

//! Recorded CPUs: what their MSRs and their CPUID said.

pub mod bochs;
pub mod kvm;

use std::cell::RefCell;
use uvisor_vmx::{CapabilityMsrs, CpuFeatures};

/// A CPU as it was recorded.
pub struct Recorded {
    /// The model's name where it was recorded.
    pub name: &'static str,
    /// MSRs by number; those that are not here fault.
    pub msrs: &'static [(u32, u64)],
    /// CPUID by leaf and subleaf: EAX, EBX, ECX, EDX; those that are not here are zeros.
    pub cpuid: &'static [(u32, u32, [u32; 4])],
}

/// All CPUs that micro-VMs run on.
pub const ACCEPTED: &[&Recorded] = &[
    &bochs::LYNNFIELD,
    &bochs::SANDY_BRIDGE,
    &bochs::HASWELL,
    &bochs::BROADWELL,
    &bochs::SKYLAKE_X,
    &bochs::ICE_LAKE,
    &bochs::TIGER_LAKE,
    &bochs::ARROW_LAKE,
    &kvm::ON_SANDY_BRIDGE,
    &kvm::ON_ICE_LAKE,
];

impl Recorded {
    /// One MSR.
    pub fn msr(&self, number: u32) -> Option<u64> {
        let (_, value) = self.msrs.iter().find(|(msr, _)| *msr == number)?;
        Some(*value)
    }

    /// The capability MSRs; fails if one is read that the CPU lacks.
    pub fn capabilities(&self) -> CapabilityMsrs {
        let faulted = RefCell::new(Vec::new());
        let msrs = CapabilityMsrs::read(|number| {
            let value = self.msr(number);
            if value.is_none() {
                faulted.borrow_mut().push(number);
            }
            value
        });
        assert!(
            faulted.borrow().is_empty(),
            "{}: reads {faulted:x?}",
            self.name
        );
        msrs.unwrap()
    }

    /// What CPUID says.
    pub fn features(&self) -> CpuFeatures {
        CpuFeatures::read(
            |leaf, subleaf| {
                self.cpuid
                    .iter()
                    .find(|(l, s, _)| (*l, *s) == (leaf, subleaf))
                    .map_or([0; 4], |(_, _, registers)| *registers)
            },
            |number| self.msr(number),
        )
    }
}
