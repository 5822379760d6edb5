// SPDX-License-Identifier: GPL-2.0

//! Where changes are kept: a directory of the user's own, with one in it for each name.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{
    flock, fstat, fsync, mkdirat, openat, renameat, renameat_with, unlinkat, AtFlags,
    FlockOperation, Mode, OFlags, RenameFlags, CWD,
};
use rustix::io::Errno as Os;
use rustix::process::geteuid;
use rustix::time::{clock_gettime, ClockId};

use super::manifest::{Manifest, Name, Tree};
use super::object::{entries, open_below, Time};
use super::{remove, Changes, ChangesError};
use crate::sandbox::{self, DIRECTORY};

/// The longest file of it that is read.
const LONGEST: u64 = 1 << 26;

/// The user's directory.
#[derive(Debug)]
pub struct Store {
    fd: OwnedFd,
    path: PathBuf,
}

/// What is kept under a name.
#[derive(Debug)]
pub struct Kept {
    fd: OwnedFd,
    manifest: Manifest,
}

/// The right to change what is kept, as long as it is open somewhere.
#[derive(Debug)]
pub struct Lock(File);

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is being made for a task.
#[derive(Debug)]
pub struct Making {
    /// Its name.
    pub name: Name,
    /// Where its overlays put their changes.
    pub overlays: Vec<sandbox::Kept>,
    /// To be open in all processes of the task.
    pub lock: Lock,
}

fn refused(path: &Path, why: impl fmt::Display) -> ChangesError {
    let why = why.to_string();
    let path = path.to_owned();
    ChangesError::Store { path, why }
}

impl Store {
    /// The calling user's: `$XDG_STATE_HOME/uvisor/changes`, or `~/.local/state/uvisor/changes`; made if it is missing.
    pub fn open() -> Result<Self, ChangesError> {
        let directory = |name| std::env::var_os(name).map(PathBuf::from);
        let directory = |name| directory(name).filter(|path| path.is_absolute());
        let home = || directory("HOME").map(|home| home.join(".local/state"));
        let state = directory("XDG_STATE_HOME").or_else(home);
        let unknown = "neither XDG_STATE_HOME nor HOME is an absolute path";
        let state = state.ok_or_else(|| refused(Path::new("~/.local/state"), unknown))?;
        Self::at(&state)
    }

    /// That of another state directory.
    pub fn at(state: &Path) -> Result<Self, ChangesError> {
        let path = state.join("uvisor/changes");
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(builder.recursive(true), 0o700);
        let made = builder.create(&path);
        made.map_err(|error| refused(&path, error))?;
        // Whoever owns it, or what it is in, could put something else there.
        for directory in [state, &state.join("uvisor"), &path] {
            let stat = rustix::fs::stat(directory).map_err(|errno| refused(directory, errno))?;
            if stat.st_uid != geteuid().as_raw() {
                let why = format!(
                    "{} is of user {}: set XDG_STATE_HOME to a directory of your own",
                    directory.display(),
                    stat.st_uid
                );
                return Err(refused(&path, why));
            }
        }
        let path = path.canonicalize().map_err(|error| refused(&path, error))?;
        let fd = rustix::fs::open(&path, DIRECTORY, Mode::empty());
        let fd = fd.map_err(|errno| refused(&path, errno))?;
        let mode = fstat(&fd).map_err(|errno| refused(&path, errno))?.st_mode;
        if mode & 0o077 != 0 {
            let why = format!(
                "others may use it (mode {:o}): `chmod 700` it",
                mode & 0o7777
            );
            return Err(refused(&path, why));
        }
        let store = Self { fd, path };
        store.tidy();
        Ok(store)
    }

    /// Removes what was left by who was ended while it made or threw away something.
    fn tidy(&self) {
        for name in entries(self.fd.as_fd()).unwrap_or_default() {
            let Ok(name) = std::str::from_utf8(&name) else {
                continue;
            };
            let ended = |pid: &str| {
                let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
                pid.is_none_or(|pid| rustix::process::test_kill_process(pid) == Err(Os::SRCH))
            };
            if name.starts_with(".old-") || name.strip_prefix(".new-").is_some_and(ended) {
                // Who does the same at this moment comes to the end.
                let _ = self.remove(name);
            }
        }
    }

