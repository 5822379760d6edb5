// SPDX-License-Identifier: GPL-2.0

//! Opening files for writing.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

const WRITE: i32 = libc::O_WRONLY;
const MAKE: i32 = libc::O_WRONLY | libc::O_CREAT;

#[test]
fn files_inside_are_written() {
    let tree = Tree::new();
    write(tree.open("inside/file", WRITE).unwrap(), "C").unwrap();
    assert_eq!(tree.content("inside/file"), "Content");
    write(
        tree.open("inside/file", WRITE | libc::O_APPEND).unwrap(),
        "!",
    )
    .unwrap();
    assert_eq!(tree.content("inside/file"), "Content!");
    write(
        tree.open("inside/to-own", MAKE | libc::O_TRUNC).unwrap(),
        "x",
    )
    .unwrap();
    assert_eq!(tree.content("inside/file"), "x");
    drop(
        tree.open("inside/file", libc::O_RDONLY | libc::O_TRUNC)
            .unwrap(),
    );
    assert_eq!(tree.content("inside/file"), "");
    // By another way, and from outside.
    write(tree.open("outside/../inside/sub/file", WRITE).unwrap(), "D").unwrap();
    assert_eq!(tree.content("inside/sub/file"), "Dontent");
    write(tree.open("outside/back", WRITE).unwrap(), "E").unwrap();
    assert_eq!(tree.content("inside/file"), "E");
    tree.check_outside();
}

#[test]
fn files_inside_are_made() {
    let tree = Tree::new();
    write(tree.open_mode("inside/new", MAKE, 0o640).unwrap(), "n").unwrap();
    assert_eq!(tree.content("inside/new"), "n");
    let mode = tree.base.join("inside/new").metadata().unwrap().mode();
    // But for what the umask takes.
    assert_eq!(mode & !0o040 & 0o7777, 0o600);
    // What a link leads to is made, where that is inside.
    drop(tree.open("inside/to-fresh", MAKE).unwrap());
    assert!(tree.exists("inside/fresh"));
    let exclusive = MAKE | libc::O_EXCL;
    assert_eq!(
        error(tree.open("inside/new", exclusive)),
        Some(Errno::EEXIST)
    );
    assert_eq!(
        error(tree.open("inside/loop", exclusive)),
        Some(Errno::EEXIST)
    );
    assert_eq!(error(tree.open("inside/other/", MAKE)), Some(Errno::EISDIR));
    assert_eq!(error(tree.open("inside/sub", MAKE)), Some(Errno::EISDIR));
    assert_eq!(error(tree.open("inside/no/new", MAKE)), Some(Errno::ENOENT));
    assert_eq!(
        error(tree.open("inside/file/x", MAKE)),
        Some(Errno::ENOTDIR)
    );
    assert_eq!(
        error(tree.open("inside/file/", WRITE)),
        Some(Errno::ENOTDIR)
    );
    assert_eq!(
        error(tree.open("inside/missing", WRITE)),
        Some(Errno::ENOENT)
    );
    tree.check_outside();
}

#[test]
fn nothing_outside_is_written_or_made() {
    let tree = Tree::new();
    for name in [
        "outside/file",
        "inside/to-file",
        "inside/to-directory/file",
        "inside/to-directory/sub/file",
        "inside/../outside/file",
        "inside/sub/../../outside/sub/file",
    ] {
        for flags in [
            WRITE,
            libc::O_RDWR,
            MAKE,
            libc::O_TRUNC,
            WRITE | libc::O_APPEND,
        ] {
            assert_eq!(error(tree.open(name, flags)), Some(Errno::EROFS), "{name}");
        }
        assert!(tree.open(name, libc::O_RDONLY).is_ok(), "{name}");
        let fd = tree.open(name, libc::O_RDONLY | libc::O_CREAT).unwrap();
        assert!(write(fd, "x").is_err());
    }
    for name in [
        "outside/new",
        "inside/to-new",
        "inside/to-directory/new",
        "inside/../outside/new",
        "inside/../new",
        "outside/sub/new",
    ] {
        assert_eq!(error(tree.open(name, MAKE)), Some(Errno::EROFS), "{name}");
        let temporary = tree.open("outside", WRITE | libc::O_TMPFILE);
        assert_eq!(error(temporary), Some(Errno::EROFS));
    }
    tree.check_outside();
}

#[test]
fn links_are_bounded() {
    let tree = Tree::new();
    assert_eq!(error(tree.open("inside/loop", MAKE)), Some(Errno::ELOOP));
    let nofollow = WRITE | libc::O_NOFOLLOW;
    assert_eq!(
        error(tree.open("inside/to-own", nofollow)),
        Some(Errno::ELOOP)
    );
    for step in 0..60 {
        let target = match step {
            0 => "file".to_owned(),
            _ => format!("chain{}", step - 1),
        };
        symlink(target, tree.base.join(format!("inside/chain{step}"))).unwrap();
    }
    assert!(tree.open("inside/chain39", WRITE).is_ok());
    assert_eq!(
        error(tree.open("inside/chain40", WRITE)),
        Some(Errno::ELOOP)
    );
}

