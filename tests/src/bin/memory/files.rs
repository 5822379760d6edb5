// SPDX-License-Identifier: GPL-2.0

//! Pages of files.

use std::os::unix::fs::FileExt;

use uvisor::{Event, MemoryCause, Prot, PAGE_SIZE};
use uvisor_tests::host::memory_file;
use uvisor_tests::probe;
use uvisor_tests::raw::{mmap, munmap};
use uvisor_tests::tap::{equal, Outcome};

use crate::machine::{Machine, Read, Write, AT, PAGE};

/// The guest and the host have the very same page of a file.
pub(crate) fn shared_file() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[1; 2 * PAGE]);
    let before = machine.stats()?;
    machine.map_file(AT, 2, Prot::READ, &file, 0)?;
    equal("read", machine.read(AT)? & 0xff, 1)?;
    let stats = machine.stats()?;
    equal("file pages", stats.file - before.file, PAGE_SIZE)?;
    equal("private pages", stats.private, before.private)?;
    for value in [2u8, 3] {
        file.write_all_at(&[value; 8], 0)
            .map_err(|e| e.to_string())?;
        equal(
            "after write(2)",
            machine.read(AT)?,
            u64::from_le_bytes([value; 8]),
        )?;
    }
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let host = mmap(Some(&file), PAGE, rw, libc::MAP_SHARED, 0).map_err(|e| e.to_string())?;
    probe::store(host, 9).map_err(|e| format!("signal {e}"))?;
    let seen = machine.read(AT)? & 0xff;
    munmap(host, PAGE);
    equal("after a store of the host's", seen, 9)?;
    // A second micro-VM has the same page, too.
    let mut other = Machine::new();
    other.map_file(AT, 1, Prot::READ, &file, 0)?;
    equal("in another micro-VM", other.read(AT)? & 0xff, 9)?;
    refused_write(&mut machine)
}

fn refused_write(machine: &mut Machine) -> Outcome {
    machine.refused(Write, AT, MemoryCause::Denied)
}

/// What the guest writes to a file's page is its own from then on.
pub(crate) fn copied_file() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[1; 4 * PAGE]);
    machine.map_file(AT, 4, Prot::READ | Prot::WRITE, &file, 0)?;
    let before = machine.stats()?;
    // One page is read before it is written, one is written at once.
    equal("read", machine.read(AT)? & 0xff, 1)?;
    machine.write(AT + 8, 7)?;
    machine.write(AT + PAGE_SIZE, 8)?;
    let stats = machine.stats()?;
    equal("private", stats.private - before.private, 2 * PAGE_SIZE)?;
    equal("file", stats.file, before.file)?;
    let copied = |s: &uvisor::Stats| s.events[Event::FrameCopied as usize];
    equal("copies", copied(&stats) - copied(&before), 2)?;
    let mut bytes = [0; 16];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| e.to_string())?;
    equal("the file", bytes, [1; 16])?;
    file.write_all_at(&[5; 4 * PAGE], 0)
        .map_err(|e| e.to_string())?;
    equal("the copy, not written part", machine.read(AT)? & 0xff, 1)?;
    equal("the copy, written part", machine.read(AT + 8)?, 7)?;
    equal("the other copy", machine.read(AT + PAGE_SIZE)?, 8)?;
    equal(
        "a page without a copy",
        machine.read(AT + 2 * PAGE_SIZE)? & 0xff,
        5,
    )?;
    // By the host's hand, too.
    machine
        .vm()
        .write_at(AT + 3 * PAGE_SIZE, &[6])
        .map_err(|e| e.to_string())?;
    equal(
        "written by pwrite",
        machine.read(AT + 3 * PAGE_SIZE)? & 0xffff,
        0x0506,
    )?;
    file.read_exact_at(&mut bytes, 3 * PAGE_SIZE)
        .map_err(|e| e.to_string())?;
    equal("the file after pwrite", bytes, [5; 16])
}

/// Where a file ends, and what happens when it is cut off.
pub(crate) fn file_end() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[]);
    file.set_len(PAGE_SIZE + 10).map_err(|e| e.to_string())?;
    file.write_all_at(&[0xff; 10], PAGE_SIZE)
        .map_err(|e| e.to_string())?;
    machine.map_file(AT, 4, Prot::READ, &file, 0)?;
    equal("a hole", machine.read(AT)?, 0)?;
    equal(
        "the last bytes",
        machine.read(AT + PAGE_SIZE + 2)?,
        u64::MAX,
    )?;
    equal(
        "half behind the end",
        machine.read(AT + PAGE_SIZE + 8)?,
        0xffff,
    )?;
    equal("behind the end", machine.read(AT + 2 * PAGE_SIZE - 8)?, 0)?;
    machine.refused(Read, AT + 2 * PAGE_SIZE, MemoryCause::FileEnd)?;
    machine.refused(Read, AT + 3 * PAGE_SIZE + 8, MemoryCause::FileEnd)?;
    file.set_len(3 * PAGE_SIZE).map_err(|e| e.to_string())?;
    equal("the file grew", machine.read(AT + 2 * PAGE_SIZE)?, 0)?;
    file.set_len(100).map_err(|e| e.to_string())?;
    // A page that was never touched is gone; one that is mapped stays until it is unmapped.
    let mut fresh = Machine::new();
    fresh.map_file(AT, 4, Prot::READ, &file, 0)?;
    equal("the rest", fresh.read(AT)?, 0)?;
    fresh.refused(Read, AT + PAGE_SIZE, MemoryCause::FileEnd)?;
    machine.unmap(AT, 4)?;
    machine.map_file(AT, 4, Prot::READ, &file, PAGE_SIZE)?;
    machine.refused(Read, AT, MemoryCause::FileEnd)
}
