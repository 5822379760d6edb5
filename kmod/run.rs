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
    Mitigations,
    Regs, //
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
    host::HostState,
    mitigations,
    sys::{
        cpu,
        ffi,
        fpu::FpuLoaded,
        irq::{
            self,
            IrqOff, //
        }, //
    },
    vcpu::{
        State,
        Vcpu, //
    },
    vmcs::Vmcs,
    window::{
        Owner,
        Window, //
    }, //
};

/// How often a window goes on after an exit that it handled itself; with the preemption timer, and
/// interrupts, which end each stay, this bounds the time with interrupts off.
const MAX_RESUMES: u32 = 256;

/// Why a window was closed.
enum Leave {
    /// The host has something to do.
    Host,
    /// A signal or a kick waits.
    Interrupted,
    /// The guest touched memory that is not there yet, or that it may not.
    Fault { gpa: u64, access: Perm, linear: u64 },
    /// User space's business.
    Exit(Exit),
}

/// Runs the guest until an exit for user space; `state.regs` and the run page hold its registers before
/// and after.
pub(crate) fn run(vcpu: &Vcpu, state: &mut State) -> Result<Exit> {
    state.given = true;
    loop {
        let leave = {
            let irq = IrqOff::new();
            window(vcpu, state, &irq)?
        };
        match leave {
            Leave::Host => irq::handle_work()?,
            Leave::Interrupted => return Err(EINTR),
            Leave::Fault {
                gpa,
                access,
                linear,
            } => {
                if let Err(cause) = vcpu.vm.memory.fault(Gpa(gpa), access) {
                    return Ok(Exit {
                        reason: ExitReason::Memory as u32,
                        insn_len: 0,
                        info: access.bits(),
                        code: cause as u64,
                        address: gpa,
                        linear,
                    });
                }
            }
            Leave::Exit(exit) => {
                vcpu.events.bump(Event::ExitUser);
                return Ok(exit);
            }
        }
    }
}

