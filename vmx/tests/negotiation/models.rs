// SPDX-License-Identifier: GPL-2.0

//! Negotiation on the CPUs as they were recorded.

use crate::recorded::{bochs, kvm, Recorded, ACCEPTED};
use crate::words::WORDS;
use uvisor_vmx::{negotiate, Controls, Features, Refusal};

/// Negotiates on a CPU that has all that is needed.
fn controls(cpu: &Recorded) -> Controls {
    negotiate(&cpu.capabilities(), &cpu.features())
        .unwrap_or_else(|refusal| panic!("{}: {refusal}", cpu.name))
}

#[test]
fn every_word_is_legal_and_as_decided() {
    for cpu in ACCEPTED {
        let controls = controls(cpu);
        for word in WORDS {
            println!("{}: {}", cpu.name, word.name);
            word.check(&cpu.capabilities(), &controls);
        }
    }
}

#[test]
fn control_registers_obey_the_fixed_bits() {
    for cpu in ACCEPTED {
        let (msrs, c) = (cpu.capabilities(), controls(cpu));
        for (value, must, may) in [
            (c.cr0, msrs.cr0_fixed0, msrs.cr0_fixed1),
            (c.cr4, msrs.cr4_fixed0, msrs.cr4_fixed1),
        ] {
            assert_eq!(value & must, must, "{}", cpu.name);
            assert_eq!(value & !may, 0, "{}", cpu.name);
        }
        // PE, MP, ET, NE, WP, PG.
        assert_eq!(c.cr0, 0x8001_0033, "{}", cpu.name);
        assert_eq!(c.cr0_shadow, c.cr0);
        // PAE, MCE, OSFXSR, OSXMMEXCPT; VMXE only where the guest cannot see it.
        assert_eq!(c.cr4 & 0x2660, 0x2660, "{}", cpu.name);
        assert_eq!(c.cr4_shadow, c.cr4 & !0x2000, "{}", cpu.name);
        // Not TSD, 5 levels, PCID, SMAP, PKE, CET, PKS, user interrupts, FRED.
        assert_eq!(c.cr4 & 0x1_03e2_1004, 0, "{}", cpu.name);
        assert_eq!((c.cr0_mask, c.cr4_mask), (u64::MAX, u64::MAX));
        assert_eq!(c.exception_bitmap, u32::MAX);
        assert_eq!(c.efer & 0x501, 0x501);
    }
}

#[test]
fn cr4_follows_cpuid() {
    let bit = |cpu: &Recorded, bit: u32| controls(cpu).cr4 & (1 << bit) != 0;
    let (umip, fsgsbase, osxsave, smep) = (11, 16, 18, 20);
    for (cpu, bits) in [
        (&bochs::LYNNFIELD, [false, false, false, false]),
        (&bochs::SANDY_BRIDGE, [false, false, true, false]),
        (&bochs::HASWELL, [false, true, true, true]),
        (&bochs::ICE_LAKE, [true, true, true, true]),
    ] {
        let found = [umip, fsgsbase, osxsave, smep].map(|number| bit(cpu, number));
        assert_eq!(found, bits, "{}", cpu.name);
    }
}

#[test]
fn features_are_those_of_the_model() {
    let minimum = Features {
        exec_only: true,
        ept_2m: true,
        vpid: true,
        invvpid_single: true,
        invvpid_all: true,
        preemption_timer: true,
        save_preemption_timer: true,
        invept_single: true,
        invept_all: true,
        perf_global_ctrl: true,
        descriptor_exiting: true,
        wbinvd_exiting: true,
        rdtscp: true,
        rdtsc_exiting: true,
        ..Features::default()
    };
    assert_eq!(controls(&bochs::SANDY_BRIDGE).features, minimum);
    let reduced = Features {
        ept_1g: true,
        ept_ad: true,
        vmfunc: true,
        ..minimum
    };
    assert_eq!(controls(&bochs::HASWELL).features, reduced);
    assert_eq!(controls(&bochs::BROADWELL).features, reduced);
    assert_eq!(controls(&bochs::SKYLAKE_X).features, reduced);
    assert_eq!(controls(&bochs::ICE_LAKE).features, reduced);
}

#[test]
fn vmcs_and_timer_are_as_reported() {
    let ice_lake = controls(&bochs::ICE_LAKE);
    assert_eq!(ice_lake.vmcs_revision, 4);
    assert_eq!(ice_lake.vmcs_size, 4096);
    assert_eq!(ice_lake.preemption_timer_shift, 0);
    let nested = controls(&kvm::ON_ICE_LAKE);
    assert_eq!(nested.vmcs_revision, 0x11e5_7ed0);
    assert_eq!(nested.preemption_timer_shift, 5);
}

#[test]
fn a_cpu_without_ept_is_refused() {
    let penryn = &bochs::PENRYN;
    assert_eq!(
        negotiate(&penryn.capabilities(), &penryn.features()),
        Err(Refusal::NoEpt)
    );
}

#[test]
fn the_older_msrs_serve_where_the_precise_ones_are_missing() {
    for cpu in ACCEPTED {
        let msrs = uvisor_vmx::CapabilityMsrs::read(|number| match number {
            0x480 => cpu.msr(number).map(|basic| basic & !(1 << 55)),
            0x48d..=0x490 => panic!("the MSR does not exist"),
            _ => cpu.msr(number),
        })
        .unwrap();
        let controls = negotiate(&msrs, &cpu.features()).unwrap();
        for word in WORDS {
            word.check(&msrs, &controls);
        }
        // They force saving of the debug controls.
        assert_ne!(controls.exit & (1 << 2), 0, "{}", cpu.name);
    }
}
