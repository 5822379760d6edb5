// SPDX-License-Identifier: GPL-2.0

//! Modes, owners, times, lengths and extended attributes.

use super::super::attributes::{
    check_attribute, from_timevals, set_length, set_mode, set_owner, set_times, Subject,
};
use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const NOFOLLOW: i32 = libc::AT_SYMLINK_NOFOLLOW;

impl Tree {
    fn subject(&self, name: &str, flags: i32) -> SysResult<Subject> {
        self.scope().subject(AT, &self.path(name), flags)
    }

    fn metadata(&self, name: &str) -> fs::Metadata {
        self.base.join(name).symlink_metadata().unwrap()
    }
}

#[test]
fn only_what_is_inside_is_a_subject() {
    let tree = Tree::new();
    for name in [
        "inside",
        "inside/file",
        "inside/sub",
        "inside/sub/..",
        "inside/to-own",
        "outside/back",
    ] {
        assert!(tree.subject(name, 0).is_ok(), "{name}");
    }
    for name in ["inside/to-file", "inside/to-directory", "inside/loop"] {
        assert!(tree.subject(name, NOFOLLOW).is_ok(), "{name}");
    }
    for name in [
        "outside",
        "outside/file",
        "inside/to-file",
        "inside/to-directory",
        "inside/to-directory/file",
        "inside/..",
        "/",
        "/etc/passwd",
        "/dev/null",
        "/dev/uvisor-checkpoint",
    ] {
        assert_eq!(error(tree.subject(name, 0)), Some(Errno::EROFS), "{name}");
    }
    assert_eq!(
        error(tree.subject("outside/back", NOFOLLOW)),
        Some(Errno::EROFS)
    );
    assert_eq!(
        error(tree.subject("inside/missing", 0)),
        Some(Errno::ENOENT)
    );
    assert_eq!(error(tree.subject("inside/loop", 0)), Some(Errno::ELOOP));
    assert_eq!(
        error(tree.subject("inside/file", 0x40)),
        Some(Errno::EINVAL)
    );
    let root = format!("/proc/self/root{}/inside/file", tree.base.display());
    assert_eq!(error(tree.subject(&root, 0)), Some(Errno::ELOOP));
}

#[test]
fn descriptors_are_subjects_by_where_their_file_is() {
    let tree = Tree::new();
    let by_fd = |fd: &OwnedFd| tree.scope().descriptor_subject(raw(fd) as u64);
    let inside = tree.open("inside/file", libc::O_RDONLY).unwrap();
    assert!(by_fd(&inside).is_ok());
    let path = CString::new(format!("/proc/self/fd/{}", raw(&inside))).unwrap();
    assert!(tree.scope().subject(AT, &path, 0).is_ok());
    assert!(by_fd(&tree.open("inside", libc::O_RDONLY).unwrap()).is_ok());
    for name in ["outside", "outside/file"] {
        let fd = tree.open(name, libc::O_RDONLY).unwrap();
        assert_eq!(error(by_fd(&fd)), Some(Errno::EROFS), "{name}");
        let by_path = tree.scope().subject(raw(&fd), c"", libc::AT_EMPTY_PATH);
        assert_eq!(error(by_path), Some(Errno::EROFS));
    }
    // What the user gave it to write to is that and no more.
    let given = File::options()
        .append(true)
        .open(tree.base.join("outside/file"));
    assert_eq!(error(by_fd(&given.unwrap().into())), Some(Errno::EROFS));
    assert_eq!(error(by_fd(&tree.look("inside/file"))), Some(Errno::EBADF));
    // A file whose name now means another one is not found there.
    let old = tree.open("outside/sub/file", libc::O_RDONLY).unwrap();
    let path = tree.base.join("outside/sub/file");
    fs::hard_link(&path, tree.base.join("outside/sub/second")).unwrap();
    fs::remove_file(&path).unwrap();
    symlink(tree.base.join("inside/file"), &path).unwrap();
    assert_eq!(error(by_fd(&old)), Some(Errno::EROFS));
    // Without a name, who can write it decides.
    let writer = tree.open("inside/file", libc::O_RDWR).unwrap();
    fs::remove_file(tree.base.join("inside/file")).unwrap();
    assert!(by_fd(&writer).is_ok());
    assert_eq!(error(by_fd(&inside)), Some(Errno::EROFS));
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    assert_eq!(error(by_fd(&pipe)), Some(Errno::EROFS));
}