/// One window.
fn window(vcpu: &Vcpu, state: &mut State, irq: &IrqOff) -> Result<Leave> {
    let vm = &*vcpu.vm;
    let hardware = &*vm.hardware;
    let this = hardware.this_cpu(irq)?;

    // From here on, whoever wants us out sees that we are inside, and interrupts this CPU; the
    // interrupt waits until the guest runs, and then ends its stay.
    this.enter(vm.id);
    let _inside = Inside(this);
    if irq::work_pending(irq) {
        return Ok(Leave::Host);
    }
    if vcpu.kicked.load(Relaxed) {
        vcpu.kicked.store(false, Relaxed);
        return Ok(Leave::Interrupted);
    }

    let window = Window::open(irq, hardware, this, &state.region)?;
    vcpu.events.bump(match window.owner() {
        Owner::Own { .. } => Event::WindowOwned,
        Owner::Borrow { .. } => Event::WindowBorrowed,
    });
    let controls = &hardware.controls;
    let mut vmcs = Vmcs::new(
        &window,
        &state.region,
        &mut state.cache,
        controls,
        &state.fixed,
    );

    vm.memory.invept_if_stale(irq.cpu(), || {
        let eptp = controls.features.invept_single.then_some(state.fixed.eptp);
        vcpu.events.bump(Event::Invept);
        // SAFETY: The window is open; the type is one that the CPU has.
        unsafe { insn::invept(eptp) }.map_err(|_| EIO)
    })?;
    // SAFETY: `irq` was made on this CPU, and this is the only such reference.
    let local = unsafe { this.local(irq) };
    let foreign = window.owner().foreign_vmcs();
    if local.last_vm != vm.id || local.last_foreign != foreign {
        local.last_vm = vm.id;
        local.last_foreign = foreign;
        if hardware.mitigations.contains(Mitigations::IBPB) {
            mitigations::barrier();
            vcpu.events.bump(Event::Ibpb);
        }
    }
    if state.given {
        vmcs.set_regs(&state.regs);
        state.given = false;
    }
    if controls.features.preemption_timer {
        vmcs.set_timer(hardware.timer);
    }
    let host = HostState::save(
        irq,
        local,
        &mut vmcs,
        &mut state.msrs,
        window.owner(),
        hardware,
    );
    if !vmcs.is_ok() {
        return Err(EIO);
    }
    let fpu = FpuLoaded::new(irq, &hardware.fpu, &mut state.fpu);
    if hardware.mitigations.contains(Mitigations::L1D_FLUSH) {
        mitigations::flush_l1d();
    }

    // SAFETY: The run page lives as long as the vCPU.
    let gprs = unsafe { &raw mut (*state.run_page).regs };
    let mut resume = 0;
    let mut left = MAX_RESUMES;
    let leave = loop {
        vcpu.events.bump(Event::Entry);
        // SAFETY: Interrupts are off, our VMCS is current and complete, the host's state is saved
        // and the guest's loaded. The general registers are exchanged with the run page itself: any
        // value will do, so user space may write them meanwhile.
        let refused = unsafe { ffi::uvisor_enter(gprs, resume) };
        if refused != 0 {
            break Leave::Exit(Exit {
                reason: ExitReason::EntryFailed as u32,
                code: vmcs.read(ro::VM_INSTRUCTION_ERROR),
                ..Exit::default()
            });
        }
        resume = 1;
        match handle(vcpu, &mut vmcs, gprs, irq) {
            Some(leave) => break leave,
            None if left == 0 => break Leave::Host,
            None => left -= 1,
        }
        vcpu.events.bump(Event::ExitKernel);
    };

    drop(fpu);
    vmcs.get_regs(&mut state.regs);
    drop(host);
    if foreign.is_some() && hardware.mitigations.contains(Mitigations::IBPB) {
        // KVM's own barrier does not know that another guest ran between two stays of its own.
        mitigations::barrier();
        vcpu.events.bump(Event::Ibpb);
    }
    Ok(leave)
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
fn handle(vcpu: &Vcpu, vmcs: &mut Vmcs<'_>, gprs: *mut Regs, irq: &IrqOff) -> Option<Leave> {
    // CAST: The field has 32 bits.
    let reason = VmxReason(vmcs.read(ro::EXIT_REASON) as u32);
    let events = &vcpu.events;
    if reason.entry_failed() {
        if reason.basic() == BasicReason::MACHINE_CHECK {
            cpu::run_machine_check_handler(irq);
        }
        return Some(Leave::Exit(Exit {
            reason: ExitReason::EntryFailed as u32,
            info: reason.basic().0.into(),
            code: vmcs.qualification(),
            ..Exit::default()
        }));
    }
    let leave = match reason.basic() {
        BasicReason::VMCALL => {
            events.bump(Event::ExitHypercall);
            let cpl = vmcs.ring();
            exit(vmcs, ExitReason::Hypercall, cpl, 0)
        }
        BasicReason::CPUID => {
            events.bump(Event::ExitCpuid);
            // SAFETY: The registers are those of the vCPU's run page.
            unsafe { cpuid(&vcpu.vm.hardware.cpuid, gprs) };
            vmcs.skip_instruction();
            return None;
        }
        BasicReason::EPT_VIOLATION => {
            events.bump(Event::ExitEpt);
            fault(vmcs)
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
        BasicReason::EXCEPTION_OR_NMI => return exception(vcpu, vmcs, irq),
        BasicReason::TRIPLE_FAULT => exit(vmcs, ExitReason::TripleFault, 0, 0),
        BasicReason::HLT => exit(vmcs, ExitReason::Halt, 0, 0),
        // Signals to this CPU that VMX operation holds back.
        BasicReason::INIT | BasicReason::SIPI => Leave::Host,
        basic => {
            let qualification = vmcs.qualification();
            exit(vmcs, ExitReason::Privileged, basic.0.into(), qualification)
        }
    };
    Some(leave)
}

/// CPUID.
///
/// # Safety
///
/// `gprs` must be valid for reads and writes. Somebody else may write it meanwhile.
unsafe fn cpuid(table: &CpuidTable, gprs: *mut Regs) {
    // SAFETY: By the caller's promise.
    unsafe {
        // CAST: The instruction takes the lower halves, and clears the upper ones.
        let leaf = (&raw const (*gprs).rax).read_volatile() as u32;
        let subleaf = (&raw const (*gprs).rcx).read_volatile() as u32;
        let [a, b, c, d] = table.get(leaf, subleaf);
        (&raw mut (*gprs).rax).write_volatile(a.into());
        (&raw mut (*gprs).rbx).write_volatile(b.into());
        (&raw mut (*gprs).rcx).write_volatile(c.into());
        (&raw mut (*gprs).rdx).write_volatile(d.into());
    }
}

/// An exit for user space.
fn exit(vmcs: &Vmcs<'_>, reason: ExitReason, info: u64, code: u64) -> Leave {
    Leave::Exit(Exit {
        reason: reason as u32,
        // CAST: At most 15.
        insn_len: vmcs.read(ro::VMEXIT_INSTRUCTION_LEN) as u32,
        info,
        code,
        address: 0,
        linear: 0,
    })
}

/// An EPT violation.
fn fault(vmcs: &Vmcs<'_>) -> Leave {
    let violation = EptViolation::decode(vmcs.qualification());
    let access = match violation.access() {
        Access::Read => Perm::R,
        Access::Write => Perm::W,
        Access::Fetch => Perm::X,
    };
    Leave::Fault {
        gpa: vmcs.read(ro::GUEST_PHYSICAL_ADDR_FULL),
        access,
        linear: if violation.linear_valid {
            vmcs.linear_address()
        } else {
            u64::MAX
        },
    }
}

/// An exception of the guest's, or an NMI or a machine check of the host's.
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
    Some(Leave::Exit(Exit {
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
    }))
}
