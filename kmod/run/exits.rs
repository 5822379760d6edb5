// SPDX-License-Identifier: GPL-2.0

//! Exits: what is done about each in the window, and what user space is told.

use uvisor_ept::Perm;
use uvisor_uapi::{
    Event,
    Exit,
    ExitReason,
    HYPERCALL_SWITCH_VIEW, //
};
use uvisor_vmx::{
    Access,
    BasicReason,
    EptViolation,
    Event as VmxEvent,
    ExitReason as VmxReason, //
};
use x86::vmx::vmcs::ro;

use super::{
    resolve_inside,
    serve::is_served,
    GuestFault,
    Leave,
    Wants, //
};
use crate::{
    cpuid::CpuidTable,
    page::{
        RunPage,
        Word, //
    },
    sys::{
        cpu,
        irq::IrqOff, //
    },
    vcpu::Vcpu,
    vmcs::Vmcs, //
};

/// Handles an exit in the window, or says why to leave it.
#[inline(always)]
pub(super) fn handle(
    vcpu: &Vcpu,
    vmcs: &mut Vmcs<'_>,
    wants: &mut Wants,
    irq: &IrqOff,
) -> Option<Leave> {
    // CAST: The field has 32 bits.
    let reason = VmxReason(vmcs.read(ro::EXIT_REASON) as u32);
    if reason.is_just(BasicReason::VMCALL) {
        hypercall(vcpu, vmcs, wants)
    } else if reason.is_just(BasicReason::CPUID) {
        vcpu.events.bump(Event::ExitCpuid);
        cpuid(&vcpu.vm.hardware.cpuid, &vcpu.page);
        vmcs.skip_instruction();
        None
    } else {
        handle_other(vcpu, vmcs, reason, wants, irq)
    }
}

/// Handles an exit that is not among those that count: these are looked for first.
#[inline(never)]
fn handle_other(
    vcpu: &Vcpu,
    vmcs: &mut Vmcs<'_>,
    reason: VmxReason,
    wants: &mut Wants,
    irq: &IrqOff,
) -> Option<Leave> {
    let events = &vcpu.events;
    if reason.entry_failed() {
        return Some(entry_failed(vcpu, vmcs, reason.basic(), irq));
    }
    Some(match reason.basic() {
        BasicReason::EPT_VIOLATION => {
            events.bump(Event::ExitEpt);
            wants.fault = fault(vmcs);
            if resolve_inside(vcpu, vmcs, &wants.fault, irq) {
                return None;
            }
            Leave::Fault
        }
        BasicReason::EXTERNAL_INTERRUPT => {
            // It was not acknowledged, and is taken when interrupts are on again.
            events.bump(Event::ExitInterrupt);
            Leave::Host
        }
        BasicReason::PREEMPTION_TIMER => {
            events.bump(Event::ExitTimer);
            Leave::Host
        }
        // With a modifier, as a lock of the bus in the instruction before.
        BasicReason::VMCALL => return hypercall(vcpu, vmcs, wants),
        // One that the CPU did not do by itself.
        BasicReason::VMFUNC if vcpu.page.get(Word::RAX) as u32 == 0 => {
            return switch_view(vcpu, vmcs, wants);
        }
        BasicReason::EXCEPTION_OR_NMI => return exception(vcpu, vmcs, irq),
        BasicReason::TRIPLE_FAULT => exit(vcpu, vmcs, ExitReason::TripleFault, 0, 0),
        BasicReason::HLT => exit(vcpu, vmcs, ExitReason::Halt, 0, 0),
        // Signals to this CPU that VMX operation holds back.
        BasicReason::INIT | BasicReason::SIPI => Leave::Host,
        basic => {
            let qualification = vmcs.qualification();
            let reason = ExitReason::Privileged;
            exit(vcpu, vmcs, reason, basic.0.into(), qualification)
        }
    })
}

/// An entry that the CPU began and gave up.
#[cold]
fn entry_failed(vcpu: &Vcpu, vmcs: &Vmcs<'_>, basic: BasicReason, irq: &IrqOff) -> Leave {
    if basic == BasicReason::MACHINE_CHECK {
        cpu::run_machine_check_handler(irq);
    }
    vcpu.page.set_exit(&Exit {
        reason: ExitReason::EntryFailed as u32,
        info: basic.0.into(),
        code: vmcs.qualification(),
        ..Exit::default()
    });
    Leave::Refused
}

