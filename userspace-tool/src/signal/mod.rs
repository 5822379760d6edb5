// SPDX-License-Identifier: GPL-2.0

//! Signals on their way from the host to a thread of a task.
//!
//! The host's masks and dispositions are the task's own, so that the host decides what arrives where and when. For
//! a signal that the task handles, or that is to end it where others may wait for it ([`fatal`]), the broker's
//! handler is [`collect`]: it notes the signal in the thread's [`Inbox`], blocks all others, and makes whatever the
//! thread is in come back: RUN by its `immediate_exit`, and a system call that waits by [`call`], which has no gap
//! between its last look at the inbox and the kernel. The thread then gives the signal to the guest, and unblocks what
//! the guest's handler leaves unblocked.

mod action;
mod call;
mod fatal;

use std::cell::{Cell, UnsafeCell};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::Arc;

use crate::errno::{Errno, SysResult};
use crate::sync::Lock;
use crate::{pass, ExitFlag};

pub use action::{die_of, set_collected, set_disposition};
pub(crate) use call::{call, plain_call};
pub use fatal::{
    begin, is_doomed, is_fatal, kill_request, leave_fatal, set_default, take_fatal, takes_fatal,
};

/// The size of a `siginfo_t`.
pub const INFO: usize = 128;

/// A `siginfo_t`.
pub type Info = [u8; INFO];

/// The signal that wakes a thread of the broker for the broker's own ends. It is never blocked on the host; a
/// task's own use of it is told apart by [`WAKE_VALUE`].
pub const WAKE: i32 = 64;

/// What comes with a [`WAKE`] of the broker's own.
const WAKE_VALUE: u64 = 0x7576_6973_6f72_0001;

/// What comes with one that a program has sent by `kill`.
const GUESTS_VALUE: u64 = 0x7576_6973_6f72_0002;

/// All signals but the one that must not be blocked.
pub const ALL: u64 = !bit(WAKE);

/// The bit of a signal in a mask.
pub const fn bit(number: i32) -> u64 {
    1 << (number - 1)
}

/// A signal that a thread has got.
#[derive(Clone, Copy, Debug)]
pub struct Signal {
    /// Its number.
    pub number: i32,
    /// What came with it.
    pub info: Info,
}

/// Where signals for a thread arrive: at most one at a time.
#[derive(Debug)]
pub struct Inbox {
    /// Whether there is anything to look at, [`Self::number`] or [`Self::woken`].
    pending: AtomicU32,
    /// The signal; 0 for none.
    number: AtomicU32,
    /// What came with it.
    info: UnsafeCell<Info>,
    /// Whether the broker wants something of the thread.
    woken: AtomicU32,
    /// The `immediate_exit` of the thread's vCPU, and what keeps it there.
    exit_flag: AtomicPtr<u32>,
    flag: Lock<Option<ExitFlag>>,
    /// What the guest blocks, for [`WAKE`] of the guest's own.
    mask: AtomicU64,
    /// Whether such a one waits until it is unblocked.
    postponed: AtomicU32,
    /// Whether one has come to do so since this was last asked: the host does not block it.
    disturbed: AtomicU32,
}

// SAFETY: `info` is written by `collect`, in the thread itself and only while `number` is 0, and read by that
// thread only while it is not.
unsafe impl Sync for Inbox {}

thread_local! {
    /// The inbox of the thread; null if the thread is not a task's.
    static CURRENT: Cell<*const Inbox> = const { Cell::new(ptr::null()) };
}

