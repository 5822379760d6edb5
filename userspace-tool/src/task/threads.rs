// SPDX-License-Identifier: GPL-2.0

//! The threads of a process: one of the host's for each of the guest's, with the same number.

use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use uvisor_uapi::HYPERCALL_LEN;

use super::tree::Place;
use super::{Child, End, Ending, Task};
use crate::errno::{Errno, SysResult};
use crate::pass;
use crate::signal;
use crate::stubs::Stub;
use crate::sync::Lock;

/// The stack of a host thread; it serves system calls and no more.
const STACK: usize = 256 << 10;

/// When a thread is woken again that may not have been.
const AGAIN: Duration = Duration::from_millis(1);

/// What a thread has for itself besides its vCPU.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Whether it is the first of its process, whose host thread is the process's own.
    first: bool,
    /// Where its system calls enter ring 0.
    pub(super) stub: Stub,
    /// What it counts as, if it is not the first.
    _place: Option<Place>,
    /// Where its number is cleared when it ends; 0 for nowhere.
    pub(crate) clear_tid: u64,
    /// The head of its list of robust futexes; 0 for none.
    pub(crate) robust: u64,
}

impl Thread {
    /// The first of a process.
    pub(crate) fn first(stub: Stub) -> Self {
        Self {
            first: true,
            stub,
            _place: None,
            clear_tid: 0,
            robust: 0,
        }
    }

    /// Has the stub answer what is true of the calling thread.
    pub(crate) fn introduce(&self) {
        let parent = match self.first {
            true => signal::watch_parent(),
            false => pass!(GETPPID).unwrap_or(0) as u32,
        };
        self.stub
            .set(parent, crate::process::id(), signal::own_tid() as u32);
    }

    /// Whether it is the first of its process.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }
}

/// All threads of a process.
#[derive(Debug)]
pub(crate) struct Threads {
    state: Lock<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// The numbers of those that are not the first.
    others: Vec<i32>,
    /// Whether the first one has ended, or is to be told what it goes on as.
    first_waits: bool,
    /// Whether all but one are to leave.
    stopping: bool,
    /// Whether that one ends the process then.
    ending: bool,
    /// How the process ends, if it does.
    ended: Option<End>,
    /// What the first one goes on as.
    successor: Option<Box<Task>>,
}

impl Threads {
    /// Those of a process with one thread.
    pub(crate) fn first() -> Self {
        Self {
            state: Lock::default(),
            changed: Condvar::new(),
        }
    }

    /// Waits for their state.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits until the state has changed.
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, for no longer than `time`, if that is given.
    fn wait_for<'a>(
        &self,
        state: MutexGuard<'a, State>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let Some(time) = time else {
            return self.wait(state);
        };
        let waited = self.changed.wait_timeout(state, time);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Whether there is but one.
    pub(crate) fn is_alone(&self) -> bool {
        self.lock().others.is_empty()
    }

    /// Whether a number is that of one of them.
    pub(crate) fn has(&self, tid: i32) -> bool {
        tid == crate::process::id() as i32 || self.lock().others.contains(&tid)
    }

    /// All their numbers, the first one's first.
    pub(crate) fn numbers(&self) -> Vec<i32> {
        let first = crate::process::id() as i32;
        let others = self.lock();
        std::iter::once(first)
            .chain(others.others.iter().copied())
            .collect()
    }

    /// One has begun; false if it is to end at once.
    fn add(&self, tid: i32) -> bool {
        let mut state = self.lock();
        state.others.push(tid);
        !state.stopping && state.ended.is_none()
    }

    /// One that is not the first has ended.
    fn remove(&self, tid: i32) {
        self.lock().others.retain(|&other| other != tid);
        self.changed.notify_all();
    }
}

/// How a thread begins, as `clone` says it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NewThread {
    /// Its stack pointer; 0 for that of the one that makes it.
    pub(crate) stack: u64,
    /// The base of its FS, if it is to have another.
    pub(crate) tls: Option<u64>,
    /// Where its number is written for the one that makes it; 0 for nowhere.
    pub(crate) parent_tid: u64,
    /// Where its number is written for itself; 0 for nowhere.
    pub(crate) child_tid: u64,
    /// Where its number is cleared when it ends; 0 for nowhere.
    pub(crate) clear_tid: u64,
}

impl NewThread {
    /// Makes registers at a system call those of one that begins behind it.
    pub(super) fn begin(&self, regs: &mut uvisor_uapi::Regs) {
        regs.rax = 0;
        regs.rip = regs.rip.wrapping_add(HYPERCALL_LEN);
        if self.stack != 0 {
            regs.rsp = self.stack;
        }
        if let Some(tls) = self.tls {
            regs.fs_base = tls;
        }
    }
}

