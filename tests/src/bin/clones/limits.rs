// SPDX-License-Identifier: GPL-2.0

//! Clones that may have little: what fails leaves nothing half-done.

use uvisor::{CloneFlags, Prot, Vm, PAGE_SIZE};
use uvisor_tests::heap::{add, held, parent, step, sum, text, word, HEAP};
use uvisor_tests::tap::{check, equal, Outcome};

/// The limit of a clone is for what it has besides what it shares.
pub(crate) fn of_a_clone() -> Outcome {
    let parent = parent(sum(), 100)?;
    // A root, three tables and three frames.
    let clone = parent.vm.share(7 * PAGE_SIZE).map_err(text)?;
    let mut vcpu = clone.create_vcpu_from(&parent.vcpu).map_err(text)?;
    step(&mut vcpu)?;
    for page in 0..3 {
        clone
            .write_at(HEAP + page * PAGE_SIZE, &[1])
            .map_err(text)?;
    }
    let fourth = clone.write_at(HEAP + 3 * PAGE_SIZE, &[1]);
    equal(
        "a fourth",
        fourth.map_err(|e| e.errno()),
        Err(Some(libc::ENOMEM)),
    )?;
    clone.set_memory_limit(8 * PAGE_SIZE).map_err(text)?;
    clone.write_at(HEAP + 3 * PAGE_SIZE, &[1]).map_err(text)?;
    // Where not even a table can be had, nothing is half-done.
    let poor = parent.vm.share(2 * PAGE_SIZE).map_err(text)?;
    let error = poor.write_at(HEAP, &[1]).map_err(|e| e.errno());
    equal("no room for the tables", error, Err(Some(libc::ENOMEM)))?;
    equal(
        "UNMAP of a part",
        poor.unmap(HEAP, PAGE_SIZE).map_err(|e| e.errno()),
        Err(Some(libc::ENOMEM)),
    )?;
    equal("still there", word(&poor, 0)?, 0)?;
    poor.unmap(HEAP, 100 * PAGE_SIZE).or_else(|_| {
        poor.set_memory_limit(0).map_err(text)?;
        poor.unmap(HEAP, 100 * PAGE_SIZE).map_err(text)
    })?;
    equal("the parent's", word(&parent.vm, 0)?, 0)
}

/// Several can have one limit, whatever they are made from.
pub(crate) fn in_common() -> Outcome {
    let parent = parent(sum(), 100)?;
    let vm = &parent.vm;
    let charged = |vm: &Vm| vm.stats().map(|stats| stats.charged).map_err(text);
    let free = 40 * PAGE_SIZE;
    let total = charged(vm)? + free;
    vm.set_memory_limit(total).map_err(text)?;
    let clone = vm.share_with(0, CloneFlags::JOINT).map_err(text)?;
    let flags = CloneFlags::JOINT | CloneFlags::EMPTY;
    let empty = clone.share_with(0, flags).map_err(text)?;
    let alone = vm.share(0).map_err(text)?;
    equal("a region of the empty one", word(&empty, 0).is_err(), true)?;
    let rw = Prot::READ | Prot::WRITE;
    empty
        .map_anonymous(HEAP, 100 * PAGE_SIZE, rw)
        .map_err(text)?;
    // In turns, until there is no more for any of them.
    let write = |vm: &Vm, page| vm.write_at(HEAP + page * PAGE_SIZE, &[1]);
    let all = [vm, &clone, &empty];
    let full = (0..60).find(|page| all.iter().any(|vm| write(vm, *page).is_err()));
    check(&format!("full at {full:?}"), matches!(full, Some(5..40)))?;
    // Those that one has at hand it may use, and no more.
    let more = |vm: &Vm| (60..100).filter(|page| write(vm, *page).is_ok()).count();
    let more: usize = all.iter().map(|vm| more(vm)).sum();
    check(&format!("{more} more"), more < 48)?;
    let mut sum = 0;
    for vm in all {
        sum += charged(vm)?;
    }
    check(
        &format!("{sum} of {total}"),
        sum <= total && total - sum < 4 * PAGE_SIZE,
    )?;
    write(&alone, 99).map_err(text)?;
    // What one gives back the others can have; and the limit of one is that of all.
    drop(empty);
    write(&clone, 59).map_err(text)?;
    clone.set_memory_limit(2 * total).map_err(text)?;
    equal(
        "the limit",
        vm.stats().map_err(text)?.memory_limit,
        2 * total,
    )?;
    for (limit, flags) in [(PAGE_SIZE, CloneFlags::JOINT), (2 * total, flags)] {
        let refused = vm.share_with(limit, flags).map_err(|error| error.errno());
        equal(
            "a limit of its own",
            refused.err(),
            Some(Some(libc::EINVAL)),
        )?;
    }
    Ok(())
}

/// Whichever allocation fails, nothing is half-done, and nothing is lost.
pub(crate) fn each() -> Outcome {
    const PAGES: u64 = 1200;
    let parent = parent(add(), PAGES)?;
    parent.vm.freeze().map_err(text)?;
    let before = held();
    let rw = Prot::READ | Prot::WRITE;
    let part = |vm: &Vm| vm.unmap(HEAP + 5 * PAGE_SIZE, 600 * PAGE_SIZE);
    type Change<'a> = (&'static str, &'a dyn Fn(&Vm) -> uvisor::Result<()>);
    let changes: [Change<'_>; 5] = [
        ("write", &|vm| vm.write_at(HEAP + 700 * PAGE_SIZE, &[9])),
        ("unmap", &part),
        ("protect", &|vm| {
            vm.protect(HEAP + PAGE_SIZE, 1100 * PAGE_SIZE, Prot::READ)
        }),
        ("discard", &|vm| {
            vm.discard(HEAP + 3 * PAGE_SIZE, 800 * PAGE_SIZE)
        }),
        ("map", &|vm| {
            vm.map_anonymous(0x7000_0000, PAGE_SIZE, rw)?;
            vm.write_at(0x7000_0000, &[1])
        }),
    ];
    for (name, change) in changes {
        let mut failed = 0;
        for limit in 1..12 {
            let clone = parent.vm.share(limit * PAGE_SIZE).map_err(text)?;
            match change(&clone) {
                Ok(()) => break,
                Err(error) if error.errno() == Some(libc::ENOMEM) => failed += 1,
                Err(error) => return Err(format!("{name} at {limit} pages: {error}")),
            }
            for page in [0, 5, 600, 700, PAGES - 1] {
                equal(
                    &format!("{name} at {limit}: page {page}"),
                    word(&clone, page)?,
                    1,
                )?;
            }
            clone.set_memory_limit(0).map_err(text)?;
            let again = change(&clone).or_else(|error| match error.errno() {
                // The region is there; only its page was missing.
                Some(libc::EEXIST) => clone.write_at(0x7000_0000, &[1]),
                _ => Err(error),
            });
            again.map_err(|error| format!("{name} again: {error}"))?;
            clone.reset().map_err(text)?;
            equal(
                &format!("{name} at {limit}"),
                clone.diff().map_err(text)?,
                vec![],
            )?;
        }
        check(
            &format!("{name} failed {failed} times"),
            (2..11).contains(&failed),
        )?;
        equal("held", held(), before)?;
    }
    Ok(())
}
