// SPDX-License-Identifier: GPL-2.0

//! Processes: a fork of the guest is a fork of its broker, with a clone of the micro-VM.

use std::mem;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use super::census::Entry;
use super::{End, NewThread, Shared, Task, Thread, Threads, Tree};
use crate::errno::{Errno, SysResult};
use crate::memory::Memory;
use crate::pass;
use crate::signal;
use crate::stubs::{Stub, Stubs};
use crate::sync::Lock;
use crate::{CloneFlags, Vcpu, Vm};

/// What makes a process another one's child.
#[derive(Clone, Debug)]
pub(crate) struct Child {
    /// What the parent of a `vfork` waits for to be closed.
    _parent: Option<Arc<OwnedFd>>,
    /// Whether it has its parent's memory.
    shares_memory: bool,
}

impl Child {
    /// Ends the process.
    pub(super) fn end(&self, end: &End) -> ! {
        match end {
            // SAFETY: It ends the process at once, whatever other threads are at.
            End::Exit(status) => unsafe { libc::_exit((*status).into()) },
            End::Signal(signal) | End::Fault(signal, _) => signal::die_of(*signal),
            End::MemoryLimit | End::ExitLimit => signal::die_of(libc::SIGKILL),
        }
    }

    /// The process has become another program, so the parent that waits for that can go on.
    pub(super) fn let_parent_go(self) -> Self {
        Self {
            _parent: None,
            shares_memory: false,
        }
    }

    /// Whether the parent's memory is still the child's as well.
    pub(crate) fn shares_memory(&self) -> bool {
        self.shares_memory
    }
}

/// How a process begins, as `clone` says it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewProcess {
    /// What it has in common with a thread that begins.
    pub(crate) thread: NewThread,
    /// Whether it has the parent's memory.
    pub(crate) vfork: bool,
    /// Whether the parent waits until it has become another program, or has ended.
    pub(crate) waits: bool,
    /// Where a descriptor of the child is written; 0 for nowhere.
    pub(crate) pidfd: u64,
}

/// Waits for a byte from a pipe; none if all who could write one are gone instead. What arrives meanwhile is looked
/// at behind it.
fn wait(read: &OwnedFd) -> Option<u8> {
    let mut byte = [0u8; 1];
    loop {
        // SAFETY: The buffer has a byte.
        match unsafe { libc::read(read.as_raw_fd(), byte.as_mut_ptr().cast(), 1) } {
            1 => return Some(byte[0]),
            -1 if Errno::last() == Errno::EINTR => {}
            _ => return None,
        }
    }
}

/// What is made for a child before it is there.
struct Born {
    vm: Vm,
    vcpu: Vcpu,
    stubs: Arc<Stubs>,
    stub: Stub,
    /// The process that made it.
    parent: u32,
}

impl Shared {
    /// That of a child which has other stubs.
    fn for_child(&self, stubs: Arc<Stubs>) -> Self {
        Self {
            layout: self.layout,
            book: Lock::new(self.book.lock().clone()),
            actions: Lock::new(self.actions.lock().clone()),
            limits: Lock::new(self.limits.lock().clone()),
            timers: Lock::default(),
            threads: Threads::first(),
            program: self.program.clone(),
            name: self.name,
            command: self.command.clone(),
            random: self.random,
            checkpoint: self.checkpoint.clone(),
            memory_limit: self.memory_limit,
            pids: self.pids,
            aslr: self.aslr,
            shim: self.shim,
            stubs,
            former: None,
            machine: self.machine,
        }
    }
}

impl Task {
    /// The processes of the task, of which there are about to be more.
    pub(super) fn tree(&self) -> SysResult<()> {
        let mut tree = self.tree.lock();
        if tree.is_none() {
            let planted = Tree::plant(&self.fds, self.shared.pids)?;
            planted.tell(&self.entry());
            *tree = Some(planted);
        }
        Ok(())
    }

    /// What the process says of itself to the others of the task.
    fn entry(&self) -> Entry {
        Entry {
            program: self.shared.program.clone(),
            command: self.shared.command.clone(),
        }
    }

    /// What is mapped by the broker's own mappings. A process that was never bound, as most, has nothing to look for.
    fn of_broker(&self) -> Vec<Range<u64>> {
        match self.memory.is_bound() {
            true => self.shared.book.lock().of_broker(),
            false => Vec::new(),
        }
    }

    /// Says it anew, if there are others.
    pub(super) fn tell_others(&self) {
        if let Some(tree) = self.tree.lock().as_ref() {
            tree.tell(&self.entry());
        }
    }

