// SPDX-License-Identifier: GPL-2.0

//! A program in a micro-VM: setting it up, running it, and what it ends with.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uvisor_uapi::{MemoryCause, Prot, Stats, HYPERCALL_LEN};

use crate::errno::{Errno, SysResult};
use crate::guest::Guest;
use crate::layout::{Entropy, Layout, STACK_GUARD};
use crate::loader::{LoadError, Program};
use crate::memory::Memory;
use crate::personality::{self, Fds, Heap, Process, Signals, Trace};
pub use crate::personality::{is_ignored, Access, AccessError};
use crate::space::{Area, Backing, Space};
use crate::stack::{self, Start};
use crate::{Device, Exit, Vcpu};

/// The stack that a task gets if nothing limits it.
const STACK: u64 = 8 << 20;

/// The largest stack that a task gets.
const STACK_MAX: u64 = 1 << 30;

/// How to run a program.
#[derive(Debug, Default)]
pub struct Options {
    /// Its environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Bytes of memory that it may have; 0 for no limit.
    pub memory_limit: u64,
    /// Whether its parts are placed at random.
    pub aslr: bool,
    /// Where its system calls are printed.
    pub trace: Option<File>,
    /// Whether SIGPIPE was ignored when this process started.
    pub pipe_ignored: bool,
    /// The files that it may change.
    pub access: Arc<Access>,
}

/// Why a task cannot go on, by no fault of its own.
#[derive(Debug, Error)]
pub enum TaskError {
    /// The program cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The module, or the host, refused something.
    #[error(transparent)]
    Module(#[from] crate::Error),
    /// The broker cannot be set up.
    #[error("cannot set up the process that serves the task: {0}")]
    Setup(Errno),
    /// The guest left its shim in a way that the shim does not have.
    #[error("the guest's ring 0 went astray ({exit}, rip {rip:#x}): this is an error of uvisor's")]
    Ring0 {
        /// What it did.
        exit: String,
        /// Where.
        rip: u64,
    },
}

impl TaskError {
    /// The exit status of `uvctl run` for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Load(error) => error.status(),
            Self::Module(_) | Self::Setup(_) | Self::Ring0 { .. } => 125,
        }
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Exit(u8),
    /// It sent itself a signal that kills.
    Signal(i32),
    /// It did what kills by this signal; the text says what.
    Fault(i32, String),
    /// It used up the memory that it may have.
    MemoryLimit,
}

impl End {
    /// The exit status of `uvctl run`: that of the program, or 128 plus the signal.
    pub fn status(&self) -> u8 {
        match self {
            Self::Exit(status) => *status,
            Self::Signal(signal) | Self::Fault(signal, _) => 128 + *signal as u8,
            Self::MemoryLimit => 128 + libc::SIGKILL as u8,
        }
    }
}

/// A task and the state that its system calls act on.
#[derive(Debug)]
pub struct Task {
    pub(crate) vcpu: Vcpu,
    pub(crate) memory: Memory,
    pub(crate) space: Space,
    pub(crate) layout: Layout,
    pub(crate) heap: Heap,
    pub(crate) fds: Fds,
    /// The files that it may change.
    pub(crate) access: Arc<Access>,
    pub(crate) signals: Signals,
    pub(crate) process: Process,
    /// The program's absolute path.
    pub(crate) program: CString,
    /// Set when the task has ended.
    pub(crate) end: Option<End>,
    /// The random bytes that it was started with.
    pub(crate) random: Random,
    /// What it reads behind its checkpoint.
    pub(crate) checkpoint: Vec<u8>,
    /// Bytes of memory that it may have, and whether its parts are placed at random.
    pub(crate) memory_limit: u64,
    pub(crate) aslr: bool,
    /// Set when `execve` made this of another task, whose call must not be answered.
    pub(crate) replaced: bool,
    pub(crate) trace: Option<Trace>,
}

