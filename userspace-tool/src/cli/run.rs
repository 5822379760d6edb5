// SPDX-License-Identifier: GPL-2.0

//! `uvctl run`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use uvisor::audit::{text, Outlet, What};
use uvisor::changes::Making;
use uvisor::loader::Program;
use uvisor::personality::Trace;
use uvisor::profile::{LimitRules, Rules};
use uvisor::sandbox::{Kept, Layer};
use uvisor::task::{End, Options, Task, TaskError};
use uvisor::template::directory::Directory;
use uvisor::template::{Resume, TemplateError};
use uvisor::{Device, Event, Stats};

use super::audit::Prepared;
use super::cgroup::{self, Cgroup};
use super::confinement::Confinement;
use super::steward::{self, Duties};
use super::{apart, keep, privileges, relay, Run};

/// Whether SIGPIPE was ignored when the process started: the Rust runtime ignores it before `main`.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);

/// Notes it before the runtime starts.
extern "C" fn note_sigpipe() {
    PIPE_IGNORED.store(uvisor::task::is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

#[used]
#[link_section = ".init_array"]
static NOTE_SIGPIPE: extern "C" fn() = note_sigpipe;

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// What it may touch cannot be said, or enforced.
    #[error("{0}")]
    Privileges(String),
    /// It cannot be started.
    #[error(transparent)]
    Start(#[from] TemplateError),
}

impl From<TaskError> for RunError {
    fn from(error: TaskError) -> Self {
        Self::Start(error.into())
    }
}

impl RunError {
    /// The status of `uvctl` for it.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Privileges(_) => super::FAILURE,
            Self::Start(error) => error.status(),
        }
    }
}

/// Runs a program; returns its status.
pub(crate) fn main(run: &Run) -> ExitCode {
    close_inherited();
    let failed = |error: String| {
        eprintln!("uvctl: {error}");
        ExitCode::from(super::FAILURE)
    };
    let (rules, making) = match prepare(run) {
        Ok(ready) => ready,
        Err(error) => return failed(error),
    };
    let mut audit = match run.audit.prepare(&rules) {
        Ok(audit) => audit,
        Err(error) => return failed(error),
    };
    if let Some(made) = making.as_ref().filter(|_| run.keep.commit) {
        let name = made.name.clone();
        let parted = apart::part().map(|broker| {
            broker.map(|broker| {
                // What tells events is for the broker alone.
                drop(audit.take());
                apart::wait(broker)
            })
        });
        match parted.and_then(Option::transpose) {
            Ok(None) => {}
            Ok(Some(status)) => {
                // Its lock is to be had by who commits.
                drop(making);
                return ExitCode::from(run.keep.settle(&name, status));
            }
            Err(error) => return failed(format!("cannot start a process: {error}")),
        }
    }
    let outlet = match audit.map(Prepared::part).transpose() {
        Ok(None) => None,
        Ok(Some(Ok(outlet))) => Some(outlet),
        Ok(Some(Err(status))) => return ExitCode::from(status),
        Err(error) => return failed(format!("cannot start the audit's process: {error}")),
    };
    if run.tty {
        match relay::part() {
            Ok(relay::Side::Broker) => {}
            Ok(relay::Side::Ended(status)) => return ExitCode::from(relay::exit_status(status)),
            Err(error) => {
                return failed(format!("cannot make a terminal for the program: {error}"));
            }
        }
    }
    let name = making.as_ref().map(|made| made.name.clone());
    match execute(run, rules, making, outlet) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            name.iter().for_each(keep::forget);
            eprintln!("uvctl: {error}");
            ExitCode::from(error.status())
        }
    }
}

/// What the task may touch, and where its changes go that are to be there afterwards.
fn prepare(run: &Run) -> Result<(Rules, Option<Making>), String> {
    let rules = run.privileges.rules()?;
    let first = rules.files.overlays().next();
    if let (Some(_), Some(path)) = (&run.from, first) {
        return Err(format!(
            "{}: a run from a template can have no overlay, as what a template has open is the host's",
            path.display()
        ));
    }
    let making = run.keep.prepare(&rules, &run.command)?;
    Ok((rules, making))
}

