// SPDX-License-Identifier: GPL-2.0

//! What a guest can reach, and that it and the host see the same memory.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use libc::{EFAULT, SIGBUS};
use uvisor::{Event, Exit, Features, MemoryCause, Prot, Vm, PAGE_SIZE};
use uvisor_tests::host::memory_file;
use uvisor_tests::raw::{mmap, munmap};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, guest, probe, Guest, Tap};

const PAGE: usize = PAGE_SIZE as usize;
/// Where the tests have their regions.
const AT: u64 = 0x1000_0000;

code! { read: "mov (%rdi), %rax", "vmcall" }
code! { write: "mov %rax, (%rdi)", "vmcall" }
code! { fetch: "jmp *%rdi" }
// In a region that is fetched from.
code! { here: "vmcall", "hlt" }

/// An access of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Fetch,
}
use Access::*;

impl Access {
    fn prot(self) -> Prot {
        match self {
            Read => Prot::READ,
            Write => Prot::WRITE,
            Fetch => Prot::EXEC,
        }
    }
}

/// A guest whose accesses are asked for one by one.
struct Machine {
    guests: Guest,
}

impl Machine {
    fn new() -> Self {
        let guests = Guest::new(read());
        guest::load(&guests.vm, 0x41_0000, write());
        guest::load(&guests.vm, 0x42_0000, fetch());
        let mut machine = Self { guests };
        // What the guest needs itself is there before anything is counted.
        machine.write(uvisor_tests::DATA, 0).expect("a write");
        let (exit, _) = machine.access(Fetch, 0x40_0003, 0).expect("a jump");
        assert_eq!(exit, Exit::Hypercall { ring: 3 }, "a jump");
        machine
    }

    fn vm(&self) -> &Vm {
        &self.guests.vm
    }

    /// Makes an access; the exit, and what was read.
    fn access(&mut self, access: Access, at: u64, value: u64) -> Result<(Exit, u64), String> {
        let regs = self.guests.vcpu.regs_mut();
        regs.rip = match access {
            Read => 0x40_0000,
            Write => 0x41_0000,
            Fetch => 0x42_0000,
        };
        regs.rdi = at;
        regs.rax = value;
        let exit = self.guests.vcpu.run().map_err(|e| e.to_string())?;
        Ok((exit, self.guests.vcpu.regs().rax))
    }

    /// A read that must work.
    fn read(&mut self, at: u64) -> Result<u64, String> {
        let (exit, value) = self.access(Read, at, 0)?;
        equal(
            &format!("read of {at:#x}"),
            exit,
            Exit::Hypercall { ring: 3 },
        )?;
        Ok(value)
    }

    /// A write that must work.
    fn write(&mut self, at: u64, value: u64) -> Outcome {
        let (exit, _) = self.access(Write, at, value)?;
        equal(
            &format!("write to {at:#x}"),
            exit,
            Exit::Hypercall { ring: 3 },
        )
    }

    /// An access that must fail at `at`.
    fn refused(&mut self, access: Access, at: u64, cause: MemoryCause) -> Outcome {
        self.refused_at(access, at, at, cause)
    }

    /// An access at `at` that must fail at `fails_at`.
    fn refused_at(
        &mut self,
        access: Access,
        at: u64,
        fails_at: u64,
        cause: MemoryCause,
    ) -> Outcome {
        let (exit, _) = self.access(access, at, 0)?;
        let wanted = Exit::Memory {
            gpa: fails_at,
            linear: Some(fails_at),
            access: access.prot(),
            cause,
        };
        equal(&format!("{access:?} at {at:#x}"), exit, wanted)
    }

    fn map(&self, at: u64, pages: u64, prot: Prot) -> Outcome {
        let result = self.vm().map_anonymous(at, pages * PAGE_SIZE, prot);
        result.map_err(|e| e.to_string())
    }

