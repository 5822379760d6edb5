// SPDX-License-Identifier: GPL-2.0

//! Processes, signals, time and memory.

use libc::*;

use super::world::{pending, zombie};
use super::{bytes, c, n, out, page, s, v, with, words, zeros, Arg, Case, How, World};

/// A list of strings, as `execve` takes it.
fn list(texts: &[&str]) -> Arg {
    let inner = texts.iter().enumerate();
    let inner = inner.map(|(index, text)| (index * 8, s(text))).collect();
    with(&vec![0; texts.len() + 1], inner)
}

/// What acts on processes, and tells about them.
pub(super) fn add(w: &World, all: &mut Vec<Case>) {
    let pid = || n(w.pid);
    let tids = CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    let clone_args = |flags: i32| {
        let words = [flags as u64, 0, 0, 0, SIGCHLD as u64, 0, 0, 0, 0, 0, 0];
        with(&words, vec![(8, out(4)), (16, out(4)), (24, out(4))])
    };
    all.extend([
        c(SYS_clone, [n(SIGCHLD | tids), n(0), out(4), out(4), n(0)]).how(How::Forks),
        c(SYS_clone3, [clone_args(tids | CLONE_PIDFD), n(88)]).how(How::Forks),
        c(
            SYS_execve,
            [s("/bin/true"), list(&["true", "x"]), list(&["A=1"])],
        )
        .how(How::Child),
        c(
            SYS_execveat,
            [
                n(AT_FDCWD),
                s("/bin/true"),
                list(&["true", "x"]),
                list(&["A=1"]),
                n(0),
            ],
        )
        .how(How::Child),
        c(SYS_wait4, [n(-1), out(4), n(WNOHANG), out(144)]).before(zombie),
        c(
            SYS_waitid,
            [n(0), n(0), out(128), n(WNOHANG | WEXITED), out(144)],
        )
        .before(zombie),
        c(SYS_set_tid_address, [out(4)]).how(How::Child),
        c(SYS_set_robust_list, [zeros(24), n(24)]).how(How::Child),
        c(SYS_get_robust_list, [n(0), out(8), out(8)]),
        c(SYS_uname, [out(390)]),
        c(SYS_sysinfo, [out(112)]),
        c(SYS_times, [out(32)]),
        c(SYS_getrusage, [n(0), out(144)]),
        c(SYS_getrlimit, [n(RLIMIT_DATA), out(16)]),
        c(
            SYS_setrlimit,
            [n(RLIMIT_DATA), words(&[u64::MAX, u64::MAX])],
        ),
        c(
            SYS_prlimit64,
            [n(0), n(RLIMIT_DATA), words(&[u64::MAX, u64::MAX]), out(16)],
        ),
        v(SYS_getgroups, [n(64), out(256)]),
        c(SYS_getresuid, [out(4), out(4), out(4)]),
        c(SYS_getresgid, [out(4), out(4), out(4)]),
        c(SYS_capget, [words(&[0x2008_0522]), out(24)]),
        c(SYS_capset, [words(&[0x2008_0522]), zeros(24)]).how(How::Child),
        c(
            SYS_prctl,
            [n(PR_SET_NAME), s("fifteen letters"), n(0), n(0), n(0)],
        )
        .what("PR_SET_NAME"),
        c(SYS_prctl, [n(PR_GET_NAME), out(16), n(0), n(0), n(0)]).what("PR_GET_NAME"),
        c(SYS_arch_prctl, [n(0x1003), out(8)]),
        c(SYS_getcpu, [out(4), out(4), n(0)]),
        c(SYS_sched_setparam, [n(0), zeros(4)]),
        c(SYS_sched_getparam, [n(0), out(4)]),
        c(SYS_sched_setscheduler, [n(0), n(SCHED_OTHER), zeros(4)]),
        c(SYS_sched_rr_get_interval, [n(0), out(16)]),
        c(SYS_sched_setaffinity, [n(0), n(8), words(&[u64::MAX])]),
        c(SYS_sched_getaffinity, [n(0), n(128), out(128)]),
        c(SYS_sched_setattr, [n(0), words(&[48, 0, 0, 0, 0, 0]), n(0)]),
        c(SYS_sched_getattr, [n(0), out(56), n(56), n(0)]),
    ]);
    let mask = || words(&[1 << (SIGUSR1 - 1)]);
    let info = || {
        let mut words = [0u64; 16];
        // No signal, queued.
        words[1] = -1i32 as u32 as u64;
        Arg::In(bytes(&words))
    };
    all.extend([
        c(
            SYS_rt_sigaction,
            [n(SIGUSR2), words(&[1, 0, 0, 0]), out(32), n(8)],
        ),
        c(SYS_rt_sigprocmask, [n(SIG_BLOCK), mask(), out(8), n(8)]),
        c(SYS_rt_sigpending, [out(8), n(8)]),
        c(SYS_rt_sigsuspend, [words(&[0]), n(8)]).before(pending),
        v(
            SYS_rt_sigtimedwait,
            [mask(), out(128), words(&[0, 0]), n(8)],
        )
        .before(pending),
        c(SYS_rt_sigqueueinfo, [pid(), n(0), info()]),
        c(SYS_rt_tgsigqueueinfo, [pid(), pid(), n(0), info()]),
        c(SYS_pidfd_send_signal, [n(w.pidfd), n(0), info(), n(0)]),
        c(SYS_sigaltstack, [words(&[0, 2, 0]), out(24)]),
    ]);
    let clock = || n(CLOCK_MONOTONIC);
    let zero = || words(&[0, 0]);
    let event = || words(&[0, (SIGEV_NONE as u64) << 32, 0, 0, 0, 0, 0, 0]);
    all.extend([
        c(SYS_nanosleep, [zero(), out(16)]),
        c(SYS_clock_nanosleep, [clock(), n(0), zero(), out(16)]),
        c(SYS_clock_gettime, [clock(), out(16)]),
        c(SYS_clock_getres, [clock(), out(16)]),
        c(SYS_gettimeofday, [out(16), out(8)]),
        c(SYS_time, [out(8)]),
        c(SYS_adjtimex, [zeros(208)]),
        c(SYS_clock_adjtime, [n(CLOCK_REALTIME), zeros(208)]),
        c(SYS_getitimer, [n(ITIMER_REAL), out(32)]),
        c(SYS_getitimer, [n(ITIMER_VIRTUAL), out(32)]).what("VIRTUAL"),
        c(SYS_setitimer, [n(ITIMER_REAL), zeros(32), out(32)]),
        c(SYS_setitimer, [n(ITIMER_VIRTUAL), zeros(32), out(32)]).what("VIRTUAL"),
        c(SYS_timer_create, [clock(), event(), out(4)]),
        c(
            SYS_timer_settime,
            [n(w.posix_timer), n(0), zeros(32), out(32)],
        ),
        c(SYS_timer_gettime, [n(w.posix_timer), out(32)]),
    ]);
}

