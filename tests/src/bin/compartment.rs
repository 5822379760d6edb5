// SPDX-License-Identifier: GPL-2.0

//! The example of two compartments, with a parser that an attacker controls.

#[path = "../../../userspace-tool/examples/compartment/gate.rs"]
mod gate;

use std::hash::Hasher;

use uvisor::{Device, Exit, Features, MemoryCause, Prot, ViewCause};
use uvisor_tests::guest::has;
use uvisor_tests::heap::text;
use uvisor_tests::host::memory_file;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Tap};

use gate::{Compartments, GATE, GATE_VIEW, INPUT, KEY, PARSER, PARSER_VIEW, STACK};

const SECRET: [u64; 2] = [0x5ec1_e700_0000_0001, 0x5ec1_e700_0000_0002];

// Reads the word at rdi.
code! { reads:
    "mov (%rdi), %rdx",
    "xor %eax, %eax",
    "vmcall",
}

// Writes the word at rdi.
code! { writes:
    "mov %rdx, (%rdi)",
    "xor %eax, %eax",
    "vmcall",
}

// Goes to the view in rcx by VMFUNC, and then reads the word at rdi.
code! { goes_and_reads:
    "xor %eax, %eax",
    "vmfunc",
    "mov (%rdi), %rdx",
    "xor %eax, %eax",
    "vmcall",
}

// The same by hypercall.
code! { calls_and_reads:
    "movabs $0x7675000000000001, %rax",
    "vmcall",
    "mov (%rdi), %rdx",
    "xor %eax, %eax",
    "vmcall",
}

// Jumps to r12 with the registers as they are.
code! { jumps:
    "jmp *%r12",
}

fn with(parser: &[u8]) -> Result<Compartments, String> {
    let device = Device::open().map_err(text)?;
    let task = Compartments::new(&device, parser, SECRET, memory_file).map_err(text)?;
    task.set_message(b"eight by").map_err(text)?;
    Ok(task)
}

/// Runs a hostile parser; the key must not be in any register.
fn run(task: &mut Compartments) -> Result<Exit, String> {
    let exit = task.vcpu.run().map_err(text)?;
    let r = *task.vcpu.regs();
    let seen = [
        r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15,
    ];
    check(
        &format!("the key is in a register: {r:x?}"),
        !seen.iter().any(|word| SECRET.contains(word)),
    )?;
    Ok(exit)
}

fn stopped(gpa: u64, access: Prot, cause: MemoryCause) -> Exit {
    Exit::Memory {
        gpa,
        linear: Some(gpa),
        access,
        cause,
    }
}

fn hidden(gpa: u64, access: Prot) -> Exit {
    stopped(gpa, access, MemoryCause::Hidden)
}

/// The gate signs, for messages of several lengths, as the standard library does.
fn signs() -> Outcome {
    for len in [0, 8, 16, 64, 4080] {
        let mut task = with(gate::parser())?;
        let message: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
        task.set_message(&message).map_err(text)?;
        equal("the exit", run(&mut task)?, Exit::Hypercall { ring: 3 })?;
        #[allow(deprecated)] // It is SipHash-2-4.
        let mut hasher = std::hash::SipHasher::new_with_keys(SECRET[0], SECRET[1]);
        hasher.write(&message);
        equal("the signature", task.vcpu.regs().rdx, hasher.finish())?;
        equal("the view", task.vcpu.regs().view, PARSER_VIEW)?;
    }
    Ok(())
}

/// The parser touches the key.
fn touches() -> Outcome {
    for (code, access) in [(reads(), Prot::READ), (writes(), Prot::WRITE)] {
        let mut task = with(code)?;
        task.vcpu.regs_mut().rdi = KEY;
        // The region does not let it write either; but what the view hides, it hides.
        let exit = run(&mut task)?;
        check(
            &format!("it is stopped: {exit:x?}"),
            [MemoryCause::Hidden, MemoryCause::Denied]
                .map(|cause| stopped(KEY, access, cause))
                .contains(&exit),
        )?;
        equal("the view", task.vcpu.regs().view, PARSER_VIEW)?;
    }
    Ok(())
}

/// The parser goes to the gate's view: its own next instruction is not there.
fn goes(code: &[u8]) -> Outcome {
    let mut task = with(code)?;
    let regs = task.vcpu.regs_mut();
    (regs.rcx, regs.rdi) = (GATE_VIEW, KEY);
    let exit = run(&mut task)?;
    let rip = task.vcpu.regs().rip;
    check(
        &format!("it came to {rip:#x}"),
        (PARSER + 3..PARSER + 16).contains(&rip),
    )?;
    equal("the exit", exit, hidden(rip, Prot::EXEC))?;
    equal("the view", task.vcpu.regs().view, GATE_VIEW)?;
    // To where all is there, it does not get.
    let mut task = with(code)?;
    let regs = task.vcpu.regs_mut();
    (regs.rcx, regs.rdi) = (0, KEY);
    let refused = Exit::View {
        view: 0,
        cause: ViewCause::Refused,
    };
    equal("to view 0", run(&mut task)?, refused)
}

