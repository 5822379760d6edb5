// SPDX-License-Identifier: GPL-2.0

//! Random sequences of system calls, from a seed: whatever the program does to itself, its broker must not break.
//!
//! A worker is a process of its own with some threads, which makes calls of the table with arguments from pools. It
//! may die of what it does, and is killed when it takes too long.

use uvisor::personality::table::TABLE;
use uvisor::personality::{Fate, Syscall};

use crate::call::{call, exit, must, wait};

/// Calls that are not made: what ends the program, or would leave the group by which all of it is killed.
const NEVER: &[&str] = &[
    "exit",
    "exit_group",
    "vfork",
    "rt_sigreturn",
    "setsid",
    "setpgid",
    "pause",
];

/// How many calls a thread of a worker makes.
const CALLS: u32 = 300;

/// The memory that calls are pointed at: some may be unmapped by them.
const ARENA: u64 = 64 << 12;

/// Random numbers.
#[derive(Clone, Copy)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_of(&mut self, all: &[u64]) -> u64 {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Values that make some argument of a call mean something.
const HINTS: &[(&str, usize, &[u64])] = &[
    ("mmap", 2, &[0, 1, 2, 3, 5, 7]),
    (
        "mmap",
        3,
        &[0x22, 0x32, 0x21, 0x31, 0x1, 0x2, 0x4022, 0x100_022],
    ),
    ("mprotect", 2, &[0, 1, 3, 5, 7]),
    ("mremap", 3, &[0, 1, 3]),
    ("madvise", 2, &[0, 3, 4, 8, 14, 21]),
    (
        "clone",
        0,
        &[
            17,
            17 | 0x100_0000,
            17 | 0x120_0000,
            17 | 0x1000,
            0x1000_0011,
            0x3d0f00,
        ],
    ),
    ("clone", 1, &[0]),
    (
        "futex",
        1,
        &[
            0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 128, 129, 131, 132, 133, 137, 138, 134,
        ],
    ),
    (
        "fcntl",
        1,
        &[
            0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 15, 16, 36, 37, 1030, 1031, 1032, 1033, 1034,
            1036,
        ],
    ),
    (
        "ioctl",
        1,
        &[
            0x5401, 0x5402, 0x540f, 0x5410, 0x5413, 0x5414, 0x541b, 0x5421, 0x5430, 0x5431, 0x5441,
            0x8902, 0x8912,
        ],
    ),
    ("socket", 0, &[1, 2, 10, 16]),
    ("socket", 1, &[1, 2, 3, 5, 0x802]),
    ("socket", 2, &[0, 6, 17]),
    ("socketpair", 0, &[1]),
    ("socketpair", 1, &[1, 2, 5, 0x801]),
    ("socketpair", 2, &[0]),
    ("setsockopt", 1, &[0, 1, 6, 17, 41]),
    ("getsockopt", 1, &[0, 1, 6, 17, 41]),
    (
        "open",
        1,
        &[
            0, 1, 2, 0o100, 0o102, 0o2000001, 0o200000, 0o10000000, 0o20200000,
        ],
    ),
    (
        "openat",
        2,
        &[
            0, 1, 2, 0o100, 0o102, 0o2000001, 0o200000, 0o10000000, 0o20200000,
        ],
    ),
    ("epoll_ctl", 1, &[1, 2, 3]),
    ("timerfd_create", 0, &[0, 1, 7]),
    ("timer_create", 0, &[0, 1, 2, 3]),
    ("prctl", 0, &[15, 16, 3, 38, 39]),
    ("arch_prctl", 0, &[0x1003, 0x1004]),
    ("waitid", 0, &[0, 1, 2, 3]),
    ("waitid", 3, &[1, 4, 5, 0x100_0005]),
    ("wait4", 2, &[1, 3]),
    ("membarrier", 0, &[0, 1, 2, 8, 16]),
    ("kill", 0, &[0]),
    ("rt_sigprocmask", 3, &[8]),
    ("rt_sigaction", 3, &[8]),
    ("rt_sigsuspend", 1, &[8]),
    ("rt_sigtimedwait", 3, &[8]),
    ("clone3", 1, &[64, 80, 88, 96]),
    ("sigaltstack", 1, &[0]),
];

