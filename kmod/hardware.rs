// SPDX-License-Identifier: GPL-2.0

//! What was found out about this machine when the module was loaded, and what each CPU needs.

use core::{
    cell::UnsafeCell,
    sync::atomic::{
        fence,
        AtomicU64,
        Ordering::{
            Relaxed,
            Release,
            SeqCst, //
        }, //
    }, //
};

use kernel::{
    cpu::nr_cpu_ids,
    prelude::*,
    sync::Arc, //
};

use uvisor_uapi::{
    Features,
    Mitigations, //
};
use uvisor_vmx::{
    CapabilityMsrs,
    Controls,
    CpuFeatures, //
};

use crate::{
    cpuid::CpuidTable,
    host::SyscallMsrs,
    mitigations,
    sys::{
        cpu,
        fpu::{
            FpuArea,
            FpuConfig, //
        },
        frame::Frame,
        irq::{
            self,
            IrqOff,
            Stretch, //
        }, //
    }, //
};

/// The widest guest-physical address in bits: what one page of 1 GiB entries maps.
const GPA_BITS: u32 = 39;

/// One machine, as found at load.
pub(crate) struct Hardware {
    /// The controls that every vCPU runs with.
    pub(crate) controls: Controls,
    /// How extended state is switched.
    pub(crate) fpu: FpuConfig,
    /// What CPUID says in a guest.
    pub(crate) cpuid: CpuidTable,
    /// What is done against speculation.
    pub(crate) mitigations: Mitigations,
    /// How many bits a guest-physical address has.
    pub(crate) gpa_bits: u32,
    /// The guest uses 1 GiB pages.
    guest_1g: bool,
    /// The system-call MSRs as the kernel has them on every CPU.
    pub(crate) syscall: SyscallMsrs,
    /// What the preemption timer counts down from: a millisecond.
    pub(crate) timer: u32,
    /// VMXON would stop a trace of Intel PT.
    pub(crate) has_rtit: bool,
    /// By CPU number.
    cpus: KVec<Cpu>,
    /// The CPU has IA32_PEBS_ENABLE.
    pub(crate) has_pebs: bool,
    /// How many micro-VMs exist.
    pub(crate) vms: AtomicU64,
    /// The pages that micro-VMs hold: frames of their own and tables.
    pub(crate) pages: AtomicU64,
    /// The last identity given to a micro-VM; 0 is nobody's.
    last_id: AtomicU64,
}

impl Hardware {
    /// Checks that micro-VMs can run here, with one line in the log if not.
    pub(crate) fn probe() -> Result<Arc<Self>> {
        if !cpu::has_vmx() {
            pr_err!("no VT-x: the CPU lacks it, or firmware turned it off; enable \"Intel Virtualization Technology\" in the firmware setup\n");
            return Err(ENODEV);
        }
        if cpu::has_fred() {
            pr_err!(
                "the kernel uses FRED, with which NMIs cannot be handed over; boot with fred=off\n"
            );
            return Err(EOPNOTSUPP);
        }
        if cpu::is_confidential_guest() {
            pr_err!("this machine is itself a confidential guest (SEV or TDX), whose memory a micro-VM cannot use; run uvisor on its host\n");
            return Err(EOPNOTSUPP);
        }
        let fpu = FpuConfig::new().inspect_err(|_| {
            pr_err!("the kernel does not use XSAVE; boot without noxsave\n");
        })?;
        let Some(msrs) = CapabilityMsrs::read(cpu::rdmsr_safe) else {
            pr_err!(
                "the VMX capability MSRs cannot be read; the hypervisor below must pass them on\n"
            );
            return Err(ENODEV);
        };
        if has_enlightened_vmcs() {
            pr_err!(
                "this machine is a guest of Hyper-V with enlightened VMCS, where VMX cannot be shared with KVM; run uvisor on its host, or turn that off for this machine\n"
            );
            return Err(EOPNOTSUPP);
        }
        let features = CpuFeatures {
            // They would tell the task which CPU it is on, or what a KVM guest left there.
            rdtscp: false,
            ..CpuFeatures::read(cpu::cpuid, cpu::rdmsr_safe)
        };
        let controls = match uvisor_vmx::negotiate(&msrs, &features) {
            Ok(controls) => controls,
            Err(refusal) => {
                pr_err!("{}\n", format_args!("{refusal}"));
                return Err(ENODEV);
            }
        };
        let syscall = SyscallMsrs::of_kernel().inspect_err(|_| {
            pr_err!(
                "KVM guests leave no time to read the kernel's own MSRs; stop them and try again\n"
            );
        })?;
        let mitigations = mitigations::choose().inspect_err(|_| {
            pr_err!("the CPU has the L1TF bug and no L1D_FLUSH to contain it; update its microcode, or accept the risk of all such bugs with mitigations=off\n");
        })?;

        let mut cpus = KVec::new();
        for _ in 0..nr_cpu_ids() {
            cpus.push(Cpu::new(controls.vmcs_revision)?, GFP_KERNEL)?;
        }
        let gpa_bits = u32::from(features.phys_bits).min(GPA_BITS);
        Ok(Arc::new(
            Self {
                fpu,
                cpuid: CpuidTable::new(fpu.guest_xcr0, &controls)?,
                mitigations,
                syscall,
                gpa_bits,
                guest_1g: features.page_1g,
                has_rtit: features.intel_pt && !controls.features.pt_in_vmx,
                timer: cpu::tsc_khz() >> controls.preemption_timer_shift,
                has_pebs: cpu::has_pebs(),
                controls,
                cpus,
                vms: AtomicU64::new(0),
                pages: AtomicU64::new(0),
                last_id: AtomicU64::new(0),
            },
            GFP_KERNEL,
        )?)
    }

