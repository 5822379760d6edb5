// SPDX-License-Identifier: GPL-2.0

//! Views up to their number, and with little memory.

use uvisor::uapi::{ViewCreate, VIEW_CREATE};
use uvisor::{Exit, MemoryCause, Prot, ViewCause, ViewFlags, PAGE_SIZE};
use uvisor_tests::heap::{held, step, text, HEAP};
use uvisor_tests::tap::{equal, Outcome};
use uvisor_tests::{raw, Tap};

use super::{by_hypercall, guest, hidden, read_write, ALL, RW};

/// There can be 511 besides view 0, and a guest can be in each of them.
fn all() -> Outcome {
    let before = held();
    let mut guest = guest(by_hypercall())?;
    for number in 1..512_u32 {
        let view = guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?;
        equal("the number", view, number)?;
        if number % 2 == 0 {
            guest
                .vm
                .protect_view(view, HEAP, PAGE_SIZE, Prot::empty())
                .map_err(text)?;
        }
    }
    let more = guest.vm.create_view(ALL, ViewFlags::GUEST);
    equal(
        "one more",
        more.map_err(|e| e.errno()),
        Err(Some(libc::ENOSPC)),
    )?;
    guest.vcpu.regs_mut().rsi = HEAP;
    for number in 1..512_u64 {
        guest.vcpu.regs_mut().r12 = number;
        if number % 2 == 0 {
            equal("an even one", guest.run(), hidden(HEAP, Prot::READ))?;
            guest.vcpu.regs_mut().rsi = HEAP + PAGE_SIZE;
            step(&mut guest.vcpu)?;
            guest.vcpu.regs_mut().rsi = HEAP;
        } else {
            step(&mut guest.vcpu)?;
            equal("an odd one", guest.vcpu.regs().rbx, 0)?;
        }
        equal("the view", guest.vcpu.regs().view, number)?;
    }
    // A write in view 0 is seen in all of them.
    guest.vm.write_at(HEAP, &[42]).map_err(text)?;
    for number in (1..512_u64).step_by(100) {
        guest.vcpu.regs_mut().r12 = number;
        step(&mut guest.vcpu)?;
        equal("in a view", guest.vcpu.regs().rbx, 42)?;
    }
    for number in (1..512).rev() {
        guest.vm.destroy_view(number).map_err(text)?;
    }
    let stats = guest.vm.stats().map_err(text)?;
    equal("charged", stats.charged, stats.private + stats.tables)?;
    drop(guest);
    equal("held after all", held(), before)
}

/// Whichever allocation fails, what was to be in the view comes when there is memory, and nothing is lost.
fn each_failure() -> Outcome {
    let before = held();
    for limit in 1..40 {
        let mut guest = guest(read_write())?;
        let used = guest.vm.stats().map_err(text)?.charged / PAGE_SIZE;
        guest
            .vm
            .set_memory_limit((used + limit) * PAGE_SIZE)
            .map_err(text)?;
        let create = || guest.vm.create_view(ALL, ViewFlags::GUEST);
        let view = match create() {
            Ok(view) => view,
            Err(error) => {
                equal("no memory", error.errno(), Some(libc::ENOMEM))?;
                guest.vm.set_memory_limit(0).map_err(text)?;
                create().map_err(text)?
            }
        };
        guest.vcpu.regs_mut().view = view.into();
        guest.vcpu.regs_mut().rsi = HEAP + PAGE_SIZE;
        let mut exit = guest.run();
        match exit {
            Exit::View { cause, .. } => equal("the view", cause, ViewCause::Limit)?,
            Exit::Memory { cause, .. } => equal("the page", cause, MemoryCause::Limit)?,
            _ => {}
        }
        if !matches!(exit, Exit::Hypercall { .. }) {
            guest.vm.set_memory_limit(0).map_err(text)?;
            exit = guest.run();
        }
        equal("with memory", exit, Exit::Hypercall { ring: 3 })?;
        equal("what it read", guest.vcpu.regs().rbx, 11)?;
        guest.vm.destroy_view(view).map_err(text)?;
        drop(guest);
        equal("held after all", held(), before)?;
    }
    Ok(())
}

/// What VIEW_* refuse.
fn refused() -> Outcome {
    let guest = guest(read_write())?;
    let errno = |result: uvisor::Result<()>| result.map_err(|e| e.errno());
    let fails = |what: &str, result: uvisor::Result<()>, number: i32| {
        equal(what, errno(result), Err(Some(number)))
    };
    let create = |prot| guest.vm.create_view(prot, ViewFlags::empty());
    fails("write alone", create(Prot::WRITE).map(drop), libc::EINVAL)?;
    for (flags, prot, reserved) in [(0, 8, 0), (2, 3, 0), (0, 3, 1)] {
        let mut create = ViewCreate {
            flags,
            prot,
            reserved,
            ..ViewCreate::new()
        };
        raw::fails(
            "unknown bits",
            raw::ioctl_with(&guest.vm, VIEW_CREATE, &mut create),
            libc::EINVAL,
        )?;
    }
    let view = create(RW).map_err(text)?;
    let protect = |view, gpa, len, prot| guest.vm.protect_view(view, gpa, len, prot);
    for none in [0, view + 1, 512, u32::MAX] {
        fails("no view", protect(none, HEAP, PAGE_SIZE, RW), libc::ENOENT)?;
        fails("no view", guest.vm.destroy_view(none), libc::ENOENT)?;
    }
    fails(
        "an unaligned start",
        protect(view, HEAP + 1, PAGE_SIZE, RW),
        libc::EINVAL,
    )?;
    fails("nothing", protect(view, HEAP, 0, RW), libc::EINVAL)?;
    fails(
        "write alone",
        protect(view, HEAP, PAGE_SIZE, Prot::WRITE),
        libc::EINVAL,
    )?;
    fails(
        "too far",
        protect(view, 1 << 52, PAGE_SIZE, RW),
        libc::EINVAL,
    )?;
    // Where nothing is mapped it is a limit for what will be.
    protect(view, 1 << 30, PAGE_SIZE, RW).map_err(text)?;
    guest.vm.destroy_view(view).map_err(text)?;
    fails("twice", guest.vm.destroy_view(view), libc::ENOENT)
}

pub(crate) fn test(tap: &mut Tap) {
    tap.test(
        "what VIEW_CREATE, VIEW_PROTECT and VIEW_DESTROY refuse",
        refused,
    );
    tap.test("512 views", all);
    tap.test("views at each memory limit", each_failure);
}
