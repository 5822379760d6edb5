// SPDX-License-Identifier: GPL-2.0

//! System calls of the host, made for a guest.
//!
//! Every call that the broker can make with a guest's data is a [`HostCall`] constant here, with the
//! shape of its arguments. [`call`] refuses words that do not have that shape, so a number of the
//! guest's can never pass for an address of the broker's.

use std::ffi::CStr;

use crate::errno::{Errno, SysResult};
use crate::memory::{GuestRange, Vectors};
use crate::personality::MessagePointer;
use crate::signal;

/// What an argument of a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A number, or a file descriptor.
    Number,
    /// A NUL-terminated string of the broker's.
    Text,
    /// Memory of at least so many bytes, or none.
    Memory(usize),
    /// Memory whose length is the next argument.
    Buffer,
    /// Vectors whose count is the next argument.
    Vectors,
    /// The header of a socket's message.
    Message,
}

/// Whether a call can wait for something, and what becomes of it if a signal arrives then for which the task has
/// a handler; see signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It does not wait for anything that a task has a say in.
    No,
    /// It is made again behind a handler with `SA_RESTART`.
    Restarts,
    /// It fails with `EINTR` behind any handler.
    Ends,
}

/// A system call that the broker can make for a guest.
#[derive(Clone, Copy, Debug)]
pub struct HostCall {
    number: libc::c_long,
    shape: &'static [Kind],
    waits: Waits,
}

impl HostCall {
    /// Its number.
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Whether it can wait.
    pub fn waits(&self) -> Waits {
        self.waits
    }
}

/// One argument of a call.
#[derive(Debug)]
pub enum Word<'a> {
    /// A number.
    Number(u64),
    /// A string.
    Text(&'a CStr),
    /// Guest memory.
    Guest(GuestRange<'a>),
    /// The broker's memory.
    Local(&'a mut [u8]),
    /// Guest memory in pieces.
    Vectors(&'a Vectors<'a>),
    /// What a socket sends or receives.
    Message(MessagePointer<'a>),
    /// No memory.
    Null,
}

impl Word<'_> {
    /// What the kernel gets.
    fn raw(&mut self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Text(text) => text.as_ptr() as u64,
            Self::Guest(range) => range.address() as u64,
            Self::Local(bytes) => bytes.as_mut_ptr() as u64,
            Self::Vectors(vectors) => vectors.address() as u64,
            Self::Message(message) => message.address() as u64,
            Self::Null => 0,
        }
    }

    /// How many bytes, or vectors, there are behind the address.
    fn len(&self) -> usize {
        match self {
            Self::Guest(range) => range.len(),
            Self::Local(bytes) => bytes.len(),
            Self::Vectors(vectors) => vectors.len(),
            Self::Number(_) | Self::Text(_) | Self::Message(_) | Self::Null => 0,
        }
    }
}

impl From<u64> for Word<'_> {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Word<'_> {
    fn from(number: i32) -> Self {
        // The kernel takes what it needs of the register; the sign is part of it.
        Self::Number(i64::from(number) as u64)
    }
}

impl<'a> From<&'a CStr> for Word<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<GuestRange<'a>> for Word<'a> {
    fn from(range: GuestRange<'a>) -> Self {
        Self::Guest(range)
    }
}

impl<'a> From<Option<GuestRange<'a>>> for Word<'a> {
    fn from(range: Option<GuestRange<'a>>) -> Self {
        range.map_or(Self::Null, Self::Guest)
    }
}

impl<'a, const N: usize> From<&'a mut [u8; N]> for Word<'a> {
    fn from(bytes: &'a mut [u8; N]) -> Self {
        Self::Local(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Word<'a> {
    fn from(bytes: &'a mut [u8]) -> Self {
        Self::Local(bytes)
    }
}

impl<'a, const N: usize> From<&'a mut Option<[u8; N]>> for Word<'a> {
    fn from(bytes: &'a mut Option<[u8; N]>) -> Self {
        bytes
            .as_mut()
            .map_or(Self::Null, |bytes| Self::Local(bytes))
    }
}

impl<'a> From<MessagePointer<'a>> for Word<'a> {
    fn from(message: MessagePointer<'a>) -> Self {
        Self::Message(message)
    }
}

impl<'a> From<&'a Vectors<'a>> for Word<'a> {
    fn from(vectors: &'a Vectors<'a>) -> Self {
        Self::Vectors(vectors)
    }
}