    /// An identity for a new micro-VM, never given before.
    pub(crate) fn new_id(&self) -> u64 {
        self.last_id.fetch_add(1, Relaxed) + 1
    }

    /// How many CPUs there can be.
    pub(crate) fn cpu_count(&self) -> usize {
        self.cpus.len()
    }

    /// This CPU's part.
    pub(crate) fn this_cpu(&self, irq: &IrqOff) -> Result<&Cpu> {
        self.cpus.get(irq.cpu()).ok_or(ENXIO)
    }

    /// Waits until no CPU is in a window of micro-VM `id` that began before the call; returns how
    /// many had to be interrupted.
    pub(crate) fn leave_windows(&self, id: u64) -> u64 {
        let mut kicked = 0;
        for cpu in self.cpus_inside(id) {
            irq::sync(cpu);
            kicked += 1;
        }
        kicked
    }

    /// The CPUs that are in a window of micro-VM `id`; whoever comes later sees what the caller wrote.
    pub(crate) fn cpus_inside(&self, id: u64) -> impl Iterator<Item = usize> + '_ {
        // Pairs with the barrier in `Cpu::enter`: either that CPU sees what the caller wrote, or we
        // see that it is inside.
        fence(SeqCst);
        let inside = move |cpu: &Cpu| cpu.running.load(Relaxed) == id;
        let numbered = self.cpus.iter().enumerate();
        numbered.filter_map(move |(number, cpu)| inside(cpu).then_some(number))
    }

    /// What the machine offers, as user space is told.
    pub(crate) fn features(&self) -> Features {
        let f = &self.controls.features;
        let mut features = Features::empty();
        features.set(Features::EXEC_ONLY, f.exec_only);
        features.set(Features::EPT_2M, f.ept_2m);
        features.set(Features::EPT_1G, f.ept_1g);
        features.set(Features::EPT_AD, f.ept_ad);
        features.set(Features::VMFUNC, f.vmfunc && f.invept_all);
        features.set(Features::VPID, f.vpid);
        features.set(Features::PREEMPTION_TIMER, f.preemption_timer);
        features.set(
            Features::BORROWED,
            cpu::cr4() & crate::window::CR4_VMXE != 0,
        );
        features.set(Features::GUEST_1G, self.guest_1g);
        features
    }
}

/// Whether this is a guest of Hyper-V in which KVM would use enlightened VMCSs: with those loaded,
/// VMLAUNCH enters KVM's guest whatever VMPTRLD made current.
fn has_enlightened_vmcs() -> bool {
    const VENDOR: [u32; 3] = [
        u32::from_le_bytes(*b"Micr"),
        u32::from_le_bytes(*b"osof"),
        u32::from_le_bytes(*b"t Hv"),
    ];
    const HYPERVISOR: u32 = 1 << 31;
    const ENLIGHTENED_VMCS: u32 = 1 << 14;
    cpu::cpuid(1, 0)[2] & HYPERVISOR != 0
        && cpu::cpuid(0x4000_0000, 0)[1..] == VENDOR
        && cpu::cpuid(0x4000_0004, 0)[0] & ENLIGHTENED_VMCS != 0
}

/// What one CPU needs to run micro-VMs.
pub(crate) struct Cpu {
    /// The VMXON region, for when VMX is off here.
    pub(crate) vmxon: Frame,
    /// The micro-VM in whose window the CPU is, or 0.
    running: AtomicU64,
    /// Touched only by this CPU with interrupts off.
    local: UnsafeCell<Local>,
}

/// What only the CPU itself touches.
pub(crate) struct Local {
    /// The micro-VM that ran here last, whose branch predictions may linger, and in which stretch.
    pub(crate) last: Option<(u64, Stretch)>,
    /// Registers that the kernel never changes after it brought the CPU up.
    pub(crate) constants: Option<crate::host::Constants>,
    /// The host's extended state while a guest runs here.
    pub(crate) fpu: FpuArea,
}

// SAFETY: `running` is atomic; `local` is reached through `Cpu::local` only, on the CPU itself with
// interrupts off; the frame does not change.
unsafe impl Sync for Cpu {}
// SAFETY: Nothing in it belongs to a thread.
unsafe impl Send for Cpu {}

impl Cpu {
    /// With a VMXON region of `revision`.
    fn new(revision: u32) -> Result<Self> {
        let vmxon = Frame::new(true)?;
        // SAFETY: The page is ours; its first four bytes are the revision (SDM 26.11.5).
        unsafe { vmxon.as_ptr().cast::<u32>().write(revision) };
        Ok(Self {
            vmxon,
            running: AtomicU64::new(0),
            local: UnsafeCell::new(Local {
                last: None,
                constants: None,
                fpu: FpuArea::new()?,
            }),
        })
    }

    /// The CPU's own part.
    ///
    /// # Safety
    ///
    /// The CPU must be the one on which `irq` was made, and the caller hold no other reference from
    /// this function.
    #[expect(clippy::mut_from_ref)]
    pub(crate) unsafe fn local<'a>(&'a self, _irq: &'a IrqOff) -> &'a mut Local {
        // SAFETY: Interrupts are off, so nobody else on this CPU is here; no other CPU comes here.
        unsafe { &mut *self.local.get() }
    }

    /// Says that a window of micro-VM `id` is open here: reads of flush generations come after.
    pub(crate) fn enter(&self, id: u64) {
        // A full barrier, as XCHG is, which pairs with the one in `Hardware::cpus_inside`.
        self.running.swap(id, SeqCst);
    }

    /// Says that the window is closed.
    pub(crate) fn leave(&self) {
        self.running.store(0, Release);
    }
}