/// The random bytes that a program is started with (`AT_RANDOM`).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Random {
    /// Where they are.
    pub(crate) address: u64,
    /// What they were.
    pub(crate) bytes: [u8; 16],
}

impl Task {
    /// Puts a program into a new micro-VM.
    ///
    /// The file descriptors of this process below the limit on open files are the task's from now
    /// on.
    pub fn new(device: Device, program: Program, mut options: Options) -> Result<Self, TaskError> {
        let fds = Fds::reserve().map_err(TaskError::Setup)?;
        options.access = Arc::new(options.access.keep(&fds).map_err(TaskError::Setup)?);
        Self::build(device, program, options, fds)
    }

    /// Puts a program into a new micro-VM, with descriptors that exist.
    fn build(
        device: Device,
        program: Program,
        options: Options,
        fds: Fds,
    ) -> Result<Self, TaskError> {
        let entropy = match options.aslr {
            true => Some(Entropy::random().ok_or(TaskError::Setup(Errno::EIO))?),
            false => None,
        };
        let layout = Layout::new(device.gpa_bits(), stack_size(), entropy);

        let mut vm = device.create_vm(options.memory_limit)?;
        let guest = Guest::new(&device)?;
        guest.install(&vm)?;
        let mut vcpu = guest.create_vcpu(&vm)?;
        let own = |fd: BorrowedFd<'_>| fds.own(fd).map_err(TaskError::Setup);
        vm.replace_fd(own(vm.as_fd())?);
        vcpu.replace_fd(own(vcpu.as_fd())?);
        let trace = match options.trace {
            Some(file) => Some(Trace::new(own(file.as_fd())?.into())),
            None => None,
        };

        let memory = Memory::new(vm, layout.limit)?;
        let mut space = Space::default();
        // The stack comes first: a program linked to where it is does not fit.
        map_stack(&memory, &mut space, &layout, Prot::READ | Prot::WRITE)?;
        let loaded = program.load(&memory, &mut space, &layout)?;
        if loaded.executable_stack {
            let prot = Prot::READ | Prot::WRITE | Prot::EXEC;
            let start = layout.stack_top - layout.stack_size;
            memory.vm().protect(start, layout.stack_size, prot)?;
            space.protect(start, layout.stack_top, prot);
        }
        let mut random = [0; 16];
        crate::host::random(&mut random).map_err(TaskError::Setup)?;
        let start = Start {
            arguments: program.arguments.clone(),
            environment: options.environment,
            path: program.name.as_os_str().as_bytes().to_vec(),
            random,
            auxv: loaded.auxv,
        };
        let stack =
            stack::build(&start, layout.stack_top, layout.stack_size).map_err(LoadError::Stack)?;
        memory
            .write(stack.pointer, &stack.bytes)
            .map_err(TaskError::Setup)?;
        let regs = vcpu.regs_mut();
        regs.rip = loaded.entry;
        regs.rsp = stack.pointer;

        Ok(Self {
            vcpu,
            memory,
            space,
            layout,
            heap: Heap {
                start: loaded.heap,
                end: loaded.heap,
            },
            fds,
            access: options.access,
            signals: Signals::inherit(options.pipe_ignored),
            process: Process::default(),
            program: absolute(program.path()),
            end: None,
            random: Random {
                address: stack.random,
                bytes: random,
            },
            checkpoint: Vec::new(),
            memory_limit: options.memory_limit,
            aslr: options.aslr,
            replaced: false,
            trace,
        })
    }

    /// Becomes another program, as `execve` has it: in a new micro-VM, with the same descriptors but
    /// those that close on it. After an error everything is as it was.
    pub(crate) fn replace(
        &mut self,
        program: Program,
        environment: Vec<Vec<u8>>,
    ) -> Result<(), TaskError> {
        let options = Options {
            environment,
            memory_limit: self.memory_limit,
            aslr: self.aslr,
            trace: None,
            pipe_ignored: self.signals.ignores(libc::SIGPIPE),
            access: self.access.clone(),
        };
        let mut new = Self::build(Device::open()?, program, options, self.fds)?;
        new.fds.close_on_exec();
        new.signals = self.signals.after_exec();
        new.process = self.process.after_exec();
        new.trace = self.trace.take();
        new.checkpoint = std::mem::take(&mut self.checkpoint);
        new.replaced = true;
        *self = new;
        Ok(())
    }

