// SPDX-License-Identifier: GPL-2.0

//! Memory of the process that the micro-VM is bound to.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

use uvisor::{Device, Exit, MemoryCause, Prot, VmFlags, PAGE_SIZE};
use uvisor_tests::probe;
use uvisor_tests::raw::{fails, mmap, munmap, works};
use uvisor_tests::tap::{check, equal, Outcome};

use crate::machine::{Machine, Read, Write, AT, PAGE};

const RW: Prot = Prot::READ.union(Prot::WRITE);
const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The error number of a call of the library's.
fn number<T>(result: uvisor::Result<T>) -> Result<T, i32> {
    result.map_err(|e| e.errno().unwrap_or(0))
}

/// Pages of this process's that a guest has at [`AT`].
struct Own {
    at: *mut u8,
    pages: usize,
}

impl Own {
    /// Pages of a file, or private ones for none.
    fn new(pages: usize, file: Option<&File>) -> Result<Self, String> {
        let flags = file.map_or(libc::MAP_PRIVATE, |_| libc::MAP_SHARED);
        let fd = file.map(|file| file as &dyn std::os::fd::AsRawFd);
        let at = mmap(fd, pages * PAGE, BOTH, flags, 0).map_err(|e| format!("mmap: {e}"))?;
        Ok(Self { at, pages })
    }

    /// Where address 0 of the guest would be.
    fn base(&self) -> u64 {
        self.at as u64 - AT
    }

    /// Gives them to a guest.
    fn show(&self, machine: &Machine) -> Outcome {
        machine.vm().bind(self.base()).map_err(text)?;
        let len = self.pages as u64 * PAGE_SIZE;
        machine.vm().map_user(AT, len, RW).map_err(text)
    }

    fn load(&self, offset: u64) -> Result<u8, String> {
        probe::load(self.at.wrapping_add(offset as usize)).map_err(|e| format!("signal {e}"))
    }

    fn store(&self, offset: u64, value: u8) -> Outcome {
        probe::store(self.at.wrapping_add(offset as usize), value)
            .map_err(|e| format!("signal {e}"))
    }

    /// What this process may do with a page from now on.
    fn protect(&self, page: usize, prot: i32) -> Outcome {
        // SAFETY: Nothing of Rust's is there.
        let result = unsafe { libc::mprotect(self.at.add(page * PAGE).cast(), PAGE, prot) };
        equal("mprotect", result, 0)
    }

    fn advise(&self, page: usize, advice: i32) -> Outcome {
        // SAFETY: Nothing of Rust's is there.
        let result = unsafe { libc::madvise(self.at.add(page * PAGE).cast(), PAGE, advice) };
        equal("madvise", result, 0)
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        munmap(self.at, self.pages * PAGE);
    }
}

/// A file without a name that does not live in memory as a memory file does.
fn file(pages: u64) -> Result<File, String> {
    // SAFETY: The path is a string, and the descriptor is new and ours.
    let file = unsafe {
        let fd = libc::open(c"/".as_ptr(), libc::O_TMPFILE | libc::O_RDWR, 0o600);
        check("O_TMPFILE", fd >= 0)?;
        File::from_raw_fd(fd)
    };
    file.set_len(pages * PAGE_SIZE).map_err(text)?;
    Ok(file)
}

