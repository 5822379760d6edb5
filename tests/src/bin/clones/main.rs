// SPDX-License-Identifier: GPL-2.0

//! Clones, templates and resets: what one does, the others do not see.

mod disposal;
mod hard;
mod inside;
mod limits;

use uvisor::{Event, Exit, Prot, Vm, PAGE_SIZE};
use uvisor_tests::heap::{add, held, parent, step, text, word, HEAP};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, CODE, DATA};

// Counts in memory, without end.
code! { count:
    "1: incq (%rdi)",
    "incq 4096(%rdi)",
    "jmp 1b",
}

// Loads a vector register from rdi and exits; then stores it to rsi and exits.
code! { vector:
    "movups (%rdi), %xmm7",
    "vmcall",
    "movups %xmm7, (%rsi)",
    "vmcall",
}

/// A clone sees its parent's memory as it was, goes on where the parent's vCPU was, and from then on each
/// has its own.
fn clone_and_parent() -> Outcome {
    const PAGES: u64 = 700;
    let mut parent = parent(add(), PAGES)?;
    let clone = parent.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    equal("rip", vcpu.regs().rip, parent.vcpu.regs().rip)?;
    vcpu.regs_mut().rdx = 100;
    step(&mut vcpu)?;
    parent.run_to_hypercall()?;
    parent.run_to_hypercall()?;
    for page in [0, 1, 511, 512, PAGES - 1] {
        equal("the clone's", word(&clone, page)?, 101)?;
        equal("the parent's", word(&parent.vm, page)?, 3)?;
    }
    // A clone of the clone, made before its own next step.
    let second = clone.share(0).map_err(text)?;
    step(&mut vcpu)?;
    drop(clone);
    drop(vcpu);
    equal("the second's", word(&second, 3)?, 101)?;
    drop(parent);
    equal("the second's, alone", word(&second, 3)?, 101)
}

/// What clones have in common is there once.
fn counted_once() -> Outcome {
    const PAGES: u64 = 1000;
    let mut parent = parent(add(), PAGES)?;
    let before = held();
    let clones: Vec<Vm> = (0..20)
        .map(|_| parent.vm.share(0).map_err(text))
        .collect::<Result<_, _>>()?;
    equal("a root each", held() - before, 20 * PAGE_SIZE)?;
    let stats = clones[7].stats().map_err(text)?;
    equal("private", stats.private, 0)?;
    check(
        &format!(
            "shared {} of {PAGES} pages and tables",
            stats.shared / PAGE_SIZE
        ),
        stats.shared >= PAGES * PAGE_SIZE,
    )?;
    clones[7].write_at(HEAP, &[1]).map_err(text)?;
    let stats = clones[7].stats().map_err(text)?;
    equal("private after a write", stats.private, PAGE_SIZE)?;
    equal("tables", stats.tables, 4 * PAGE_SIZE)?;
    equal("charged", stats.charged, 5 * PAGE_SIZE)?;
    let all = clones.iter().chain([&parent.vm]);
    let charged: Result<Vec<u64>, String> = all
        .map(|vm| Ok(vm.stats().map_err(text)?.charged))
        .collect();
    equal("the sum of all", charged?.iter().sum(), held())?;
    parent.run_to_hypercall()?;
    equal("the clone's first", word(&clones[0], 0)?, 1)?;
    drop(parent);
    drop(clones);
    equal("held after all", held(), 0)
}

/// Whether a process that reads and then writes a page of heap through a mapping is ended by SIGBUS.
fn dies_writing(vm: &Vm) -> bool {
    // SAFETY: There is one thread; the child makes a mapping, as it inherits none, touches it and ends.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            if let Ok(memory) = vm.memory() {
                let at = memory.base().as_ptr().add(HEAP as usize);
                at.read_volatile();
                at.write_volatile(77);
            }
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGBUS
    }
}

/// A template does not change, and does not run.
fn frozen() -> Outcome {
    let mut parent = parent(add(), 8)?;
    let memory = parent.vm.memory().map_err(text)?;
    parent.vm.freeze().map_err(text)?;
    let errno = |result: uvisor::Result<()>| result.map_err(|e| e.errno());
    let rofs = Err(Some(libc::EROFS));
    let rw = Prot::READ | Prot::WRITE;
    equal(
        "RUN",
        parent.vcpu.run().map_err(|e| e.errno()),
        Err(Some(libc::EROFS)),
    )?;
    equal("pwrite", errno(parent.vm.write_at(HEAP, &[9])), rofs)?;
    equal(
        "MAP",
        errno(parent.vm.map_anonymous(0x7000_0000, PAGE_SIZE, rw)),
        rofs,
    )?;
    equal("UNMAP", errno(parent.vm.unmap(HEAP, PAGE_SIZE)), rofs)?;
    equal(
        "PROTECT",
        errno(parent.vm.protect(HEAP, PAGE_SIZE, Prot::READ)),
        rofs,
    )?;
    equal("DISCARD", errno(parent.vm.discard(HEAP, PAGE_SIZE)), rofs)?;
    equal(
        "RESET",
        parent.vm.reset().map_err(|e| e.errno()),
        Err(Some(libc::EINVAL)),
    )?;
    equal(
        "VCPU_CREATE",
        parent
            .vm
            .create_vcpu(0, 0, 0)
            .map(drop)
            .map_err(|e| e.errno()),
        rofs,
    )?;
    // A read through the mapping works, and does not open it for writing.
    // SAFETY: The address is mapped, and nobody writes there.
    let seen = unsafe { memory.base().as_ptr().add(HEAP as usize).read_volatile() };
    equal("a read", seen, 1)?;
    check("a write raises SIGBUS", dies_writing(&parent.vm))?;
    equal("unchanged", word(&parent.vm, 0)?, 1)?;
    // Memory that it has and never touched is still zero in it and in a clone.
    let clone = parent.vm.share(0).map_err(text)?;
    let mut page = [1; 16];
    parent.vm.read_at(DATA, &mut page).map_err(text)?;
    equal("untouched", page, [0; 16])?;
    clone.write_at(DATA, &[5]).map_err(text)?;
    parent.vm.read_at(DATA, &mut page).map_err(text)?;
    equal("untouched still", page, [0; 16])
}