    /// Where it is, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names that there are, in order.
    pub fn names(&self) -> Result<Vec<Name>, ChangesError> {
        let names = entries(self.fd.as_fd()).map_err(|errno| refused(&self.path, errno))?;
        let names = names
            .iter()
            .filter_map(|name| std::str::from_utf8(name).ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// A name that is free for something like `word`.
    pub fn free(&self, word: &str) -> Result<Name, ChangesError> {
        let known = |letter: &char| letter.is_ascii_alphanumeric() || "._-".contains(*letter);
        let word: String = word.chars().filter(known).take(32).collect();
        let word = word.trim_start_matches(['.', '_', '-']);
        let word = if word.is_empty() { "changes" } else { word };
        let taken: BTreeSet<Name> = self.names()?.into_iter().collect();
        let mut number = u64::from(crate::process::id());
        loop {
            let name: Name = format!("{word}-{number}").parse()?;
            if !taken.contains(&name) {
                return Ok(name);
            }
            number += 1;
        }
    }

    /// Makes a name for the changes of a task in directories, each by the path in its rule.
    pub fn make(
        &self,
        name: &Name,
        command: Vec<String>,
        paths: &[PathBuf],
    ) -> Result<Making, ChangesError> {
        if self.names()?.contains(name) {
            return Err(ChangesError::Exists(name.clone()));
        }
        let failed = |error: std::io::Error| refused(&self.path, error);
        let unfinished = format!(".new-{}", crate::process::id());
        match mkdirat(&self.fd, &*unfinished, Mode::RWXU) {
            // Of one that ended in the middle, and had the same number.
            Err(Os::EXIST) => self.remove(&unfinished)?,
            result => result.map_err(|errno| failed(errno.into()))?,
        }
        if !self.names_has(&unfinished)? {
            mkdirat(&self.fd, &*unfinished, Mode::RWXU).map_err(|errno| failed(errno.into()))?;
        }
        let made = self.fill(&unfinished, name, command, paths);
        let made = made.and_then(|made| {
            let flags = RenameFlags::NOREPLACE;
            let named = renameat_with(&self.fd, &*unfinished, &self.fd, name.as_str(), flags);
            match named {
                Err(Os::EXIST) => Err(ChangesError::Exists(name.clone())),
                Err(errno) => Err(refused(&self.path, errno)),
                Ok(()) => Ok(made),
            }
        });
        if made.is_err() {
            // What is wrong is told in any case.
            let _ = self.remove(&unfinished);
        }
        made
    }

    fn names_has(&self, name: &str) -> Result<bool, ChangesError> {
        let names = entries(self.fd.as_fd()).map_err(|errno| refused(&self.path, errno))?;
        Ok(names.iter().any(|other| other == name.as_bytes()))
    }

    fn fill(
        &self,
        unfinished: &str,
        name: &Name,
        command: Vec<String>,
        paths: &[PathBuf],
    ) -> Result<Making, ChangesError> {
        let failed = |errno: Os| refused(&self.path, errno);
        let fd = openat(&self.fd, unfinished, DIRECTORY, Mode::empty()).map_err(failed)?;
        let lock = lock(fd.as_fd(), true).map_err(failed)?;
        let mut manifest = Manifest::new(name.clone(), command);
        let mut overlays = Vec::new();
        for (number, path) in paths.iter().enumerate() {
            let wrong = |why: String| ChangesError::Host {
                path: path.clone(),
                why,
            };
            let host = path
                .canonicalize()
                .map_err(|error| wrong(error.to_string()))?;
            if host.to_str().is_none() {
                return Err(wrong("the path is not text in UTF-8".into()));
            }
            if self.path.starts_with(&host) {
                return Err(wrong(format!(
                    "what is changed is kept below it, in {}: set XDG_STATE_HOME to a directory elsewhere",
                    self.path.display()
                )));
            }
            let stat = rustix::fs::stat(&host).map_err(|errno| wrong(errno.to_string()))?;
            let directory = format!("{number}");
            mkdirat(&fd, &*directory, Mode::RWXU).map_err(failed)?;
            let inside = openat(&fd, &*directory, DIRECTORY, Mode::empty()).map_err(failed)?;
            for layer in ["upper", "work"] {
                mkdirat(&inside, layer, Mode::RWXU).map_err(failed)?;
            }
            sandbox::imitate(&inside, "upper", &stat).map_err(failed)?;
            overlays.push(sandbox::Kept {
                path: path.clone(),
                directory: self.path.join(name.as_str()).join(format!("{number}")),
            });
            manifest.trees.push(Tree {
                host,
                inode: stat.st_ino,
                number,
            });
        }
        manifest.started = now();
        let text =
            serde_json::to_vec_pretty(&manifest).map_err(|error| refused(&self.path, error))?;
        write(fd.as_fd(), "manifest.json", &text).map_err(failed)?;
        let name = name.clone();
        Ok(Making {
            name,
            overlays,
            lock,
        })
    }

    /// What is kept under a name.
    pub fn get(&self, name: &Name) -> Result<Kept, ChangesError> {
        let broken = |why: String| ChangesError::Broken {
            name: name.clone(),
            why,
        };
        let fd = match openat(&self.fd, name.as_str(), DIRECTORY, Mode::empty()) {
            Err(Os::NOENT) => return Err(ChangesError::Missing(name.clone())),
            fd => fd.map_err(|errno| broken(errno.to_string()))?,
        };
        let text = read(fd.as_fd(), "manifest.json").map_err(|error| broken(error.to_string()))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        if !manifest.is_known() {
            return Err(broken("it is of another version of uvctl".into()));
        }
        Ok(Kept { fd, manifest })
    }

    /// Throws away what is kept under a name.
    pub fn discard(&self, kept: &Kept, _: &Lock) -> Result<(), ChangesError> {
        let name = &kept.manifest.name;
        kept.sweep();
        // So that it is there as a whole, or not at all.
        let going = format!(".old-{name}");
        if self.names_has(&going)? {
            self.remove(&going)?;
        }
        renameat(&self.fd, name.as_str(), &self.fd, &*going)
            .map_err(|errno| refused(&self.path, errno))?;
        self.remove(&going)
    }

    /// Removes a directory.
    fn remove(&self, name: &str) -> Result<(), ChangesError> {
        let failed = |error: String| refused(&self.path.join(name), error);
        let fd = match openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            // Somebody else removes it as well.
            Err(Os::NOENT) => return Ok(()),
            fd => fd.map_err(|errno| failed(errno.to_string()))?,
        };
        remove::empty(fd.as_fd()).map_err(|errno| failed(errno.to_string()))?;
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Os::NOENT) => Ok(()),
            Err(errno) => Err(failed(errno.to_string())),
        }
    }
}

