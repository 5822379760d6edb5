// SPDX-License-Identifier: GPL-2.0

//! Guests with memory of which each page has a word that counts, for tests of clones.

use uvisor::{Device, Exit, Prot, Vcpu, Vm, HYPERCALL_LEN, PAGE_SIZE};

use crate::tap::Outcome;
use crate::Guest;

/// Where the memory is.
pub const HEAP: u64 = 0x1000_0000;

// Adds rdx to the first word of each of rcx pages from rdi on, then exits; again and again.
crate::code! { add_code:
    "1: mov %rdi, %rsi",
    "mov %rcx, %rbx",
    "2: add %rdx, (%rsi)",
    "add $4096, %rsi",
    "dec %rbx",
    "jnz 2b",
    "vmcall",
    "jmp 1b",
}

/// Code that adds `rdx` to the first word of each of `rcx` pages from `rdi` on, then exits; again and again.
pub fn add() -> &'static [u8] {
    add_code()
}

// Sums the first words of rcx pages from rdi on into rax, then exits; again and again.
crate::code! { sum_code:
    "1: xor %eax, %eax",
    "mov %rdi, %rsi",
    "mov %rcx, %rbx",
    "2: add (%rsi), %rax",
    "add $4096, %rsi",
    "dec %rbx",
    "jnz 2b",
    "vmcall",
    "jmp 1b",
}

/// Code that sums the first words of `rcx` pages from `rdi` on into `rax`, then exits; again and again.
pub fn sum() -> &'static [u8] {
    sum_code()
}

/// An error as tests have it.
pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A guest with `pages` pages of heap, of which it touched all.
pub fn parent(code: &[u8], pages: u64) -> Result<Guest, String> {
    let mut guest = Guest::new(code);
    let prot = Prot::READ | Prot::WRITE;
    guest
        .vm
        .map_anonymous(HEAP, pages * PAGE_SIZE, prot)
        .map_err(text)?;
    let regs = guest.vcpu.regs_mut();
    (regs.rdi, regs.rcx, regs.rdx) = (HEAP, pages, 1);
    guest.run_to_hypercall()?;
    Ok(guest)
}

/// Runs a vCPU to its next hypercall and steps over it.
pub fn step(vcpu: &mut Vcpu) -> Outcome {
    match vcpu.run() {
        Ok(Exit::Hypercall { .. }) => {
            vcpu.regs_mut().rip += HYPERCALL_LEN;
            Ok(())
        }
        other => Err(format!("wanted a hypercall, saw {other:x?}")),
    }
}

/// The first word of a page of heap.
pub fn word(vm: &Vm, page: u64) -> Result<u64, String> {
    let mut bytes = [0; 8];
    vm.read_at(HEAP + page * PAGE_SIZE, &mut bytes)
        .map_err(text)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Bytes that the module holds.
pub fn held() -> u64 {
    let info = Device::open().and_then(|device| device.info());
    info.expect("INFO").memory
}
