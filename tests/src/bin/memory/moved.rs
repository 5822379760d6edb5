// SPDX-License-Identifier: GPL-2.0

//! Ranges that are moved by REMAP.

use uvisor::{Event, MemoryCause, Prot, Vm, PAGE_SIZE};
use uvisor_tests::host::memory_file;
use uvisor_tests::tap::{equal, Outcome};
use uvisor_tests::{probe, Guest};

use crate::machine::{Machine, Read, Write, AT, PAGE};

const RW: Prot = Prot::READ.union(Prot::WRITE);
/// A second place, in other tables.
const THERE: u64 = AT + 0x8000_0000;

fn text(error: uvisor::Error) -> String {
    error.to_string()
}

fn remap(vm: &Vm, at: u64, pages: u64, there: u64, there_pages: u64) -> Outcome {
    let from = at..at + pages * PAGE_SIZE;
    let to = there..there + there_pages * PAGE_SIZE;
    vm.remap(from, to).map_err(text)
}

/// How many frames were made so far.
fn made(machine: &Machine) -> Result<u64, String> {
    let events = machine.stats()?.events;
    Ok(events[Event::FrameCopied as usize] + events[Event::FrameZeroed as usize])
}

/// Content and permission go along, nothing is copied, and nobody reaches the old place.
pub(crate) fn anonymous() -> Outcome {
    const PAGES: u64 = 1100;
    let mut machine = Machine::new();
    machine.map(AT, PAGES, RW)?;
    let written = [0, 1, 511, 512, 700, PAGES - 1];
    for page in written {
        machine.write(AT + page * PAGE_SIZE, 100 + page)?;
    }
    machine.protect(AT + 700 * PAGE_SIZE, 1, Prot::READ)?;
    let window = machine.window(AT, 1)?;
    probe::store(window.at(8), 7).map_err(|e| format!("signal {e}"))?;
    let private = machine.stats()?.private;
    let before = made(&machine)?;
    // Three regions, each by itself; the last one grows.
    remap(machine.vm(), AT, 700, THERE + PAGE_SIZE, 700)?;
    let (at, there) = (AT + 700 * PAGE_SIZE, THERE + 701 * PAGE_SIZE);
    remap(machine.vm(), at, 1, there, 1)?;
    let (at, there) = (at + PAGE_SIZE, there + PAGE_SIZE);
    remap(machine.vm(), at, PAGES - 701, there, PAGES)?;
    equal("frames made", made(&machine)?, before)?;
    equal("private", machine.stats()?.private, private)?;
    equal(
        "the host at the old place",
        probe::load(window.at(8)),
        Err(libc::SIGBUS),
    )?;
    for page in written {
        machine.refused(Read, AT + page * PAGE_SIZE, MemoryCause::Unmapped)?;
        let there = THERE + (page + 1) * PAGE_SIZE;
        equal("moved", machine.read(there)?, 100 + page)?;
    }
    equal("by the host", machine.read(THERE + PAGE_SIZE + 8)?, 7)?;
    let read_only = THERE + 701 * PAGE_SIZE;
    machine.refused(Write, read_only, MemoryCause::Denied)?;
    machine.write(read_only - PAGE_SIZE, 5)?;
    let behind = THERE + (PAGES + 1) * PAGE_SIZE;
    equal("what is longer", machine.read(behind)?, 0)?;
    machine.write(behind + PAGE_SIZE, 6)?;
    // The old place can be mapped again.
    machine.map(AT, PAGES, RW)?;
    equal("new memory", machine.read(AT)?, 0)?;
    let window = machine.window(AT, 1)?;
    equal("by the host", probe::load(window.at(8)), Ok(0))
}

