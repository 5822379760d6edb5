// SPDX-License-Identifier: GPL-2.0

//! Memory, descriptors and names that another thread changes while a system call uses them.
//!
//! Everything flips between what is allowed and what is not; a call must have either the one outcome or the other,
//! and never do what is forbidden. `in` is a directory that may be changed, `no` one that may not; both have a
//! file `file`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::call::{call, error_name, in_child, must};

/// Word by word, so that one store is enough to change it.
const INSIDE: u64 = u64::from_le_bytes(*b"in/file\0");
const OUTSIDE: u64 = u64::from_le_bytes(*b"no/file\0");

/// What another thread changes.
struct Words([AtomicU64; 32]);

impl Words {
    fn new() -> Self {
        Self([const { AtomicU64::new(0) }; 32])
    }

    fn set(&self, index: usize, value: u64) {
        self.0[index].store(value, Relaxed);
    }

    fn at(&self, index: usize) -> u64 {
        self.0[index].as_ptr() as u64
    }
}

/// Makes calls for a time, while another thread does `flip` with ever other numbers. The outcomes must be
/// some of `legal`; an outcome without a name is a number.
fn race(
    name: &str,
    time: Duration,
    legal: &[&str],
    flip: impl Fn(u64) + Sync,
    attempt: impl Fn() -> Result<String, String>,
) -> Result<(), String> {
    let done = AtomicBool::new(false);
    let mut seen = BTreeSet::new();
    let (mut count, mut wrong) = (0u64, None);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0;
            while !done.load(Relaxed) {
                flip(turn);
                turn += 1;
            }
        });
        let end = Instant::now() + time;
        while Instant::now() < end && wrong.is_none() {
            for _ in 0..16 {
                match attempt() {
                    Ok(outcome) if legal.contains(&outcome.as_str()) => {
                        seen.insert(outcome);
                    }
                    Ok(outcome) => wrong = Some(outcome),
                    Err(text) => wrong = Some(text),
                }
                count += 1;
            }
            // One CPU has to be left to the other thread.
            std::thread::yield_now();
        }
        done.store(true, Relaxed);
    });
    let seen: Vec<String> = seen.into_iter().collect();
    println!("{name}: {count} times, {}", seen.join(" "));
    wrong.map_or(Ok(()), |wrong| Err(format!("{name}: {wrong}")))
}

/// What a call came to; what it opened is closed.
fn told(result: i64) -> Result<String, String> {
    Ok(match result {
        ..0 => error_name(-result),
        _ => "ok".to_owned(),
    })
}

fn close(fd: i64) {
    if fd > 2 {
        must(libc::SYS_close, &[fd as u64]);
    }
}

/// Which file a descriptor is.
fn identity(fd: u64) -> [u64; 2] {
    let mut status = [0u64; 18];
    must(libc::SYS_fstat, &[fd, status.as_mut_ptr() as u64]);
    [status[0], status[1]]
}

fn open(path: &str, flags: i32) -> u64 {
    let path = format!("{path}\0");
    must(libc::SYS_open, &[path.as_ptr() as u64, flags as u64, 0o644])
}

const APPEND: u64 = (libc::O_WRONLY | libc::O_APPEND) as u64;

/// Opens for writing; what is opened must be the file inside.
fn written(fd: i64, inside: [u64; 2]) -> Result<String, String> {
    if fd >= 0 {
        let found = identity(fd as u64);
        call(libc::SYS_write, &[fd as u64, b"x".as_ptr() as u64, 1]);
        close(fd);
        if found != inside {
            return Err("what is outside was opened for writing".into());
        }
    }
    told(fd)
}

