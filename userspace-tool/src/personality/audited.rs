// SPDX-License-Identifier: GPL-2.0

//! What the audit is told of a system call: what it was about, by the notes that were taken while it was served, what
//! became of it, and which rule or wall decided.
//!
//! It is no part of what confines a task. A call that is not told costs a look at a flag, and one that failed for no
//! reason of these walls, such as for a file that is not there, is told as refused without a wall.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::{links, table, Args, Fate};
use crate::audit::notes::{self, Notes};
use crate::audit::{text, FileUse, Limit, MemoryUse, Outlet, Verdict, Wall, What};
use crate::errno::{Errno, SysResult};
use crate::profile::{FileAccess, NetworkRules};
use crate::task::Task;

/// What is told of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Open,
    Exec,
    /// So many paths are changed.
    Change(usize),
    /// Something is looked at: told if that is refused.
    Look,
    Connect,
    Listen,
    Fork,
    Memory,
}

// Too new for the crate.
const SETXATTRAT: i64 = 463;
const GETXATTRAT: i64 = 464;
const LISTXATTRAT: i64 = 465;
const REMOVEXATTRAT: i64 = 466;
const FILE_GETATTR: i64 = 468;

/// What is told of the call with a number.
fn kind(number: u64, args: &Args) -> Option<Kind> {
    let executable = || args[2] as i32 & libc::PROT_EXEC != 0;
    Some(match i64::try_from(number).ok()? {
        libc::SYS_open | libc::SYS_openat | libc::SYS_openat2 | libc::SYS_creat => Kind::Open,
        libc::SYS_execve | libc::SYS_execveat => Kind::Exec,
        libc::SYS_rename
        | libc::SYS_renameat
        | libc::SYS_renameat2
        | libc::SYS_link
        | libc::SYS_linkat => Kind::Change(2),
        libc::SYS_mkdir
        | libc::SYS_mkdirat
        | libc::SYS_rmdir
        | libc::SYS_unlink
        | libc::SYS_unlinkat
        | libc::SYS_symlink
        | libc::SYS_symlinkat
        | libc::SYS_mknod
        | libc::SYS_mknodat
        | libc::SYS_chmod
        | libc::SYS_fchmod
        | libc::SYS_fchmodat
        | libc::SYS_fchmodat2
        | libc::SYS_chown
        | libc::SYS_fchown
        | libc::SYS_lchown
        | libc::SYS_fchownat
        | libc::SYS_utime
        | libc::SYS_utimes
        | libc::SYS_utimensat
        | libc::SYS_futimesat
        | libc::SYS_truncate
        | libc::SYS_setxattr
        | libc::SYS_lsetxattr
        | libc::SYS_fsetxattr
        | libc::SYS_removexattr
        | libc::SYS_lremovexattr
        | libc::SYS_fremovexattr
        | SETXATTRAT
        | REMOVEXATTRAT => Kind::Change(1),
        libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_access
        | libc::SYS_faccessat
        | libc::SYS_faccessat2
        | libc::SYS_readlink
        | libc::SYS_readlinkat
        | libc::SYS_chdir
        | libc::SYS_statfs
        | libc::SYS_getxattr
        | libc::SYS_lgetxattr
        | libc::SYS_listxattr
        | libc::SYS_llistxattr
        | libc::SYS_inotify_add_watch
        | GETXATTRAT
        | LISTXATTRAT
        | FILE_GETATTR => Kind::Look,
        libc::SYS_connect | libc::SYS_sendmsg | libc::SYS_sendmmsg => Kind::Connect,
        libc::SYS_sendto if args[4] != 0 => Kind::Connect,
        libc::SYS_bind => Kind::Listen,
        libc::SYS_fork | libc::SYS_vfork | libc::SYS_clone | libc::SYS_clone3 => Kind::Fork,
        libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_pkey_mprotect if executable() => {
            Kind::Memory
        }
        _ => return None,
    })
}

