// SPDX-License-Identifier: GPL-2.0

//! Files that are written in place.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use uvisor::{Event, MemoryCause, Prot, Vm, PAGE_SIZE};
use uvisor_tests::host::memory_file;
use uvisor_tests::raw::{errno, fails, mmap, munmap, works};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{probe, DATA};

use crate::machine::{Machine, Read, Write, AT, PAGE};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// The word at an offset of a file.
fn word(file: &File, offset: u64) -> Result<u64, String> {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offset)
        .map_err(|e| e.to_string())?;
    Ok(u64::from_le_bytes(bytes))
}

/// The word at an address of a micro-VM.
fn guest_word(vm: &Vm, at: u64) -> Result<u64, String> {
    let mut bytes = [0; 8];
    vm.read_at(at, &mut bytes).map_err(|e| e.to_string())?;
    Ok(u64::from_le_bytes(bytes))
}

/// Whoever writes, all see it at once: the guest, another one, the host's mappings, and read(2) and write(2).
pub(crate) fn in_place() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[1; 3 * PAGE]);
    let before = machine.stats()?;
    machine.map_shared(AT, 3, RW, &file, 0)?;
    // One page is read before it is written, one is written at once.
    equal("read", machine.read(AT)? & 0xff, 1)?;
    machine.write(AT + 8, 7)?;
    machine.write(AT + PAGE_SIZE, 8)?;
    equal("in the file", word(&file, 8)?, 7)?;
    equal("in its second page", word(&file, PAGE_SIZE)?, 8)?;
    file.write_all_at(&[9; 8], 8).map_err(|e| e.to_string())?;
    equal("after write(2)", machine.read(AT + 8)? & 0xff, 9)?;
    let mut other = Machine::new();
    other.map_shared(AT + PAGE_SIZE, 3, RW, &file, 0)?;
    other.write(AT + PAGE_SIZE + 16, 10)?;
    equal("after another guest's write", machine.read(AT + 16)?, 10)?;
    let host = mmap(Some(&file), PAGE, 3, libc::MAP_SHARED, 0).map_err(|e| e.to_string())?;
    let stored = probe::store(host, 11).map_err(|e| format!("signal {e}"));
    let seen = machine.read(AT)? & 0xff;
    munmap(host, PAGE);
    stored?;
    equal("after a store of the host's", seen, 11)?;
    // By way of the micro-VM's file, too.
    let vm = machine.vm();
    vm.write_at(AT + 24, &[12]).map_err(|e| e.to_string())?;
    equal("after pwrite", word(&file, 24)? & 0xff, 12)?;
    let window = machine.window(AT + 2 * PAGE_SIZE, 1)?;
    probe::load(window.at(0)).map_err(|e| format!("signal {e}"))?;
    probe::store(window.at(0), 13).map_err(|e| format!("signal {e}"))?;
    equal("after a store", word(&file, 2 * PAGE_SIZE)? & 0xff, 13)?;
    equal("in the guest", machine.read(AT + 2 * PAGE_SIZE)? & 0xff, 13)?;
    let stats = machine.stats()?;
    equal("file pages", stats.file - before.file, 3 * PAGE_SIZE)?;
    equal("private pages", stats.private, before.private)?;
    let copied = |s: &uvisor::Stats| s.events[Event::FrameCopied as usize];
    equal("copies", copied(&stats), copied(&before))
}

/// A hole is filled by who touches it; behind the end there is nothing; what was cut off stays with who has it.
pub(crate) fn holes() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[]);
    file.set_len(3 * PAGE_SIZE).map_err(|e| e.to_string())?;
    let blocks = || {
        file.metadata()
            .map(|m| m.blocks())
            .map_err(|e| e.to_string())
    };
    machine.map_shared(AT, 4, RW, &file, 0)?;
    equal("blocks before", blocks()?, 0)?;
    machine.write(AT + PAGE_SIZE, 5)?;
    equal("blocks after a write", blocks()?, PAGE_SIZE / 512)?;
    equal("a hole", machine.read(AT)?, 0)?;
    equal("blocks after a read", blocks()?, 2 * PAGE_SIZE / 512)?;
    machine.refused(Write, AT + 3 * PAGE_SIZE, MemoryCause::FileEnd)?;
    file.set_len(4 * PAGE_SIZE).map_err(|e| e.to_string())?;
    machine.write(AT + 3 * PAGE_SIZE, 6)?;
    equal("behind the old end", word(&file, 3 * PAGE_SIZE)?, 6)?;
    file.set_len(PAGE_SIZE).map_err(|e| e.to_string())?;
    equal("cut off", machine.read(AT + 3 * PAGE_SIZE)?, 6)?;
    machine.write(AT + 3 * PAGE_SIZE, 7)?;
    equal("blocks of the rest", blocks()?, PAGE_SIZE / 512)?;
    machine.refused(Write, AT + 2 * PAGE_SIZE, MemoryCause::FileEnd)?;
    let vm = machine.vm();
    vm.discard(AT, 4 * PAGE_SIZE).map_err(|e| e.to_string())?;
    machine.refused(Read, AT + 3 * PAGE_SIZE, MemoryCause::FileEnd)?;
    file.set_len(4 * PAGE_SIZE).map_err(|e| e.to_string())?;
    equal("grown again", machine.read(AT + 3 * PAGE_SIZE)?, 0)
}