/// What acts on memory.
pub(super) fn add_memory(_: &World, all: &mut Vec<Case>) {
    let prot = || n(PROT_READ | PROT_WRITE);
    let map = || n(MAP_PRIVATE | MAP_ANONYMOUS);
    all.extend([
        c(SYS_mmap, [page(), n(4096), prot(), map(), n(-1), n(0)]).how(How::Maps),
        c(SYS_mprotect, [page(), n(4096), prot()]).how(How::Maps),
        c(SYS_pkey_mprotect, [page(), n(4096), prot(), n(-1)]).how(How::Maps),
        c(SYS_munmap, [page(), n(4096)]).how(How::Maps),
        c(SYS_mremap, [page(), n(4096), n(4096), n(0), n(0)]).how(How::Maps),
        c(SYS_mremap, [page(), n(4096), n(4096), n(3), page()])
            .what("fixed")
            .how(How::Maps),
        c(SYS_msync, [page(), n(4096), n(MS_ASYNC)]).how(How::Maps),
        c(SYS_mincore, [page(), n(4096), out(1)]).how(How::Maps),
        c(SYS_madvise, [page(), n(4096), n(MADV_DONTNEED)]).how(How::Maps),
        c(SYS_mlock, [page(), n(4096)]).how(How::Maps),
        c(SYS_mlock2, [page(), n(4096), n(0)]).how(How::Maps),
        c(SYS_munlock, [page(), n(4096)]).how(How::Maps),
    ]);
    let futex = |what, operation: i32, args: [Arg; 4]| {
        let [value, time, second, third] = args;
        v(
            SYS_futex,
            [words(&[5]), n(operation), value, time, second, third],
        )
        .what(what)
    };
    let word = || words(&[7]);
    let zero = || words(&[0, 0]);
    for private in [0, FUTEX_PRIVATE_FLAG] {
        let what = |shared, own| if private == 0 { shared } else { own };
        all.extend([
            // The word is another one.
            futex(
                what("WAIT other", "own WAIT other"),
                FUTEX_WAIT | private,
                [n(6), zero(), n(0), n(0)],
            ),
            futex(
                what("WAIT", "own WAIT"),
                FUTEX_WAIT | private,
                [n(5), zero(), n(0), n(0)],
            )
            .needs(3),
            futex(
                what("WAIT_BITSET", "own WAIT_BITSET"),
                FUTEX_WAIT_BITSET | private,
                [n(5), zero(), n(0), n(-1)],
            )
            .needs(3),
            futex(
                what("WAKE", "own WAKE"),
                FUTEX_WAKE | private,
                [n(1), n(0), n(0), n(0)],
            ),
            futex(
                what("REQUEUE", "own REQUEUE"),
                FUTEX_REQUEUE | private,
                [n(1), n(1), word(), n(0)],
            ),
            futex(
                what("CMP_REQUEUE", "own CMP_REQUEUE"),
                FUTEX_CMP_REQUEUE | private,
                [n(1), n(1), word(), n(5)],
            ),
            futex(
                what("WAKE_OP", "own WAKE_OP"),
                FUTEX_WAKE_OP | private,
                [n(1), n(1), word(), n(0)],
            ),
            futex(
                what("TRYLOCK_PI", "own TRYLOCK_PI"),
                FUTEX_TRYLOCK_PI | private,
                [n(0), n(0), n(0), n(0)],
            ),
            futex(
                what("UNLOCK_PI", "own UNLOCK_PI"),
                FUTEX_UNLOCK_PI | private,
                [n(0), n(0), n(0), n(0)],
            ),
        ]);
    }
}
