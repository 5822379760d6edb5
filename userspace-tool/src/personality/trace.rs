// SPDX-License-Identifier: GPL-2.0

//! Printing system calls as they are made, for a person, or for who learns from them.
//!
//! The shape of a call in the table says how its arguments are printed, a letter each: `d` a signed
//! and `u` an unsigned number, `x` a hexadecimal one, `o` an octal one, `f` a descriptor, `@` a
//! directory's descriptor, `s` a string. A shape that ends in `>x` has a hexadecimal result.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use super::{learning, table, Args, Fate, Fds};
use crate::errno::{Errno, SysResult};
use crate::learn::Seen;
use crate::memory::Memory;
use crate::signal::own_tid;
use crate::sync::Lock;
use crate::task::Task;

/// How much of a string is printed.
const STRING: usize = 200;

/// The longest line that others' do not get into.
const LINE: usize = libc::PIPE_BUF;

/// Where calls are printed to.
#[derive(Clone, Debug)]
pub struct Trace {
    output: Arc<File>,
    /// The thread that the prints without its number are about.
    first: i32,
    /// What was told by now, if something is learnt from it.
    told: Option<Arc<Lock<HashSet<String>>>>,
}

/// What is known of a call before it is made.
pub(crate) enum Noted {
    Text(String),
    Seen(Vec<Seen>),
}

impl Trace {
    /// Prints for a person: each call with its arguments and its result.
    pub fn text(output: File) -> Self {
        Self {
            output: Arc::new(output),
            first: own_tid(),
            told: None,
        }
    }

    /// Prints for `uvctl learn`: what succeeded, as lines of JSON, each of them once by each process.
    pub fn learning(output: File) -> Self {
        Self {
            told: Some(Arc::default()),
            ..Self::text(output)
        }
    }

    /// The same, with a descriptor of the broker's own.
    pub(crate) fn keep(self, fds: &Fds) -> SysResult<Self> {
        let output = Arc::new(fds.own(self.output.as_fd())?.into());
        Ok(Self { output, ..self })
    }

    /// What there is to know of a call now: afterwards its arguments may be gone.
    pub(crate) fn note(&self, task: &Task, number: u64, args: &Args) -> Noted {
        match self.told {
            None => Noted::Text(describe(&task.memory, number, args)),
            Some(_) => Noted::Seen(learning::seen(task, number, args)),
        }
    }

    /// Prints a call and its result. A call that did not come back has no result.
    pub(crate) fn print(&self, noted: &Noted, number: u64, result: Option<SysResult>) {
        match noted {
            Noted::Text(text) => self.print_text(text, number, result),
            Noted::Seen(seen) => {
                let failed = matches!(result, Some(Err(_)));
                let wanted = |one: &&Seen| !failed || matches!(one, Seen::Call { .. });
                for one in seen.iter().filter(wanted) {
                    self.tell(one);
                }
            }
        }
    }

    fn print_text(&self, text: &str, number: u64, result: Option<SysResult>) {
        let result = match result {
            None => "?".to_owned(),
            Some(result) => outcome(number, result),
        };
        let who = match own_tid() {
            tid if tid == self.first => String::new(),
            tid => format!("[{tid}] "),
        };
        // There is nobody to tell that the trace cannot be written.
        let _ = (&*self.output).write_all(format!("{who}{text} = {result}\n").as_bytes());
    }

    /// Prints what is learnt from.
    fn tell(&self, one: &Seen) {
        let Some(told) = &self.told else {
            return;
        };
        let Ok(mut line) = serde_json::to_string(one) else {
            return;
        };
        line.push('\n');
        let mut told = told.lock();
        if line.len() <= LINE && told.insert(line.clone()) {
            // As above.
            let _ = (&*self.output).write_all(line.as_bytes());
        }
    }
}

impl AsRawFd for Trace {
    fn as_raw_fd(&self) -> RawFd {
        self.output.as_raw_fd()
    }
}

