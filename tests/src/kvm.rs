// SPDX-License-Identifier: GPL-2.0

//! KVM's ioctl interface, as much of `linux/kvm.h` as tests and benchmarks use.

/// The ioctls.
#[allow(missing_docs)]
pub mod cmd {
    pub const CREATE_VM: u32 = 0xae01;
    pub const GET_VCPU_MMAP_SIZE: u32 = 0xae04;
    pub const GET_SUPPORTED_CPUID: u32 = 0xc008_ae05;
    pub const CREATE_VCPU: u32 = 0xae41;
    pub const SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
    pub const RUN: u32 = 0xae80;
    pub const GET_REGS: u32 = 0x8090_ae81;
    pub const SET_REGS: u32 = 0x4090_ae82;
    pub const GET_SREGS: u32 = 0x8138_ae83;
    pub const SET_SREGS: u32 = 0x4138_ae84;
    pub const SET_MSRS: u32 = 0x4008_ae89;
    pub const SET_CPUID2: u32 = 0x4008_ae90;
    pub const GET_STATS_FD: u32 = 0xaece;
}

/// `KVM_EXIT_IO`.
pub const EXIT_IO: u32 = 2;

/// In the order of `struct kvm_regs`: rax to rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags.
pub type Regs = [u64; 18];
/// The number of RSI.
pub const RSI: usize = 4;
/// The number of RDI.
pub const RDI: usize = 5;
/// The number of RSP.
pub const RSP: usize = 6;
/// The number of RIP.
pub const RIP: usize = 16;
/// The number of RFLAGS.
pub const RFLAGS: usize = 17;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Region {
    pub slot: u32,
    pub flags: u32,
    pub gpa: u64,
    pub len: u64,
    pub address: u64,
}

/// `struct kvm_segment`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Segment {
    pub base: u64,
    pub limit: u32,
    pub selector: u16,
    pub kind: u8,
    pub present: u8,
    pub dpl: u8,
    pub db: u8,
    pub s: u8,
    pub l: u8,
    pub g: u8,
    pub rest: [u8; 3],
}

/// `struct kvm_sregs`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
#[allow(missing_docs)]
pub struct Sregs {
    /// CS, DS, ES, FS, GS, SS, TR, LDT.
    pub segments: [Segment; 8],
    /// GDT, IDT.
    pub tables: [[u64; 2]; 2],
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub cr8: u64,
    pub efer: u64,
    pub apic_base: u64,
    pub interrupts: [u64; 4],
}

const _: () = assert!(size_of::<Sregs>() == 0x138 && size_of::<Region>() == 32);

/// `struct kvm_cpuid2`, with room for entries of 40 bytes.
#[repr(C)]
#[allow(missing_docs)]
pub struct Cpuid {
    pub count: u32,
    pub padding: u32,
    pub entries: [[u32; 10]; 256],
}

impl Cpuid {
    /// One with room for all entries.
    pub fn empty() -> Box<Self> {
        Box::new(Self {
            count: 256,
            padding: 0,
            entries: [[0; 10]; 256],
        })
    }
}
