// SPDX-License-Identifier: GPL-2.0

//! A root directory of the task's own, in which what the rules do not mention does not exist.
//!
//! All objects are looked up on the host's tree first. The new root is mounted upon the host's, which goes on to be
//! this process's until `pivot_root`, so no path means anything else half-way. Then the host's tree is let go.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{mkdirat, open, openat, Mode, OFlags};
use rustix::mount::{unmount, UnmountFlags};
use rustix::process::{chdir, fchdir, getcwd, pivot_root};
use thiserror::Error;

use super::devices;
use super::mount::{self, attach, copy, is_directory, set_attributes, Tmpfs, PLAIN};
use super::namespaces::{self, Namespaces};
use super::overlay::{self, Kept, Layers, Memory};
use super::place::{resolve, Resolved, Tree};
use super::{Skipped, Why};
use crate::errno::{Errno, SysResult};
use crate::profile::{FileAccess, Rules, Write, HOSTS};

/// Why there is no new root.
#[derive(Debug, Error)]
pub enum RootError {
    /// A step failed.
    #[error("{step} {}: {source}", path.display())]
    Step {
        /// Which one.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: Errno,
    },
    /// A directory cannot have an overlay.
    #[error("there can be no overlay at {}: {why}", path.display())]
    Overlay {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

/// Names the step that a result is of.
pub(super) trait Step<T> {
    /// The step, and what it was done to.
    fn step(self, step: &'static str, path: impl Into<PathBuf>) -> Result<T, RootError>;
}

impl<T, E: Into<Errno>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str, path: impl Into<PathBuf>) -> Result<T, RootError> {
        self.map_err(|error| RootError::Step {
            step,
            path: path.into(),
            source: error.into(),
        })
    }
}

/// Whether there is a new root.
#[derive(Debug)]
pub enum Entered {
    /// There is.
    Yes {
        /// Rules that have no effect in it.
        skipped: Vec<Skipped>,
        /// What the host lacks for more.
        lacks: Vec<String>,
    },
    /// There is none, as the host does not let the broker make one, and this says why.
    No(String),
}

/// The most that files in a directory in memory may have; the task's limit if that is less.
const MEMORY: u64 = 1 << 30;

/// The files that the root itself consists of are empty, so this is for directories and links.
const ROOT: Tmpfs = Tmpfs {
    mode: 0o755,
    bytes: 1 << 20,
    execute: false,
};

/// A rule, and what it is about.
struct Planned<'a> {
    path: &'a Path,
    access: FileAccess,
    found: Resolved,
    /// Where the changes in its overlay go.
    kept: Option<Layers>,
}

impl Planned<'_> {
    /// Whether something below is visible although this is not.
    fn has_visible(&self, all: &[Planned<'_>]) -> bool {
        all.iter().any(|other| {
            other.access != FileAccess::Hidden
                && other.found.real != self.found.real
                && other.found.real.starts_with(&self.found.real)
        })
    }
}

/// The attributes of the mount of what is the host's.
fn attributes(execute: bool, write: Write) -> u64 {
    let mut attributes = PLAIN;
    if !execute {
        attributes |= libc::MOUNT_ATTR_NOEXEC;
    }
    if write == Write::No {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    attributes
}

/// Looks all rules up on the host. What lies below others comes behind them, wherever links lead.
fn plan<'a>(
    rules: &'a Rules,
    kept: &[Kept],
    host: BorrowedFd<'_>,
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<Planned<'a>>, RootError> {
    let mut plan = Vec::new();
    for (path, rule) in &rules.files.0 {
        let kept = kept.iter().find(|kept| kept.path == *path);
        let kept = kept.map(|kept| Layers::open(host, kept).step("opening", &kept.directory));
        let kept = kept.transpose()?;
        match resolve(host, path) {
            Err(errno) => skipped.push(skip(rules, path, Why::Lookup(errno))),
            // A device that the rules do not name is not there.
            Ok(found) if is_own(&found.real, rule.access) => {
                if rule.access != FileAccess::Hidden || devices::has(rules, &found.real) {
                    skipped.push(skip(rules, path, Why::Own));
                }
            }
            Ok(found) => plan.push(Planned {
                path,
                access: rule.access,
                found,
                kept,
            }),
        }
    }
    // A rule that names a thing as it is counts more than one that names a link to it.
    plan.sort_by(|one, other| {
        let (one, other) = (&one.found, &other.found);
        let links = other.links.len().cmp(&one.links.len());
        one.real.cmp(&other.real).then(links)
    });
    Ok(plan)
}

