// SPDX-License-Identifier: GPL-2.0

//! `uvctl run --audit`: the file, and the process that writes it.
//!
//! The recorder is a child of this process that is in no session of the task's, and goes on until nobody is left who
//! could tell something: so what ends the broker, or this process, leaves whole lines, of which the last one says so.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use uvisor::audit::{self, Inlet, Log, Outlet, Recorder};
use uvisor::profile::{self, FileAccess, Rules, Write};

use super::apart;

/// The options.
#[derive(Debug, Args)]
pub(super) struct Audit {
    /// Write to FILE what the program did and was refused: JSON, an event a line.
    #[arg(
        long = "audit",
        value_name = "FILE",
        long_help = "Write to FILE what the program did and was refused: JSON, an event a line \
(`uvctl trace --schema` prints its schema).

FILE is replaced; a pipe or a terminal will do as well. It must not be where the program may write. Events that the \
program makes faster than they are written, or for which there is no room, are left out and counted. \
Whoever sends a signal to uvctl sends it to a process beside the program then: what ends that kills the program."
    )]
    file: Option<PathBuf>,
    /// The most that FILE may take; K, M and G are understood.
    #[arg(long = "audit-limit", value_name = "SIZE", value_parser = profile::size, default_value = "64M", requires = "file")]
    limit: u64,
}

/// How long the reader of a pipe is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// What there is before the broker is a process of its own.
pub(super) struct Prepared {
    path: PathBuf,
    log: Log,
    inlet: Inlet,
    outlet: Outlet,
}

impl Audit {
    /// Opens the file, for a task that may touch what `rules` say.
    pub(super) fn prepare(&self, rules: &Rules) -> Result<Option<Prepared>, String> {
        let Some(path) = &self.file else {
            return Ok(None);
        };
        let log = open(path, self.limit, rules);
        let log = log.map_err(|error| format!("--audit {}: {error}", path.display()))?;
        let (outlet, inlet) = audit::channel()
            .map_err(|error| format!("cannot make a way for the audit's events: {error}"))?;
        Ok(Some(Prepared {
            path: path.clone(),
            log,
            inlet,
            outlet,
        }))
    }
}

/// Whether opening a file failed as it is a pipe that nobody reads from.
fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

/// Opens what may be a pipe, whose reader, if it was started at the same time, is waited for.
fn open_once_read(path: &Path) -> io::Result<File> {
    let start = Instant::now();
    loop {
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Else a pipe that nobody reads is waited for without end.
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        if !file.as_ref().is_err_and(is_unread) || start.elapsed() >= PATIENCE {
            return file;
        }
        thread::sleep(PATIENCE / 100);
    }
}

/// Opens a file for events.
fn open(path: &Path, limit: u64, rules: &Rules) -> Result<Log, String> {
    let say = |error: io::Error| error.to_string();
    let file = match open_once_read(path) {
        Err(error) if is_unread(&error) => {
            return Err("nobody reads from this pipe: start its reader first".into());
        }
        file => file.map_err(say)?,
    };
    let about = file.metadata().map_err(say)?;
    // SAFETY: It changes a flag of an open file that is ours.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, 0) };
    if about.file_type().is_fifo() || about.file_type().is_char_device() {
        return Ok(Log::open_ended(file));
    }
    if !about.is_file() {
        return Err("it is neither a file, a pipe nor a terminal".into());
    }
    if let Some(output) = own_output(&about) {
        // Written from where that is, and not from the start.
        return Ok(Log::open_ended(output));
    }
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(say)?;
    let decides = rules.files.decide(&real);
    if let Some((_, rule)) = decides.filter(|(_, rule)| is_changed(rule.access)) {
        return Err(format!(
            "the program may change this file ({}): choose another place",
            rule.origin
        ));
    }
    file.set_len(0).map_err(say)?;
    Ok(Log::limited(file, limit))
}

/// Whether the host's own files are changed.
fn is_changed(access: FileAccess) -> bool {
    matches!(access, FileAccess::Host { write, .. } if write == Write::Through)
}

/// Standard output or error, if it is this file.
fn own_output(file: &std::fs::Metadata) -> Option<File> {
    let outputs = [rustix::stdio::stdout(), rustix::stdio::stderr()];
    outputs.into_iter().find_map(|fd| {
        let own = File::from(fd.try_clone_to_owned().ok()?);
        let about = own.metadata().ok()?;
        (about.dev() == file.dev() && about.ino() == file.ino()).then_some(own)
    })
}

impl Prepared {
    /// Parts into the broker, for which this returns its end, and this process, which waits for that and for the
    /// recorder, and for which it returns the broker's status.
    pub(super) fn part(self) -> io::Result<Result<Outlet, u8>> {
        let Some(broker) = apart::part()? else {
            return Ok(Ok(self.outlet));
        };
        drop(self.outlet);
        let recorder = spawn(&self.path, self.inlet, self.log);
        if recorder.is_err() {
            // The task would go on, and nobody would know what it does.
            // SAFETY: It is a child that was not waited for.
            unsafe { libc::kill(broker, libc::SIGKILL) };
        }
        let status = apart::wait(broker)?;
        apart::wait(recorder?)?;
        Ok(Err(status))
    }
}

/// Starts the recorder.
fn spawn(path: &Path, inlet: Inlet, log: Log) -> io::Result<i32> {
    // SAFETY: This process has one thread.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => record(path, inlet, log),
        recorder => Ok(recorder),
    }
}

/// What the recorder does.
fn record(path: &Path, inlet: Inlet, log: Log) -> ! {
    let kept = [inlet.as_fd().as_raw_fd(), log.as_fd().as_raw_fd()];
    apart::stand_beside(c"uvctl-audit", &kept);
    let recorded = Recorder::new(inlet, log).and_then(|mut recorder| recorder.run());
    let path = path.display();
    match recorded {
        Ok(0) => {}
        Ok(lost) => {
            eprintln!("uvctl: {path} lacks {lost} events, for which there was no room or no time")
        }
        Err(error) => eprintln!("uvctl: {path} is not complete: {error}"),
    }
    // SAFETY: It does not return, and touches no memory.
    unsafe { libc::_exit(0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uvisor::profile::Origin;

    #[test]
    fn a_file_that_the_task_may_change_is_none_for_its_audit() {
        let directory = std::env::temp_dir().join(format!("uvctl-audit-{}", std::process::id()));
        let inside = directory.join("inside");
        std::fs::create_dir_all(&inside).unwrap();
        let mut rules = Rules::default();
        let access = FileAccess::Host {
            execute: false,
            write: Write::Through,
        };
        rules
            .allow_path(&inside, access, Origin::Option("--rw"))
            .unwrap();
        std::fs::write(inside.join("log"), "before").unwrap();
        std::os::unix::fs::symlink(inside.join("log"), directory.join("link")).unwrap();
        for name in ["inside/log", "link"] {
            let error = open(&directory.join(name), 1 << 20, &rules).unwrap_err();
            assert!(error.contains("may change this file (--rw)"), "{error}");
        }
        assert_eq!(std::fs::read(inside.join("log")).unwrap(), b"before");
        assert!(open(&directory, 1 << 20, &rules).is_err());
        std::fs::write(directory.join("log"), "before").unwrap();
        open(&directory.join("log"), 1 << 20, &rules).unwrap();
        assert_eq!(std::fs::read(directory.join("log")).unwrap(), b"");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.join("pipe"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        let error = open(&directory.join("pipe"), 1 << 20, &rules).unwrap_err();
        assert!(error.contains("nobody reads"), "{error}");
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
