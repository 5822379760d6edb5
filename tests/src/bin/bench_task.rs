// SPDX-License-Identifier: GPL-2.0

//! Measures system calls from inside: a part of `bench_programs`, which runs it natively and by others.
//!
//! ```text
//! bench_task             a line for each kind of work: its name, a colon, and ticks of the time-stamp
//!                        counter
//! bench_task WORK COUNT  that work COUNT times and nothing else, for whoever counts events
//! ```

use std::fmt::Write;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use uvisor_tests::bench::measure::{nothing, time};

/// Some work, made ready: each call does it once, and gives its ticks.
type Ready = Box<dyn FnMut() -> u64>;

/// A name, how often it is measured, and how it is made ready.
type Line = (&'static str, usize, fn() -> Ready);

const LINES: [Line; 11] = [
    ("getppid", 400, getppid),
    ("read-1", 400, read_byte),
    ("read-4096", 400, read_page),
    ("pipe", 400, pipe),
    ("pipe-processes", 200, pipe_processes),
    ("open-close", 400, open_close),
    ("touch", 1024, touch),
    ("signal", 200, signal),
    ("thread", 100, thread),
    ("futex", 200, futex),
    ("fork", 60, fork),
];

/// Work that needs nothing, or what the closure owns.
fn plain(mut body: impl FnMut() + 'static) -> Ready {
    Box::new(move || time(&mut body))
}

fn getppid() -> Ready {
    plain(|| {
        // SAFETY: It takes no argument.
        unsafe { libc::syscall(libc::SYS_getppid) };
    })
}

/// Reads as many bytes as the buffer has.
fn read(file: &File, buffer: &mut [u8]) {
    // SAFETY: The buffer has the bytes.
    let count = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    assert_eq!(count, buffer.len() as isize, "read");
}

fn read_byte() -> Ready {
    let zero = File::open("/dev/zero").expect("/dev/zero");
    plain(move || read(&zero, &mut [0]))
}

/// A page of a file that the kernel has in its cache.
fn read_page() -> Ready {
    let mut file = std::env::current_exe()
        .and_then(File::open)
        .expect("this program");
    let mut page = vec![0; 4096];
    file.read_exact(&mut page).expect("a page");
    Box::new(move || {
        file.rewind().expect("its beginning");
        time(|| read(&file, &mut page))
    })
}

/// A pipe: what is read from it, and what is written to it.
fn new_pipe() -> [i32; 2] {
    let mut ends = [0; 2];
    // SAFETY: The array has room for both.
    let result = unsafe { libc::pipe(ends.as_mut_ptr()) };
    assert_eq!(result, 0, "pipe");
    ends
}

/// A byte into a descriptor, and out of another one.
fn turn(into: i32, from: i32) {
    let mut byte = 0u8;
    // SAFETY: The buffer has the byte.
    let counts = unsafe {
        [
            libc::write(into, (&raw const byte).cast(), 1),
            libc::read(from, (&raw mut byte).cast(), 1),
        ]
    };
    assert_eq!(counts, [1, 1], "a pipe");
}

/// A byte goes through a pipe to the one who wrote it.
fn pipe() -> Ready {
    let [from, into] = new_pipe();
    plain(move || turn(into, from))
}

/// A byte goes to another process and comes back.
fn pipe_processes() -> Ready {
    let [there, back] = [new_pipe(), new_pipe()];
    // SAFETY: The child makes system calls only.
    match unsafe { libc::fork() } {
        -1 => panic!("fork"),
        0 => {
            // SAFETY: As above; the parent's end is the only one then.
            unsafe { libc::close(there[1]) };
            let mut byte = 0u8;
            // SAFETY: The buffer has the byte.
            while unsafe { libc::read(there[0], (&raw mut byte).cast(), 1) } == 1 {
                // SAFETY: As above.
                unsafe { libc::write(back[1], (&raw const byte).cast(), 1) };
            }
            // SAFETY: It ends the child without what belongs to the parent.
            unsafe { libc::_exit(0) }
        }
        _ => plain(move || turn(there[1], back[0])),
    }
}

fn open_close() -> Ready {
    plain(|| {
        // SAFETY: The path is a string.
        let fd = unsafe { libc::open(c"/etc/passwd".as_ptr(), libc::O_RDONLY) };
        assert!(fd >= 0, "open");
        // SAFETY: It was opened above.
        unsafe { libc::close(fd) };
    })
}

/// The first write to a page of memory.
fn touch() -> Ready {
    const PAGES: usize = 8192;
    // SAFETY: The kernel chooses an unused range.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            PAGES * 4096,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert_ne!(base, libc::MAP_FAILED, "mmap");
    let mut page = 0;
    Box::new(move || {
        // SAFETY: The page is in the range, which nobody else has.
        let word = unsafe { base.cast::<u8>().add(page % PAGES * 4096).cast::<u64>() };
        page += 1;
        // SAFETY: As above.
        time(|| unsafe { word.write_volatile(1) })
    })
}

extern "C" fn nobody(_: i32) {}

/// A signal to oneself, whose handler returns.
fn signal() -> Ready {
    let handler: extern "C" fn(i32) = nobody;
    // SAFETY: The handler does nothing.
    unsafe { libc::signal(libc::SIGUSR1, handler as usize) };
    plain(|| {
        // SAFETY: It takes an integer.
        unsafe { libc::raise(libc::SIGUSR1) };
    })
}

fn thread() -> Ready {
    plain(|| std::thread::spawn(|| ()).join().expect("a thread"))
}

/// Waits while `word` is `value`.
fn wait(word: &AtomicU32, value: u32) {
    while word.load(Ordering::Acquire) == value {
        // SAFETY: The word is alive, and there is no timeout.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                word.as_ptr(),
                libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                value,
                0usize,
            )
        };
    }
}

/// Sets `word`, and wakes who waits for it.
fn wake(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    // SAFETY: The word is alive.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        )
    };
}

/// Another thread is woken, and wakes this one.
fn futex() -> Ready {
    let word = Arc::new(AtomicU32::new(0));
    let theirs = word.clone();
    std::thread::spawn(move || loop {
        wait(&theirs, 0);
        wake(&theirs, 0);
    });
    plain(move || {
        wake(&word, 1);
        wait(&word, 1);
    })
}

fn fork() -> Ready {
    plain(|| {
        // SAFETY: The child ends at once.
        match unsafe { libc::fork() } {
            -1 => panic!("fork"),
            // SAFETY: As above.
            0 => unsafe { libc::_exit(0) },
            child => {
                let mut status = 0;
                // SAFETY: The status is written.
                let ended = unsafe { libc::waitpid(child, &mut status, 0) };
                assert_eq!((ended, status), (child, 0), "waitpid");
            }
        }
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if let Some(name) = arguments.next() {
        let count: u64 = arguments
            .next()
            .and_then(|count| count.parse().ok())
            .unwrap_or(1);
        let line = LINES.iter().find(|line| line.0 == name);
        let mut work = line.unwrap_or_else(|| panic!("no such work: {name}")).2();
        for _ in 0..count {
            work();
        }
        return;
    }
    let nothing = nothing();
    for (name, samples, ready) in LINES {
        let mut work = ready();
        for _ in 0..samples / 8 + 2 {
            work();
        }
        let ticks = (0..samples).map(|_| work().saturating_sub(nothing));
        let mut line = format!("{name}:");
        for ticks in ticks {
            // Writing to a string cannot fail.
            let _ = write!(line, " {ticks}");
        }
        println!("{line}");
    }
}