/// Serves a call, and tells it.
#[cold]
pub(crate) fn serve(task: &mut Task, number: u64, args: Args) -> SysResult {
    let kind = kind(number, &args);
    if kind.is_some() {
        notes::begin();
    }
    // Before it goes on as another program, or as its own child.
    let outlet = task.audit.clone();
    let result = super::serve(task, number, args);
    let notes = notes::end();
    let waits = matches!(
        result,
        Err(Errno::ERESTARTSYS | Errno::ERESTARTNOINTR | Errno::EINTR)
    );
    let (Some(outlet), false) = (outlet, waits) else {
        return result;
    };
    let told = Told {
        task,
        outlet: &outlet,
        notes,
        result,
    };
    let name = table::find(number).map_or("", |call| call.name);
    match (told.refused_call(number), kind) {
        (true, _) | (false, None) => {}
        (false, Some(Kind::Open)) => told.open(),
        (false, Some(Kind::Exec)) => told.exec(),
        (false, Some(Kind::Change(paths))) => told.change(name, paths),
        (false, Some(Kind::Look)) => told.look(),
        (false, Some(Kind::Connect)) => told.address(false),
        (false, Some(Kind::Listen)) => told.address(true),
        (false, Some(Kind::Fork)) => told.fork(),
        (false, Some(Kind::Memory)) => told.memory(&args),
    }
    told.limits();
    result
}

/// A call that was served.
struct Told<'a> {
    task: &'a Task,
    outlet: &'a Outlet,
    notes: Notes,
    result: SysResult,
}

/// What decided.
#[derive(Default)]
struct Reason {
    rule: Option<String>,
    wall: Option<Wall>,
}

impl Reason {
    fn no_rule(wall: Wall) -> Self {
        Self {
            rule: Some("no rule".into()),
            wall: Some(wall),
        }
    }
}

