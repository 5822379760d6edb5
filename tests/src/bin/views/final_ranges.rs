// SPDX-License-Identifier: GPL-2.0

//! SEAL: nothing changes a sealed range any more.

use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use uvisor::{Features, Prot, ViewFlags, Vm, PAGE_SIZE};
use uvisor_tests::guest::has;
use uvisor_tests::heap::{held, text, HEAP};
use uvisor_tests::host::memory_file;
use uvisor_tests::tap::{equal, Outcome};
use uvisor_tests::{code, Guest, Tap};

use super::{guest, read_write, ALL, RW};

/// Where a file is mapped.
const FILE: u64 = 0x3000_0000;

/// The error number of a call.
fn errno(result: uvisor::Result<()>) -> Result<(), Option<i32>> {
    result.map_err(|e| e.errno())
}

/// What all calls that would change a range of `pages` pages from `at` on say.
fn unchangeable(vm: &Vm, at: u64, pages: u64) -> Outcome {
    let perm = Err(Some(libc::EPERM));
    let len = pages * PAGE_SIZE;
    for prot in [Prot::READ, RW, Prot::READ | Prot::EXEC, Prot::empty()] {
        equal("PROTECT", errno(vm.protect(at, len, prot)), perm)?;
    }
    equal("UNMAP", errno(vm.unmap(at, len)), perm)?;
    equal("DISCARD", errno(vm.discard(at, len)), perm)?;
    equal("UNMAP of all", errno(vm.unmap(0, 1 << 36)), perm)?;
    equal(
        "MAP over it",
        errno(vm.map_anonymous(at, len, RW)),
        Err(Some(libc::EEXIST)),
    )?;
    equal(
        "pwrite",
        errno(vm.write_at(at, &[1])),
        Err(Some(libc::EFAULT)),
    )?;
    // Again is no harm.
    equal("SEAL", errno(vm.seal(at, len)), Ok(()))
}

/// A sealed range of memory.
fn memory() -> Outcome {
    let guest = guest(read_write())?;
    let (page, len) = (HEAP + PAGE_SIZE, 2 * PAGE_SIZE);
    equal(
        "writable",
        errno(guest.vm.seal(page, len)),
        Err(Some(libc::EACCES)),
    )?;
    equal(
        "unmapped in part",
        errno(guest.vm.seal(HEAP, 5 * PAGE_SIZE)),
        Err(Some(libc::ENOMEM)),
    )?;
    guest.vm.protect(page, len, Prot::READ).map_err(text)?;
    let view = guest
        .vm
        .create_view(ALL, ViewFlags::empty())
        .map_err(text)?;
    guest
        .vm
        .protect_view(view, page, PAGE_SIZE, Prot::empty())
        .map_err(text)?;
    guest.vm.seal(page, len).map_err(text)?;
    unchangeable(&guest.vm, page, 2)?;
    unchangeable(&guest.vm, page + PAGE_SIZE, 1)?;
    for view in [
        view,
        guest.vm.create_view(ALL, ViewFlags::GUEST).map_err(text)?,
    ] {
        equal(
            "VIEW_PROTECT",
            errno(guest.vm.protect_view(view, HEAP, 4 * PAGE_SIZE, ALL)),
            Err(Some(libc::EPERM)),
        )?;
    }
    // Its neighbours change as before.
    guest.vm.write_at(HEAP, &[5]).map_err(text)?;
    guest
        .vm
        .unmap(HEAP + 3 * PAGE_SIZE, PAGE_SIZE)
        .map_err(text)?;
    // A clone has it sealed as well, and so has a clone of a template, reset or not.
    let clone = guest.vm.share(0).map_err(text)?;
    unchangeable(&clone, page, 2)?;
    guest.vm.freeze().map_err(text)?;
    let clone = guest.vm.share(0).map_err(text)?;
    clone.reset().map_err(text)?;
    unchangeable(&clone, page, 2)?;
    let mut bytes = [0; 8];
    clone.read_at(page, &mut bytes).map_err(text)?;
    equal("the content", u64::from_le_bytes(bytes), 11)
}

/// A sealed range of a file does not change with the file, neither pages that were read nor others.
fn file() -> Outcome {
    let before = held();
    let guest = Guest::new(read_write());
    let mut file = memory_file(&[7; 3 * 4096]);
    guest
        .vm
        .map_file(FILE, 4 * PAGE_SIZE, Prot::READ, file.as_fd(), 0)
        .map_err(text)?;
    // Behind what the file does not have.
    let last = FILE + 4 * PAGE_SIZE;
    let end = memory_file(&[3; 4096]);
    guest
        .vm
        .map_file(last, PAGE_SIZE, Prot::READ, end.as_fd(), 0)
        .map_err(text)?;
    let read = |at: u64| {
        let mut byte = [0];
        guest.vm.read_at(at, &mut byte).map_err(text)?;
        Ok::<_, String>(byte[0])
    };
    let mut write = |byte: u8| {
        file.seek(SeekFrom::Start(0)).map_err(text)?;
        file.write_all(&[byte; 3 * 4096]).map_err(text)
    };
    equal("before", read(FILE)?, 7)?;
    write(8)?;
    equal("not sealed", read(FILE)?, 8)?;
    guest.vm.seal(FILE, 2 * PAGE_SIZE).map_err(text)?;
    write(9)?;
    for page in 0..2 {
        equal("sealed", read(FILE + page * PAGE_SIZE)?, 8)?;
    }
    equal("its neighbour", read(FILE + 2 * PAGE_SIZE)?, 9)?;
    unchangeable(&guest.vm, FILE, 2)?;
    file.set_len(0).map_err(text)?;
    equal("of a file that is empty now", read(FILE + PAGE_SIZE)?, 8)?;
    equal(
        "a page that the file does not have",
        errno(guest.vm.seal(FILE + 2 * PAGE_SIZE, 3 * PAGE_SIZE)),
        Err(Some(libc::ENODATA)),
    )?;
    end.write_at(&[4], 0).map_err(text)?;
    equal("what lies behind it is sealed", read(last)?, 3)?;
    drop(guest);
    equal("held after all", held(), before)
}