/// What a path can be. Nothing of it leads to where something outside of the scratch directory could be changed.
const PATHS: &[&std::ffi::CStr] = &[
    c"a",
    c"b",
    c"d",
    c"d/a",
    c"d/b",
    c"l",
    c"./d/../a",
    c"d/l",
    c"",
    c".",
    c"..",
    c"../x",
    c"/",
    c"/dev/null",
    c"/dev/ptmx",
    c"/dev/tty",
    c"/dev/zero",
    c"/dev/urandom",
    c"/proc/self/fd/3",
    c"/proc/self/fd/4",
    c"/proc/self/maps",
    c"/proc/self/status",
    c"/proc/self/exe",
    c"/dev/uvisor-checkpoint",
    c"/bin/true",
    c"/etc/passwd",
    c"user.a",
    c"user.b",
    c"/proc/self/fd/1023",
    c"/proc/1/maps",
    c"/dev/fd/5",
    c"/proc/self/task",
    c"/proc/self/cwd/a",
];

/// Where the numbers of a worker come from.
struct Pools {
    random: Random,
    arena: u64,
    /// The first descriptor that is the broker's own.
    limit: u64,
}

extern "C" fn nothing(_: i32) {}

impl Pools {
    fn descriptor(&mut self) -> u64 {
        match self.random.below(24) {
            0 => u64::MAX,
            1 => self.limit + self.random.below(24),
            2 => libc::AT_FDCWD as u64,
            // Not the first three, by which findings are told.
            _ => 3 + self.random.below(16),
        }
    }

    /// A small number, mostly.
    fn number(&mut self) -> u64 {
        match self.random.below(12) {
            0 => u64::MAX - self.random.below(3),
            1 => 1 << self.random.below(64),
            2 => self.random.next(),
            3 => 4096 << self.random.below(5),
            4 => self.random.below(70),
            5 => 0,
            6 => 8 * self.random.below(20),
            _ => self.random.below(10),
        }
    }

    /// An address, mostly in the arena.
    fn address(&mut self) -> u64 {
        let page = self.random.below(ARENA >> 12) << 12;
        match self.random.below(16) {
            0 => 0,
            1 => self.random.one_of(&[
                1,
                0x1000,
                0x7fff_ffff_f000,
                1 << 47,
                1 << 63,
                u64::MAX,
                (1 << 39) - 4096,
            ]),
            2 => self.arena + page + 4096 - self.random.below(17),
            3 | 4 => self.arena + page,
            _ => self.arena + page + 8 * self.random.below(64),
        }
    }

    fn path(&mut self) -> u64 {
        match self.random.below(20) {
            0 => self.address(),
            _ => PATHS[self.random.below(PATHS.len() as u64) as usize].as_ptr() as u64,
        }
    }

    fn argument(&mut self, entry: &Syscall, index: usize, kind: u8) -> u64 {
        let hint = HINTS
            .iter()
            .find(|(name, at, _)| (*name, *at) == (entry.name, index));
        if let Some((_, _, values)) = hint {
            if self.random.below(10) > 0 {
                return self.random.one_of(values);
            }
        }
        match kind {
            b'f' | b'@' => self.descriptor(),
            b's' => self.path(),
            b'o' => self.random.one_of(&[0o644, 0o755, 0, 0o4755, 0o100_644]),
            b'x' if self.random.below(3) > 0 => self.address(),
            _ => self.number(),
        }
    }

    /// Writes something to a place of the arena, through a system call: it may not be there.
    fn scribble(&mut self, pipe: [u64; 2]) {
        let mut words = [0u64; 12];
        for word in &mut words {
            *word = match self.random.below(5) {
                0 => self.address(),
                1 => self.descriptor() << (32 * self.random.below(2)),
                2 => {
                    self.random
                        .one_of(&[libc::SIGCHLD as u64, nothing as *const () as u64, 8, 16])
                }
                3 => self.path(),
                _ => self.number(),
            };
        }
        let place = self.address();
        if call(libc::SYS_write, &[pipe[1], words.as_ptr() as u64, 96]) == 96 {
            call(libc::SYS_read, &[pipe[0], place, 96]);
        }
    }
}

/// What is not to be made with these arguments.
fn is_bad(entry: &Syscall, args: &[u64; 6]) -> bool {
    let low = |index: usize| (0..3).contains(&(args[index] as u32));
    match entry.name {
        // By these findings are told, and the group is how all are killed.
        "close" | "close_range" => low(0),
        "dup2" | "dup3" => low(1),
        "kill" => args[0] as u32 as i32 == -1 || args[0] as u32 == 1,
        "clone" => args[0] & 0x100 != 0,
        "set_robust_list" => false,
        "arch_prctl" => !matches!(args[0], 0x1003 | 0x1004),
        // What the program itself needs is in its own memory, and what is mapped there stays.
        "mmap" => args[0] == 0 && args[3] & 0x10 != 0,
        "rt_sigaction" => matches!(args[0], 14),
        "setitimer" | "alarm" => true,
        _ => false,
    }
}

