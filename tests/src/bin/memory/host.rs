// SPDX-License-Identifier: GPL-2.0

//! The host's ways to a guest's memory: a mapping, `pread` and `pwrite`.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use libc::{EFAULT, SIGBUS};
use uvisor::{Prot, PAGE_SIZE};
use uvisor_tests::host::memory_file;
use uvisor_tests::probe;
use uvisor_tests::tap::{check, equal, Outcome};

use crate::machine::{Machine, AT, PAGE};

/// Guest memory in the host's address space.
pub(crate) fn host_mapping() -> Outcome {
    let mut machine = Machine::new();
    machine.map(AT, 3, Prot::READ | Prot::WRITE)?;
    let window = machine.window(AT - PAGE_SIZE, 6)?;
    let at = |page: usize| window.at(page * PAGE);
    equal("zero", probe::load(at(1)), Ok(0))?;
    machine.write(AT, 0x42)?;
    equal("written by the guest", probe::load(at(1)), Ok(0x42))?;
    equal("written by the host", probe::store(at(2), 0x43), Ok(()))?;
    equal("read by the guest", machine.read(AT + PAGE_SIZE)?, 0x43)?;
    equal("before the region", probe::load(at(0)), Err(SIGBUS))?;
    equal("behind the region", probe::store(at(4), 1), Err(SIGBUS))?;
    machine.protect(AT, 1, Prot::READ)?;
    equal("read-only: read", probe::load(at(1)), Ok(0x42))?;
    equal("read-only: write", probe::store(at(1), 1), Err(SIGBUS))?;
    machine.protect(AT, 1, Prot::empty())?;
    equal("no permission", probe::load(at(1)), Err(SIGBUS))?;
    machine.protect(AT, 1, Prot::READ | Prot::WRITE)?;
    equal("given again", probe::store(at(1), 2), Ok(()))?;
    equal("given again", machine.read(AT)?, 2)?;
    machine.unmap(AT, 2)?;
    equal("unmapped", probe::load(at(1)), Err(SIGBUS))?;
    equal("unmapped", probe::store(at(2), 1), Err(SIGBUS))?;
    equal("still there", probe::store(at(3), 1), Ok(()))?;
    machine.map(AT, 1, Prot::READ | Prot::WRITE)?;
    equal("another page", probe::load(at(1)), Ok(0))
}

/// Copy-on-write through the host's mapping.
pub(crate) fn host_mapping_of_file() -> Outcome {
    let mut machine = Machine::new();
    let file = memory_file(&[1; 2 * PAGE]);
    machine.map_file(AT, 2, Prot::READ | Prot::WRITE, &file, 0)?;
    let window = machine.window(AT, 2)?;
    let private = machine.stats()?.private;
    equal("read", probe::load(window.at(0)), Ok(1))?;
    equal("no copy yet", machine.stats()?.private, private)?;
    equal("the guest maps it, too", machine.read(AT)? & 0xff, 1)?;
    equal("written", probe::store(window.at(0), 2), Ok(()))?;
    equal("one copy", machine.stats()?.private, private + PAGE_SIZE)?;
    equal("seen by the guest", machine.read(AT)? & 0xffff, 0x0102)?;
    equal("read", probe::load(window.at(PAGE)), Ok(1))?;
    machine.write(AT + PAGE_SIZE, 3)?;
    equal("the guest's copy", probe::load(window.at(PAGE)), Ok(3))?;
    let mut bytes = [0; 2 * PAGE];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|e| e.to_string())?;
    check("the file is as it was", bytes.iter().all(|b| *b == 1))
}