/// Both see what the other writes, and the guest has what the process has, when it has it.
pub(crate) fn follows() -> Outcome {
    let mut machine = Machine::new();
    let before = machine.stats()?;
    let own = Own::new(4, None)?;
    own.show(&machine)?;
    own.store(0, 7)?;
    equal("read", machine.read(AT)? & 0xff, 7)?;
    machine.write(AT, 8)?;
    equal("written", own.load(0)?, 8)?;
    machine.write(AT + PAGE_SIZE, 9)?;
    equal("made by a write", own.load(PAGE_SIZE)?, 9)?;
    own.store(8, 10)?;
    equal("read again", machine.read(AT + 8)?, 10)?;
    // Nothing of it is the micro-VM's.
    let stats = machine.stats()?;
    equal("private", stats.private, before.private)?;
    equal("file", stats.file, before.file)?;

    own.advise(0, libc::MADV_DONTNEED)?;
    equal("after it was dropped", machine.read(AT)?, 0)?;
    own.advise(1, libc::MADV_DONTNEED)?;
    machine.write(AT + PAGE_SIZE + 8, 11)?;
    equal("dropped, then written", own.load(PAGE_SIZE)?, 0)?;
    equal("and seen", own.load(PAGE_SIZE + 8)?, 11)?;

    own.protect(1, libc::PROT_READ)?;
    equal("read-only", machine.read(AT + PAGE_SIZE + 8)?, 11)?;
    machine.refused(Write, AT + PAGE_SIZE, MemoryCause::FileEnd)?;
    own.protect(1, libc::PROT_NONE)?;
    machine.refused(Read, AT + PAGE_SIZE, MemoryCause::FileEnd)?;
    own.protect(1, BOTH)?;
    machine.write(AT + PAGE_SIZE, 12)?;
    equal("as it was", own.load(PAGE_SIZE + 8)?, 11)?;

    let third = own.at.wrapping_add(2 * PAGE);
    machine.write(AT + 2 * PAGE_SIZE, 13)?;
    munmap(third, PAGE);
    machine.refused(Read, AT + 2 * PAGE_SIZE, MemoryCause::FileEnd)?;
    machine.refused(Write, AT + 2 * PAGE_SIZE, MemoryCause::FileEnd)?;
    // SAFETY: The place is ours, and free.
    let again = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        libc::mmap(third.cast(), PAGE, BOTH, flags, -1, 0)
    };
    equal("mmap", again.cast(), third)?;
    equal("another page", machine.read(AT + 2 * PAGE_SIZE)?, 0)
}

/// What a child of the process copies is not written to by the guest.
pub(crate) fn forked() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(1, None)?;
    own.show(&machine)?;
    machine.write(AT, 1)?;
    let mut pipe = [0; 2];
    // SAFETY: The array has room for both.
    equal("pipe", unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0)?;
    // SAFETY: The child makes system calls only, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut byte = 0u8;
        // SAFETY: As above; the memory is mapped.
        unsafe {
            libc::close(pipe[1]);
            libc::read(pipe[0], (&raw mut byte).cast(), 1);
            libc::_exit(i32::from(own.at.read_volatile()))
        }
    }
    machine.write(AT, 2)?;
    // SAFETY: The descriptors are ours, and the child ours to wait for.
    let status = unsafe {
        libc::close(pipe[1]);
        libc::close(pipe[0]);
        let mut status = 0;
        libc::waitpid(child, &mut status, 0);
        libc::WEXITSTATUS(status)
    };
    equal("the child's", status, 1)?;
    equal("the parent's", own.load(0)?, 2)?;
    equal("the guest's", machine.read(AT)?, 2)
}

/// A file that is cut off is cut off, whoever had it; and nobody writes to one who may not.
pub(crate) fn files() -> Outcome {
    let mut machine = Machine::new();
    let file = file(3)?;
    let own = Own::new(4, Some(&file))?;
    own.show(&machine)?;
    machine.write(AT + PAGE_SIZE, 5)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, PAGE_SIZE).map_err(text)?;
    equal("in the file", byte[0], 5)?;
    file.write_all_at(&[6], PAGE_SIZE).map_err(text)?;
    equal("after write(2)", machine.read(AT + PAGE_SIZE)?, 6)?;
    machine.refused(Write, AT + 3 * PAGE_SIZE, MemoryCause::FileEnd)?;
    file.set_len(PAGE_SIZE).map_err(text)?;
    machine.refused(Read, AT + PAGE_SIZE, MemoryCause::FileEnd)?;
    machine.refused(Write, AT + PAGE_SIZE, MemoryCause::FileEnd)?;
    file.set_len(2 * PAGE_SIZE).map_err(text)?;
    equal("grown again", machine.read(AT + PAGE_SIZE)?, 0)?;
    drop(own);
    machine.refused(Read, AT, MemoryCause::FileEnd)?;

    machine.write(uvisor_tests::DATA, 1)?;
    let reader = File::open("/etc/passwd").map_err(text)?;
    let at = mmap(Some(&reader), PAGE, libc::PROT_READ, libc::MAP_SHARED, 0);
    let own = Own {
        at: at.map_err(|e| format!("mmap: {e}"))?,
        pages: 1,
    };
    machine.vm().bind(own.base()).map_err(text)?;
    equal(
        "of a reader",
        machine.read(AT)? & 0xff,
        u64::from(own.load(0)?),
    )?;
    machine.refused(Write, AT, MemoryCause::FileEnd)
}

