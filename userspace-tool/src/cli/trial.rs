// SPDX-License-Identifier: GPL-2.0

//! The sandbox of brokers, entered in a process that is there for that alone: what the host lacks for it.

use std::fs::File;
use std::io::{Read, Write};

use uvisor::profile::Rules;
use uvisor::sandbox::{enter, Options, Sockets};

/// What a broker of this user would go without, a sentence each; or why there is no sandbox at all.
pub(super) fn lacks() -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let (reader, writer) = rustix::pipe::pipe().map_err(|error| failed(error.into()))?;
    // SAFETY: This process has one thread, so its copy is whole.
    match unsafe { libc::fork() } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        0 => {
            drop(reader);
            let options = Options {
                sockets: Sockets::Ready,
                ..Options::default()
            };
            let text = match enter(&Rules::default(), &options) {
                Ok(report) => {
                    let all = report.lacks.iter();
                    let lines = all.map(|lack| format!("{}: {}\n", lack.layer, lack.what));
                    lines.collect::<Vec<_>>().concat()
                }
                Err(error) => format!("!{error}"),
            };
            // Whoever reads it gets an end without an answer otherwise.
            let _ = File::from(writer).write_all((text + "\0").as_bytes());
            // SAFETY: It does not return, and touches no memory.
            unsafe { libc::_exit(0) }
        }
        pid => {
            drop(writer);
            let mut text = String::new();
            let read = File::from(reader).read_to_string(&mut text);
            // SAFETY: It is the child that was just made, and nobody is told its status.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
            read.map_err(failed)?;
            let text = text.strip_suffix('\0').ok_or("it was ended under way")?;
            match text.strip_prefix('!') {
                Some(error) => Err(error.to_owned()),
                None => Ok(text.lines().map(str::to_owned).collect()),
            }
        }
    }
}
