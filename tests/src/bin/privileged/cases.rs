// SPDX-License-Identifier: GPL-2.0

//! Instructions, and what each must lead to in ring 3 and in ring 0.

use uvisor_tests::code;

/// What an instruction must lead to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted {
    /// Nothing: the guest goes on to its hypercall.
    Continue,
    /// An exception with its error code.
    Exception(u64, u64),
    /// An exception with any error code.
    Vector(u64),
    /// An exit with the SDM's number.
    Exit(u64),
    /// The exit, or #UD where the CPU does not have the instruction.
    ExitOrUd(u64),
    /// The exit, or #GP(0), whichever the CPU checks first.
    ExitOrGp(u64),
    /// Nothing, or #GP(0) where the CPU has user-mode instruction prevention.
    ContinueOrGp,
    /// #UD or #GP(0).
    UdOrGp,
    /// A hypercall.
    Hypercall,
    /// HLT.
    Halt,
    /// That, or #UD where the CPU does not have this bit of CPUID leaf 7, EBX.
    With(u32, &'static Wanted),
}
use Wanted::*;

impl Wanted {
    /// What is wanted on this CPU.
    pub(crate) fn here(self) -> Self {
        match self {
            With(feature, _) if !has(feature) => UD,
            With(_, wanted) => *wanted,
            other => other,
        }
    }
}

/// Bits of CPUID leaf 7, EBX.
const FSGSBASE: u32 = 1 << 0;
pub(crate) const SMEP: u32 = 1 << 7;
const SMAP: u32 = 1 << 20;

/// Whether the CPU has a bit of CPUID leaf 7, EBX.
pub(crate) fn has(feature: u32) -> bool {
    // SAFETY: Every CPU with VT-x and XSAVE, which the module needs, has this leaf.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
    leaf.ebx & feature != 0
}

const UD: Wanted = Exception(6, 0);
const GP: Wanted = Exception(13, 0);

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    pub(crate) code: fn() -> &'static [u8],
    pub(crate) ring3: Wanted,
    pub(crate) ring0: Wanted,
}

/// The data page, as the code sees it: zeros.
macro_rules! cases {
    ($($name:ident [$($line:literal),+] $ring3:expr, $ring0:expr;)+) => {
        $(code! { $name: $($line,)+ "vmcall", "hlt" })+
        pub(crate) const CASES: &[Case] = &[$(Case {
            name: stringify!($name),
            text: concat!($($line, "; "),+),
            code: $name,
            ring3: $ring3,
            ring0: $ring0,
        }),+];
    };
}

