// SPDX-License-Identifier: GPL-2.0

//! What a kernel could do to the machine, tried from ring 3 and from ring 0: each ends in an exit
//! that says what it was, the vCPU runs again, and nothing happened to the host.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use uvisor::Exit;
use uvisor_tests::kernel::{enter, Kernel, SUPERVISOR};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Tap, CODE};

/// What an instruction must lead to.
#[derive(Clone, Copy, Debug)]
enum Wanted {
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
}
use Wanted::*;

const UD: Wanted = Exception(6, 0);
const GP: Wanted = Exception(13, 0);

struct Case {
    name: &'static str,
    text: &'static str,
    code: fn() -> &'static [u8],
    ring3: Wanted,
    ring0: Wanted,
}

/// The data page, as the code sees it: zeros.
macro_rules! cases {
    ($($name:ident [$($line:literal),+] $ring3:expr, $ring0:expr;)+) => {
        $(code! { $name: $($line,)+ "vmcall", "hlt" })+
        const CASES: &[Case] = &[$(Case {
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
    wrfsbase_ ["mov $0x1234, %eax", "wrfsbase %rax", "rdfsbase %rbx"] Continue, Continue;
    wrfsbase_bad ["mov $1, %eax", "shl $47, %rax", "wrfsbase %rax"] GP, GP;
    wrgsbase_bad ["mov $1, %eax", "shl $63, %rax", "wrgsbase %rax"] GP, GP;
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
    stac_ ["stac"] UD, Continue;
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

code! { resumed: "mov $0x123456789abc, %rax", "vmcall" }
// Returns to ring 3 in 32-bit mode, where `dec %eax` is what is a REX prefix in 64-bit mode.
code! { sysret32: "mov $0x400020, %ecx", "sysretl", ".org guest_sysret32_start + 0x20",
"mov $7, %eax", ".byte 0x48", "nop", "vmcall" }
code! { fault_read: "mov (%rdi), %al", "vmcall" }
code! { fault_write: "mov %al, (%rdi)", "vmcall" }
code! { fault_jump: "jmp *%rdi", "vmcall" }
code! { cr2_probe: "mov %cr2, %rax", "vmcall" }
code! { crs: "mov %cr0, %rax", "mov %cr4, %rbx", "smsw %rcx", "vmcall" }
code! { cli_loop: "cli", "1: incq 0x500000", "jmp 1b" }
code! { cpuid_loop: "1: cpuid", "vmcall", "jmp 1b" }
code! { star: "mov $0x2222, %eax", "swapgs", "vmcall" }

/// Whether an exit is the one that is wanted.
fn matches(exit: Exit, wanted: Wanted) -> bool {
    let exception = |v, c| matches!(exit, Exit::Exception { vector, error_code, .. } if vector == v && error_code == c);
    let left = |r| matches!(exit, Exit::Privileged { reason, .. } if reason == r);
    match wanted {
        Continue | Hypercall => matches!(exit, Exit::Hypercall { .. }),
        Exception(vector, code) => exception(vector, code),
        Vector(v) => matches!(exit, Exit::Exception { vector, .. } if vector == v),
        Exit(reason) => left(reason),
        ExitOrUd(reason) => left(reason) || exception(6, 0),
        ExitOrGp(reason) => left(reason) || exception(13, 0),
        ContinueOrGp => matches!(exit, Exit::Hypercall { .. }) || exception(13, 0),
        UdOrGp => exception(6, 0) || exception(13, 0),
        Halt => exit == Exit::Halt,
    }
}

/// Runs a case in a ring; then the vCPU must run on as if nothing had been.
fn run(case: &Case, ring: u64, wanted: Wanted) -> Outcome {
    let code = (case.code)();
    let mut guest = Kernel::new(code, ring);
    let base = guest.vcpu.regs().rip;
    guest.vcpu.regs_mut().r15 = 0x1505_1505_1505_1505;
    let what = format!("ring {ring}: {} ({})", case.name, case.text);
    let exit = guest.vcpu.run().map_err(|e| format!("{what}: {e}"))?;
    let regs = *guest.vcpu.regs();
    check(
        &format!(
            "{what}: {exit:x?}, wanted {wanted:x?}, at +{:#x}",
            regs.rip.wrapping_sub(base)
        ),
        matches(exit, wanted),
    )?;
    equal(&format!("{what}: r15"), regs.r15, 0x1505_1505_1505_1505)?;
    equal(&format!("{what}: ring"), regs.cpl, ring)?;
    equal(&format!("{what}: IF"), regs.rflags & 0x200, 0x200)?;
    equal(
        &format!("{what}: IOPL, NT as documented"),
        regs.rflags & 0x7000 & !0x7000,
        0,
    )?;
    let at = regs.rip.wrapping_sub(base);
    if matches!(wanted, Continue) {
        equal(
            &format!("{what}: rip"),
            &code[at as usize..],
            &[0x0f, 0x01, 0xc1, 0xf4][..],
        )?;
    }
    // The same vCPU, in the other ring and back.
    for ring in [3 - ring, ring] {
        again(&mut guest, ring).map_err(|e| format!("{what}: afterwards: {e}"))?;
    }
    Ok(())
}

/// Runs something harmless on the vCPU.
fn again(guest: &mut Kernel, ring: u64) -> Outcome {
    guest.vm.unmap(CODE, 0x1000).map_err(|e| e.to_string())?;
    uvisor_tests::guest::load(&guest.vm, CODE, resumed());
    enter(&mut guest.vcpu, ring);
    let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
    equal("exit", exit, Exit::Hypercall { ring })?;
    equal("rax", guest.vcpu.regs().rax, 0x1234_5678_9abc)
}

/// A page fault's error code and address, by its page tables.
fn page_faults() -> Outcome {
    let (present, write, user, fetch) = (1, 2, 4, 16);
    let far = 0x4000_0000;
    let kernel = SUPERVISOR + CODE;
    for (ring, code, address, error) in [
        (3, fault_read(), far, user),
        (3, fault_write(), far + 5, user | write),
        (3, fault_jump(), far + 7, user | fetch),
        (3, fault_read(), kernel, user | present),
        (3, fault_write(), kernel, user | present | write),
        (3, fault_jump(), kernel, user | present | fetch),
        (0, fault_read(), far, 0),
        (0, fault_write(), far, write),
        (0, fault_jump(), far, fetch),
        (0, fault_jump(), CODE, present | fetch),
        (0, fault_read(), 0xffff_8880_0000_0000, 0),
    ] {
        let mut guest = Kernel::new(code, ring);
        guest.vcpu.regs_mut().rdi = address;
        let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
        // Without NX and SMEP in its own tables, a CPU may leave out that it was a fetch.
        let ok = matches!(exit, Exit::Exception { vector: 14, error_code, address: a }
            if a == address && (error_code == error || (error & fetch != 0 && error_code | fetch == error)));
        check(
            &format!("ring {ring}, {address:#x}: {exit:x?}, wanted code {error:#x}"),
            ok,
        )?;
    }
    Ok(())
}

/// What ring 0 can read of the host.
fn leaks() -> Outcome {
    let mut guest = Kernel::new(cr2_probe(), 0);
    // A page fault of the host's puts an address of this process into CR2 before.
    let page = uvisor_tests::raw::mmap(None, 0x1000, 3, libc::MAP_PRIVATE, 0)
        .map_err(|e| e.to_string())?;
    uvisor_tests::probe::store(page, 1).map_err(|e| format!("signal {e}"))?;
    equal(
        "exit",
        guest.vcpu.run().map_err(|e| e.to_string())?,
        Exit::Hypercall { ring: 0 },
    )?;
    equal("CR2", guest.vcpu.regs().rax, 0)?;
    let mut guest = Kernel::new(crs(), 0);
    equal(
        "exit",
        guest.vcpu.run().map_err(|e| e.to_string())?,
        Exit::Hypercall { ring: 0 },
    )?;
    let regs = guest.vcpu.regs();
    equal("CR0: PE, WP, PG", regs.rax & 0x8001_0001, 0x8001_0001)?;
    equal("CR0: TS, EM", regs.rax & 0xc, 0)?;
    equal(
        "CR4: VMXE, PCIDE, LA57, PKE",
        regs.rbx & (1 << 13 | 1 << 17 | 1 << 12 | 1 << 22),
        0,
    )?;
    equal("SMSW is CR0", regs.rcx & 0xffff, regs.rax & 0xffff)
}

/// A guest that wants no interrupts is interrupted all the same.
fn no_interrupts() -> Outcome {
    let mut guest = Kernel::new(cli_loop(), 0);
    uvisor_tests::host::on_alarm();
    let mut last = 0;
    for round in 0..3 {
        uvisor_tests::host::alarm_in_ms(20);
        let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
        equal("ended by the signal", exit, Exit::Interrupted)?;
        let mut count = [0; 8];
        guest
            .vm
            .read_at(uvisor_tests::DATA, &mut count)
            .map_err(|e| e.to_string())?;
        let count = u64::from_le_bytes(count);
        check(
            &format!("round {round}: {count} after {last}"),
            count > last,
        )?;
        last = count;
    }
    equal("ring", guest.vcpu.regs().cpl, 0)?;
    let kicker = guest.vcpu.kicker();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(20));
        kicker.kick().expect("KICK");
    });
    let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
    thread.join().map_err(|_| "the kicker panicked")?;
    equal("ended by the kick", exit, Exit::Interrupted)
}

/// SWAPGS exchanges what the register file says.
fn swapgs() -> Outcome {
    let mut guest = Kernel::new(star(), 0);
    guest.vcpu.regs_mut().gs_base = 0x1111_0000;
    guest.vcpu.regs_mut().kernel_gs_base = 0xffff_ffff_2222_0000;
    equal(
        "exit",
        guest.vcpu.run().map_err(|e| e.to_string())?,
        Exit::Hypercall { ring: 0 },
    )?;
    equal("gs_base", guest.vcpu.regs().gs_base, 0xffff_ffff_2222_0000)?;
    equal(
        "kernel_gs_base",
        guest.vcpu.regs().kernel_gs_base,
        0x1111_0000,
    )
}

/// Ring 0 can return to 32-bit code; the next RUN in 64-bit mode does not suffer from it.
fn compatibility_mode() -> Outcome {
    let mut guest = Kernel::new(sysret32(), 0);
    let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
    equal("exit", exit, Exit::Hypercall { ring: 3 })?;
    equal("rax, decremented by 32-bit code", guest.vcpu.regs().rax, 6)?;
    again(&mut guest, 3)?;
    again(&mut guest, 0)
}

/// What CPUID says, in all leaves.
fn cpuid() -> Outcome {
    let mut guest = Kernel::new(cpuid_loop(), 3);
    let mut ask = |leaf: u32, sub: u32| -> Result<[u32; 4], String> {
        guest.vcpu.regs_mut().rax = u64::from(leaf) | 0xdead << 32;
        guest.vcpu.regs_mut().rcx = u64::from(sub) | 0xdead << 32;
        let exit = guest.vcpu.run().map_err(|e| e.to_string())?;
        equal("exit", exit, Exit::Hypercall { ring: 3 })?;
        let r = *guest.vcpu.regs();
        guest.vcpu.regs_mut().rip = CODE;
        let all = [r.rax, r.rbx, r.rcx, r.rdx];
        check(
            &format!("upper halves: {all:x?}"),
            all.iter().all(|v| v >> 32 == 0),
        )?;
        Ok(all.map(|v| v as u32))
    };
    let host = |leaf, sub| {
        // SAFETY: Every CPU with VT-x has CPUID.
        let r = unsafe { std::arch::x86_64::__cpuid_count(leaf, sub) };
        [r.eax, r.ebx, r.ecx, r.edx]
    };
    let max = ask(0, 0)?;
    equal("vendor", max[1..].to_vec(), host(0, 0)[1..].to_vec())?;
    check(
        &format!("highest leaf {}", max[0]),
        max[0] >= 7 && max[0] <= host(0, 0)[0],
    )?;
    let one = ask(1, 0)?;
    equal(
        "leaf 1: VMX, SMX, MONITOR, DS, PDCM, PCID, x2APIC, TSC deadline, hypervisor",
        one[2]
            & (1 << 5 | 1 << 6 | 1 << 3 | 1 << 2 | 1 << 15 | 1 << 17 | 1 << 21 | 1 << 24 | 1 << 31),
        0,
    )?;
    equal(
        "leaf 1: APIC id and logical processors",
        one[1] & !0xff00,
        0,
    )?;
    equal(
        "leaf 1: APIC, MTRR, MCA, SYSENTER",
        one[3] & (1 << 9 | 1 << 12 | 1 << 14 | 1 << 11),
        0,
    )?;
    equal(
        "leaf 1: FPU, TSC, CX8, CMOV, SSE2",
        one[3] & 0x0600_8111,
        0x0600_8111,
    )?;
    equal("leaf 1: OSXSAVE", one[2] >> 26 & 3, 3)?;
    let seven = ask(7, 0)?;
    equal(
        "leaf 7: SGX, SMEP, INVPCID, RTM, HLE, MPX, PT",
        seven[1] & (1 << 2 | 1 << 7 | 1 << 10 | 1 << 11 | 1 << 4 | 1 << 14 | 1 << 25),
        0,
    )?;
    equal(
        "leaf 7: PKU, OSPKE, WAITPKG, shadow stack, LA57",
        seven[2] & (1 << 3 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 16),
        0,
    )?;
    equal(
        "leaf 7: IBT, PCONFIG, UINTR, AMX",
        seven[3] & (1 << 20 | 1 << 18 | 1 << 5 | 7 << 22),
        0,
    )?;
    let device = uvisor::Device::open().map_err(|e| e.to_string())?;
    let xcr0 = device.info().map_err(|e| e.to_string())?.xcr0;
    let xsave = ask(0xd, 0)?;
    equal(
        "leaf 0xd: XCR0",
        u64::from(xsave[0]) | u64::from(xsave[3]) << 32,
        xcr0,
    )?;
    equal("leaf 0xd.1: XSAVES", ask(0xd, 1)?[0] >> 3 & 1, 0)?;
    for leaf in [
        0xb,
        0x1f,
        0xa,
        0x12,
        0x14,
        0x4000_0000,
        0x4000_0001,
        0x4000_0100,
        0x8000_000a,
        0x8000_001f,
        0xc000_0000,
        u32::MAX,
    ] {
        for sub in [0, 1, 2, u32::MAX] {
            let seen = ask(leaf, sub)?;
            // A leaf beyond the highest may repeat the highest, as on Intel's CPUs.
            let ok = seen == [0; 4]
                || (leaf > max[0] && leaf < 0x4000_0000 && seen == ask(max[0], sub)?);
            check(&format!("leaf {leaf:#x}.{sub:#x}: {seen:x?}"), ok)?;
        }
    }
    let extended = ask(0x8000_0000, 0)?;
    equal(
        "highest extended leaf",
        extended[0],
        0x8000_0008.min(host(0x8000_0000, 0)[0]),
    )?;
    equal(
        "SYSCALL, NX, long mode",
        ask(0x8000_0001, 0)?[3] & (1 << 11 | 1 << 20 | 1 << 29),
        1 << 11 | 1 << 20 | 1 << 29,
    )?;
    for (leaf, sub) in (0..0x30).flat_map(|leaf| (0..4).map(move |sub| (leaf, sub))) {
        let seen = ask(leaf, sub)?;
        let text = seen.map(u32::to_le_bytes).concat();
        check(
            &format!("leaf {leaf:#x}.{sub}"),
            !text.windows(3).any(|w| w == b"KVM"),
        )?;
    }
    Ok(())
}

/// MSRs of the host that a guest might have changed.
const MSRS: &[(&str, u64)] = &[
    ("STAR", 0xc000_0081),
    ("LSTAR", 0xc000_0082),
    ("CSTAR", 0xc000_0083),
    ("FMASK", 0xc000_0084),
    ("EFER", 0xc000_0080),
    ("PAT", 0x277),
    ("APIC_BASE", 0x1b),
    ("FEATURE_CONTROL", 0x3a),
    ("SYSENTER_CS", 0x174),
    ("SYSENTER_EIP", 0x176),
    ("SYSENTER_ESP", 0x175),
    ("DEBUGCTL", 0x1d9),
    ("MISC_ENABLE", 0x1a0),
    ("TSC_AUX", 0xc000_0103),
    ("GS_BASE", 0xc000_0101),
];

/// The MSRs of the first CPU, as many as can be read.
fn host_msrs() -> Result<Vec<(&'static str, u64)>, String> {
    let file = File::open("/dev/cpu/0/msr").map_err(|e| format!("/dev/cpu/0/msr: {e}"))?;
    let read = |&(name, number): &(&'static str, u64)| {
        let mut value = [0; 8];
        file.read_exact_at(&mut value, number).ok()?;
        Some((name, u64::from_le_bytes(value)))
    };
    Ok(MSRS.iter().filter_map(read).collect())
}

/// The kernel's messages of level warning and worse so far.
fn warnings() -> Result<Vec<String>, String> {
    let mut options = std::fs::OpenOptions::new();
    let mut log = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .map_err(|e| e.to_string())?;
    let mut lines = vec![];
    let mut record = [0; 8192];
    while let Ok(n) = log.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..n]).into_owned();
        let level = text.split(',').next().and_then(|n| n.parse::<u32>().ok());
        if level.is_some_and(|level| level & 7 <= 4) {
            lines.push(text);
        }
    }
    Ok(lines)
}

