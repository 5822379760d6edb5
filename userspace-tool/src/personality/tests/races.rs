// SPDX-License-Identifier: GPL-2.0

//! Another thread of the task's changes what a path, or a descriptor, means while it is being decided about.

use super::*;
use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, AtomicU32};

/// How often the other thread changes something.
const ROUNDS: u32 = 100_000;

const MAKE: i32 = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;

/// Exchanges two names, as a task may within its tree.
fn exchange(one: &CStr, other: &CStr) {
    // SAFETY: Both are strings.
    let result =
        unsafe { libc::renameat2(AT, one.as_ptr(), AT, other.as_ptr(), libc::RENAME_EXCHANGE) };
    assert_eq!(result, 0);
}

/// How often the other thread exchanges names between two rests. Odd, for each name to have its turn at the rests.
const BETWEEN_RESTS: u32 = 999;

/// Does something over and over while another thread exchanges two names, and counts what became of it: how often
/// it was done, refused, and something else.
fn while_exchanging(
    tree: &Tree,
    one: &str,
    other: &str,
    mut act: impl FnMut(&Tree) -> SysResult<()>,
) -> [u32; 3] {
    let (one, other) = (tree.path(one), tree.path(other));
    let (done, acts) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut counts = [0; 3];
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 0..ROUNDS {
                exchange(&one, &other);
                if round % BETWEEN_RESTS == 0 {
                    // Until one act has begun and ended in between: its result then depends on no one's speed.
                    let before = acts.load(Ordering::Relaxed);
                    while acts.load(Ordering::Relaxed).wrapping_sub(before) < 2 {
                        std::thread::yield_now();
                    }
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            counts[match act(tree) {
                Ok(()) => 0,
                Err(Errno::EROFS | Errno::EXDEV) => 1,
                Err(_) => 2,
            }] += 1;
            acts.fetch_add(1, Ordering::Relaxed);
        }
    });
    println!("done, refused, other: {counts:?}");
    // Otherwise this has shown nothing.
    assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
    counts
}

#[test]
fn a_directory_that_becomes_a_link() {
    let tree = Tree::new();
    while_exchanging(&tree, "inside/sub", "inside/to-directory", |tree| {
        write(tree.open("inside/sub/file", MAKE)?, "attack").map_err(Errno::from)
    });
    tree.check_outside();
}

#[test]
fn a_file_that_becomes_a_link() {
    let tree = Tree::new();
    while_exchanging(&tree, "inside/file", "inside/to-file", |tree| {
        write(tree.open("inside/file", MAKE)?, "attack").map_err(Errno::from)
    });
    tree.check_outside();
}

#[test]
fn names_that_become_links() {
    let tree = Tree::new();
    let names = |tree: &Tree| -> SysResult<()> {
        let scope = tree.scope();
        let (new, victim) = (tree.path("inside/sub/new"), tree.path("inside/sub/file"));
        let own = tree.path("inside/own");
        // What a round left that came half the way, wherever it can be put right from here.
        let _ = scope.remove(AT, &new, libc::AT_REMOVEDIR);
        match scope.rename((AT, &own), (AT, &victim), libc::RENAME_NOREPLACE) {
            Ok(_) | Err(Errno::ENOENT) => {}
            // Both are there, and are one file.
            Err(Errno::EEXIST) => scope.remove(AT, &own, 0).map(drop)?,
            Err(errno) => return Err(errno),
        }
        scope.make_directory(AT, &new, 0o755)?;
        scope.remove(AT, &new, libc::AT_REMOVEDIR)?;
        scope.link((AT, &victim), (AT, &own), 0)?;
        scope.remove(AT, &own, 0)?;
        scope.rename((AT, &victim), (AT, &own), 0)?;
        scope.rename((AT, &own), (AT, &victim), libc::RENAME_NOREPLACE)?;
        Ok(())
    };
    while_exchanging(&tree, "inside/sub", "inside/to-directory", names);
    tree.check_outside();
}

#[test]
fn modes_and_lengths_of_what_becomes_a_link() {
    let tree = Tree::new();
    let before = fs::metadata(tree.base.join("outside/file"))
        .unwrap()
        .permissions();
    while_exchanging(&tree, "inside/file", "inside/to-file", |tree| {
        let subject = tree.scope().subject(AT, &tree.path("inside/file"), 0)?;
        super::super::attributes::set_mode(&subject, 0o777)?;
        super::super::attributes::set_length(&subject, 0)?;
        Ok(())
    });
    let after = fs::metadata(tree.base.join("outside/file"))
        .unwrap()
        .permissions();
    assert_eq!(before, after);
    tree.check_outside();
}

#[test]
fn a_tree_that_moves_within_itself_stays_inside() {
    let tree = Tree::new();
    for name in ["a/b/c/d", "e"] {
        fs::create_dir_all(tree.base.join("inside").join(name)).unwrap();
    }
    let directory = tree.look("inside/a/b/c/d");
    let (high, low) = (tree.path("inside/a/b/c"), tree.path("inside/e"));
    let done = AtomicBool::new(false);
    let mut counts = [0u32; 2];
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for _ in 0..ROUNDS {
                exchange(&high, &low);
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            let made = tree.open_how(raw(&directory), c"new", MAKE, 0o600, 0);
            counts[usize::from(made.is_err())] += 1;
        }
    });
    println!("made, refused: {counts:?}");
    // A refusal must be rare: three walks in a row that were each disturbed.
    assert!(counts[1] * 100 <= counts[0], "{counts:?}");
    tree.check_outside();
}