fn paths(time: Duration) -> Result<(), String> {
    let words = Words::new();
    words.set(0, INSIDE);
    let inside = identity(open("in/file", libc::O_RDONLY));
    let flip = |turn: u64| words.set(0, if turn % 2 == 0 { INSIDE } else { OUTSIDE });
    let path = words.at(0);
    race("open", time, &["ok", "EROFS"], flip, || {
        written(call(libc::SYS_open, &[path, APPEND, 0]), inside)
    })?;
    let here = libc::AT_FDCWD as u64;
    let how = [APPEND, 0, 0];
    let how = how.as_ptr() as u64;
    race("openat2", time, &["ok", "EROFS"], flip, || {
        written(call(libc::SYS_openat2, &[here, path, how, 24]), inside)
    })?;
    // What changes a name or a file, and is undone where it may be done.
    let (other, new) = (c"in/other".as_ptr() as u64, c"in/new".as_ptr() as u64);
    let times = [1u64, 0, 1, 0];
    let times = times.as_ptr() as u64;
    let calls: &[(&str, i64, &[u64])] = &[
        ("truncate", libc::SYS_truncate, &[path, 3]),
        ("chmod", libc::SYS_chmod, &[path, 0o640]),
        ("utimensat", libc::SYS_utimensat, &[here, path, times, 0]),
        ("link", libc::SYS_link, &[path, new]),
        ("mkdir", libc::SYS_mkdir, &[path, 0o755]),
        ("symlink", libc::SYS_symlink, &[other, path]),
        ("rmdir", libc::SYS_rmdir, &[path]),
        ("mknod", libc::SYS_mknod, &[path, 0o100_644, 0]),
        ("rename", libc::SYS_rename, &[path, path]),
    ];
    let legal = ["ok", "EROFS", "EEXIST", "EXDEV", "ENOTDIR", "ENOENT"];
    for (name, number, args) in calls {
        race(name, time / 4, &legal, flip, || {
            let result = call(*number, args);
            call(libc::SYS_unlink, &[new]);
            told(result)
        })?;
    }
    Ok(())
}

fn directories(time: Duration) -> Result<(), String> {
    let inside = identity(open("in/file", libc::O_RDONLY));
    let (yes, no) = (open("in", libc::O_RDONLY), open("no", libc::O_RDONLY));
    let flipped = must(libc::SYS_dup, &[yes]);
    let flip = |turn: u64| {
        call(
            libc::SYS_dup2,
            &[if turn % 2 == 0 { yes } else { no }, flipped],
        );
    };
    let name = c"file".as_ptr() as u64;
    let legal = ["ok", "EROFS", "EBUSY"];
    race("a directory's descriptor", time, &legal, flip, || {
        written(call(libc::SYS_openat, &[flipped, name, APPEND, 0]), inside)
    })?;
    // `in/s` is a link to `no`, and `in/t` a directory with a link to `in/file`; they change places.
    let inner = c"in/t/file".as_ptr() as u64;
    call(libc::SYS_mkdir, &[c"in/t".as_ptr() as u64, 0o755]);
    call(libc::SYS_link, &[c"in/file".as_ptr() as u64, inner]);
    call(
        libc::SYS_symlink,
        &[c"../no".as_ptr() as u64, c"in/s".as_ptr() as u64],
    );
    let (s, t) = (c"in/s".as_ptr() as u64, c"in/t".as_ptr() as u64);
    let here = libc::AT_FDCWD as u64;
    let exchange = |_: u64| {
        call(libc::SYS_renameat2, &[here, s, here, t, 2]);
    };
    let through = c"in/s/file".as_ptr() as u64;
    race(
        "links and directories",
        time,
        &["ok", "EROFS", "ENOENT", "EAGAIN"],
        exchange,
        || written(call(libc::SYS_open, &[through, APPEND, 0]), inside),
    )
}

fn vectors(time: Duration) -> Result<(), String> {
    let mut pipe = [0i32; 2];
    must(
        libc::SYS_pipe2,
        &[&raw mut pipe as u64, libc::O_NONBLOCK as u64],
    );
    let [read, write] = pipe.map(|fd| fd as u64);
    let (words, data) = (Words::new(), [b'A'; 16]);
    let good = data.as_ptr() as u64;
    words.set(0, good);
    words.set(1, 8);
    let flip = |turn: u64| {
        words.set(0, [good, 0x10, 0xffff_8000_0000_0000][turn as usize % 3]);
        words.set(1, [8, u64::MAX, 16, 1 << 62][turn as usize / 3 % 4]);
    };
    let vector = words.at(0);
    let legal = ["8", "16", "EFAULT", "EINVAL"];
    race("vectors", time, &legal, flip, || {
        let written = call(libc::SYS_writev, &[write, vector, 1]);
        let mut room = [0u8; 64];
        let got = call(libc::SYS_read, &[read, room.as_mut_ptr() as u64, 64]);
        if got > 0 && (got != written || room[..got as usize].iter().any(|&byte| byte != b'A')) {
            return Err(format!("{written} written, {room:?} read"));
        }
        if written >= 0 {
            return Ok(written.to_string());
        }
        told(written)
    })
}