#[test]
fn magic_links_lead_nowhere() {
    let tree = Tree::new();
    let inside = tree.look("inside");
    let outside = tree.look("outside");
    let base = tree.base.to_str().unwrap().to_owned();
    symlink(
        format!("/proc/self/root{base}/outside/file"),
        tree.base.join("inside/root"),
    )
    .unwrap();
    symlink(
        format!("/proc/self/fd/{}/file", raw(&outside)),
        tree.base.join("inside/fd"),
    )
    .unwrap();
    symlink("/proc/self/cwd", tree.base.join("inside/cwd")).unwrap();
    for name in [
        format!("/proc/self/root{base}/outside/file"),
        format!("/proc/self/root{base}/inside/file"),
        format!("/proc/{}/root{base}/outside/file", std::process::id()),
        format!("/proc/self/fd/{}/file", raw(&outside)),
        format!("/proc/self/fd/{}/../outside/file", raw(&inside)),
        "/proc/self/cwd/new".into(),
        "inside/root".into(),
        "inside/fd".into(),
        "inside/cwd/new".into(),
        "inside/cwd".into(),
    ] {
        let result = tree.open(&name, MAKE | libc::O_TRUNC);
        assert_eq!(error(result), Some(Errno::ELOOP), "{name}");
    }
    tree.check_outside();
}

#[test]
fn a_descriptor_stays_as_it_was_opened() {
    let tree = Tree::new();
    let reader = tree.open("inside/file", libc::O_RDONLY).unwrap();
    for path in [
        format!("/proc/self/fd/{}", raw(&reader)),
        format!("/dev/fd/{}", raw(&reader)),
    ] {
        let again = tree.open(&path, libc::O_RDWR | libc::O_TRUNC).unwrap();
        assert!(write(again, "x").is_err());
    }
    assert_eq!(tree.content("inside/file"), CONTENT);
    let path = tree.look("outside/file");
    let again = tree.open(&format!("/proc/self/fd/{}", raw(&path)), WRITE);
    assert!(write(again.unwrap(), "x").is_err());
    tree.check_outside();
}

#[test]
fn what_a_task_keeps_open_does_not_widen_what_it_may() {
    let tree = Tree::new();
    let sub = tree.look("inside/sub");
    let made = |name: &std::ffi::CStr| tree.open_how(raw(&sub), name, MAKE, 0o644, 0);
    assert!(made(c"one").is_ok());
    // Somebody else moves it out.
    fs::rename(
        tree.base.join("inside/sub"),
        tree.base.join("outside/moved"),
    )
    .unwrap();
    assert_eq!(error(made(c"two")), Some(Errno::EROFS));
    assert_eq!(error(made(c"file")), Some(Errno::EROFS));
    assert_eq!(error(made(c"../../inside/three")), None);
    fs::rename(
        tree.base.join("outside/moved"),
        tree.base.join("inside/sub"),
    )
    .unwrap();
    assert!(made(c"two").is_ok());
    tree.check_outside();
}

#[test]
fn openat2_keeps_to_its_bounds() {
    let tree = Tree::new();
    let inside = tree.look("inside");
    let at = |path, flags, resolve| tree.open_how(raw(&inside), path, flags, 0o644, resolve);
    let (beneath, root) = (libc::RESOLVE_BENEATH, libc::RESOLVE_IN_ROOT);
    symlink("/file", tree.base.join("inside/absolute")).unwrap();
    symlink("../file", tree.base.join("inside/sub/up")).unwrap();
    assert!(at(c"file", WRITE, beneath).is_ok());
    assert!(at(c"sub/up", WRITE, beneath).is_ok());
    assert!(at(c"made", MAKE, beneath).is_ok());
    for path in [c"../inside/file", c"/etc/passwd", c"to-file", c"absolute"] {
        assert_eq!(
            error(at(path, WRITE, beneath)),
            Some(Errno::EXDEV),
            "{path:?}"
        );
        assert_eq!(error(at(path, libc::O_RDONLY, beneath)), Some(Errno::EXDEV));
    }
    // There, its top is the directory.
    write(at(c"absolute", WRITE, root).unwrap(), "R").unwrap();
    assert_eq!(tree.content("inside/file"), "Rontent");
    assert!(at(c"/../../file", WRITE, root).is_ok());
    assert_eq!(
        error(at(c"/etc/passwd", libc::O_RDONLY, root)),
        Some(Errno::ENOENT)
    );
    assert_eq!(error(at(c"/dev/fd/1", WRITE, root)), Some(Errno::ENOENT));
    for flags in [WRITE, libc::O_RDONLY] {
        let none = libc::RESOLVE_NO_SYMLINKS;
        assert_eq!(error(at(c"to-own", flags, none)), Some(Errno::ELOOP));
        let magic = libc::RESOLVE_NO_MAGICLINKS;
        assert_eq!(
            error(at(c"/proc/self/fd/0", flags, magic)),
            Some(Errno::ELOOP)
        );
        let mount = libc::RESOLVE_NO_XDEV;
        assert_eq!(
            error(at(c"/proc/version", flags, mount)),
            Some(Errno::EXDEV)
        );
    }
    tree.check_outside();
}