/// What only the guest wrote is not lost when the kernel looks for memory.
pub(crate) fn kept() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[]);
    file.set_len(2 * PAGE_SIZE).map_err(|e| e.to_string())?;
    machine.map_shared(AT, 1, RW, &file, 0)?;
    machine.map_shared(AT + PAGE_SIZE, 1, Prot::READ, &file, PAGE_SIZE)?;
    for page in 0..2 {
        equal("a hole", machine.read(AT + page * PAGE_SIZE)?, 0)?;
    }
    machine.protect(AT + PAGE_SIZE, 1, RW)?;
    for page in 0..2 {
        machine.write(AT + page * PAGE_SIZE, 0x77 + page)?;
    }
    machine.unmap(AT, 2)?;
    let host = mmap(Some(&file), 2 * PAGE, 1, libc::MAP_SHARED, 0).map_err(|e| e.to_string())?;
    let done = (|| {
        for page in 0..2 {
            let at = host.wrapping_add(page * PAGE);
            let seen = probe::load(at).map_err(|e| format!("signal {e}"))?;
            equal("seen by the host", seen, 0x77 + page as u8)?;
        }
        // SAFETY: The range is mapped; nothing of it is lost to who looks at it.
        let result = unsafe { libc::madvise(host.cast(), 2 * PAGE, libc::MADV_PAGEOUT) };
        equal("madvise", result, 0)?;
        for page in 0..2 {
            let at = host.wrapping_add(page * PAGE);
            let seen = probe::load(at).map_err(|e| format!("signal {e}"))?;
            equal("seen after it", seen, 0x77 + page as u8)?;
        }
        Ok(())
    })();
    munmap(host, 2 * PAGE);
    done
}

/// Another descriptor of a memory file, read-only.
fn read_only(file: &File) -> Result<File, String> {
    File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(|e| e.to_string())
}

/// Whether it may be written to is settled when it is mapped.
pub(crate) fn permission() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[1; PAGE]);
    machine.map_shared(AT, 1, Prot::READ, &file, 0)?;
    equal("read", machine.read(AT)? & 0xff, 1)?;
    machine.refused(Write, AT, MemoryCause::Denied)?;
    machine.protect(AT, 1, RW)?;
    machine.write(AT, 2)?;
    machine.protect(AT, 1, Prot::READ)?;
    machine.refused(Write, AT, MemoryCause::Denied)?;
    equal("in the file", word(&file, 0)?, 2)?;
    let errno = |result: uvisor::Result<()>| result.map_err(|e| e.errno().unwrap_or(0));
    let vm = machine.vm();
    fails("SEAL", errno(vm.seal(AT, PAGE_SIZE)), libc::EACCES)?;
    let reader = read_only(&file)?;
    let at = AT + PAGE_SIZE;
    let share = |prot| errno(vm.map_shared(at, PAGE_SIZE, prot, fd(&reader), 0));
    fails("SHARED, to write, of a reader", share(RW), libc::EACCES)?;
    works("SHARED of a reader", share(Prot::READ))?;
    let protect = |prot| errno(vm.protect(at, PAGE_SIZE, prot));
    fails("PROTECT to write", protect(RW), libc::EACCES)?;
    fails(
        "PROTECT of both",
        errno(vm.protect(AT, 2 * PAGE_SIZE, RW)),
        libc::EACCES,
    )?;
    works("PROTECT to nothing", protect(Prot::empty()))?;
    fails("PROTECT from nothing", protect(RW), libc::EACCES)?;
    works("PROTECT to read", protect(Prot::READ))?;
    equal("read again", machine.read(at)?, 2)?;
    machine.refused(Write, AT, MemoryCause::Denied)?;
    machine.refused(Write, at, MemoryCause::Denied)
}

fn fd(file: &File) -> std::os::fd::BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(file)
}

/// A memory file with a hole, that can be sealed.
fn sealable() -> Result<File, String> {
    // SAFETY: The name is a C string, and the descriptor is new and ours.
    let file = unsafe {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let fd = libc::memfd_create(c"test".as_ptr(), flags);
        equal("memfd_create", fd >= 0, true)?;
        <File as std::os::fd::FromRawFd>::from_raw_fd(fd)
    };
    file.set_len(2 * PAGE_SIZE).map_err(|e| e.to_string())?;
    Ok(file)
}

fn add_seal(file: &File, seal: i32) -> Result<(), i32> {
    // SAFETY: The call takes numbers.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seal) } {
        0 => Ok(()),
        _ => Err(errno()),
    }
}

