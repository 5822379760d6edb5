// SPDX-License-Identifier: GPL-2.0

//! A task in two compartments: a parser of hostile input, and a gate that signs with a key.
//!
//! Both are one task in one micro-VM; only the view differs. In the gate's view there are the key, the
//! gate's code, and the input to read, and nothing else can be executed. In the parser's view there is all
//! but the key. So whoever controls the parser can go to the gate's view, but the next instruction is then
//! the gate's or none. What the gate must do for that:
//!
//! * its page holds nothing but itself, and is executable in both views, or nobody could enter;
//! * behind each switch it looks where it is, since its switches can be jumped to with another view in
//!   `rcx`: so each of them is the entry, the way out, or the end;
//! * it uses no stack but on the way out, checks what it is given, and leaves nothing of the key behind.

use std::arch::global_asm;
use std::os::fd::AsFd;

use uvisor::guest::Guest;
use uvisor::{Device, Features, Prot, Result, Vcpu, ViewFlags, Vm, PAGE_SIZE};

/// Where the parser's code is.
pub const PARSER: u64 = 0x40_0000;
/// Where the gate is.
pub const GATE: u64 = 0x50_0000;
/// Where the key is: two words.
pub const KEY: u64 = 0x60_0000;
/// Where the input is: a page, whose first word is the length of the message behind it in bytes.
pub const INPUT: u64 = 0x70_0000;
/// Where the parser's stack is, a page.
pub const STACK: u64 = 0x80_0000;

/// The number of the gate's view, and that of the parser's.
pub const GATE_VIEW: u64 = 1;
pub const PARSER_VIEW: u64 = 2;

// The gate: SipHash-2-4 of the rsi bytes at rdi, a multiple of 8, into rdx. rax, rcx, rsi, rdi and r8 to r11
// are lost. With `vmfunc` it switches by VMFUNC, else by hypercall.
macro_rules! gate {
    ($vmfunc:literal, $start:literal, $leave:literal, $past:literal, $end:literal) => {
        global_asm!(
            ".macro switch view",
            concat!(".if ", $vmfunc),
            "xor %eax, %eax",
            "mov $\\view, %ecx",
            "vmfunc",
            ".else",
            "movabs $0x7675000000000001, %rax",
            "mov $\\view, %ecx",
            "vmcall",
            ".endif",
            ".endm",
            ".macro round",
            "add %r9, %r8",
            "add %r11, %r10",
            "rol $13, %r9",
            "rol $16, %r11",
            "xor %r8, %r9",
            "xor %r10, %r11",
            "rol $32, %r8",
            "add %r9, %r10",
            "add %r11, %r8",
            "rol $17, %r9",
            "rol $21, %r11",
            "xor %r10, %r9",
            "xor %r8, %r11",
            "rol $32, %r10",
            ".endm",
            ".pushsection .rodata.gate,\"a\",@progbits",
            concat!($start, ":"),
            "switch {gate_view}",
            concat!($past, ":"),
            "cmp ${gate_view}, %ecx",
            "jne 9f",
            // The message lies in the input: neither the key nor the gate is signed.
            "mov %rdi, %rdx",
            "sub ${input}, %rdx",
            "cmp ${page}, %rdx",
            "ja 9f",
            "cmp ${page}, %rsi",
            "ja 9f",
            "add %rsi, %rdx",
            "cmp ${page}, %rdx",
            "ja 9f",
            "test $7, %sil",
            "jnz 9f",
            "mov ${key}, %edx",
            "mov (%rdx), %rax",
            "mov 8(%rdx), %rcx",
            "movabs $0x736f6d6570736575, %r8",
            "movabs $0x646f72616e646f6d, %r9",
            "movabs $0x6c7967656e657261, %r10",
            "movabs $0x7465646279746573, %r11",
            "xor %rax, %r8",
            "xor %rcx, %r9",
            "xor %rax, %r10",
            "xor %rcx, %r11",
            "mov %rsi, %rcx",
            "shl $56, %rcx",
            "1: test %rsi, %rsi",
            "jz 2f",
            "mov (%rdi), %rax",
            "xor %rax, %r11",
            "round",
            "round",
            "xor %rax, %r8",
            "add $8, %rdi",
            "sub $8, %rsi",
            "jmp 1b",
            "2: xor %rcx, %r11",
            "round",
            "round",
            "xor %rcx, %r8",
            "xor $0xff, %r10",
            "round",
            "round",
            "round",
            "round",
            "mov %r8, %rdx",
            "xor %r9, %rdx",
            "xor %r10, %rdx",
            "xor %r11, %rdx",
            "xor %r8d, %r8d",
            "xor %r9d, %r9d",
            "xor %r10d, %r10d",
            "xor %r11d, %r11d",
            "switch {parser_view}",
            concat!($leave, ":"),
            "cmp ${parser_view}, %ecx",
            "jne 9f",
            "ret",
            "9: ud2",
            concat!($end, ":"),
            ".popsection",
            ".purgem switch",
            ".purgem round",
            gate_view = const GATE_VIEW,
            parser_view = const PARSER_VIEW,
            input = const INPUT,
            key = const KEY,
            page = const PAGE_SIZE,
            options(att_syntax)
        );
    };
}

gate!(
    1,
    "gate_f_start",
    "gate_f_leave",
    "gate_f_past",
    "gate_f_end"
);
gate!(
    0,
    "gate_c_start",
    "gate_c_leave",
    "gate_c_past",
    "gate_c_end"
);