#[test]
fn modes_give_nobody_the_users_rights() {
    let tree = Tree::new();
    let set = |name: &str, mode| set_mode(&tree.subject(name, 0)?, mode);
    assert_eq!(set("inside/file", 0o600), Ok(0));
    assert_eq!(tree.metadata("inside/file").mode() & 0o7777, 0o600);
    assert_eq!(set("inside/to-own", 0o751), Ok(0));
    assert_eq!(tree.metadata("inside/file").mode() & 0o7777, 0o751);
    for mode in [0o4755, 0o2755, 0o6755] {
        assert_eq!(set("inside/file", mode), Err(Errno::EPERM));
    }
    assert_eq!(tree.metadata("inside/file").mode() & 0o7777, 0o751);
    assert_eq!(set("inside/sub", 0o2775), Ok(0));
    assert_eq!(tree.metadata("inside/sub").mode() & 0o7777, 0o2775);
    assert_eq!(set("outside/file", 0o600), Err(Errno::EROFS));
    let link = tree.subject("inside/to-file", NOFOLLOW).unwrap();
    assert_eq!(set_mode(&link, 0o600), Err(Errno::EOPNOTSUPP));
    // Such as there are can be taken the bits.
    let file = tree.base.join("inside/file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    let shorter = set_length(&tree.subject("inside/file", 0).unwrap(), 1);
    assert_eq!(shorter, Err(Errno::EPERM));
    assert_eq!(set("inside/file", 0o755), Ok(0));
    assert_eq!(
        set_length(&tree.subject("inside/file", 0).unwrap(), 1),
        Ok(0)
    );
    tree.check_outside();
}

#[test]
fn owners_stay() {
    let tree = Tree::new();
    let set = |uid, gid| set_owner(&tree.subject("inside/file", 0).unwrap(), uid, gid);
    let (uid, gid) = (
        tree.metadata("inside/file").uid(),
        tree.metadata("inside/file").gid(),
    );
    for (new_uid, new_gid) in [(uid, gid), (uid, u32::MAX), (u32::MAX, gid)] {
        assert_eq!(set(new_uid, new_gid), Ok(0));
    }
    for (new_uid, new_gid) in [(uid + 1, gid), (uid, gid + 1), (u32::MAX, gid + 1)] {
        assert_eq!(set(new_uid, new_gid), Err(Errno::EPERM));
    }
    assert_eq!(tree.metadata("inside/file").uid(), uid);
}

#[test]
fn times_are_set() {
    let tree = Tree::new();
    let mut times = [0; 32];
    times[0] = 5;
    times[16] = 7;
    times[24] = 9;
    let file = tree.subject("inside/to-own", 0).unwrap();
    assert_eq!(set_times(&file, Some(times)), Ok(0));
    let metadata = tree.metadata("inside/file");
    assert_eq!(
        (metadata.atime(), metadata.mtime(), metadata.mtime_nsec()),
        (5, 7, 9)
    );
    let link = tree.subject("inside/to-file", NOFOLLOW).unwrap();
    assert_eq!(set_times(&link, Some(times)), Ok(0));
    assert_eq!(tree.metadata("inside/to-file").mtime(), 7);
    assert!(tree.metadata("outside/file").mtime() > 1000);
    assert_eq!(set_times(&file, None), Ok(0));
    assert!(tree.metadata("inside/file").mtime() > 1000);
    // Microseconds become nanoseconds, and are checked.
    assert_eq!(
        from_timevals(&times).unwrap()[24..26],
        9000u16.to_le_bytes()
    );
    times[11] = 1;
    assert_eq!(from_timevals(&times), Err(Errno::EINVAL));
}

#[test]
fn lengths_are_those_of_files() {
    let tree = Tree::new();
    let set = |name: &str, length| set_length(&tree.subject(name, 0)?, length);
    assert_eq!(set("inside/to-own", 3), Ok(0));
    assert_eq!(tree.content("inside/file"), "con");
    assert_eq!(set("inside/sub", 3), Err(Errno::EISDIR));
    assert_eq!(set("inside/to-file", 3), Err(Errno::EROFS));
    tree.check_outside();
}

#[test]
fn attributes_are_the_users() {
    assert_eq!(check_attribute(c"user.x"), Ok(()));
    for name in [c"security.capability", c"security.selinux", c"trusted.x"] {
        assert_eq!(check_attribute(name), Err(Errno::EPERM));
    }
    for name in [c"system.posix_acl_access", c"user", c"x", c"os2.y"] {
        assert_eq!(check_attribute(name), Err(Errno::EOPNOTSUPP));
    }
}

#[test]
fn looking_needs_no_permission() {
    let tree = Tree::new();
    let scope = tree.scope();
    let look = |name: &str, flags| {
        let fd = scope.look(AT, &tree.path(name), flags)?;
        Ok(super::super::path_of(raw(&fd)).unwrap())
    };
    assert_eq!(
        look("inside/to-file", 0).unwrap(),
        tree.path("outside/file").as_bytes()
    );
    let link = look("inside/to-file", NOFOLLOW).unwrap();
    assert_eq!(link, tree.path("inside/to-file").as_bytes());
    assert_eq!(error(look("/proc/self/cwd", 0)), Some(Errno::ELOOP));
    assert_eq!(error(look("inside/file", 4)), Some(Errno::EINVAL));
}
