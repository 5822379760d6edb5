// SPDX-License-Identifier: GPL-2.0

//! `execve`: the task becomes another program, in a micro-VM as new as its first.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::files::directory_for;
use super::links::path_of;
use super::paths::{self, Scope, Special};
use super::procfs;
use super::status::status_of;
use super::Args;
use crate::audit::notes;
use crate::errno::{Errno, SysResult};
use crate::loader::{LoadError, Program};
use crate::task::{Task, TaskError};

/// The most bytes of arguments and environment, as Linux has it for a stack of 8 MiB.
const STRINGS_MAX: usize = 2 << 20;

/// The longest argument.
const STRING_MAX: usize = 128 << 10;

/// The strings of an array of pointers that ends with a null pointer; a null array is empty.
fn strings(task: &Task, array: u64, room: &mut usize) -> SysResult<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    let mut at = array;
    while at != 0 {
        let pointer = u64::from_le_bytes(task.memory.read(at)?);
        if pointer == 0 {
            break;
        }
        let text = task.memory.text(pointer, STRING_MAX, Errno::E2BIG)?;
        // Each takes its bytes, its NUL and a pointer on the new stack.
        let size = text.as_bytes().len() + 1 + 8;
        *room = room.checked_sub(size).ok_or(Errno::E2BIG)?;
        strings.push(text.into_bytes());
        at = at.checked_add(8).ok_or(Errno::EFAULT)?;
    }
    Ok(strings)
}

/// What `execve` says of a program that cannot be loaded.
fn errno(error: &LoadError) -> Errno {
    match error {
        LoadError::NotFound(_) | LoadError::NoInterpreter { .. } => Errno::ENOENT,
        LoadError::Permission(_) | LoadError::NotFile { .. } => Errno::EACCES,
        LoadError::ScriptLoop(_) => Errno::ELOOP,
        LoadError::Elf { .. } | LoadError::Script(_) => Errno::ENOEXEC,
        LoadError::Stack(_) => Errno::E2BIG,
        LoadError::Load { error, .. } => *error,
        LoadError::Open { source, .. } => {
            let number = source.raw_os_error().unwrap_or(libc::EIO);
            std::io::Error::from_raw_os_error(number).into()
        }
        LoadError::NoRoom(_) | LoadError::Vm(_) => Errno::ENOMEM,
    }
}

pub(super) fn execve(task: &mut Task, [path, arguments, environment, ..]: Args) -> SysResult {
    let path = task.memory.path(path)?;
    execute(task, path, arguments, environment)
}

pub(super) fn execveat(task: &mut Task, args: Args) -> SysResult {
    let [directory, path, arguments, environment, flags, _] = args;
    let flags = flags as i32;
    if flags & !(libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = task.memory.path(path)?;
    if path.is_empty() && flags & libc::AT_EMPTY_PATH == 0 {
        return Err(Errno::ENOENT);
    }
    let directory = directory_for(task, directory, &path)?;
    // The handle says which file it is; its path what the program is called.
    let handle = task.scope().look(directory, &path, flags)?;
    if status_of(handle.as_raw_fd())?.is_link() {
        return Err(Errno::ELOOP);
    }
    let path = CString::new(path_of(handle.as_raw_fd())?).map_err(|_| Errno::EINVAL)?;
    execute(task, path, arguments, environment)
}

/// Makes the task the program at a path.
fn execute(task: &mut Task, path: CString, arguments: u64, environment: u64) -> SysResult {
    let mut room = STRINGS_MAX;
    let arguments = strings(task, arguments, &mut room)?;
    let environment = strings(task, environment, &mut room)?;
    let path = match paths::special(&path, crate::process::id()) {
        // The broker's own program is not the task's.
        Some(Special::Program) => task.shared.program.clone(),
        Some(Special::Fd(_) | Special::Checkpoint) => return Err(Errno::EACCES),
        None if path.is_empty() => return Err(Errno::ENOENT),
        None => procfs::program_at(task, &path)?.unwrap_or(path),
    };
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    notes::note(|notes| {
        let path = path.as_os_str().as_bytes().to_vec();
        notes.program = Some((path, arguments.clone()));
    });
    let scope = task.scope();
    let look = |path: &Path| scope.executable(path);
    let program = Program::looked_up(path, &arguments, &look).map_err(|error| errno(&error))?;
    notes::note(|notes| {
        let file = program.started().next();
        let path = file.and_then(|(_, file)| path_of(file.as_raw_fd()).ok());
        if let (Some(noted), Some(path)) = (&mut notes.program, path) {
            noted.0 = path;
        }
    });
    if let Some(access) = task.access.programs() {
        let scope = Scope {
            access,
            ..task.scope()
        };
        let mut started = program.started();
        started.try_for_each(|(_, file)| {
            notes::refused(file.as_raw_fd(), scope.check_execute(file.as_fd()))
        })?;
    }
    match task.successor(program, environment) {
        Ok(successor) => task.succeed(successor),
        Err(TaskError::Load(error)) => Err(errno(&error)),
        Err(TaskError::Setup(error)) => Err(error),
        Err(TaskError::Module(_) | TaskError::Ring0 { .. }) => Err(Errno::ENOMEM),
    }
}
