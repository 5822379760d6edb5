// SPDX-License-Identifier: GPL-2.0

//! Attacks: what a hostile program tries. Each says whether it got what it was after, or what stopped it.

use std::ffi::CString;
use std::io::{Error, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::world::World;
use crate::{files, memory, outside};

/// What stopped an attack.
pub type Outcome = Result<(), String>;

/// Something to try.
pub struct Attack {
    /// What it is called.
    pub name: &'static str,
    /// What it tries.
    pub what: &'static str,
    /// Tries it.
    pub run: fn(&World) -> Outcome,
}

/// A list of attacks, each by the name of its function.
macro_rules! attacks {
    ($(#[$doc:meta])* $list:ident: $($name:ident: $what:literal;)*) => {
        $(#[$doc])*
        pub const $list: &[Attack] = &[$(Attack {
            name: stringify!($name),
            what: $what,
            run: $name,
        }),*];
    };
}
pub(crate) use attacks;

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    let lists = [files::ATTACKS, outside::ATTACKS, memory::ATTACKS];
    lists.into_iter().flatten()
}

/// What a call of C's comes to that returns -1 for an error.
pub fn check(value: i64) -> Result<i64, String> {
    match value {
        -1 => Err(name(&Error::last_os_error())),
        value => Ok(value),
    }
}

/// The name of an error.
pub fn name(error: &Error) -> String {
    let number = error.raw_os_error();
    let errno = number.map(|number| uvisor::errno::Errno::from(Error::from_raw_os_error(number)));
    match errno.and_then(|errno| errno.name()) {
        Some(name) => name.to_owned(),
        None => error.to_string(),
    }
}

/// A system call with numbers, and addresses of memory of the caller's.
pub fn syscall(number: i64, args: [u64; 6]) -> Result<i64, String> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: The callers pass numbers, and addresses of memory of theirs that is large enough.
    check(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

/// A path, for a system call.
pub fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path of ours has no NUL")
}

/// Maps something; where.
pub fn map(prot: i32, flags: i32, fd: i32) -> Result<u64, String> {
    let address = syscall(
        libc::SYS_mmap,
        [0, 4096, prot as u64, flags as u64, fd as i64 as u64, 0],
    )?;
    Ok(address as u64)
}

/// Tells an outcome on standard output.
pub fn tell(name: &str, outcome: &Outcome) {
    let text = match outcome {
        Ok(()) => "done",
        Err(why) => why,
    };
    let mut output = std::io::stdout();
    // Whoever reads it misses it otherwise.
    let _ = writeln!(output, "{name} {text}");
    let _ = output.flush();
}
