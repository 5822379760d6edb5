// SPDX-License-Identifier: GPL-2.0

//! The open files of a template: which can be carried over, and how.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{During, OpenFile, Result, TemplateError, FILES_MAX};
use crate::errno::{Errno, SysResult};
use crate::memory::word;
use crate::pass;
use crate::personality::{check_carried, path_of, reopen, Access, Fds};

/// Standard input, output and error as they were when the program was started, so that they are recognised
/// under any number.
#[derive(Debug)]
pub struct Stdio([Option<OwnedFd>; 3]);

impl Stdio {
    /// Those of this process, duplicated into the broker's own descriptors.
    pub(super) fn now(fds: &Fds) -> Result<Self> {
        let mut all = [None, None, None];
        for (fd, slot) in (0..).zip(&mut all) {
            if pass!(FCNTL, fd, libc::F_GETFD, 0).is_ok() {
                // SAFETY: It is open, and nobody closes it before this call ends.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                *slot = Some(fds.own(fd).during("cannot duplicate a descriptor")?);
            }
        }
        Ok(Self(all))
    }

    /// Which of them a descriptor is: if several are the same, its own number, or the first.
    pub(super) fn find(&self, fd: RawFd) -> Option<u8> {
        let same = |index: &u8| {
            let of = self.0.get(usize::from(*index));
            of.and_then(Option::as_ref)
                .is_some_and(|own| is_same(own.as_raw_fd(), fd))
        };
        let own = u8::try_from(fd).ok().filter(same);
        own.or_else(|| (0..3).find(same))
    }
}

/// Whether two descriptors are of one open file, so that they have the offset in common.
fn is_same(a: RawFd, b: RawFd) -> bool {
    const KCMP_FILE: u64 = 0;
    let process = u64::from(crate::process::id());
    pass!(KCMP, process, process, KCMP_FILE, a, b) == Ok(0)
}

/// The open files of a task, and descriptors for those that need one.
pub(super) struct Captured {
    pub(super) files: Vec<(i32, bool, OpenFile)>,
    pub(super) handles: Vec<OwnedFd>,
}

/// Looks at the guest's descriptors.
pub(super) fn capture(fds: &Fds, stdio: &Stdio) -> Result<Captured> {
    let mut all = Captured {
        files: Vec::new(),
        handles: Vec::new(),
    };
    for (fd, closes) in fds.all_open() {
        let file = match stdio.find(fd) {
            Some(index) => OpenFile::Stdio(index),
            None => describe(fd)?,
        };
        if !matches!(file, OpenFile::Stdio(_)) {
            if all.handles.len() >= FILES_MAX {
                return Err(TemplateError::TooManyFiles);
            }
            // Within the guest's range, as there are few own ones; the task does not run any more.
            let handle = duplicate(fd, 0).during("cannot duplicate a descriptor")?;
            all.handles.push(handle);
        }
        all.files.push((fd, closes, file));
    }
    Ok(all)
}