impl Task {
    /// Makes a thread that goes on behind the system call that this one is at; returns its number.
    pub(crate) fn spawn(&mut self, new: NewThread) -> SysResult {
        // Not for the first time while another thread forks.
        crate::frame::Extended::get();
        // While nobody else can reach for its descriptors.
        self.tree()?;
        let place = Place::take(&self.tree)?;
        let stub = self.shared.stubs.take()?;
        let vm = self.memory.vm();
        let moving = self.fds.hold();
        let mut vcpu = vm
            .create_vcpu_at(&self.vcpu, stub.entry())
            .map_err(|_| Errno::EAGAIN)?;
        vcpu.replace_fd(self.fds.own(std::os::fd::AsFd::as_fd(&vcpu))?);
        drop(moving);
        self.move_entry(&stub, vcpu.regs_mut());
        new.begin(vcpu.regs_mut());
        let thread = Thread {
            first: false,
            stub,
            _place: Some(place),
            clear_tid: new.clear_tid,
            robust: 0,
        };
        let (memory, shared) = (Arc::clone(&self.memory), Arc::clone(&self.shared));
        let mut task = self.beside(vcpu, memory, shared, thread);
        let (sender, receiver) = sync_channel(1);
        // Nothing may arrive for it before it has its inbox.
        let _blocked = signal::BlockAll::new();
        let builder = thread::Builder::new().stack_size(STACK);
        let started = builder.spawn(move || {
            let tid = signal::own_tid();
            let _entered = task.inbox.enter(task.vcpu.exit_flag());
            task.thread.introduce();
            let stays = task.shared.threads.add(tid);
            if new.child_tid != 0 {
                // As on Linux, an address that is none is the program's problem.
                let _ = task.memory.write(new.child_tid, &tid.to_le_bytes());
            }
            if new.parent_tid != 0 {
                // Before it runs, as its number may be cleared there when it ends.
                let _ = task.memory.write(new.parent_tid, &tid.to_le_bytes());
            }
            // Who made it waits.
            let _ = sender.send(tid);
            if stays {
                task.inbox.set_mask(task.signals.mask);
                // The process's first thread says how it ended.
                let _ = task.live();
            } else {
                task.shared.threads.remove(tid);
            }
        });
        started.map_err(|_| Errno::EAGAIN)?;
        let tid = receiver.recv().map_err(|_| Errno::EAGAIN)?;
        Ok(tid as u64)
    }

    /// Registers of this thread, which is at a system call, for one with another stub.
    pub(super) fn move_entry(&self, stub: &Stub, regs: &mut uvisor_uapi::Regs) {
        let from = self.thread.stub.entry();
        regs.rip = regs.rip.wrapping_sub(from).wrapping_add(stub.entry());
    }

    /// Whether this thread is to leave, as another one is to be the only one or the process has ended.
    pub(super) fn is_to_leave(&self) -> bool {
        let state = self.shared.threads.lock();
        state.stopping || state.ended.is_some()
    }

    /// Whether another thread ends the process.
    pub(super) fn is_ending(&self) -> bool {
        let state = self.shared.threads.lock();
        state.ending || state.ended.is_some()
    }

    /// Whether this thread is to do nothing more, or the process is to end.
    pub(crate) fn is_to_go(&self) -> bool {
        self.is_to_leave() || signal::is_doomed()
    }

    /// Does what is to be done when a thread has ended. The process's end comes back, if this is who says it, or,
    /// to a thread that is not the first, anything.
    pub(crate) fn finish(&mut self, ending: Ending) -> Option<End> {
        // Signals for the process are for those that go on, also one that has just come.
        let blocked = signal::BlockAll::new();
        let ending = match signal::is_doomed() && !self.is_to_leave() {
            // It may be the only one that was told.
            true => self.die(libc::SIGKILL),
            false => ending,
        };
        if !(self.thread.first && matches!(ending, Ending::Left)) {
            if let Some(signal) = self.inbox.take() {
                self.pass_on(&signal);
            }
        }
        let status = match ending {
            Ending::Process(end) if self.leads_the_end() => {
                if !self.thread.first {
                    std::mem::forget(blocked);
                }
                return Some(self.finish_process(end));
            }
            Ending::Thread(status) => {
                self.let_go();
                Some(status)
            }
            // Another one is faster, or all that goes on.
            Ending::Process(_) | Ending::Left => {
                self.let_go();
                None
            }
        };
        if !self.thread.first {
            // The host's thread gets none any more.
            std::mem::forget(blocked);
            self.shared.threads.remove(signal::own_tid());
            return Some(End::Exit(0));
        }
        let shared = Arc::clone(&self.shared);
        let mut state = shared.threads.lock();
        state.first_waits = true;
        shared.threads.changed.notify_all();
        loop {
            if let Some(end) = state.ended.take() {
                drop(state);
                return Some(self.finish_process(end));
            }
            if let Some(successor) = state.successor.take() {
                drop(state);
                // Its mask is its own.
                std::mem::forget(blocked);
                self.become_other(*successor);
                return None;
            }
            if let (true, Some(status)) = (state.others.is_empty(), status) {
                drop(state);
                return Some(self.finish_process(End::Exit(status)));
            }
            state = shared.threads.wait(state);
        }
    }

