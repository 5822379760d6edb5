// SPDX-License-Identifier: GPL-2.0

//! What tasks may change, and what they may not, tried on directories of this machine.

mod attributes;
mod changes;
mod opening;
mod races;
mod reading;
mod roots;

use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

use super::access::{Access, AccessError};
use super::open::How;
use super::paths::Scope;
use super::status::{status_at, status_of};
use super::Fds;
use crate::errno::{Errno, SysResult};
use crate::profile::{self, FileAccess, FileRule, Origin, Rules};

/// The number that relative paths have for a directory.
const AT: RawFd = libc::AT_FDCWD;

/// What is in all files at the beginning.
const CONTENT: &str = "content";

/// This process's descriptors, divided once.
fn fds() -> &'static Fds {
    static FDS: OnceLock<Fds> = OnceLock::new();
    FDS.get_or_init(|| Fds::reserve().unwrap())
}

/// All that there is for the user, of which nothing is changed.
fn everything() -> Rules {
    let surroundings = profile::Surroundings::of_this_process();
    profile::Profile::load("host", &surroundings).unwrap().rules
}

/// What lets files at some paths be changed, and all be read.
fn allowing<P: AsRef<Path>>(paths: &[P]) -> Result<Access, AccessError> {
    let mut rules = everything();
    for path in paths {
        let access = FileAccess::Host {
            execute: true,
            write: profile::Write::Through,
        };
        let origin = Origin::Option("--rw");
        let rule = FileRule { access, origin };
        rules.files.0.insert(path.as_ref().into(), rule);
    }
    Access::new(rules, false)
}

/// A directory for one test, with what may be changed in `inside`, and what may not in `outside`.
struct Tree {
    base: PathBuf,
    access: Access,
}

impl Tree {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("uvisor-files-{}-{number}", std::process::id());
        let base = std::env::temp_dir().join(name);
        fs::create_dir(&base).unwrap();
        let base = base.canonicalize().unwrap();
        for directory in ["inside/sub", "outside/sub"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        for file in [
            "inside/file",
            "inside/sub/file",
            "outside/file",
            "outside/sub/file",
        ] {
            fs::write(base.join(file), CONTENT).unwrap();
        }
        for (target, link) in [
            ("../outside/file", "inside/to-file"),
            ("../outside/new", "inside/to-new"),
            ("../outside", "inside/to-directory"),
            ("file", "inside/to-own"),
            ("fresh", "inside/to-fresh"),
            ("loop", "inside/loop"),
            ("../inside/file", "outside/back"),
        ] {
            symlink(target, base.join(link)).unwrap();
        }
        let access = allowing(&[base.join("inside")]).unwrap();
        Self { base, access }
    }

    /// One in which something is hidden.
    fn hiding(name: &str) -> Self {
        let mut tree = Self::new();
        let mut rules = tree.access.rules().clone();
        let origin = Origin::Option("--hide");
        let access = FileAccess::Hidden;
        let path = tree.base.join(name);
        rules.files.0.insert(path, FileRule { access, origin });
        tree.access = Access::new(rules, false).unwrap();
        tree
    }

    fn scope(&self) -> Scope<'_> {
        Scope {
            fds: fds(),
            access: &self.access,
            program: c"/bin/true",
            checkpoint: b"",
        }
    }

    fn path(&self, name: impl AsRef<Path>) -> CString {
        CString::new(self.base.join(name).as_os_str().as_bytes()).unwrap()
    }

    /// Opens a file as a task would; the descriptor is closed with the result.
    fn open(&self, name: &str, flags: i32) -> SysResult<OwnedFd> {
        self.open_mode(name, flags, 0o644)
    }

    fn open_mode(&self, name: &str, flags: i32, mode: u32) -> SysResult<OwnedFd> {
        self.open_how(AT, &self.path(name), flags, mode, 0)
    }

    fn open_how(
        &self,
        directory: RawFd,
        path: &std::ffi::CStr,
        flags: i32,
        mode: u32,
        resolve: u64,
    ) -> SysResult<OwnedFd> {
        let how = How {
            flags: flags | libc::O_CLOEXEC,
            mode,
            resolve,
        };
        let fd = self.scope().open(directory, path, how)?;
        // SAFETY: The call just made this descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
    }

    /// A descriptor of a directory or file, as a task has one that it may only look at.
    fn look(&self, name: &str) -> OwnedFd {
        self.open(name, libc::O_PATH).unwrap()
    }

    fn content(&self, name: &str) -> String {
        fs::read_to_string(self.base.join(name)).unwrap()
    }

    fn exists(&self, name: &str) -> bool {
        self.base.join(name).symlink_metadata().is_ok()
    }

    /// All that is outside is as it was.
    fn check_outside(&self) {
        let names = |path: &str| {
            let mut names: Vec<_> = fs::read_dir(self.base.join(path))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names("outside"), ["back", "file", "sub"]);
        assert_eq!(names("outside/sub"), ["file"]);
        assert_eq!(self.content("outside/file"), CONTENT);
        assert_eq!(self.content("outside/sub/file"), CONTENT);
        assert_eq!(names(""), ["inside", "outside"]);
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // What stays behind does no harm.
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// The error of what must have one.
fn error<T>(result: SysResult<T>) -> Option<Errno> {
    result.err()
}

/// Writes to an open file.
fn write(fd: OwnedFd, text: &str) -> std::io::Result<()> {
    File::from(fd).write_all(text.as_bytes())
}

fn raw(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}