fn main() {
    let mut tap = Tap::new();
    uvisor_tests::host::pin_to_cpu(0);
    let loaded = std::process::Command::new("modprobe")
        .arg("msr")
        .status()
        .is_ok_and(|s| s.success());
    let before = (host_msrs(), warnings());
    for case in CASES {
        tap.test(
            &format!("{}: {}", case.name.trim_end_matches('_'), case.text),
            || {
                let outcomes = [run(case, 3, case.ring3), run(case, 0, case.ring0)];
                let errors: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
                if errors.is_empty() {
                    Ok(())
                } else {
                    Err(errors.join("\n"))
                }
            },
        );
    }
    tap.test("page faults tell their address and code", page_faults);
    tap.test("ring 0 reads nothing of the host", leaks);
    tap.test("SWAPGS exchanges the bases of the register file", swapgs);
    tap.test("32-bit code and back", compatibility_mode);
    tap.test("CLI and an endless loop are bounded", no_interrupts);
    tap.test("CPUID tells what a task may see", cpuid);
    if loaded {
        tap.test("the host's MSRs are as before", || {
            let (then, now) = (before.0.clone()?, host_msrs()?);
            check("some can be read", then.len() > 5)?;
            equal("MSRs", now, then)
        });
    } else {
        tap.skip("the host's MSRs are as before", "there is no msr module");
    }
    tap.test("the kernel did not complain", || {
        equal("warnings", warnings()?, before.1.clone()?)
    });
    tap.finish();
}
