// SPDX-License-Identifier: GPL-2.0

//! A task becomes a template, and a template a task.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::SystemTime;

use super::state::{areas, FORMAT};
use super::{files, About, During, Point, Result, State, Stdio, Template, TemplateError};
use crate::confine::Confined;
use crate::errno::Errno;
use crate::memory::Memory;
use crate::pass;
use crate::personality::{path_of, Book, Fds, Limits, SignalState, Trace};
use crate::signal::Inbox;
use crate::stubs::Stubs;
use crate::sync::Lock;
use crate::task::{command, Random, Shared, Task, TaskError, Thread, Threads};
use crate::Device;

/// How to go on with a template.
#[derive(Debug)]
pub struct Resume {
    /// What the program reads behind its checkpoint, a line each. A template that was not made at a
    /// checkpoint takes none.
    pub arguments: Vec<Vec<u8>>,
    /// Bytes of memory that it may have besides the template's; by default what the template may have.
    pub memory_limit: Option<u64>,
    /// How many processes and threads it may have; 0 for no limit.
    pub pids: u32,
    /// Where its system calls are printed.
    pub trace: Option<Trace>,
    /// Whether SIGPIPE was ignored when this process started.
    pub pipe_ignored: bool,
    /// The module, which is open before this process is confined.
    pub device: Device,
    /// What it may touch, by what enforces that.
    pub confined: Confined,
}

impl Task {
    /// Standard input, output and error as the task has them now.
    pub fn stdio(&self) -> Result<Stdio> {
        Stdio::now(&self.fds)
    }

    /// Makes this a template, which it is at `point`; `command` is for people.
    pub fn into_template(
        self,
        stdio: &Stdio,
        point: Point,
        command: Vec<String>,
    ) -> Result<Template> {
        if !self.shared.threads.is_alone() {
            return Err(TemplateError::Threads(self.shared.threads.numbers().len()));
        }
        if self.has_children() {
            return Err(TemplateError::Children);
        }
        {
            let book = self.shared.book.lock();
            if !book.shared.is_empty() || !book.of_broker().is_empty() {
                return Err(TemplateError::SharedMemory);
            }
        }
        let captured = files::capture(&self.fds, stdio)?;
        let looking = "cannot look at the program's process";
        let cwd = current_directory().during(looking)?;
        let directory = path_of(cwd.as_raw_fd()).during(looking)?;
        let created = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let mut name = [0; 16];
        pass!(PRCTL_NAME, libc::PR_GET_NAME, &mut name).during(looking)?;
        let umask = pass!(UMASK, 0).during(looking)?;
        let shared = &self.shared;
        let book = shared.book.lock();
        let state = State {
            format: FORMAT,
            about: About {
                command,
                point,
                created: created.map_or(0, |time| time.as_secs()),
                directory: String::from_utf8_lossy(&directory).into_owned(),
            },
            gpa_bits: self.memory.vm().size().trailing_zeros(),
            areas: areas(&book.space),
            layout: shared.layout,
            heap: book.heap,
            program: shared.program.as_bytes().to_vec(),
            random: shared.random,
            memory_limit: shared.memory_limit,
            aslr: shared.aslr,
            jit: self.access.rules().jit,
            precise_clock: self.access.rules().precise_clock,
            signals: SignalState::of(&shared.actions.lock(), &self.signals),
            limits: shared.limits.lock().state(),
            clear_tid: self.thread.clear_tid,
            robust: self.thread.robust,
            number: crate::process::id(),
            shim: shared.shim,
            name,
            umask: umask as u32,
            fd_limit: self.fds.rlimit().0,
            files: captured.files,
        };
        drop(book);
        let vm = self.memory.vm().duplicate()?;
        vm.freeze()?;
        Ok(Template {
            state,
            vm,
            vcpu: self.vcpu,
            cwd,
            files: captured.handles,
        })
    }
}

