// SPDX-License-Identifier: GPL-2.0

//! The exit reason, with the names that the manual gives in its appendix C.

use core::fmt;

/// The exit-reason field of the VMCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitReason(pub u32);

impl ExitReason {
    /// The shadow-stack token was left busy by the exit.
    const SHADOW_STACK_BUSY: u32 = 1 << 25;
    /// The instruction before took a bus lock.
    const BUS_LOCK: u32 = 1 << 26;
    /// The guest was in an SGX enclave.
    const ENCLAVE: u32 = 1 << 27;
    /// VM entry failed after it had begun to load the guest's state.
    const ENTRY_FAILED: u32 = 1 << 31;

    /// Why the guest was left, without the modifiers.
    pub const fn basic(self) -> BasicReason {
        BasicReason(self.0 as u16)
    }

    /// Whether it is `basic` without any modifier.
    pub const fn is_just(self, basic: BasicReason) -> bool {
        self.0 == basic.0 as u32
    }

    /// Whether the guest never ran: VM entry failed while it loaded the guest's state.
    pub const fn entry_failed(self) -> bool {
        self.0 & Self::ENTRY_FAILED != 0
    }

    /// Whether the guest was in an SGX enclave.
    pub const fn from_enclave(self) -> bool {
        self.0 & Self::ENCLAVE != 0
    }

    /// Whether the guest had taken a bus lock.
    pub const fn bus_lock(self) -> bool {
        self.0 & Self::BUS_LOCK != 0
    }

    /// Whether the exit left a shadow-stack token busy.
    pub const fn shadow_stack_busy(self) -> bool {
        self.0 & Self::SHADOW_STACK_BUSY != 0
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = if self.entry_failed() {
            " (VM entry failed)"
        } else {
            ""
        };
        write!(f, "{}{failed}", self.basic())
    }
}

/// Why the guest was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BasicReason(pub u16);

/// Makes the constants and their names from one table.
macro_rules! reasons {
    ($($constant:ident = $number:literal, $name:literal;)+) => {
        impl BasicReason {
            $(
                #[doc = concat!("Exit reason ", stringify!($number), ": ", $name, ".")]
                pub const $constant: Self = Self($number);
            )+

            /// All reasons that have a name, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$constant),+];

            /// The manual's name, or [`None`] for a number that it does not assign.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)+
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    EXCEPTION_OR_NMI = 0, "exception or NMI";
    EXTERNAL_INTERRUPT = 1, "external interrupt";
    TRIPLE_FAULT = 2, "triple fault";
    INIT = 3, "INIT signal";
    SIPI = 4, "start-up IPI";
    IO_SMI = 5, "I/O SMI";
    OTHER_SMI = 6, "other SMI";
    INTERRUPT_WINDOW = 7, "interrupt window";
    NMI_WINDOW = 8, "NMI window";
    TASK_SWITCH = 9, "task switch";
    CPUID = 10, "CPUID";
    GETSEC = 11, "GETSEC";
    HLT = 12, "HLT";
    INVD = 13, "INVD";
    INVLPG = 14, "INVLPG";
    RDPMC = 15, "RDPMC";
    RDTSC = 16, "RDTSC";
    RSM = 17, "RSM";
    VMCALL = 18, "VMCALL";
    VMCLEAR = 19, "VMCLEAR";
    VMLAUNCH = 20, "VMLAUNCH";
    VMPTRLD = 21, "VMPTRLD";
    VMPTRST = 22, "VMPTRST";
    VMREAD = 23, "VMREAD";
    VMRESUME = 24, "VMRESUME";
    VMWRITE = 25, "VMWRITE";
    VMXOFF = 26, "VMXOFF";
    VMXON = 27, "VMXON";
    CR_ACCESS = 28, "control-register access";
    MOV_DR = 29, "MOV DR";
    IO = 30, "I/O instruction";
    RDMSR = 31, "RDMSR";
    WRMSR = 32, "WRMSR";
    INVALID_GUEST_STATE = 33, "invalid guest state";
    MSR_LOADING = 34, "MSR loading";
    MWAIT = 36, "MWAIT";
    MONITOR_TRAP_FLAG = 37, "monitor trap flag";
    MONITOR = 39, "MONITOR";
    PAUSE = 40, "PAUSE";
    MACHINE_CHECK = 41, "machine check at VM entry";
    TPR_BELOW_THRESHOLD = 43, "TPR below threshold";
    APIC_ACCESS = 44, "APIC access";
    VIRTUALIZED_EOI = 45, "virtualized EOI";
    GDTR_IDTR = 46, "access to GDTR or IDTR";
    LDTR_TR = 47, "access to LDTR or TR";
    EPT_VIOLATION = 48, "EPT violation";
    EPT_MISCONFIGURATION = 49, "EPT misconfiguration";
    INVEPT = 50, "INVEPT";
    RDTSCP = 51, "RDTSCP";
    PREEMPTION_TIMER = 52, "VMX-preemption timer expired";
    INVVPID = 53, "INVVPID";
    WBINVD = 54, "WBINVD or WBNOINVD";
    XSETBV = 55, "XSETBV";
    APIC_WRITE = 56, "APIC write";
    RDRAND = 57, "RDRAND";
    INVPCID = 58, "INVPCID";
    VMFUNC = 59, "VMFUNC";
    ENCLS = 60, "ENCLS";
    RDSEED = 61, "RDSEED";
    PML_FULL = 62, "page-modification log full";
    XSAVES = 63, "XSAVES";
    XRSTORS = 64, "XRSTORS";
    PCONFIG = 65, "PCONFIG";
    SPP = 66, "SPP-related event";
    UMWAIT = 67, "UMWAIT";
    TPAUSE = 68, "TPAUSE";
    LOADIWKEY = 69, "LOADIWKEY";
    ENCLV = 70, "ENCLV";
    ENQCMD_PASID = 72, "ENQCMD PASID translation failure";
    ENQCMDS_PASID = 73, "ENQCMDS PASID translation failure";
    BUS_LOCK = 74, "bus lock";
    INSTRUCTION_TIMEOUT = 75, "instruction timeout";
    SEAMCALL = 76, "SEAMCALL";
    TDCALL = 77, "TDCALL";
    RDMSRLIST = 78, "RDMSRLIST";
    WRMSRLIST = 79, "WRMSRLIST";
    URDMSR = 80, "URDMSR";
    UWRMSR = 81, "UWRMSR";
    RDMSR_IMMEDIATE = 84, "RDMSR with an immediate";
    WRMSRNS_IMMEDIATE = 85, "WRMSRNS with an immediate";
}

impl fmt::Display for BasicReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "exit reason {}", self.0),
        }
    }
}