/// Notes that a rule has no effect.
fn skip(rules: &Rules, path: &Path, why: Why) -> Skipped {
    let access = rules.files.0.get(path).map(|rule| rule.access);
    let above = path.parent().and_then(|above| rules.files.decide(above));
    let above = above.map(|(_, rule)| rule.access);
    Skipped {
        path: path.to_owned(),
        why,
        is_open: match (access, above) {
            (Some(FileAccess::Hidden), _) if why == Why::Own => true,
            (Some(FileAccess::Host { write, .. }), Some(FileAccess::Host { write: other, .. })) => {
                write < other
            }
            (Some(FileAccess::Hidden | FileAccess::Tmpfs), Some(FileAccess::Host { .. })) => true,
            _ => false,
        },
    }
}

/// Whether there can be the overlays that are planned.
fn check_overlays(plan: &[Planned<'_>], is_host: bool) -> Result<(), RootError> {
    let is_overlay = |planned: &&Planned<'_>| {
        let write = Write::Overlay;
        matches!(planned.access, FileAccess::Host { write: what, .. } if what == write)
    };
    let mut overlays = plan.iter().filter(is_overlay).peekable();
    if overlays.peek().is_none() {
        return Ok(());
    }
    let points = overlay::mount_points().step("reading", "/proc/self/mountinfo")?;
    // Who is not user 0 may not look behind what is mounted, so no rule helps there.
    let rules: Vec<&Path> = match is_host {
        true => plan.iter().map(|planned| &*planned.found.real).collect(),
        false => Vec::new(),
    };
    for planned in overlays {
        let why = match &planned.found.object {
            None => "it does not exist".to_owned(),
            Some(object) if !is_directory(object.as_fd()).step("looking at", planned.path)? => {
                "it is no directory, and only those have overlays".to_owned()
            }
            Some(_) => match overlay::uncovered(&planned.found.real, &points, &rules) {
                None => continue,
                Some(point) => format!(
                    "another file system is mounted below it, at {}, and would not be in it: {}",
                    point.display(),
                    match is_host {
                        true => "say what is to be done with that as well (--overlay, --ro, --rw, --hide)",
                        false => "give overlays to directories without one (an unprivileged user cannot have another)",
                    }
                ),
            },
        };
        let path = planned.path.to_owned();
        return Err(RootError::Overlay { path, why });
    }
    Ok(())
}

/// Whether a path is in what the sandbox makes itself. In `/proc` things may be hidden, but `/proc` may not.
fn is_own(real: &Path, access: FileAccess) -> bool {
    let hidden_in_proc = access == FileAccess::Hidden && real != Path::new("/proc");
    real.starts_with("/dev") || real.starts_with("/proc") && !hidden_in_proc
}

/// Something that is not there: an empty directory and an empty file, both closed to all.
struct Blank {
    directory: OwnedFd,
    file: OwnedFd,
}

impl Blank {
    /// Made in a file system of its own, which is attached at a directory of the host's tree that is not used any
    /// more: what is not attached cannot be copied.
    fn new(at: BorrowedFd<'_>) -> SysResult<Self> {
        let blank = mount::tmpfs(ROOT)?;
        attach(blank.as_fd(), at)?;
        mkdirat(&blank, c"directory", Mode::empty())?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
        openat(&blank, c"file", flags, Mode::empty())?;
        Ok(Self {
            directory: mount::open(blank.as_fd(), "directory".as_ref())?,
            file: mount::open(blank.as_fd(), "file".as_ref())?,
        })
    }

    /// Puts it over something.
    fn cover(&self, what: BorrowedFd<'_>) -> SysResult<()> {
        let blank = match is_directory(what)? {
            true => &self.directory,
            false => &self.file,
        };
        attach(
            copy(blank.as_fd(), attributes(false, Write::No))?.as_fd(),
            what,
        )
    }
}

/// The root while it is made.
pub(super) struct Builder {
    pub(super) tree: Tree,
    /// What nothing may be written to when all is done.
    sealed: Vec<OwnedFd>,
    /// What a directory in memory may have.
    pub(super) bytes: u64,
    /// Whether the task may execute what it wrote.
    pub(super) jit: bool,
    /// A directory of the host's tree, on which things are attached that must be somewhere.
    pub(super) aside: OwnedFd,
}