fn messages(time: Duration) -> Result<(), String> {
    let mut pair = [0i32; 2];
    let kind = (libc::SOCK_DGRAM | libc::SOCK_NONBLOCK) as u64;
    must(libc::SYS_socketpair, &[1, kind, 0, &raw mut pair as u64]);
    let [one, two] = pair.map(|fd| fd as u64);
    let mut limit = [0u64; 2];
    must(libc::SYS_getrlimit, &[7, limit.as_mut_ptr() as u64]);
    let own = identity(0);
    // A header, its vector, its control data.
    let words = Words::new();
    let data = *b"data";
    words.set(2, words.at(8));
    words.set(3, 1);
    words.set(4, words.at(12));
    words.set(5, 24);
    words.set(8, data.as_ptr() as u64);
    words.set(9, 4);
    words.set(12, 20);
    words.set(13, 1 | 1 << 32);
    let flip = |turn: u64| {
        words.set(5, [24, 23, 16, 1 << 40, 24][turn as usize % 5]);
        words.set(12, [20, u64::MAX, 20, 16, 1 << 32][turn as usize / 2 % 5]);
        // The broker's own descriptors are above the limit.
        words.set(
            14,
            [0, limit[0] + turn % 24, 0, 0xffff_ffff][turn as usize % 4],
        );
    };
    let header = words.at(0);
    let legal = ["ok", "EBADF", "EINVAL", "ENOBUFS"];
    race("control data", time, &legal, flip, || {
        let sent = call(libc::SYS_sendmsg, &[one, header, 0]);
        let mut room = [0u64; 16];
        let mut vector = [room.as_mut_ptr() as u64, 8];
        let mut control = [0u64; 8];
        let (vector, address) = (vector.as_mut_ptr() as u64, control.as_mut_ptr() as u64);
        let mut received = [0, 0, vector, 1, address, 64, 0];
        let received = received.as_mut_ptr() as u64;
        let mut foreign = false;
        while call(libc::SYS_recvmsg, &[two, received, 0]) > 0 {
            if control[0] == 20 && control[1] == 1 | 1 << 32 {
                let fd = control[2] as u32;
                foreign |= identity(fd.into()) != own;
                close(fd.into());
            }
            control = [0; 8];
        }
        match foreign {
            true => Err("a descriptor came that is not the program's".into()),
            false => told(sent),
        }
    })
}

fn others(time: Duration) -> Result<(), String> {
    let words = Words::new();
    // Flags of `clone3`.
    words.set(4, libc::SIGCHLD as u64);
    let flip = |turn: u64| {
        let user = libc::CLONE_NEWUSER as u64;
        words.set(0, [0, user, 0, libc::CLONE_VM as u64][turn as usize % 4]);
        words.set(10, [0, 0, 1 << 40][turn as usize % 3]);
    };
    let args = words.at(0);
    race(
        "clone3",
        time,
        &["ok", "EPERM", "EINVAL", "EAGAIN"],
        flip,
        || match call(libc::SYS_clone3, &[args, 88]) {
            0 => crate::call::exit(0),
            pid @ 1.. => {
                crate::call::wait(pid);
                Ok("ok".into())
            }
            failed => told(failed),
        },
    )?;
    let inside = identity(open("in/file", libc::O_RDONLY));
    let flip = |turn: u64| {
        let flags = [APPEND, libc::O_PATH as u64, APPEND | 1 << 50];
        words.set(0, flags[turn as usize % 3]);
        words.set(2, [0, 8, 1 << 33][turn as usize / 2 % 3]);
    };
    words.set(1, 0);
    let here = libc::AT_FDCWD as u64;
    let path = c"in/file".as_ptr() as u64;
    let legal = ["ok", "EINVAL", "EXDEV", "EPERM"];
    race("openat2's flags", time, &legal, flip, || {
        written(
            call(libc::SYS_openat2, &[here, path, words.at(0), 24]),
            inside,
        )
    })?;
    let flip = |turn: u64| words.set(0, turn % 3);
    let soon = [0u64, 10_000];
    let soon = soon.as_ptr() as u64;
    let legal = ["ok", "EAGAIN", "ETIMEDOUT"];
    race("futex", time, &legal, flip, || {
        let word = words.at(0);
        call(libc::SYS_futex, &[word, 129, 1]);
        told(call(libc::SYS_futex, &[word, 128, 1, soon]))
    })
}

