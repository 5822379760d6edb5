// SPDX-License-Identifier: GPL-2.0

//! What tests need of the host.

use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// A memory file with `bytes`, filled up to a whole page.
pub fn memory_file(bytes: &[u8]) -> File {
    // SAFETY: The name is a C string.
    let fd = unsafe { libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: The descriptor is new and ours.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("write to a memory file");
    let len = (bytes.len() as u64).next_multiple_of(4096).max(4096);
    file.set_len(len).expect("size of a memory file");
    file
}

/// Where this process has the mapping that the kernel calls so.
pub fn own_mapping(name: &str) -> Result<std::ops::Range<u64>, String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| e.to_string())?;
    let line = maps.lines().find(|line| line.ends_with(name));
    let range = line.and_then(|line| line.split(' ').next()?.split_once('-'));
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(|e| e.to_string());
    let (start, end) = range.ok_or(format!("no {name}"))?;
    Ok(number(start)?..number(end)?)
}

/// Keeps the calling thread on one CPU.
pub fn pin_to_cpu(cpu: usize) {
    move_to_cpu(0, cpu);
}

/// Keeps a thread of this process on one CPU; 0 is the calling one.
pub fn move_to_cpu(thread: libc::pid_t, cpu: usize) {
    // SAFETY: The set is initialised by zeroing; the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(thread, size_of_val(&set), &set)
    };
    assert_eq!(result, 0, "sched_setaffinity to CPU {cpu}");
}

/// What kind of test machine this is, as `tests/vm/run --machine` has it, if it is said.
pub fn machine() -> Option<String> {
    std::env::var("UVISOR_MACHINE").ok()
}

/// How many CPUs are online.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Set by each SIGALRM.
static ALARMS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_alarm(_: i32) {
    ALARMS.fetch_add(1, Ordering::SeqCst);
}

/// Makes SIGALRM do nothing but interrupt system calls and be counted.
pub fn on_alarm() {
    // SAFETY: The action is initialised and the handler async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count_alarm as *const () as usize;
        libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut());
    }
}

/// Leaves SIGALRM to the other threads.
pub fn without_alarms() {
    // SAFETY: The set is initialised; the call changes the mask of this thread.
    let result = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGALRM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut())
    };
    assert_eq!(result, 0, "pthread_sigmask");
}

/// How many SIGALRM came.
pub fn alarms() -> u32 {
    ALARMS.load(Ordering::SeqCst)
}

/// Sends this process a SIGALRM after some milliseconds, or never again for 0.
pub fn alarm_in_ms(ms: u32) {
    set_timer(ms, 0);
}

/// Sends this process a SIGALRM every so many milliseconds, or never again for 0.
pub fn alarm_every_ms(ms: u32) {
    set_timer(ms, ms);
}

fn set_timer(first: u32, interval: u32) {
    let time = |ms: u32| libc::timeval {
        tv_sec: (ms / 1000).into(),
        tv_usec: (ms % 1000 * 1000).into(),
    };
    let timer = libc::itimerval {
        it_value: time(first),
        it_interval: time(interval),
    };
    // SAFETY: The call reads the structure.
    let result = unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) };
    assert_eq!(result, 0, "setitimer");
}