/// `pread` and `pwrite`: permission, edges, short counts.
pub(crate) fn positioned() -> Outcome {
    let machine = Machine::new();
    machine.map(AT, 2, Prot::READ | Prot::WRITE)?;
    machine.map(AT + 2 * PAGE_SIZE, 1, Prot::READ)?;
    let fd = machine.vm().as_fd().as_raw_fd();
    let mut buffer = [7u8; 4 * PAGE];
    let mut read = |at: u64, len: usize| {
        // SAFETY: The buffer is at least as long.
        let n = unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), len, at as i64) };
        if n < 0 {
            Err(uvisor_tests::raw::errno())
        } else {
            Ok(n as usize)
        }
    };
    equal("read all", read(AT, 3 * PAGE), Ok(3 * PAGE))?;
    equal(
        "read over the end",
        read(AT + 8, 4 * PAGE - 8),
        Ok(3 * PAGE - 8),
    )?;
    equal(
        "read behind the end",
        read(AT + 3 * PAGE_SIZE, 1),
        Err(EFAULT),
    )?;
    equal("read before", read(AT - 1, 2), Err(EFAULT))?;
    equal("read nothing", read(AT - 1, 0), Ok(0))?;
    equal("read far away", read(1 << 50, 1), Err(EFAULT))?;
    let bytes = [9u8; 4 * PAGE];
    let write = |at: u64, len: usize| {
        // SAFETY: The buffer is at least as long.
        let n = unsafe { libc::pwrite(fd, bytes.as_ptr().cast(), len, at as i64) };
        if n < 0 {
            Err(uvisor_tests::raw::errno())
        } else {
            Ok(n as usize)
        }
    };
    equal(
        "write into what is read-only",
        write(AT + 5, 3 * PAGE),
        Ok(2 * PAGE - 5),
    )?;
    equal(
        "write to what is read-only",
        write(AT + 2 * PAGE_SIZE, 1),
        Err(EFAULT),
    )?;
    equal("write before", write(AT - 1, 2), Err(EFAULT))?;
    machine.protect(AT, 1, Prot::empty())?;
    equal("read without permission", read(AT, 1), Err(EFAULT))?;
    equal("write without permission", write(AT, 1), Err(EFAULT))?;
    // SAFETY: A bad address is what is tried.
    let n = unsafe { libc::pwrite(fd, std::ptr::null(), 8, (AT + PAGE_SIZE) as i64) };
    equal(
        "write from a bad address",
        (n, uvisor_tests::raw::errno()),
        (-1, EFAULT),
    )?;
    // SAFETY: As above.
    let n = unsafe { libc::pread(fd, std::ptr::null_mut(), 8, (AT + PAGE_SIZE) as i64) };
    equal(
        "read to a bad address",
        (n, uvisor_tests::raw::errno()),
        (-1, EFAULT),
    )
}

/// `read(2)` of another file straight into guest memory, and of guest memory into itself.
pub(crate) fn through_the_kernel() -> Outcome {
    let mut machine = Machine::new();
    machine.map(AT, 2, Prot::READ | Prot::WRITE)?;
    machine.map(AT + 2 * PAGE_SIZE, 1, Prot::READ)?;
    let window = machine.window(AT, 4)?;
    let file = memory_file(&[0xab; 4 * PAGE]);
    let read = |to: *mut u8, len: usize| {
        // SAFETY: The module decides what of guest memory the kernel may write.
        let n = unsafe { libc::pread(file.as_raw_fd(), to.cast(), len, 0) };
        if n < 0 {
            Err(uvisor_tests::raw::errno())
        } else {
            Ok(n as usize)
        }
    };
    equal(
        "into read-only memory",
        read(window.at(2 * PAGE), 8),
        Err(EFAULT),
    )?;
    equal(
        "where nothing is",
        read(window.at(3 * PAGE), 8),
        Err(EFAULT),
    )?;
    equal(
        "up to the edge",
        read(window.at(PAGE + 100), 2 * PAGE),
        Ok(PAGE - 100),
    )?;
    equal(
        "what the guest sees",
        machine.read(AT + PAGE_SIZE + 100)?,
        0xabab_abab_abab_abab,
    )?;
    let fd = machine.vm().as_fd().as_raw_fd();
    // SAFETY: Both are memory of the guest's.
    let n = unsafe { libc::pread(fd, window.at(0).cast(), PAGE, (AT + PAGE_SIZE) as i64) };
    equal("from guest memory to itself", n, PAGE as isize)?;
    equal("what came", machine.read(AT + 100)?, 0xabab_abab_abab_abab)?;
    // SAFETY: As above; source and target are the same page.
    let n = unsafe { libc::pwrite(fd, window.at(0).cast(), PAGE, AT as i64) };
    equal("a page to itself", n, PAGE as isize)
}

/// A forked child has the file and not the mapping.
pub(crate) fn forked() -> Outcome {
    let machine = Machine::new();
    machine.map(AT, 1, Prot::READ | Prot::WRITE)?;
    let window = machine.window(AT, 1)?;
    equal("written", probe::store(window.at(0), 5), Ok(()))?;
    // SAFETY: The child only probes, calls pread, and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mapped = probe::load(window.at(0)) != Err(libc::SIGSEGV);
        let mut byte = [0];
        let through_fd = machine.vm().read_at(AT, &mut byte).is_ok() && byte == [5];
        // SAFETY: Ends the child.
        unsafe { libc::_exit(i32::from(mapped) | i32::from(!through_fd) << 1) };
    }
    let mut status = 0;
    // SAFETY: Our child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    equal(
        "child (1: has the mapping, 2: cannot read the file)",
        status >> 8,
        0,
    )?;
    equal("still ours", probe::load(window.at(0)), Ok(5))
}
