// SPDX-License-Identifier: GPL-2.0

//! A program in a micro-VM: a [`Task`] is one of its threads, as the host's thread that serves it has it.

mod budget;
mod build;
mod census;
mod context;
mod deliver;
mod ends;
mod fault;
mod fork;
mod threads;
mod told;
mod totals;
mod tree;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uvisor_uapi::{Serve, Stats, EXIT_INTERRUPTED, HYPERCALL_LEN};

use crate::audit::Outlet;
use crate::confine::Confined;
use crate::device::Machine;
use crate::errno::{Errno, SysResult};
use crate::guest::Shim;
use crate::layout::Layout;
use crate::loader::LoadError;
use crate::memory::Memory;
use crate::personality::{self, Actions, Book, Fds, Limits, Network, Signals, Timers, Trace};
use crate::signal::{self, Inbox};
use crate::stubs::Stubs;
use crate::sync::Lock;
use crate::{Exit, Vcpu};

pub use crate::personality::{is_ignored, Access, AccessError};
pub(crate) use budget::Budget;
pub(crate) use census::command;
pub(crate) use fork::{Child, NewProcess};
pub(crate) use threads::{NewThread, Thread, Threads};
pub(crate) use totals::Totals;
pub(crate) use tree::Tree;

/// How to run a program.
#[derive(Debug)]
pub struct Options {
    /// Its environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// Bytes of memory that all its processes may have together; 0 for no limit.
    pub memory_limit: u64,
    /// How many processes and threads it may have; 0 for no limit.
    pub pids: u32,
    /// Whether its parts are placed at random.
    pub aslr: bool,
    /// Where its system calls are printed.
    pub trace: Option<Trace>,
    /// Whether SIGPIPE was ignored when this process started.
    pub pipe_ignored: bool,
    /// What it may touch, by what enforces that; [`confine`](crate::confine::confine) makes it.
    pub confined: Confined,
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
    /// It used up its exits, which was said.
    ExitLimit,
}

impl End {
    /// The exit status of `uvctl run`: that of the program, or 128 plus the signal.
    pub fn status(&self) -> u8 {
        match self {
            Self::Exit(status) => *status,
            Self::Signal(signal) | Self::Fault(signal, _) => 128 + *signal as u8,
            Self::MemoryLimit | Self::ExitLimit => 128 + libc::SIGKILL as u8,
        }
    }
}

/// What ends a thread.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The process, and all its threads with it.
    Process(End),
    /// The thread alone, with this status.
    Thread(u8),
    /// Another thread goes on with what this one was.
    Left,
}

/// What the threads of a process have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    /// What is mapped where.
    pub(crate) book: Lock<Book>,
    /// What signals do.
    pub(crate) actions: Lock<Actions>,
    pub(crate) limits: Lock<Limits>,
    pub(crate) timers: Lock<Timers>,
    pub(crate) threads: Threads,
    /// The program's absolute path.
    pub(crate) program: CString,
    /// What it is called in lists of processes, at first, and how it was called.
    pub(crate) name: [u8; 16],
    pub(crate) command: Vec<u8>,
    /// The random bytes that it was started with.
    pub(crate) random: Random,
    /// What it reads behind its checkpoint.
    pub(crate) checkpoint: Vec<u8>,
    /// Bytes of memory that the task may have, how many threads, and whether its parts are placed at random.
    pub(crate) memory_limit: u64,
    pub(crate) pids: u32,
    pub(crate) aslr: bool,
    /// Where its shim is, and where its system calls enter.
    pub(crate) shim: Shim,
    pub(crate) stubs: Arc<Stubs>,
    /// The number that it had up to the template that it goes on with: programs keep theirs.
    pub(crate) former: Option<u32>,
    /// What page tables depend on.
    pub(crate) machine: Machine,
}

/// A thread of a task, and what its system calls act on.
#[derive(Debug)]
pub struct Task {
    pub(crate) vcpu: Vcpu,
    pub(crate) memory: Arc<Memory>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) fds: Arc<Fds>,
    pub(crate) network: Arc<Network>,
    /// The files that it may change.
    pub(crate) access: Arc<Access>,
    /// What the thread blocks, and its alternate stack.
    pub(crate) signals: Signals,
    /// Where signals for it arrive.
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) thread: Thread,
    /// The processes of the task, if there ever was more than one.
    pub(crate) tree: Arc<Lock<Option<Tree>>>,
    /// What makes this process another one's child, if it is.
    pub(crate) child: Option<Child>,
    /// Whether the task ends when the parent of its first process does.
    pub(crate) ends_with_parent: bool,
    /// Set when the thread has ended.
    pub(crate) ending: Option<Ending>,
    /// Set when the registers are already what comes behind the system call.
    pub(crate) answered: bool,
    pub(crate) trace: Option<Trace>,
    /// What happened to micro-VMs of the task that there are no more, if somebody wants to know.
    pub(crate) totals: Option<Arc<Totals>>,
    /// How many exits it has left, if they are limited.
    pub(crate) budget: Option<Arc<Budget>>,
    /// Where it is told what it does, if somebody wants to know.
    pub(crate) audit: Option<Arc<Outlet>>,
}