/// A copy of what is the host's, or an overlay of it, not attached anywhere yet.
fn host_files(
    object: BorrowedFd<'_>,
    (execute, write): (bool, Write),
    kept: Option<&Layers>,
    memory: Memory<'_>,
) -> SysResult<OwnedFd> {
    let attributes = attributes(execute, write);
    match write {
        Write::Overlay => overlay::new(object, kept, memory, attributes),
        Write::No | Write::Through => copy(object, attributes),
    }
}

impl Builder {
    /// Makes a directory for places at a path, of the mode that places have. In what is the host's, it is upon the
    /// directory that is there.
    pub(super) fn directory(&mut self, path: &Path) -> SysResult<Option<OwnedFd>> {
        let Some(place) = self.tree.place(path, true)? else {
            return Ok(None);
        };
        if self.tree.is_own(place.as_fd())? {
            return Ok(Some(place));
        }
        self.cover(place.as_fd()).map(Some)
    }

    fn memory(&self) -> Memory<'_> {
        let (at, bytes) = (self.aside.as_fd(), self.bytes);
        Memory { at, bytes }
    }

    /// Makes places in the root, in which else nothing is, and where only a rule lets the task make more.
    fn own(&mut self, changes: bool) -> SysResult<()> {
        let root = self.tree.root().try_clone_to_owned()?;
        self.tree.own(root.as_fd())?;
        if !changes {
            self.sealed.push(root);
        }
        Ok(())
    }

    /// Puts a directory for places over one.
    fn cover(&mut self, place: BorrowedFd<'_>) -> SysResult<OwnedFd> {
        let made = mount::tmpfs(ROOT)?;
        attach(made.as_fd(), place)?;
        self.tree.own(made.as_fd())?;
        self.sealed.push(made.try_clone()?);
        Ok(made)
    }

    /// Does what a rule says; the root itself is there.
    fn apply(
        &mut self,
        planned: &Planned<'_>,
        all: &[Planned<'_>],
        blank: Option<&Blank>,
    ) -> SysResult<Result<(), Why>> {
        let real = &planned.found.real;
        match planned.access {
            FileAccess::Host { write, .. } => {
                let Some(object) = &planned.found.object else {
                    return Ok(Err(Why::Missing));
                };
                let Some(place) = self.tree.place(real, is_directory(object.as_fd())?)? else {
                    return Ok(Err(Why::NoPlace));
                };
                let how = (planned.access.executes(self.jit), write);
                let files = host_files(object.as_fd(), how, planned.kept.as_ref(), self.memory())?;
                attach(files.as_fd(), place.as_fd())?;
            }
            FileAccess::Tmpfs => {
                let Some(place) = self.tree.place(real, true)? else {
                    return Ok(Err(Why::NoPlace));
                };
                let made = mount::tmpfs(Tmpfs {
                    mode: 0o1777,
                    bytes: self.bytes,
                    execute: planned.access.executes(self.jit),
                })?;
                attach(made.as_fd(), place.as_fd())?;
                self.tree.own(made.as_fd())?;
            }
            FileAccess::Hidden => {
                let Some(place) = self.tree.find(real)? else {
                    return Ok(Err(Why::Missing));
                };
                if planned.has_visible(all) {
                    self.cover(place.as_fd())?;
                } else if let Some(blank) = blank {
                    blank.cover(place.as_fd())?;
                }
            }
        }
        Ok(Ok(()))
    }
}

/// Opens a path of the host's without using it.
fn handle(path: &str) -> Result<OwnedFd, RootError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty()).step("opening", path)
}

/// What the root is by the rule about it, and whether it is empty.
fn base(
    rule: Option<&Planned<'_>>,
    host: BorrowedFd<'_>,
    memory: Memory<'_>,
    jit: bool,
) -> SysResult<(OwnedFd, bool)> {
    let execute = rule.is_some_and(|rule| rule.access.executes(jit));
    Ok(match rule.map(|rule| rule.access) {
        Some(FileAccess::Host { write, .. }) => {
            let kept = rule.and_then(|rule| rule.kept.as_ref());
            (host_files(host, (execute, write), kept, memory)?, false)
        }
        Some(FileAccess::Tmpfs) => {
            let made = mount::tmpfs(Tmpfs {
                mode: 0o1777,
                bytes: memory.bytes,
                execute,
            })?;
            (made, true)
        }
        Some(FileAccess::Hidden) | None => (mount::tmpfs(ROOT)?, true),
    })
}