// The parser: it finds the message in the input, has it signed, and exits with the signature in rdx.
global_asm!(
    ".pushsection .rodata.parser,\"a\",@progbits",
    "parser_start:",
    "mov ${input}, %edi",
    "mov (%rdi), %rsi",
    "add $8, %rdi",
    "mov ${gate}, %eax",
    "call *%rax",
    "xor %eax, %eax",
    "vmcall",
    "parser_end:",
    ".popsection",
    input = const INPUT,
    gate = const GATE,
    options(att_syntax)
);

/// The address of a label.
macro_rules! label {
    ($name:literal) => {{
        let at: *const u8;
        // SAFETY: It takes the address of a label.
        unsafe {
            std::arch::asm!(
                concat!("lea ", $name, "(%rip), {0}"),
                out(reg) at,
                options(att_syntax, nomem, nostack)
            );
        }
        at
    }};
}

/// The bytes between two labels.
///
/// # Safety
///
/// They must be in one section, in this order.
unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: By the caller's promise it is assembled, and so initialised and never written.
    unsafe { std::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}

/// The gate's code, and what an attacker would like to jump to in it.
#[derive(Clone, Copy)]
pub struct Gate {
    pub code: &'static [u8],
    /// Behind the switch to the gate's view.
    #[allow(dead_code)] // For the test.
    pub past: u64,
    /// The instruction that switches to the parser's view.
    #[allow(dead_code)] // For the test.
    pub leave: u64,
}

/// The gate that switches by VMFUNC, or the other.
#[inline(never)]
pub fn gate(vmfunc: bool) -> Gate {
    let (start, past, leave, end) = if vmfunc {
        (
            label!("gate_f_start"),
            label!("gate_f_past"),
            label!("gate_f_leave"),
            label!("gate_f_end"),
        )
    } else {
        (
            label!("gate_c_start"),
            label!("gate_c_past"),
            label!("gate_c_leave"),
            label!("gate_c_end"),
        )
    };
    // SAFETY: The labels are of one gate, in its order.
    let offset = |at: *const u8| unsafe { at.offset_from(start) } as u64;
    Gate {
        // SAFETY: As above.
        code: unsafe { between(start, end) },
        past: GATE + offset(past),
        // VMFUNC and VMCALL have three bytes.
        leave: GATE + offset(leave) - 3,
    }
}

/// The parser's code, as long as nobody took it over.
#[inline(never)]
pub fn parser() -> &'static [u8] {
    let (start, end) = (label!("parser_start"), label!("parser_end"));
    // SAFETY: Both labels are of the parser.
    unsafe { between(start, end) }
}

/// The task.
pub struct Compartments {
    pub vm: Vm,
    pub vcpu: Vcpu,
    #[allow(dead_code)] // For the test.
    pub gate: Gate,
}

impl Compartments {
    /// One whose parser is `parser`, and that signs with `key`; `file` makes a file with some bytes.
    pub fn new(
        device: &Device,
        parser: &[u8],
        key: [u64; 2],
        file: impl Fn(&[u8]) -> std::fs::File,
    ) -> Result<Self> {
        let features = Features::from_bits_truncate(device.info()?.features);
        let gate = gate(features.contains(Features::VMFUNC));
        let vm = device.create_vm(0)?;
        let tables = Guest::new(device)?;
        tables.install(&vm)?;
        let code = Prot::READ | Prot::EXEC;
        vm.map_file(PARSER, PAGE_SIZE, code, file(parser).as_fd(), 0)?;
        vm.map_file(GATE, PAGE_SIZE, code, file(gate.code).as_fd(), 0)?;
        let data = Prot::READ | Prot::WRITE;
        for page in [KEY, INPUT, STACK] {
            vm.map_anonymous(page, PAGE_SIZE, data)?;
        }
        let bytes: Vec<u8> = key.into_iter().flat_map(u64::to_le_bytes).collect();
        vm.write_at(KEY, &bytes)?;

        // The gate's view has nothing but what the gate needs, and the page tables.
        let its = vm.create_view(Prot::empty(), ViewFlags::GUEST)?;
        vm.protect_view(its, GATE, PAGE_SIZE, code)?;
        vm.protect_view(its, KEY, PAGE_SIZE, Prot::READ)?;
        vm.protect_view(its, INPUT, PAGE_SIZE, Prot::READ)?;
        let tables_at = vm.size() - uvisor::layout::GIB;
        vm.protect_view(its, tables_at, uvisor::layout::GIB, Prot::READ)?;
        // The parser's has all, and no key.
        let others = vm.create_view(data | code, ViewFlags::GUEST)?;
        vm.protect_view(others, KEY, PAGE_SIZE, Prot::empty())?;
        assert_eq!((its.into(), others.into()), (GATE_VIEW, PARSER_VIEW));
        // From here on, nothing changes that any more.
        vm.protect(KEY, PAGE_SIZE, Prot::READ)?;
        for page in [KEY, GATE] {
            vm.seal(page, PAGE_SIZE)?;
        }

        let mut vcpu = tables.create_vcpu(&vm)?;
        let regs = vcpu.regs_mut();
        (regs.rip, regs.rsp) = (PARSER, STACK + PAGE_SIZE - 64);
        regs.view = PARSER_VIEW;
        Ok(Self { vm, vcpu, gate })
    }

    /// Gives the parser a message, whose length is a multiple of 8.
    pub fn set_message(&self, message: &[u8]) -> Result<()> {
        self.vm.write_at(INPUT, &message.len().to_le_bytes())?;
        self.vm.write_at(INPUT + 8, message)
    }
}