/// The random bytes that a program is started with (`AT_RANDOM`).
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Random {
    /// Where they are.
    pub(crate) address: u64,
    /// What they were.
    pub(crate) bytes: [u8; 16],
}

/// What a step of a thread came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// It goes on.
    On,
    /// It is at a system call that is not to be served.
    Reached,
    /// It has ended.
    Ended(Ending),
}

impl Task {
    /// Runs the task, of which this is the first thread, to its end.
    pub fn run(&mut self) -> Result<End, TaskError> {
        let _entered = self.inbox.enter(self.vcpu.exit_flag());
        personality::starts_here();
        let end = self.live();
        if signal::leave_fatal() {
            // Nobody takes it any more.
            self.shared.actions.lock().apply_defaults();
        }
        end
    }

    /// Runs a thread to its end: comes back with that of the process, or, of a thread that is not the first, not
    /// with anything that matters.
    fn live(&mut self) -> Result<End, TaskError> {
        loop {
            self.vcpu.set_serve(self.served());
            let ending = match self.step(|_| false) {
                Ok(Step::Ended(ending)) => ending,
                Ok(_) => continue,
                Err(error) if self.child.is_none() && self.thread.is_first() => return Err(error),
                Err(error) => Ending::Process(self.broken(&error)),
            };
            if let Some(end) = self.finish(ending) {
                return Ok(end);
            }
        }
    }

    /// The system calls that the module is to serve: those that would only be handed on by the broker, unless
    /// somebody wants to see, or to count, them all.
    fn served(&self) -> Serve {
        let refused = |name| self.access.rules().syscalls.refused.contains_key(name);
        let some_refused = ["read", "write", "pread64", "pwrite64"]
            .into_iter()
            .any(refused);
        match self.trace {
            Some(_) => Serve::default(),
            None if some_refused || self.budget.is_some() => Serve::default(),
            None => self.memory.serve(self.fds.end() as u64),
        }
    }

    /// Lets the guest run until something happens, and does what there is to do about it; a system call only if
    /// it is not the one that `is_reached` waits for.
    pub(crate) fn step(
        &mut self,
        is_reached: impl FnOnce(&Self) -> bool,
    ) -> Result<Step, TaskError> {
        if self.inbox.is_pending() {
            self.attend()?;
        } else {
            match self.vcpu.run()? {
                Exit::Interrupted => {}
                Exit::Hypercall { ring: 0 } if is_reached(self) => return Ok(Step::Reached),
                exit => match (self.spend_exit(), exit) {
                    (Some(end), _) => self.end(end),
                    (None, Exit::Hypercall { ring: 0 }) => self.system_call(),
                    (None, exit) => self.fault(exit)?,
                },
            }
        }
        Ok(self.ending.take().map_or(Step::On, Step::Ended))
    }

    /// The task, of which this is the first process, ends when this process's parent does.
    pub fn end_with_parent(&mut self) {
        self.ends_with_parent = true;
        // It may have ended already, and is not waited for then.
        if self.child.is_none() && crate::pass!(GETPPID) == Ok(1) {
            crate::signal::die_of(libc::SIGKILL);
        }
    }

    /// From now on [`Self::stats`] is about all processes of the task.
    pub fn count_all(&mut self) -> Result<(), TaskError> {
        self.totals = Some(Arc::new(Totals::new(&self.fds)?));
        Ok(())
    }

    /// What the micro-VM holds and what happened to it; with [`Self::count_all`], what happened to those of processes
    /// that have ended as well, unless a signal killed them.
    pub fn stats(&self) -> crate::Result<Stats> {
        let mut stats = self.memory.vm().stats()?;
        if let Some(totals) = &self.totals {
            totals.add_to(&mut stats);
        }
        Ok(stats)
    }

    /// The process leaves its micro-VM.
    pub(crate) fn count(&self) {
        let shares_memory = self.child.as_ref().is_some_and(Child::shares_memory);
        if let (Some(totals), false) = (&self.totals, shares_memory) {
            // What cannot be counted is missing.
            if let Ok(stats) = self.memory.vm().stats() {
                totals.add(&stats);
            }
        }
    }

