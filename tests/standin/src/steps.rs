// SPDX-License-Identifier: GPL-2.0

//! The steps of an attack, each with what came of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr;
use std::time::Duration;

/// The most processes that a document can ask for.
const PROCESSES: usize = 1000;

/// `mov eax, 42; ret`.
const CODE: [u8; 6] = [0xb8, 42, 0, 0, 0, 0xc3];

const PAGE: usize = 4096;

/// Takes a step, and says what came of it.
pub(crate) fn take(step: &str) -> String {
    let (name, argument) = step.split_once(' ').unwrap_or((step, ""));
    let argument = argument.trim();
    let result = match name {
        "read" => read(argument),
        "write" => write(argument),
        "connect" => connect(argument),
        "fork" => fork(argument),
        "heap" => heap(),
        "code" => code(),
        _ => Err(io::Error::other("there is no such step")),
    };
    result.unwrap_or_else(|error| format!("failed: {error}"))
}

/// A path, in which `~/` is the home directory of root, whatever the environment says.
fn path(text: &str) -> PathBuf {
    match text.strip_prefix("~/") {
        Some(rest) => PathBuf::from("/root").join(rest),
        None => text.into(),
    }
}

fn read(text: &str) -> io::Result<String> {
    let bytes = fs::read(path(text))?;
    Ok(format!("SUCCEEDED: {} bytes", bytes.len()))
}

fn write(text: &str) -> io::Result<String> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path(text))?;
    file.write_all(b"# written by the stand-in for an exploit\n")?;
    Ok("SUCCEEDED".into())
}

fn connect(text: &str) -> io::Result<String> {
    let address: SocketAddr = text.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.write_all(b"what it found\n")?;
    Ok("SUCCEEDED: sent".into())
}

/// Has processes that do nothing, and ends them.
fn fork(text: &str) -> io::Result<String> {
    let wanted = text.parse().unwrap_or(PROCESSES).min(PROCESSES);
    let mut children = Vec::new();
    let mut error = None;
    while children.len() < wanted {
        // SAFETY: There is one thread, as `main` has not begun; the child does nothing but wait.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: It waits for a signal.
                unsafe { libc::pause() };
            },
            -1 => {
                error = Some(io::Error::last_os_error());
                break;
            }
            child => children.push(child),
        }
    }
    for child in &children {
        // SAFETY: It is a child of ours, which nobody has waited for.
        unsafe { libc::kill(*child, libc::SIGKILL) };
    }
    for child in &children {
        // SAFETY: As above; its status goes nowhere.
        unsafe { libc::waitpid(*child, ptr::null_mut(), 0) };
    }
    Ok(match error {
        None => format!("SUCCEEDED: {} processes at a time", children.len()),
        Some(error) => format!("ended at {} processes: {error}", children.len()),
    })
}

/// Writes code to memory, makes that executable, and runs it.
fn heap() -> io::Result<String> {
    let writable = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: It is a mapping of its own, at a place of the kernel's choice.
    let memory = unsafe { libc::mmap(ptr::null_mut(), PAGE, writable, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The mapping has a page, which nothing else uses.
    unsafe { ptr::copy_nonoverlapping(CODE.as_ptr(), memory.cast(), CODE.len()) };
    run(memory, libc::PROT_READ | libc::PROT_EXEC)
}

/// Maps code of the program's own, changes it, and runs it.
fn code() -> io::Result<String> {
    let program = File::open("/proc/self/exe")?;
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: It is a mapping of its own, at a place of the kernel's choice.
    let memory = unsafe {
        let flags = libc::MAP_PRIVATE;
        libc::mmap(
            ptr::null_mut(),
            PAGE,
            executable,
            flags,
            program.as_raw_fd(),
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let all = executable | libc::PROT_WRITE;
    // SAFETY: Nothing else uses the mapping.
    if unsafe { libc::mprotect(memory, PAGE, all) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: As above, and it may be written now.
    unsafe { ptr::copy_nonoverlapping(CODE.as_ptr(), memory.cast(), CODE.len()) };
    run(memory, all)
}

/// Runs what is at a place, when it is executable.
fn run(memory: *mut libc::c_void, prot: i32) -> io::Result<String> {
    // SAFETY: It is a page that this attack has for itself.
    if unsafe { libc::mprotect(memory, PAGE, prot) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: A function is there that takes nothing, gives a number, and changes no register that it must keep.
    let function: extern "C" fn() -> i32 = unsafe { std::mem::transmute(memory) };
    Ok(format!("SUCCEEDED: it gave {}", function()))
}