/// Runs a test of this program's in a process of its own, whose descriptors may be exchanged.
fn alone(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", test])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 passed"), "{text}");
}

#[test]
fn descriptors_that_are_exchanged() {
    alone("personality::tests::races::with_exchanged_descriptors");
}

#[test]
#[ignore = "runs in a process of its own, started by another test"]
fn with_exchanged_descriptors() {
    let tree = Tree::new();
    let _ = fds();
    // What a task can have of what is outside.
    let have = [
        tree.look("outside/file"),
        tree.look("outside"),
        tree.look("outside/sub"),
        tree.look("inside"),
        tree.open("outside/file", libc::O_RDONLY).unwrap(),
        tree.open("outside", libc::O_RDONLY).unwrap(),
    ];
    let first = have.iter().map(raw).max().unwrap() + 1;
    let done = AtomicBool::new(false);
    let mut counts = [0u32; 2];
    std::thread::scope(|threads| {
        threads.spawn(|| {
            for round in 0..ROUNDS as usize {
                let from = raw(&have[round % have.len()]);
                for to in first..first + 4 {
                    // SAFETY: Nothing but the calls that are attacked uses these numbers.
                    unsafe { libc::dup2(from, to) };
                }
                for to in first..first + 4 {
                    // SAFETY: As above.
                    unsafe { libc::close(to) };
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            for name in ["inside/sub/file", "inside/file"] {
                let how = How {
                    flags: MAKE,
                    mode: 0o600,
                    resolve: 0,
                };
                let opened = tree.scope().open(AT, &tree.path(name), how);
                counts[usize::from(opened.is_err())] += 1;
                if let Ok(fd) = opened {
                    // SAFETY: Whatever has this number now, the task could do this with it.
                    unsafe { libc::write(fd as RawFd, b"attack".as_ptr().cast(), 6) };
                    // SAFETY: As above.
                    unsafe { libc::close(fd as RawFd) };
                }
            }
            let scope = tree.scope();
            let path = tree.path("inside/sub/made");
            let _ = scope.make_directory(AT, &path, 0o755);
            let _ = scope.remove(AT, &path, libc::AT_REMOVEDIR);
            if let Ok(subject) = scope.subject(AT, &tree.path("inside/file"), 0) {
                let _ = super::super::attributes::set_length(&subject, 0);
            }
        }
    });
    println!("opened, refused: {counts:?}");
    assert!(counts[0] > 0, "{counts:?}");
    tree.check_outside();
}

#[test]
fn descriptors_on_their_way() {
    alone("personality::tests::races::with_descriptors_on_their_way");
}

#[test]
#[ignore = "runs in a process of its own, started by another test"]
fn with_descriptors_on_their_way() {
    /// What the broker makes for itself, as it is told from all else.
    const LEN: u64 = 12_345;
    let tree = Tree::hiding("outside");
    let hidden = status_at(AT, &tree.path("outside/file"), 0)
        .unwrap()
        .identity;
    // The numbers that are free next, with no gap below.
    let (last, _) = *fds().all_open().last().unwrap();
    let mut spare = vec![tree.look("inside")];
    while raw(spare.last().unwrap()) < last {
        spare.push(tree.look("inside"));
    }
    let first = raw(spare.last().unwrap()).max(last) + 1;
    let done = AtomicBool::new(false);
    let [caught, exchanged, disturbed, tried] = [const { AtomicU32::new(0) }; 4];
    let is_brokers = |fd: RawFd| {
        let found = status_of(fd).is_ok_and(|status| status.identity == hidden);
        // SAFETY: Whatever it is, its length is asked for.
        found || unsafe { libc::lseek(fd, 0, libc::SEEK_END) } == LEN as i64
    };
    std::thread::scope(|threads| {
        threads.spawn(|| {
            // As another thread of the guest's.
            while !done.load(Ordering::Relaxed) {
                for fd in first..first + 3 {
                    tried.fetch_add(1, Ordering::Relaxed);
                    if let Ok(other) = fds().another(fd, libc::F_DUPFD_CLOEXEC, 0) {
                        let other = crate::device::new_fd(other as RawFd);
                        let found = is_brokers(raw(&other));
                        caught.fetch_add(found.into(), Ordering::Relaxed);
                    }
                    if let Ok(pinned) = fds().duplicate(fd) {
                        let found = is_brokers(raw(&pinned));
                        caught.fetch_add(found.into(), Ordering::Relaxed);
                    }
                    // What is closed under the broker's hands is another one in the next moment.
                    if fds().close(fd, false).is_ok() {
                        exchanged.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        for _ in 0..ROUNDS / 5 {
            let opened = error(tree.open("outside/file", libc::O_RDONLY));
            let memory = fds().memory_file(&fds().hold(), c"test", LEN);
            let undisturbed = opened == Some(Errno::ENOENT) && memory.is_ok();
            disturbed.fetch_add((!undisturbed).into(), Ordering::Relaxed);
        }
        done.store(true, Ordering::Relaxed);
    });
    let found = [caught, exchanged, disturbed].map(AtomicU32::into_inner);
    println!("caught, exchanged, disturbed: {found:?} of {tried:?}");
    assert!(tried.into_inner() > ROUNDS / 5);
    assert_eq!(found, [0; 3]);
}