    /// Bytes of memory that it may have; 0 for no limit.
    pub fn memory_limit(&self) -> u64 {
        self.shared.memory_limit
    }

    /// Duplicates a descriptor into the broker's own range.
    pub fn own_fd(&self, fd: BorrowedFd<'_>) -> Result<File, TaskError> {
        self.fds.own(fd).map(File::from).map_err(TaskError::Setup)
    }

    /// Whether a number is that of the process itself.
    pub(crate) fn is_own(&self, pid: u64) -> bool {
        let pid = pid as u32;
        pid == crate::process::id() || Some(pid) == self.shared.former
    }

    /// The process is to end.
    pub(crate) fn end(&mut self, end: End) {
        self.ending = Some(Ending::Process(end));
    }

    /// Serves the system call that the vCPU stopped at.
    fn system_call(&mut self) {
        // What the last one left is not about this one.
        self.signals.interrupted = false;
        self.signals.temporary = None;
        self.inbox.was_but_disturbed();
        let result = match self.vcpu.raw_exit().code {
            // As a call of the broker's own that a signal interrupts.
            EXIT_INTERRUPTED => Err(Errno::ERESTARTSYS),
            _ => self.serve(),
        };
        let result = match result {
            Err(Errno::ERESTARTSYS) if self.waits_for_a_time() => Err(Errno::EINTR),
            result => result,
        };
        if result == Err(Errno::EINTR) && self.inbox.was_but_disturbed() {
            // The host was not told that it is blocked: the call is made again, with the mask that it had.
            return;
        }
        let result = match self.signals.temporary {
            Some(mask) => self.end_of_temporary(mask, result),
            None => result,
        };
        if !matches!(result, Err(Errno::EINTR | Errno::ERESTARTSYS)) {
            self.signals.temporary = None;
        }
        match result {
            // It stays where it is: it makes the call again behind the signal's handler, or at once if none has
            // arrived for it. Whether it may is the handler's to say.
            Err(Errno::ERESTARTNOINTR) => {}
            Err(Errno::ERESTARTSYS) => self.signals.interrupted = true,
            // The broker itself has interrupted it, which the program must not notice.
            Err(Errno::EINTR) if self.inbox.is_but_woken() => {}
            result => self.answer(result),
        }
    }

    /// The number and the arguments of the system call that the vCPU stopped at.
    fn called(&self) -> (u64, personality::Args) {
        let regs = self.vcpu.regs();
        let args = [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9];
        (regs.rax, args)
    }

    /// Whether that call, which was interrupted, waits for a time of its socket's.
    fn waits_for_a_time(&self) -> bool {
        let (number, args) = self.called();
        personality::waits_for_a_time(self, number, &args)
    }

    /// Does what the system call that the vCPU stopped at says.
    fn serve(&mut self) -> SysResult {
        let (number, args) = self.called();
        let Some(trace) = &self.trace else {
            return self.serve_audited(number, args);
        };
        let noted = trace.note(self, number, &args);
        let result = self.serve_audited(number, args);
        if let Some(trace) = &self.trace {
            let comes_back = self.ending.is_none() && !(self.answered && result.is_err());
            trace.print(&noted, number, comes_back.then_some(result));
        }
        result
    }

    /// Does what a system call says, and tells the audit, if there is one.
    #[inline]
    fn serve_audited(&mut self, number: u64, args: personality::Args) -> SysResult {
        match self.reader().is_some() {
            false => personality::serve(self, number, args),
            true => personality::audited::serve(self, number, args),
        }
    }

    /// From now on it tells what it does, and what it is refused, by `outlet`; without one, if somebody comes to read it.
    pub fn audit(&mut self, outlet: Option<Outlet>) -> Result<(), TaskError> {
        let outlet = match outlet {
            Some(outlet) => outlet,
            None => Outlet::for_who_comes().map_err(|error| TaskError::Setup(error.into()))?,
        };
        let outlet = outlet.keep(&self.fds).map_err(TaskError::Setup)?;
        self.audit = Some(Arc::new(outlet));
        Ok(())
    }

    /// Makes the task go on behind its system call.
    pub(crate) fn answer(&mut self, result: SysResult) {
        if std::mem::take(&mut self.answered) {
            return;
        }
        let regs = self.vcpu.regs_mut();
        regs.rax = result.unwrap_or_else(Errno::to_rax);
        regs.rip = regs.rip.wrapping_add(HYPERCALL_LEN);
    }

    /// The end of a process whose thread the broker can no longer serve.
    fn broken(&mut self, error: &TaskError) -> End {
        End::Fault(libc::SIGKILL, error.to_string())
    }
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
        assert_eq!(End::ExitLimit.status(), 137);
    }
}
