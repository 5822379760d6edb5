// SPDX-License-Identifier: GPL-2.0

//! A vCPU: its file, its run page, and what it keeps between runs.

use core::sync::atomic::{
    AtomicBool,
    Ordering::Relaxed, //
};

use kernel::{
    bindings,
    interrupt::local_interrupt_disable,
    module::this_module,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::ForeignOwnable, //
};

use uvisor_uapi::{
    self as uapi,
    ExitReason,
    RunFlags,
    VcpuCreate,
    VcpuFlags, //
};

use crate::{
    events::Counters,
    exclusive::Exclusive,
    host::GuestMsrs,
    page::{
        RunPage,
        REGS, //
    },
    run::{
        self,
        Ended,
        Wants, //
    },
    sys::{
        cpu,
        file,
        fpu::FpuArea,
        irq,
        vma, //
    },
    vm::{
        FileOperations,
        Vm, //
    },
    vmcs::{
        self,
        Fixed,
        VmcsCache,
        VmcsRegion, //
    },
    LocalModule, //
};

/// VPIDs are taken from the top: KVM takes its from the bottom. A clash would do no harm, since
/// translations are tagged with the EPT root as well.
const HIGHEST_VPID: u16 = u16::MAX;

/// A vCPU.
#[pin_data(PinnedDrop)]
pub(crate) struct Vcpu {
    pub(crate) vm: Arc<Vm>,
    /// Its number in the micro-VM.
    number: usize,
    /// What happened to it.
    pub(crate) events: Arc<Counters>,
    /// Set by KICK, cleared by the RUN that it ended.
    pub(crate) kicked: AtomicBool,
    /// What user space shares with it.
    pub(crate) page: RunPage,
    /// What it was made from, and is reset to.
    source: Option<Snapshot>,
    /// What RUN works on.
    state: Exclusive<State>,
}

/// The state of a vCPU when another was made from it.
struct Snapshot {
    regs: [u64; REGS],
    msrs: GuestMsrs,
    fpu: FpuArea,
    cr3: u64,
}

impl Snapshot {
    /// That of `vcpu`, which must not run.
    fn of(vcpu: &Vcpu) -> Result<Self> {
        let mut fpu = FpuArea::new()?;
        // Others may be copying it as well, which does not take long, as none of them loses its CPU in the
        // midst of it.
        for _ in 0..10_000 {
            let _off = local_interrupt_disable();
            if let Some(state) = vcpu.state.try_use() {
                fpu.copy_from(&state.fpu);
                return Ok(Self {
                    regs: vcpu.page.all_regs(),
                    msrs: state.msrs,
                    fpu,
                    cr3: state.fixed.cr3,
                });
            }
            core::hint::spin_loop();
        }
        Err(EBUSY)
    }
}

/// What RUN works on.
pub(crate) struct State {
    pub(crate) region: VmcsRegion,
    pub(crate) cache: VmcsCache,
    pub(crate) fixed: Fixed,
    pub(crate) msrs: GuestMsrs,
    pub(crate) fpu: FpuArea,
    /// What the last window was left for.
    pub(crate) wants: Wants,
    /// The view that it is in.
    pub(crate) view: u64,
    /// Which one that is, of all that had this number.
    pub(crate) view_serial: u64,
}

// SAFETY: `VmcsRegion` has a `Cell`, which only whoever uses the state reaches.
unsafe impl Send for State {}

#[pinned_drop]
impl PinnedDrop for Vcpu {
    fn drop(self: Pin<&mut Self>) {
        self.vm.remove_vcpu(self.number);
    }
}

impl Vcpu {
    /// `VCPU_CREATE`: makes one and returns its file descriptor.
    pub(crate) fn create(vm: Arc<Vm>, create: &VcpuCreate) -> Result<isize> {
        if vm.memory.is_frozen() {
            return Err(EROFS);
        }
        let source = Self::source(create)?;
        let (cr3, mut msrs, fpu) = match &source {
            Some(source) => {
                let mut msrs = source.msrs;
                if create.syscall_entry != 0 {
                    msrs.lstar = create.syscall_entry;
                }
                (source.cr3, msrs, source.fpu.try_clone()?)
            }
            None => {
                let msrs = GuestMsrs {
                    lstar: create.syscall_entry,
                    // The upper half of the MSR is reserved.
                    fmask: create.syscall_mask & 0xffff_ffff,
                    kernel_gs_base: 0,
                };
                (create.cr3, msrs, FpuArea::new()?)
            }
        };
        let page_mask = uapi::PAGE_SIZE - 1;
        if cr3 & page_mask != 0
            || cr3 >> vm.hardware.gpa_bits != 0
            || vmcs::canonical(msrs.lstar).is_err()
        {
            return Err(EINVAL);
        }
        // It comes with the other registers.
        msrs.kernel_gs_base = 0;
        let region = VmcsRegion::new(vm.hardware.controls.vmcs_revision)?;
        let page = RunPage::new()?;
        if let Some(source) = &source {
            page.set_all_regs(&source.regs);
        }
        let (number, events) = vm.add_vcpu()?;
        // CAST: There are at most `MAX_VCPUS`.
        let vpid = HIGHEST_VPID - number as u16;
        let state = State {
            region,
            cache: VmcsCache::default(),
            fixed: Fixed {
                eptp: vm.memory.eptp(),
                cr3,
                vpid,
                no_tsc: vm.no_tsc,
            },
            msrs,
            fpu,
            wants: Wants::NOTHING,
            view: 0,
            view_serial: 0,
        };
        let undo = vm.clone();
        let vcpu = Arc::pin_init(
            pin_init!(Self {
                vm,
                number,
                events,
                kicked: AtomicBool::new(false),
                page,
                source,
                state: Exclusive::new(state),
            }),
            GFP_KERNEL_ACCOUNT,
        )
        .inspect_err(|_| undo.remove_vcpu(number))?;
        // SAFETY: `FOPS` is the module's and treats the private data as an `Arc<Vcpu>`.
        unsafe { file::install(c"[uvisor-vcpu]", &FOPS.0, vcpu, |_| ()) }
    }