/// A reset clone is equal to its template, in memory and registers, and costs what it changed.
fn reset() -> Outcome {
    const PAGES: u64 = 600;
    let parent = parent(add(), PAGES)?;
    parent.vm.freeze().map_err(text)?;
    let before = held();
    let clone = parent.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    let after = held();
    for round in 1..4u64 {
        vcpu.regs_mut().rcx = 10 * round;
        vcpu.regs_mut().gs_base = 0x1234_5000;
        step(&mut vcpu)?;
        clone
            .map_anonymous(0x7000_0000, PAGE_SIZE, Prot::READ)
            .map_err(text)?;
        clone
            .unmap(HEAP + 300 * PAGE_SIZE, 2 * PAGE_SIZE)
            .map_err(text)?;
        clone
            .discard(HEAP + 400 * PAGE_SIZE, PAGE_SIZE)
            .map_err(text)?;
        let diff = clone.diff().map_err(text)?;
        let pages = |from: u64, to: u64| HEAP + from * PAGE_SIZE..HEAP + to * PAGE_SIZE;
        equal(
            "diff",
            diff,
            vec![pages(0, 10 * round), pages(300, 302), pages(400, 401)],
        )?;
        equal("pages given back", clone.reset().map_err(text)?, 10 * round)?;
        equal("diff after the reset", clone.diff().map_err(text)?, vec![])?;
        // It may keep 16 tables and 16 frames for its next changes.
        let kept = held() - after;
        check(&format!("kept {kept}"), kept <= 32 * PAGE_SIZE)?;
        vcpu.reset().map_err(text)?;
        equal("registers", vcpu.regs(), parent.vcpu.regs())?;
        for page in 0..PAGES {
            equal("word", word(&clone, page)?, 1)?;
        }
        let fault = clone.map_anonymous(0x7000_0000, PAGE_SIZE, Prot::READ);
        equal("the region is gone", fault.map_err(|e| e.errno()), Ok(()))?;
        clone.reset().map_err(text)?;
    }
    // The vCPU runs after a reset as the template's would.
    vcpu.regs_mut().rcx = 1;
    step(&mut vcpu)?;
    equal("first word", word(&clone, 0)?, 2)?;
    drop((vcpu, clone));
    equal("held at the end", held(), before)
}

/// Vector registers come along, and back.
fn vectors() -> Outcome {
    let mut guest = Guest::new(vector());
    guest.vm.write_at(DATA, &[0xa5; 16]).map_err(text)?;
    (guest.vcpu.regs_mut().rdi, guest.vcpu.regs_mut().rsi) = (DATA, DATA + 64);
    guest.run_to_hypercall()?;
    let other = uvisor_tests::guest::Guest::new(vector());
    guest.vm.freeze().map_err(text)?;
    let clone = guest.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&guest.vcpu).map_err(text)?;
    let stored = |clone: &Vm| -> Result<[u8; 16], String> {
        let mut bytes = [0; 16];
        clone.read_at(DATA + 64, &mut bytes).map_err(text)?;
        Ok(bytes)
    };
    step(&mut vcpu)?;
    equal("copied", stored(&clone)?, [0xa5; 16])?;
    // Something else in the register, then a reset.
    clone.write_at(DATA, &[0x11; 16]).map_err(text)?;
    vcpu.regs_mut().rip = CODE;
    step(&mut vcpu)?;
    clone.reset().map_err(text)?;
    vcpu.reset().map_err(text)?;
    step(&mut vcpu)?;
    equal("after the reset", stored(&clone)?, [0xa5; 16])?;
    drop(other);
    Ok(())
}

