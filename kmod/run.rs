// SPDX-License-Identifier: GPL-2.0

//! RUN: windows one after the other, until something happens that is user space's business.

use core::sync::atomic::Ordering::Relaxed;

use kernel::prelude::*;

use uvisor_ept::{
    Gpa,
    Perm, //
};
use uvisor_uapi::{
    Event,
    Exit,
    ExitReason,
    Mitigations, //
};
use uvisor_vmx::{
    insn,
    Access,
    BasicReason,
    EptViolation,
    Event as VmxEvent,
    ExitReason as VmxReason, //
};
use x86::vmx::vmcs::ro;

use crate::{
    cpuid::CpuidTable,
    host::{
        Constants,
        HostState, //
    },
    mitigations,
    page::{
        RunPage,
        Word, //
    },
    sys::{
        cpu,
        ffi,
        fpu,
        irq::{
            self,
            IrqOff, //
        }, //
    },
    vcpu::{
        State,
        Vcpu, //
    },
    vmcs::{
        self,
        Vmcs, //
    },
    window::{
        Owner,
        Window, //
    }, //
};

/// How often a window goes on after an exit that it handled itself; with the preemption timer, and
/// interrupts, which end each stay, this bounds the time with interrupts off.
const MAX_RESUMES: u32 = 256;

/// Why a window was closed.
#[derive(Clone, Copy)]
enum Leave {
    /// The host has something to do.
    Host,
    /// A signal or a kick waits.
    Interrupted,
    /// The guest touched memory that is not there yet, or that it may not: see [`State::fault`].
    Fault,
    /// User space's business, which the run page says.
    Exit,
    /// The CPU refused the entry, as the run page says.
    Refused,
}

/// What memory the guest touched.
#[derive(Clone, Copy)]
pub(crate) struct GuestFault {
    gpa: u64,
    access: Perm,
    linear: u64,
}

impl GuestFault {
    /// None.
    pub(crate) const NONE: Self = Self {
        gpa: 0,
        access: Perm::empty(),
        linear: 0,
    };
}

/// How a RUN ended that did not fail; the run page says more.
pub(crate) enum Ended {
    /// By an exit.
    Exit,
    /// The CPU refused the entry.
    Refused,
}

/// Runs the guest until an exit for user space; the run page holds the registers before and after.
#[inline(always)]
pub(crate) fn run(vcpu: &Vcpu, state: &mut State) -> Result<Ended> {
    let mut given = true;
    loop {
        match window(vcpu, state, &mut given)? {
            Leave::Exit => {
                vcpu.events.bump(Event::ExitUser);
                return Ok(Ended::Exit);
            }
            Leave::Host => irq::handle_work()?,
            Leave::Interrupted => return Err(EINTR),
            Leave::Refused => return Ok(Ended::Refused),
            Leave::Fault => {
                if !resolve(vcpu, &state.fault) {
                    vcpu.events.bump(Event::ExitUser);
                    return Ok(Ended::Exit);
                }
            }
        }
    }
}

/// Gives the guest the memory that it touched, or says in the run page why not.
fn resolve(vcpu: &Vcpu, fault: &GuestFault) -> bool {
    let Err(cause) = vcpu.vm.memory.fault(Gpa(fault.gpa), fault.access) else {
        return true;
    };
    vcpu.page.set_exit(&Exit {
        reason: ExitReason::Memory as u32,
        insn_len: 0,
        info: fault.access.bits(),
        code: cause as u64,
        address: fault.gpa,
        linear: fault.linear,
    });
    false
}

/// [`resolve`] without leaving the window, if that is possible.
fn resolve_inside(vcpu: &Vcpu, fault: &GuestFault, irq: &IrqOff) -> bool {
    let vm = &*vcpu.vm;
    if !vm.memory.fault_inside(irq, Gpa(fault.gpa), fault.access) {
        return false;
    }
    if vm.hardware.mitigations.contains(Mitigations::L1D_FLUSH) {
        // More than registers was touched.
        mitigations::flush_l1d();
    }
    // SAFETY: This is in a window. What fails here fails again, and is reported, in the next one.
    unsafe { flush_stale(vcpu, irq) }.is_ok()
}