/// Where there is not enough memory for all pages of a file, the call says so, and can be repeated.
fn at_the_limit() -> Outcome {
    const PAGES: u64 = 8;
    let file = memory_file(&[7; PAGES as usize * 4096]);
    for limit in 0..PAGES + 6 {
        let guest = Guest::new(read_write());
        let (at, len) = (FILE, PAGES * PAGE_SIZE);
        guest
            .vm
            .map_file(at, len, Prot::READ, file.as_fd(), 0)
            .map_err(text)?;
        let used = guest.vm.stats().map_err(text)?.charged;
        guest
            .vm
            .set_memory_limit(used + limit * PAGE_SIZE)
            .map_err(text)?;
        match errno(guest.vm.seal(at, len)) {
            Ok(()) => {}
            other => {
                equal("no memory", other, Err(Some(libc::ENOBUFS)))?;
                equal(
                    "sealed all the same",
                    errno(guest.vm.unmap(at, len)),
                    Err(Some(libc::EPERM)),
                )?;
                guest.vm.set_memory_limit(0).map_err(text)?;
                guest.vm.seal(at, len).map_err(text)?;
            }
        }
        let stats = guest.vm.stats().map_err(text)?;
        // But the page of code, which the guest has not read yet.
        equal("pages that are the file's", stats.file, 0)?;
        equal("pages of its own", stats.private, len)?;
    }
    Ok(())
}

/// A clone that is made while a range is being sealed either has it sealed with its content, or not sealed, or
/// is refused; so is a template.
fn clones_meanwhile() -> Outcome {
    const PAGES: u64 = 2048;
    let file = memory_file(&vec![7; PAGES as usize * 4096]);
    let mut busy = 0;
    for round in 0..6 {
        let vm = Arc::new(Guest::new(read_write()).vm);
        let (at, len) = (FILE, PAGES * PAGE_SIZE);
        vm.map_file(at, len, Prot::READ, file.as_fd(), 0)
            .map_err(text)?;
        let sealer = Arc::clone(&vm);
        let thread = std::thread::spawn(move || sealer.seal(at, len).map_err(text));
        while !thread.is_finished() {
            let clone = match vm.share(0) {
                Ok(clone) => clone,
                Err(error) => {
                    equal("refused", error.errno(), Some(libc::EBUSY))?;
                    busy += 1;
                    continue;
                }
            };
            if clone.unmap(at, len).is_err() {
                let stats = clone.stats().map_err(text)?;
                equal("pages of a sealed range that are the file's", stats.file, 0)?;
                equal("its own", stats.shared >= len, true)?;
            }
        }
        thread.join().map_err(|_| "panic".to_owned())??;
        vm.freeze().map_err(text)?;
        let stats = vm.stats().map_err(text)?;
        equal(&format!("round {round}: the file's"), stats.file, 0)?;
    }
    println!("# {busy} clones were refused");
    Ok(())
}

// Reads its own code into rbx, then exits.
code! { reads_itself:
    "1: lea 1b(%rip), %rsi",
    "mov (%rsi), %rbx",
    "vmcall",
}

/// Code that can be executed and not read.
fn execute_only() -> Outcome {
    let mut guest = Guest::new(reads_itself());
    guest
        .vm
        .protect(uvisor_tests::CODE, PAGE_SIZE, Prot::EXEC)
        .map_err(text)?;
    let exit = guest.run();
    let wanted = uvisor::Exit::Memory {
        gpa: uvisor_tests::CODE,
        linear: Some(uvisor_tests::CODE),
        access: Prot::READ,
        cause: uvisor::MemoryCause::Denied,
    };
    equal("it reads its code", exit, wanted)?;
    let mut byte = [0];
    equal(
        "so does user space",
        errno(guest.vm.read_at(uvisor_tests::CODE, &mut byte)),
        Err(Some(libc::EFAULT)),
    )?;
    // In a view that executes only, with a region that could be read.
    let mut guest = Guest::new(reads_itself());
    let view = guest
        .vm
        .create_view(ALL, ViewFlags::empty())
        .map_err(text)?;
    guest
        .vm
        .protect_view(view, uvisor_tests::CODE, PAGE_SIZE, Prot::EXEC)
        .map_err(text)?;
    guest.vcpu.regs_mut().view = view.into();
    let wanted = super::hidden(uvisor_tests::CODE, Prot::READ);
    equal("it reads its code in the view", guest.run(), wanted)?;
    guest.vcpu.regs_mut().view = 0;
    guest.run_to_hypercall()
}

pub(crate) fn test(tap: &mut Tap) {
    tap.test("SEAL: memory", memory);
    tap.test("SEAL: a file", file);
    tap.test("SEAL at each memory limit", at_the_limit);
    tap.test("clones while a range is being sealed", clones_meanwhile);
    if has(Features::EXEC_ONLY) {
        tap.test("execute-only code", execute_only);
    } else {
        tap.skip("execute-only code", "this CPU has no execute-only pages");
    }
}