/// Makes the root that the rules describe, and enters it.
pub fn enter(rules: &Rules, kept: &[Kept]) -> Result<Entered, RootError> {
    let directory = getcwd(Vec::new()).ok();
    let is_host = match namespaces::enter()? {
        Namespaces::Refused(why) => return Ok(Entered::No(why)),
        Namespaces::Host => true,
        Namespaces::User => false,
    };
    let host = handle("/")?;
    let proc = handle("/proc")?;
    let mut skipped = Vec::new();
    let plan = plan(rules, kept, host.as_fd(), &mut skipped)?;
    check_overlays(&plan, is_host)?;
    let devices = devices::find(&rules.devices, host.as_fd(), &mut skipped);
    let mut lacks = Vec::new();
    // In a container, user 0 may be refused it as well.
    let mounted_proc = match is_host.then(mount::proc) {
        Some(Ok(own)) => own,
        Some(Err(_)) | None => {
            lacks.push("a /proc of its own, so other processes are to be seen there".to_owned());
            let attributes = attributes(false, Write::No);
            copy(proc.as_fd(), attributes).step("copying", "/proc")?
        }
    };
    let bytes = rules.limits.memory.unwrap_or(MEMORY).min(MEMORY);
    let is_root = |one: &&Planned<'_>| one.found.real == Path::new("/");
    let root = plan.iter().find(is_root);
    let memory = Memory {
        at: proc.as_fd(),
        bytes,
    };
    let changes = root.is_some_and(|root| root.access == FileAccess::Tmpfs);
    let (root, is_new) =
        base(root, host.as_fd(), memory, rules.jit).step("making the root", "/")?;
    attach(root.as_fd(), host.as_fd()).step("attaching the root", "/")?;

    let mut builder = Builder {
        tree: Tree::new(root),
        sealed: Vec::new(),
        bytes,
        jit: rules.jit,
        aside: proc,
    };
    if is_new {
        builder.own(changes).step("looking at the root", "/")?;
    }
    let place = builder.tree.place(Path::new("/proc"), true);
    let place = place.and_then(|place| place.ok_or(Errno::ENOENT));
    place
        .and_then(|place| attach(mounted_proc.as_fd(), place.as_fd()))
        .step("attaching", "/proc")?;
    devices::attach_all(&mut builder, &devices, &mut skipped)?;

    let hides = plan.iter().any(|one| one.access == FileAccess::Hidden);
    let blank = hides.then(|| Blank::new(builder.aside.as_fd()));
    let blank = blank.transpose().step("making a blank on", "/proc")?;
    for planned in plan.iter().filter(|one| !is_root(one)) {
        let applied = builder.apply(planned, &plan, blank.as_ref());
        if let Err(why) = applied.step("placing", planned.path)? {
            skipped.push(skip(rules, planned.path, why));
        }
    }
    let hosts = builder.hosts(rules);
    lacks.extend(hosts.step("making", HOSTS)?);
    for (at, target) in plan.iter().flat_map(|planned| &planned.found.links) {
        builder.tree.link(at, target).step("linking", at)?;
    }
    let directory = directory.unwrap_or_default();
    let path = Path::new(OsStr::from_bytes(directory.as_bytes()));
    if path.is_absolute() {
        // Where the task has nothing of it, it is empty: a path that begins there leads to nothing, and not to something else.
        builder.tree.place(path, true).step("making", path)?;
    }
    for mount in &builder.sealed {
        set_attributes(mount.as_fd(), libc::MOUNT_ATTR_RDONLY, false)
            .step("sealing the root", "/")?;
    }
    change(builder.tree.root()).step("changing the root to", "/")?;
    if !path.is_absolute() || chdir(path).is_err() {
        chdir("/").step("going to", "/")?;
    }
    Ok(Entered::Yes { skipped, lacks })
}

/// Makes a mount upon the root the root, and lets go of what was it.
fn change(root: BorrowedFd<'_>) -> SysResult<()> {
    fchdir(root)?;
    // The old root lies upon the new one then.
    pivot_root(c".", c".")?;
    unmount(c".", UnmountFlags::DETACH)?;
    Ok(chdir(c"/")?)
}