/// One window; the first one of a RUN in which the guest runs takes the registers that were `given` in
/// the run page.
#[inline(always)]
fn window(vcpu: &Vcpu, state: &mut State, given: &mut bool) -> Result<Leave> {
    let vm = &*vcpu.vm;
    let hardware = &*vm.hardware;
    let irq = IrqOff::new();
    let this = hardware.this_cpu(&irq)?;

    // From here on, whoever wants us out sees that we are inside, and interrupts this CPU; the
    // interrupt waits until the guest runs, and then ends its stay.
    this.enter(vm.id);
    let _inside = Inside(this);
    if irq.work_pending() {
        return Ok(Leave::Host);
    }
    if vcpu.kicked.load(Relaxed) {
        vcpu.kicked.store(false, Relaxed);
        return Ok(Leave::Interrupted);
    }
    if vm.memory.is_frozen() {
        return Err(EROFS);
    }

    let window = Window::open(&irq, hardware, this, &state.region)?;
    vcpu.events.bump(match window.owner() {
        Owner::Own { .. } => Event::WindowOwned,
        Owner::Borrow { .. } => Event::WindowBorrowed,
    });
    let mut vmcs = Vmcs::new(
        &window,
        &state.region,
        &mut state.cache,
        hardware,
        &state.fixed,
    )?;

    // SAFETY: The window is open.
    unsafe { flush_stale(vcpu, &irq) }?;
    // SAFETY: `irq` was made on this CPU, and this is the only such reference.
    let local = unsafe { this.local(&irq) };
    let barriers = hardware.mitigations.contains(Mitigations::IBPB);
    let foreign = window.owner().foreign_vmcs().is_some();
    if barriers {
        // Who else may have run a guest here was scheduled in between, or it was this very task, by a
        // VMCS that KVM has loaded.
        let last = Some((vm.id, irq.stretch()));
        if foreign || local.last != last {
            local.last = last;
            mitigations::barrier();
            vcpu.events.bump(Event::Ibpb);
        }
    }
    if *given {
        vmcs.load_regs(&vcpu.page)?;
        let kernel_gs_base = vcpu.page.get(Word::KERNEL_GS_BASE);
        if kernel_gs_base != state.msrs.kernel_gs_base {
            state.msrs.kernel_gs_base = vmcs::canonical(kernel_gs_base)?;
        }
        *given = false;
    }
    if hardware.controls.features.preemption_timer {
        vmcs.set_timer(hardware.timer);
    }
    let host = HostState::save(
        &irq,
        local.constants.get_or_insert_with(|| Constants::read(&irq)),
        &mut vmcs,
        &state.msrs,
        hardware,
    );
    fpu::enter_guest(&irq, &hardware.fpu, &mut local.fpu, &state.fpu);

    let leave = stay(vcpu, &mut vmcs, &mut state.fault, &irq);

    fpu::leave_guest(&irq, &hardware.fpu, &local.fpu, &mut state.fpu);
    host.restore(&irq, &mut state.msrs, hardware);
    vmcs.store_regs(&vcpu.page);
    vcpu.page
        .set(Word::KERNEL_GS_BASE, state.msrs.kernel_gs_base);
    if barriers && foreign {
        // KVM's own barrier does not know that another guest ran between two stays of its own.
        mitigations::barrier();
        vcpu.events.bump(Event::Ibpb);
    }
    Ok(leave)
}