/// The parser jumps into the gate, past its first check or to its way out.
fn jumps_in() -> Outcome {
    // Past the switch, it is in the parser's view, where there is no key.
    let mut task = with(jumps())?;
    let past = task.gate.past;
    let regs = task.vcpu.regs_mut();
    (regs.r12, regs.rcx) = (past, GATE_VIEW);
    (regs.rdi, regs.rsi) = (INPUT, 8);
    equal("past the switch", run(&mut task)?, hidden(KEY, Prot::READ))?;
    equal("the view", task.vcpu.regs().view, PARSER_VIEW)?;
    // To the switch that leaves, with the gate's view, and an address in the gate to return to.
    let mut task = with(jumps())?;
    let (leave, past) = (task.gate.leave, task.gate.past);
    task.vm
        .write_at(STACK + 256, &past.to_le_bytes())
        .map_err(text)?;
    let regs = task.vcpu.regs_mut();
    (regs.r12, regs.rcx, regs.rsp) = (leave, GATE_VIEW, STACK + 256);
    regs.rax = if uses_vmfunc() {
        0
    } else {
        uvisor::HYPERCALL_SWITCH_VIEW
    };
    let exit = run(&mut task)?;
    check(
        &format!("it notices: {exit:x?}"),
        matches!(exit, Exit::Exception { vector: 6, .. }),
    )
}

/// Whether the gate switches by VMFUNC here.
fn uses_vmfunc() -> bool {
    has(Features::VMFUNC)
}

/// The gate is given something else to sign than the input.
fn lies() -> Outcome {
    for (at, len) in [
        (KEY, 8),
        (GATE, 8),
        (STACK, 8),
        (INPUT - 8, 16),
        (INPUT + 4088, 16),
        (INPUT, 4104),
        (INPUT, 7),
        (INPUT, u64::MAX),
        (u64::MAX - 7, 8),
        (u64::MAX, u64::MAX),
    ] {
        let mut task = with(jumps())?;
        let regs = task.vcpu.regs_mut();
        (regs.r12, regs.rdi, regs.rsi) = (GATE, at, len);
        let exit = run(&mut task)?;
        check(
            &format!("{len:#x} bytes at {at:#x}: {exit:x?}"),
            matches!(exit, Exit::Exception { vector: 6, .. }),
        )?;
    }
    Ok(())
}

/// User space itself cannot change what the gate is, or where the key is seen.
fn sealed() -> Outcome {
    let task = with(gate::parser())?;
    let errno = |result: uvisor::Result<()>| result.map_err(|e| e.errno());
    for page in [KEY, GATE] {
        let all = Prot::READ | Prot::WRITE | Prot::EXEC;
        equal(
            "PROTECT",
            errno(task.vm.protect(page, 4096, all)),
            Err(Some(libc::EPERM)),
        )?;
        equal(
            "VIEW_PROTECT",
            errno(task.vm.protect_view(2, page, 4096, all)),
            Err(Some(libc::EPERM)),
        )?;
        equal(
            "pwrite",
            errno(task.vm.write_at(page, &[0])),
            Err(Some(libc::EFAULT)),
        )?;
    }
    Ok(())
}

/// The program in `examples/`.
fn example() -> Outcome {
    let output = std::process::Command::new("/usr/lib/uvisor/examples/compartment").output();
    let output = output.map_err(|e| format!("cannot run it: {e}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    check(&format!("{said}{error}"), output.status.success())?;
    check(&said, said.contains("Hidden") && said.contains("in view 2"))
}

fn main() {
    let mut tap = Tap::new();
    tap.test("the gate signs for the parser", signs);
    tap.test("the parser touches the key", touches);
    tap.test("the parser goes to the gate's view by hypercall", || {
        goes(calls_and_reads())
    });
    if uses_vmfunc() {
        tap.test("the parser goes to the gate's view by VMFUNC", || {
            goes(goes_and_reads())
        });
    } else {
        tap.skip(
            "the parser goes to the gate's view by VMFUNC",
            "this CPU has no VMFUNC",
        );
    }
    tap.test("the parser jumps into the gate", jumps_in);
    tap.test("the parser has something else signed", lies);
    tap.test("the key and the gate are sealed", sealed);
    tap.test("the example says so, too", example);
    tap.finish();
}
