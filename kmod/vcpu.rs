// SPDX-License-Identifier: GPL-2.0

//! A vCPU: its file, its run page, and what it keeps between runs.

use core::sync::atomic::{
    AtomicBool,
    Ordering::Relaxed, //
};

use kernel::{
    bindings,
    module::this_module,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    },
    types::ForeignOwnable, //
};

use uvisor_uapi::{
    self as uapi,
    Exit,
    ExitReason,
    Regs,
    RunFlags,
    RunPage,
    VcpuCreate, //
};

use crate::{
    events::Counters,
    host::GuestMsrs,
    sys::{
        cpu,
        file,
        fpu::FpuArea,
        frame::Frame,
        irq,
        vma, //
    },
    vm::{
        FileOperations,
        Vm, //
    },
    vmcs::{
        Fixed,
        VmcsCache,
        VmcsRegion,
        VmcsRegs, //
    },
    LocalModule, //
};

/// VPIDs are taken from the top: KVM takes its from the bottom. A clash would do no harm, since
/// translations are tagged with the EPT root as well.
const HIGHEST_VPID: u16 = u16::MAX;

/// RFLAGS that a guest may have: CF, PF, AF, ZF, SF, TF, DF, OF, AC, ID.
const RFLAGS_ALLOWED: u64 = 0x24_0dd5;
/// RFLAGS that are always set: bit 1, and IF, so that nothing can depend on it.
const RFLAGS_SET: u64 = 0x202;

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
    /// A [`RunPage`] that user space has mapped, and may change at any time.
    run_page: Frame,
    /// What RUN works on; locked for all of it.
    #[pin]
    state: Mutex<State>,
}

/// What RUN works on.
pub(crate) struct State {
    pub(crate) region: VmcsRegion,
    pub(crate) cache: VmcsCache,
    pub(crate) fixed: Fixed,
    pub(crate) msrs: GuestMsrs,
    pub(crate) fpu: FpuArea,
    pub(crate) regs: VmcsRegs,
    /// Where the kernel sees the run page.
    pub(crate) run_page: *mut RunPage,
    /// Whether the registers are user space's, and not yet in the VMCS.
    pub(crate) given: bool,
}

// SAFETY: `VmcsRegion` has a `Cell`, which only the holder of the lock reaches; the run page lives as
// long as the vCPU.
unsafe impl Send for State {}

#[pinned_drop]
impl PinnedDrop for Vcpu {
    fn drop(self: Pin<&mut Self>) {
        self.vm.remove_vcpu(self.number);
    }
}

/// Whether `address` is canonical in a guest, which has 4-level paging.
fn is_canonical(address: u64) -> bool {
    let sign = address >> 47;
    sign == 0 || sign == (1 << 17) - 1
}

/// Reads what of the registers the module must check, each word once, and checks it; `EINVAL` for
/// what no guest can have. The general registers may be anything.
///
/// # Safety
///
/// `regs` must be valid for reads. Somebody else may write it meanwhile.
unsafe fn read_regs(regs: *const Regs, msrs: &mut GuestMsrs) -> Result<VmcsRegs> {
    // SAFETY: By the caller's promise.
    let (given, kernel_gs_base) = unsafe {
        (
            VmcsRegs {
                rip: (&raw const (*regs).rip).read_volatile(),
                rsp: (&raw const (*regs).rsp).read_volatile(),
                rflags: (&raw const (*regs).rflags).read_volatile() & RFLAGS_ALLOWED | RFLAGS_SET,
                fs_base: (&raw const (*regs).fs_base).read_volatile(),
                gs_base: (&raw const (*regs).gs_base).read_volatile(),
                cpl: (&raw const (*regs).cpl).read_volatile(),
            },
            (&raw const (*regs).kernel_gs_base).read_volatile(),
        )
    };
    let addresses = [given.rip, given.fs_base, given.gs_base, kernel_gs_base];
    if !addresses.into_iter().all(is_canonical) || (given.cpl != 0 && given.cpl != 3) {
        return Err(EINVAL);
    }
    msrs.kernel_gs_base = kernel_gs_base;
    Ok(given)
}

/// Writes back what [`read_regs`] read.
///
/// # Safety
///
/// `regs` must be valid for writes. Somebody else may write it meanwhile.
unsafe fn write_regs(regs: *mut Regs, from: &VmcsRegs, msrs: &GuestMsrs) {
    // SAFETY: By the caller's promise.
    unsafe {
        (&raw mut (*regs).rip).write_volatile(from.rip);
        (&raw mut (*regs).rsp).write_volatile(from.rsp);
        (&raw mut (*regs).rflags).write_volatile(from.rflags);
        (&raw mut (*regs).fs_base).write_volatile(from.fs_base);
        (&raw mut (*regs).gs_base).write_volatile(from.gs_base);
        (&raw mut (*regs).kernel_gs_base).write_volatile(msrs.kernel_gs_base);
        (&raw mut (*regs).cpl).write_volatile(from.cpl);
    }
}