/// Executes INVEPT if translations that this CPU may have cached must go before it enters.
///
/// # Safety
///
/// A window must be open.
#[inline(always)]
unsafe fn flush_stale(vcpu: &Vcpu, irq: &IrqOff) -> Result {
    let memory = &vcpu.vm.memory;
    if let Some(generation) = memory.stale(irq.cpu()) {
        let one = vcpu.vm.hardware.controls.features.invept_single;
        vcpu.events.bump(Event::Invept);
        // SAFETY: By the caller's promise; the type is one that the CPU has.
        unsafe { insn::invept(one.then_some(memory.eptp())) }.map_err(|_| EIO)?;
        memory.set_flushed(irq.cpu(), generation);
    }
    Ok(())
}

/// The guest runs, again and again as long as its exits can be handled here.
#[inline(always)]
fn stay(vcpu: &Vcpu, vmcs: &mut Vmcs<'_>, fault: &mut GuestFault, irq: &IrqOff) -> Leave {
    let mitigations = vcpu.vm.hardware.mitigations;
    if mitigations.contains(Mitigations::L1D_FLUSH) {
        mitigations::flush_l1d();
    }
    let mut resume = 0;
    let mut left = MAX_RESUMES;
    loop {
        vcpu.events.bump(Event::Entry);
        // SAFETY: Interrupts are off, our VMCS is current and complete, the host's state is saved
        // and the guest's loaded. The general registers are exchanged with the run page itself: any
        // value will do, so user space may write them meanwhile.
        let refused = unsafe { ffi::uvisor_enter(vcpu.page.regs(), resume) };
        if refused != 0 {
            vcpu.page.set_exit(&Exit {
                reason: ExitReason::EntryFailed as u32,
                code: vmcs.read(ro::VM_INSTRUCTION_ERROR),
                ..Exit::default()
            });
            return Leave::Refused;
        }
        resume = 1;
        match handle(vcpu, vmcs, fault, irq) {
            Some(leave) => return leave,
            None if left == 0 => return Leave::Host,
            None => left -= 1,
        }
        vcpu.events.bump(Event::ExitKernel);
    }
}

/// Takes back that this CPU is inside, when the window is closed.
struct Inside<'a>(&'a crate::hardware::Cpu);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Handles an exit in the window, or says why to leave it.
#[inline(always)]
fn handle(
    vcpu: &Vcpu,
    vmcs: &mut Vmcs<'_>,
    guest_fault: &mut GuestFault,
    irq: &IrqOff,
) -> Option<Leave> {
    // CAST: The field has 32 bits.
    let reason = VmxReason(vmcs.read(ro::EXIT_REASON) as u32);
    if reason.is_just(BasicReason::VMCALL) {
        Some(hypercall(vcpu, vmcs))
    } else if reason.is_just(BasicReason::CPUID) {
        vcpu.events.bump(Event::ExitCpuid);
        cpuid(&vcpu.vm.hardware.cpuid, &vcpu.page);
        vmcs.skip_instruction();
        None
    } else {
        handle_other(vcpu, vmcs, reason, guest_fault, irq)
    }
}

/// Handles an exit that is not among those that count: these are looked for first.
#[inline(never)]
fn handle_other(
    vcpu: &Vcpu,
    vmcs: &mut Vmcs<'_>,
    reason: VmxReason,
    guest_fault: &mut GuestFault,
    irq: &IrqOff,
) -> Option<Leave> {
    let events = &vcpu.events;
    if reason.entry_failed() {
        return Some(entry_failed(vcpu, vmcs, reason.basic(), irq));
    }
    Some(match reason.basic() {
        BasicReason::EPT_VIOLATION => {
            events.bump(Event::ExitEpt);
            *guest_fault = fault(vmcs);
            if resolve_inside(vcpu, guest_fault, irq) {
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
        BasicReason::VMCALL => hypercall(vcpu, vmcs),
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
fn hypercall(vcpu: &Vcpu, vmcs: &Vmcs<'_>) -> Leave {
    vcpu.events.bump(Event::ExitHypercall);
    exit(vcpu, vmcs, ExitReason::Hypercall, vmcs.ring(), 0)
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
