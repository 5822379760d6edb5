// SPDX-License-Identifier: GPL-2.0

//! System calls that RUN serves by itself: what they do, and all that they must not.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use uvisor::{Event, Exit, GuestMemory, Prot, HYPERCALL_LEN, PAGE_SIZE};
use uvisor_tests::heap::text;
use uvisor_tests::host::{alarm_in_ms, memory_file, on_alarm};
use uvisor_tests::tap::{check, equal, Outcome};
use uvisor_tests::{code, Guest, Tap, CODE, DATA};
use uvisor_uapi::{Serve, EXIT_INTERRUPTED};

const READ: u64 = 0;
const WRITE: u64 = 1;
const PREAD64: u64 = 17;
const PWRITE64: u64 = 18;

/// How long the instruction is.
const SYSCALL_LEN: u64 = 2;

// A system call, and a hypercall of ring 3 behind it; again and again.
code! { system_calls:
    "1: syscall",
    "vmcall",
    "jmp 1b",
}

/// A guest that makes system calls, and its memory.
struct Served {
    guest: Guest,
    memory: GuestMemory,
}

/// What came of a system call.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// It was served, with this result.
    Result(i64),
    /// It was left to the caller.
    Back,
    /// So it was, as a signal interrupted it.
    Interrupted,
}

impl Served {
    fn new() -> Result<Self, String> {
        let guest = Guest::new(system_calls());
        let memory = guest.vm.memory().map_err(text)?;
        let mut served = Self { guest, memory };
        let serve = served.all();
        served.guest.vcpu.set_serve(serve);
        Ok(served)
    }

    /// All descriptors, and all of the memory.
    fn all(&self) -> Serve {
        let base = self.memory.address(0, 0).expect("the memory") as u64;
        Serve {
            fds: 1024,
            base,
            len: self.guest.vm.size(),
        }
    }

    /// Makes a system call.
    fn call(
        &mut self,
        number: u64,
        fd: u64,
        address: u64,
        len: u64,
        at: u64,
    ) -> Result<Came, String> {
        let regs = self.guest.vcpu.regs_mut();
        (regs.rax, regs.rdi, regs.rsi, regs.rdx, regs.r10) = (number, fd, address, len, at);
        match self.guest.vcpu.run().map_err(text)? {
            Exit::Hypercall { ring: 3 } => {
                let result = self.guest.vcpu.regs().rax as i64;
                self.guest.vcpu.regs_mut().rip += HYPERCALL_LEN;
                Ok(Came::Result(result))
            }
            Exit::Hypercall { ring: 0 } => {
                let regs = self.guest.vcpu.regs();
                let seen = [regs.rax, regs.rdi, regs.rsi, regs.rdx, regs.r10];
                let code = self.guest.vcpu.raw_exit().code;
                equal("the arguments", seen, [number, fd, address, len, at])?;
                // Behind the system call, and its hypercall, the answer arrives.
                self.guest.vcpu.regs_mut().rip += HYPERCALL_LEN;
                self.guest.vcpu.regs_mut().rax = 77;
                equal("then", self.guest.run(), Exit::Hypercall { ring: 3 })?;
                equal("the answer", self.guest.vcpu.regs().rax, 77)?;
                self.guest.vcpu.regs_mut().rip += HYPERCALL_LEN;
                match code {
                    0 => Ok(Came::Back),
                    code => equal("code", code, EXIT_INTERRUPTED).map(|()| Came::Interrupted),
                }
            }
            other => Err(format!("{other:?}")),
        }
    }

    fn bytes(&self, len: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; len];
        self.guest.vm.read_at(DATA, &mut bytes).map_err(text)?;
        Ok(bytes)
    }

    fn count(&self) -> Result<u64, String> {
        Ok(self.guest.vm.stats().map_err(text)?.events[Event::Served as usize])
    }
}

