// SPDX-License-Identifier: GPL-2.0

//! Decoding of what the VMCS says, and the segments as bits.

use uvisor_vmx::exit::{exception_name, InvalidGuestState};
use uvisor_vmx::{
    segments, Access, BasicReason, EptViolation, Event, EventType, ExitReason, VmInstructionError,
};

#[test]
fn exit_reasons_have_names() {
    let reasons = BasicReason::ALL;
    assert!(reasons.windows(2).all(|pair| pair[0] < pair[1]));
    let mut names: Vec<_> = reasons
        .iter()
        .map(|reason| reason.name().unwrap())
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), reasons.len());
    // Those that the manual leaves out.
    let gaps: Vec<u16> = (0..=85)
        .filter(|number| BasicReason(*number).name().is_none())
        .collect();
    assert_eq!(gaps, [35, 38, 42, 71, 82, 83]);

    assert_eq!(BasicReason::CPUID.to_string(), "CPUID");
    assert_eq!(BasicReason(48), BasicReason::EPT_VIOLATION);
    assert_eq!(BasicReason(52), BasicReason::PREEMPTION_TIMER);
    assert_eq!(BasicReason(54), BasicReason::WBINVD);
    assert_eq!(BasicReason(59), BasicReason::VMFUNC);
    assert_eq!(BasicReason(35).to_string(), "exit reason 35");
    assert_eq!(BasicReason(u16::MAX).to_string(), "exit reason 65535");
}

#[test]
fn modifiers_are_not_part_of_the_basic_reason() {
    let failed = ExitReason(0x8000_0021);
    assert!(failed.entry_failed());
    assert_eq!(failed.basic(), BasicReason::INVALID_GUEST_STATE);
    assert_eq!(failed.to_string(), "invalid guest state (VM entry failed)");

    let plain = ExitReason(18);
    assert!(!plain.entry_failed() && !plain.bus_lock() && !plain.from_enclave());
    assert!(!plain.shadow_stack_busy());
    assert_eq!(plain.to_string(), "VMCALL");

    assert!(ExitReason(1 << 25).shadow_stack_busy());
    assert!(ExitReason(1 << 26).bus_lock());
    assert!(ExitReason(1 << 27).from_enclave());
    assert_eq!(
        ExitReason(0x0600_0001).basic(),
        BasicReason::EXTERNAL_INTERRUPT
    );
}

#[test]
fn ept_violations_of_data_and_code() {
    // A write to a page that can be read and executed.
    let write = EptViolation::decode(0x1aa);
    assert_eq!(write.access(), Access::Write);
    assert!(!write.read && write.write && !write.fetch);
    assert!(write.linear_valid && write.of_linear && !write.is_walk());
    assert!(write.may_read && !write.may_write && write.may_execute);
    assert!(!write.is_unmapped());

    let fetch = EptViolation::decode(0x184);
    assert_eq!(fetch.access(), Access::Fetch);
    assert!(fetch.is_unmapped());

    let read = EptViolation::decode(0x181);
    assert_eq!(read.access(), Access::Read);

    // An instruction that reads and writes, like an atomic one.
    let both = EptViolation::decode(0x183);
    assert_eq!(both.access(), Access::Write);
    assert!(both.read && both.write);

    assert!(EptViolation::decode(0x1181).nmi_unblocking);
}

#[test]
fn ept_violations_of_page_walks() {
    // With accessed and dirty bits a walk counts as a write; some report no read beside it.
    for qualification in [0x82, 0x83] {
        let walk = EptViolation::decode(qualification);
        assert!(walk.is_walk() && walk.read && walk.write && !walk.fetch);
        assert_eq!(walk.access(), Access::Write);
    }
    let walk = EptViolation::decode(0x81);
    assert!(walk.is_walk() && walk.read && !walk.write);
    assert_eq!(walk.access(), Access::Read);
    // The walk of an instruction fetch reads tables all the same.
    assert_eq!(EptViolation::decode(0x84).access(), Access::Read);
}

#[test]
fn ept_violations_without_a_linear_address() {
    let other = EptViolation::decode(0x1);
    assert!(!other.linear_valid && !other.of_linear && !other.is_walk());
    // Bit 8 means nothing then.
    assert_eq!(EptViolation::decode(0x101), other);
}

