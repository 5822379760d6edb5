// SPDX-License-Identifier: GPL-2.0

//! Negotiation on random values: never a panic, never a word that VM entry would reject.

use crate::recorded::ACCEPTED;
use crate::words::WORDS;
use proptest::prelude::*;
use uvisor_vmx::{negotiate, CapabilityMsrs, Controls, CpuFeatures};

/// The number of 64-bit words in [`CapabilityMsrs`].
const FIELDS: usize = 15;

/// The MSRs as an array, in order.
fn fields(m: &mut CapabilityMsrs) -> [&mut u64; FIELDS] {
    [
        &mut m.feature_control,
        &mut m.basic,
        &mut m.pin,
        &mut m.primary,
        &mut m.secondary,
        &mut m.tertiary,
        &mut m.exit,
        &mut m.entry,
        &mut m.misc,
        &mut m.cr0_fixed0,
        &mut m.cr0_fixed1,
        &mut m.cr4_fixed0,
        &mut m.cr4_fixed1,
        &mut m.ept_vpid,
        &mut m.vmfunc,
    ]
}

prop_compose! {
    /// Any values whatever.
    fn any_msrs()(values: [u64; FIELDS]) -> CapabilityMsrs {
        let mut msrs = CapabilityMsrs::default();
        for (field, value) in fields(&mut msrs).into_iter().zip(values) {
            *field = value;
        }
        msrs
    }
}

prop_compose! {
    /// A recorded CPU with a few bits turned over.
    fn broken_msrs()(
        cpu in 0..ACCEPTED.len(),
        flips in prop::collection::vec((0..FIELDS, 0..64u32), 0..4),
    ) -> CapabilityMsrs {
        let mut msrs = ACCEPTED[cpu].capabilities();
        for (field, bit) in flips {
            *fields(&mut msrs)[field] ^= 1 << bit;
        }
        msrs
    }
}

prop_compose! {
    /// A CPU that allows at least what a recorded one does, and insists on no more.
    fn richer_msrs()(
        cpu in 0..ACCEPTED.len(),
        allowed: [u32; 5],
        ept_vpid: u64,
        misc: u64,
        vmfunc: u64,
        cr4: u32,
    ) -> CapabilityMsrs {
        let mut msrs = ACCEPTED[cpu].capabilities();
        for (word, allowed) in WORDS.iter().zip(allowed) {
            *(word.msr)(&mut msrs) |= u64::from(allowed) << 32;
        }
        msrs.ept_vpid |= ept_vpid;
        msrs.misc = misc;
        msrs.vmfunc = vmfunc;
        msrs.cr4_fixed1 |= u64::from(cr4);
        msrs
    }
}

prop_compose! {
    /// Any CPUID.
    fn any_cpu()(bits: u16, phys_bits: u8, linear_bits: u8, efer: u64, plain in any::<bool>()) -> CpuFeatures {
        let bit = |number: u32| bits & (1 << number) != 0;
        CpuFeatures {
            rdtscp: bit(0),
            invpcid: bit(1),
            xsave: bit(2),
            xsaves: bit(3),
            waitpkg: bit(4),
            perf_global_ctrl: bit(5),
            fsgsbase: bit(6),
            smep: bit(7),
            umip: bit(8),
            pku: bit(9),
            page_1g: bit(10),
            intel_pt: bit(11),
            phys_bits,
            linear_bits,
            host_efer: if plain { 0xd01 } else { efer },
        }
    }
}

/// Fails unless VM entry takes all that was negotiated.
fn check(msrs: &CapabilityMsrs, controls: &Controls) {
    for word in WORDS {
        word.check(msrs, controls);
    }
    for (value, must, may) in [
        (controls.cr0, msrs.cr0_fixed0, msrs.cr0_fixed1),
        (controls.cr4, msrs.cr4_fixed0, msrs.cr4_fixed1),
    ] {
        assert_eq!(value & must, must);
        assert_eq!(value & !may, 0);
    }
    assert!((8..=4096).contains(&controls.vmcs_size));
    assert!(controls.vmcs_revision <= i32::MAX as u32);
    assert!(controls.preemption_timer_shift < 32);
    // The rules of VM entry between the words.
    let features = &controls.features;
    assert!(features.preemption_timer || !features.save_preemption_timer);
    assert_eq!(
        controls.exit & (1 << 12) != 0,
        controls.entry & (1 << 13) != 0
    );
    assert!(!features.vpid || features.invvpid_single || features.invvpid_all);
    assert!(features.invept_single || features.invept_all);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_values(msrs in any_msrs(), cpu in any_cpu()) {
        if let Ok(controls) = negotiate(&msrs, &cpu) {
            check(&msrs, &controls);
        }
    }

    #[test]
    fn broken_cpus(msrs in broken_msrs(), cpu in any_cpu()) {
        match negotiate(&msrs, &cpu) {
            Ok(controls) => check(&msrs, &controls),
            Err(refusal) => assert!(!refusal.to_string().contains('\n')),
        }
    }

    #[test]
    fn what_is_allowed_and_unknown_stays_off(msrs in richer_msrs(), mut cpu in any_cpu()) {
        cpu.host_efer = 0xd01;
        let controls = negotiate(&msrs, &cpu).unwrap();
        check(&msrs, &controls);
    }

    #[test]
    fn only_msrs_that_exist_are_read(values: [u64; FIELDS], missing in 0x480..0x494u32) {
        let found = CapabilityMsrs::read(|number| {
            assert!(number == 0x3a || (0x480..=0x492).contains(&number));
            (number != missing).then(|| values[number as usize % FIELDS])
        });
        if let Some(msrs) = found {
            assert!(msrs.primary & (1 << 63) != 0 || msrs.secondary == 0);
            assert!(msrs.primary & (1 << 49) != 0 || msrs.tertiary == 0);
            assert!(msrs.secondary & (0x22 << 32) != 0 || msrs.ept_vpid == 0);
            assert!(msrs.secondary & (1 << 45) != 0 || msrs.vmfunc == 0);
        }
    }
}
