// SPDX-License-Identifier: GPL-2.0

//! W^X, and the ways round it that there are elsewhere.

use std::os::fd::AsFd;

use uvisor::guest::Guest as Tables;
use uvisor::{
    CloneFlags, Device, Exit, MemoryCause, Prot, Vcpu, ViewFlags, Vm, VmFlags, PAGE_SIZE,
};
use uvisor_tests::guest::load;
use uvisor_tests::heap::{step, text, HEAP};
use uvisor_tests::host::memory_file;
use uvisor_tests::raw;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Tap, CODE, DATA};

use super::{ALL, RW};

const RX: Prot = Prot::from_bits_truncate(5);
const WX: Prot = Prot::from_bits_truncate(7);

// Writes a VMCALL to rdi, and calls it.
code! { writes_and_calls:
    "movl $0x00c1010f, (%rdi)",
    "vmcall",
    "jmp *%rdi",
}

/// A micro-VM in which nothing is writable and executable, with a vCPU at `code`.
fn strict(code: &[u8]) -> Result<(Vm, Vcpu), String> {
    let device = Device::open().map_err(text)?;
    let vm = device.create_vm_with(0, VmFlags::W_XOR_X).map_err(text)?;
    let tables = Tables::new(&device).map_err(text)?;
    tables.install(&vm).map_err(text)?;
    load(&vm, CODE, code);
    vm.map_anonymous(DATA, PAGE_SIZE, RW).map_err(text)?;
    let mut vcpu = tables.create_vcpu(&vm).map_err(text)?;
    let regs = vcpu.regs_mut();
    (regs.rip, regs.rsp) = (CODE, DATA + PAGE_SIZE);
    Ok((vm, vcpu))
}

/// An error unless a call was refused with `EACCES`.
fn refused(what: &str, result: uvisor::Result<()>) -> Outcome {
    let result = result.map_err(|e| e.errno());
    equal(what, result, Err(Some(libc::EACCES)))
}

/// At once, and one after the other, in all orders.
fn by_protect() -> Outcome {
    let (vm, _) = strict(writes_and_calls())?;
    refused("MAP", vm.map_anonymous(HEAP, PAGE_SIZE, WX))?;
    vm.map_anonymous(HEAP, 4 * PAGE_SIZE, RW).map_err(text)?;
    let protect = |prot| vm.protect(HEAP, 4 * PAGE_SIZE, prot);
    refused("W to WX", protect(WX))?;
    refused("W to X", protect(RX))?;
    // Not by a detour either, nor in a part.
    for prot in [Prot::READ, Prot::empty()] {
        protect(prot).map_err(text)?;
        refused("W to R to X", protect(RX))?;
        refused(
            "a part",
            vm.protect(HEAP + PAGE_SIZE, PAGE_SIZE, Prot::EXEC),
        )?;
    }
    protect(RW).map_err(text)?;
    let x = HEAP + 0x10_0000;
    vm.map_anonymous(x, PAGE_SIZE, RX).map_err(text)?;
    refused("X to W", vm.protect(x, PAGE_SIZE, RW))?;
    vm.protect(x, PAGE_SIZE, Prot::empty()).map_err(text)?;
    refused("X to nothing to W", vm.protect(x, PAGE_SIZE, RW))?;
    // One that was neither may become either, once.
    let r = HEAP + 0x20_0000;
    vm.map_anonymous(r, 2 * PAGE_SIZE, Prot::READ)
        .map_err(text)?;
    vm.protect(r, PAGE_SIZE, RX).map_err(text)?;
    vm.protect(r + PAGE_SIZE, PAGE_SIZE, RW).map_err(text)?;
    refused("then both", vm.protect(r, 2 * PAGE_SIZE, RW))?;
    refused("then both", vm.protect(r, 2 * PAGE_SIZE, RX))?;
    // What is unmapped takes its content along.
    vm.write_at(r + PAGE_SIZE, &[1, 2, 3]).map_err(text)?;
    vm.unmap(r, 2 * PAGE_SIZE).map_err(text)?;
    vm.map_anonymous(r, 2 * PAGE_SIZE, RX).map_err(text)?;
    let mut bytes = [9; 3];
    vm.read_at(r + PAGE_SIZE, &mut bytes).map_err(text)?;
    equal("what is executable now", bytes, [0; 3])
}

/// The guest writes code and does not get to execute it, in no view.
fn by_the_guest() -> Outcome {
    let (vm, mut vcpu) = strict(writes_and_calls())?;
    vm.map_anonymous(HEAP, PAGE_SIZE, RW).map_err(text)?;
    let view = vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
    for view in [0, view] {
        let regs = vcpu.regs_mut();
        (regs.rip, regs.rdi, regs.view) = (CODE, HEAP, view.into());
        step(&mut vcpu)?;
        let exit = vcpu.run().map_err(text)?;
        check(
            &format!("it executes what it wrote: {exit:x?}"),
            matches!(
                exit,
                Exit::Memory {
                    gpa: HEAP,
                    access: Prot::EXEC,
                    cause: MemoryCause::Denied,
                    ..
                }
            ),
        )?;
        // Nor does it write what it executes.
        let regs = vcpu.regs_mut();
        (regs.rip, regs.rdi) = (CODE, CODE);
        let exit = vcpu.run().map_err(text)?;
        check(
            &format!("it writes what it executes: {exit:x?}"),
            matches!(
                exit,
                Exit::Memory {
                    gpa: CODE,
                    access: Prot::WRITE,
                    ..
                }
            ),
        )?;
    }
    // A view cannot add what the region does not have.
    vm.protect_view(view, HEAP, PAGE_SIZE, ALL).map_err(text)?;
    let regs = vcpu.regs_mut();
    (regs.rip, regs.view) = (HEAP, view.into());
    let exit = vcpu.run().map_err(text)?;
    check(
        &format!("a view adds X: {exit:x?}"),
        matches!(
            exit,
            Exit::Memory {
                cause: MemoryCause::Denied,
                ..
            }
        ),
    )
}