/// Whether the kernel takes the page at an address for dirty (`/proc/kpageflags`).
fn is_dirty(at: *const u8) -> Result<bool, String> {
    const DIRTY: u64 = 1 << 4;
    let entry = |path: &str, number: u64| {
        let mut bytes = [0; 8];
        let file = File::open(path).map_err(|e| format!("{path}: {e}"))?;
        file.read_exact_at(&mut bytes, number * 8).map_err(text)?;
        Ok::<_, String>(u64::from_le_bytes(bytes))
    };
    let frame = entry("/proc/self/pagemap", at as u64 / PAGE_SIZE)? & ((1 << 55) - 1);
    check("a frame", frame != 0)?;
    Ok(entry("/proc/kpageflags", frame)? & DIRTY != 0)
}

/// What only the guest wrote is dirty, also where the process could have written to it without a fault.
pub(crate) fn kept() -> Outcome {
    let mut machine = Machine::new();
    let file = uvisor_tests::host::memory_file(&[]);
    file.set_len(PAGE_SIZE).map_err(text)?;
    let own = Own::new(1, Some(&file))?;
    own.show(&machine)?;
    equal("a hole", own.load(0)?, 0)?;
    equal("read by the guest", machine.read(AT)?, 0)?;
    equal("dirty", is_dirty(own.at)?, false)?;
    machine.write(AT, 7)?;
    equal("dirty when it is written", is_dirty(own.at)?, true)
}

/// What is no ordinary memory, the guest does not get.
pub(crate) fn strange() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(1, None)?;
    own.show(&machine)?;
    // Its own memory, by the mapping of its file: the page is there, and the kernel has no reference on it.
    let window = machine.window(uvisor_tests::DATA, 1)?;
    probe::store(window.at(0), 3).map_err(|e| format!("signal {e}"))?;
    let base = window.at(0) as u64 - AT;
    machine.vm().bind(base).map_err(text)?;
    machine.refused(Read, AT, MemoryCause::FileEnd)?;
    machine.refused(Write, AT, MemoryCause::FileEnd)?;
    // The kernel's half, and what no process has.
    for base in [(1 << 57) - PAGE_SIZE, 1 << 57, 1 << 47, (1 << 47) - AT, 0] {
        machine.vm().bind(base).map_err(text)?;
        machine.refused(Read, AT, MemoryCause::FileEnd)?;
    }
    machine.vm().bind(own.base()).map_err(text)?;
    equal("its own again", machine.read(AT)?, 0)
}