impl Inbox {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: AtomicU32::new(0),
            number: AtomicU32::new(0),
            info: UnsafeCell::new([0; INFO]),
            woken: AtomicU32::new(0),
            exit_flag: AtomicPtr::new(ptr::null_mut()),
            flag: Lock::default(),
            mask: AtomicU64::new(0),
            postponed: AtomicU32::new(0),
            disturbed: AtomicU32::new(0),
        })
    }

    /// Makes it the one of the calling thread, whose vCPU has `exit_flag`; until the result is dropped.
    pub fn enter(self: &Arc<Self>, exit_flag: ExitFlag) -> Entered {
        self.use_flag(exit_flag);
        CURRENT.set(Arc::as_ptr(self));
        Entered(Arc::clone(self))
    }

    /// The thread has another vCPU from now on.
    pub fn use_flag(&self, exit_flag: ExitFlag) {
        self.exit_flag.store(exit_flag.as_ptr(), SeqCst);
        exit_flag.set(self.is_pending());
        // The old one goes last.
        drop(self.flag.lock().replace(exit_flag));
    }

    /// Whether there is anything to look at.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load(SeqCst) != 0
    }

    /// Whether what there is to look at is not from outside.
    pub fn is_but_woken(&self) -> bool {
        self.woken.load(SeqCst) != 0 && self.number.load(SeqCst) == 0
    }

    /// Takes the signal that has arrived, if one has. All signals stay blocked on the host until
    /// [`Self::set_mask`].
    pub fn take(&self) -> Option<Signal> {
        let number = self.number.load(SeqCst);
        if number == 0 {
            return None;
        }
        // SAFETY: While `number` is not 0, nobody writes there.
        let mut info = unsafe { *self.info.get() };
        self.number.store(0, SeqCst);
        if number == WAKE as u32 && crate::memory::word(&info, 24) == GUESTS_VALUE {
            set_code(&mut info, libc::SI_USER);
            info[24..32].fill(0);
        }
        Some(Signal {
            number: number as i32,
            info,
        })
    }

    /// Whether the broker wants something of the thread; it is asked once.
    pub fn take_wake(&self) -> bool {
        self.woken.swap(0, SeqCst) != 0
    }

    /// The broker wants something of the thread. Async-signal-safe.
    pub fn wake(&self) {
        self.woken.store(1, SeqCst);
        self.raise();
    }

    /// Nothing is to be looked at any more; what arrives from now on is noted again.
    pub fn clear(&self) {
        self.pending.store(0, SeqCst);
        let flag = self.exit_flag.load(SeqCst);
        if !flag.is_null() {
            // SAFETY: Whoever gave it to us keeps it, and it is accessed atomically only.
            unsafe { AtomicU32::from_ptr(flag) }.store(0, SeqCst);
        }
        if self.number.load(SeqCst) != 0 || self.woken.load(SeqCst) != 0 {
            self.raise();
        }
    }

    /// Something is to be looked at. Async-signal-safe.
    fn raise(&self) {
        self.pending.store(1, SeqCst);
        let flag = self.exit_flag.load(SeqCst);
        if !flag.is_null() {
            // SAFETY: As in `clear`.
            unsafe { AtomicU32::from_ptr(flag) }.store(1, SeqCst);
        }
    }

    /// Notes a signal; there is none yet. Async-signal-safe.
    fn note(&self, number: i32, info: &Info) {
        // SAFETY: `number` is 0: all signals are blocked from the moment that one is noted until it was taken.
        unsafe { *self.info.get() = *info };
        self.number.store(number as u32, SeqCst);
        self.raise();
    }

    /// The guest of the calling thread blocks `mask` from now on, and so does the host.
    pub fn set_mask(&self, mask: u64) {
        self.mask.store(mask, SeqCst);
        let mut bytes = match self.number.load(SeqCst) {
            0 => host_mask(mask),
            // Until that was taken, all others wait; whoever takes it sets the mask.
            _ => ALL,
        }
        .to_le_bytes();
        // It cannot fail with this operation and size.
        let _ = pass!(RT_SIGPROCMASK, libc::SIG_SETMASK, &mut bytes, None, 8);
        self.let_postponed_in(mask);
    }

    /// A [`WAKE`] of the guest's that was postponed arrives, unless `mask` blocks it.
    fn let_postponed_in(&self, mask: u64) {
        if mask & bit(WAKE) == 0 && self.postponed.swap(0, SeqCst) != 0 {
            // It cannot fail for the thread itself.
            let _ = send(own_tid(), WAKE, &wake_info(GUESTS_VALUE));
        }
    }
}

impl Inbox {
    /// Whether a [`WAKE`] of the guest's has arrived.
    pub fn has_wake(&self) -> bool {
        self.number.load(SeqCst) == WAKE as u32
    }

    /// Whether a [`WAKE`] that the guest blocks, and nothing that it does not, has come since this was last asked.
    pub fn was_but_disturbed(&self) -> bool {
        self.disturbed.swap(0, SeqCst) != 0 && self.number.load(SeqCst) == 0
    }

    /// Whether one waits until it is not blocked any more.
    pub fn is_postponed(&self) -> bool {
        self.postponed.load(SeqCst) != 0
    }

    /// The guest of the calling thread blocks `mask` instead, as far as [`WAKE`] goes, while a call waits that is about
    /// to be made. One that was postponed arrives, if it is not blocked; then the call is not made.
    pub fn open_for_call(&self, mask: u64) {
        self.mask.store(mask, SeqCst);
        self.let_postponed_in(mask);
    }