/// Makes calls.
fn work(seed: u64, arena: u64, depth: u32) {
    let mut limit = [0u64; 2];
    must(libc::SYS_getrlimit, &[7, limit.as_mut_ptr() as u64]);
    let mut pools = Pools {
        random: Random::new(seed),
        arena,
        limit: limit[0],
    };
    let mut pipe = [0i32; 2];
    if call(
        libc::SYS_pipe2,
        &[&raw mut pipe as u64, libc::O_NONBLOCK as u64],
    ) != 0
    {
        return;
    }
    let pipe = pipe.map(|fd| fd as u64);
    for turn in 0..CALLS >> depth {
        let entry = &TABLE[pools.random.below(TABLE.len() as u64) as usize];
        if !matches!(entry.fate, Fate::Served(_)) || NEVER.contains(&entry.name) {
            continue;
        }
        if pools.random.below(2) == 0 {
            pools.scribble(pipe);
        }
        let shape = entry
            .shape
            .as_bytes()
            .iter()
            .take_while(|&&kind| kind != b'>');
        let mut args = [0; 6];
        for (index, kind) in shape.enumerate().take(6) {
            args[index] = pools.argument(entry, index, *kind);
        }
        if is_bad(entry, &args) {
            continue;
        }
        // Some flags of `clone3` come from the arena: one that shares memory and stack is another thread on this
        // stack, which is the program's problem.
        let result = call(entry.number.into(), &args);
        if result == 0 && matches!(entry.name, "fork" | "clone" | "clone3") {
            if depth < 2 {
                work(seed ^ u64::from(turn) << 32, arena, depth + 1);
            }
            exit(0);
        }
    }
}

/// A worker: some threads that make calls.
fn worker(seed: u64) -> ! {
    must(libc::SYS_setpgid, &[0, 0]);
    // SAFETY: The handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
    }
    // What waits is interrupted now and then.
    let often = [0u64, 5000, 0, 5000];
    must(libc::SYS_setitimer, &[0, often.as_ptr() as u64, 0]);
    let arena = must(libc::SYS_mmap, &[0, ARENA, 3, 0x22, u64::MAX, 0]);
    let threads: Vec<_> = (0..seed % 3)
        .map(|index| std::thread::spawn(move || work(seed ^ (index + 1) << 48, arena, 1)))
        .collect();
    work(seed, arena, 0);
    for thread in threads {
        // Whatever it has come to.
        let _ = thread.join();
    }
    exit(0)
}

/// Lets workers run for so many milliseconds of the machine.
pub fn main(milliseconds: u64, seed: u64) -> Result<(), String> {
    // Natively this could do harm.
    let checkpoint = c"/dev/uvisor-checkpoint".as_ptr() as u64;
    let inside = call(libc::SYS_open, &[checkpoint, 0]);
    if inside < 0 {
        return Err("this is for micro-VMs".into());
    }
    must(libc::SYS_close, &[inside as u64]);
    let start = std::time::Instant::now();
    let (mut rounds, mut late) = (0u64, 0u64);
    let mut ends = std::collections::BTreeMap::new();
    while start.elapsed().as_millis() < milliseconds.into() || rounds == 0 {
        let own = Random::new(seed << 32 ^ rounds).next();
        rounds += 1;
        let pid = call(libc::SYS_fork, &[]);
        if pid == 0 {
            worker(own);
        }
        if pid < 0 {
            return Err(format!("no worker: {pid}"));
        }
        let begun = std::time::Instant::now();
        let mut info = [0u64; 16];
        while info[0] as u32 == 0 {
            let options = (libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) as u64;
            call(
                libc::SYS_waitid,
                &[1, pid as u64, info.as_mut_ptr() as u64, options, 0],
            );
            if begun.elapsed().as_millis() > 200 {
                late += 1;
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // All that it has made.
        call(libc::SYS_kill, &[(-pid) as u64, 9]);
        call(libc::SYS_kill, &[pid as u64, 9]);
        *ends.entry(wait(pid)).or_insert(0u64) += 1;
    }
    println!("{rounds} workers from seed {seed}, {late} were too slow: {ends:?}");
    Ok(())
}
