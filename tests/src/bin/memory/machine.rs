// SPDX-License-Identifier: GPL-2.0

//! A guest whose accesses are asked for one by one, and its memory in the host.

use std::fs::File;
use std::os::fd::AsFd;

use uvisor::{Exit, MemoryCause, Prot, Vm, PAGE_SIZE};
use uvisor_tests::raw::{mmap, munmap};
use uvisor_tests::tap::{equal, Outcome};
use uvisor_tests::{code, guest, Guest};

pub(crate) const PAGE: usize = PAGE_SIZE as usize;
/// Where the tests have their regions.
pub(crate) const AT: u64 = 0x1000_0000;

code! { read: "mov (%rdi), %rax", "vmcall" }
code! { write: "mov %rax, (%rdi)", "vmcall" }
code! { fetch: "jmp *%rdi" }

/// An access of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}
pub(crate) use Access::*;

impl Access {
    pub(crate) fn prot(self) -> Prot {
        match self {
            Read => Prot::READ,
            Write => Prot::WRITE,
            Fetch => Prot::EXEC,
        }
    }
}

/// A guest whose accesses are asked for one by one.
pub(crate) struct Machine {
    pub(crate) guests: Guest,
}

impl Machine {
    pub(crate) fn new() -> Self {
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

    pub(crate) fn vm(&self) -> &Vm {
        &self.guests.vm
    }

    /// Makes an access; the exit, and what was read.
    pub(crate) fn access(
        &mut self,
        access: Access,
        at: u64,
        value: u64,
    ) -> Result<(Exit, u64), String> {
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
    pub(crate) fn read(&mut self, at: u64) -> Result<u64, String> {
        let (exit, value) = self.access(Read, at, 0)?;
        equal(
            &format!("read of {at:#x}"),
            exit,
            Exit::Hypercall { ring: 3 },
        )?;
        Ok(value)
    }

    /// A write that must work.
    pub(crate) fn write(&mut self, at: u64, value: u64) -> Outcome {
        let (exit, _) = self.access(Write, at, value)?;
        equal(
            &format!("write to {at:#x}"),
            exit,
            Exit::Hypercall { ring: 3 },
        )
    }

    /// An access that must fail at `at`.
    pub(crate) fn refused(&mut self, access: Access, at: u64, cause: MemoryCause) -> Outcome {
        self.refused_at(access, at, at, cause)
    }

    /// An access at `at` that must fail at `fails_at`.
    pub(crate) fn refused_at(
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

    pub(crate) fn map(&self, at: u64, pages: u64, prot: Prot) -> Outcome {
        let result = self.vm().map_anonymous(at, pages * PAGE_SIZE, prot);
        result.map_err(|e| e.to_string())
    }

    pub(crate) fn map_file(
        &self,
        at: u64,
        pages: u64,
        prot: Prot,
        file: &File,
        offset: u64,
    ) -> Outcome {
        let result = self
            .vm()
            .map_file(at, pages * PAGE_SIZE, prot, file.as_fd(), offset);
        result.map_err(|e| e.to_string())
    }

    pub(crate) fn map_shared(
        &self,
        at: u64,
        pages: u64,
        prot: Prot,
        file: &File,
        offset: u64,
    ) -> Outcome {
        let result = self
            .vm()
            .map_shared(at, pages * PAGE_SIZE, prot, file.as_fd(), offset);
        result.map_err(|e| e.to_string())
    }

    pub(crate) fn protect(&self, at: u64, pages: u64, prot: Prot) -> Outcome {
        let result = self.vm().protect(at, pages * PAGE_SIZE, prot);
        result.map_err(|e| e.to_string())
    }

    pub(crate) fn unmap(&self, at: u64, pages: u64) -> Outcome {
        self.vm()
            .unmap(at, pages * PAGE_SIZE)
            .map_err(|e| e.to_string())
    }

    pub(crate) fn stats(&self) -> Result<uvisor::Stats, String> {
        self.vm().stats().map_err(|e| e.to_string())
    }

    /// Maps guest memory of the host's, `pages` from `at`.
    pub(crate) fn window(&self, at: u64, pages: usize) -> Result<Window, String> {
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
pub(crate) struct Window(*mut u8, usize);

impl Window {
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.1);
        self.0.wrapping_add(offset)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        munmap(self.0, self.1);
    }
}
