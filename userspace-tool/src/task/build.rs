// SPDX-License-Identifier: GPL-2.0

//! Making tasks: from a program, and of a task another by `execve`.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use uvisor_uapi::Prot;

use super::{command, Options, Random, Shared, Task, TaskError, Thread, Threads};
use crate::device::Machine;
use crate::errno::Errno;
use crate::guest::Guest;
use crate::layout::{Entropy, Layout, STACK_GUARD};
use crate::loader::{LoadError, Program};
use crate::memory::Memory;
use crate::personality::{short_name, Actions, Book, Fds, Heap, Limits, Signals, Timers};
use crate::signal::Inbox;
use crate::space::{Area, Backing, Space};
use crate::stack::{self, Start};
use crate::stubs::Stubs;
use crate::sync::Lock;
use crate::{CloneFlags, Device, Vcpu, Vm, VmFlags};

/// The stack that a task gets if nothing limits it.
const STACK: u64 = 8 << 20;

/// The largest stack that a task gets.
const STACK_MAX: u64 = 1 << 30;

/// What becomes of a program by loading it.
struct Loaded {
    vcpu: Vcpu,
    memory: Memory,
    shared: Shared,
    thread: Thread,
}

/// What a program is loaded with.
struct Load<'a> {
    environment: Vec<Vec<u8>>,
    memory_limit: u64,
    pids: u32,
    aslr: bool,
    /// Whether memory that could be written may become executable.
    jit: bool,
    /// Whether it knows the time precisely.
    precise_clock: bool,
    /// Whether its code is not to be read.
    hidden_code: bool,
    checkpoint: Vec<u8>,
    actions: Actions,
    limits: Limits,
    timers: Timers,
    former: Option<u32>,
    machine: Machine,
    /// What the micro-VM is made from.
    origin: From<'a>,
}

/// What a micro-VM is made from.
enum From<'a> {
    /// The device: the first of a task.
    Device(Device),
    /// That of the program that makes room for it.
    Before(&'a Vm),
}