impl Told<'_> {
    fn tell(&self, what: What, reason: Reason) {
        let (verdict, errno) = match self.result {
            Ok(_) => (Verdict::Allowed, None),
            // It goes on without being waited for.
            Err(Errno::EINPROGRESS) => (Verdict::Allowed, None),
            Err(errno) => (Verdict::Refused, Some(errno)),
        };
        self.outlet
            .tell_all(what, verdict, errno, reason.rule, reason.wall);
    }

    /// The wall that a refusal comes from, if nobody but the personality and the kernel could have made it.
    fn wall(&self) -> Wall {
        match self.notes.denied {
            true => Wall::Personality,
            false => Wall::Kernel,
        }
    }

    /// Tells a call that the task does not have; whether it is one.
    fn refused_call(&self, number: u64) -> bool {
        if self.result.is_ok() {
            return false;
        }
        let call = table::find(number);
        let ruled = self.task.access.refuses(number);
        let refused = ruled || call.is_none_or(|call| matches!(call.fate, Fate::Refused(..)));
        if refused {
            let name = match call {
                Some(call) => call.name.to_owned(),
                None => format!("syscall_{number}"),
            };
            let rules = &self.task.access.rules().syscalls.refused;
            let rule = rules.get(name.as_str()).filter(|_| ruled);
            let reason = Reason {
                rule: rule.map(ToString::to_string),
                wall: Some(Wall::Personality),
            };
            self.tell(What::Syscall { name }, reason);
        }
        refused
    }

    /// What decided about a file.
    fn about_file(&self, path: &Path) -> Reason {
        let rules = self.task.access.rules();
        let found = rules.files.decide(path);
        let exists = found.is_some_and(|(_, rule)| rule.access != FileAccess::Hidden);
        // What is made for the task, or answered, is no rule's.
        let made = path.starts_with("/dev") || path.starts_with("/proc");
        let rule = match found {
            Some((_, rule)) => Some(rule.origin.to_string()),
            None if self.result.is_ok() || made && !self.notes.denied => None,
            None => Some("no rule".into()),
        };
        let wall = match self.result {
            Ok(_) => None,
            Err(_) if self.notes.denied => Some(Wall::Personality),
            Err(_) if made => None,
            Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => Some(Wall::Kernel),
            // For the kernel it is not there, in the root directory that the task has.
            Err(Errno::ENOENT) if !exists => Some(Wall::Kernel),
            Err(_) => None,
        };
        Reason { rule, wall }
    }

    /// The path that a call is about.
    fn path(&self) -> PathBuf {
        let noted = self.notes.file.as_deref();
        let given = self.notes.paths.first().map(|path| path.as_bytes());
        absolute(noted.or(given).unwrap_or_default())
    }

    fn open(&self) {
        let flags = self.notes.flags;
        let access = match flags & libc::O_ACCMODE {
            _ if flags & libc::O_PATH != 0 => FileUse::Look,
            libc::O_RDONLY if flags & (libc::O_TRUNC | libc::O_CREAT) != 0 => FileUse::Write,
            libc::O_RDONLY if flags & libc::O_DIRECTORY != 0 => FileUse::List,
            libc::O_RDONLY => FileUse::Read,
            libc::O_WRONLY => FileUse::Write,
            _ => FileUse::ReadWrite,
        };
        let path = match self.notes.places.last() {
            Some(place) if self.notes.file.is_none() => absolute(place),
            _ => self.path(),
        };
        let reason = self.about_file(&path);
        let path = text(path.as_os_str().as_bytes());
        self.tell(What::Open { path, access }, reason);
    }

    fn exec(&self) {
        /// How many arguments are told, and how much of each.
        const ARGUMENTS: usize = 64;
        const ARGUMENT: usize = 200;
        let (path, arguments) = match &self.notes.program {
            Some((path, arguments)) => (absolute(path), arguments.as_slice()),
            None => (self.path(), &[][..]),
        };
        let refused = self.notes.file.as_deref().filter(|_| self.result.is_err());
        let reason = match (
            refused.map(absolute),
            self.task.access.rules().programs.as_ref(),
        ) {
            (Some(file), _) if file != path => self.about_file(&file),
            (_, Some(programs)) => {
                let mut above = path.ancestors();
                match above.find_map(|above| programs.0.get(above)) {
                    Some(origin) if self.result.is_ok() => Reason {
                        rule: Some(origin.to_string()),
                        wall: None,
                    },
                    None if self.result.is_err() => Reason::no_rule(self.wall()),
                    _ => self.about_file(&path),
                }
            }
            (_, None) => self.about_file(&path),
        };
        let mut told: Vec<String> = arguments
            .iter()
            .take(ARGUMENTS)
            .map(|argument| match argument.get(..ARGUMENT) {
                Some(start) => text(start) + "…",
                None => text(argument),
            })
            .collect();
        if arguments.len() > ARGUMENTS {
            told.push("…".into());
        }
        let what = What::Exec {
            path: text(path.as_os_str().as_bytes()),
            arguments: told,
        };
        self.tell(what, reason);
    }

    fn change(&self, call: &str, paths: usize) {
        let places = &self.notes.places;
        let given: Vec<PathBuf> = match places.len().checked_sub(paths) {
            Some(first) => places
                .iter()
                .skip(first)
                .map(|path| absolute(path))
                .collect(),
            None => {
                // What a link says is nothing that is changed.
                let first = usize::from(call.starts_with("symlink"));
                let given = self.notes.paths.iter().skip(first);
                given.map(|path| absolute(path.as_bytes())).collect()
            }
        };
        let given = match (&self.notes.file, given.is_empty()) {
            (Some(file), true) => vec![absolute(file)],
            _ => given,
        };
        for path in given {
            let reason = self.about_file(&path);
            let what = What::Change {
                path: text(path.as_os_str().as_bytes()),
                call: call.to_owned(),
            };
            self.tell(what, reason);
        }
    }

    fn look(&self) {
        if self.result.is_ok() {
            return;
        }
        let path = self.path();
        let reason = self.about_file(&path);
        if reason.wall.is_some() {
            let what = What::Open {
                path: text(path.as_os_str().as_bytes()),
                access: FileUse::Look,
            };
            self.tell(what, reason);
        }
    }

    fn address(&self, listen: bool) {
        let Some((address, protocol)) = self.notes.address.clone() else {
            return;
        };
        let what = match listen {
            true => What::Listen { address, protocol },
            false => What::Connect { address, protocol },
        };
        let network = &self.task.access.rules().network;
        let ruled = matches!(network, NetworkRules::Only(_));
        // There is nothing but a loopback in a network of the task's own.
        let alone = *network == NetworkRules::None && self.result == Err(Errno::ENETUNREACH);
        let reason = match (&self.notes.rule, self.notes.denied) {
            (Some(rule), _) => Reason {
                rule: Some(rule.clone()),
                wall: self.notes.denied.then_some(Wall::Personality),
            },
            (None, true) if ruled => Reason::no_rule(Wall::Personality),
            (None, true) => Reason {
                rule: None,
                wall: Some(Wall::Personality),
            },
            (None, false) if alone => Reason::no_rule(Wall::Kernel),
            (None, false) => Reason {
                rule: None,
                wall: matches!(self.result, Err(Errno::EACCES | Errno::EPERM))
                    .then_some(Wall::Kernel),
            },
        };
        self.tell(what, reason);
    }

    fn fork(&self) {
        // A thread is no process, and the child's own success is its parent's to tell.
        let child = match self.result {
            Ok(0) => return,
            Ok(child) => Some(child as i32),
            Err(_) => None,
        };
        if !self.notes.forks {
            return;
        }
        let reason = match self.result {
            Err(Errno::EPERM) if self.notes.denied => Reason::no_rule(Wall::Personality),
            _ => Reason::default(),
        };
        self.tell(What::Fork { child }, reason);
    }

    fn memory(&self, args: &Args) {
        let path = self.notes.file.as_deref().map(absolute);
        let writes = args[2] as i32 & libc::PROT_WRITE != 0;
        let kind = match path {
            Some(_) if !writes => MemoryUse::File,
            _ => MemoryUse::Written,
        };
        let refused = matches!(self.result, Err(Errno::EACCES | Errno::EPERM));
        let reason = match &path {
            Some(path) if !writes => self.about_file(path),
            _ if self.notes.denied => Reason::no_rule(Wall::Personality),
            _ if refused => Reason::no_rule(Wall::Ept),
            _ => Reason::default(),
        };
        let what = What::Memory {
            kind,
            address: self.result.ok().filter(|at| *at != 0).unwrap_or(args[0]),
            size: args[1],
            path: path.map(|path| text(path.as_os_str().as_bytes())),
        };
        self.tell(what, reason);
    }

    /// Tells limits that were met.
    fn limits(&self) {
        match self.result {
            Err(Errno::EMFILE) => self.outlet.tell_limit(Limit::Fds),
            Err(Errno::EFBIG) => self.outlet.tell_limit(Limit::Filesize),
            Err(Errno::EAGAIN) if self.notes.forks && self.task.shared.pids != 0 => {
                self.outlet.tell_limit(Limit::Pids);
            }
            _ => {}
        }
    }
}