/// Nobody seals a file against writes that may still come, and none come to one that is sealed.
pub(crate) fn seals() -> Outcome {
    let mut machine = Machine::new();
    let file = sealable()?;
    machine.map_shared(AT, 2, RW, &file, 0)?;
    let seal = || add_seal(&file, libc::F_SEAL_WRITE);
    fails("F_SEAL_WRITE before a touch", seal(), libc::EBUSY)?;
    machine.write(AT, 1)?;
    machine.protect(AT, 1, Prot::READ)?;
    fails("F_SEAL_WRITE after PROTECT", seal(), libc::EBUSY)?;
    machine.unmap(AT + PAGE_SIZE, 1)?;
    fails("F_SEAL_WRITE after UNMAP of a half", seal(), libc::EBUSY)?;
    let clone = machine.vm().share(0).map_err(|e| e.to_string())?;
    machine.unmap(AT, 1)?;
    fails("F_SEAL_WRITE with a clone", seal(), libc::EBUSY)?;
    works(
        "F_SEAL_FUTURE_WRITE",
        add_seal(&file, libc::F_SEAL_FUTURE_WRITE),
    )?;
    clone
        .protect(AT, PAGE_SIZE, RW)
        .map_err(|e| e.to_string())?;
    clone.write_at(AT, &[9]).map_err(|e| e.to_string())?;
    equal("written as before", word(&file, 0)? & 0xff, 9)?;
    let errno = |result: uvisor::Result<()>| result.map_err(|e| e.errno().unwrap_or(0));
    let vm = machine.vm();
    let share = |prot| errno(vm.map_shared(AT, PAGE_SIZE, prot, fd(&file), 0));
    let refused = |what: &str| {
        fails(&format!("SHARED, {what}"), share(RW), libc::EPERM)?;
        works("SHARED to read", share(Prot::READ))?;
        let protect = errno(vm.protect(AT, PAGE_SIZE, RW));
        fails("PROTECT to write", protect, libc::EACCES)?;
        works("UNMAP", errno(vm.unmap(AT, PAGE_SIZE)))
    };
    refused("no future writes")?;
    drop(clone);
    works("F_SEAL_WRITE at last", seal())?;
    refused("no writes")?;
    // A copy of one's own is no write.
    machine.map_file(AT, 1, RW, &file, 0)?;
    machine.write(AT, 5)?;
    equal("the file", word(&file, 0)? & 0xff, 9)
}

/// Clones go on having the page; a template's clone is put back, the file is not.
pub(crate) fn clones() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[1; 3 * PAGE]);
    machine.map_shared(AT, 3, RW, &file, 0)?;
    machine.write(AT, 2)?;
    let text = |e: uvisor::Error| e.to_string();
    let clone = machine.vm().share(0).map_err(text)?;
    clone.write_at(AT, &[3]).map_err(text)?;
    equal("the clone's write", machine.read(AT)?, 3)?;
    machine.write(AT, 4)?;
    equal("the parent's write", guest_word(&clone, AT)?, 4)?;
    clone.write_at(AT + PAGE_SIZE, &[5]).map_err(text)?;
    equal(
        "in a page not touched",
        machine.read(AT + PAGE_SIZE)? & 0xff,
        5,
    )?;
    equal("private", clone.stats().map_err(text)?.private, 0)?;
    let frames = |vm: &Vm| {
        vm.stats()
            .map_err(text)
            .map(|s| s.events[Event::FrameCopied as usize])
    };
    equal("copies", frames(&clone)?, 0)?;
    drop(clone);
    equal("after the clone", machine.read(AT)?, 4)?;

    machine.vm().freeze().map_err(text)?;
    let clone = machine.vm().share(0).map_err(text)?;
    for round in 6..9 {
        clone.write_at(AT, &[round]).map_err(text)?;
        clone.write_at(DATA, &[round]).map_err(text)?;
        equal(
            "in the template",
            guest_word(machine.vm(), AT)?,
            round.into(),
        )?;
        let diff = clone.diff().map_err(text)?;
        let pages: Vec<u64> = diff.iter().map(|range| range.start).collect();
        equal("pages that differ", pages, vec![DATA])?;
        equal("pages given back", clone.reset().map_err(text)?, 1)?;
        equal("after a reset", guest_word(&clone, AT)?, round.into())?;
        equal("in the file", word(&file, 0)?, round.into())?;
    }
    clone.unmap(AT, PAGE_SIZE).map_err(text)?;
    clone.map_anonymous(AT, PAGE_SIZE, RW).map_err(text)?;
    clone.write_at(AT, &[1]).map_err(text)?;
    clone.reset().map_err(text)?;
    equal("shared again", guest_word(&clone, AT)?, 8)?;
    clone.write_at(AT, &[10]).map_err(text)?;
    equal("after all", word(&file, 0)?, 10)?;
    // A template itself does not write, nor what serves it.
    let refused = machine.vm().write_at(AT, &[1]).map_err(|e| e.errno());
    check("pwrite to the template", refused == Err(Some(libc::EROFS)))
}