    /// That call is over, and the guest blocks `mask` again. What arrived when it was over already is postponed.
    pub fn close_after_call(&self, mask: u64, interrupted: bool) {
        if !interrupted && self.has_wake() && mask & bit(WAKE) != 0 {
            self.number.store(0, SeqCst);
            self.postponed.store(1, SeqCst);
            self.clear();
        }
        self.set_mask(mask);
    }
}

/// What the host blocks where the guest blocks `mask`.
pub fn host_mask(mask: u64) -> u64 {
    mask & ALL
}

/// A thread that has an inbox.
#[derive(Debug)]
pub struct Entered(Arc<Inbox>);

impl Drop for Entered {
    fn drop(&mut self) {
        debug_assert!(CURRENT.get() == Arc::as_ptr(&self.0));
        CURRENT.set(ptr::null());
    }
}

/// The calling thread gets no signals, until this is dropped.
#[derive(Debug)]
pub struct BlockAll {
    before: [u8; 8],
}

impl BlockAll {
    /// Blocks them.
    pub fn new() -> Self {
        let (mut all, mut before) = ([0xff; 8], [0; 8]);
        // It cannot fail with this operation and size.
        let _ = pass!(RT_SIGPROCMASK, libc::SIG_SETMASK, &mut all, &mut before, 8);
        Self { before }
    }
}

impl Drop for BlockAll {
    fn drop(&mut self) {
        let _ = pass!(RT_SIGPROCMASK, libc::SIG_SETMASK, &mut self.before, None, 8);
    }
}

/// The broker's handler of all signals that a task handles, and of [`WAKE`].
///
/// # Safety
///
/// The kernel calls it, with `SA_SIGINFO` and all other signals blocked.
unsafe extern "C" fn collect(
    number: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: The kernel gives a whole structure.
    let info: Info = unsafe { *info.cast() };
    // SAFETY: It is the thread's own.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: As this function's.
    unsafe { collect_signal(number, info, context.cast()) };
    // SAFETY: As above.
    unsafe { *libc::__errno_location() = errno };
}

/// [`collect`], which keeps `errno`.
///
/// # Safety
///
/// As there; `context` is the kernel's.
unsafe fn collect_signal(number: i32, info: Info, context: *mut libc::ucontext_t) {
    let inbox = CURRENT.get();
    // SAFETY: By the caller's promise.
    let trap = unsafe { (*context).uc_mcontext.gregs[libc::REG_TRAPNO as usize] };
    if is_own_fault(number, &info) && trap != 0 {
        // A bug of the broker's: it happens again, with its default action.
        set_disposition(number, libc::SIG_DFL);
        return;
    }
    let doomed = fatal::is_kill_request(number, &info);
    if doomed {
        fatal::doom();
    }
    if inbox.is_null() {
        return;
    }
    // SAFETY: It is alive as long as it is the thread's.
    let inbox = unsafe { &*inbox };
    if doomed || number == WAKE && (is_wake(&info) || is_parents_end(&info)) {
        inbox.wake();
    } else if number == WAKE
        && (inbox.mask.load(SeqCst) & bit(WAKE) != 0 || inbox.number.load(SeqCst) != 0)
    {
        // Blocked by the guest, or by us since there is one already.
        inbox.postponed.store(1, SeqCst);
        inbox.disturbed.store(1, SeqCst);
        return;
    } else if inbox.number.load(SeqCst) != 0 {
        // There is one already, and the guest's mask was just opened for others: it waits for its turn, as if it had
        // not come.
        let _ = send(own_tid(), number, &info);
        // SAFETY: As below.
        unsafe { *(&raw mut (*context).uc_sigmask).cast::<u64>() = ALL };
        return;
    } else {
        inbox.note(number, &info);
        // SAFETY: The kernel's context of this handler; its mask is the first word of the set.
        unsafe { *(&raw mut (*context).uc_sigmask).cast::<u64>() = ALL };
    }
    // SAFETY: As above, and the registers are what the kernel goes on with.
    let rip = unsafe { &mut (*context).uc_mcontext.gregs[libc::REG_RIP as usize] };
    *rip = call::resume_at(*rip);
}

/// Whether a signal says that the broker itself did something wrong.
fn is_own_fault(number: i32, info: &Info) -> bool {
    let synchronous = matches!(
        number,
        libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE | libc::SIGTRAP
    );
    // Positive codes are the kernel's; what others send has SI_USER or a negative one.
    synchronous && code(info) > 0
}