    /// Gives a signal that the thread has got to the process.
    fn pass_on(&self, signal: &signal::Signal) {
        if signal::send_to_self(signal.number, &signal.info).is_err() {
            // One of the kernel's own is not to be forged.
            let _ = pass!(KILL, u64::from(crate::process::id()), signal.number);
        }
    }

    /// The process ends. If it is another one's child, here; else its first thread says so.
    fn finish_process(&mut self, end: End) -> End {
        if self.child.is_some() || self.thread.first {
            self.tell_end(&end);
        }
        if let Some(child) = &self.child {
            self.count();
            child.end(&end);
        }
        if self.thread.first {
            // They leave on their own; whoever says how the process ended ends it.
            let mut state = self.shared.threads.lock();
            state.stopping = true;
            for &tid in &state.others {
                signal::wake(tid);
            }
        } else {
            let tid = signal::own_tid();
            let mut state = self.shared.threads.lock();
            state.ended.get_or_insert(end.clone());
            state.others.retain(|&other| other != tid);
            self.shared.threads.changed.notify_all();
            while !state.first_waits && !signal::wake(crate::process::id() as i32) {
                state = self.shared.threads.wait_for(state, Some(AGAIN));
            }
        }
        end
    }

    /// Ends all other threads: to be the only one, or to end the process, which takes no longer than `time`. False if
    /// another one does either already.
    pub(super) fn stop_others(&self, time: Option<Duration>) -> bool {
        let own = signal::own_tid();
        let threads = &self.shared.threads;
        let mut state = threads.lock();
        if state.stopping || state.ended.is_some() {
            return false;
        }
        state.stopping = true;
        state.ending = time.is_some();
        // Who wakes others by a signal that is for any of them does not get it.
        let _blocked = signal::BlockAll::new();
        let first = crate::process::id() as i32;
        let is_to_leave = |state: &State, tid| tid != own && (tid != first || !state.first_waits);
        let start = Instant::now();
        let mut all_woken = false;
        loop {
            let all = state.others.iter().chain([&first]).copied();
            let left: Vec<i32> = all.filter(|&tid| is_to_leave(&state, tid)).collect();
            let over = time.is_some_and(|time| start.elapsed() >= time);
            if left.is_empty() || over {
                return true;
            }
            if !all_woken {
                all_woken = left.iter().fold(true, |all, &tid| signal::wake(tid) && all);
            }
            let time = match all_woken {
                true => time.map(|time| time.saturating_sub(start.elapsed())),
                false => Some(AGAIN),
            };
            state = threads.wait_for(state, time);
        }
    }

    /// Becomes what [`Self::successor`] made, which no other thread survives.
    pub(crate) fn succeed(&mut self, successor: Self) -> SysResult {
        let alone = self.thread.first && self.shared.threads.is_alone();
        if !alone && !self.stop_others(None) {
            // Another one is faster; this one is told so.
            return Err(Errno::ERESTARTNOINTR);
        }
        self.let_robust_go();
        self.fds.close_on_exec();
        self.shared.actions.lock().leave_handlers();
        self.shared.timers.lock().delete();
        if self.thread.first {
            self.become_other(successor);
            return Ok(0);
        }
        // A process keeps its number, which is that of its first thread: that one goes on.
        self.shared.threads.lock().successor = Some(Box::new(successor));
        self.ending = Some(Ending::Left);
        self.answered = true;
        Ok(0)
    }

    /// Goes on as another one, on this host thread.
    fn become_other(&mut self, mut successor: Self) {
        self.count();
        successor.inbox = Arc::clone(&self.inbox);
        successor.child = self.child.take().map(Child::let_parent_go);
        let mask = successor.signals.mask;
        successor.thread.introduce();
        successor.shared.name_process();
        successor.tell_others();
        self.inbox.use_flag(successor.vcpu.exit_flag());
        *self = successor;
        self.inbox.set_mask(mask);
        if signal::is_doomed() {
            // Who was told may have left meanwhile.
            self.inbox.wake();
        }
    }
}