/// Duplicates a descriptor to one from `least` on.
fn duplicate(fd: RawFd, least: RawFd) -> SysResult<OwnedFd> {
    let fd = pass!(FCNTL, fd, libc::F_DUPFD_CLOEXEC, least as u64)?;
    // SAFETY: The kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// What a descriptor is, if it can be carried over.
fn describe(fd: RawFd) -> Result<OpenFile> {
    let looking = "cannot look at an open file";
    let flags = pass!(FCNTL, fd, libc::F_GETFL, 0).during(looking)? as i32;
    if flags & libc::O_PATH != 0 {
        return Ok(OpenFile::Path);
    }
    let mut stat = [0; 144];
    pass!(FSTAT, fd, &mut stat).during(looking)?;
    let path = path_of(fd).during(looking)?;
    let path = String::from_utf8_lossy(&path).into_owned();
    let refused = |what: String| Err(TemplateError::OpenFile { fd, what });
    let seeks = match word(&stat, 24) as u32 & libc::S_IFMT {
        libc::S_IFREG if flags & libc::O_ACCMODE != libc::O_RDONLY => {
            return refused(format!("the file {path}, for writing,"))
        }
        libc::S_IFREG | libc::S_IFDIR => true,
        libc::S_IFCHR => false,
        libc::S_IFIFO => return refused("a pipe".into()),
        libc::S_IFSOCK => return refused("a socket".into()),
        _ => return refused(format!("{path:?}")),
    };
    let offset = match seeks {
        true => Some(pass!(LSEEK, fd, 0, libc::SEEK_CUR).during(looking)?),
        false => None,
    };
    let kept = libc::O_ACCMODE | libc::O_NONBLOCK | libc::O_APPEND | libc::O_DIRECTORY;
    Ok(OpenFile::Reopen {
        flags: flags & kept | libc::O_NOCTTY,
        offset,
        path,
    })
}

/// Refuses what a template has open and `access` would not give.
pub(super) fn check(
    fds: &Fds,
    access: &Access,
    files: &[(i32, bool, OpenFile)],
    handles: &[OwnedFd],
) -> Result<()> {
    let carried = files
        .iter()
        .filter(|(_, _, file)| !matches!(file, OpenFile::Stdio(_)));
    for ((fd, _, file), handle) in carried.zip(handles) {
        let handle = handle.as_raw_fd();
        let opens = !matches!(file, OpenFile::Path);
        if check_carried(fds, access, handle, opens).is_err() {
            let path = path_of(handle).during("cannot look at an open file")?;
            return Err(TemplateError::NotGiven {
                fd: *fd,
                path: String::from_utf8_lossy(&path).into_owned(),
            });
        }
    }
    Ok(())
}

/// Gives the task of this process the descriptors that a template has, and no others.
pub(super) fn restore(
    fds: &Fds,
    files: &[(i32, bool, OpenFile)],
    handles: Vec<OwnedFd>,
) -> Result<()> {
    let placing = "cannot give the program its descriptors";
    let highest = files.iter().map(|(fd, ..)| *fd).max().unwrap_or(0).max(2);
    if highest >= fds.limit() {
        let low = "the limit on open files (`ulimit -n`) is lower than the template's";
        return Err(Errno::EMFILE).during(low);
    }
    // Out of the way of all numbers that are to be taken.
    let above = |fd: RawFd| duplicate(fd, highest + 1).during(placing);
    let plain = |(fd, _, file): &(i32, bool, OpenFile)| *file == OpenFile::Stdio(*fd as u8);
    let only_stdio = files.len() == 3 && files.iter().all(plain) && handles.is_empty();
    if only_stdio && !files.iter().any(|(_, closes, _)| *closes) {
        // Most programs: nothing to do.
        return Ok(());
    }
    let mut moved = Vec::with_capacity(handles.len());
    for handle in handles {
        moved.push(above(handle.as_raw_fd())?);
    }
    let mut stdio = Vec::new();
    for fd in 0..3 {
        // What this process does not have, the task will not have either.
        stdio.push(duplicate(fd, highest + 1).ok());
    }
    fds.close_up_to(highest).during(placing)?;
    let mut moved = moved.into_iter();
    for (fd, closes, file) in files {
        let cloexec = if *closes { libc::O_CLOEXEC } else { 0 };
        let opened = match file {
            OpenFile::Stdio(index) => match stdio.get(usize::from(*index)) {
                Some(Some(own)) => above(own.as_raw_fd())?,
                _ => continue,
            },
            OpenFile::Path => next(&mut moved)?,
            OpenFile::Reopen {
                flags,
                offset,
                path,
            } => open_again(&next(&mut moved)?, *flags, *offset).map_err(|error| {
                TemplateError::Reopen {
                    fd: *fd,
                    path: path.clone(),
                    error,
                }
            })?,
        };
        if opened.as_raw_fd() == *fd {
            let flags = if *closes { libc::FD_CLOEXEC } else { 0 };
            pass!(FCNTL, *fd, libc::F_SETFD, flags).during(placing)?;
            // It is the task's now.
            std::mem::forget(opened);
        } else {
            pass!(DUP3, opened.as_raw_fd(), *fd, cloexec).during(placing)?;
        }
    }
    Ok(())
}

/// The next of the template's files.
fn next(handles: &mut impl Iterator<Item = OwnedFd>) -> Result<OwnedFd> {
    handles
        .next()
        .ok_or(TemplateError::Message("a file is missing"))
}

/// Opens a file again: two runs that read a file have an offset each.
fn open_again(file: &OwnedFd, flags: i32, offset: Option<u64>) -> SysResult<OwnedFd> {
    let fd = reopen(file.as_fd().as_raw_fd(), flags | libc::O_CLOEXEC)?;
    // SAFETY: The kernel just made this descriptor for us.
    let opened = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    if let Some(offset) = offset {
        pass!(LSEEK, opened.as_raw_fd(), offset, libc::SEEK_SET)?;
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Seek};

    #[test]
    fn a_file_is_opened_again_at_its_offset() {
        let mut file = File::open("/proc/self/exe").unwrap();
        file.seek(std::io::SeekFrom::Start(1)).unwrap();
        let described = describe(file.as_raw_fd()).unwrap();
        let OpenFile::Reopen { flags, offset, .. } = described else {
            panic!("{described:?}");
        };
        assert_eq!(offset, Some(1));
        let again = open_again(&file.into(), flags, offset).unwrap();
        let mut bytes = [0; 3];
        File::from(again).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ELF");
    }

    #[test]
    fn what_cannot_be_carried_over_is_named() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let text = describe(reader.as_raw_fd()).unwrap_err().to_string();
        assert!(text.contains("a pipe"), "{text}");
        let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
        let text = describe(socket.as_raw_fd()).unwrap_err().to_string();
        assert!(text.contains("a socket"), "{text}");
        let file = crate::memory::tests::memory(4096).vm().duplicate().unwrap();
        let text = describe(file.as_fd().as_raw_fd()).unwrap_err().to_string();
        assert!(text.contains("for writing"), "{text}");
        let null = File::options().write(true).open("/dev/null").unwrap();
        assert!(describe(null.as_raw_fd()).is_ok());
    }

    #[test]
    fn one_open_file_is_recognised_under_another_number() {
        let file = File::open("/dev/null").unwrap();
        let twice = file.try_clone().unwrap();
        let other = File::open("/dev/null").unwrap();
        assert!(is_same(file.as_raw_fd(), twice.as_raw_fd()));
        assert!(!is_same(file.as_raw_fd(), other.as_raw_fd()));
    }
}