/// What is not possible, and which error says so.
pub(crate) fn errors() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(2, None)?;
    let (vm, len) = (machine.vm(), 2 * PAGE_SIZE);
    let bind = |address| number(vm.bind(address));
    fails("BIND of no page", bind(1), libc::EINVAL)?;
    fails(
        "BIND of no address",
        bind((1 << 57) + PAGE_SIZE),
        libc::EINVAL,
    )?;
    let map = |prot| number(vm.map_user(AT, len, prot));
    fails("USER and EXEC", map(Prot::READ | Prot::EXEC), libc::EACCES)?;
    works("USER", map(RW))?;
    let protect = number(vm.protect(AT, len, Prot::READ | Prot::EXEC));
    fails("PROTECT to execute", protect, libc::EACCES)?;
    fails("SEAL", number(vm.seal(AT, len)), libc::EACCES)?;
    machine.refused(Read, AT, MemoryCause::Elsewhere)?;
    machine.refused(Write, AT, MemoryCause::Elsewhere)?;
    let vm = machine.vm();
    let read = number(vm.read_at(AT, &mut [0]));
    fails("pread", read, libc::EFAULT)?;
    works("BIND", number(vm.bind(own.base())))?;
    machine.write(AT, 1)?;
    let strict = Device::open().and_then(|device| device.create_vm_with(0, VmFlags::W_XOR_X));
    let strict = strict.map_err(text)?;
    works("USER with W^X", number(strict.map_user(AT, len, RW)))?;
    let protect = number(strict.protect(AT, len, Prot::READ | Prot::EXEC));
    fails("PROTECT to execute with W^X", protect, libc::EACCES)?;
    let vm = machine.vm();
    works("FREEZE", number(vm.freeze()))?;
    fails(
        "BIND of a template",
        number(vm.bind(own.base())),
        libc::EROFS,
    )
}

/// `pread` and `pwrite` find it; a mapping of the micro-VM's file does not.
pub(crate) fn by_the_file() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(2, None)?;
    own.show(&machine)?;
    machine.map(AT + 2 * PAGE_SIZE, 1, RW)?;
    own.store(PAGE_SIZE, 4)?;
    let vm = machine.vm();
    let mut bytes = [0; 3 * PAGE];
    vm.read_at(AT, &mut bytes).map_err(text)?;
    equal("read", (bytes[0], bytes[PAGE]), (0, 4))?;
    bytes.fill(5);
    vm.write_at(AT, &bytes).map_err(text)?;
    equal("written", (own.load(0)?, own.load(PAGE_SIZE)?), (5, 5))?;
    own.protect(1, libc::PROT_READ)?;
    let write = number(machine.vm().write_at(AT + PAGE_SIZE, &[6]));
    fails("pwrite where the process may not", write, libc::EFAULT)?;
    machine.protect(AT, 1, Prot::READ)?;
    let write = number(machine.vm().write_at(AT, &[6]));
    fails("pwrite where the guest may not", write, libc::EFAULT)?;
    machine.read(AT)?;
    let window = machine.window(AT, 3)?;
    for page in 0..2 {
        let seen = probe::load(window.at(page * PAGE));
        equal("by a mapping", seen, Err(libc::SIGBUS))?;
    }
    equal("behind it", probe::load(window.at(2 * PAGE)), Ok(5))
}

/// UNMAP, PROTECT, DISCARD and REMAP of a part, with pages in use.
pub(crate) fn changed() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(4, None)?;
    own.show(&machine)?;
    for page in 0..4 {
        machine.write(AT + page * PAGE_SIZE, 1 + page)?;
    }
    machine.protect(AT, 1, Prot::READ)?;
    machine.refused(Write, AT, MemoryCause::Denied)?;
    equal("read", machine.read(AT)?, 1)?;
    machine.protect(AT, 1, RW)?;
    machine.write(AT, 5)?;
    machine.vm().discard(AT, 4 * PAGE_SIZE).map_err(text)?;
    equal("not forgotten", machine.read(AT)?, 5)?;
    machine.unmap(AT + PAGE_SIZE, 1)?;
    machine.refused(Read, AT + PAGE_SIZE, MemoryCause::Unmapped)?;
    equal("beside it", machine.read(AT + 2 * PAGE_SIZE)?, 3)?;
    // What is behind a region is where its addresses are.
    let (from, to) = (AT + 3 * PAGE_SIZE, AT + PAGE_SIZE);
    let moved = machine
        .vm()
        .remap(from..from + PAGE_SIZE, to..to + PAGE_SIZE);
    moved.map_err(text)?;
    machine.refused(Read, from, MemoryCause::Unmapped)?;
    equal("moved", machine.read(to)?, 2)?;
    machine.write(to, 6)?;
    equal("in the process", own.load(PAGE_SIZE)?, 6)
}