/// A file of ten digits.
fn digits() -> Result<File, String> {
    let mut file = memory_file(b"0123456789");
    file.set_len(10).map_err(text)?;
    file.rewind().map_err(text)?;
    Ok(file)
}

fn fd(file: &File) -> u64 {
    file.as_raw_fd() as u64
}

/// A pipe: what is read from it, and what is written to it.
fn pipe() -> Result<(File, File), String> {
    let mut ends = [0; 2];
    // SAFETY: The array has room for both.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: Both were just made, and have no other owner.
    let [read, write] = ends.map(|end| unsafe { File::from_raw_fd(end) });
    Ok((read, write))
}

/// Reads and writes do what Linux does, with positions.
fn files() -> Outcome {
    let mut served = Served::new()?;
    let mut file = digits()?;
    let before = served.count()?;
    equal(
        "read",
        served.call(READ, fd(&file), DATA, 4, 0)?,
        Came::Result(4),
    )?;
    equal("bytes", served.bytes(4)?, b"0123".to_vec())?;
    equal(
        "pread64",
        served.call(PREAD64, fd(&file), DATA, 100, 7)?,
        Came::Result(3),
    )?;
    equal("bytes", served.bytes(4)?, b"7893".to_vec())?;
    equal("position", file.stream_position().map_err(text)?, 4)?;
    equal(
        "write",
        served.call(WRITE, fd(&file), DATA, 2, 0)?,
        Came::Result(2),
    )?;
    equal(
        "pwrite64",
        served.call(PWRITE64, fd(&file), DATA, 3, 0)?,
        Came::Result(3),
    )?;
    equal("position", file.stream_position().map_err(text)?, 6)?;
    let mut all = [0; 10];
    file.read_exact_at(&mut all, 0).map_err(text)?;
    equal("the file", &all, b"7893786789")?;
    equal(
        "the rest",
        served.call(READ, fd(&file), DATA, 100, 0)?,
        Came::Result(4),
    )?;
    equal(
        "its end",
        served.call(READ, fd(&file), DATA, 100, 0)?,
        Came::Result(0),
    )?;
    equal("served", served.count()? - before, 6)
}

/// A pipe has no position; it is waited for.
fn pipes() -> Outcome {
    let mut served = Served::new()?;
    let (mut read, mut write) = pipe()?;
    equal(
        "write",
        served.call(WRITE, fd(&write), DATA, 8, 0)?,
        Came::Result(8),
    )?;
    let mut bytes = [1; 8];
    read.read_exact(&mut bytes).map_err(text)?;
    equal("bytes", bytes, [0; 8])?;
    let later = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        write.write_all(b"later").map(|()| write)
    });
    equal(
        "waited",
        served.call(READ, fd(&read), DATA, 8, 0)?,
        Came::Result(5),
    )?;
    equal("bytes", served.bytes(5)?, b"later".to_vec())?;
    drop(later.join().map_err(|_| "the writer")?.map_err(text)?);
    equal(
        "the end",
        served.call(READ, fd(&read), DATA, 8, 0)?,
        Came::Result(0),
    )?;
    // There is none to read that.
    let (gone, write) = pipe()?;
    drop(gone);
    let epipe = Came::Result(-i64::from(libc::EPIPE));
    equal(
        "SIGPIPE is ignored",
        served.call(WRITE, fd(&write), DATA, 8, 0)?,
        epipe,
    )
}

/// A signal ends the wait; nothing is lost, and the caller decides what becomes of it.
fn signals() -> Outcome {
    let mut served = Served::new()?;
    // One with a time limit, which the kernel tells otherwise.
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().map_err(text)?;
    let limit = std::time::Duration::from_secs(100);
    ours.set_read_timeout(Some(limit)).map_err(text)?;
    alarm_in_ms(10);
    let came = served.call(READ, ours.as_raw_fd() as u64, DATA, 8, 0)?;
    equal("with a time limit", came, Came::Interrupted)?;
    let (read, mut write) = pipe()?;
    for round in 0..20u8 {
        alarm_in_ms(10);
        equal(
            "interrupted",
            served.call(READ, fd(&read), DATA, 8, 0)?,
            Came::Interrupted,
        )?;
        write.write_all(&[round]).map_err(text)?;
        equal(
            "read",
            served.call(READ, fd(&read), DATA, 8, 0)?,
            Came::Result(1),
        )?;
        equal("byte", served.bytes(1)?, vec![round])?;
    }
    Ok(())
}

