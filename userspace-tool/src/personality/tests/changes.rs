// SPDX-License-Identifier: GPL-2.0

//! Making, removing, renaming and linking.

use super::*;
use std::os::unix::fs::MetadataExt;

impl Tree {
    fn rename(&self, old: &str, new: &str, flags: u32) -> SysResult {
        let (old, new) = (self.path(old), self.path(new));
        self.scope().rename((AT, &old), (AT, &new), flags)
    }

    fn link(&self, old: &str, new: &str, flags: i32) -> SysResult {
        let (old, new) = (self.path(old), self.path(new));
        self.scope().link((AT, &old), (AT, &new), flags)
    }

    fn remove(&self, name: &str, flags: i32) -> SysResult {
        self.scope().remove(AT, &self.path(name), flags)
    }

    fn mkdir(&self, name: &str) -> SysResult {
        self.scope().make_directory(AT, &self.path(name), 0o755)
    }
}

#[test]
fn directories_are_made_inside() {
    let tree = Tree::new();
    assert_eq!(tree.mkdir("inside/new"), Ok(0));
    assert_eq!(tree.mkdir("inside/new/deeper/"), Ok(0));
    assert_eq!(tree.mkdir("outside/back"), Err(Errno::EEXIST));
    for name in ["outside/new", "inside/to-directory/new", "inside/../new"] {
        assert_eq!(tree.mkdir(name), Err(Errno::EROFS), "{name}");
    }
    // As `mkdir -p` needs it.
    for name in [
        "outside",
        "/",
        "inside",
        "inside/..",
        "outside/sub/",
        "inside/to-new",
    ] {
        assert_eq!(tree.mkdir(name), Err(Errno::EEXIST), "{name}");
    }
    assert_eq!(tree.mkdir("no/such"), Err(Errno::ENOENT));
    tree.check_outside();
}

#[test]
fn nodes_are_files_and_pipes() {
    let tree = Tree::new();
    let make = |name, mode| tree.scope().make_node(AT, &tree.path(name), mode);
    assert_eq!(make("inside/fifo", libc::S_IFIFO | 0o600), Ok(0));
    assert_eq!(make("inside/regular", libc::S_IFREG | 0o600), Ok(0));
    assert_eq!(make("inside/regular", 0o600), Err(Errno::EEXIST));
    assert_eq!(make("inside/suid", 0o4755), Err(Errno::EPERM));
    for kind in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFDIR] {
        assert_eq!(make("inside/other", kind | 0o600), Err(Errno::EPERM));
    }
    assert_eq!(make("inside/other", libc::S_IFLNK), Err(Errno::EINVAL));
    assert_eq!(
        make("outside/new", libc::S_IFIFO | 0o600),
        Err(Errno::EROFS)
    );
    assert!(!tree.exists("inside/other") && !tree.exists("inside/suid"));
    tree.check_outside();
}

#[test]
fn links_are_made_inside_and_lead_anywhere() {
    let tree = Tree::new();
    let make = |name| tree.scope().make_link(c"/etc/passwd", AT, &tree.path(name));
    assert_eq!(make("inside/passwd"), Ok(0));
    assert_eq!(make("inside/file"), Err(Errno::EEXIST));
    assert_eq!(make("outside/new"), Err(Errno::EROFS));
    assert_eq!(make("inside/to-directory/new"), Err(Errno::EROFS));
    let through = tree.open("inside/passwd", libc::O_WRONLY);
    assert_eq!(error(through), Some(Errno::EROFS));
    tree.check_outside();
}

#[test]
fn names_are_removed_inside() {
    let tree = Tree::new();
    let directory = libc::AT_REMOVEDIR;
    for (name, flags) in [
        ("outside/file", 0),
        ("outside/back", 0),
        ("inside/to-directory/file", 0),
        ("inside/../outside/file", 0),
        ("outside/sub", directory),
        ("inside/to-directory/sub", directory),
        // The tree itself is a name in a directory that is not in it.
        ("inside", directory),
    ] {
        assert_eq!(tree.remove(name, flags), Err(Errno::EROFS), "{name}");
    }
    // What links lead to stays.
    for link in ["to-file", "to-directory", "to-new", "loop"] {
        assert_eq!(tree.remove(&format!("inside/{link}"), 0), Ok(0));
    }
    assert_eq!(tree.remove("inside/file/", 0), Err(Errno::ENOTDIR));
    assert_eq!(tree.remove("inside/file", 4), Err(Errno::EINVAL));
    assert_eq!(tree.remove("inside/file", 0), Ok(0));
    assert_eq!(tree.remove("inside/file", 0), Err(Errno::ENOENT));
    assert_eq!(tree.remove("inside/sub", 0), Err(Errno::EISDIR));
    assert_eq!(tree.remove("inside/sub", directory), Err(Errno::ENOTEMPTY));
    assert_eq!(tree.remove("inside/sub/file", 0), Ok(0));
    assert_eq!(tree.remove("inside/sub/.", directory), Err(Errno::EINVAL));
    assert_eq!(tree.remove("inside/sub/", directory), Ok(0));
    tree.check_outside();
}