    /// Runs the task to its end.
    pub fn run(&mut self) -> Result<End, TaskError> {
        loop {
            match self.vcpu.run()? {
                Exit::Hypercall { ring: 0 } => self.system_call(),
                // The host has seen to the signal; if it was one that ends us, we are not here.
                Exit::Interrupted => {}
                exit => return self.fault(exit),
            }
            if let Some(end) = self.end.take() {
                return Ok(end);
            }
        }
    }

    /// What the micro-VM holds and what happened to it.
    pub fn stats(&self) -> crate::Result<Stats> {
        self.memory.vm().stats()
    }

    /// Bytes of memory that it may have; 0 for no limit.
    pub fn memory_limit(&self) -> u64 {
        self.memory_limit
    }

    /// Duplicates a descriptor into the broker's own range.
    pub fn own_fd(&self, fd: BorrowedFd<'_>) -> Result<File, TaskError> {
        self.fds.own(fd).map(File::from).map_err(TaskError::Setup)
    }

    /// Serves the system call that the vCPU stopped at.
    fn system_call(&mut self) {
        let result = self.serve();
        self.answer(result);
    }

    /// Does what the system call that the vCPU stopped at says.
    pub(crate) fn serve(&mut self) -> SysResult {
        let regs = self.vcpu.regs();
        let number = regs.rax;
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        let text = match self.trace {
            Some(_) => personality::describe(&self.memory, number, &args),
            None => String::new(),
        };
        let result = personality::serve(self, number, args);
        if let Some(trace) = &mut self.trace {
            let result = self.end.is_none().then_some(result);
            trace.print(&text, number, result);
        }
        result
    }

    /// Makes the task go on behind its system call.
    pub(crate) fn answer(&mut self, result: SysResult) {
        if std::mem::take(&mut self.replaced) {
            return;
        }
        let regs = self.vcpu.regs_mut();
        regs.rax = result.unwrap_or_else(Errno::to_rax);
        regs.rip = regs.rip.wrapping_add(HYPERCALL_LEN);
    }

    /// What an exit that is no system call means for the task.
    pub(crate) fn fault(&self, exit: Exit) -> Result<End, TaskError> {
        let (rip, cpl) = (self.vcpu.regs().rip, self.vcpu.regs().cpl);
        // The shim touches no memory but its own page, and raises nothing.
        if cpl == 0 {
            return Err(TaskError::Ring0 {
                exit: format!("{exit:?}"),
                rip,
            });
        }
        let (signal, what) = match exit {
            Exit::Memory {
                cause: MemoryCause::Limit,
                ..
            } => return Ok(End::MemoryLimit),
            Exit::Memory {
                gpa, access, cause, ..
            } => {
                let (signal, why) = match cause {
                    MemoryCause::Unmapped => (libc::SIGSEGV, "nothing is mapped there"),
                    MemoryCause::FileEnd => (libc::SIGBUS, "the mapped file ends before"),
                    _ => (libc::SIGSEGV, "its mapping does not allow it"),
                };
                (signal, format!("{} {gpa:#x}: {why}", verb(access)))
            }
            Exit::Exception {
                vector,
                error_code,
                address,
            } => exception(vector, error_code, address),
            Exit::Hypercall { .. } => (libc::SIGILL, "executed VMCALL".into()),
            Exit::View { view, .. } => (libc::SIGILL, format!("wanted to switch to view {view}")),
            Exit::Privileged { reason, .. } => (
                libc::SIGILL,
                format!("executed a privileged instruction (exit reason {reason})"),
            ),
            Exit::TripleFault | Exit::Halt | Exit::Interrupted => {
                return Err(TaskError::Ring0 {
                    exit: format!("{exit:?}"),
                    rip,
                })
            }
        };
        Ok(End::Fault(signal, format!("at {rip:#x} it {what}")))
    }
}