impl Task {
    /// Puts a program into a new micro-VM.
    ///
    /// The file descriptors of this process below the limit on open files are the task's from now
    /// on.
    pub fn new(device: Device, program: Program, options: Options) -> Result<Self, TaskError> {
        let fds = Fds::reserve().map_err(TaskError::Setup)?;
        options
            .confined
            .access
            .limit(&fds)
            .map_err(TaskError::Setup)?;
        let network = options.confined.network.keep(&fds);
        let network = network.map_err(TaskError::Setup)?;
        let access = options
            .confined
            .access
            .keep(&fds)
            .map_err(TaskError::Setup)?;
        let actions = Actions::inherit(options.pipe_ignored);
        let load = Load {
            environment: options.environment,
            memory_limit: options.memory_limit,
            pids: options.pids,
            aslr: options.aslr,
            jit: access.rules().jit,
            precise_clock: access.rules().precise_clock,
            hidden_code: access.rules().execute_only && device.has_execute_only(),
            checkpoint: Vec::new(),
            actions,
            limits: Limits::inherit().map_err(TaskError::Setup)?,
            timers: Timers::default(),
            former: None,
            machine: device.machine(),
            origin: From::Device(device),
        };
        let loaded = Loaded::new(program, load, &fds)?;
        let trace = options.trace.map(|trace| trace.keep(&fds));
        let trace = trace.transpose().map_err(TaskError::Setup)?;
        loaded.thread.introduce();
        loaded.shared.name_process();
        Ok(Self {
            vcpu: loaded.vcpu,
            memory: Arc::new(loaded.memory),
            shared: Arc::new(loaded.shared),
            fds: Arc::new(fds),
            network: Arc::new(network),
            access: Arc::new(access),
            signals: Signals::inherit().map_err(TaskError::Setup)?,
            inbox: Inbox::new(),
            thread: loaded.thread,
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

    /// What this thread becomes by `execve` of `program`, in a new micro-VM, with the same descriptors. Nothing of
    /// the task has changed then.
    pub(crate) fn successor(
        &self,
        program: Program,
        environment: Vec<Vec<u8>>,
    ) -> Result<Self, TaskError> {
        let load = Load {
            environment,
            memory_limit: self.shared.memory_limit,
            pids: self.shared.pids,
            aslr: self.shared.aslr,
            jit: self.access.rules().jit,
            precise_clock: self.access.rules().precise_clock,
            hidden_code: self.hides_code(),
            checkpoint: self.shared.checkpoint.clone(),
            actions: self.shared.actions.lock().after_exec(),
            limits: self.shared.limits.lock().clone(),
            timers: self.shared.timers.lock().after_exec(),
            former: self.shared.former,
            machine: self.shared.machine,
            origin: From::Before(self.memory.vm()),
        };
        let loaded = Loaded::new(program, load, &self.fds)?;
        let (memory, shared) = (Arc::new(loaded.memory), Arc::new(loaded.shared));
        Ok(Self {
            answered: true,
            ..self.beside(loaded.vcpu, memory, shared, loaded.thread)
        })
    }

    /// Whether code of the task is not to be read, and the CPU can keep it from that.
    pub(crate) fn hides_code(&self) -> bool {
        self.access.rules().execute_only && self.shared.machine.exec_only
    }

    /// Another thread of the task, or what this one becomes: what all of the task has is the same.
    pub(super) fn beside(
        &self,
        vcpu: Vcpu,
        memory: Arc<Memory>,
        shared: Arc<Shared>,
        thread: Thread,
    ) -> Self {
        Self {
            vcpu,
            memory,
            shared,
            fds: Arc::clone(&self.fds),
            network: Arc::clone(&self.network),
            access: Arc::clone(&self.access),
            signals: self.signals.inherited(),
            inbox: Inbox::new(),
            thread,
            tree: Arc::clone(&self.tree),
            child: self.child.clone(),
            ends_with_parent: self.ends_with_parent,
            ending: None,
            answered: false,
            trace: self.trace.clone(),
            totals: self.totals.clone(),
            budget: self.budget.clone(),
            audit: self.audit.clone(),
        }
    }
}

impl Loaded {
    /// Loads a program into a new micro-VM.
    fn new(program: Program, load: Load<'_>, fds: &Fds) -> Result<Self, TaskError> {
        let entropy = match load.aslr {
            true => Some(Entropy::random().ok_or(TaskError::Setup(Errno::EIO))?),
            false => None,
        };
        let moving = fds.hold();
        let mut layout = Layout::new(load.machine.gpa_bits, stack_size(&load.limits), entropy);

        let mut vm = match load.origin {
            // The limit is one for all of the task.
            From::Before(vm) => vm.share_with(0, CloneFlags::JOINT | CloneFlags::EMPTY)?,
            From::Device(device) => {
                let mut strict = VmFlags::empty();
                strict.set(VmFlags::W_XOR_X, !load.jit);
                strict.set(VmFlags::NO_TSC, !load.precise_clock);
                device.create_vm_with(load.memory_limit, strict)?
            }
        };
        let guest = Guest::for_machine(load.machine)?;
        guest.install(&vm)?;
        let stubs = Stubs::new(fds, &moving, guest.shim())?;
        stubs.install(&vm)?;
        let stub = stubs.take().map_err(TaskError::Setup)?;
        let mut vcpu = guest.create_vcpu_at(&vm, stub.entry())?;
        let own = |fd: BorrowedFd<'_>| fds.own(fd).map_err(TaskError::Setup);
        vm.replace_fd(own(vm.as_fd())?);
        vcpu.replace_fd(own(vcpu.as_fd())?);

        let memory = Memory::new(vm, layout.limit)?;
        let mut space = Space::default();
        // The stack comes first: a program linked to where it is does not fit.
        map_stack(&memory, &mut space, &layout, Prot::READ | Prot::WRITE)?;
        let mut loaded = program.load(&memory, &mut space, &layout, load.hidden_code)?;
        let vdso = load.precise_clock.then(|| {
            // With it, the task reads the clocks by itself.
            crate::vdso::install(fds, &memory, &mut space, &layout)
        });
        if let Some(header) = vdso.flatten() {
            loaded.auxv.push((libc::AT_SYSINFO_EHDR, header));
        }
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
            environment: load.environment,
            path: program.name.as_os_str().as_bytes().to_vec(),
            random,
            auxv: loaded.auxv,
        };
        let stack =
            stack::build(&start, layout.stack_top, layout.stack_size).map_err(LoadError::Stack)?;
        memory
            .write(stack.pointer, &stack.bytes)
            .map_err(TaskError::Setup)?;
        layout.initial = stack.initial;
        let regs = vcpu.regs_mut();
        regs.rip = loaded.entry;
        regs.rsp = stack.pointer;

        let heap = Heap {
            start: loaded.heap,
            end: loaded.heap,
        };
        let file_name = Path::new(&program.name).file_name();
        let shared = Shared {
            layout,
            book: Lock::new(Book::new(space, heap)),
            actions: Lock::new(load.actions),
            limits: Lock::new(load.limits),
            timers: Lock::new(load.timers),
            threads: Threads::first(),
            program: absolute(program.path()),
            name: short_name(file_name.unwrap_or_default().as_bytes()),
            command: command(&program.arguments),
            random: Random {
                address: stack.random,
                bytes: random,
            },
            checkpoint: load.checkpoint,
            memory_limit: load.memory_limit,
            pids: load.pids,
            aslr: load.aslr,
            shim: guest.shim(),
            stubs,
            former: load.former,
            machine: load.machine,
        };
        Ok(Self {
            vcpu,
            memory,
            shared,
            thread: Thread::first(stub),
        })
    }
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

/// The size of the stack that the task's limit allows.
fn stack_size(limits: &Limits) -> u64 {
    match limits.get(libc::RLIMIT_STACK as usize) {
        Ok((libc::RLIM_INFINITY, _)) | Err(_) => STACK,
        Ok((soft, _)) => soft.min(STACK_MAX),
    }
}

impl Shared {
    /// Gives the calling thread, the first of its process, the name of the program.
    pub(super) fn name_process(&self) {
        let mut name = self.name;
        // It cannot fail with this buffer.
        let _ = crate::pass!(PRCTL_NAME, libc::PR_SET_NAME, &mut name);
    }
}

/// The absolute path of a program, its links resolved.
fn absolute(path: &Path) -> CString {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    // A path that was opened has no NUL.
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}
