// SPDX-License-Identifier: GPL-2.0

//! Negotiation on CPUs that would do, but for one thing.

use crate::recorded::{bochs, Recorded, ACCEPTED};
use crate::words::WORDS;
use uvisor_vmx::{negotiate, CapabilityMsrs, CpuFeatures, Features, Refusal};

/// The outcome on a CPU whose MSRs `break_it` has changed.
fn refusal(cpu: &Recorded, break_it: impl FnOnce(&mut CapabilityMsrs)) -> Option<Refusal> {
    let mut msrs = cpu.capabilities();
    break_it(&mut msrs);
    negotiate(&msrs, &cpu.features()).err()
}

/// The features of Ice Lake after its MSRs and CPUID were changed.
fn features(change: impl FnOnce(&mut CapabilityMsrs, &mut CpuFeatures)) -> Features {
    let (mut msrs, mut cpu) = (bochs::ICE_LAKE.capabilities(), bochs::ICE_LAKE.features());
    change(&mut msrs, &mut cpu);
    let controls = negotiate(&msrs, &cpu).unwrap();
    for word in WORDS {
        word.check(&msrs, &controls);
    }
    controls.features
}

/// Takes a control away.
fn forbid(msr: &mut u64, bit: u32) {
    *msr &= !((1 << bit) | (1 << (bit + 32)));
}

/// Makes a control one that cannot be turned off.
fn force(msr: &mut u64, bit: u32) {
    *msr |= (1 << bit) | (1 << (bit + 32));
}

#[test]
fn each_required_control() {
    for cpu in ACCEPTED {
        for word in WORDS {
            for &(bit, name) in word.on {
                assert_eq!(
                    refusal(cpu, |msrs| forbid((word.msr)(msrs), bit)),
                    Some(Refusal::Missing(name)),
                    "{}",
                    cpu.name
                );
            }
        }
    }
}

#[test]
fn each_control_that_must_be_off() {
    for cpu in ACCEPTED {
        for word in WORDS {
            for &(bit, name) in word.off {
                assert_eq!(
                    refusal(cpu, |msrs| force((word.msr)(msrs), bit)),
                    Some(Refusal::Forced(name)),
                    "{}",
                    cpu.name
                );
            }
        }
    }
}

#[test]
fn no_optional_control_is_needed() {
    for word in WORDS {
        for &bit in word.wanted.iter().chain(word.tolerated) {
            if matches!((word.name, bit), ("primary", 31) | ("secondary", 1)) {
                continue;
            }
            features(|msrs, _| forbid((word.msr)(msrs), bit));
        }
    }
}

#[test]
fn tolerated_controls_may_be_forced() {
    for word in WORDS {
        for &bit in word.tolerated.iter().chain(word.wanted) {
            features(|msrs, _| force((word.msr)(msrs), bit));
        }
    }
    // Also where CPUID does not ask for it.
    assert!(
        features(|msrs, cpu| {
            cpu.rdtscp = false;
            force(&mut msrs.secondary, 3);
        })
        .rdtscp
    );
}

#[test]
fn vmfunc_needs_its_control() {
    assert!(features(|_, _| ()).vmfunc);
    assert!(!features(|msrs, _| msrs.vmfunc = 0).vmfunc);
    assert!(!features(|msrs, _| forbid(&mut msrs.secondary, 13)).vmfunc);
}

#[test]
fn capabilities_of_vpid_without_ept_are_read() {
    let read = CapabilityMsrs::read(|number| match number {
        0x48b => Some(1 << (5 + 32)),
        0x48c => Some(0x1234),
        0x491 | 0x492 => None,
        _ => bochs::ICE_LAKE.msr(number),
    });
    assert_eq!(read.map(|msrs| msrs.ept_vpid), Some(0x1234));
}

#[test]
fn firmware() {
    let with = |value| refusal(&bochs::ICE_LAKE, |msrs| msrs.feature_control = value);
    assert_eq!(with(0), Some(Refusal::FeatureControlUnlocked));
    assert_eq!(with(4), Some(Refusal::FeatureControlUnlocked));
    assert_eq!(with(1), Some(Refusal::FeatureControlLocked));
    // VMX inside SMX only.
    assert_eq!(with(3), Some(Refusal::FeatureControlLocked));
    assert_eq!(with(5), None);
}

#[test]
fn what_a_vmcs_is() {
    let with = |set: u64, clear: u64| {
        refusal(&bochs::ICE_LAKE, |msrs| {
            msrs.basic = (msrs.basic | set) & !clear;
        })
    };
    assert_eq!(with(1 << 48, 0), Some(Refusal::VmcsBelow4G));
    // Uncacheable.
    assert_eq!(with(0, 0xf << 50), Some(Refusal::VmcsMemoryType));
    assert_eq!(
        with(0, 0x1fff << 32),
        Some(Refusal::Inconsistent("IA32_VMX_BASIC"))
    );
    assert_eq!(
        with(0x1001 << 32, 0),
        Some(Refusal::Inconsistent("IA32_VMX_BASIC"))
    );
}