    fn map_file(&self, at: u64, pages: u64, prot: Prot, file: &File, offset: u64) -> Outcome {
        let result = self
            .vm()
            .map_file(at, pages * PAGE_SIZE, prot, file.as_fd(), offset);
        result.map_err(|e| e.to_string())
    }

    fn protect(&self, at: u64, pages: u64, prot: Prot) -> Outcome {
        let result = self.vm().protect(at, pages * PAGE_SIZE, prot);
        result.map_err(|e| e.to_string())
    }

    fn unmap(&self, at: u64, pages: u64) -> Outcome {
        self.vm()
            .unmap(at, pages * PAGE_SIZE)
            .map_err(|e| e.to_string())
    }

    fn stats(&self) -> Result<uvisor::Stats, String> {
        self.vm().stats().map_err(|e| e.to_string())
    }

    /// Maps guest memory of the host's, `pages` from `at`.
    fn window(&self, at: u64, pages: usize) -> Result<Window, String> {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let fd = self.vm().as_fd();
        let memory = mmap(Some(&fd), pages * PAGE, prot, libc::MAP_SHARED, at as i64);
        Ok(Window(
            memory.map_err(|e| format!("mmap: {e}"))?,
            pages * PAGE,
        ))
    }
}

/// A mapping of guest memory.
struct Window(*mut u8, usize);

impl Window {
    fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.1);
        self.0.wrapping_add(offset)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        munmap(self.0, self.1);
    }
}

/// Every combination of permission and access, anonymous and of a file, mapped so or changed to it.
fn matrix() -> Outcome {
    let mut machine = Machine::new();
    let info = machine.guests.device.info().map_err(|e| e.to_string())?;
    let exec_only = Features::from_bits_truncate(info.features).contains(Features::EXEC_ONLY);
    let file = memory_file(here());
    let mut tried = 0;
    for prot in (0..8).map(Prot::from_bits_truncate) {
        let write_only = prot.contains(Prot::WRITE) && !prot.contains(Prot::READ);
        if write_only || (prot == Prot::EXEC && !exec_only) {
            continue;
        }
        for (of_file, later) in [(false, false), (false, true), (true, false), (true, true)] {
            let first = if later {
                Prot::READ | Prot::WRITE
            } else {
                prot
            };
            if of_file {
                machine.map_file(AT, 1, first, &file, 0)?;
            } else {
                machine.map(AT, 1, first)?;
            }
            if later {
                // Present, and with every permission that can go.
                machine.write(AT, u64::from_le_bytes(*b"\x0f\x01\xc1\xf4\0\0\0\0"))?;
                machine.protect(AT, 1, prot)?;
            }
            for access in [Read, Fetch, Write, Read] {
                let what = format!("{access:?} of {prot:?}, file: {of_file}, PROTECT: {later}");
                let result = if !prot.contains(access.prot()) {
                    machine.refused(access, AT, MemoryCause::Denied)
                } else if access == Fetch {
                    let (exit, _) = machine.access(access, AT, 0)?;
                    // Zeros are `add %al, (%rax)`, and RAX is 0, where nothing is.
                    let zeros = matches!(exit, Exit::Memory { gpa: 0, .. });
                    let ok = if of_file || later {
                        exit == Exit::Hypercall { ring: 3 }
                    } else {
                        zeros
                    };
                    check(&format!("{exit:x?}"), ok)
                } else {
                    let (exit, _) = machine.access(access, AT, 0)?;
                    equal("exit", exit, Exit::Hypercall { ring: 3 })
                };
                result.map_err(|e| format!("{what}: {e}"))?;
                tried += 1;
            }
            machine.unmap(AT, 1)?;
        }
    }
    check("all of them were tried", tried >= 5 * 4 * 4)
}

