// SPDX-License-Identifier: GPL-2.0

//! What a system call touches, as `uvctl learn` wants to know it: noted before the call, as far as its arguments say
//! it, and told when it has succeeded.
//!
//! It is no part of what confines a task: it says what a task that may do nearly everything did.

use super::addresses::named;
use super::network::option;
use super::{links, table, Args};
use crate::learn::{Seen, Use};
use crate::memory::{word, word32};
use crate::task::Task;

/// Calls whose strings are not paths, or not the first one.
const NO_PATHS: &[&str] = &["memfd_create", "fsetxattr", "fgetxattr", "fremovexattr"];

/// What a call will have touched when it has succeeded; and its name, whatever comes of it.
pub(crate) fn seen(task: &Task, number: u64, args: &Args) -> Vec<Seen> {
    let Some(call) = table::find(number) else {
        return Vec::new();
    };
    let mut seen = vec![Seen::Call {
        name: call.name.to_owned(),
    }];
    let usage = usage(task, call.name, args);
    let paths = paths_of(task, call.name, call.shape, args);
    seen.extend(paths.into_iter().map(|path| Seen::Path { path, usage }));
    match call.name {
        "fork" | "vfork" => seen.push(Seen::Fork),
        "clone" if !is_thread(args[0]) => seen.push(Seen::Fork),
        "clone3" => {
            let flags = task.memory.read::<8>(args[0]);
            if flags.is_ok_and(|flags| !is_thread(word(&flags, 0))) {
                seen.push(Seen::Fork);
            }
        }
        "mmap" => seen.extend(mapping(task, args)),
        "mprotect" | "pkey_mprotect" if args[2] as i32 & libc::PROT_EXEC != 0 => {
            seen.push(Seen::Code);
        }
        "getdents" | "getdents64" => {
            seen.extend(file(task, args[0]).map(|path| Seen::Path {
                path,
                usage: Use::List,
            }));
        }
        "connect" => seen.extend(address(task, args[0], args[1], args[2], false)),
        "sendto" if args[4] != 0 => seen.extend(address(task, args[0], args[4], args[5], false)),
        "sendmsg" => {
            if let Ok(header) = task.memory.read::<16>(args[1]) {
                let (name, len) = (word(&header, 0), word32(&header, 8));
                seen.extend(address(task, args[0], name, len.into(), false));
            }
        }
        "bind" => seen.extend(address(task, args[0], args[1], args[2], true)),
        _ => {}
    }
    seen
}

fn is_thread(flags: u64) -> bool {
    flags & libc::CLONE_THREAD as u64 != 0
}

/// What a call does with the paths that it has.
fn usage(task: &Task, name: &str, args: &Args) -> Use {
    let flags = match name {
        "open" => args[1],
        "openat" => args[2],
        "openat2" => match task.memory.read::<8>(args[2]) {
            Ok(how) => word(&how, 0),
            Err(_) => 0,
        },
        "creat" => libc::O_WRONLY as u64,
        "execve" | "execveat" => return Use::Execute,
        "mkdir" | "mkdirat" | "rmdir" | "unlink" | "unlinkat" | "rename" | "renameat"
        | "renameat2" | "link" | "linkat" | "symlink" | "symlinkat" | "chmod" | "fchmodat"
        | "fchmodat2" | "chown" | "lchown" | "fchownat" | "utime" | "utimes" | "utimensat"
        | "futimesat" | "truncate" | "mknod" | "mknodat" | "setxattr" | "lsetxattr"
        | "removexattr" | "lremovexattr" => return Use::Change,
        _ => return Use::Look,
    };
    let changes = libc::O_CREAT | libc::O_TRUNC;
    match flags as i32 & (libc::O_ACCMODE | changes) {
        libc::O_RDONLY => Use::Read,
        _ => Use::Change,
    }
}

/// The paths that a call has, as absolute ones.
fn paths_of(task: &Task, name: &str, shape: &str, args: &Args) -> Vec<Vec<u8>> {
    if NO_PATHS.contains(&name) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut directory = None;
    for (kind, value) in shape.chars().zip(args) {
        match kind {
            '@' => directory = Some(*value),
            's' => {
                found.extend(absolute(task, directory.take(), *value));
                // The second one is a name or a value.
                if name.ends_with("xattr") {
                    break;
                }
            }
            _ => {}
        }
    }
    // What a link says is nothing that is touched.
    if name.starts_with("symlink") && found.len() > 1 {
        found.remove(0);
    }
    found
}

/// A path of the guest's from the root directory on.
fn absolute(task: &Task, directory: Option<u64>, address: u64) -> Option<Vec<u8>> {
    let path = task.memory.path(address).ok()?.into_bytes();
    if path.first() == Some(&b'/') {
        return Some(path);
    }
    let mut whole = match directory {
        Some(fd) if fd as i32 != libc::AT_FDCWD => file(task, fd)?,
        _ => links::current().ok()?,
    };
    if !path.is_empty() {
        whole.push(b'/');
        whole.extend(path);
    }
    Some(whole)
}

/// The path of an open file.
fn file(task: &Task, fd: u64) -> Option<Vec<u8>> {
    let fd = task.fds.open(fd as i32).ok()?;
    links::path_of(fd)
        .ok()
        .filter(|path| path.first() == Some(&b'/'))
}

/// What a mapping makes executable.
fn mapping(task: &Task, args: &Args) -> Option<Seen> {
    let (prot, flags) = (args[2] as i32, args[3] as i32);
    if prot & libc::PROT_EXEC == 0 {
        return None;
    }
    if flags & libc::MAP_ANONYMOUS != 0 || prot & libc::PROT_WRITE != 0 {
        return Some(Seen::Code);
    }
    let path = file(task, args[4])?;
    let usage = Use::Execute;
    Some(Seen::Path { path, usage })
}

/// Whom a socket reaches, or where it is reached.
fn address(task: &Task, fd: u64, address: u64, len: u64, listen: bool) -> Option<Seen> {
    let fd = task.fds.open(fd as i32).ok()?;
    let len = usize::try_from(len).ok().filter(|len| *len <= 128)?;
    let bytes = task.memory.read_vec(address, len).ok()?;
    let (ip, port) = named(&bytes)?;
    let kind = option(fd, libc::SOL_SOCKET, libc::SO_TYPE).ok()?;
    let tcp = i32::from_le_bytes(kind) == libc::SOCK_STREAM;
    Some(Seen::Address {
        tcp,
        ip,
        port,
        listen,
    })
}
