// SPDX-License-Identifier: GPL-2.0

//! Finding the file that a name means, and what the first line of a script says.

use std::ffi::{CString, OsStr};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::LoadError;
use crate::errno::Errno;
use crate::pass;
use crate::personality::reopen;

/// Where programs are looked for if the environment has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How much of a script's first line the kernel reads.
const SCRIPT_LINE: usize = 256;

/// Finds a program by its name.
pub(super) fn search(name: &OsStr) -> Result<PathBuf, LoadError> {
    let not_found = || LoadError::NotFound(name.into());
    if name.is_empty() {
        return Err(not_found());
    }
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut denied = None;
    for directory in std::env::split_paths(&path) {
        // An empty entry is the current directory.
        let candidate = match directory.as_os_str().is_empty() {
            true => Path::new(".").join(name),
            false => directory.join(name),
        };
        match executable(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(Errno::EACCES) => denied = denied.or(Some(candidate)),
            Err(_) => {}
        }
    }
    Err(denied.map_or_else(not_found, LoadError::Permission))
}

/// Whether a path is a file that may be executed.
fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = path.metadata()?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::ENOENT)?;
    let at = libc::AT_FDCWD;
    pass!(FACCESSAT2, at, &*path, libc::X_OK, libc::AT_EACCESS).map(drop)
}

/// Looks a file up: gives a handle on it (`O_PATH`), by which it is not opened yet.
pub type Look<'a> = &'a dyn Fn(&Path) -> Result<OwnedFd, Errno>;

/// Looks up what this process sees.
pub(super) fn look(path: &Path) -> Result<OwnedFd, Errno> {
    let mut options = OpenOptions::new();
    let handle = options.read(true).custom_flags(libc::O_PATH).open(path)?;
    Ok(handle.into())
}

/// Opens an executable file, if `look` gives a handle on it.
pub(super) fn open(path: &Path, look: Look<'_>) -> Result<File, LoadError> {
    let explain = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoadError::NotFound(path.into()),
        io::ErrorKind::PermissionDenied => LoadError::Permission(path.into()),
        _ => LoadError::Open {
            path: path.into(),
            source,
        },
    };
    let handle =
        look(path).map_err(|error| explain(io::Error::from_raw_os_error(error.number())))?;
    let handle = File::from(handle);
    let kind = handle.metadata().map_err(explain)?.file_type();
    if kind.is_dir() || !kind.is_file() {
        return Err(LoadError::NotFile {
            path: path.into(),
            what: if kind.is_dir() {
                "directory"
            } else {
                "device or pipe"
            },
        });
    }
    let (fd, flags) = (handle.as_raw_fd(), libc::AT_EACCESS | libc::AT_EMPTY_PATH);
    if pass!(FACCESSAT2, fd, c"", libc::X_OK, flags).is_err() {
        return Err(LoadError::Permission(path.into()));
    }
    let flags = libc::O_RDONLY | libc::O_NOCTTY | libc::O_CLOEXEC;
    match reopen(fd, flags) {
        Ok(fd) => Ok(crate::device::new_fd(fd as i32).into()),
        Err(Errno::EACCES) => Err(LoadError::Permission(path.into())),
        Err(error) => Err(LoadError::Load {
            path: path.into(),
            error,
        }),
    }
}

/// The interpreter that a script's first line names, and its argument; `None` if it is no script.
#[allow(clippy::type_complexity)]
pub(super) fn script(
    file: &File,
    path: &Path,
) -> Result<Option<(Vec<u8>, Option<Vec<u8>>)>, LoadError> {
    let mut buffer = [0; SCRIPT_LINE];
    let len = file
        .read_at(&mut buffer, 0)
        .map_err(|source| LoadError::Open {
            path: path.into(),
            source,
        })?;
    let bytes = &buffer[..len];
    let Some(line) = bytes.strip_prefix(b"#!") else {
        return Ok(None);
    };
    parse_script(line, len == SCRIPT_LINE)
        .map(Some)
        .ok_or_else(|| LoadError::Script(path.into()))
}

/// Parses a script's first line behind its `#!`; `cut` says that there may be more of it.
fn parse_script(bytes: &[u8], cut: bool) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let newline = bytes.iter().position(|&byte| byte == b'\n');
    let line = &bytes[..newline.unwrap_or(bytes.len())];
    let line = line.trim_ascii();
    let end = line.iter().position(|byte| blank(byte) || *byte == 0);
    // A path that the buffer cuts off is not a path.
    if cut && newline.is_none() && end.is_none() {
        return None;
    }
    let (interpreter, rest) = line.split_at(end.unwrap_or(line.len()));
    if interpreter.is_empty() {
        return None;
    }
    let argument = rest.split(|&byte| byte == 0).next()?.trim_ascii();
    let argument = (!argument.is_empty()).then(|| argument.to_vec());
    Some((interpreter.to_vec(), argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_lines() {
        let parsed = |line: &[u8]| {
            parse_script(line, false).map(|(path, argument)| {
                let text = |bytes| String::from_utf8(bytes).unwrap();
                (text(path), argument.map(text))
            })
        };
        let some = |path: &str, argument: Option<&str>| {
            Some((path.to_owned(), argument.map(str::to_owned)))
        };
        assert_eq!(parsed(b"/bin/sh\nx"), some("/bin/sh", None));
        assert_eq!(parsed(b" \t/bin/sh"), some("/bin/sh", None));
        assert_eq!(
            parsed(b"/usr/bin/awk -f  x \n"),
            some("/usr/bin/awk", Some("-f  x"))
        );
        assert_eq!(parsed(b"\n/bin/sh"), None);
        assert_eq!(parsed(b""), None);
        assert_eq!(parse_script(&[b'x'; 254], true), None);
    }
}
