// SPDX-License-Identifier: GPL-2.0

//! Processes that are confined, and a host for them.

use std::fs;
use std::io::{Read, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{chown, symlink, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    mount, mount_change, move_mount, open_tree, unmount, MountFlags, MountPropagationFlags,
    MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::pipe::PipeFlags;
use uvisor::profile::{FileAccess, FileRule, FileRules, Origin, Rules, Write};
use uvisor::sandbox::{self, Layers, Options, Report};

/// Who is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// User 0 of the host.
    Root,
    /// A user without any rights.
    User,
}

pub const BOTH: [Who; 2] = [Who::Root, Who::User];

/// The number of a user without any rights.
pub const NOBODY: u32 = 65534;

/// Where the files are that tests look at.
pub const BASE: &str = "/mnt";

/// A file below [`BASE`].
pub fn at(name: &str) -> PathBuf {
    Path::new(BASE).join(name)
}

/// How a process has ended, as `waitpid` says it, and what it has said.
pub fn forked(body: impl FnOnce()) -> (i32, String) {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (mut reader, writer) = (fs::File::from(reader), fs::File::from(writer));
    // SAFETY: The child has one thread, and of the other ones' locks needs only those of the allocator, which C's
    // library sees to.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        drop(reader);
        let to = writer.try_clone().unwrap();
        std::panic::set_hook(Box::new(move |info| {
            let _ = (&to).write_all(info.to_string().as_bytes());
        }));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        // SAFETY: It ends the child at once.
        unsafe { libc::_exit(i32::from(done.is_err())) };
    }
    drop(writer);
    let mut said = String::new();
    let _ = reader.read_to_string(&mut said);
    let mut status = 0;
    // SAFETY: The status is there for the writing.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    (status, said)
}

/// Does something in a process of its own, on a host of its own, as somebody.
pub fn on_host(who: Who, body: impl FnOnce()) {
    let (status, said) = forked(|| {
        make_host();
        become_user(who);
        body();
    });
    assert_eq!((status, &*said), (0, ""), "as {who:?}");
}

/// The same as both.
pub fn on_hosts(body: impl Fn(Who)) {
    for who in BOTH {
        on_host(who, || body(who));
    }
}

/// Makes this process's mounts its own, with a root that is a mount, and files below [`BASE`].
fn make_host() {
    // SAFETY: This process has one thread.
    let own = unsafe { libc::unshare(libc::CLONE_NEWNS) };
    assert_eq!(own, 0, "user 0 is needed");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    leave_chroot();
    mount_change("/", private).unwrap();
    mount("tests", BASE, "tmpfs", MountFlags::empty(), None).unwrap();
    for name in [
        "ro/inner/deep",
        "rw/inner/deep",
        "secret/open",
        "shut",
        "tmp",
        "noexec",
    ] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for name in [
        "ro/file",
        "ro/inner/file",
        "rw/file",
        "rw/inner/file",
        "rw/inner/deep/file",
        "secret/key",
        "secret/open/file",
        "shut/key",
        "key",
        "noexec/file",
    ] {
        fs::write(at(name), name).unwrap();
    }
    symlink("ro", at("relative")).unwrap();
    symlink("/mnt/ro/../rw", at("absolute")).unwrap();
    symlink("loop", at("loop")).unwrap();
    let mode = libc::S_IFCHR | 0o666;
    // SAFETY: The path is a string.
    let made = unsafe { libc::mknod(c"/mnt/rw/null".as_ptr(), mode, libc::makedev(1, 3)) };
    assert_eq!(made, 0);
    give(Path::new(BASE));
}

/// Gives all files to the user, and lets everybody change them: what refuses it then is the sandbox.
fn give(path: &Path) {
    if path.is_symlink() {
        return;
    }
    chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            give(&entry.unwrap().path());
        }
    }
}

/// Where the tests run in another root, that becomes the root of the mounts: a process elsewhere is not given a user
/// namespace, and cannot change its root.
fn leave_chroot() {
    let flags = rustix::fs::StatxFlags::empty();
    let stat = rustix::fs::statx(rustix::fs::CWD, "/", rustix::fs::AtFlags::empty(), flags);
    let is_root = rustix::fs::StatxAttributes::MOUNT_ROOT;
    if stat.unwrap().stx_attributes.contains(is_root) {
        return;
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let here = rustix::fs::open("/", flags, Mode::empty()).unwrap();
    rustix::process::chroot("/proc").unwrap();
    rustix::process::fchdir(&here).unwrap();
    for _ in 0..64 {
        rustix::process::chdir("..").unwrap();
    }
    rustix::process::chroot(".").unwrap();
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::AT_EMPTY_PATH;
    let tree: OwnedFd = open_tree(&here, "", flags).unwrap();
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree.as_fd(), "", here.as_fd(), "", flags).unwrap();
    rustix::process::fchdir(&tree).unwrap();
    rustix::process::pivot_root(".", ".").unwrap();
    unmount(".", UnmountFlags::DETACH).unwrap();
    rustix::process::chdir("/").unwrap();
}

fn become_user(who: Who) {
    if who == Who::Root {
        return;
    }
    // SAFETY: This process has one thread, and no memory is touched. A program that the user starts can be looked
    // at, while one that has changed its user cannot.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setgid(NOBODY), 0);
        assert_eq!(libc::setuid(NOBODY), 0);
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1), 0);
    }
}

/// The host's files, of which none is executed.
pub const READ: FileAccess = FileAccess::Host {
    execute: false,
    write: Write::No,
};

/// The same that may be executed.
pub const RUN: FileAccess = FileAccess::Host {
    execute: true,
    write: Write::No,
};

/// The same that may be changed.
pub const CHANGE: FileAccess = FileAccess::Host {
    execute: true,
    write: Write::Through,
};

/// Rules about files, and nothing else.
pub fn rules(files: &[(&str, FileAccess)]) -> Rules {
    let rule = |(path, access): &(&str, FileAccess)| {
        let origin = Origin::Option("--test");
        let access = *access;
        (PathBuf::from(path), FileRule { access, origin })
    };
    Rules {
        files: FileRules(files.iter().map(rule).collect()),
        fork: true,
        ..Rules::default()
    }
}

/// Enters layers, which the host must have.
pub fn enter(rules: &Rules, layers: Layers) -> Report {
    let options = Options {
        layers,
        ..Options::default()
    };
    enter_with(rules, &options)
}

/// The same with other options.
pub fn enter_with(rules: &Rules, options: &Options) -> Report {
    let report = sandbox::enter(rules, options).unwrap_or_else(|error| panic!("{error}"));
    if report.entered != options.layers && !report.lacks.is_empty() {
        // What cannot be tested is told; a machine that has all is one of those that the tests run on.
        eprintln!("this host lacks {:?}", report.lacks);
        // SAFETY: It ends this process at once.
        unsafe { libc::_exit(0) };
    }
    assert_eq!(report.entered, options.layers);
    report
}

/// The number of an error; 0 for none.
pub fn errno<T>(result: std::io::Result<T>) -> i32 {
    result.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)
}

/// What reading a file fails with.
pub fn reading(path: impl AsRef<Path>) -> i32 {
    errno(fs::read(path))
}

/// What opening a file for writing fails with.
pub fn writing(path: impl AsRef<Path>) -> i32 {
    errno(fs::OpenOptions::new().append(true).open(path))
}

/// The names in a directory.
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a system call with numbers returns; an error is its number, negated.
pub fn call(number: libc::c_long, words: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = words;
    // SAFETY: The tests make none that would change memory of theirs.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap()),
        value => value,
    }
}
