// SPDX-License-Identifier: GPL-2.0

//! Views: what the guest sees in each, how it switches, and how they follow the memory below them.

mod attacks;
mod final_ranges;
mod following;
mod limits;

use uvisor::{Exit, Features, MemoryCause, Prot, ViewCause, ViewFlags, PAGE_SIZE};
use uvisor_tests::guest::has;
use uvisor_tests::heap::{step, text, HEAP};
use uvisor_tests::kernel::{Kernel, SUPERVISOR};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, DATA};

/// All permissions.
const ALL: Prot = Prot::from_bits_truncate(7);
const RW: Prot = Prot::from_bits_truncate(3);

// Switches to the view in r12 by hypercall, reads the word at rsi into rbx and exits; again and again.
code! { by_hypercall:
    "1: movabs $0x7675000000000001, %rax",
    "mov %r12, %rcx",
    "vmcall",
    "mov %rax, %r13",
    "mov (%rsi), %rbx",
    "xor %eax, %eax",
    "vmcall",
    "jmp 1b",
}

// The same by VMFUNC.
code! { by_vmfunc:
    "1: xor %eax, %eax",
    "mov %r12, %rcx",
    "vmfunc",
    "mov (%rsi), %rbx",
    "vmcall",
    "jmp 1b",
}

// Another leaf.
code! { other:
    "mov $1, %eax",
    "xor %ecx, %ecx",
    "vmfunc",
}

// Reads the word at rsi into rbx and exits; then writes rbx there and exits; again and again.
code! { read_write:
    "1: mov (%rsi), %rbx",
    "vmcall",
    "mov %rbx, (%rsi)",
    "vmcall",
    "jmp 1b",
}

/// A guest with four pages of heap: in each, its number times 11.
fn guest(code: &[u8]) -> Result<Guest, String> {
    let guest = Guest::new(code);
    guest
        .vm
        .map_anonymous(HEAP, 4 * PAGE_SIZE, RW)
        .map_err(text)?;
    for page in 0..4_u64 {
        let word = (page * 11).to_le_bytes();
        guest
            .vm
            .write_at(HEAP + page * PAGE_SIZE, &word)
            .map_err(text)?;
    }
    Ok(guest)
}

/// The exit of a guest that reads a hidden page.
fn hidden(gpa: u64, access: Prot) -> Exit {
    Exit::Memory {
        gpa,
        linear: Some(gpa),
        access,
        cause: MemoryCause::Hidden,
    }
}

/// The exit of a guest whose view is not there.
fn gone(view: u64) -> Exit {
    Exit::View {
        view,
        cause: ViewCause::Gone,
    }
}

/// User space puts the vCPU into a view: what that hides is not there, and the exit names it.
fn hides() -> Outcome {
    let mut guest = guest(read_write())?;
    let view = guest
        .vm
        .create_view(ALL, ViewFlags::empty())
        .map_err(text)?;
    equal("the first view", view, 1)?;
    let page = HEAP + PAGE_SIZE;
    guest
        .vm
        .protect_view(view, page, PAGE_SIZE, Prot::empty())
        .map_err(text)?;
    // In view 0 it is there.
    guest.vcpu.regs_mut().rsi = page;
    guest.run_to_hypercall()?;
    equal("in view 0", guest.vcpu.regs().rbx, 11)?;
    guest.run_to_hypercall()?;
    guest.vcpu.regs_mut().view = view.into();
    equal("in the view", guest.run(), hidden(page, Prot::READ))?;
    equal("the view it names", guest.vcpu.regs().view, view.into())?;
    // Its neighbours are there.
    for (at, wanted) in [(HEAP, 0), (HEAP + 2 * PAGE_SIZE, 22)] {
        guest.vcpu.regs_mut().rsi = at;
        guest.run_to_hypercall()?;
        equal("a neighbour", guest.vcpu.regs().rbx, wanted)?;
        guest.run_to_hypercall()?;
    }
    // And back in view 0, so is that.
    guest.vcpu.regs_mut().view = 0;
    guest.vcpu.regs_mut().rsi = page;
    guest.run_to_hypercall()?;
    equal("in view 0 again", guest.vcpu.regs().rbx, 11)
}

/// A page that a view lets read only cannot be written in it, from ring 3 or from ring 0.
fn reads_only() -> Outcome {
    for ring in [3, 0] {
        let mut guest = Kernel::new(read_write(), ring);
        guest.vm.write_at(DATA, &[11]).map_err(text)?;
        let view = guest
            .vm
            .create_view(Prot::READ | Prot::EXEC, ViewFlags::empty())
            .map_err(text)?;
        let base = if ring == 0 { SUPERVISOR } else { 0 };
        let regs = guest.vcpu.regs_mut();
        (regs.rsi, regs.view) = (base + DATA, view.into());
        step(&mut guest.vcpu)?;
        equal("it reads", guest.vcpu.regs().rbx, 11)?;
        equal(
            &format!("it writes in ring {ring}"),
            guest.vcpu.run().map_err(text)?,
            Exit::Memory {
                gpa: DATA,
                linear: Some(base + DATA),
                access: Prot::WRITE,
                cause: MemoryCause::Hidden,
            },
        )?;
        equal("the ring", guest.vcpu.regs().cpl, ring)?;
    }
    Ok(())
}

