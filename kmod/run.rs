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
    ViewCause, //
};
use uvisor_vmx::insn;
use x86::vmx::vmcs::ro;

use crate::{
    host::{
        Constants,
        HostState, //
    },
    mitigations,
    page::Word,
    sys::{
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

mod exits;
mod serve;

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
    /// The guest touched memory that is not there yet, or that it may not: see [`Wants::fault`].
    Fault,
    /// User space's business, which the run page says.
    Exit,
    /// The same, but a system call that may be served here.
    Call,
    /// The CPU refused the entry, as the run page says.
    Refused,
    /// The guest is to be in a view that was not opened yet or that it cannot be in: see [`Wants::view`].
    View,
    /// The view that the guest is in is not there any more.
    Gone,
}

/// What memory the guest touched.
#[derive(Clone, Copy)]
struct GuestFault {
    gpa: u64,
    access: Perm,
    linear: u64,
}

impl GuestFault {
    /// None.
    const NONE: Self = Self {
        gpa: 0,
        access: Perm::empty(),
        linear: 0,
    };
}

/// What a window was left for, if not for the host.
#[derive(Clone, Copy)]
pub(crate) struct Wants {
    /// With [`Leave::Fault`].
    fault: GuestFault,
    /// With [`Leave::View`]: the number of the view.
    view: u64,
    /// With [`Leave::View`]: whether it is the guest's will, and not that of who called RUN.
    by_guest: bool,
}

impl Wants {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self {
        fault: GuestFault::NONE,
        view: 0,
        by_guest: false,
    };

    /// To be in a view.
    fn view(&mut self, view: u64, by_guest: bool) -> Leave {
        (self.view, self.by_guest) = (view, by_guest);
        Leave::View
    }
}

/// How a RUN ended that did not fail; the run page says more.
pub(crate) enum Ended {
    /// By an exit.
    Exit,
    /// The CPU refused the entry.
    Refused,
}

/// What the next window takes from the run page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Take {
    /// Nothing: it goes on where the last one ended.
    Nothing,
    /// The registers.
    Registers,
    /// The registers, and the view.
    All,
}

/// Runs the guest until an exit for user space; the run page holds the registers before and after.
#[inline(always)]
pub(crate) fn run(vcpu: &Vcpu, state: &mut State) -> Result<Ended> {
    let mut take = Take::All;
    loop {
        let goes_on = match window(vcpu, state, &mut take)? {
            Leave::Exit => false,
            Leave::Call => {
                let served = serve::serve(&vcpu.page);
                if served {
                    vcpu.events.bump(Event::Served);
                    take = Take::Registers;
                }
                served
            }
            Leave::Host => {
                irq::handle_work()?;
                true
            }
            Leave::Interrupted => return Err(EINTR),
            Leave::Refused => return Ok(Ended::Refused),
            Leave::Fault => resolve(vcpu, state.view, &state.wants.fault),
            Leave::View => open_view(vcpu, state.wants.view, state.wants.by_guest),
            Leave::Gone => {
                no_view(vcpu, state.view, ViewCause::Gone);
                false
            }
        };
        if !goes_on {
            vcpu.events.bump(Event::ExitUser);
            return Ok(Ended::Exit);
        }
    }
}

/// Opens a view, so that the guest can be in it when it tries again, or says in the run page why not.
#[cold]
fn open_view(vcpu: &Vcpu, view: u64, by_guest: bool) -> bool {
    let Err(cause) = vcpu.vm.memory.open_view(view, by_guest) else {
        return true;
    };
    no_view(vcpu, view, cause);
    false
}

/// Says in the run page that the guest cannot be in a view.
#[cold]
fn no_view(vcpu: &Vcpu, view: u64, cause: ViewCause) {
    vcpu.page.set_exit(&Exit {
        reason: ExitReason::View as u32,
        info: view,
        code: cause as u64,
        ..Exit::default()
    });
}