/// What an access did, as a verb.
fn verb(access: Prot) -> &'static str {
    if access.contains(Prot::WRITE) {
        "wrote to"
    } else if access.contains(Prot::EXEC) {
        "jumped to"
    } else {
        "read from"
    }
}

/// The signal that Linux gives for an exception, and what it was.
fn exception(vector: u64, error_code: u64, address: u64) -> (i32, String) {
    let (signal, what) = match vector {
        0 => (libc::SIGFPE, "divided by zero, or the result did not fit"),
        1 => (libc::SIGTRAP, "met a debug exception"),
        3 => (libc::SIGTRAP, "met a breakpoint"),
        6 => (libc::SIGILL, "executed an instruction that does not exist"),
        11 | 12 => (libc::SIGBUS, "used a bad segment or stack address"),
        13 => (
            libc::SIGSEGV,
            "did what is not allowed (general protection)",
        ),
        14 => {
            let access = match error_code {
                code if code & 16 != 0 => "jumped to",
                code if code & 2 != 0 => "wrote to",
                _ => "read from",
            };
            let text = format!("{access} {address:#x}: beyond its address space");
            return (libc::SIGSEGV, text);
        }
        16 | 19 => (libc::SIGFPE, "met a floating-point exception"),
        17 => (
            libc::SIGBUS,
            "made an unaligned access with alignment checks on",
        ),
        _ => {
            let text = format!("raised exception {vector} (error code {error_code:#x})");
            return (libc::SIGSEGV, text);
        }
    };
    (signal, what.into())
}

/// Maps the stack, and keeps what is below it free.
fn map_stack(
    memory: &Memory,
    space: &mut Space,
    layout: &Layout,
    prot: Prot,
) -> Result<(), TaskError> {
    let start = layout.stack_top - layout.stack_size;
    memory.vm().map_anonymous(start, layout.stack_size, prot)?;
    space.insert(
        start,
        Area {
            end: layout.stack_top,
            prot,
            backing: Backing::Anonymous,
        },
    );
    space.insert(
        start - STACK_GUARD,
        Area {
            end: start,
            prot: Prot::empty(),
            backing: Backing::Reserved,
        },
    );
    Ok(())
}

/// The size of the stack that this process's limit allows.
fn stack_size() -> u64 {
    let mut limits = [0; 16];
    let resource = libc::RLIMIT_STACK as i32;
    match crate::pass!(PRLIMIT, 0, resource, None, &mut limits) {
        Ok(_) => match crate::memory::word(&limits, 0) {
            libc::RLIM_INFINITY => STACK,
            soft => soft.min(STACK_MAX),
        },
        Err(_) => STACK,
    }
}

/// The absolute path of a program, its links resolved.
fn absolute(path: &Path) -> CString {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    // A path that was opened has no NUL.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_those_of_shells() {
        assert_eq!(End::Exit(3).status(), 3);
        assert_eq!(End::Signal(libc::SIGTERM).status(), 143);
        let fault = End::Fault(libc::SIGSEGV, String::new());
        assert_eq!(fault.status(), 139);
        assert_eq!(End::MemoryLimit.status(), 137);
    }

    #[test]
    fn exceptions_have_the_signals_of_linux() {
        for (vector, signal) in [
            (0, libc::SIGFPE),
            (1, libc::SIGTRAP),
            (3, libc::SIGTRAP),
            (4, libc::SIGSEGV),
            (6, libc::SIGILL),
            (13, libc::SIGSEGV),
            (14, libc::SIGSEGV),
            (17, libc::SIGBUS),
            (19, libc::SIGFPE),
        ] {
            assert_eq!(exception(vector, 0, 0).0, signal, "vector {vector}");
        }
    }
}