#[test]
fn temporary_files_get_names_inside_only() {
    let tree = Tree::new();
    let fd = tree.open("inside", libc::O_RDWR | libc::O_TMPFILE).unwrap();
    let own = format!("/proc/self/fd/{}", raw(&fd));
    let own = CString::new(own).unwrap();
    let link = |name: &str| {
        let new = tree.path(name);
        tree.scope()
            .link((AT, &own), (AT, &new), libc::AT_SYMLINK_FOLLOW)
    };
    assert_eq!(link("outside/new"), Err(Errno::EXDEV));
    assert_eq!(link("inside/named"), Ok(0));
    assert!(tree.exists("inside/named"));
    // It has a name now, but its descriptor does not know it.
    let again = tree.path("inside/again");
    let empty = libc::AT_EMPTY_PATH;
    let second = tree.scope().link((raw(&fd), c""), (AT, &again), empty);
    assert_eq!(second, Err(Errno::EXDEV));
    tree.check_outside();
}

#[test]
fn no_file_is_made_that_gives_rights_nor_written() {
    let tree = Tree::new();
    for mode in [0o4755, 0o2755, 0o6000] {
        let result = tree.open_mode("inside/new", MAKE, mode);
        assert_eq!(error(result), Some(Errno::EPERM));
        let temporary = libc::O_RDWR | libc::O_TMPFILE;
        let result = tree.open_mode("inside", temporary, mode);
        assert_eq!(error(result), Some(Errno::EPERM));
    }
    assert!(!tree.exists("inside/new"));
    let file = tree.base.join("inside/file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(error(tree.open("inside/file", WRITE)), Some(Errno::EPERM));
    assert_eq!(
        error(tree.open("inside/file", libc::O_TRUNC)),
        Some(Errno::EPERM)
    );
    assert!(tree.open("inside/file", libc::O_RDONLY).is_ok());
}

#[test]
fn only_some_devices_can_be_written() {
    let tree = Tree::new();
    let access = |path, flags: i32| match tree.open(path, flags) {
        Ok(fd) => {
            // SAFETY: It is open.
            let flags = unsafe { libc::fcntl(raw(&fd), libc::F_GETFL) };
            Ok(flags & libc::O_ACCMODE)
        }
        Err(errno) => Err(errno),
    };
    assert_eq!(access("/dev/null", libc::O_RDWR), Ok(libc::O_RDWR));
    assert_eq!(access("/dev/null", MAKE), Ok(WRITE));
    assert_eq!(access("/dev/urandom", WRITE), Err(Errno::EROFS));
    assert_eq!(access("/dev/urandom", libc::O_RDONLY), Ok(libc::O_RDONLY));
    let exclusive = MAKE | libc::O_EXCL;
    assert_eq!(access("/dev/null", exclusive), Err(Errno::EEXIST));
    assert_eq!(access("/etc", WRITE), Err(Errno::EISDIR));
    assert_eq!(access("/etc", libc::O_RDONLY), Ok(libc::O_RDONLY));
    // A device in the tree is a device.
    let node = tree.path("inside/device");
    // SAFETY: The path is a string.
    let made = unsafe { libc::mknod(node.as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(7, 0)) };
    if made != 0 {
        println!("skipped: devices cannot be made here: {}", Errno::last());
        return;
    }
    assert_eq!(access("inside/device", WRITE), Err(Errno::EACCES));
    assert_eq!(access("inside/device", libc::O_RDONLY), Err(Errno::EACCES));
    let scope = tree.scope();
    let subject = scope.subject(AT, &node, 0).err();
    assert_eq!(subject, Some(Errno::EROFS));
}

#[test]
fn pipes_with_names_are_files() {
    let tree = Tree::new();
    for name in ["inside/fifo", "outside/fifo"] {
        let path = tree.path(name);
        // SAFETY: The path is a string.
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    }
    assert!(tree.open("inside/fifo", libc::O_RDWR).is_ok());
    assert_eq!(
        error(tree.open("outside/fifo", libc::O_RDWR)),
        Some(Errno::EROFS)
    );
    let reader = libc::O_RDONLY | libc::O_NONBLOCK;
    assert!(tree.open("outside/fifo", reader).is_ok());
}