cases! {
    hlt_ ["hlt"] GP, Halt;
    in_ ["in $0x60, %al"] GP, Exit(30);
    in_dx ["mov $0xcf8, %edx", "in %dx, %eax"] GP, Exit(30);
    out_ ["out %al, $0x80"] GP, Exit(30);
    out_reset ["mov $6, %al", "mov $0xcf9, %edx", "out %al, %dx"] GP, Exit(30);
    insb_ ["mov $0x60, %edx", "mov $0x500000, %edi", "insb"] GP, Exit(30);
    outsb_ ["mov $0x80, %edx", "mov $0x500000, %esi", "outsb"] GP, Exit(30);
    cli_ ["cli"] GP, Continue;
    sti_ ["sti"] GP, Continue;
    lgdt_ ["lgdt 0x500000"] GP, Exit(46);
    lidt_ ["lidt 0x500000"] GP, Exit(46);
    sgdt_ ["sgdt 0x500000"] ExitOrGp(46), Exit(46);
    sidt_ ["sidt 0x500000"] ExitOrGp(46), Exit(46);
    lldt_ ["xor %eax, %eax", "lldt %ax"] GP, Exit(47);
    ltr_ ["mov $0x40, %eax", "ltr %ax"] GP, Exit(47);
    sldt_ ["sldt %eax"] ExitOrGp(47), Exit(47);
    str_ ["str %eax"] ExitOrGp(47), Exit(47);
    smsw_ ["smsw %eax"] ContinueOrGp, Continue;
    mov_from_cr0 ["mov %cr0, %rax"] GP, Continue;
    mov_to_cr0 ["xor %eax, %eax", "mov %rax, %cr0"] GP, Exit(28);
    clear_wp ["mov %cr0, %rax", "btr $16, %rax", "mov %rax, %cr0"] GP, Exit(28);
    mov_from_cr2 ["mov $5, %eax", "mov %cr2, %rax"] GP, Continue;
    mov_to_cr2 ["mov %rax, %cr2"] GP, Continue;
    mov_from_cr3 ["mov %cr3, %rax"] GP, Exit(28);
    mov_to_cr3 ["mov $0x100000, %eax", "mov %rax, %cr3"] GP, Exit(28);
    mov_from_cr4 ["mov %cr4, %rax"] GP, Continue;
    clear_cr4 ["xor %eax, %eax", "mov %rax, %cr4"] GP, Exit(28);
    clear_smep ["mov %cr4, %rax", "btc $20, %rax", "mov %rax, %cr4"] GP, Exit(28);
    set_vmxe ["mov %cr4, %rax", "bts $13, %rax", "mov %rax, %cr4"] GP, Exit(28);
    mov_from_cr8 ["mov %cr8, %rax"] GP, Exit(28);
    mov_to_cr8 ["xor %eax, %eax", "mov %rax, %cr8"] GP, Exit(28);
    mov_from_dr7 ["mov %dr7, %rax"] ExitOrGp(29), Exit(29);
    mov_to_dr7 ["mov $0x401, %eax", "mov %rax, %dr7"] ExitOrGp(29), Exit(29);
    mov_to_dr0 ["mov %rax, %dr0"] ExitOrGp(29), Exit(29);
    clts_ ["clts"] GP, Continue;
    lmsw_ ["xor %eax, %eax", "bts $3, %eax", "lmsw %ax"] GP, Exit(28);
    rdmsr_lstar ["mov $0xc0000082, %ecx", "rdmsr"] GP, Exit(31);
    rdmsr_gs ["mov $0xc0000101, %ecx", "rdmsr"] GP, Exit(31);
    rdmsr_tsc ["mov $0x10, %ecx", "rdmsr"] GP, Exit(31);
    rdmsr_none ["mov $0x12345678, %ecx", "rdmsr"] GP, Exit(31);
    wrmsr_star ["mov $0xc0000081, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_lstar ["mov $0xc0000082, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_efer ["mov $0xc0000080, %ecx", "xor %eax, %eax", "wrmsr"] GP, Exit(32);
    wrmsr_gs ["mov $0xc0000101, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_kernel_gs ["mov $0xc0000102, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_apic_base ["mov $0x1b, %ecx", "xor %eax, %eax", "wrmsr"] GP, Exit(32);
    wrmsr_spec_ctrl ["mov $0x48, %ecx", "xor %eax, %eax", "wrmsr"] GP, Exit(32);
    wrmsr_tsc ["mov $0x10, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_pat ["mov $0x277, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_x2apic ["mov $0x830, %ecx", "wrmsr"] GP, Exit(32);
    wrmsr_debugctl ["mov $0x1d9, %ecx", "mov $1, %eax", "wrmsr"] GP, Exit(32);
    wrmsr_feature ["mov $0x3a, %ecx", "wrmsr"] GP, Exit(32);
    invd_ ["invd"] GP, Exit(13);
    wbinvd_ ["wbinvd"] GP, Exit(54);
    invlpg_ ["invlpg 0x500000"] GP, Exit(14);
    invpcid_ ["mov $2, %eax", "invpcid 0x500000, %rax"] UdOrGp, UD;
    rdpmc_ ["xor %ecx, %ecx", "rdpmc"] GP, Exit(15);
    xsetbv_ ["xor %ecx, %ecx", "xor %edx, %edx", "mov $3, %eax", "xsetbv"] ExitOrGp(55), Exit(55);
    monitor_ ["mov $0x500000, %eax", "xor %ecx, %ecx", "xor %edx, %edx", "monitor"] ExitOrUd(39), Exit(39);
    mwait_ ["xor %eax, %eax", "xor %ecx, %ecx", "mwait"] ExitOrUd(36), Exit(36);
    vmclear_ ["vmclear 0x500000"] Exit(19), Exit(19);
    vmlaunch_ ["vmlaunch"] Exit(20), Exit(20);
    vmptrld_ ["vmptrld 0x500000"] Exit(21), Exit(21);
    vmptrst_ ["vmptrst 0x500000"] Exit(22), Exit(22);
    vmread_ ["xor %eax, %eax", "vmread %rax, %rax"] Exit(23), Exit(23);
    vmresume_ ["vmresume"] Exit(24), Exit(24);
    vmwrite_ ["mov $0x6c16, %eax", "vmwrite %rax, %rax"] Exit(25), Exit(25);
    vmxoff_ ["vmxoff"] Exit(26), Exit(26);
    vmxon_ ["vmxon 0x500000"] Exit(27), Exit(27);
    invept_ ["mov $2, %eax", "invept 0x500000, %rax"] Exit(50), Exit(50);
    invvpid_ ["mov $2, %eax", "invvpid 0x500000, %rax"] Exit(53), Exit(53);
    vmfunc_ ["xor %eax, %eax", "xor %ecx, %ecx", "vmfunc"] UD, UD;
    vmcall_ ["vmcall"] Hypercall, Hypercall;
    getsec_ ["xor %eax, %eax", "getsec"] UD, UD;
    encls_ ["xor %eax, %eax", "encls"] UdOrGp, ExitOrUd(60);
    rsm_ ["rsm"] UD, UD;
    pconfig_ ["xor %eax, %eax", ".byte 0x0f, 0x01, 0xc5"] UdOrGp, UD;
    umwait_ ["xor %eax, %eax", ".byte 0xf2, 0x0f, 0xae, 0xf0"] UD, UD;
    tpause_ ["xor %eax, %eax", ".byte 0x66, 0x0f, 0xae, 0xf0"] UD, UD;
    xsaves_ ["mov $0x500000, %edi", "mov $-1, %eax", "xsaves (%rdi)"] UdOrGp, UD;
    xrstors_ ["mov $0x500000, %edi", "mov $-1, %eax", "xrstors (%rdi)"] UdOrGp, UD;
    rdpkru_ ["xor %ecx, %ecx", "rdpkru"] UD, UD;
    wrpkru_ ["xor %ecx, %ecx", "xor %edx, %edx", "xor %eax, %eax", "wrpkru"] UD, UD;
    sysenter_ ["sysenter"] GP, GP;
    sysexit_ ["sysexit"] GP, GP;
    sysret_bad ["mov $1, %ecx", "shl $47, %rcx", "sysretq"] GP, GP;
    swapgs_ ["swapgs", "swapgs"] GP, Continue;
    wrfsbase_ ["mov $0x1234, %eax", "wrfsbase %rax", "rdfsbase %rbx"] With(FSGSBASE, &Continue), With(FSGSBASE, &Continue);
    wrfsbase_bad ["mov $1, %eax", "shl $47, %rax", "wrfsbase %rax"] With(FSGSBASE, &GP), With(FSGSBASE, &GP);
    wrgsbase_bad ["mov $1, %eax", "shl $63, %rax", "wrgsbase %rax"] With(FSGSBASE, &GP), With(FSGSBASE, &GP);
    int_80 ["int $0x80"] Exception(13, 0x402), Exception(13, 0x402);
    int_0 ["int $0"] Exception(13, 0x2), Exception(13, 0x2);
    int_nmi ["int $2"] Exception(13, 0x12), Exception(13, 0x12);
    int_mc ["int $18"] Exception(13, 0x92), Exception(13, 0x92);
    int_df ["int $8"] Exception(13, 0x42), Exception(13, 0x42);
    int_ff ["int $0xff"] Exception(13, 0x7fa), Exception(13, 0x7fa);
    int3_ ["int3"] Exception(3, 0), Exception(3, 0);
    int1_ [".byte 0xf1"] Vector(1), Vector(1);
    into_ [".byte 0xce"] UD, UD;
    ud2_ ["ud2"] UD, UD;
    divide ["xor %ecx, %ecx", "div %ecx"] Exception(0, 0), Exception(0, 0);
    iretq_null ["pushq $0", "push %rsp", "pushq $2", "pushq $0", "push %rax", "iretq"] GP, GP;
    iretq_user ["pushq $0x2b", "push %rsp", "pushq $2", "pushq $0x33", "pushq $0x400000", "iretq"]
        Exception(13, 0x30), Exception(13, 0x30);
    iretq_kernel ["pushq $0x18", "push %rsp", "pushq $2", "pushq $0x10", "pushq $0x400000", "iretq"]
        Vector(13), Exception(13, 0x10);
    far_jump ["push $0x33", "push $0x400000", "ljmpq *(%rsp)"] Vector(13), Vector(13);
    far_return ["push $0x33", "push $0x400000", "lretq"] Exception(13, 0x30), Exception(13, 0x30);
    load_ds ["mov $0x2b, %eax", "mov %eax, %ds"] Exception(13, 0x28), Exception(13, 0x28);
    load_fs ["mov $0x2b, %eax", "mov %eax, %fs"] Exception(13, 0x28), Exception(13, 0x28);
    load_gs_ldt ["mov $7, %eax", "mov %eax, %gs"] Exception(13, 4), Exception(13, 4);
    load_ss ["mov $0x2b, %eax", "mov %eax, %ss"] Exception(13, 0x28), Exception(13, 0x28);
    load_null_ds ["xor %eax, %eax", "mov %eax, %ds", "mov %eax, %es"] Continue, Continue;
    load_null_gs ["xor %eax, %eax", "mov %eax, %gs"] Continue, Continue;
    load_null_ss ["xor %eax, %eax", "mov %eax, %ss"] GP, Continue;
    stac_ ["stac"] UD, With(SMAP, &Continue);
    rdtsc_ ["rdtsc"] Continue, Continue;
    rdtscp_ ["mov $0x80000001, %eax", "cpuid", "bt $27, %edx", "jnc 1f", "rdtscp", "1:"] Continue, Continue;
    no_rdtscp ["mov $0x80000001, %eax", "cpuid", "bt $27, %edx", "jc 1f", "rdtscp", "1: ud2"] UD, UD;
    rdpid_ ["mov $7, %eax", "xor %ecx, %ecx", "cpuid", "bt $22, %ecx", "jnc 1f", "rdpid %rax", "1:"] Continue, Continue;
    pause_ ["pause"] Continue, Continue;
    cpuid_ ["xor %eax, %eax", "cpuid"] Continue, Continue;
    popf_iopl ["pushfq", "orq $0x3000, (%rsp)", "popfq"] Continue, Continue;
    popf_no_if ["pushfq", "andq $~0x200, (%rsp)", "popfq"] Continue, Continue;
    nested_task ["pushfq", "orq $0x4000, (%rsp)", "popfq", "iretq"] GP, GP;
    stack_fault ["mov $1, %eax", "shl $48, %rax", "mov %rax, %rsp", "push %rax"] Exception(12, 0), Exception(12, 0);
    not_canonical ["mov $1, %eax", "shl $47, %rax", "mov (%rax), %al"] GP, GP;
    jump_not_canonical ["mov $1, %eax", "shl $47, %rax", "jmp *%rax"] GP, GP;
    misaligned_sse ["mov $0x500001, %eax", "movaps (%rax), %xmm0"] GP, GP;
    misaligned_ac ["pushfq", "orq $0x40000, (%rsp)", "popfq", "mov 0x500001, %eax"] Continue, Continue;
    fpu_error ["fninit", "fldcw zero_cw(%rip)", "fldz", "fld1", "fdivp", "fwait", "jmp 1f", "zero_cw: .word 0", "1:"]
        Exception(16, 0), Exception(16, 0);
    sse_error ["ldmxcsr zero_mxcsr(%rip)", "xorps %xmm0, %xmm0", "divss %xmm0, %xmm0", "jmp 1f", "zero_mxcsr: .long 0", "1:"]
        Exception(19, 0), Exception(19, 0);
    bad_mxcsr ["ldmxcsr bad_mxcsr_v(%rip)", "jmp 1f", "bad_mxcsr_v: .long -1", "1:"] GP, GP;
    xgetbv_ ["xor %ecx, %ecx", "xgetbv"] Continue, Continue;
    lock_bad [".byte 0xf0, 0x90"] UD, UD;
}