impl Template {
    /// Goes on with it, in a clone; this process becomes the task's broker.
    ///
    /// The file descriptors of this process below the limit on open files are the task's from now on.
    pub fn resume(self, options: Resume) -> Result<Task> {
        let Self {
            state,
            vm: template,
            vcpu: origin,
            cwd,
            files: handles,
        } = self;
        let checkpoint = match (state.about.point, options.arguments.as_slice()) {
            (Point::Checkpoint, arguments) => lines(arguments),
            (_, []) => Vec::new(),
            _ => return Err(TemplateError::Arguments),
        };
        state.check_rules(options.confined.access.rules())?;
        let setting_up = "cannot set up the process that serves the task";
        // It has a number that may be one of the task's files'.
        let machine = options.device.machine();
        drop(options.device);
        let fds = Fds::reserve().during(setting_up)?;
        options.confined.access.limit(&fds).during(setting_up)?;
        let own = |fd: BorrowedFd<'_>| fds.own(fd).during(setting_up);
        let access = Arc::new(options.confined.access.keep(&fds).during(setting_up)?);

        let memory_limit = options.memory_limit.unwrap_or(state.memory_limit);
        let mut vm = template.share(memory_limit)?;
        let stubs = Stubs::new(&fds, &fds.hold(), state.shim)?;
        stubs.install(&vm)?;
        let stub = stubs.take().during(setting_up)?;
        let mut vcpu = vm.create_vcpu_at(&origin, stub.entry())?;
        vm.replace_fd(own(vm.as_fd())?);
        vcpu.replace_fd(own(vcpu.as_fd())?);
        let trace = options.trace.map(|trace| trace.keep(&fds));
        let trace = trace.transpose().during(setting_up)?;
        let network = options.confined.network.keep(&fds).during(setting_up)?;
        drop(options.confined);
        drop((template, origin));
        let memory = Memory::new(vm, state.layout.limit)?;
        let random = renew(&memory, state.random)?;

        pass!(FCHDIR, cwd.as_raw_fd()).during("cannot go to the template's directory")?;
        drop(cwd);
        files::check(&fds, &access, &state.files, &handles)?;
        files::restore(&fds, &state.files, handles)?;
        if state.fd_limit < fds.rlimit().0 {
            fds.lower(state.fd_limit).during(setting_up)?;
        }
        pass!(UMASK, state.umask as i32).during(setting_up)?;
        let mut name = state.name;
        pass!(PRCTL_NAME, libc::PR_SET_NAME, &mut name).during(setting_up)?;
        let (actions, signals) = state
            .signals
            .restore(options.pipe_ignored)
            .during(setting_up)?;
        let inbox = Inbox::new();
        inbox.set_mask(signals.mask);
        let mut thread = Thread::first(stub);
        (thread.clear_tid, thread.robust) = (state.clear_tid, state.robust);
        let called = state
            .about
            .command
            .iter()
            .map(|word| word.clone().into_bytes());
        let called: Vec<Vec<u8>> = called.collect();
        let shared = Shared {
            layout: state.layout,
            book: Lock::new(Book::new(state.space(), state.heap)),
            actions: Lock::new(actions),
            limits: Lock::new(Limits::restore(&state.limits).during(setting_up)?),
            timers: Lock::default(),
            threads: Threads::first(),
            program: CString::new(state.program)
                .map_err(|_| TemplateError::Message("a path with a NUL"))?,
            name: state.name,
            command: command(&called),
            random,
            checkpoint,
            memory_limit,
            pids: options.pids,
            aslr: state.aslr,
            shim: state.shim,
            stubs,
            former: Some(state.number),
            machine,
        };
        thread.introduce();
        Ok(Task {
            vcpu,
            memory: Arc::new(memory),
            shared: Arc::new(shared),
            fds: Arc::new(fds),
            network: Arc::new(network),
            access,
            signals,
            inbox,
            thread,
            tree: Arc::default(),
            child: None,
            ends_with_parent: false,
            ending: None,
            answered: false,
            trace,
            totals: None,
            budget: None,
            audit: None,
        })
    }
}

/// Gives a clone random bytes of its own, where the program has not changed them.
fn renew(memory: &Memory, random: Random) -> Result<Random, TaskError> {
    if memory.read(random.address) != Ok(random.bytes) {
        // It keeps something else there, or nothing.
        return Ok(random);
    }
    let mut bytes = [0; 16];
    crate::host::random(&mut bytes).map_err(TaskError::Setup)?;
    memory
        .write(random.address, &bytes)
        .map_err(TaskError::Setup)?;
    Ok(Random { bytes, ..random })
}

/// What a program reads behind its checkpoint.
fn lines(arguments: &[Vec<u8>]) -> Vec<u8> {
    let with_newline = |argument: &Vec<u8>| [argument.as_slice(), b"\n"].concat();
    arguments.iter().flat_map(with_newline).collect()
}

/// The current directory of this process.
fn current_directory() -> Result<OwnedFd, Errno> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let fd = pass!(OPENAT, libc::AT_FDCWD, c".", flags, 0)?;
    // SAFETY: The kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;

    #[test]
    fn random_bytes_are_renewed_where_they_are_still_there() {
        let memory = memory(8192);
        let random = Random {
            address: 64,
            bytes: [7; 16],
        };
        memory.write(64, &[7; 16]).unwrap();
        let renewed = renew(&memory, random).unwrap();
        assert_ne!(renewed.bytes, [7; 16]);
        assert_eq!(memory.read(64), Ok(renewed.bytes));
        // The program has put something else there.
        let again = renew(&memory, random).unwrap();
        assert_eq!(again.bytes, [7; 16]);
        assert_eq!(memory.read(64), Ok(renewed.bytes));
        // Nothing is there.
        let nowhere = Random {
            address: 1 << 20,
            bytes: [7; 16],
        };
        assert_eq!(renew(&memory, nowhere).unwrap().bytes, [7; 16]);
    }

    #[test]
    fn arguments_are_lines() {
        let words = [&b"a b"[..], b"", b"c"].map(<[u8]>::to_vec);
        assert_eq!(lines(&words), b"a b\n\nc\n");
        assert_eq!(lines(&[]), b"");
    }
}