/// Errors of the kernel's are results; what the module does not know goes back.
fn errors() -> Outcome {
    let mut served = Served::new()?;
    let file = digits()?;
    let read_only = File::open("/proc/self/maps").map_err(text)?;
    let (read, _write) = pipe()?;
    let path = std::ffi::CString::new("/").map_err(text)?;
    // SAFETY: The path is a string; the descriptor has no other owner.
    let handle = unsafe { File::from_raw_fd(libc::open(path.as_ptr(), libc::O_PATH)) };
    let closed = {
        let file = memory_file(b"");
        fd(&file)
    };
    let directory = File::open("/").map_err(text)?;
    let end = served.guest.vm.size();
    for (what, number, fd, address, len, at) in [
        ("not open", READ, closed, DATA, 8, 0),
        ("beyond the descriptors", READ, 1024, DATA, 8, 0),
        ("far beyond them", READ, u64::MAX, DATA, 8, 0),
        ("a handle", READ, fd(&handle), DATA, 8, 0),
        ("a directory", READ, fd(&directory), DATA, 8, 0),
        ("not open for writing", WRITE, fd(&read_only), DATA, 8, 0),
        ("a pipe has no positions", PREAD64, fd(&read), DATA, 8, 0),
        ("a negative position", PREAD64, fd(&file), DATA, 8, u64::MAX),
        ("no bytes", READ, fd(&file), DATA, 0, 0),
        (
            "more bytes than there are",
            READ,
            fd(&file),
            DATA,
            u64::MAX,
            0,
        ),
        ("to the end and beyond", READ, fd(&file), end - 8, 9, 0),
        ("beyond the end", READ, fd(&file), end, 1, 0),
        ("far beyond it", READ, fd(&file), u64::MAX - 7, 8, 0),
        ("another call", 2, fd(&file), DATA, 8, 0),
    ] {
        equal(what, served.call(number, fd, address, len, at)?, Came::Back)?;
    }
    let efault = Came::Result(-i64::from(libc::EFAULT));
    for (what, number, address) in [
        ("nothing there", READ, 0x7000_0000),
        ("nothing there to write", WRITE, 0x7000_0000),
        ("it may not be written", READ, CODE),
    ] {
        let came = served.call(number, fd(&file), address, 8, 0)?;
        check(&format!("{what}: {came:?}"), came == efault)?;
    }
    // What there is up to the end of a mapping is read.
    let last = DATA + PAGE_SIZE - 4;
    equal(
        "a part",
        served.call(PREAD64, fd(&file), last, 8, 0)?,
        Came::Result(4),
    )
}