#[test]
fn bits_of_features_that_are_off_change_nothing() {
    for low in 0..0x200 {
        for bit in [6, 9, 10, 11, 13, 14, 15, 16, 63] {
            let without = low & !(1 << bit);
            assert_eq!(
                EptViolation::decode(without | (1 << bit)),
                EptViolation::decode(without)
            );
        }
    }
}

#[test]
fn events() {
    assert_eq!(Event::decode(0), None);
    assert_eq!(Event::decode(0x7fff_ffff), None);

    let fault = Event::decode(0x8000_0b0e).unwrap();
    assert_eq!(fault.vector, Event::PAGE_FAULT);
    assert_eq!(fault.kind, EventType::HardwareException);
    assert!(fault.error_code_valid && !fault.nmi_unblocking);
    assert!(!fault.is_nmi() && !fault.is_machine_check());

    let nmi = Event::decode(0x8000_0202).unwrap();
    assert!(nmi.is_nmi() && !nmi.error_code_valid);
    let check = Event::decode(0x8000_0312).unwrap();
    assert!(check.is_machine_check());
    // INT 0x12 is none.
    assert!(!Event::decode(0x8000_0412).unwrap().is_machine_check());

    let kinds =
        [0, 1, 2, 3, 4, 5, 6, 7].map(|kind| Event::decode((1 << 31) | (kind << 8)).unwrap().kind);
    assert_eq!(
        kinds,
        [
            EventType::ExternalInterrupt,
            EventType::Other,
            EventType::Nmi,
            EventType::HardwareException,
            EventType::SoftwareInterrupt,
            EventType::PrivilegedSoftwareException,
            EventType::SoftwareException,
            EventType::Other,
        ]
    );
    assert!(Event::decode(0x8000_1306).unwrap().nmi_unblocking);
    assert_eq!(exception_name(13), "general protection");
    assert_eq!(exception_name(255), "reserved exception");
}

#[test]
fn failures() {
    assert_eq!(
        VmInstructionError(7).to_string(),
        "VM entry with invalid control field(s)"
    );
    assert_eq!(VmInstructionError(7), VmInstructionError::INVALID_CONTROL);
    assert_eq!(
        VmInstructionError(14).to_string(),
        "VM-instruction error 14"
    );
    let gaps: Vec<u32> = (0..=28)
        .filter(|number| VmInstructionError(*number).name().is_none())
        .collect();
    assert_eq!(gaps, [0, 14, 21, 27]);

    assert_eq!(InvalidGuestState::decode(0), InvalidGuestState::Unspecified);
    assert_eq!(InvalidGuestState::decode(2), InvalidGuestState::Pdptes);
    assert_eq!(
        InvalidGuestState::decode(3),
        InvalidGuestState::NmiInjection
    );
    assert_eq!(InvalidGuestState::decode(4), InvalidGuestState::LinkPointer);
}

#[test]
fn segments_are_what_vm_entry_demands() {
    assert_eq!(segments::KERNEL_CODE_RIGHTS, 0xa09b);
    assert_eq!(segments::KERNEL_DATA_RIGHTS, 0xc093);
    assert_eq!(segments::USER_CODE_RIGHTS, 0xa0fb);
    assert_eq!(segments::USER_DATA_RIGHTS, 0xc0f3);
    assert_eq!(segments::TSS_RIGHTS, 0x8b);
    assert_eq!(segments::UNUSABLE, 0x1_0000);
    // Selectors carry the ring; TR's must not lie in the LDT.
    assert_eq!(segments::KERNEL_CS & 3, 0);
    assert_eq!(segments::USER_CS & 3, 3);
    assert_eq!(segments::USER_SS & 3, 3);
    assert_eq!(segments::TR & 4, 0);
}

#[test]
fn star_makes_the_selectors() {
    let syscall = (segments::STAR >> 32) as u16;
    assert_eq!(syscall & !3, segments::KERNEL_CS);
    assert_eq!((syscall & !3) + 8, segments::KERNEL_SS);
    let sysret = (segments::STAR >> 48) as u16;
    assert_eq!((sysret + 16) | 3, segments::USER_CS);
    assert_eq!((sysret + 8) | 3, segments::USER_SS);
}
