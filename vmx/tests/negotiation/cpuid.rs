// SPDX-License-Identifier: GPL-2.0

//! What is read of CPUID.

use crate::recorded::bochs;
use uvisor_vmx::CpuFeatures;

/// No MSR but EFER is asked for.
fn efer(number: u32) -> Option<u64> {
    assert_eq!(number, 0xc000_0080);
    Some(0xd01)
}

#[test]
fn ice_lake() {
    let expected = CpuFeatures {
        rdtscp: true,
        invpcid: true,
        xsave: true,
        xsaves: true,
        waitpkg: false,
        perf_global_ctrl: true,
        fsgsbase: true,
        smep: true,
        umip: true,
        pku: true,
        page_1g: true,
        intel_pt: false,
        phys_bits: 40,
        linear_bits: 48,
        host_efer: 0xd01,
    };
    assert_eq!(bochs::ICE_LAKE.features(), expected);
    assert!(bochs::ARROW_LAKE.features().waitpkg);
}

#[test]
fn leaves_beyond_the_highest_are_not_asked_for() {
    let found = CpuFeatures::read(
        |leaf, _| match leaf {
            0 => [1, 0, 0, 0],
            0x8000_0000 => [0x8000_0001, 0, 0, 0],
            1 | 0x8000_0001 => [u32::MAX; 4],
            _ => panic!("leaf {leaf:x}"),
        },
        efer,
    );
    let expected = CpuFeatures {
        rdtscp: true,
        xsave: true,
        page_1g: true,
        host_efer: 0xd01,
        ..CpuFeatures::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn the_global_counter_control_came_with_version_2() {
    for (version, expected) in [(0, false), (1, false), (2, true), (5, true)] {
        let found = CpuFeatures::read(
            |leaf, _| match leaf {
                0 => [0xa, 0, 0, 0],
                0xa => [0x0830_0800 | version, 0, 0, 0],
                _ => [0; 4],
            },
            efer,
        );
        assert_eq!(found.perf_global_ctrl, expected);
    }
}

#[test]
fn without_efer_there_is_no_long_mode() {
    let found = CpuFeatures::read(|_, _| [0; 4], |_| None);
    assert_eq!(found, CpuFeatures::default());
}