#[test]
fn secondary_controls() {
    assert_eq!(
        refusal(&bochs::ICE_LAKE, |msrs| forbid(&mut msrs.primary, 31)),
        Some(Refusal::NoSecondaryControls)
    );
}

#[test]
fn ept() {
    let without = |bits: u64| refusal(&bochs::ICE_LAKE, |msrs| msrs.ept_vpid &= !bits);
    assert_eq!(
        refusal(&bochs::ICE_LAKE, |msrs| forbid(&mut msrs.secondary, 1)),
        Some(Refusal::NoEpt)
    );
    assert_eq!(without(1 << 6), Some(Refusal::NoEpt4Level));
    assert_eq!(without(1 << 14), Some(Refusal::NoEptWriteBack));
    assert_eq!(without(1 << 20), Some(Refusal::NoInvept));
    assert_eq!(without(3 << 25), Some(Refusal::NoInvept));
    // One of INVEPT's types is enough.
    assert_eq!(without(1 << 25), None);
    assert_eq!(without(1 << 26), None);
}

#[test]
fn the_host_must_be_in_64_bit_mode_with_syscall() {
    let (msrs, cpu) = (bochs::ICE_LAKE.capabilities(), bochs::ICE_LAKE.features());
    for bit in [0, 8, 10] {
        let cpu = CpuFeatures {
            host_efer: cpu.host_efer & !(1 << bit),
            ..cpu
        };
        assert_eq!(negotiate(&msrs, &cpu), Err(Refusal::HostMode));
    }
}

#[test]
fn control_registers() {
    for (bit, name) in [
        (0, "CR0.PE"),
        (1, "CR0.MP"),
        (4, "CR0.ET"),
        (5, "CR0.NE"),
        (16, "CR0.WP"),
        (31, "CR0.PG"),
    ] {
        let found = refusal(&bochs::ICE_LAKE, |msrs| {
            msrs.cr0_fixed0 &= !(1 << bit);
            msrs.cr0_fixed1 &= !(1 << bit);
        });
        assert_eq!(found, Some(Refusal::ControlRegister(name)));
    }
    for (bit, name) in [
        (5, "CR4.PAE"),
        (9, "CR4.OSFXSR"),
        (10, "CR4.OSXMMEXCPT"),
        (13, "CR4.VMXE"),
    ] {
        let found = refusal(&bochs::ICE_LAKE, |msrs| {
            msrs.cr4_fixed0 &= !(1 << bit);
            msrs.cr4_fixed1 &= !(1 << bit);
        });
        assert_eq!(found, Some(Refusal::ControlRegister(name)));
    }
    // A guest with the caches off, or whose FPU always faults.
    for bit in [2, 3, 29, 30] {
        assert_eq!(
            refusal(&bochs::ICE_LAKE, |msrs| msrs.cr0_fixed0 |= 1 << bit),
            Some(Refusal::Inconsistent("IA32_VMX_CR0_FIXED0"))
        );
    }
    // A guest without RDTSC, with 5-level paging, or with protection that the shim does not know.
    for bit in [2, 12, 17, 21, 22, 23, 24, 25, 32] {
        let found = refusal(&bochs::ICE_LAKE, |msrs| {
            msrs.cr4_fixed0 |= 1 << bit;
            msrs.cr4_fixed1 |= 1 << bit;
        });
        assert_eq!(found, Some(Refusal::Inconsistent("IA32_VMX_CR4_FIXED0")));
    }
}

#[test]
fn msrs_that_contradict_themselves() {
    for (word, name) in WORDS.iter().zip([
        "IA32_VMX_PINBASED_CTLS",
        "IA32_VMX_PROCBASED_CTLS",
        "IA32_VMX_PROCBASED_CTLS2",
        "IA32_VMX_EXIT_CTLS",
        "IA32_VMX_ENTRY_CTLS",
    ]) {
        let found = refusal(&bochs::ICE_LAKE, |msrs| {
            let msr = (word.msr)(msrs);
            *msr = (*msr | (1 << 2)) & !(1 << (2 + 32));
        });
        assert_eq!(found, Some(Refusal::Inconsistent(name)));
    }
}