impl Vcpu {
    /// `VCPU_CREATE`: makes one and returns its file descriptor.
    pub(crate) fn create(vm: Arc<Vm>, create: &VcpuCreate) -> Result<isize> {
        let page_mask = uapi::PAGE_SIZE - 1;
        if create.cr3 & page_mask != 0
            || create.cr3 >> vm.hardware.gpa_bits != 0
            || !is_canonical(create.syscall_entry)
        {
            return Err(EINVAL);
        }
        let region = VmcsRegion::new(vm.hardware.controls.vmcs_revision)?;
        let fpu = FpuArea::new()?;
        let run_page = Frame::new(true)?;
        let (number, events) = vm.add_vcpu()?;
        // CAST: There are at most `MAX_VCPUS`.
        let vpid = HIGHEST_VPID - number as u16;
        let state = State {
            region,
            cache: VmcsCache::default(),
            fixed: Fixed {
                eptp: vm.memory.eptp(),
                cr3: create.cr3,
                vpid,
            },
            msrs: GuestMsrs {
                lstar: create.syscall_entry,
                // The upper half of the MSR is reserved.
                fmask: create.syscall_mask & 0xffff_ffff,
                kernel_gs_base: 0,
            },
            fpu,
            regs: VmcsRegs::default(),
            run_page: run_page.as_ptr().cast(),
            given: false,
        };
        let undo = vm.clone();
        let vcpu = Arc::pin_init(
            pin_init!(Self {
                vm,
                number,
                events,
                kicked: AtomicBool::new(false),
                run_page,
                state <- new_mutex!(state),
            }),
            GFP_KERNEL_ACCOUNT,
        )
        .inspect_err(|_| undo.remove_vcpu(number))?;
        // SAFETY: `FOPS` is the module's and treats the private data as an `Arc<Vcpu>`.
        unsafe { file::install(c"[uvisor-vcpu]", &FOPS.0, vcpu, |_| ()) }
    }

    /// The ioctls of the file.
    fn ioctl(&self, cmd: u32, arg: usize) -> Result<isize> {
        if cmd != uapi::RUN && cmd != uapi::KICK {
            return Err(ENOTTY);
        }
        if arg != 0 {
            return Err(EINVAL);
        }
        if cmd == uapi::RUN {
            self.run()?;
        } else {
            self.kick();
        }
        Ok(0)
    }

    /// `KICK`.
    fn kick(&self) {
        self.kicked.store(true, Relaxed);
        for cpu in self.vm.hardware.cpus_inside(self.vm.id) {
            irq::kick(cpu);
        }
    }

    /// `RUN`.
    fn run(&self) -> Result {
        let mut state = self.state.try_lock().ok_or(EBUSY)?;
        let state = &mut *state;
        // A VM exit can load null selectors into FS and GS, and no others of user space's.
        if cpu::fs() | cpu::gs() != 0 {
            return Err(EINVAL);
        }
        let page = state.run_page;
        // SAFETY: The page is ours and as large as the structure, whose fields are integers; user
        // space may write it meanwhile, so each is read once.
        let (immediate_exit, flags) = unsafe {
            (
                (&raw const (*page).immediate_exit).read_volatile(),
                (&raw const (*page).flags).read_volatile(),
            )
        };
        let flags = RunFlags::from_bits(flags).ok_or(EINVAL)?;
        // SAFETY: As above.
        state.regs = unsafe { read_regs(&raw const (*page).regs, &mut state.msrs) }?;
        if flags.contains(RunFlags::RESET_FPU) {
            state.fpu.reset();
            // SAFETY: As above.
            unsafe { (&raw mut (*page).flags).write_volatile(0) };
        }
        let result = if immediate_exit != 0 {
            Err(EINTR)
        } else {
            crate::run::run(self, state)
        };
        let failed = Exit {
            reason: if matches!(result, Err(e) if e == EINTR) {
                ExitReason::Interrupted as u32
            } else {
                ExitReason::None as u32
            },
            ..Exit::default()
        };
        let exit = result.as_ref().unwrap_or(&failed);
        // SAFETY: As above.
        unsafe {
            write_regs(&raw mut (*page).regs, &state.regs, &state.msrs);
            copy_words(exit, &raw mut (*page).exit);
        }
        if exit.reason == ExitReason::EntryFailed as u32 {
            return Err(EIO);
        }
        result.map(|_| ())
    }
}

/// Copies a structure of the run page word by word: each word once, and without the string
/// instruction that the kernel's `memcpy` is, which is slow for so few bytes.
///
/// # Safety
///
/// Both must be valid for 8-byte accesses, and `T` be made of integers without padding, its size a
/// multiple of 8. Somebody else may write one of them meanwhile.
#[inline(always)]
unsafe fn copy_words<T>(from: *const T, to: *mut T) {
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: By the caller's promise, and within the structure.
        unsafe { to.add(word).write_volatile(from.add(word).read_volatile()) };
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
    unsafe { vma::insert_run_page(vma, &vcpu.run_page) }.map_or_else(|e| e.to_errno(), |()| 0)
}