impl Kept {
    /// What is known about it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn broken(&self, why: String) -> ChangesError {
        let name = self.manifest.name.clone();
        ChangesError::Broken { name, why }
    }

    /// Its lock, once nobody else has it, for so long; its task's processes have it while they are there.
    pub fn lock(&self, wait: Duration) -> Result<Lock, ChangesError> {
        let start = Instant::now();
        loop {
            match lock(self.fd.as_fd(), false) {
                Err(Os::WOULDBLOCK) if start.elapsed() < wait => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(Os::WOULDBLOCK) => return Err(ChangesError::Busy(self.manifest.name.clone())),
                result => return result.map_err(|errno| self.broken(errno.to_string())),
            }
        }
    }

    /// What the task changed in a directory.
    pub(super) fn upper(&self, tree: &Tree) -> Result<File, ChangesError> {
        let path = PathBuf::from(format!("{}/upper", tree.number));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = open_below(self.fd.as_fd(), &path, flags);
        let opened = opened.map_err(|errno| self.broken(errno.to_string()))?;
        Ok(opened.into())
    }

    /// The directory on the host, if it is the one that it was.
    pub(super) fn host(&self, tree: &Tree) -> Result<File, ChangesError> {
        let wrong = |why: String| ChangesError::Host {
            path: tree.host.clone(),
            why,
        };
        let resolve = rustix::fs::ResolveFlags::NO_SYMLINKS;
        let opened = rustix::fs::openat2(CWD, &tree.host, DIRECTORY, Mode::empty(), resolve);
        let opened = opened.map_err(|errno| wrong(errno.to_string()))?;
        let stat = fstat(&opened).map_err(|errno| wrong(errno.to_string()))?;
        if stat.st_ino != tree.inode {
            return Err(wrong(format!(
                "it is another directory than the one that {} was made of",
                self.manifest.name
            )));
        }
        Ok(opened.into())
    }

    /// How names begin that a commit uses until what it makes is whole.
    pub(super) fn temporary(&self) -> String {
        format!(".uvctl-{}~", self.manifest.name)
    }

    /// Notes that a commit begins, and of which directories it changes what they are themselves.
    pub(super) fn begin(&self, all: &[Changes<'_>]) -> Result<(), ChangesError> {
        let mut begun = self.begun();
        for changes in all {
            let found = changes.found.changes.iter();
            let found = found.filter(|change| change.was_directory() && change.becomes_directory());
            let number = changes.tree.number;
            // Names that are no text are not noted: such a one is refused once more, if the commit is ended.
            let found =
                found.filter(|change| change.refusal.is_none() && change.path.to_str().is_some());
            begun.extend(found.map(|change| (number, change.path.clone())));
        }
        for changes in all {
            // What is not on the disk yet could be gone when this goes on after the machine has lost its power.
            let upper = self.upper(changes.tree)?;
            rustix::fs::syncfs(&upper).map_err(|errno| self.broken(errno.to_string()))?;
        }
        let text = serde_json::to_vec(&begun).map_err(|error| self.broken(error.to_string()))?;
        write(self.fd.as_fd(), "begun", &text).map_err(|errno| self.broken(errno.to_string()))
    }

    /// Notes that a commit has come to its end.
    pub(super) fn end(&self) {
        // If that stays, directories are asked for changes less strictly the next time.
        let _ = unlinkat(&self.fd, "begun", AtFlags::empty());
    }

    /// What a commit had begun that was ended.
    pub(super) fn begun(&self) -> BTreeSet<(usize, PathBuf)> {
        let text = read(self.fd.as_fd(), "begun").unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Removes from the host what a commit left that was ended.
    fn sweep(&self) {
        if read(self.fd.as_fd(), "begun").is_err() {
            return;
        }
        // What cannot be found any more has nothing to be removed.
        for changes in self.changes().unwrap_or_default() {
            if let Ok(host) = self.host(changes.tree) {
                let directories = &changes.found.directories;
                super::apply::sweep(host.as_fd(), directories, &self.temporary());
            }
        }
    }
}

/// The lock in a directory of what is kept.
fn lock(directory: BorrowedFd<'_>, make: bool) -> Result<Lock, Os> {
    let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if make {
        flags |= OFlags::CREATE | OFlags::EXCL;
    }
    let file = openat(directory, "lock", flags, Mode::RUSR | Mode::WUSR)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(Lock(file.into()))
}

/// Writes a file that is there as a whole, or as it was.
fn write(directory: BorrowedFd<'_>, name: &str, text: &[u8]) -> Result<(), Os> {
    let new = format!("{name}.new");
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, &*new, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file.write_all(text).and_then(|()| file.sync_all());
    written.map_err(|error| Os::from_io_error(&error).unwrap_or(Os::IO))?;
    renameat(directory, &*new, directory, name)?;
    fsync(directory)
}

/// Reads a file.
fn read(directory: BorrowedFd<'_>, name: &str) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text)?;
    Ok(text)
}

/// The time at which a change from now on has been made, as file systems note it, and none that was made before.
fn now() -> Time {
    let clock = |id| {
        let time = clock_gettime(id);
        (time.tv_sec, time.tv_nsec as u32)
    };
    // What was changed until now may be noted with a time of this clock, and what is changed from now on with one of
    // the other, which is behind.
    let before = clock(ClockId::Realtime);
    loop {
        let time = clock(ClockId::RealtimeCoarse);
        if time > before {
            return time;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