/// Whether a [`WAKE`] is the broker's; so is one by [`wake`]'s `kill`, of which nothing is known if the queue was full.
/// What the guest sends to itself comes as [`guests_wake`] has it.
fn is_wake(info: &Info) -> bool {
    let from = crate::memory::word32(info, 16);
    let is_killed = code(info) == libc::SI_USER && (from == 0 || from == crate::process::id());
    is_killed || crate::memory::word(info, 24) == WAKE_VALUE
}

/// The parent of this process, whose end is told by [`WAKE`].
static PARENT: AtomicU32 = AtomicU32::new(0);

/// Whether a [`WAKE`] says that a thread of the parent of this process has ended, and maybe the parent. What the
/// parent's program sends comes as [`guests_wake`] has it.
fn is_parents_end(info: &Info) -> bool {
    let from = crate::memory::word32(info, 16);
    code(info) == libc::SI_USER && from == PARENT.load(SeqCst)
}

/// What comes with a [`WAKE`] that one process of a task sends to another by `kill`.
pub fn guests_wake() -> Info {
    let mut info = wake_info(GUESTS_VALUE);
    info[16..20].copy_from_slice(&crate::process::id().to_le_bytes());
    let uid = pass!(GETUID).unwrap_or(0) as u32;
    info[20..24].copy_from_slice(&uid.to_le_bytes());
    info
}

/// A queued [`WAKE`] with a value.
fn wake_info(value: u64) -> Info {
    let mut info = [0; INFO];
    info[0] = WAKE as u8;
    set_code(&mut info, libc::SI_QUEUE);
    info[24..32].copy_from_slice(&value.to_le_bytes());
    info
}

/// From now on threads can be woken, and are when the parent of this process ends; returns the parent's number.
pub fn watch_parent() -> u32 {
    set_collected(WAKE, 0);
    let parent = || pass!(GETPPID).unwrap_or(0) as u32;
    PARENT.store(parent(), SeqCst);
    // It cannot fail with a signal that there is.
    let _ = pass!(PRCTL, libc::PR_SET_PDEATHSIG, WAKE, 0, 0, 0);
    // It may have ended in between.
    let now = parent();
    PARENT.store(now, SeqCst);
    now
}

/// The number of the parent, if it is another one since [`watch_parent`].
pub fn new_parent() -> Option<u32> {
    let now = pass!(GETPPID).unwrap_or(0) as u32;
    (now != PARENT.swap(now, SeqCst)).then_some(now)
}

/// The `si_code` of a signal.
pub fn code(info: &Info) -> i32 {
    crate::memory::word32(info, 8) as i32
}

/// Sets the `si_code` of a signal.
pub fn set_code(info: &mut Info, code: i32) {
    info[8..12].copy_from_slice(&code.to_le_bytes());
}

/// The calling thread's number.
pub fn own_tid() -> i32 {
    // SAFETY: It takes nothing.
    unsafe { libc::gettid() }
}

/// Sends a signal of the guest's with `info` to this process.
pub fn send_to_self(number: i32, info: &Info) -> SysResult {
    let mut info = match number == WAKE && code(info) == libc::SI_USER {
        true => guests_wake(),
        false => *info,
    };
    let pid = u64::from(crate::process::id());
    pass!(RT_SIGQUEUEINFO, pid, number, &mut info)
}

/// Sends a signal with `info` to a thread of this process.
pub fn send(tid: i32, number: i32, info: &Info) -> SysResult {
    let pid = crate::process::id();
    // SAFETY: The structure is whole, and the kernel only reads it.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, number, info.as_ptr()) };
    match result {
        0 => Ok(0),
        _ => Err(Errno::last()),
    }
}

/// Wakes a thread of this process: it looks what the broker wants of it. False if the user's queue of signals is full: one
/// of the threads is woken that do not block [`WAKE`], so it is to be done again, until it was this one.
pub fn wake(tid: i32) -> bool {
    // One that has ended needs none.
    if send(tid, WAKE, &wake_info(WAKE_VALUE)) != Err(Errno::EAGAIN) {
        return true;
    }
    // A signal of `kill` comes in any case, but without what should come with it.
    let _ = pass!(KILL, u64::from(crate::process::id()), WAKE);
    false
}

/// The value for a timer that wakes.
pub fn wake_value() -> libc::sigval {
    libc::sigval {
        sival_ptr: WAKE_VALUE as *mut libc::c_void,
    }
}