/// Whether a number is that of `mmap`.
fn is_mmap(number: u64) -> bool {
    number == libc::SYS_mmap as u64
}

/// A result in words.
fn outcome(number: u64, result: SysResult) -> String {
    let call = table::find(number);
    match result {
        Ok(value) if call.is_some_and(|call| call.shape.ends_with(">x")) => format!("{value:#x}"),
        Ok(value) => format!("{}", value as i64),
        Err(errno) => {
            let mut text = format!("-1 {errno}");
            match call.map(|call| call.fate) {
                None if errno == Errno::ENOSYS => {
                    text.push_str(" [unserved]");
                }
                Some(Fate::Refused(_, why)) => {
                    // Writing to a string cannot fail.
                    let _ = write!(text, " [refused: {why}]");
                }
                // What is read-only for the task need not be so for its user.
                _ if errno == Errno::EROFS => text.push_str(" [see --rw]"),
                Some(Fate::Served(_)) if errno == Errno::ENODEV && is_mmap(number) => {
                    text.push_str(
                        " [only files in memory can be mapped shared, written and executed]",
                    );
                }
                _ => {}
            }
            text
        }
    }
}

/// A call with its arguments in words.
fn describe(memory: &Memory, number: u64, args: &Args) -> String {
    let Some(call) = table::find(number) else {
        return format!("syscall_{number}()");
    };
    let shape = call.shape.split('>').next().unwrap_or_default();
    let arguments: Vec<String> = shape
        .chars()
        .zip(args)
        .map(|(kind, &value)| argument(memory, kind, value))
        .collect();
    format!("{}({})", call.name, arguments.join(", "))
}

/// An argument in words.
fn argument(memory: &Memory, kind: char, value: u64) -> String {
    match kind {
        'd' => format!("{}", value as i64),
        'f' => format!("{}", value as i32),
        'u' => format!("{value}"),
        'o' if value != 0 => format!("0{value:o}"),
        '@' if value as i32 == libc::AT_FDCWD => "AT_FDCWD".into(),
        '@' => format!("{}", value as i32),
        's' => string(memory, value),
        _ if value == 0 => "0".into(),
        _ => format!("{value:#x}"),
    }
}

/// A string of the guest's, quoted.
fn string(memory: &Memory, address: u64) -> String {
    match memory.text(address, 4096, Errno::ENAMETOOLONG) {
        Err(_) if address == 0 => "NULL".into(),
        Err(_) => format!("{address:#x}"),
        Ok(text) => {
            let bytes = text.as_bytes();
            let shown = bytes.get(..STRING).unwrap_or(bytes);
            let rest = if shown.len() < bytes.len() { "..." } else { "" };
            // Escaped: a path must not be able to write to the terminal.
            format!("\"{}\"{rest}", shown.escape_ascii())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::memory;

    #[test]
    fn prints_arguments_by_their_shape() {
        let memory = memory(8192);
        memory.write(0x100, b"/etc/\x1b[31m\0").unwrap();
        let cwd = libc::AT_FDCWD as u64;
        let text = describe(&memory, 257, &[cwd, 0x100, 0x80000, 0, 0, 0]);
        assert_eq!(text, "openat(AT_FDCWD, \"/etc/\\x1b[31m\", 0x80000, 0)");
        assert_eq!(describe(&memory, 9999, &[0; 6]), "syscall_9999()");
    }

    #[test]
    fn names_what_is_unserved_and_refused() {
        assert_eq!(outcome(0, Ok(5)), "5");
        assert_eq!(outcome(9, Ok(0x1000)), "0x1000");
        assert!(outcome(9999, Err(Errno::ENOSYS)).ends_with("[unserved]"));
        assert!(outcome(165, Err(Errno::EPERM)).contains("[refused: "));
        assert!(outcome(83, Err(Errno::EROFS)).ends_with("[see --rw]"));
        assert!(outcome(9, Err(Errno::ENODEV)).contains("only files in memory"));
    }
}