/// A clone has the region, and what the process has that it is bound to; other views have nothing.
pub(crate) fn clones_and_views() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(1, None)?;
    own.show(&machine)?;
    machine.write(AT, 1)?;
    let clone = machine.vm().share(0).map_err(text)?;
    machine.write(AT, 2)?;
    let mut byte = [0];
    fails(
        "pread of a clone",
        number(clone.read_at(AT, &mut byte)),
        libc::EFAULT,
    )?;
    let other = Own::new(1, None)?;
    other.store(0, 9)?;
    clone.bind(other.base()).map_err(text)?;
    clone.read_at(AT, &mut byte).map_err(text)?;
    equal("the clone's", byte[0], 9)?;
    equal("the parent's", machine.read(AT)?, 2)?;
    drop(clone);
    let view = machine
        .vm()
        .create_view(RW | Prot::EXEC, uvisor::ViewFlags::empty());
    let view = view.map_err(text)?;
    machine.guests.vcpu.regs_mut().view = view.into();
    machine.refused(Read, AT, MemoryCause::Hidden)?;
    machine.guests.vcpu.regs_mut().view = 0;
    machine.write(AT, 3)?;
    equal("in view 0", own.load(0)?, 3)
}

/// Another process has the micro-VM as well: what it runs sees its memory, and not that of who is bound.
pub(crate) fn elsewhere() -> Outcome {
    let mut machine = Machine::new();
    let own = Own::new(1, None)?;
    own.show(&machine)?;
    machine.write(AT, 1)?;
    // SAFETY: The child uses what it copied, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let done = (|| {
            // It does not have the page of the parent's, which is not taken back here.
            let own_vcpu = machine.guests.another_vcpu();
            std::mem::forget(std::mem::replace(&mut machine.guests.vcpu, own_vcpu));
            machine.refused(Read, AT, MemoryCause::Elsewhere)?;
            own.store(0, 4)?;
            machine.vm().bind(own.base()).map_err(text)?;
            equal("its own", machine.read(AT)?, 4)?;
            machine.write(AT, 5)?;
            equal("written", own.load(0)?, 5)
        })();
        if let Err(seen) = &done {
            println!("# in the child: {seen}");
        }
        // SAFETY: It ends the child.
        unsafe { libc::_exit(done.is_err().into()) }
    }
    let mut status = 0;
    // SAFETY: The child is ours to wait for.
    let ended = unsafe { libc::waitpid(child, &mut status, 0) };
    equal("waitpid", (ended, status), (child, 0))?;
    equal("not written here", own.load(0)?, 1)?;
    // It is bound to a process that is gone.
    machine.refused(Read, AT, MemoryCause::Elsewhere)?;
    machine.vm().bind(own.base()).map_err(text)?;
    equal("again", machine.read(AT)?, 1)
}

/// Whoever is bound goes while the micro-VM stays, and the micro-VM while pages are in use; nothing is left.
pub(crate) fn endings() -> Outcome {
    let device = Device::open().map_err(text)?;
    let held = || device.info().map(|info| info.memory).map_err(text);
    let before = held()?;
    for round in 0..20 {
        let mut machine = Machine::new();
        let own = Own::new(8, None)?;
        own.show(&machine)?;
        for page in 0..8 {
            machine.write(AT + page * PAGE_SIZE, 1)?;
        }
        match round % 4 {
            0 => drop(own),
            1 => machine.unmap(AT, 8)?,
            2 => drop(machine.vm().share(0).map_err(text)?),
            _ => machine.vm().bind(own.base()).map_err(text)?,
        }
        let exit = machine.access(Read, AT, 0)?.0;
        let wanted = match round % 4 {
            0 | 1 => matches!(exit, Exit::Memory { .. }),
            _ => exit == Exit::Hypercall { ring: 3 },
        };
        check(&format!("round {round}: {exit:?}"), wanted)?;
    }
    equal("held", held()?, before)
}