/// VMCALL.
#[inline(always)]
fn hypercall(vcpu: &Vcpu, vmcs: &mut Vmcs<'_>, wants: &mut Wants) -> Option<Leave> {
    vcpu.events.bump(Event::ExitHypercall);
    if vcpu.page.get(Word::RAX) == HYPERCALL_SWITCH_VIEW {
        let leave = switch_view(vcpu, vmcs, wants);
        if leave.is_none() {
            vcpu.page.set(Word::RAX, 0);
        }
        return leave;
    }
    let ring = vmcs.ring();
    let leave = exit(vcpu, vmcs, ExitReason::Hypercall, ring, 0);
    Some(if ring == 0 && is_served(&vcpu.page) {
        Leave::Call
    } else {
        leave
    })
}

/// The guest goes to the view in ECX, or the window is left to open that.
#[inline(never)]
fn switch_view(vcpu: &Vcpu, vmcs: &mut Vmcs<'_>, wants: &mut Wants) -> Option<Leave> {
    // CAST: As VMFUNC, the lower half is looked at.
    let view = u64::from(vcpu.page.get(Word::RCX) as u32);
    let views = vcpu.vm.memory.views();
    match views.and_then(|views| views.eptp_for_guest(view)) {
        Some(eptp) => {
            vmcs.switch_eptp(eptp);
            vmcs.skip_instruction();
            None
        }
        None => Some(wants.view(view, true)),
    }
}

/// CPUID.
#[inline(always)]
fn cpuid(table: &CpuidTable, page: &RunPage) {
    // CAST: The instruction takes the lower halves, and clears the upper ones.
    let (leaf, subleaf) = (page.get(Word::RAX) as u32, page.get(Word::RCX) as u32);
    let [a, b, c, d] = table.get(leaf, subleaf);
    page.set(Word::RAX, a.into());
    page.set(Word::RBX, b.into());
    page.set(Word::RCX, c.into());
    page.set(Word::RDX, d.into());
}

/// An exit for user space.
#[inline(always)]
fn exit(vcpu: &Vcpu, vmcs: &Vmcs<'_>, reason: ExitReason, info: u64, code: u64) -> Leave {
    vcpu.page.set_exit(&Exit {
        reason: reason as u32,
        // CAST: At most 15.
        insn_len: vmcs.read(ro::VMEXIT_INSTRUCTION_LEN) as u32,
        info,
        code,
        address: 0,
        linear: 0,
    });
    Leave::Exit
}

/// An EPT violation.
fn fault(vmcs: &Vmcs<'_>) -> GuestFault {
    let violation = EptViolation::decode(vmcs.qualification());
    GuestFault {
        gpa: vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL),
        access: match violation.access() {
            Access::Read => Perm::R,
            Access::Write => Perm::W,
            Access::Fetch => Perm::X,
        },
        linear: if violation.linear_valid {
            vmcs.linear_address()
        } else {
            u64::MAX
        },
    }
}

/// An exception of the guest's, or an NMI or a machine check of the host's.
#[cold]
fn exception(vcpu: &Vcpu, vmcs: &Vmcs<'_>, irq: &IrqOff) -> Option<Leave> {
    // CAST: The field has 32 bits.
    let event = VmxEvent::decode(vmcs.read(ro::VMEXIT_INTERRUPTION_INFO) as u32)?;
    if event.is_nmi() {
        vcpu.events.bump(Event::ExitNmi);
        cpu::run_nmi_handler(irq);
        return Some(Leave::Host);
    }
    if event.is_machine_check() {
        cpu::run_machine_check_handler(irq);
        return Some(Leave::Host);
    }
    vcpu.events.bump(Event::ExitException);
    vcpu.page.set_exit(&Exit {
        reason: ExitReason::Exception as u32,
        // CAST: At most 15.
        insn_len: vmcs.read(ro::VMEXIT_INSTRUCTION_LEN) as u32,
        info: event.vector.into(),
        code: if event.error_code_valid {
            vmcs.read(ro::VMEXIT_INTERRUPTION_ERR_CODE)
        } else {
            0
        },
        address: match event.vector {
            VmxEvent::PAGE_FAULT | VmxEvent::DEBUG => vmcs.qualification(),
            _ => 0,
        },
        linear: 0,
    });
    Some(Leave::Exit)
}