/// Whether `words` have the shape `shape`.
fn fits(shape: &[Kind], words: &[Word<'_>]) -> bool {
    let next = |index: usize| match words.get(index + 1) {
        Some(Word::Number(number)) => *number,
        _ => u64::MAX,
    };
    shape.len() == words.len()
        && shape
            .iter()
            .zip(words)
            .enumerate()
            .all(|(index, pair)| match pair {
                (Kind::Number, Word::Number(_))
                | (Kind::Text, Word::Text(_))
                | (Kind::Message, Word::Message(_)) => true,
                (Kind::Memory(_), Word::Null) => true,
                (Kind::Memory(len), word @ (Word::Guest(_) | Word::Local(_))) => word.len() >= *len,
                (Kind::Buffer, Word::Null) => next(index) == 0,
                (Kind::Buffer, word @ (Word::Guest(_) | Word::Local(_)))
                | (Kind::Vectors, word @ Word::Vectors(_)) => word.len() as u64 >= next(index),
                _ => false,
            })
}

/// Makes a call; see [`pass`] for a shorter way to write it.
pub fn call(call: &HostCall, words: &mut [Word<'_>]) -> SysResult {
    if !fits(call.shape, words) {
        debug_assert!(false, "{call:?} does not take {words:?}");
        return Err(Errno::EINVAL);
    }
    let mut raw = [0; 6];
    for (raw, word) in raw.iter_mut().zip(words) {
        *raw = word.raw();
    }
    // SAFETY: The words have the shape of the call. So every address is that of memory that lives
    // as long as the words, is long enough, and belongs to the guest or is borrowed by them, for
    // writing unless it is a string, which the kernel only reads; and no call here does anything
    // else to the memory of this process.
    let result = unsafe {
        match call.waits {
            Waits::No => signal::plain_call(call.number, &raw),
            Waits::Restarts | Waits::Ends => signal::call(call.number, &raw),
        }
    };
    match (result, call.waits) {
        (Err(Errno::EINTR), Waits::Restarts) => Err(Errno::ERESTARTSYS),
        (result, _) => result,
    }
}

/// Makes the call named by its constant in [`crate::host`], with arguments that become [`Word`]s.
#[macro_export]
macro_rules! pass {
    ($call:ident $(, $word:expr)* $(,)?) => {
        $crate::host::call(
            &$crate::host::$call,
            &mut [$($crate::host::Word::from($word)),*],
        )
    };
}

/// Fills `bytes` with random bits.
pub fn random(bytes: &mut [u8]) -> SysResult<()> {
    let len = bytes.len() as u64;
    match pass!(GETRANDOM, bytes, len, 0)? {
        filled if filled == len => Ok(()),
        _ => Err(Errno::EIO),
    }
}

/// The numbers of system calls.
mod numbers {
    pub use libc::*;

    // Too new for the crate.
    #[allow(non_upper_case_globals)]
    pub const SYS_cachestat: c_long = 451;
    #[allow(non_upper_case_globals)]
    pub const SYS_file_getattr: c_long = 468;
}

macro_rules! waits {
    () => {
        Waits::No
    };
    (restarts) => {
        Waits::Restarts
    };
    (ends) => {
        Waits::Ends
    };
}

macro_rules! calls {
    ($($name:ident = $number:ident($($kind:expr),*) $($waits:ident)?;)*) => {
        use Kind::{Buffer, Memory, Message as Msg, Number, Text, Vectors as Iov};
        $(
            #[doc = concat!("`", stringify!($number), "`.")]
            pub const $name: HostCall = HostCall {
                number: numbers::$number,
                shape: &[$($kind),*],
                waits: waits!($($waits)?),
            };
        )*

        /// All calls, in the order of this file.
        pub const CALLS: &[(&str, HostCall)] = &[$((stringify!($name), $name)),*];
    };
}

calls! {
    READ = SYS_read(Number, Buffer, Number) restarts;
    WRITE = SYS_write(Number, Buffer, Number) restarts;
    WRITE_NOW = SYS_write(Number, Buffer, Number);
    PREAD_NOW = SYS_pread64(Number, Buffer, Number, Number);
    PWRITE_NOW = SYS_pwrite64(Number, Buffer, Number, Number);
    PREAD = SYS_pread64(Number, Buffer, Number, Number) restarts;
    PWRITE = SYS_pwrite64(Number, Buffer, Number, Number) restarts;
    READV = SYS_readv(Number, Iov, Number) restarts;
    WRITEV = SYS_writev(Number, Iov, Number) restarts;
    PREADV = SYS_preadv(Number, Iov, Number, Number, Number) restarts;
    PWRITEV = SYS_pwritev(Number, Iov, Number, Number, Number) restarts;
    PREADV2 = SYS_preadv2(Number, Iov, Number, Number, Number, Number) restarts;
    PWRITEV2 = SYS_pwritev2(Number, Iov, Number, Number, Number, Number) restarts;
    CLOSE = SYS_close(Number);
    CLOSE_RANGE = SYS_close_range(Number, Number, Number);
    LSEEK = SYS_lseek(Number, Number, Number);
    DUP = SYS_dup(Number);
    DUP3 = SYS_dup3(Number, Number, Number);
    FCNTL = SYS_fcntl(Number, Number, Number);
    FCNTL_LOCK = SYS_fcntl(Number, Number, Memory(32)) restarts;
    FLOCK = SYS_flock(Number, Number) restarts;
    PIPE2 = SYS_pipe2(Memory(8), Number);
    IOCTL = SYS_ioctl(Number, Number, Memory(64)) restarts;
    // Only for requests whose argument is no address.
    IOCTL_NUMBER = SYS_ioctl(Number, Number, Number) restarts;
    FSYNC = SYS_fsync(Number) restarts;
    FDATASYNC = SYS_fdatasync(Number) restarts;
    SYNC = SYS_sync();
    SYNCFS = SYS_syncfs(Number);
    SYNC_FILE_RANGE = SYS_sync_file_range(Number, Number, Number, Number);
    CACHESTAT = SYS_cachestat(Number, Memory(16), Memory(40), Number);
    FTRUNCATE = SYS_ftruncate(Number, Number);
    FALLOCATE = SYS_fallocate(Number, Number, Number, Number) restarts;
    FADVISE = SYS_fadvise64(Number, Number, Number, Number);
    READAHEAD = SYS_readahead(Number, Number, Number);
    SENDFILE = SYS_sendfile(Number, Number, Memory(8), Number) restarts;
    COPY_FILE_RANGE = SYS_copy_file_range(Number, Memory(8), Number, Memory(8), Number, Number) restarts;
    SPLICE = SYS_splice(Number, Memory(8), Number, Memory(8), Number, Number) restarts;
    TEE = SYS_tee(Number, Number, Number, Number) restarts;
    GETDENTS = SYS_getdents(Number, Buffer, Number);
    GETDENTS64 = SYS_getdents64(Number, Buffer, Number);

    OPENAT = SYS_openat(Number, Text, Number, Number) restarts;
    // With O_PATH only, which does not wait for anything.
    LOOKUP = SYS_openat2(Number, Text, Memory(24), Number);
    MKDIRAT = SYS_mkdirat(Number, Text, Number);
    MKNODAT = SYS_mknodat(Number, Text, Number, Number);
    SYMLINKAT = SYS_symlinkat(Text, Number, Text);
    UNLINKAT = SYS_unlinkat(Number, Text, Number);
    RENAMEAT2 = SYS_renameat2(Number, Text, Number, Text, Number);
    LINKAT = SYS_linkat(Number, Text, Number, Text, Number);
    FCHMODAT2 = SYS_fchmodat2(Number, Text, Number, Number);
    FCHOWNAT = SYS_fchownat(Number, Text, Number, Number, Number);
    UTIMENSAT = SYS_utimensat(Number, Text, Memory(32), Number);
    TRUNCATE = SYS_truncate(Text, Number);
    FILE_GETATTR = SYS_file_getattr(Number, Text, Buffer, Number, Number);
    FSTAT = SYS_fstat(Number, Memory(144));
    NEWFSTATAT = SYS_newfstatat(Number, Text, Memory(144), Number);
    STATX = SYS_statx(Number, Text, Number, Number, Memory(256));
    FSTATFS = SYS_fstatfs(Number, Memory(120));
    FACCESSAT2 = SYS_faccessat2(Number, Text, Number, Number);
    READLINKAT = SYS_readlinkat(Number, Text, Buffer, Number);
    GETCWD = SYS_getcwd(Buffer, Number);
    FCHDIR = SYS_fchdir(Number);
    UMASK = SYS_umask(Number);
    GETXATTR = SYS_getxattr(Text, Text, Buffer, Number);
    SETXATTR = SYS_setxattr(Text, Text, Buffer, Number, Number);
    REMOVEXATTR = SYS_removexattr(Text, Text);
    LISTXATTR = SYS_listxattr(Text, Buffer, Number);

    SOCKET = SYS_socket(Number, Number, Number);
    SOCKETPAIR = SYS_socketpair(Number, Number, Number, Memory(8));
    BIND = SYS_bind(Number, Buffer, Number);
    LISTEN = SYS_listen(Number, Number);
    ACCEPT4 = SYS_accept4(Number, Memory(128), Memory(4), Number) restarts;
    CONNECT = SYS_connect(Number, Buffer, Number) restarts;
    GETSOCKNAME = SYS_getsockname(Number, Memory(128), Memory(4));
    GETPEERNAME = SYS_getpeername(Number, Memory(128), Memory(4));
    SENDTO = SYS_sendto(Number, Buffer, Number, Number, Buffer, Number) restarts;
    SEND_NOW = SYS_sendto(Number, Buffer, Number, Number, Buffer, Number);
    RECVFROM = SYS_recvfrom(Number, Buffer, Number, Number, Memory(128), Memory(4)) restarts;
    SENDMSG = SYS_sendmsg(Number, Msg, Number) restarts;
    RECVMSG = SYS_recvmsg(Number, Msg, Number) restarts;
    SHUTDOWN = SYS_shutdown(Number, Number);
    SETSOCKOPT = SYS_setsockopt(Number, Number, Number, Buffer, Number);
    GETSOCKOPT = SYS_getsockopt(Number, Number, Number, Memory(1024), Memory(4));

    LANDLOCK_CREATE_RULESET = SYS_landlock_create_ruleset(Buffer, Number, Number);
    LANDLOCK_ADD_RULE = SYS_landlock_add_rule(Number, Number, Memory(12), Number);
    LANDLOCK_RESTRICT_SELF = SYS_landlock_restrict_self(Number, Number);

    POLL = SYS_poll(Memory(0), Number, Number) ends;
    PPOLL_NOW = SYS_ppoll(Memory(0), Number, Memory(16), Memory(8), Number);
    PPOLL = SYS_ppoll(Memory(0), Number, Memory(16), Memory(8), Number) ends;

    EPOLL_CREATE1 = SYS_epoll_create1(Number);
    EPOLL_CTL = SYS_epoll_ctl(Number, Number, Number, Memory(12));
    EPOLL_PWAIT = SYS_epoll_pwait(Number, Memory(12), Number, Number, Memory(8), Number) ends;
    EPOLL_PWAIT2 = SYS_epoll_pwait2(Number, Memory(12), Number, Memory(16), Memory(8), Number) ends;
    EVENTFD2 = SYS_eventfd2(Number, Number);
    TIMERFD_CREATE = SYS_timerfd_create(Number, Number);
    TIMERFD_SETTIME = SYS_timerfd_settime(Number, Number, Memory(32), Memory(32));
    TIMERFD_GETTIME = SYS_timerfd_gettime(Number, Memory(32));
    SIGNALFD4 = SYS_signalfd4(Number, Memory(8), Number, Number);
    INOTIFY_INIT1 = SYS_inotify_init1(Number);
    INOTIFY_ADD_WATCH = SYS_inotify_add_watch(Number, Text, Number);
    INOTIFY_RM_WATCH = SYS_inotify_rm_watch(Number, Number);
    MEMFD_CREATE = SYS_memfd_create(Text, Number);
    PIDFD_OPEN = SYS_pidfd_open(Number, Number);

    GETPID = SYS_getpid();
    GETPPID = SYS_getppid();
    GETPGID = SYS_getpgid(Number);
    GETSID = SYS_getsid(Number);
    GETUID = SYS_getuid();
    GETEUID = SYS_geteuid();
    GETGID = SYS_getgid();
    GETEGID = SYS_getegid();
    GETRESUID = SYS_getresuid(Memory(4), Memory(4), Memory(4));
    GETRESGID = SYS_getresgid(Memory(4), Memory(4), Memory(4));
    GETGROUPS = SYS_getgroups(Number, Memory(0));
    PRLIMIT = SYS_prlimit64(Number, Number, Memory(16), Memory(16));
    GETRUSAGE = SYS_getrusage(Number, Memory(144));
    TIMES = SYS_times(Memory(32));
    UNAME = SYS_uname(Memory(390));
    SYSINFO = SYS_sysinfo(Memory(112));
    GETRANDOM = SYS_getrandom(Buffer, Number, Number) restarts;
    GETPRIORITY = SYS_getpriority(Number, Number);
    SETPRIORITY = SYS_setpriority(Number, Number, Number);
    IOPRIO_GET = SYS_ioprio_get(Number, Number);
    MEMBARRIER = SYS_membarrier(Number, Number, Number);
    SCHED_YIELD = SYS_sched_yield();
    PRCTL = SYS_prctl(Number, Number, Number, Number, Number);
    SCHED_GETAFFINITY = SYS_sched_getaffinity(Number, Number, Memory(0));
    SCHED_SETAFFINITY = SYS_sched_setaffinity(Number, Number, Memory(0));
    SCHED_GETPARAM = SYS_sched_getparam(Number, Memory(4));
    SCHED_GETSCHEDULER = SYS_sched_getscheduler(Number);
    SCHED_GETATTR = SYS_sched_getattr(Number, Buffer, Number, Number);
    SCHED_GET_PRIORITY_MAX = SYS_sched_get_priority_max(Number);
    SCHED_GET_PRIORITY_MIN = SYS_sched_get_priority_min(Number);
    SCHED_RR_GET_INTERVAL = SYS_sched_rr_get_interval(Number, Memory(16));
    GETCPU = SYS_getcpu(Memory(4), Memory(4));
    PRCTL_NAME = SYS_prctl(Number, Memory(16));

    CLOCK_GETTIME = SYS_clock_gettime(Number, Memory(16));
    CLOCK_GETRES = SYS_clock_getres(Number, Memory(16));
    CLOCK_NANOSLEEP = SYS_clock_nanosleep(Number, Number, Memory(16), Memory(16)) ends;
    CLOCK_ADJTIME = SYS_clock_adjtime(Number, Memory(208));
    GETITIMER = SYS_getitimer(Number, Memory(32));
    SETITIMER = SYS_setitimer(Number, Memory(32), Memory(32));
    ALARM = SYS_alarm(Number);
    TIMER_CREATE = SYS_timer_create(Number, Memory(64), Memory(4));
    TIMER_SETTIME = SYS_timer_settime(Number, Number, Memory(32), Memory(32));
    TIMER_GETTIME = SYS_timer_gettime(Number, Memory(32));
    TIMER_GETOVERRUN = SYS_timer_getoverrun(Number);
    TIMER_DELETE = SYS_timer_delete(Number);
    GETTIMEOFDAY = SYS_gettimeofday(Memory(16), Memory(8));

    RT_SIGPROCMASK = SYS_rt_sigprocmask(Number, Memory(8), Memory(8), Number);
    RT_SIGPENDING = SYS_rt_sigpending(Memory(8), Number);
    RT_SIGSUSPEND = SYS_rt_sigsuspend(Memory(8), Number) ends;
    RT_SIGTIMEDWAIT = SYS_rt_sigtimedwait(Memory(8), Memory(128), Memory(16), Number) ends;
    PAUSE = SYS_pause() ends;
    KILL = SYS_kill(Number, Number);
    TGKILL = SYS_tgkill(Number, Number, Number);
    RT_SIGQUEUEINFO = SYS_rt_sigqueueinfo(Number, Number, Memory(128));
    RT_TGSIGQUEUEINFO = SYS_rt_tgsigqueueinfo(Number, Number, Number, Memory(128));
    PIDFD_SEND_SIGNAL = SYS_pidfd_send_signal(Number, Number, Memory(128), Number);
    WAIT4 = SYS_wait4(Number, Memory(4), Number, Memory(144)) restarts;
    WAIT4_NOW = SYS_wait4(Number, Memory(4), Number, Memory(144));
    WAITID = SYS_waitid(Number, Number, Memory(128), Number, Memory(144)) restarts;
    SETPGID = SYS_setpgid(Number, Number);
    SETSID = SYS_setsid();
    FUTEX = SYS_futex(Memory(4), Number, Number, Number, Memory(4), Number);
    FUTEX_WAIT = SYS_futex(Memory(4), Number, Number, Memory(16), Memory(4), Number) restarts;
    FUTEX_WAIT_UNTIL = SYS_futex(Memory(4), Number, Number, Memory(16), Memory(4), Number) ends;
    KCMP = SYS_kcmp(Number, Number, Number, Number, Number);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_words_of_another_shape() {
        let mut short = [0u8; 8];
        assert!(!fits(FSTAT.shape, &[Word::from(0), Word::from(&mut short)]));
        assert!(!fits(FSTAT.shape, &[Word::from(0), Word::from(4096u64)]));
        assert!(!fits(FSTAT.shape, &[Word::from(0)]));
        assert!(!fits(
            READ.shape,
            &[Word::from(0), Word::from(&mut short), Word::from(9u64)]
        ));
        assert!(!fits(
            READ.shape,
            &[Word::from(0), Word::Null, Word::from(1u64)]
        ));
        assert!(fits(
            READ.shape,
            &[Word::from(0), Word::from(&mut short), Word::from(8u64)]
        ));
    }

    #[test]
    fn makes_calls() {
        assert_eq!(pass!(GETPID).unwrap(), u64::from(std::process::id()));
        assert_eq!(pass!(CLOSE, -1), Err(Errno::EBADF));
        let mut bytes = [0; 32];
        random(&mut bytes).unwrap();
        assert_ne!(bytes, [0; 32]);
    }
}
