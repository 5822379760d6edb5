// SPDX-License-Identifier: GPL-2.0

//! `uvctl run`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use uvisor::loader::Program;
use uvisor::task::{Access, End, Options, Policy, Task, TaskError};
use uvisor::template::directory::Directory;
use uvisor::template::{Resume, TemplateError};
use uvisor::{Device, Event, Stats};

use super::cgroup::Cgroup;
use super::{relay, Net, Run};

/// Whether SIGPIPE was ignored when the process started: the Rust runtime ignores it before `main`.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Notes it before the runtime starts.
extern "C" fn note_sigpipe() {
    PIPE_IGNORED.store(uvisor::task::is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

#[used]
#[link_section = ".init_array"]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

impl From<Net> for Policy {
    fn from(net: Net) -> Self {
        match net {
            Net::None => Self::None,
            Net::Host => Self::Host,
        }
    }
}

/// Reads a size with a suffix.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" | "k" | "KiB" => 10,
        "M" | "m" | "MiB" => 20,
        "G" | "g" | "GiB" => 30,
        suffix => return Err(format!("{suffix} is no unit; K, M and G are")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size is a number, with K, M or G behind it or not".to_owned())?;
    number
        .checked_mul(1 << shift)
        .filter(|&bytes| bytes >= uvisor::PAGE_SIZE)
        .ok_or_else(|| "the size must be at least a page, and less than 2^64".to_owned())
}

/// Runs a program; returns its status.
pub(crate) fn main(run: Run) -> ExitCode {
    close_inherited();
    let access = match Access::new(&run.rw) {
        Ok(access) => Arc::new(access),
        Err(error) => {
            eprintln!("uvctl: {error}");
            return ExitCode::from(super::FAILURE);
        }
    };
    if run.tty {
        match relay::part() {
            Ok(relay::Side::Broker) => {}
            Ok(relay::Side::Ended(status)) => return ExitCode::from(relay::exit_status(status)),
            Err(error) => {
                eprintln!("uvctl: cannot make a terminal for the program: {error}");
                return ExitCode::from(super::FAILURE);
            }
        }
    }
    match execute(&run, access) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("uvctl: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// What a task may touch besides itself.
#[derive(Debug)]
pub(crate) struct Grants {
    /// The network.
    pub(crate) network: Policy,
    /// The files that it may change.
    pub(crate) access: Arc<Access>,
    /// How many processes and threads it may have.
    pub(crate) pids: u32,
}

impl Default for Grants {
    fn default() -> Self {
        Self {
            network: Policy::default(),
            access: Arc::default(),
            pids: super::PIDS,
        }
    }
}

/// Puts the program of a command line into a micro-VM.
pub(crate) fn start(
    command: &[OsString],
    memory_limit: Option<u64>,
    no_aslr: bool,
    trace: bool,
    grants: Grants,
) -> Result<Task, TaskError> {
    let empty = OsString::new();
    let options = Options {
        environment: std::env::vars_os().map(variable).collect(),
        memory_limit: memory_limit.unwrap_or(0),
        pids: grants.pids,
        aslr: !no_aslr && !randomisation_is_off(),
        trace: trace.then(stderr),
        pipe_ignored: PIPE_IGNORED.load(Ordering::Relaxed),
        network: grants.network,
        access: grants.access,
    };
    // The command line has at least a program in it.
    let (program, arguments) = command.split_first().unwrap_or((&empty, &[]));
    let found = Program::find(program, &bytes(arguments))?;
    let device = Device::open().map_err(TaskError::from)?;
    Task::new(device, found, options)
}

/// Goes on with the template `name`.
pub(crate) fn resume(
    name: &str,
    arguments: &[OsString],
    memory_limit: Option<u64>,
    trace: bool,
    grants: Grants,
) -> Result<Task, TemplateError> {
    let name = name.parse()?;
    let template = Directory::open()?.get(&name)?;
    template.resume(Resume {
        arguments: bytes(arguments),
        memory_limit,
        pids: grants.pids,
        trace: trace.then(stderr),
        pipe_ignored: PIPE_IGNORED.load(Ordering::Relaxed),
        network: grants.network,
        access: grants.access,
    })
}

/// Arguments as programs get them.
fn bytes(arguments: &[OsString]) -> Vec<Vec<u8>> {
    let all = arguments.iter();
    all.map(|argument| argument.as_bytes().to_vec()).collect()
}

/// Runs a program and says what there is to say.
fn execute(run: &Run, access: Arc<Access>) -> Result<u8, TemplateError> {
    // Where it cannot be had, `doctor` says so: the module's limit holds in any case.
    let _cgroup = run.memory.and_then(|bytes| Cgroup::enter(bytes).ok());
    let trace = run.trace_syscalls;
    let grants = Grants {
        network: run.net.into(),
        access,
        pids: run.pids,
    };
    let (mut task, name) = match &run.from {
        Some(name) => {
            let task = resume(name, &run.command, run.memory, trace, grants)?;
            (task, name.clone())
        }
        None => {
            let task = start(&run.command, run.memory, run.no_aslr, trace, grants)?;
            let program = run.command.first().map(|name| name.to_string_lossy());
            (task, program.unwrap_or_default().into_owned())
        }
    };
    // From here on the descriptors 0 to 2 are the task's, which may close or replace them.
    let mut console = task.own_fd(io::stderr().as_fd())?;
    if run.tty {
        task.end_with_parent();
    }
    if run.stats {
        task.count_all()?;
    }
    let result = task.run();
    if run.stats {
        let stats = task.stats().map_err(TaskError::from)?;
        let text = match run.json {
            true => json(&stats),
            false => table(&stats),
        };
        // There is nobody left to tell if that fails.
        let _ = console.write_all(text.as_bytes());
    }
    let end = match result {
        Ok(end) => end,
        Err(error) => {
            let _ = writeln!(console, "uvctl: {name}: {error}");
            return Ok(error.status());
        }
    };
    let _ = match &end {
        End::Exit(_) | End::Signal(_) => Ok(()),
        End::Fault(signal, what) => writeln!(
            console,
            "uvctl: {name} was ended by {}: {what}",
            signal_name(*signal)
        ),
        End::MemoryLimit => writeln!(
            console,
            "uvctl: {name} was killed: it reached its memory limit, {}",
            match task.memory_limit() {
                0 => "that of its memory cgroup".into(),
                bytes => format!("{bytes} bytes (--memory)"),
            }
        ),
    };
    Ok(end.status())
}

/// Closes all descriptors but standard input, output and error: the rest is not for the task.
pub(crate) fn close_inherited() {
    // SAFETY: Nothing in this process has opened a descriptor yet that it goes on using.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
}

/// Whether this process is to run without address randomisation (`setarch -R`).
fn randomisation_is_off() -> bool {
    // SAFETY: With this argument it only asks.
    let personality = unsafe { libc::personality(0xffff_ffff) };
    personality >= 0 && personality & libc::ADDR_NO_RANDOMIZE != 0
}

/// A handle on standard error.
pub(crate) fn stderr() -> File {
    // SAFETY: It takes a number; whether that is open it says itself.
    let fd = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        // Without a standard error the trace goes nowhere.
        return File::options()
            .write(true)
            .open("/dev/null")
            .unwrap_or_else(|_| std::process::exit(super::FAILURE.into()));
    }
    // SAFETY: The kernel just made this descriptor for us.
    unsafe { File::from_raw_fd(fd) }
}

/// An environment variable as programs get it.
fn variable((name, value): (OsString, OsString)) -> Vec<u8> {
    let mut bytes = name.into_vec();
    bytes.push(b'=');
    bytes.extend(value.into_vec());
    bytes
}

/// The name of a signal that ends tasks.
fn signal_name(signal: i32) -> String {
    let name = match signal {
        libc::SIGILL => "SIGILL (illegal instruction)",
        libc::SIGTRAP => "SIGTRAP (trap)",
        libc::SIGBUS => "SIGBUS (bus error)",
        libc::SIGFPE => "SIGFPE (arithmetic exception)",
        libc::SIGSEGV => "SIGSEGV (segmentation fault)",
        _ => return format!("signal {signal}"),
    };
    name.into()
}

/// The sizes in statistics.
fn sizes(stats: &Stats) -> [(&'static str, u64); 4] {
    [
        ("private_bytes", stats.private),
        ("file_bytes", stats.file),
        ("table_bytes", stats.tables),
        ("regions", stats.regions.into()),
    ]
}

/// The statistics for a person.
fn table(stats: &Stats) -> String {
    let events = Event::NAMES.into_iter().zip(stats.events);
    sizes(stats)
        .into_iter()
        .chain(events.filter(|(_, count)| *count > 0))
        .map(|(name, count)| format!("{name:<18} {count:>12}\n"))
        .collect::<Vec<_>>()
        .concat()
}

/// The statistics for a program.
fn json(stats: &Stats) -> String {
    let events = Event::NAMES.into_iter().zip(stats.events);
    let map: serde_json::Map<_, _> = sizes(stats)
        .into_iter()
        .chain(events)
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
    format!("{}\n", serde_json::Value::Object(map))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64M"), Ok(64 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for text in ["", "M", "1", "1T", "-1", "1.5G", "99999999999G"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn statistics_have_both_forms() {
        let mut stats = Stats::new();
        stats.private = 8192;
        stats.events[Event::Entry as usize] = 7;
        assert!(table(&stats).contains("private_bytes              8192\n"));
        let parsed: serde_json::Value = serde_json::from_str(&json(&stats)).unwrap();
        assert_eq!(parsed["entries"], 7);
        assert_eq!(parsed["ibpb"], 0);
    }
}
