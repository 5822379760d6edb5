// SPDX-License-Identifier: GPL-2.0

//! Files as themselves: found below a directory without links, and described by descriptor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    fstat, getxattr, getxattr_query, listxattr, listxattr_query, open, openat2, readlinkat, seek,
    Mode, OFlags, ResolveFlags, SeekFrom, Stat,
};
use rustix::io::Errno as Os;

use crate::errno::{Errno, SysResult};

/// All attributes of a file together: more than these are a reason not to look at it.
const ATTRIBUTES: usize = 1 << 20;

/// What files are compared and copied by at a time.
pub(super) const CHUNK: usize = 1 << 17;

/// What is a name, opened as itself.
pub(super) const ITSELF: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);

/// Opens what is at a path below a directory. What the path leads through are directories of the same file system, or
/// it is an error, whatever becomes of them meanwhile.
pub(super) fn open_below(
    directory: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
) -> SysResult<OwnedFd> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    loop {
        match openat2(directory, path, flags, Mode::empty(), resolve) {
            // What it leads through was moved under way.
            Err(Os::AGAIN | Os::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// The same of what may not be there.
pub(super) fn find_below(directory: BorrowedFd<'_>, path: &Path) -> SysResult<Option<OwnedFd>> {
    match open_below(directory, path, ITSELF) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The path of a descriptor, for calls that take none.
pub(super) fn by_descriptor(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens what a descriptor is of once more, to use it.
pub(super) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> SysResult<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(open(by_descriptor(fd), flags, Mode::empty())?)
}

/// A time, in seconds and nanoseconds.
pub(super) type Time = (i64, u32);

/// What kind of file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One with content.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A named pipe.
    Fifo,
    /// A socket with a path.
    Socket,
    /// A device.
    Device,
}

impl Kind {
    fn of(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Self::File,
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Link,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            _ => Self::Device,
        }
    }

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "symbolic link",
            Self::Fifo => "named pipe",
            Self::Socket => "socket",
            Self::Device => "device",
        }
    }
}

/// What the kernel notes in an upper directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// It is there in the place of what was removed.
    pub(super) whiteout: bool,
    /// A directory that hides what the lower one has.
    pub(super) opaque: bool,
    /// It was made from something that the host had.
    pub(super) origin: bool,
}

/// A file, but for its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Who may do what, without its kind.
    pub mode: u32,
    /// Its owner and group.
    pub owner: (u32, u32),
    /// How long it is.
    pub size: u64,
    /// Where a symbolic link leads.
    pub target: Vec<u8>,
    /// Its `user.*` attributes, but for the kernel's own notes, in order.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) marks: Marks,
    pub(super) modified: Time,
    pub(super) changed: Time,
    pub(super) inode: u64,
}

/// Why something cannot be described.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blur {
    /// It cannot be looked at.
    Look(Errno),
    /// It has too many attributes.
    Attributes,
}

impl From<Errno> for Blur {
    fn from(errno: Errno) -> Self {
        Self::Look(errno)
    }
}

impl From<Os> for Blur {
    fn from(errno: Os) -> Self {
        Self::Look(errno.into())
    }
}

impl Object {
    /// What is open as itself; `upper` is whether it is in an upper directory.
    pub(super) fn of(file: BorrowedFd<'_>, upper: bool) -> Result<Self, Blur> {
        let stat = fstat(file)?;
        let kind = Kind::of(stat.st_mode);
        let mut object = Self {
            kind,
            mode: stat.st_mode & 0o7777,
            owner: (stat.st_uid, stat.st_gid),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            target: Vec::new(),
            attributes: Vec::new(),
            marks: Marks::default(),
            modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
            changed: (stat.st_ctime, stat.st_ctime_nsec as u32),
            inode: stat.st_ino,
        };
        match kind {
            Kind::Link => object.target = readlinkat(file, c"", Vec::new())?.into_bytes(),
            Kind::File | Kind::Directory => object.read_attributes(file, upper)?,
            Kind::Device => object.marks.whiteout = upper && is_whiteout(&stat),
            Kind::Fifo | Kind::Socket => {}
        }
        Ok(object)
    }

