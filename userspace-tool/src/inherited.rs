// SPDX-License-Identifier: GPL-2.0

//! What a process has from who started it: descriptors and an environment. A broker keeps of them what its task is
//! given, so that who takes it over finds no more.

use std::ffi::{c_char, CStr, OsStr};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use thiserror::Error;

use crate::errno::Errno;
use crate::process::split_stat;
use crate::profile::EnvironmentRules;

extern "C" {
    /// C's environment.
    static mut environ: *mut *mut c_char;
}

/// Why not all of it could be given up.
#[derive(Debug, Error)]
pub enum InheritedError {
    /// Which descriptors there are.
    #[error("cannot list the descriptors that are open: {0}; is /proc mounted?")]
    Descriptors(std::io::Error),
    /// Where the environment is.
    #[error("cannot tell where the environment is: {0}; is /proc mounted?")]
    Environment(Errno),
}

/// Closes the descriptors from 3 on that this process was started with: those that an `execve` does not close, as
/// nothing of this program's opens any.
pub(crate) fn close_descriptors() -> Result<(), InheritedError> {
    let failed = InheritedError::Descriptors;
    let mut found: Vec<RawFd> = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    for fd in found.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: It takes numbers.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: No file of this program's has it, or it would be closed by an `execve`.
            unsafe { libc::close(fd) };
        }
    }
    Ok(())
}

/// Overwrites all variables of this process's environment that are not kept: in the strings that C has, and in those
/// that the kernel put on the stack, which `/proc` shows.
///
/// The process has one thread.
pub(crate) fn forget_variables(rules: &EnvironmentRules) -> Result<(), InheritedError> {
    let is_kept = |variable: &[u8]| {
        let name = variable.split(|&byte| byte == b'=').next();
        let name = OsStr::from_bytes(name.unwrap_or_default());
        rules.keeps(name) && !rules.set.contains_key(name)
    };
    let (start, end) = initial().map_err(InheritedError::Environment)?;
    // SAFETY: Nobody else looks at the environment meanwhile. Its strings are writable: the kernel's are on the stack, and
    // C's are in its heap.
    unsafe {
        forget_listed(&is_kept);
        forget_initial(start, end, &is_kept);
    }
    Ok(())
}

/// Overwrites what C's environment has, and takes it out of that.
///
/// # Safety
///
/// Nobody else uses the environment meanwhile, and its strings can be written.
unsafe fn forget_listed(is_kept: &dyn Fn(&[u8]) -> bool) {
    // SAFETY: It is null, or a list that ends in a null pointer; what is behind a pointer is a string. By the caller's
    // promise, all of that may be changed.
    unsafe {
        let mut from = environ;
        let mut to = from;
        while !from.is_null() && !(*from).is_null() {
            let variable = *from;
            let bytes = CStr::from_ptr(variable).to_bytes();
            match is_kept(bytes) {
                true => {
                    *to = variable;
                    to = to.add(1);
                }
                false => overwrite(variable.cast(), bytes.len()),
            }
            from = from.add(1);
        }
        if !to.is_null() {
            *to = ptr::null_mut();
        }
    }
}

/// Overwrites what the kernel left at the start, whatever became of C's environment since.
///
/// # Safety
///
/// There is memory from `start` to `end`, which can be written and which nobody else uses meanwhile.
unsafe fn forget_initial(start: usize, end: usize, is_kept: &dyn Fn(&[u8]) -> bool) {
    let mut at = start;
    while at < end {
        // SAFETY: It is within the memory of the caller's promise; the slice is not used when that is written.
        let rest = unsafe { std::slice::from_raw_parts(at as *const u8, end - at) };
        let len = rest.iter().position(|&byte| byte == 0);
        let len = len.unwrap_or(rest.len());
        if !is_kept(&rest[..len]) {
            // SAFETY: As above.
            unsafe { overwrite(at as *mut u8, len) };
        }
        at += len + 1;
    }
}

/// Writes zeros, which the compiler must not leave out.
///
/// # Safety
///
/// There are `len` bytes, which nobody else uses meanwhile.
unsafe fn overwrite(at: *mut u8, len: usize) {
    for offset in 0..len {
        // SAFETY: By the caller's promise.
        unsafe { at.add(offset).write_volatile(0) };
    }
}

/// From where to where the strings are that the kernel made the environment of.
fn initial() -> Result<(usize, usize), Errno> {
    let text = std::fs::read("/proc/self/stat")?;
    let (_, rest) = split_stat(&text).ok_or(Errno::EINVAL)?;
    let rest = std::str::from_utf8(rest).map_err(|_| Errno::EINVAL)?;
    // `env_start` is the 50th, and the first here the 3rd.
    let mut fields = rest.split_ascii_whitespace().skip(47);
    let mut next = || -> Result<usize, Errno> {
        let field = fields.next().ok_or(Errno::EINVAL)?;
        field.parse().map_err(|_| Errno::EINVAL)
    };
    Ok((next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// What a test of this crate finds in its own memory, in a process of its own.
    const TEST: &str = "inherited::tests::what_a_process_has_is_given_up";

    fn own_memory_has(text: &[u8]) -> bool {
        let initial = std::fs::read("/proc/self/environ").unwrap();
        let listed = std::env::vars_os().map(|(name, value)| {
            [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat()
        });
        let has = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text);
        has(&initial) || listed.into_iter().any(|variable| has(&variable))
    }

    #[test]
    fn what_a_process_has_is_given_up() {
        if std::env::var_os("UVISOR_TEST_SECRET").is_none() {
            // Descriptor 9 is open in it by accident.
            let own = std::env::current_exe().unwrap();
            let mut command = Command::new("sh");
            command
                .args([
                    "-c",
                    "exec \"$0\" --exact --test-threads=1 \"$1\" 9</dev/null",
                ])
                .arg(own)
                .arg(TEST)
                .env("UVISOR_TEST_SECRET", "the secret")
                .env("UVISOR_TEST_KEPT", "the kept");
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{text}"
            );
            return;
        }
        // One that a program set is in the heap.
        std::env::set_var("UVISOR_TEST_SET", "the set");
        let rules = EnvironmentRules {
            keep: vec!["UVISOR_TEST_KEPT".into(), "PATH".into()],
            ..EnvironmentRules::default()
        };
        for text in ["the secret", "the set", "the kept"] {
            assert!(own_memory_has(text.as_bytes()), "{text} before");
        }
        forget_variables(&rules).unwrap();
        assert!(!own_memory_has(b"the secret"));
        assert!(!own_memory_has(b"the set"));
        assert!(own_memory_has(b"the kept"));
        assert!(std::env::var_os("PATH").is_some());
        assert_eq!(std::env::vars_os().count(), 2);

        let own = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: It takes numbers.
        let is_open = |fd: RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
        assert!(is_open(9));
        close_descriptors().unwrap();
        assert!(!is_open(9));
        assert!(is_open(std::os::fd::AsRawFd::as_raw_fd(&own)) && is_open(2));
    }
}
