// SPDX-License-Identifier: GPL-2.0

//! Faults that the module serves without leaving the window: as others see them, there is no difference.

use uvisor::{Event, Prot, Stats, Vcpu, Vm, PAGE_SIZE};
use uvisor_tests::heap::{add, parent, step, text, word, HEAP};
use uvisor_tests::tap::{check, equal, Outcome};

/// How many pages there are: more than the module tells apart where user mappings may have them.
const PAGES: u64 = 2100;

/// How often something happened between two looks.
fn since(before: &Stats, vm: &Vm, event: Event) -> Result<u64, String> {
    let now = vm.stats().map_err(text)?;
    Ok(now.events[event as usize] - before.events[event as usize])
}

/// Lets the guest add `value` to the first words of `count` pages from `page` on.
fn run(vcpu: &mut Vcpu, page: u64, count: u64, value: u64) -> Outcome {
    let regs = vcpu.regs_mut();
    (regs.rdi, regs.rcx, regs.rdx) = (HEAP + page * PAGE_SIZE, count, value);
    step(vcpu)
}

/// Copies are made there, and a mapping of the memory that had the page before sees the copy.
pub(crate) fn copies() -> Outcome {
    let parent = parent(add(), PAGES)?;
    parent.vm.freeze().map_err(text)?;
    let clone = parent.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    let memory = clone.memory().map_err(text)?;
    let mapped = |page: u64| -> u64 {
        let at = memory
            .address(HEAP + page * PAGE_SIZE, 8)
            .expect("an address");
        // SAFETY: Memory of the guest, which does not run now.
        unsafe { at.cast::<u64>().read_volatile() }
    };
    // The mapping has some; others have the same place in what the module remembers of it.
    let seen = [3, 8, 40, 41, 1064, 2000];
    for page in seen {
        equal("at first", mapped(page), 1)?;
    }
    let before = clone.stats().map_err(text)?;
    run(&mut vcpu, 0, PAGES, 5)?;
    for page in (0..PAGES).rev() {
        equal(&format!("page {page}, mapped"), mapped(page), 6)?;
    }
    for page in seen {
        equal("read", word(&clone, page)?, 6)?;
        equal("the template's", word(&parent.vm, page)?, 1)?;
    }
    equal("copied", since(&before, &clone, Event::FrameCopied)?, PAGES)?;
    let windows = since(&before, &clone, Event::WindowOwned)?
        + since(&before, &clone, Event::WindowBorrowed)?;
    // One of eight needs frames; some more were mapped, or have to do with tables.
    check(&format!("{windows} windows"), windows < PAGES / 4)?;
    // The mapping writes, and the guest goes on from there; from the template's memory again as well.
    for round in 0..3 {
        let at = memory
            .address(HEAP + 41 * PAGE_SIZE, 8)
            .expect("an address");
        // SAFETY: As above.
        unsafe { at.cast::<u64>().write_volatile(100) };
        run(&mut vcpu, 40, 3, 7)?;
        let first = if round == 0 { 6 } else { 1 };
        equal(
            "written",
            [40, 41, 42].map(mapped),
            [first + 7, 107, first + 7],
        )?;
        clone.reset().map_err(text)?;
        vcpu.reset().map_err(text)?;
        equal("reset", [40, 41, 42].map(mapped), [1; 3])?;
    }
    equal("the template's", word(&parent.vm, 41)?, 1)
}

/// Frames that the micro-VM had before are zero where zeros are wanted.
pub(crate) fn zeros() -> Outcome {
    const NEW: u64 = 0x7000_0000;
    let parent = parent(add(), PAGES)?;
    parent.vm.freeze().map_err(text)?;
    let clone = parent.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    for round in 0..4 {
        run(&mut vcpu, 100, 60, u64::MAX)?;
        clone.reset().map_err(text)?;
        vcpu.reset().map_err(text)?;
        let rw = Prot::READ | Prot::WRITE;
        clone
            .map_anonymous(NEW, 100 * PAGE_SIZE, rw)
            .map_err(text)?;
        let before = clone.stats().map_err(text)?;
        let regs = vcpu.regs_mut();
        (regs.rdi, regs.rcx, regs.rdx) = (NEW, 100, 1);
        step(&mut vcpu)?;
        equal("zeroed", since(&before, &clone, Event::FrameZeroed)?, 100)?;
        let mut page = vec![0; PAGE_SIZE as usize];
        for number in 0..100 {
            clone
                .read_at(NEW + number * PAGE_SIZE, &mut page)
                .map_err(text)?;
            check(
                &format!("round {round}, page {number} has only what was written"),
                page[0] == 1 && page[1..].iter().all(|&byte| byte == 0),
            )?;
        }
        clone.reset().map_err(text)?;
        vcpu.reset().map_err(text)?;
    }
    Ok(())
}

/// The last page of a limit can be had, whatever is kept for later; and a lower limit is one at once.
pub(crate) fn limits() -> Outcome {
    let parent = parent(add(), PAGES)?;
    parent.vm.freeze().map_err(text)?;
    for limit in [20, 33, 100] {
        // A root, three tables, and frames.
        let clone = parent.vm.share(limit * PAGE_SIZE).map_err(text)?;
        let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
        run(&mut vcpu, 0, limit - 4, 1)?;
        let stats = clone.stats().map_err(text)?;
        equal("private", stats.private, (limit - 4) * PAGE_SIZE)?;
        equal("charged", stats.charged, limit * PAGE_SIZE)?;
        check("one more", run(&mut vcpu, limit - 4, 1, 1).is_err())?;
        let stats = clone.stats().map_err(text)?;
        equal("charged still", stats.charged, limit * PAGE_SIZE)?;
    }
    let clone = parent.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    run(&mut vcpu, 0, 20, 1)?;
    let held = clone.stats().map_err(text)?;
    clone
        .set_memory_limit(held.private + held.tables)
        .map_err(text)?;
    check("at a lower limit", run(&mut vcpu, 20, 1, 1).is_err())?;
    let now = clone.stats().map_err(text)?;
    equal("nothing is kept", now.charged, now.private + now.tables)
}