/// A program to start, and what is to be seen of it.
pub(crate) struct Start<'a> {
    /// The program and its arguments.
    pub(crate) command: &'a [OsString],
    /// Whether its parts are placed at the same addresses each time.
    pub(crate) no_aslr: bool,
    /// Where its system calls are printed.
    pub(crate) trace: Option<Trace>,
    /// The overlays whose changes are kept.
    pub(crate) kept: Vec<Kept>,
}

/// Puts a program into a micro-VM, by `rules`, which do not know it yet. The layers of the sandbox that are
/// `confined` are entered before.
pub(crate) fn start(
    start: Start<'_>,
    mut rules: Rules,
    confinement: &Confinement,
) -> Result<Task, RunError> {
    let empty = OsString::new();
    // The command line has at least a program in it.
    let (name, arguments) = start.command.split_first().unwrap_or((&empty, &[]));
    let arguments = bytes(arguments);
    let mut program = Program::find(name, &arguments).map_err(TaskError::from)?;
    privileges::allow_program(&mut rules, &program).map_err(RunError::Privileges)?;
    let device = Device::open().map_err(TaskError::from)?;
    if confinement.is_required() && rules.execute_only && !device.has_execute_only() {
        let what =
            "--require: the CPU has no memory that is executed and not read (memory.execute_only)";
        return Err(RunError::Privileges(what.into()));
    }
    let limits = rules.limits;
    let mut confined = confinement.enter(rules, &start.kept)?;
    // From here on its descriptors would be the task's.
    drop(start.kept);
    if confined.report.entered.has(Layer::Root) {
        // What was open is of the host's root. The variable by which it was found may be gone.
        let words: Vec<_> = std::iter::once(name.as_bytes().to_vec())
            .chain(arguments)
            .collect();
        program = Program::at(&program.name, &words).map_err(TaskError::from)?;
    }
    let options = Options {
        environment: std::mem::take(&mut confined.environment)
            .into_iter()
            .map(variable)
            .collect(),
        memory_limit: limits.memory.unwrap_or(0),
        pids: limits.pids.unwrap_or(0),
        aslr: !start.no_aslr && !randomisation_is_off(),
        trace: start.trace,
        pipe_ignored: PIPE_IGNORED.load(Ordering::Relaxed),
        confined,
    };
    let mut task = Task::new(device, program, options)?;
    limit_exits(&mut task, &name.to_string_lossy(), limits.exits)?;
    Ok(task)
}

/// Goes on with the template `name`, by `rules`.
pub(crate) fn resume(
    name: &str,
    arguments: &[OsString],
    trace: Option<Trace>,
    rules: Rules,
    confinement: &Confinement,
) -> Result<Task, RunError> {
    let name = name.parse()?;
    let template = Directory::open()?.get(&name)?;
    let device = Device::open().map_err(TaskError::from)?;
    let limits = rules.limits;
    // What is open in a template was opened in the host's root, and its paths are those of that.
    let confined = confinement.but_the_root().enter(rules, &[])?;
    let mut task = template.resume(Resume {
        arguments: bytes(arguments),
        memory_limit: limits.memory,
        pids: limits.pids.unwrap_or(0),
        trace,
        pipe_ignored: PIPE_IGNORED.load(Ordering::Relaxed),
        device,
        confined,
    })?;
    limit_exits(&mut task, name.as_str(), limits.exits)?;
    Ok(task)
}

/// Gives a task its budget of exits, if it has one.
fn limit_exits(task: &mut Task, name: &str, exits: Option<u64>) -> Result<(), RunError> {
    let Some(exits) = exits else { return Ok(()) };
    let message = format!("uvctl: {name} was killed: it used up its exits, {exits} (--exits)");
    Ok(task.limit_exits(exits, message, &stderr())?)
}

