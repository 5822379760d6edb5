// SPDX-License-Identifier: GPL-2.0

//! Clones and templates while something else goes on, and many of them in a row.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use uvisor::{Exit, Prot, Vm, PAGE_SIZE};
use uvisor_tests::heap::{add, held, parent, step, text, word, HEAP};
use uvisor_tests::host::memory_file;
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::Guest;

use crate::count;

/// Templates of templates, each of which only the next one keeps: they go without a long way down.
pub(crate) fn chain_of_templates() -> Outcome {
    const LINKS: u64 = 1000;
    let guest = parent(add(), 4)?;
    let mut last = guest.vm.share(0).map_err(text)?;
    drop(guest);
    for link in 0..LINKS {
        last.write_at(HEAP, &link.to_le_bytes()).map_err(text)?;
        last.freeze().map_err(text)?;
        let next = last.share(0).map_err(text)?;
        equal("pages to reset", next.reset().map_err(text)?, 0)?;
        last = next;
    }
    equal("first word", word(&last, 0)?, LINKS - 1)?;
    last.freeze().map_err(text)?;
    let errno = last.diff().map(drop).map_err(|e| e.errno());
    equal("DIFF of a template", errno, Err(Some(libc::EINVAL)))?;
    drop(last);
    equal("held", held(), 0)
}

/// More ranges that differ than one call lists.
pub(crate) fn many_ranges() -> Outcome {
    const PAGES: u64 = 1400;
    let guest = parent(add(), PAGES)?;
    guest.vm.freeze().map_err(text)?;
    let clone = guest.vm.share(0).map_err(text)?;
    for page in (0..PAGES).step_by(2) {
        clone
            .write_at(HEAP + page * PAGE_SIZE, &[7])
            .map_err(text)?;
    }
    let wanted: Vec<_> = (0..PAGES)
        .step_by(2)
        .map(|page| HEAP + page * PAGE_SIZE..HEAP + (page + 1) * PAGE_SIZE)
        .collect();
    equal("ranges", clone.diff().map_err(text)?, wanted)?;
    equal("pages", clone.reset().map_err(text)?, PAGES / 2)
}

/// A clone that has all that it may have can be reset.
pub(crate) fn at_the_limit() -> Outcome {
    let guest = parent(add(), 100)?;
    guest.vm.freeze().map_err(text)?;
    let clone = guest.vm.share(9 * PAGE_SIZE).map_err(text)?;
    for round in 0..3 {
        let mut pages = 0;
        while clone.write_at(HEAP + pages * PAGE_SIZE, &[9]).is_ok() {
            pages += 1;
        }
        equal(&format!("round {round}: pages"), pages, 5)?;
        equal("given back", clone.reset().map_err(text)?, 5)?;
    }
    Ok(())
}

/// A file's pages in clones: the file's own until one writes, and the file's again after a reset.
pub(crate) fn files() -> Outcome {
    const FILE: u64 = 0x2000_0000;
    let guest = parent(add(), 1)?;
    let file = memory_file(&[3; 3 * 4096]);
    let rw = Prot::READ | Prot::WRITE;
    guest
        .vm
        .map_file(FILE, 3 * PAGE_SIZE, rw, file.as_fd(), 0)
        .map_err(text)?;
    let byte = |vm: &Vm, page: u64| -> Result<u8, String> {
        let mut byte = [0];
        vm.read_at(FILE + page * PAGE_SIZE, &mut byte)
            .map_err(text)?;
        Ok(byte[0])
    };
    // One page read, one written, one never touched.
    equal("read", byte(&guest.vm, 0)?, 3)?;
    guest.vm.write_at(FILE + PAGE_SIZE, &[4]).map_err(text)?;
    guest.vm.freeze().map_err(text)?;
    let before = held();
    let clones = [(); 2].map(|()| guest.vm.share(0));
    let [one, other] = clones;
    let (one, other) = (one.map_err(text)?, other.map_err(text)?);
    for page in 0..3 {
        one.write_at(FILE + page * PAGE_SIZE, &[8]).map_err(text)?;
    }
    let seen =
        |vm: &Vm| -> Result<[u8; 3], String> { Ok([byte(vm, 0)?, byte(vm, 1)?, byte(vm, 2)?]) };
    equal("the one", seen(&one)?, [8; 3])?;
    equal("the other", seen(&other)?, [3, 4, 3])?;
    equal("the template", seen(&guest.vm)?, [3, 4, 3])?;
    equal("given back", one.reset().map_err(text)?, 3)?;
    equal("the one again", seen(&one)?, [3, 4, 3])?;
    drop((one, other));
    equal("held", held(), before)
}

/// FREEZE and RESET end what vCPUs and mappings could do, while both are in the midst of it.
pub(crate) fn in_use() -> Outcome {
    let mut guest = Guest::new(count());
    let rw = Prot::READ | Prot::WRITE;
    guest
        .vm
        .map_anonymous(HEAP, 2 * PAGE_SIZE, rw)
        .map_err(text)?;
    guest.vcpu.regs_mut().rdi = HEAP;
    let template = guest.vm;
    let mut vcpu = guest.vcpu;
    let runner = std::thread::spawn(move || (vcpu.run().map_err(|e| e.errno()), vcpu));
    std::thread::sleep(Duration::from_millis(5));
    template.freeze().map_err(text)?;
    let counted = word(&template, 0)?;
    let (exit, source) = runner.join().map_err(|_| "the runner")?;
    equal("RUN", exit, Err(Some(libc::EROFS)))?;
    check("it counted", counted > 0)?;
    equal("it stays", word(&template, 0)?, counted)?;

    let clone = Arc::new(template.share(0).map_err(text)?);
    let memory = clone.memory().map_err(text)?;
    // SAFETY: The address is in the mapping, and only this thread uses it.
    let at = unsafe { memory.base().as_ptr().add(HEAP as usize).cast::<u64>() };
    for round in 0..5 {
        let mut vcpu = clone.create_vcpu_from(&source).map_err(text)?;
        let kicker = vcpu.kicker();
        let runner = std::thread::spawn(move || vcpu.run());
        std::thread::sleep(Duration::from_millis(2));
        // A mapping that may write.
        // SAFETY: As above.
        unsafe { at.add(512).write_volatile(0xdead) };
        clone.reset().map_err(text)?;
        kicker.kick().map_err(text)?;
        let exit = runner.join().map_err(|_| "the runner")?.map_err(text)?;
        equal("RUN", exit, Exit::Interrupted)?;
        clone.reset().map_err(text)?;
        // SAFETY: As above.
        let seen = unsafe { at.read_volatile() };
        equal(&format!("round {round}, by the mapping"), seen, counted)?;
        // SAFETY: As above.
        unsafe { at.write_volatile(1) };
        equal("the template's", word(&template, 0)?, counted)?;
        equal("the clone's", word(&clone, 0)?, 1)?;
    }
    Ok(())
}

/// Several threads copy one idle vCPU.
pub(crate) fn in_parallel() -> Outcome {
    let guest = parent(add(), 2)?;
    guest.vm.freeze().map_err(text)?;
    let guest = Arc::new(guest);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let guest = Arc::clone(&guest);
            std::thread::spawn(move || -> Outcome {
                for _ in 0..100 {
                    let clone = guest.vm.share(0).map_err(text)?;
                    let mut vcpu = clone.create_vcpu_from(&guest.vcpu).map_err(text)?;
                    step(&mut vcpu)?;
                    equal("word", word(&clone, 1)?, 2)?;
                }
                Ok(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a thread")??;
    }
    equal("the template's", word(&guest.vm, 1)?, 1)
}