    /// The state of the vCPU that `create` names, if it names one.
    fn source(create: &VcpuCreate) -> Result<Option<Snapshot>> {
        if create.reserved != 0 {
            return Err(EINVAL);
        }
        if create.flags & VcpuFlags::SOURCE.bits() == 0 {
            return if create.source == 0 {
                Ok(None)
            } else {
                Err(EINVAL)
            };
        }
        if create.cr3 | create.syscall_mask != 0 {
            return Err(EINVAL);
        }
        // SAFETY: Files with `FOPS` are made by `create` only, with an `Arc<Vcpu>`.
        let vcpu: Arc<Self> = unsafe { file::data_of(create.source, &FOPS.0) }?;
        Snapshot::of(&vcpu).map(Some)
    }

    /// The ioctls of the file.
    fn ioctl(&self, cmd: u32, arg: usize) -> Result<isize> {
        if cmd == uapi::RUN && arg == 0 {
            return self.run().map(|()| 0);
        }
        match cmd {
            uapi::RUN | uapi::KICK | uapi::VCPU_RESET if arg != 0 => Err(EINVAL),
            uapi::KICK => {
                self.kick();
                Ok(0)
            }
            uapi::VCPU_RESET => self.reset().map(|()| 0),
            _ => Err(ENOTTY),
        }
    }

    /// `VCPU_RESET`.
    fn reset(&self) -> Result {
        let source = self.source.as_ref().ok_or(EINVAL)?;
        // As in `Snapshot::of`.
        let _off = local_interrupt_disable();
        let mut state = self.state.try_use().ok_or(EBUSY)?;
        if self.vm.memory.is_frozen() {
            return Err(EROFS);
        }
        self.page.set_all_regs(&source.regs);
        self.page.set_reason(ExitReason::None);
        self.page.clear_flags();
        state.fpu.copy_from(&source.fpu);
        // What waits in the VMCS belongs to an instruction that was not the source's.
        state.cache = VmcsCache::default();
        state.region.refresh();
        Ok(())
    }

    /// `KICK`.
    fn kick(&self) {
        self.kicked.store(true, Relaxed);
        for cpu in self.vm.hardware.cpus_inside(self.vm.id) {
            irq::kick(cpu);
        }
    }

    /// `RUN`.
    #[inline(always)]
    fn run(&self) -> Result {
        let mut state = self.state.try_use().ok_or(EBUSY)?;
        // A VM exit can load null selectors into FS and GS, and no others of user space's.
        let result = if cpu::fs() | cpu::gs() != 0 {
            Err(EINVAL)
        } else if self.page.has_inputs() {
            self.take_inputs(&mut state)
        } else {
            Ok(())
        };
        match result.and_then(|()| run::run(self, &mut state)) {
            Ok(Ended::Exit) => Ok(()),
            Ok(Ended::Refused) => Err(EIO),
            Err(error) => {
                self.say(error);
                Err(error)
            }
        }
    }

    /// Does what user space wants before the guest runs.
    #[cold]
    fn take_inputs(&self, state: &mut State) -> Result {
        let (immediate_exit, flags) = self.page.take_inputs()?;
        if flags.contains(RunFlags::RESET_FPU) {
            state.fpu.reset();
        }
        if immediate_exit {
            Err(EINTR)
        } else {
            Ok(())
        }
    }

    /// Writes an exit for a RUN that failed.
    #[cold]
    fn say(&self, error: Error) {
        self.page.set_reason(if error == EINTR {
            ExitReason::Interrupted
        } else {
            ExitReason::None
        });
    }
}

/// The operations of a vCPU's file.
static FOPS: FileOperations = FileOperations(bindings::file_operations {
    owner: this_module::<LocalModule>().as_ptr(),
    release: Some(release),
    mmap: Some(mmap),
    unlocked_ioctl: Some(ioctl),
    compat_ioctl: bindings::compat_ptr_ioctl,
    llseek: Some(bindings::noop_llseek),
    ..pin_init::zeroed()
});

/// # Safety
///
/// Called by the VFS for a file that [`Vcpu::create`] made, when no descriptor is left.
unsafe extern "C" fn release(_: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: From `into_foreign` in `file::install`; this is the last use of the file.
    drop(unsafe { Arc::<Vcpu>::from_foreign((*file).private_data) });
    0
}

/// # Safety
///
/// Called by the VFS for a file that [`Vcpu::create`] made.
unsafe extern "C" fn ioctl(file: *mut bindings::file, cmd: c_uint, arg: c_ulong) -> c_long {
    // SAFETY: Set by `create`, and the file is alive.
    let vcpu: ArcBorrow<'_, Vcpu> = unsafe { Arc::<Vcpu>::borrow((*file).private_data) };
    // CAST: All are 64 bits.
    vcpu.ioctl(cmd, arg)
        .map_or_else(|e| e.to_errno() as c_long, |r| r as c_long)
}

/// # Safety
///
/// Called by the VFS for a file that [`Vcpu::create`] made.
unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: Set by `create`, and the file is alive.
    let vcpu = unsafe { Arc::<Vcpu>::borrow((*file).private_data) };
    // SAFETY: The kernel is setting `vma` up.
    unsafe { vma::insert_run_page(vma, vcpu.page.frame()) }.map_or_else(|e| e.to_errno(), |()| 0)
}