/// Arguments as programs get them.
fn bytes(arguments: &[OsString]) -> Vec<Vec<u8>> {
    let all = arguments.iter();
    all.map(|argument| argument.as_bytes().to_vec()).collect()
}

/// Runs a program and says what there is to say.
fn execute(
    run: &Run,
    rules: Rules,
    making: Option<Making>,
    outlet: Option<Outlet>,
) -> Result<u8, RunError> {
    let (limits, profile) = (rules.limits, rules.name.clone());
    let name = match &run.from {
        Some(name) => name.clone(),
        None => {
            let program = run.command.first().map(|name| name.to_string_lossy());
            program.unwrap_or_default().into_owned()
        }
    };
    let cgroup = enter_cgroup(&limits, run.privileges.require).map_err(RunError::Privileges)?;
    steward::spawn(Duties {
        name: name.clone(),
        time: limits.time,
        cpu: limits.cpu,
        cgroup,
        outlet: outlet.as_ref(),
    })
    .map_err(RunError::Privileges)?;
    let confinement = Confinement::new(run.privileges.require);
    let trace = run.trace_syscalls.then(trace);
    let (kept, lock) = match making {
        Some(making) => (making.overlays, Some(making.lock)),
        None => (Vec::new(), None),
    };
    let mut task = match &run.from {
        Some(name) => resume(name, &run.command, trace, rules, &confinement)?,
        None => {
            let program = Start {
                command: &run.command,
                no_aslr: run.no_aslr,
                trace,
                kept,
            };
            start(program, rules, &confinement)?
        }
    };
    // From here on the descriptors 0 to 2 are the task's, which may close or replace them.
    let mut console = task.own_fd(io::stderr().as_fd())?;
    // All of the task's processes have it, so that nobody commits before the last one has ended.
    let _lock = match lock {
        Some(lock) => Some(task.own_fd(lock.as_fd())?),
        None => None,
    };
    if run.tty || run.keep.commit || outlet.is_some() {
        task.end_with_parent();
    }
    if run.stats {
        task.count_all()?;
    }
    if let Some(outlet) = &outlet {
        outlet.tell(What::Start {
            program: text(name.as_bytes()),
            // Without a program of its own, all of them are arguments.
            arguments: texts(run.command.get(usize::from(run.from.is_none())..)),
            profile,
        });
    }
    task.audit(outlet)?;
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
        End::Exit(_) | End::Signal(_) | End::ExitLimit => Ok(()),
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

/// Arguments as an event has them.
fn texts(arguments: Option<&[OsString]>) -> Vec<String> {
    /// How many, and how much of each.
    const ARGUMENTS: usize = 64;
    const ARGUMENT: usize = 200;
    let all = arguments.unwrap_or_default().iter().take(ARGUMENTS);
    all.map(|argument| {
        let bytes = argument.as_bytes();
        text(bytes.get(..ARGUMENT).unwrap_or(bytes))
    })
    .collect()
}

/// Enters a cgroup for a task's limits, if that is worth it, and if it can be had or need not be.
fn enter_cgroup(limits: &LimitRules, require: bool) -> Result<Option<Cgroup>, String> {
    let wanted = cgroup::is_needed(limits) || require && limits.pids.is_some();
    if !wanted {
        return Ok(None);
    }
    let why = match Cgroup::enter(limits) {
        Ok((cgroup, lacks)) => match lacks.into_iter().next() {
            Some(lack) if require => lack,
            _ => return Ok(Some(cgroup)),
        },
        Err(why) if require => why,
        // `doctor` says so: what the module and the personality limit they do in any case.
        Err(_) => return Ok(None),
    };
    Err(format!(
        "--require: the limits cannot be had as a cgroup's as well: {why}; see `uvctl doctor`"
    ))
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

/// A trace to standard error.
pub(crate) fn trace() -> Trace {
    Trace::text(stderr())
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