/// A file's pages stay the file's, and written ones copies.
pub(crate) fn file() -> Outcome {
    let mut machine = Machine::new();
    let mut bytes = vec![1; 4 * PAGE];
    bytes[3 * PAGE..].fill(4);
    let file = memory_file(&bytes);
    machine.map_file(AT, 2, RW, &file, PAGE_SIZE)?;
    equal("read", machine.read(AT)? & 0xff, 1)?;
    machine.write(AT + PAGE_SIZE, 9)?;
    let before = machine.stats()?;
    remap(machine.vm(), AT, 2, THERE, 3)?;
    let stats = machine.stats()?;
    equal("file pages", stats.file, before.file)?;
    equal("private pages", stats.private, before.private)?;
    equal("the file's", machine.read(THERE)? & 0xff, 1)?;
    equal("the copy", machine.read(THERE + PAGE_SIZE)?, 9)?;
    equal(
        "the next one",
        machine.read(THERE + 2 * PAGE_SIZE)? & 0xff,
        4,
    )?;
    // Part of a shared mapping, inside of it.
    machine.map_shared(AT, 4, RW, &file, 0)?;
    machine.write(AT + PAGE_SIZE, 10)?;
    remap(machine.vm(), AT + PAGE_SIZE, 2, AT + 8 * PAGE_SIZE, 2)?;
    machine.write(AT + 8 * PAGE_SIZE + 8, 11)?;
    equal("the file's own copy at first", machine.read(THERE)?, 10)?;
    equal("written in place", machine.read(THERE + 8)?, 11)?;
    machine.refused(Read, AT + PAGE_SIZE, MemoryCause::Unmapped)?;
    equal("before it", machine.read(AT)? & 0xff, 1)?;
    equal("behind it", machine.read(AT + 3 * PAGE_SIZE)? & 0xff, 4)
}

/// What one of them moves, the other has where it was.
pub(crate) fn of_a_clone() -> Outcome {
    let mut machine = Machine::new();
    machine.map(AT, 600, RW)?;
    for page in [0, 599] {
        machine.write(AT + page * PAGE_SIZE, 1 + page)?;
    }
    let clone = machine.vm().share(0).map_err(text)?;
    remap(&clone, AT, 600, THERE, 600)?;
    let word = |at: u64| {
        let mut bytes = [0; 8];
        let read = clone.read_at(at, &mut bytes).map_err(|e| e.errno());
        read.map(|()| u64::from_le_bytes(bytes))
    };
    equal("moved", word(THERE), Ok(1))?;
    equal("moved", word(THERE + 599 * PAGE_SIZE), Ok(600))?;
    equal("from there", word(AT), Err(Some(libc::EFAULT)))?;
    clone.write_at(THERE, &[7]).map_err(text)?;
    equal("the parent's", machine.read(AT)?, 1)?;
    machine.write(AT, 2)?;
    equal("the clone's", word(THERE), Ok(7))?;
    machine.refused(Read, THERE, MemoryCause::Unmapped)?;
    // A clone of a template is put back.
    machine.vm().freeze().map_err(text)?;
    let clone = machine.vm().share(0).map_err(text)?;
    remap(&clone, AT, 300, THERE, 300)?;
    clone.write_at(THERE, &[8]).map_err(text)?;
    clone.reset().map_err(text)?;
    let mut byte = [0];
    clone.read_at(AT, &mut byte).map_err(text)?;
    equal("put back", byte, [2])?;
    let gone = clone.read_at(THERE, &mut byte).map_err(|e| e.errno());
    equal("from there", gone, Err(Some(libc::EFAULT)))
}

/// With no memory for tables nothing happens.
pub(crate) fn limit() -> Outcome {
    let guest = Guest::new(&[]);
    let vm = &guest.vm;
    vm.map_anonymous(AT, 600 * PAGE_SIZE, RW).map_err(text)?;
    for page in [0, 511, 599] {
        let at = AT + page * PAGE_SIZE;
        vm.write_at(at, &[1 + page as u8]).map_err(text)?;
    }
    let before = vm.stats().map_err(text)?;
    for more in 0..8 {
        let limit = before.charged + more * PAGE_SIZE;
        vm.set_memory_limit(limit).map_err(text)?;
        let moved = vm.remap(AT..AT + 600 * PAGE_SIZE, THERE..THERE + 600 * PAGE_SIZE);
        let (at, done) = match moved {
            Ok(()) => (THERE, true),
            Err(error) => {
                equal("errno", error.errno(), Some(libc::ENOMEM))?;
                let stats = vm.stats().map_err(text)?;
                equal("tables", stats.tables, before.tables)?;
                equal("charged", stats.charged <= before.charged, true)?;
                (AT, false)
            }
        };
        for page in [0, 511, 599] {
            let mut byte = [0];
            vm.read_at(at + page * PAGE_SIZE, &mut byte).map_err(text)?;
            equal("content", byte, [1 + page as u8])?;
        }
        if done {
            return equal("some failed before", more > 0, true);
        }
    }
    Err("never enough memory".into())
}