/// The lowest number that a new descriptor gets.
fn lowest() -> u64 {
    let fd = must(libc::SYS_dup, &[0]);
    close(fd as i64);
    fd
}

/// What the broker opens for itself, and what it has looked at by its number, while another thread takes the number.
fn numbers(time: Duration) -> Result<(), String> {
    let (transient, stolen) = (lowest(), AtomicBool::new(false));
    // One on a process that is not the task's is known by what may not be done with it.
    let thief = |_: u64| {
        let fd = call(libc::SYS_dup, &[transient]);
        if fd >= 0 {
            let foreign = call(libc::SYS_pidfd_send_signal, &[fd as u64, 0, 0, 0]);
            stolen.fetch_or(foreign == -i64::from(libc::EPERM), Relaxed);
            close(fd);
        }
    };
    race("handles on processes", time, &["ESRCH"], thief, || {
        let result = call(libc::SYS_kill, &[1, 0]);
        match stolen.load(Relaxed) {
            true => Err("one on the host's process 1 was taken".into()),
            false => told(result),
        }
    })?;
    let mut pair = [0i32; 2];
    let kind = libc::SOCK_DGRAM as u64;
    must(libc::SYS_socketpair, &[1, kind, 0, &raw mut pair as u64]);
    let (half, own) = (pair[0] as u64, must(libc::SYS_socket, &[1, kind, 0]));
    let flipped = must(libc::SYS_dup, &[own]);
    let flip = |turn: u64| {
        let socket = if turn % 2 == 0 { own } else { half };
        call(libc::SYS_dup2, &[socket, flipped]);
    };
    // The host has a socket of that name, and the task has none.
    let name = *b"\x01\0\0uvisor-race";
    let (name, len) = (name.as_ptr() as u64, name.len() as u64);
    let send = [flipped, name, 1, libc::MSG_DONTWAIT as u64, name, len];
    let legal = ["ECONNREFUSED", "EACCES"];
    race("sockets", time, &legal, flip, || {
        told(call(libc::SYS_sendto, &send))
    })?;
    race("sockets to connect", time, &legal, flip, || {
        told(call(libc::SYS_connect, &[flipped, name, len]))
    })
}

/// A frame that changes while the handler returns by it: the process may die of that, as of what is forbidden there.
fn frames(time: Duration) -> Result<(), String> {
    extern "C" fn handler(_: i32, _: u64, context: u64) {
        CONTEXT.store(context, Relaxed);
    }
    static CONTEXT: AtomicU64 = AtomicU64::new(0);
    let ended = in_child(|| {
        // A stack that nothing else is on.
        let room = vec![0u64; 1 << 13].leak();
        let stack = [room.as_ptr() as u64, 0, 1 << 16];
        must(libc::SYS_sigaltstack, &[stack.as_ptr() as u64, 0]);
        // SAFETY: The handler has this form.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        }
        std::thread::spawn(|| {
            for turn in 0u64.. {
                let context = CONTEXT.load(Relaxed);
                if context != 0 {
                    // The mask of signals, or the pointer to the extended state.
                    let at = context + if turn % 8 == 0 { 224 } else { 296 };
                    // SAFETY: It is in a frame of the kernel's, or what was one, on a stack of its own.
                    unsafe { AtomicU64::from_ptr(at as *mut u64) }
                        .store(turn / 2 % 2 * 0x7fff_fdff, Relaxed);
                }
            }
        });
        let (pid, end) = (must(libc::SYS_getpid, &[]), Instant::now() + time);
        while Instant::now() < end {
            must(libc::SYS_kill, &[pid, libc::SIGUSR1 as u64]);
        }
        0
    });
    println!("frames: {ended}");
    match ended.as_str() {
        "exit 0" | "signal 11" => Ok(()),
        _ => Err(format!("frames: {ended}")),
    }
}

/// All races, each for so many milliseconds.
pub fn main(milliseconds: u64) -> Result<(), String> {
    let time = Duration::from_millis(milliseconds);
    paths(time)?;
    directories(time)?;
    vectors(time)?;
    messages(time)?;
    others(time)?;
    numbers(time)?;
    frames(time)?;
    println!("all were legal");
    Ok(())
}