    fn read_attributes(&mut self, file: BorrowedFd<'_>, upper: bool) -> Result<(), Blur> {
        let path = by_descriptor(file);
        let mut total = 0;
        for name in names(&path)? {
            let note = name.strip_prefix(b"user.overlay.");
            if !name.starts_with(b"user.") || note.is_some() && !upper {
                continue;
            }
            let mut value = Vec::new();
            let length = getxattr_query(&path, &*name).and_then(|length| {
                value.resize(length, 0);
                getxattr(&path, &*name, &mut value[..])
            });
            let length = match length {
                // It went meanwhile.
                Err(Os::NODATA) => continue,
                length => length?,
            };
            value.truncate(length);
            match note {
                Some(b"whiteout") => self.marks.whiteout = self.size == 0,
                // `x` says something about what is in the directory.
                Some(b"opaque") => self.marks.opaque = value == b"y",
                Some(b"origin") => self.marks.origin = true,
                Some(_) => {}
                None => {
                    total += name.len() + value.len();
                    if total > ATTRIBUTES {
                        return Err(Blur::Attributes);
                    }
                    self.attributes.push((name, value));
                }
            }
        }
        if self.is_directory() {
            self.marks.whiteout = false;
        }
        self.attributes.sort_unstable();
        Ok(())
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The bits of the mode that are ever changed on the host.
    pub(super) fn plain_mode(&self) -> u32 {
        match self.kind {
            Kind::Directory => self.mode & 0o1777,
            _ => self.mode & 0o777,
        }
    }

    /// Whether it is what it was when it was looked at before; of directories only whether it is the same one.
    pub(super) fn is_still(&self, before: &Self) -> bool {
        let same = (self.kind, self.inode) == (before.kind, before.inode);
        let untouched = self.changed == before.changed && self.size == before.size;
        same && (self.is_directory() || untouched)
    }
}

/// A device of the numbers 0 and 0, which the kernel lets everybody make for this.
fn is_whiteout(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

/// The names of a file's attributes.
fn names(path: &str) -> SysResult<Vec<Vec<u8>>> {
    let mut list = Vec::new();
    loop {
        let length = match listxattr_query(path) {
            Err(Os::OPNOTSUPP) => 0,
            length => length?,
        };
        list.resize(length, 0);
        if length == 0 {
            return Ok(Vec::new());
        }
        match listxattr(path, &mut list[..]) {
            // There are more by now.
            Err(Os::RANGE) => {}
            length => {
                list.truncate(length?);
                let names = list.split(|byte| *byte == 0);
                let names = names.filter(|name| !name.is_empty());
                return Ok(names.map(<[u8]>::to_vec).collect());
            }
        }
    }
}

/// The names in a directory, in order.
pub(super) fn entries(directory: BorrowedFd<'_>) -> SysResult<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(by_descriptor(directory)).map_err(Errno::from)? {
        names.push(entry.map_err(Errno::from)?.file_name().into_vec());
    }
    names.sort_unstable();
    Ok(names)
}

/// A path and one name more.
pub(super) fn join(path: &Path, name: &[u8]) -> PathBuf {
    path.join(std::ffi::OsStr::from_bytes(name))
}

/// Where the next bytes of a file are from a place on that are not left out; none if there are none.
pub(super) fn next_data(file: BorrowedFd<'_>, from: u64) -> SysResult<Option<u64>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(place) => Ok(Some(place)),
        Err(Os::NXIO) => Ok(None),
        // All of it, where a file system does not know.
        Err(Os::INVAL) => Ok(Some(from)),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads as many bytes at a place as there are, and the buffer has room for.
pub(super) fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> SysResult<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Os::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(filled)
}

/// Whether two files have the same content; they are of the same size. What is left out in both is not read.
pub(super) fn same_content(one: BorrowedFd<'_>, two: BorrowedFd<'_>, size: u64) -> SysResult<bool> {
    let (one, two) = (reopen(one, OFlags::RDONLY)?, reopen(two, OFlags::RDONLY)?);
    let (mut first, mut second) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        let places = [next_data(one.as_fd(), at)?, next_data(two.as_fd(), at)?];
        let Some(start) = places.into_iter().flatten().min() else {
            break;
        };
        let count = read_at(one.as_fd(), &mut first, start)?;
        let other = read_at(two.as_fd(), &mut second, start)?;
        if count != other || first.get(..count) != second.get(..count) {
            return Ok(false);
        }
        if count == 0 {
            break;
        }
        at = start + count as u64;
    }
    Ok(true)
}
