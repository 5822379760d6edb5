// SPDX-License-Identifier: GPL-2.0

//! Upper directories made here, as the kernel and a hostile task would leave them, are found and committed.

mod world;

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{symlink, MetadataExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{mknodat, setxattr, FileType, Mode, XattrFlags, CWD};

use super::*;
use world::{chmod, get, mode, note, read, set, World};

#[test]
fn all_kinds_of_changes_are_found_and_made() {
    let world = World::new("kinds", |host| {
        for name in [
            "same",
            "content",
            "mode",
            "attributes",
            "gone",
            "link",
            "was-file",
        ] {
            fs::write(host.join(name), "old\n").unwrap();
            chmod(&host.join(name), 0o644);
        }
        fs::create_dir_all(host.join("gone-directory/below")).unwrap();
        fs::write(host.join("gone-directory/below/file"), "x").unwrap();
        fs::create_dir_all(host.join("opaque/below")).unwrap();
        fs::write(host.join("opaque/old"), "x").unwrap();
        fs::create_dir(host.join("was-directory")).unwrap();
        fs::write(host.join("was-directory/file"), "x").unwrap();
        fs::create_dir(host.join("directory")).unwrap();
        set(&host.join("attributes"), "gone", b"1");
        set(&host.join("attributes"), "other", b"2");
    });
    let upper = &world.upper;
    world.copy_up("same");
    fs::write(world.copy_up("content"), "new\n").unwrap();
    chmod(&world.copy_up("mode"), 0o600);
    let attributes = world.copy_up("attributes");
    set(&attributes, "other", b"3");
    set(&attributes, "new", b"4");
    rustix::fs::removexattr(&attributes, "user.gone").unwrap_or(());
    world.whiteout("gone");
    world.whiteout("gone-directory");
    symlink("/etc/passwd", upper.join("link")).unwrap();
    fs::create_dir(upper.join("was-file")).unwrap();
    fs::write(upper.join("was-file/below"), "y").unwrap();
    fs::create_dir(upper.join("opaque")).unwrap();
    note(&upper.join("opaque"), "opaque", b"y");
    fs::write(upper.join("opaque/new"), "z").unwrap();
    fs::write(upper.join("was-directory"), "now a file").unwrap();
    fs::create_dir_all(upper.join("new/closed")).unwrap();
    fs::write(upper.join("new/closed/file"), "deep").unwrap();
    chmod(&upper.join("new/closed"), 0o555);
    fs::create_dir(upper.join("directory")).unwrap();
    chmod(&upper.join("directory"), 0o1777);
    set(&upper.join("directory"), "note", b"5");

    assert_eq!(
        world.lines(),
        [
            "A new",
            "A new/closed",
            "A new/closed/file",
            "A opaque/new",
            "A was-file/below",
            "D gone",
            "D gone-directory",
            "D gone-directory/below",
            "D gone-directory/below/file",
            "D opaque/below",
            "D opaque/old",
            "D was-directory/file",
            "M attributes",
            "M content",
            "M directory",
            "M mode",
            "T link",
            "T was-directory",
            "T was-file",
        ]
    );
    let inode = fs::metadata(world.host.join("mode")).unwrap().ino();
    let time = fs::metadata(upper.join("content")).unwrap().modified();
    world.commit_all();
    let host = |name: &str| world.host.join(name);
    assert_eq!(read(host("content")), "new\n");
    let now = fs::metadata(host("content")).unwrap().modified();
    assert_eq!(now.unwrap(), time.unwrap());
    assert_eq!(mode(host("mode")), 0o600);
    assert_eq!(fs::metadata(host("mode")).unwrap().ino(), inode, "in place");
    assert_eq!(get(&host("attributes"), "gone"), b"");
    assert_eq!(get(&host("attributes"), "other"), b"3");
    assert_eq!(get(&host("attributes"), "new"), b"4");
    assert!(!host("gone").exists() && !host("gone-directory").exists());
    assert_eq!(
        fs::read_link(host("link")).unwrap(),
        Path::new("/etc/passwd")
    );
    assert_eq!(read(host("was-file/below")), "y");
    assert_eq!(fs::read_dir(host("opaque")).unwrap().count(), 1);
    assert_eq!(read(host("was-directory")), "now a file");
    assert_eq!(read(host("new/closed/file")), "deep");
    assert_eq!(mode(host("new/closed")), 0o555);
    assert_eq!(mode(host("directory")), 0o1777);
    assert_eq!(get(&host("directory"), "note"), b"5");
    assert_eq!(get(&host("opaque"), "overlay.opaque"), b"");
    chmod(&host("new/closed"), 0o755);
}

#[test]
fn what_the_host_changed_meanwhile_stays() {
    let world = World::new("meanwhile", |host| {
        for name in ["changed", "removed", "whiteout", "same", "alone"] {
            fs::write(host.join(name), "old").unwrap();
        }
        fs::create_dir(host.join("directory")).unwrap();
        fs::write(host.join("directory/old"), "old").unwrap();
        fs::create_dir(host.join("mode")).unwrap();
    });
    for name in ["changed", "removed", "same", "alone"] {
        fs::write(world.copy_up(name), "the task's").unwrap();
    }
    world.whiteout("whiteout");
    world.whiteout("directory");
    fs::write(world.upper.join("both"), "the task's").unwrap();
    fs::create_dir(world.upper.join("mode")).unwrap();
    chmod(&world.upper.join("mode"), 0o700);
    // Of the same length, which only a time tells.
    fs::write(world.host.join("changed"), "new").unwrap();
    fs::write(world.host.join("whiteout"), "new").unwrap();
    fs::write(world.host.join("same"), "the task's").unwrap();
    fs::write(world.host.join("both"), "the host's").unwrap();
    fs::write(world.host.join("directory/new"), "new").unwrap();
    fs::remove_file(world.host.join("removed")).unwrap();
    chmod(&world.host.join("mode"), 0o711);
    let refused = [
        "A removed: Gone",
        "D directory/new: Changed",
        "D directory: NotEmpty",
        "D whiteout: Changed",
        "M both: Changed",
        "M changed: Changed",
        "M mode: Changed",
    ];
    let mut all = [&refused[..], &["D directory/old", "M alone"]].concat();
    all.sort_unstable();
    assert_eq!(world.lines(), all);
    let committed = world.commit(&[]);
    assert_eq!(
        (committed.done, committed.refused.len()),
        (2, refused.len())
    );
    assert!(!committed.is_complete());
    assert_eq!(read(world.host.join("changed")), "new");
    assert_eq!(read(world.host.join("both")), "the host's");
    assert_eq!(read(world.host.join("alone")), "the task's");
    assert_eq!(read(world.host.join("directory/new")), "new");
    assert!(!world.host.join("removed").exists());
    assert_eq!(mode(world.host.join("mode")), 0o711);
    assert_eq!(world.lines(), refused);
    world.assert_clean();
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let world = World::new("links", |host| {
        for name in ["a", "b", "c"] {
            fs::create_dir(host.join(name)).unwrap();
            fs::write(host.join(name).join("file"), "old").unwrap();
        }
    });
    let outside = world.top.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    // Directories of the host's become links meanwhile: absolute, relative, and to a file.
    for (name, target) in [("a", outside.as_path()), ("b", Path::new("../outside"))] {
        fs::write(world.copy_up(&format!("{name}/file")), "new").unwrap();
        fs::write(world.upper.join(name).join("more"), "new").unwrap();
        fs::rename(world.host.join(name), world.top.join(name)).unwrap();
        symlink(target, world.host.join(name)).unwrap();
    }
    // The task's links are links, whatever they lead to.
    let target = outside.join("file");
    symlink(&target, world.upper.join("out")).unwrap();
    symlink("..", world.upper.join("up")).unwrap();
    world.whiteout("c");
    let lines = world.lines();
    for name in ["a", "b"] {
        assert!(lines.contains(&format!("T {name}: Changed")), "{lines:?}");
        assert!(
            lines
                .iter()
                .any(|line| line.contains(&format!("{name}/file: "))),
            "{lines:?}"
        );
    }
    let committed = world.commit(&[]);
    assert_eq!(committed.refused.len(), 6, "{committed:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(read(outside.join("file")), "outside");
    assert_eq!(fs::read_link(world.host.join("out")).unwrap(), target);
    assert!(!world.host.join("c").exists());
    // The directory itself.
    fs::rename(&world.host, world.top.join("moved")).unwrap();
    symlink(&outside, &world.host).unwrap();
    assert!(matches!(
        world.kept().changes(),
        Err(ChangesError::Host { .. })
    ));
    fs::remove_file(&world.host).unwrap();
    fs::create_dir(&world.host).unwrap();
    assert!(matches!(
        world.kept().changes(),
        Err(ChangesError::Host { .. })
    ));
}

#[test]
fn what_is_never_committed_is_told() {
    let world = World::new("never", |_| {});
    let upper = &world.upper;
    mknodat(CWD, upper.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    fs::write(upper.join("privileged"), "x").unwrap();
    chmod(&upper.join("privileged"), 0o4755);
    fs::create_dir(upper.join("directory")).unwrap();
    chmod(&upper.join("directory"), 0o2755);
    note(&upper.join("directory"), "overlay.mine", b"x");
    fs::write(upper.join("directory/new\nline\x1b"), "x").unwrap();
    assert_eq!(
        world.lines(),
        [
            "A directory",
            "A directory/new\nline\x1b",
            "A fifo: Kind(Fifo)",
            "A privileged: Privileged",
            "A socket: Kind(Socket)",
        ]
    );
    let committed = world.commit(&[]);
    assert_eq!((committed.done, committed.left_out.len()), (2, 2));
    assert_eq!(committed.refused.len(), 1);
    assert_eq!(mode(world.host.join("directory")) & 0o6000, 0);
    assert_eq!(fs::read_dir(&world.host).unwrap().count(), 1);
}

#[test]
fn only_what_is_asked_for_is_committed() {
    let world = World::new("paths", |host| fs::write(host.join("old"), "old").unwrap());
    fs::write(world.copy_up("old"), "new").unwrap();
    for path in ["new/deep", "new/other", "more"] {
        fs::create_dir_all(world.upper.join(path)).unwrap();
        fs::write(world.upper.join(path).join("file"), "x").unwrap();
    }
    let committed = world.commit(&["new/deep/file"]);
    assert_eq!((committed.done, committed.others), (3, 5));
    assert!(!committed.is_complete());
    assert!(world.host.join("new/deep/file").exists() && !world.host.join("more").exists());
    let lines = world.lines();
    assert_eq!(lines.len(), 5, "{lines:?}");
    let (kept, nowhere) = (world.kept(), vec![world.host.join("nowhere")]);
    let lock = kept.lock(Duration::ZERO).unwrap();
    assert!(matches!(
        kept.commit(&lock, &nowhere),
        Err(ChangesError::NoChange(_))
    ));
    drop(lock);
    world.commit_all();
    assert_eq!(read(world.host.join("old")), "new");
}

#[test]
fn a_commit_goes_on_where_one_was_ended() {
    let world = World::new("ended", |host| {
        fs::write(host.join("file"), "old").unwrap();
        fs::create_dir(host.join("mode")).unwrap();
        chmod(&host.join("mode"), 0o755);
        fs::create_dir(host.join("opaque")).unwrap();
        fs::write(host.join("opaque/old"), "old").unwrap();
    });
    fs::write(world.copy_up("file"), "new").unwrap();
    fs::create_dir(world.upper.join("opaque")).unwrap();
    note(&world.upper.join("opaque"), "opaque", b"y");
    fs::write(world.upper.join("opaque/new"), "new").unwrap();
    fs::create_dir(world.upper.join("mode")).unwrap();
    chmod(&world.upper.join("mode"), 0o511);
    set(&world.upper.join("mode"), "note", b"1");
    fs::create_dir(world.upper.join("new")).unwrap();
    fs::write(world.upper.join("new/file"), "x").unwrap();
    chmod(&world.upper.join("new"), 0o555);
    let kept = world.kept();
    kept.begin(&kept.changes().unwrap()).unwrap();
    // As it is when one is ended with most of it half done.
    fs::write(world.host.join(".uvctl-x~1"), "half").unwrap();
    fs::create_dir(world.host.join(".uvctl-x~2")).unwrap();
    fs::write(world.host.join("opaque/.uvctl-x~3"), "half").unwrap();
    fs::write(world.host.join(".uvctl-y~1"), "another's").unwrap();
    chmod(&world.host.join("mode"), 0o711);
    fs::create_dir(world.host.join("new")).unwrap();
    chmod(&world.host.join("new"), 0o755);
    fs::write(world.host.join("file"), "new").unwrap();
    let committed = world.commit(&[]);
    assert_eq!(committed.refused, []);
    assert_eq!(mode(world.host.join("mode")), 0o511);
    assert_eq!(mode(world.host.join("new")), 0o555);
    assert_eq!(get(&world.host.join("mode"), "note"), b"1");
    assert_eq!(fs::read_dir(world.host.join("opaque")).unwrap().count(), 1);
    assert!(!world.host.join(".uvctl-x~1").exists() && !world.host.join(".uvctl-x~2").exists());
    assert!(world.host.join(".uvctl-y~1").exists());
    fs::remove_file(world.host.join(".uvctl-y~1")).unwrap();
    assert_eq!(world.lines(), [""; 0]);
    chmod(&world.host.join("new"), 0o755);
}

#[test]
fn much_of_everything_is_bounded() {
    let world = World::new("much", |host| {
        fs::write(host.join("sparse"), "").unwrap();
        fs::File::create(host.join("holes"))
            .unwrap()
            .set_len(1 << 34)
            .unwrap();
    });
    // The longest there is on most file systems, with something far behind.
    let sparse = fs::File::create(world.copy_up("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    rustix::io::pwrite(&sparse, b"here", 1 << 39).unwrap();
    let holes = fs::File::create(world.upper.join("holes")).unwrap();
    holes.set_len(1 << 34).unwrap();
    let mut names = 0;
    for number in 0..2000 {
        let name = format!("user.{number}");
        names += usize::from(
            setxattr(world.upper.join("holes"), name, b"", XattrFlags::empty()).is_ok(),
        );
    }
    assert!(names > 10);
    // File systems with less room for them never have so many.
    fs::write(world.upper.join("attributes"), "x").unwrap();
    let large = (0..20).all(|number| {
        let (path, name) = (world.upper.join("attributes"), format!("user.{number}"));
        setxattr(path, name, &[b'x'; 60_000], XattrFlags::empty()).is_ok()
    });
    // Deeper than any path.
    let mut here = fs::File::open(&world.upper).unwrap();
    let name = "d".repeat(200);
    for _ in 0..60 {
        rustix::fs::mkdirat(&here, &*name, Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY;
        here = rustix::fs::openat(&here, &*name, flags, Mode::empty())
            .unwrap()
            .into();
    }
    let lines = world.lines();
    assert_eq!(
        lines.iter().filter(|line| line.ends_with(": Deep")).count(),
        1
    );
    assert_eq!(large, lines.contains(&"? attributes: Attributes".into()));
    let committed = world.commit(&[]);
    assert_eq!(committed.refused.len(), 1 + usize::from(large));
    let metadata = fs::metadata(world.host.join("sparse")).unwrap();
    assert_eq!(metadata.len(), 1 << 40);
    assert!(metadata.blocks() < 2048);
    let mut found = [0; 4];
    let sparse = fs::File::open(world.host.join("sparse")).unwrap();
    rustix::io::pread(&sparse, &mut found, 1 << 39).unwrap();
    assert_eq!(&found, b"here");
}

#[test]
fn a_name_is_kept_once_and_by_one() {
    let world = World::new("names", |_| {});
    let paths = [world.host.clone()];
    let again = world.store.make(&world.name, Vec::new(), &paths);
    assert!(matches!(again, Err(ChangesError::Exists(_))));
    let other: Name = "y".parse().unwrap();
    let made = world.store.make(&other, Vec::new(), &paths).unwrap();
    let kept = world.store.get(&other).unwrap();
    assert!(matches!(
        kept.lock(Duration::ZERO),
        Err(ChangesError::Busy(_))
    ));
    // As in the processes of a task.
    let copy = made.lock.as_fd().try_clone_to_owned().unwrap();
    drop(made);
    assert!(matches!(
        kept.lock(Duration::ZERO),
        Err(ChangesError::Busy(_))
    ));
    drop(copy);
    let lock = kept.lock(Duration::ZERO).unwrap();
    world.store.discard(&kept, &lock).unwrap();
    assert_eq!(
        world.store.names().unwrap(),
        std::slice::from_ref(&world.name)
    );
    assert!(matches!(
        world.store.get(&other),
        Err(ChangesError::Missing(_))
    ));
    // What those leave who are ended on the way is removed by the next one; what somebody makes now is not.
    let own = format!(".new-{}", crate::process::id());
    for left in [".old-z", ".new-4194304", &own] {
        fs::create_dir_all(world.store.path().join(left).join("0/upper/deep")).unwrap();
    }
    Store::at(&world.top.join("state")).unwrap();
    let left = fs::read_dir(world.store.path()).unwrap();
    let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [own.as_str(), "x"]);
    for bad in ["", ".", "..", "a/b", "-x", "a b"] {
        assert!(bad.parse::<Name>().is_err(), "{bad}");
    }
    let below = world
        .store
        .make(&other, Vec::new(), std::slice::from_ref(&world.top));
    let below = below.unwrap_err().to_string();
    assert!(below.contains("set XDG_STATE_HOME"), "{below}");
    let generated = world.store.free("./a b\n").unwrap();
    assert!(generated.to_string().starts_with("ab-"), "{generated}");
    let mut manifest = fs::OpenOptions::new();
    let path = world.store.path().join("x/manifest.json");
    manifest
        .append(true)
        .open(path)
        .unwrap()
        .write_all(b"{")
        .unwrap();
    let broken = world.store.get(&world.name);
    assert!(matches!(broken, Err(ChangesError::Broken { .. })));
}