/// Accesses that lie in two pages.
fn crossing() -> Outcome {
    let mut machine = Machine::new();
    let edge = AT + PAGE_SIZE;
    machine.map(AT, 2, Prot::READ | Prot::WRITE)?;
    machine.write(edge - 3, 0x1122_3344_5566_7788)?;
    equal("both pages", machine.read(edge - 3)?, 0x1122_3344_5566_7788)?;
    equal(
        "the second",
        machine.read(edge)? & 0xff_ffff_ffff,
        0x11_2233_4455,
    )?;
    machine.protect(edge, 1, Prot::READ)?;
    machine.refused_at(Write, edge - 3, edge, MemoryCause::Denied)?;
    equal(
        "nothing was written",
        machine.read(edge - 3)?,
        0x1122_3344_5566_7788,
    )?;
    machine.unmap(edge, 1)?;
    machine.refused_at(Read, edge - 1, edge, MemoryCause::Unmapped)?;
    machine.refused_at(Read, AT - 1, AT - 1, MemoryCause::Unmapped)?;
    equal("the first", machine.read(edge - 8)? >> 40, 0x66_7788)
}

/// Permission taken and given while the page is in use, and parts of a region.
fn protect_and_unmap() -> Outcome {
    let mut machine = Machine::new();
    machine.map(AT, 8, Prot::READ | Prot::WRITE)?;
    for page in 0..8 {
        machine.write(AT + page * PAGE_SIZE, 100 + page)?;
    }
    let page = |n: u64| AT + n * PAGE_SIZE;
    machine.protect(page(2), 2, Prot::READ)?;
    machine.protect(page(5), 1, Prot::empty())?;
    machine.unmap(page(6), 1)?;
    equal(
        "regions",
        machine.stats()?.regions - Machine::new().stats()?.regions,
        5,
    )?;
    machine.refused(Write, page(2), MemoryCause::Denied)?;
    machine.refused(Write, page(3), MemoryCause::Denied)?;
    machine.refused(Read, page(5), MemoryCause::Denied)?;
    machine.refused(Read, page(6), MemoryCause::Unmapped)?;
    for n in [0, 1, 2, 3, 4, 7] {
        equal(&format!("page {n}"), machine.read(page(n))?, 100 + n)?;
    }
    for n in [0, 1, 4, 7] {
        machine.write(page(n), 200 + n)?;
    }
    machine.protect(page(0), 6, Prot::READ | Prot::WRITE)?;
    equal("kept without permission", machine.read(page(5))?, 105)?;
    machine.write(page(2), 202)?;
    equal("written again", machine.read(page(2))?, 202)?;
    machine.map(page(6), 1, Prot::READ)?;
    equal("mapped anew", machine.read(page(6))?, 0)?;
    let private = machine.stats()?.private;
    machine.unmap(AT, 8)?;
    equal(
        "given back",
        private - machine.stats()?.private,
        8 * PAGE_SIZE,
    )
}

/// The guest and the host have the very same page of a file.
fn shared_file() -> Outcome {
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
fn copied_file() -> Outcome {
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
fn file_end() -> Outcome {
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

/// Guest memory in the host's address space.
fn host_mapping() -> Outcome {
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
fn host_mapping_of_file() -> Outcome {
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
fn positioned() -> Outcome {
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
fn through_the_kernel() -> Outcome {
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
fn forked() -> Outcome {
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

fn main() {
    let mut tap = Tap::new();
    tap.test("each permission and each access", matrix);
    tap.test("accesses across pages", crossing);
    tap.test(
        "PROTECT and UNMAP of parts, of pages in use",
        protect_and_unmap,
    );
    tap.test("a file's page is the host's own", shared_file);
    tap.test("a file's page is copied when it is written", copied_file);
    tap.test("where a file ends", file_end);
    tap.test(
        "the host's mapping shows the same pages, with the same permission",
        host_mapping,
    );
    tap.test(
        "copy on write through the host's mapping",
        host_mapping_of_file,
    );
    tap.test("pread and pwrite", positioned);
    tap.test("system calls on guest memory", through_the_kernel);
    tap.test("a forked child", forked);
    tap.finish();
}
