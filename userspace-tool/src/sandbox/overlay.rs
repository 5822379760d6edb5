// SPDX-License-Identifier: GPL-2.0

//! Overlays: what a task changes in a directory of the host's goes to another one, in memory or on disk.
//!
//! The attributes in which the kernel notes what was removed are those that need no privileges (`userxattr`), so that
//! an overlay is the same for user 0 and for others, and never trusts what a directory of the host's has in its
//! `trusted.*` ones. What is read is looked up once, by descriptor.

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    chmodat, chownat, fstat, fstatvfs, mkdirat, openat, openat2, AtFlags, Gid, Mode, OFlags,
    ResolveFlags, Stat, StatVfsMountFlags, Uid,
};
use rustix::io::Errno as Os;

use super::mount::{self, Tmpfs};
use crate::errno::{Errno, SysResult};

/// Where the changes go that are to be there when the task has ended.
#[derive(Debug)]
pub struct Kept {
    /// What they are made in, as the rule has it.
    pub path: PathBuf,
    /// Where they go, as an absolute path without links: a directory that is the user's alone, with `upper` and
    /// `work` in it, both empty.
    pub directory: PathBuf,
}

/// What an overlay is made of besides the host's directory.
#[derive(Debug)]
pub(super) struct Layers {
    upper: OwnedFd,
    work: OwnedFd,
}

impl Layers {
    /// Those that are kept, looked up in the mounts that this process has by now, as the kernel wants it.
    pub(super) fn open(host: BorrowedFd<'_>, kept: &Kept) -> SysResult<Self> {
        let open = |name: &str| {
            let path = kept.directory.join(name);
            let below = path.strip_prefix("/").unwrap_or(&path).to_owned();
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
            openat2(host, below, DIRECTORY, Mode::empty(), resolve)
        };
        Ok(Self {
            upper: open("upper")?,
            work: open("work")?,
        })
    }
}

/// How a directory is opened that is to be one, and not a link to one.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Where changes are that are not kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory<'a> {
    /// A directory of the host's tree that is not used any more: the layers of an overlay must be attached somewhere.
    pub(super) at: BorrowedFd<'a>,
    /// How many bytes those of an overlay may have.
    pub(super) bytes: u64,
}

/// Makes an overlay of a directory of the host's, not attached anywhere yet.
pub(super) fn new(
    lower: BorrowedFd<'_>,
    kept: Option<&Layers>,
    memory: Memory<'_>,
    mut attributes: u64,
) -> SysResult<OwnedFd> {
    if fstatvfs(lower)?.f_flag.contains(StatVfsMountFlags::NOEXEC) {
        attributes |= libc::MOUNT_ATTR_NOEXEC;
    }
    let own;
    let layers = match kept {
        Some(kept) => kept,
        None => {
            let (mode, bytes) = (0o700, memory.bytes);
            // The overlay itself says what may be executed.
            let made = mount::tmpfs(Tmpfs {
                mode,
                bytes,
                execute: true,
            })?;
            mount::attach(made.as_fd(), memory.at)?;
            own = Layers {
                upper: directory(&made, "upper")?,
                work: directory(&made, "work")?,
            };
            imitate(&made, "upper", &fstat(lower)?)?;
            &own
        }
    };
    let overlay = mount::overlay(lower, layers.upper.as_fd(), layers.work.as_fd())?;
    mount::set_attributes(overlay.as_fd(), attributes, false)?;
    Ok(overlay)
}

/// Makes a directory.
fn directory(at: &OwnedFd, name: &str) -> SysResult<OwnedFd> {
    mkdirat(at, name, Mode::RWXU)?;
    Ok(openat(at, name, DIRECTORY, Mode::empty())?)
}

/// Gives a directory of changes the owner and mode of the one that they are made in, as it is the former's that are
/// seen. Whoever cannot give it away owns it.
pub(crate) fn imitate(at: &OwnedFd, name: &str, host: &Stat) -> Result<(), Os> {
    let (uid, gid) = (Uid::from_raw(host.st_uid), Gid::from_raw(host.st_gid));
    match chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) | Err(Os::PERM | Os::INVAL | Os::OVERFLOW) => {}
        Err(errno) => return Err(errno),
    }
    let mode = Mode::from_raw_mode(host.st_mode & 0o1777);
    chmodat(at, name, mode, AtFlags::empty())
}

/// Where this process has something mounted.
pub(super) fn mount_points() -> SysResult<Vec<PathBuf>> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(Errno::from)?;
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(unescape(field))))
    });
    Ok(points.collect())
}

/// A path as the kernel means it, which writes spaces and the like as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| behind.get(..3)).flatten();
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

/// A mount point below an overlay that no rule is about: in an overlay the directory that it is mounted on would be
/// seen, which is usually empty.
pub(super) fn uncovered<'a>(
    real: &Path,
    points: &'a [PathBuf],
    rules: &[&Path],
) -> Option<&'a Path> {
    let below = |path: &Path| path != real && path.starts_with(real);
    let covered = |point: &Path| {
        let mut above = rules.iter().filter(|rule| below(rule));
        above.any(|rule| point.starts_with(rule))
    };
    let own = |point: &Path| point.starts_with("/proc") || point.starts_with("/dev");
    let mut points = points.iter().map(PathBuf::as_path);
    points.find(|point| below(point) && !covered(point) && !own(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mounts_are_read_as_the_kernel_writes_them() {
        for (field, path) in [
            ("/", "/"),
            ("/a\\040b\\012", "/a b\n"),
            ("/a\\134040", "/a\\040"),
            ("/a\\04", "/a\\04"),
            ("/\\999", "/\\999"),
        ] {
            assert_eq!(unescape(field.as_bytes()), path.as_bytes(), "{field}");
        }
        let points = mount_points().unwrap();
        assert!(points.contains(&"/proc".into()), "{points:?}");
    }

    #[test]
    fn what_is_mounted_below_needs_a_rule() {
        let points: Vec<PathBuf> = ["/", "/a", "/a/b/c", "/ab", "/proc", "/dev/shm"]
            .map(PathBuf::from)
            .into();
        let find = |real: &str, rules: &[&str]| {
            let rules: Vec<&Path> = rules.iter().map(Path::new).collect();
            let found = uncovered(Path::new(real), &points, &rules);
            found.map(|path| path.to_str().unwrap().to_owned())
        };
        let some = |path: &str| Some(path.to_owned());
        assert_eq!(find("/a", &["/a"]), some("/a/b/c"));
        assert_eq!(find("/a", &["/", "/a", "/a/b"]), None);
        assert_eq!(find("/a", &["/a/b/c"]), None);
        assert_eq!(find("/a", &["/a/b/c/d"]), some("/a/b/c"));
        assert_eq!(find("/a/b/c", &[]), None);
        assert_eq!(find("/x", &[]), None);
        assert_eq!(find("/", &["/a"]), some("/ab"));
        assert_eq!(find("/", &["/a", "/ab"]), None);
    }
}