/// Clones of clones, fifty deep, each with a page of its own; gone in an order of their own.
fn depth() -> Outcome {
    const DEPTH: u64 = 50;
    let first = parent(add(), DEPTH)?;
    let mut line = vec![first.vm.share(0).map_err(text)?];
    for depth in 1..DEPTH {
        let last = &line[line.len() - 1];
        last.write_at(HEAP + depth * PAGE_SIZE, &depth.to_le_bytes())
            .map_err(text)?;
        let next = last.share(0).map_err(text)?;
        line.push(next);
    }
    for (number, vm) in line.iter().enumerate() {
        for depth in 1..DEPTH {
            let wanted = if depth <= number as u64 + 1 { depth } else { 1 };
            equal(
                &format!("clone {number}, page {depth}"),
                word(vm, depth)?,
                wanted,
            )?;
        }
    }
    while line.len() > 1 {
        line.swap_remove(line.len() / 2);
    }
    drop(line);
    drop(first);
    equal("held", held(), 0)
}

/// A clone of a running micro-VM is of one point in time, and its writes are nobody else's.
fn while_it_runs() -> Outcome {
    let mut guest = Guest::new(count());
    guest
        .vm
        .map_anonymous(HEAP, 2 * PAGE_SIZE, Prot::READ | Prot::WRITE)
        .map_err(text)?;
    guest.vcpu.regs_mut().rdi = HEAP;
    let vm = std::sync::Arc::new(guest.vm);
    let kicker = guest.vcpu.kicker();
    let mut vcpu = guest.vcpu;
    let runner = std::thread::spawn(move || vcpu.run());
    let mut last = 0;
    let mut clones = Vec::new();
    for round in 0..40 {
        std::thread::sleep(std::time::Duration::from_micros(300));
        let clone = vm.share(0).map_err(text)?;
        // The guest counts the one word first: at any point in time it is equal, or one more.
        let (one, other) = (word(&clone, 0)?, word(&clone, 1)?);
        check(
            &format!("round {round}: {one} and {other}"),
            one == other || one == other + 1,
        )?;
        check(&format!("round {round}: {one} after {last}"), one >= last)?;
        last = one;
        std::thread::sleep(std::time::Duration::from_micros(100));
        equal(
            "it stays",
            (word(&clone, 0)?, word(&clone, 1)?),
            (one, other),
        )?;
        clones.push((clone, one));
    }
    kicker.kick().map_err(text)?;
    let exit = runner.join().map_err(|_| "the runner")?.map_err(text)?;
    equal("exit", exit, Exit::Interrupted)?;
    check("it counted", last > 0)?;
    for (clone, one) in &clones {
        equal("they all stay", word(clone, 0)?, *one)?;
    }
    Ok(())
}

/// The clone that is left takes over instead of copying.
fn takes_over() -> Outcome {
    let parent = parent(add(), 20)?;
    let clone = parent.vm.share(0).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    drop(parent);
    let before = held();
    step(&mut vcpu)?;
    equal("held", held(), before)?;
    let stats = clone.stats().map_err(text)?;
    equal("copied", stats.events[Event::FrameCopied as usize], 0)?;
    equal("taken over", stats.events[Event::FrameReused as usize], 20)
}

/// What the calls refuse.
fn errors() -> Outcome {
    let guest = Guest::new(add());
    let clone = guest.vm.share(0).map_err(text)?;
    let einval = Err(Some(libc::EINVAL));
    equal(
        "RESET of a clone of no template",
        clone.reset().map(drop).map_err(|e| e.errno()),
        einval,
    )?;
    equal(
        "DIFF of one",
        clone.diff().map(drop).map_err(|e| e.errno()),
        einval,
    )?;
    let mut vcpu = guest.another_vcpu();
    equal(
        "VCPU_RESET of one without a source",
        vcpu.reset().map_err(|e| e.errno()),
        einval,
    )?;
    equal(
        "a limit below a page",
        guest.vm.share(1).map(drop).map_err(|e| e.errno()),
        einval,
    )
}

fn main() {
    let mut tap = Tap::new();
    tap.test(
        "a clone has its parent's memory and registers, and each goes its own way",
        clone_and_parent,
    );
    tap.test("what clones have in common is there once", counted_once);
    tap.test("a template does not change and does not run", frozen);
    tap.test("a reset clone is equal to its template", reset);
    tap.test("vector registers come along, and back", vectors);
    tap.test("clones of clones, fifty deep", depth);
    tap.test(
        "a clone of a running micro-VM is of one point in time",
        while_it_runs,
    );
    tap.test("the limit of a clone", limits::of_a_clone);
    tap.test("a limit in common", limits::in_common);
    tap.test(
        "whichever allocation fails, nothing is half-done",
        limits::each,
    );
    tap.test("the last clone takes over", takes_over);
    tap.test("a chain of templates", hard::chain_of_templates);
    tap.test(
        "more ranges that differ than one call lists",
        hard::many_ranges,
    );
    tap.test("a clone at its limit can be reset", hard::at_the_limit);
    tap.test("a file's pages in clones", hard::files);
    tap.test("FREEZE and RESET of what is in use", hard::in_use);
    tap.test("clones made by several threads", hard::in_parallel);
    tap.test(
        "nothing is left in any register after a reset",
        disposal::registers,
    );
    tap.test("copies in the window, and user mappings", inside::copies);
    tap.test("zeros in frames that were used", inside::zeros);
    tap.test("limits and what is kept", inside::limits);
    tap.test("errors", errors);
    tap.finish();
}