/// Two ranges of one file: what is written in one does not come to the other.
fn by_two_ranges_of_a_file() -> Outcome {
    let (vm, mut vcpu) = strict(writes_and_calls())?;
    let file = memory_file(&[0x90; 4096]);
    let (w, x) = (HEAP, HEAP + 0x10_0000);
    vm.map_file(w, PAGE_SIZE, RW, file.as_fd(), 0)
        .map_err(text)?;
    vm.map_file(x, PAGE_SIZE, RX, file.as_fd(), 0)
        .map_err(text)?;
    let regs = vcpu.regs_mut();
    regs.rdi = w;
    step(&mut vcpu)?;
    for vm in [&vm, &vm.share(0).map_err(text)?] {
        let mut bytes = [0; 4];
        vm.read_at(x, &mut bytes).map_err(text)?;
        equal("what is executable", bytes, [0x90; 4])?;
        vm.read_at(w, &mut bytes).map_err(text)?;
        equal("what was written", bytes, [0x0f, 0x01, 0xc1, 0])?;
    }
    Ok(())
}

/// User space cannot write what is executable: not by `pwrite`, nor by a mapping, new or old.
fn by_the_file() -> Outcome {
    let (vm, _) = strict(writes_and_calls())?;
    let result = vm.write_at(CODE, &[0xf4]).map_err(|e| e.errno());
    equal("pwrite", result, Err(Some(libc::EFAULT)))?;
    let memory = vm.memory().map_err(text)?;
    let at = memory.address(CODE, 8).ok_or("no code")?;
    // A system call that writes there fails as the guest's own would.
    let (zero, len) = (std::fs::File::open("/dev/zero").map_err(text)?, 8);
    // SAFETY: The kernel checks the address, and writes nothing where it may not.
    let read = unsafe { libc::read(std::os::fd::AsRawFd::as_raw_fd(&zero), at.cast(), len) };
    equal("read(2) to code", (read, raw::errno()), (-1, libc::EFAULT))?;
    // The data page, through a mapping that was there before: it may be written, and never executed.
    vm.write_at(DATA, &[1]).map_err(text)?;
    refused("data to code", vm.protect(DATA, PAGE_SIZE, RX))
}

/// Clones are as strict, also clones of clones, a template's, and empty ones.
fn by_clones() -> Outcome {
    let (vm, _) = strict(writes_and_calls())?;
    vm.map_anonymous(HEAP, PAGE_SIZE, RW).map_err(text)?;
    let try_all = |vm: &Vm| {
        refused("W to X", vm.protect(HEAP, PAGE_SIZE, RX))?;
        refused("X to W", vm.protect(CODE, PAGE_SIZE, RW))?;
        refused("MAP", vm.map_anonymous(HEAP + PAGE_SIZE, PAGE_SIZE, WX))
    };
    let clone = vm.share(0).map_err(text)?;
    try_all(&clone)?;
    clone.protect(HEAP, PAGE_SIZE, Prot::READ).map_err(text)?;
    let second = clone.share(0).map_err(text)?;
    try_all(&second)?;
    second.freeze().map_err(text)?;
    let third = second.share(0).map_err(text)?;
    third.reset().map_err(text)?;
    try_all(&third)?;
    let empty = third.share_with(0, CloneFlags::EMPTY).map_err(text)?;
    empty.map_anonymous(HEAP, PAGE_SIZE, RW).map_err(text)?;
    empty.map_anonymous(CODE, PAGE_SIZE, RX).map_err(text)?;
    try_all(&empty)
}

/// Without it, all of that is allowed: the tests above test something.
fn without() -> Outcome {
    let device = Device::open().map_err(text)?;
    let vm = device.create_vm(0).map_err(text)?;
    vm.map_anonymous(HEAP, PAGE_SIZE, WX).map_err(text)?;
    vm.protect(HEAP, PAGE_SIZE, RW).map_err(text)?;
    vm.protect(HEAP, PAGE_SIZE, RX).map_err(text)?;
    vm.protect(HEAP, PAGE_SIZE, WX).map_err(text)
}

pub(crate) fn test(tap: &mut Tap) {
    tap.test("W^X: MAP and PROTECT", by_protect);
    tap.test("W^X: the guest, in each view", by_the_guest);
    tap.test("W^X: two ranges of one file", by_two_ranges_of_a_file);
    tap.test("W^X: pwrite and mappings of the VM's file", by_the_file);
    tap.test("W^X: clones", by_clones);
    tap.test("no W^X where it is not asked for", without);
}