#[test]
fn names_change_within_the_tree() {
    let tree = Tree::new();
    let (noreplace, exchange) = (libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE);
    assert_eq!(tree.rename("inside/file", "inside/sub/moved", 0), Ok(0));
    assert_eq!(tree.content("inside/sub/moved"), CONTENT);
    let taken = tree.rename("inside/sub/moved", "inside/sub/file", noreplace);
    assert_eq!(taken, Err(Errno::EEXIST));
    assert_eq!(tree.rename("inside/sub", "inside/to-own", exchange), Ok(0));
    assert!(tree.exists("inside/to-own/moved"));
    let slashes = tree.rename("inside/to-own/", "inside/sub/", exchange);
    assert_eq!(slashes, Err(Errno::ENOTDIR));
    let whiteout = tree.rename("inside/sub", "inside/x", libc::RENAME_WHITEOUT);
    assert_eq!(whiteout, Err(Errno::EPERM));
    assert_eq!(tree.rename("inside/sub", "inside/x", 8), Err(Errno::EINVAL));
    tree.check_outside();
}

#[test]
fn nothing_is_moved_in_or_out() {
    let tree = Tree::new();
    for flags in [0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE] {
        for (old, new) in [
            ("inside/file", "outside/file"),
            ("inside/file", "outside/new"),
            ("inside/sub", "outside/sub"),
            ("inside/file", "inside/to-directory/file"),
            ("outside/file", "inside/file"),
            ("outside/file", "inside/new"),
            ("outside/sub", "inside/sub"),
            ("outside/sub", "inside/new"),
            ("inside/to-directory/sub", "inside/new"),
        ] {
            assert_eq!(tree.rename(old, new, flags), Err(Errno::EXDEV), "{old}");
        }
        for (old, new) in [
            ("outside/file", "outside/new"),
            ("inside", "moved"),
            ("inside", "outside/moved"),
            ("outside/sub", "inside/to-directory/new"),
        ] {
            assert_eq!(tree.rename(old, new, flags), Err(Errno::EROFS), "{old}");
        }
    }
    assert!(tree.exists("inside/file") && tree.exists("inside/sub/file"));
    tree.check_outside();
}

#[test]
fn names_are_added_within_the_tree() {
    let tree = Tree::new();
    assert_eq!(tree.link("inside/file", "inside/sub/second", 0), Ok(0));
    let links = |name: &str| fs::symlink_metadata(tree.base.join(name)).unwrap().nlink();
    assert_eq!(links("inside/file"), 2);
    // The link itself, and what it leads to.
    assert_eq!(tree.link("inside/to-own", "inside/a", 0), Ok(0));
    assert_eq!(links("inside/to-own"), 2);
    let follow = libc::AT_SYMLINK_FOLLOW;
    assert_eq!(tree.link("inside/to-own", "inside/b", follow), Ok(0));
    assert_eq!(links("inside/file"), 3);
    assert_eq!(tree.link("inside/to-file", "inside/c", 0), Ok(0));
    assert_eq!(tree.link("inside/sub", "inside/d", 0), Err(Errno::EPERM));
    assert_eq!(tree.link("inside/file", "inside/a", 0), Err(Errno::EEXIST));
    assert_eq!(
        tree.link("inside/missing", "inside/e", 0),
        Err(Errno::ENOENT)
    );
    assert_eq!(tree.link("inside/file", "inside/e", 2), Err(Errno::EINVAL));
    tree.check_outside();
}

#[test]
fn no_name_leads_out_of_the_tree() {
    let tree = Tree::new();
    let follow = libc::AT_SYMLINK_FOLLOW;
    for (old, flags) in [
        ("outside/file", 0),
        ("inside/to-file", follow),
        ("inside/to-directory/file", 0),
        ("inside/../outside/file", 0),
        // With a `/`, the kernel would follow it.
        ("inside/to-directory/sub/file", 0),
    ] {
        assert_eq!(
            tree.link(old, "inside/new", flags),
            Err(Errno::EXDEV),
            "{old}"
        );
    }
    assert_eq!(
        tree.link("inside/to-file/", "inside/new", 0),
        Err(Errno::ENOTDIR)
    );
    assert_eq!(
        tree.link("inside/file", "outside/new", 0),
        Err(Errno::EXDEV)
    );
    assert_eq!(
        tree.link("outside/file", "outside/new", 0),
        Err(Errno::EROFS)
    );
    // By a descriptor, of whatever kind.
    for flags in [libc::O_RDONLY, libc::O_PATH] {
        let fd = tree.open("outside/file", flags).unwrap();
        let new = tree.path("inside/new");
        let own = CString::new(format!("/proc/self/fd/{}", raw(&fd))).unwrap();
        let scope = tree.scope();
        let result = scope.link((AT, &own), (AT, &new), follow);
        assert_eq!(result, Err(Errno::EXDEV));
        let result = scope.link((raw(&fd), c""), (AT, &new), libc::AT_EMPTY_PATH);
        assert_eq!(result, Err(Errno::EXDEV));
    }
    assert!(!tree.exists("inside/new"));
    let links = fs::metadata(tree.base.join("outside/file"))
        .unwrap()
        .nlink();
    assert_eq!(links, 1);
    tree.check_outside();
}

#[test]
fn sockets_get_the_place_that_they_may_be_made_at() {
    let tree = Tree::new();
    let place = tree
        .scope()
        .place_to_change(AT, &tree.path("inside/sub/socket"))
        .unwrap();
    assert_eq!(&*place.plain_name(), c"socket");
    let path = super::super::path_of(place.directory()).unwrap();
    assert_eq!(path, tree.path("inside/sub").as_bytes());
    let refused = tree
        .scope()
        .place_to_change(AT, &tree.path("inside/to-directory/socket"));
    assert_eq!(error(refused), Some(Errno::EROFS));
}
