// SPDX-License-Identifier: GPL-2.0

//! What a user can allow.

use super::*;

const WRITE: i32 = libc::O_WRONLY;
const MAKE: i32 = libc::O_WRONLY | libc::O_CREAT;

#[test]
fn by_default_nothing_is_changed() {
    let mut tree = Tree::new();
    tree.access = allowing::<&str>(&[]).unwrap();
    for name in ["inside/file", "inside/new", "outside/file"] {
        assert_eq!(error(tree.open(name, MAKE)), Some(Errno::EROFS));
    }
    assert!(tree.open("/dev/null", WRITE).is_ok());
    assert!(!tree.exists("inside/new"));
}

#[test]
fn a_single_file_is_changed_but_not_its_name() {
    let mut tree = Tree::new();
    tree.access = allowing(&[tree.base.join("inside/file")]).unwrap();
    let path = tree.path("inside/file");
    assert!(tree.open("inside/file", WRITE).is_ok());
    assert!(tree.open("inside/to-own", MAKE | libc::O_TRUNC).is_ok());
    assert!(tree.scope().subject(AT, &path, 0).is_ok());
    assert_eq!(
        error(tree.open("inside/sub/file", WRITE)),
        Some(Errno::EROFS)
    );
    assert_eq!(error(tree.open("inside/new", MAKE)), Some(Errno::EROFS));
    assert_eq!(tree.scope().remove(AT, &path, 0), Err(Errno::EROFS));
    let new = tree.path("inside/new");
    let renamed = tree.scope().rename((AT, &path), (AT, &new), 0);
    assert_eq!(renamed, Err(Errno::EROFS));
    // Another file under its name is another file.
    fs::rename(tree.base.join("inside/file"), tree.base.join("inside/kept")).unwrap();
    fs::write(tree.base.join("inside/file"), CONTENT).unwrap();
    assert_eq!(error(tree.open("inside/file", WRITE)), Some(Errno::EROFS));
    assert!(tree.open("inside/kept", WRITE).is_ok());
}

#[test]
fn a_directory_is_allowed_wherever_it_goes_and_no_other_in_its_place() {
    let tree = Tree::new();
    fs::rename(tree.base.join("inside"), tree.base.join("moved")).unwrap();
    fs::create_dir(tree.base.join("inside")).unwrap();
    fs::write(tree.base.join("inside/file"), CONTENT).unwrap();
    assert_eq!(error(tree.open("inside/file", WRITE)), Some(Errno::EROFS));
    assert_eq!(error(tree.open("inside/new", MAKE)), Some(Errno::EROFS));
    assert!(tree.open("moved/file", WRITE).is_ok());
    // A link does not make it longer.
    fs::remove_dir_all(tree.base.join("inside")).unwrap();
    symlink("outside", tree.base.join("inside")).unwrap();
    assert_eq!(error(tree.open("inside/file", WRITE)), Some(Errno::EROFS));
}

#[test]
fn several_trees_are_one() {
    let mut tree = Tree::new();
    let names = ["inside", "outside/sub"].map(|name| tree.base.join(name));
    tree.access = allowing(&names).unwrap();
    let (old, new) = (tree.path("inside/file"), tree.path("outside/sub/moved"));
    assert_eq!(tree.scope().rename((AT, &old), (AT, &new), 0), Ok(0));
    assert_eq!(error(tree.open("outside/file", WRITE)), Some(Errno::EROFS));
    assert!(tree.open("outside/sub/file", WRITE).is_ok());
}

#[test]
fn the_kernels_own_stays_its_own() {
    let mut tree = Tree::new();
    tree.access = allowing(&["/"]).unwrap();
    assert!(tree.open("outside/file", WRITE).is_ok());
    assert!(tree.open("outside/new", MAKE).is_ok());
    for name in [
        "/proc/sys/kernel/hostname",
        "/proc/sys/vm/drop_caches",
        "/proc/sysrq-trigger",
        "/proc/self/oom_score_adj",
        "/sys/power/state",
        "/sys/kernel/uevent_helper",
        "/dev/kmsg",
        "/dev/mem",
    ] {
        if !Path::new(name).exists() {
            println!("skipped: there is no {name}");
            continue;
        }
        let result = error(tree.open(name, WRITE));
        let refused = matches!(result, Some(Errno::EROFS | Errno::EACCES));
        assert!(refused, "{name}: {result:?}");
        let path = tree.path(name);
        let subject = error(tree.scope().subject(AT, &path, 0));
        assert_eq!(subject, Some(Errno::EROFS), "{name}");
        let removed = tree.scope().remove(AT, &path, 0);
        assert_eq!(removed, Err(Errno::EROFS), "{name}");
    }
    for name in ["/dev/new", "/proc/new", "/sys/new", "/dev/fd/new"] {
        assert!(tree.open(name, MAKE).is_err(), "{name}");
        let made = tree.scope().make_directory(AT, &tree.path(name), 0o755);
        assert!(made.is_err(), "{name}");
    }
    let fd = File::open("/proc/self/mountinfo").unwrap().into();
    let subject = tree.scope().descriptor_subject(raw(&fd) as u64);
    assert_eq!(error(subject), Some(Errno::EROFS));
}

#[test]
fn the_kernels_own_cannot_be_allowed() {
    let kernel = |path: &str| matches!(allowing(&[path]), Err(AccessError::Kernel(_)));
    for path in ["/proc", "/dev", "/proc/sys", "/proc/self", "/sys"] {
        assert!(kernel(path), "{path}");
    }
    let kind = |path: &str| matches!(allowing(&[path]), Err(AccessError::Kind(_)));
    assert!(kind("/dev/null"));
    let missing = allowing(&["/nonexistent"]).unwrap_err().to_string();
    assert!(
        missing.contains("/nonexistent") && missing.contains("ENOENT"),
        "{missing}"
    );
}

#[test]
fn the_nearest_directory_decides() {
    let shared = Path::new("/dev/shm");
    if !shared.is_dir() {
        println!("skipped: there is no /dev/shm");
        return;
    }
    let mut tree = Tree::new();
    tree.access = allowing(&[shared]).unwrap();
    let name = format!("/dev/shm/uvisor-test-{}", std::process::id());
    let made = tree.open(&name, MAKE | libc::O_EXCL);
    let _ = fs::remove_file(&name);
    assert!(made.is_ok());
    assert_eq!(error(tree.open("/dev/new", MAKE)), Some(Errno::EROFS));
}

#[test]
fn a_mount_is_where_it_is_mounted() {
    let mut tree = Tree::new();
    // One directory below another, which is mounted within itself.
    let mounted = std::process::Command::new("mount")
        .args(["--bind", "outside", "inside/sub"])
        .current_dir(&tree.base)
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: nothing can be mounted here");
        return;
    }
    let below = tree.open("inside/sub/new", MAKE).is_ok();
    let by_its_own_name = error(tree.open("outside/new", WRITE));
    tree.access = allowing(&[tree.base.join("outside")]).unwrap();
    let elsewhere = tree.open("inside/sub/new", WRITE).is_ok();
    let beside = error(tree.open("inside/file", WRITE));
    let unmounted = std::process::Command::new("umount")
        .arg(tree.base.join("inside/sub"))
        .status();
    assert!(unmounted.unwrap().success());
    assert!(below && elsewhere);
    assert_eq!(by_its_own_name, Some(Errno::EROFS));
    assert_eq!(beside, Some(Errno::EROFS));
}