    /// What another process of the task says of itself.
    pub(crate) fn told(&self, pid: u32) -> SysResult<Entry> {
        let tree = self.tree.lock();
        tree.as_ref().ok_or(Errno::ENOENT)?.told(pid)
    }

    /// Whether a process belongs to the task.
    pub(crate) fn is_member(&self, pid: u64) -> bool {
        self.is_own(pid)
            || self
                .tree
                .lock()
                .as_ref()
                .is_some_and(|tree| tree.has(pid as u32))
    }

    /// All processes of the task but this.
    pub(crate) fn others(&self) -> Vec<u32> {
        self.tree.lock().as_ref().map_or(Vec::new(), Tree::others)
    }

    /// Whether the process has children, also such as have ended.
    pub(crate) fn has_children(&self) -> bool {
        let mut info = [0; 128];
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        pass!(WAITID, libc::P_ALL as i32, 0, &mut info, options, None) != Err(Errno::ECHILD)
    }

    /// Makes a process that goes on behind the system call that this thread is at; returns its number.
    pub(crate) fn fork(&mut self, new: NewProcess) -> SysResult {
        self.tree()?;
        if let Some(tree) = self.tree.lock().as_mut() {
            tree.check_room()?;
        }
        crate::vdso::prepare(&self.fds);
        let shared = Arc::clone(&self.shared);
        // From here on, so that the micro-VM and the book of it are of one moment.
        let book = shared.book.lock();
        let fds = Arc::clone(&self.fds);
        let moving = fds.hold();
        let (mut vm, stubs) = match new.vfork {
            true => (self.memory.vm().duplicate()?, Arc::clone(&shared.stubs)),
            false => {
                // The limit is one for all of the task.
                let vm = self.memory.vm().share_with(0, CloneFlags::JOINT)?;
                let stubs = Stubs::new(&fds, &moving, shared.shim)?;
                stubs.install(&vm)?;
                (vm, stubs)
            }
        };
        let stub = stubs.take()?;
        let mut vcpu = vm.create_vcpu_at(&self.vcpu, stub.entry())?;
        self.move_entry(&stub, vcpu.regs_mut());
        vm.replace_fd(fds.own(vm.as_fd())?);
        vcpu.replace_fd(fds.own(vcpu.as_fd())?);
        new.thread.begin(vcpu.regs_mut());
        let (begun, says_begun) = fds.pipe(&moving)?;
        let done = match new.waits {
            true => Some(fds.pipe(&moving)?),
            false => None,
        };

        let own = crate::process::id();
        let blocked = signal::BlockAll::new();
        // SAFETY: The child is this thread alone; whatever it needs that others may have locked is locked by us.
        let pid = {
            let _actions = shared.actions.lock();
            let _limits = shared.limits.lock();
            let _timers = shared.timers.lock();
            let _threads = shared.threads.lock();
            let tree = Arc::clone(&self.tree);
            let _tree = tree.lock();
            // SAFETY: As above; the C library sees to its own locks.
            unsafe { libc::fork() }
        };
        drop((moving, book));
        match pid {
            0 => {
                // What the child blocks is the guest's mask.
                mem::forget(blocked);
                drop(begun);
                let done = done.map(|(_, says_done)| Arc::new(says_done));
                let born = Born {
                    vm,
                    vcpu,
                    stubs,
                    stub,
                    parent: own,
                };
                let result = self.begin(&new, born, &says_begun, done);
                let mut byte = [result.err().map_or(0, |errno| errno.number() as u8)];
                let told = pass!(WRITE_NOW, says_begun.as_raw_fd(), &mut byte, 1);
                if result.is_err() || told.is_err() {
                    // SAFETY: The parent knows that it did not begin.
                    unsafe { libc::_exit(127) };
                }
                self.inbox.set_mask(self.signals.mask);
                Ok(0)
            }
            -1 => Err(Errno::last()),
            pid => {
                drop(says_begun);
                let begun = wait(&begun);
                if begun != Some(0) {
                    let _ = pass!(WAIT4_NOW, pid, None, 0, None);
                    stubs.free_all_of(pid as u32);
                    return Err(begun.map_or(Errno::EAGAIN, Errno::new));
                }
                drop((vcpu, vm));
                let told = self.tell(&new, pid);
                if let Some((done, says_done)) = done {
                    drop(says_done);
                    self.wait_for_end(&done);
                    if new.vfork && !self.of_broker().is_empty() {
                        // It was the child's.
                        let _ = self.memory.bind();
                    }
                    if !self.is_to_go() {
                        // It is another program by now, or was killed.
                        stubs.free_all_of(pid as u32);
                    }
                }
                told.map(|()| pid as u64)
            }
        }
    }