/// A path from the root directory on, without `.` and `..`; one that leads on from nowhere, from the current directory.
fn absolute(path: &[u8]) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path));
    let current = links::current().unwrap_or_default();
    let mut whole = PathBuf::from("/");
    for part in Path::new(OsStr::from_bytes(&current))
        .join(path)
        .components()
    {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::Normal(name) => whole.push(name),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::super::Syscall;
    use super::*;

    #[test]
    fn all_calls_with_paths_are_told() {
        /// Those whose string is a name.
        const NAMES: [&str; 2] = ["memfd_create", "fgetxattr"];
        let untold = |call: &&Syscall| {
            matches!(call.fate, Fate::Served(_))
                && call.shape.contains('s')
                && !NAMES.contains(&call.name)
                && kind(call.number.into(), &[0; 6]).is_none()
        };
        let untold: Vec<_> = table::TABLE.iter().filter(untold).collect();
        assert!(untold.is_empty(), "{untold:?}");
        // Nothing is noted for those that are made most.
        for number in [
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_mmap,
            libc::SYS_sendto,
        ] {
            assert_eq!(kind(number as u64, &[0; 6]), None);
        }
    }

    #[test]
    fn paths_are_cleaned() {
        assert_eq!(absolute(b"/a/./b//../c/"), Path::new("/a/c"));
        assert_eq!(absolute(b"/../.."), Path::new("/"));
        let here = std::env::current_dir().unwrap();
        assert_eq!(absolute(b"x"), here.join("x"));
    }
}