/// The guest switches by itself, by one way or the other, to the views that it may and to no others.
fn switches(code: &[u8]) -> Outcome {
    let mut guest = guest(code)?;
    let with_key = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
    let without = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
    let not_its_own = guest
        .vm
        .create_view(ALL, ViewFlags::empty())
        .map_err(text)?;
    let page = HEAP + PAGE_SIZE;
    guest
        .vm
        .protect_view(without, page, PAGE_SIZE, Prot::empty())
        .map_err(text)?;
    guest.vcpu.regs_mut().rsi = page;
    for round in 0..3 {
        let regs = guest.vcpu.regs_mut();
        (regs.r12, regs.rbx) = (with_key.into(), 0);
        guest.run_to_hypercall()?;
        equal("the key", guest.vcpu.regs().rbx, 11)?;
        equal("the view", guest.vcpu.regs().view, with_key.into())?;
        let regs = guest.vcpu.regs_mut();
        (regs.r12, regs.rbx) = (without.into(), 0);
        let exit = guest.run();
        equal(&format!("round {round}"), exit, hidden(page, Prot::READ))?;
        equal("the view it names", guest.vcpu.regs().view, without.into())?;
        equal("what it read", guest.vcpu.regs().rbx, 0)?;
        // The other page is there; then on.
        guest.vcpu.regs_mut().rsi = HEAP;
        guest.run_to_hypercall()?;
        guest.vcpu.regs_mut().rsi = page;
    }
    for (view, cause) in [
        (0, ViewCause::Refused),
        (not_its_own.into(), ViewCause::Refused),
        (4, ViewCause::Gone),
        (511, ViewCause::Gone),
        (512, ViewCause::Gone),
        (0xffff_ffff, ViewCause::Gone),
    ] {
        guest.vcpu.regs_mut().r12 = view;
        equal("to another", guest.run(), Exit::View { view, cause })?;
        equal("it stays", guest.vcpu.regs().view, without.into())?;
        // The instruction is not over: with another view, it goes on.
        let regs = guest.vcpu.regs_mut();
        (regs.rcx, regs.r12) = (with_key.into(), with_key.into());
        guest.run_to_hypercall()?;
        equal("then", guest.vcpu.regs().view, with_key.into())?;
        guest.vcpu.regs_mut().r12 = without.into();
        guest.vcpu.regs_mut().rsi = HEAP;
        guest.run_to_hypercall()?;
        guest.vcpu.regs_mut().rsi = page;
    }
    Ok(())
}

/// In a micro-VM without views, there is nothing to switch to.
fn without_views() -> Outcome {
    let mut guest = guest(by_hypercall())?;
    guest.vcpu.regs_mut().r12 = 1;
    equal("by hypercall", guest.run(), gone(1))?;
    guest.vcpu.regs_mut().view = 7;
    equal("by RUN", guest.run(), gone(7))?;
    guest.vcpu.regs_mut().view = u64::MAX;
    equal("by RUN", guest.run(), gone(u64::MAX))?;
    if has(Features::VMFUNC) {
        let mut guest = self::guest(by_vmfunc())?;
        check(
            "VMFUNC is no instruction",
            matches!(guest.run(), Exit::Exception { vector: 6, .. }),
        )?;
    }
    Ok(())
}

/// Other functions than leaf 0 are not there.
fn other_functions() -> Outcome {
    let mut guest = guest(other())?;
    guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
    let exit = guest.run();
    check(
        &format!("VMFUNC leaf 1: {exit:x?}"),
        matches!(
            exit,
            Exit::Privileged { reason: 59, .. } | Exit::Exception { vector: 6, .. }
        ),
    )
}

fn main() {
    let mut tap = Tap::new();
    tap.test("a view hides pages from the guest, and no more", hides);
    tap.test(
        "a view that reads only, in ring 3 and in ring 0",
        reads_only,
    );
    tap.test("the guest switches by hypercall, where it may", || {
        switches(by_hypercall())
    });
    if has(Features::VMFUNC) {
        tap.test("the guest switches by VMFUNC, where it may", || {
            switches(by_vmfunc())
        });
        tap.test("VMFUNC has one leaf", other_functions);
    } else {
        for name in ["the guest switches by VMFUNC", "VMFUNC has one leaf"] {
            tap.skip(name, "this CPU has no VMFUNC");
        }
    }
    tap.test("without views there is nothing to switch to", without_views);
    following::test(&mut tap);
    final_ranges::test(&mut tap);
    attacks::test(&mut tap);
    limits::test(&mut tap);
    tap.finish();
}