    /// Waits until nobody has the other end of a pipe, or this thread is to leave. No signal of the guest's ends it.
    fn wait_for_end(&self, pipe: &OwnedFd) {
        let mut poll = [0; 8];
        poll[..4].copy_from_slice(&pipe.as_raw_fd().to_le_bytes());
        while !self.is_to_go() && self.poll_woken(&mut poll, &mut None) == Err(Errno::EINTR) {}
    }

    /// Waits for descriptors, an array of `struct pollfd`; `EINTR` if this thread is to go, or may be. No signal of the
    /// guest's ends it.
    pub(crate) fn poll_woken(&self, fds: &mut [u8], time: &mut Option<[u8; 16]>) -> SysResult {
        let _blocked = signal::BlockAll::new();
        if self.is_to_go() {
            return Err(Errno::EINTR);
        }
        // From here on it is woken, and not before, so that it cannot miss it.
        let (mut mask, count) = (signal::ALL.to_le_bytes(), fds.len() as u64 / 8);
        pass!(PPOLL_NOW, fds, count, time, &mut mask, 8)
    }

    /// Tells the parent's program about its child.
    fn tell(&self, new: &NewProcess, pid: i32) -> SysResult<()> {
        if new.thread.parent_tid != 0 {
            let _ = self.memory.write(new.thread.parent_tid, &pid.to_le_bytes());
        }
        if new.pidfd != 0 {
            let fd = self.fds.accept(pass!(PIDFD_OPEN, pid, 0)?)?;
            let _ = self.memory.write(new.pidfd, &(fd as u32).to_le_bytes());
        }
        Ok(())
    }

    /// The child goes on with a micro-VM of its own, and says so.
    fn begin(
        &mut self,
        new: &NewProcess,
        born: Born,
        begun: &OwnedFd,
        parent: Option<Arc<OwnedFd>>,
    ) -> SysResult<()> {
        let Born {
            vm,
            vcpu,
            stubs,
            stub,
            parent: maker,
        } = born;
        let mut keep = vec![
            vm.as_fd().as_raw_fd(),
            vcpu.as_fd().as_raw_fd(),
            stubs.descriptor().as_raw_fd(),
            begun.as_raw_fd(),
        ];
        keep.push(self.network.descriptor());
        keep.extend(self.access.descriptors());
        keep.extend(crate::vdso::descriptor());
        keep.extend(parent.iter().map(|fd| fd.as_raw_fd()));
        keep.extend(self.trace.iter().map(|trace| trace.as_raw_fd()));
        keep.extend(self.budget.iter().flat_map(|budget| budget.descriptors()));
        keep.extend(self.audit.iter().flat_map(|outlet| outlet.descriptors()));
        keep.extend(self.tree.lock().iter().flat_map(Tree::descriptors));
        // What the other threads had, and the parent's micro-VM, are not for this process. Their owners
        // are not dropped: their numbers may be used again from here on.
        self.fds.keep_own(&keep)?;
        let vcpu = vcpu.after_fork()?;
        let memory = Memory::new(vm, self.memory.limit())?;
        let of_broker = self.of_broker();
        for range in &of_broker {
            memory.inherit(&self.memory, range.clone())?;
        }
        if !of_broker.is_empty() {
            memory.bind()?;
        }
        self.inbox.use_flag(vcpu.exit_flag());
        mem::forget(mem::replace(&mut self.vcpu, vcpu));
        mem::forget(mem::replace(&mut self.memory, Arc::new(memory)));
        mem::forget(self.child.replace(Child {
            _parent: parent,
            shares_memory: new.vfork,
        }));
        stub.adopt(maker);
        let mut thread = Thread::first(stub);
        thread.clear_tid = new.thread.clear_tid;
        thread.introduce();
        mem::forget(mem::replace(&mut self.thread, thread));
        self.ends_with_parent = false;
        // Nobody else has it in this process: the other threads' hold on it is forgotten with them.
        let shared = self.shared.for_child(stubs);
        mem::forget(mem::replace(&mut self.shared, Arc::new(shared)));
        // What the parent has got is not the child's.
        signal::begin();
        let _ = (self.inbox.take(), self.inbox.take_wake());
        self.inbox.clear();
        if let Some(tree) = self.tree.lock().as_mut() {
            tree.grow(&self.fds)?;
        }
        self.tell_others();
        if new.thread.child_tid != 0 {
            let pid = crate::process::id();
            let _ = self.memory.write(new.thread.child_tid, &pid.to_le_bytes());
        }
        self.answered = true;
        Ok(())
    }
}