/// Gives the guest the memory that it touched in a view, or says in the run page why not.
fn resolve(vcpu: &Vcpu, view: u64, fault: &GuestFault) -> bool {
    let memory = &vcpu.vm.memory;
    let Err(cause) = memory.fault(view, Gpa(fault.gpa), fault.access) else {
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
fn resolve_inside(vcpu: &Vcpu, vmcs: &mut Vmcs<'_>, fault: &GuestFault, irq: &IrqOff) -> bool {
    let vm = &*vcpu.vm;
    let view = match vm.memory.views() {
        None => Some(0),
        // The guest may have gone to another one since it was entered.
        Some(views) => views.view_of(vmcs.eptp()),
    };
    let Some(view) = view else { return false };
    if !vm
        .memory
        .fault_inside(irq, view, Gpa(fault.gpa), fault.access)
    {
        return false;
    }
    if vm.hardware.mitigations.contains(Mitigations::L1D_FLUSH) {
        // More than registers was touched.
        mitigations::flush_l1d();
    }
    // SAFETY: This is in a window. What fails here fails again, and is reported, in the next one.
    unsafe { flush_stale(vcpu, irq) }.is_ok()
}

/// One window; the first one in which the guest runs takes from the run page what there is to `take`.
#[inline(always)]
fn window(vcpu: &Vcpu, state: &mut State, take: &mut Take) -> Result<Leave> {
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
    let views = vm.memory.views();
    if *take == Take::All {
        state.view = vcpu.page.get(Word::VIEW);
    }
    let view = state.view;
    let mut entered = state.fixed.eptp;
    if let Some(views) = views {
        let serial = views.serial(view);
        if *take == Take::All {
            state.view_serial = serial;
        } else if state.view_serial != serial {
            // Another one may have its number.
            return Ok(Leave::Gone);
        }
        let Some(eptp) = views.eptp(view) else {
            return Ok(state.wants.view(view, false));
        };
        entered = eptp;
        vmcs.set_eptp(eptp);
        vmcs.set_eptp_list(views.list(), &hardware.controls);
    } else if view != 0 {
        return Ok(state.wants.view(view, false));
    }
    if *take != Take::Nothing {
        vmcs.load_regs(&vcpu.page)?;
        let kernel_gs_base = vcpu.page.get(Word::KERNEL_GS_BASE);
        if kernel_gs_base != state.msrs.kernel_gs_base {
            state.msrs.kernel_gs_base = vmcs::canonical(kernel_gs_base)?;
        }
        *take = Take::Nothing;
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

    let leave = stay(vcpu, &mut vmcs, &mut state.wants, &irq);

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
    if let Some(views) = views {
        let eptp = vmcs.eptp();
        if eptp != entered {
            // Views that go away are found until all CPUs have left them.
            state.view = views.view_of(eptp).ok_or(EIO)?;
            state.view_serial = views.serial(state.view);
        }
        vcpu.page.set(Word::VIEW, state.view);
    }
    Ok(leave)
}

/// Drops what this CPU may have cached of the micro-VM's memory, if that must go before it enters.
///
/// # Safety
///
/// A window must be open.
#[inline(always)]
unsafe fn flush_stale(vcpu: &Vcpu, irq: &IrqOff) -> Result {
    let memory = &vcpu.vm.memory;
    if let Some(generation) = memory.stale(irq.cpu()) {
        // Views are only where there is the other type.
        let features = &vcpu.vm.hardware.controls.features;
        let one = features.invept_single && memory.views().is_none();
        vcpu.events.bump(Event::Invept);
        // SAFETY: By the caller's promise; the type is one that the CPU has.
        unsafe { insn::invept(one.then_some(memory.eptp())) }.map_err(|_| EIO)?;
        memory.set_flushed(irq.cpu(), generation);
    }
    Ok(())
}

/// The guest runs, again and again as long as its exits can be handled here.
#[inline(always)]
fn stay(vcpu: &Vcpu, vmcs: &mut Vmcs<'_>, wants: &mut Wants, irq: &IrqOff) -> Leave {
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
        match exits::handle(vcpu, vmcs, wants, irq) {
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