#[test]
fn performance_counters_are_switched_as_a_pair_or_not() {
    assert!(features(|_, _| ()).perf_global_ctrl);
    assert!(!features(|_, cpu| cpu.perf_global_ctrl = false).perf_global_ctrl);
    assert!(!features(|msrs, _| forbid(&mut msrs.exit, 12)).perf_global_ctrl);
    assert!(!features(|msrs, _| forbid(&mut msrs.entry, 13)).perf_global_ctrl);
    let found = refusal(&bochs::ICE_LAKE, |msrs| {
        force(&mut msrs.exit, 12);
        forbid(&mut msrs.entry, 13);
    });
    assert_eq!(found, Some(Refusal::Forced("load IA32_PERF_GLOBAL_CTRL")));
}

#[test]
fn the_timer_is_saved_only_where_it_runs() {
    let found = features(|msrs, _| forbid(&mut msrs.pin, 6));
    assert!(!found.preemption_timer && !found.save_preemption_timer);
    let found = features(|msrs, _| forbid(&mut msrs.exit, 22));
    assert!(found.preemption_timer && !found.save_preemption_timer);
    let found = refusal(&bochs::ICE_LAKE, |msrs| {
        forbid(&mut msrs.pin, 6);
        force(&mut msrs.exit, 22);
    });
    assert_eq!(
        found,
        Some(Refusal::Forced("save VMX-preemption timer value"))
    );
}

#[test]
fn vpids_need_invvpid() {
    assert!(features(|_, _| ()).vpid);
    assert!(!features(|msrs, _| msrs.ept_vpid &= !(1 << 32)).vpid);
    assert!(!features(|msrs, _| msrs.ept_vpid &= !(3 << 41)).vpid);
    let single = features(|msrs, _| msrs.ept_vpid &= !(1 << 42));
    assert!(single.vpid && single.invvpid_single && !single.invvpid_all);
    let found = refusal(&bochs::ICE_LAKE, |msrs| {
        force(&mut msrs.secondary, 5);
        msrs.ept_vpid &= !(1 << 32);
    });
    assert_eq!(found, Some(Refusal::Missing("INVVPID")));
}

#[test]
fn rdtscp_follows_cpuid() {
    assert!(features(|_, _| ()).rdtscp);
    assert!(!features(|_, cpu| cpu.rdtscp = false).rdtscp);
}

#[test]
fn switching_that_the_cpu_insists_on_is_told() {
    let found = features(|_, _| ());
    assert!(!found.efer_switch && !found.pat_switch);
    assert!(features(|msrs, _| force(&mut msrs.entry, 15)).efer_switch);
    assert!(features(|msrs, _| force(&mut msrs.exit, 20)).efer_switch);
    assert!(features(|msrs, _| force(&mut msrs.exit, 21)).efer_switch);
    assert!(features(|msrs, _| force(&mut msrs.entry, 14)).pat_switch);
    assert!(features(|msrs, _| force(&mut msrs.exit, 18)).pat_switch);
    assert!(features(|msrs, _| force(&mut msrs.exit, 19)).pat_switch);
}

#[test]
fn exits_of_sgx_are_taken_where_there_are_any() {
    assert!(features(|msrs, _| msrs.secondary |= 1 << 47).encls_exiting);
    assert!(features(|msrs, _| msrs.secondary |= 1 << 60).enclv_exiting);
}

#[test]
fn an_msr_that_cannot_be_read() {
    for &(missing, _) in bochs::ARROW_LAKE.msrs {
        let read = CapabilityMsrs::read(|number| {
            bochs::ARROW_LAKE.msr(number).filter(|_| number != missing)
        });
        let needed = match missing {
            0x3a | 0x480 | 0x485..=0x489 | 0x48b..=0x492 => true,
            // The older variants, VMCS_ENUM, EXIT_CTLS2 and EFER.
            _ => false,
        };
        assert_eq!(read.is_none(), needed, "{missing:x}");
    }
}

#[test]
fn each_refusal_is_one_line_that_ends_without_a_newline() {
    for refusal in [
        Refusal::NoVmx,
        Refusal::MsrUnreadable,
        Refusal::FeatureControlLocked,
        Refusal::FeatureControlUnlocked,
        Refusal::HostMode,
        Refusal::VmcsBelow4G,
        Refusal::VmcsMemoryType,
        Refusal::NoSecondaryControls,
        Refusal::NoEpt,
        Refusal::NoEptWriteBack,
        Refusal::NoEpt4Level,
        Refusal::NoInvept,
        Refusal::Missing("HLT exiting"),
        Refusal::Forced("virtual NMIs"),
        Refusal::ControlRegister("CR0.WP"),
        Refusal::Inconsistent("IA32_VMX_BASIC"),
    ] {
        let line = refusal.to_string();
        assert!(!line.contains('\n') && line.len() > 20, "{line}");
        // What is wrong, and what to do.
        assert!(line.contains(": "), "{line}");
    }
    let line = Refusal::Missing("HLT exiting").to_string();
    assert!(line.contains("\"HLT exiting\""), "{line}");
}