/// Nothing is served that the caller did not ask for, on no memory but what it named.
fn only_what_is_asked() -> Outcome {
    let mut served = Served::new()?;
    let file = digits()?;
    let all = served.all();
    let kernel = 0xffff_8880_0000_0000u64;
    for (what, serve) in [
        ("nothing", Serve::default()),
        ("no descriptors", Serve { fds: 0, ..all }),
        (
            "fewer descriptors",
            Serve {
                fds: fd(&file),
                ..all
            },
        ),
        ("no memory", Serve { len: 0, ..all }),
        (
            "less memory",
            Serve {
                len: DATA + 7,
                ..all
            },
        ),
        (
            "the kernel's memory",
            Serve {
                base: kernel,
                len: u64::MAX,
                ..all
            },
        ),
        (
            "memory into the kernel's",
            Serve {
                base: (1 << 47) - PAGE_SIZE - DATA - 4,
                ..all
            },
        ),
        (
            "memory around the end",
            Serve {
                base: u64::MAX - 4,
                len: u64::MAX,
                ..all
            },
        ),
    ] {
        served.guest.vcpu.set_serve(serve);
        let came = served.call(READ, fd(&file), DATA, 8, 0)?;
        check(&format!("{what}: {came:?}"), came == Came::Back)?;
    }
    served.guest.vcpu.set_serve(Serve {
        fds: fd(&file) + 1,
        len: DATA + 8,
        ..all
    });
    equal(
        "just enough",
        served.call(READ, fd(&file), DATA, 8, 0)?,
        Came::Result(8),
    )?;
    // A hypercall of ring 3 is no system call.
    let regs = served.guest.vcpu.regs_mut();
    (regs.rax, regs.rdi, regs.rsi, regs.rdx) = (READ, fd(&file), DATA, 1);
    regs.rip = CODE + SYSCALL_LEN;
    equal("ring 3", served.guest.run(), Exit::Hypercall { ring: 3 })?;
    equal("is asked", served.guest.vcpu.regs().rax, READ)
}

/// Who serves is who calls RUN: its files, its memory.
fn another_process() -> Outcome {
    let mut served = Served::new()?;
    let file = digits()?;
    let regs = served.guest.vcpu.regs_mut();
    (regs.rax, regs.rdi, regs.rsi, regs.rdx) = (READ, fd(&file), DATA, 8);
    let vcpu = served.guest.vcpu.as_fd().as_raw_fd();
    // SAFETY: The child makes a system call and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // The mapping of the guest's memory is not the child's.
        // SAFETY: The command takes no argument.
        let ran = unsafe { libc::ioctl(vcpu, libc::c_ulong::from(uvisor_uapi::RUN)) };
        // SAFETY: As above.
        unsafe { libc::_exit(i32::from(ran != 0)) };
    }
    let mut status = 0;
    // SAFETY: The status is written.
    let ended = unsafe { libc::waitpid(child, &mut status, 0) };
    equal("the child", (ended, status), (child, 0))?;
    let efault = -i64::from(libc::EFAULT);
    equal("its memory", served.guest.vcpu.regs().rax as i64, efault)?;
    served.guest.vcpu.regs_mut().rip += HYPERCALL_LEN;
    equal(
        "the parent",
        served.call(READ, fd(&file), DATA, 8, 0)?,
        Came::Result(8),
    )
}

/// While the call waits, the memory it is to write to goes, and comes back as something else.
fn memory_goes() -> Outcome {
    let mut served = Served::new()?;
    let place = 0x6000_0000;
    let rw = Prot::READ | Prot::WRITE;
    served
        .guest
        .vm
        .map_anonymous(place, PAGE_SIZE, rw)
        .map_err(text)?;
    let (read, mut write) = pipe()?;
    let fault = std::thread::scope(|scope| {
        let vm = served.guest.vm.duplicate().map_err(text)?;
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(50));
            vm.unmap(place, PAGE_SIZE).expect("UNMAP");
            write.write_all(b"late").expect("write");
        });
        served.call(READ, fd(&read), place, 8, 0)
    })?;
    equal("it is gone", fault, Came::Result(-i64::from(libc::EFAULT)))
}

fn main() {
    on_alarm();
    let mut tap = Tap::new();
    tap.test("reads and writes of files", files);
    tap.test("pipes are waited for", pipes);
    tap.test("a signal ends the wait", signals);
    tap.test("errors, and what goes back to the caller", errors);
    tap.test(
        "nothing is served but what is asked for",
        only_what_is_asked,
    );
    tap.test(
        "by the files and the memory of who calls RUN",
        another_process,
    );
    tap.test("memory that goes meanwhile", memory_goes);
    tap.finish();
}
