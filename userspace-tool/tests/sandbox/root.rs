// SPDX-License-Identifier: GPL-2.0

//! What is there in the root of a sandbox, and what can be done with it.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use uvisor::profile::{Device, FileAccess, Rules};
use uvisor::sandbox::{Layer, Layers, Why};

use crate::common::*;

const ROOT: Layers = Layers::only(Layer::Root);

/// What mapping a file to be executed fails with.
fn executing(path: impl AsRef<Path>) -> i32 {
    let file = fs::File::open(path).unwrap();
    let (prot, flags) = (libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE);
    // SAFETY: The kernel chooses an unused place.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), 1, prot, flags, file.as_raw_fd(), 0) };
    match base == libc::MAP_FAILED {
        true => std::io::Error::last_os_error().raw_os_error().unwrap(),
        false => 0,
    }
}

#[test]
fn only_what_is_named_is_there() {
    on_hosts(|who| {
        assert_eq!(reading(at("secret/key")), 0);
        let files = [
            ("/mnt/ro", RUN),
            ("/mnt/rw", CHANGE),
            ("/mnt/noexec", READ),
            ("/mnt/key", READ),
        ];
        let report = enter(&rules(&files), ROOT);
        assert_eq!(report.skipped, []);
        assert_eq!(names("/"), ["dev", "mnt", "proc"]);
        assert_eq!(names("/mnt"), ["key", "noexec", "ro", "rw"]);
        assert_eq!(reading(at("secret/key")), libc::ENOENT);
        assert_eq!(fs::read(at("ro/inner/file")).unwrap(), b"ro/inner/file");
        assert_eq!(fs::read(at("key")).unwrap(), b"key");
        assert_eq!(writing(at("ro/file")), libc::EROFS);
        assert_eq!(writing(at("key")), libc::EROFS);
        assert_eq!(errno(fs::create_dir(at("ro/new"))), libc::EROFS);
        assert_eq!(writing(at("rw/file")), 0);
        fs::write(at("rw/new"), "new").unwrap();
        let devices = fs::File::options().write(true).open(at("rw/null"));
        assert_eq!(errno(devices), libc::EACCES, "a device of the host's");
        assert_eq!(executing(at("ro/file")), 0);
        assert_eq!(executing(at("noexec/file")), libc::EPERM);
        for path in ["/new", "/mnt/new", "/dev/new"] {
            assert_eq!(errno(fs::create_dir(path)), libc::EROFS, "{path}");
        }
        for path in ["/mnt/ro", "/mnt/rw", "/mnt/key", "/", "/proc"] {
            let flags = rustix::fs::statvfs(path).unwrap().f_flag;
            let nosuid = rustix::fs::StatVfsMountFlags::NOSUID;
            assert!(flags.contains(nosuid), "{path} is {flags:?}");
        }
        let owner = fs::metadata(at("ro/file")).unwrap().uid();
        assert_eq!(owner, NOBODY, "as {who:?}");
    });
}

#[test]
fn paths_are_what_they_are_on_the_host() {
    on_hosts(|_| {
        let files = [
            ("/mnt/absolute/inner", READ),
            ("/mnt/relative", RUN),
            ("/mnt/loop", READ),
            ("/mnt/none/at/all", READ),
            ("/mnt/ro/file/below", READ),
            ("/proc/sys", CHANGE),
            ("/dev/mem", CHANGE),
        ];
        let report = enter(&rules(&files), ROOT);
        let skipped: Vec<_> = report
            .skipped
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.why))
            .collect();
        let lookup = |errno: i32| Why::Lookup(std::io::Error::from_raw_os_error(errno).into());
        assert_eq!(
            skipped,
            [
                ("/dev/mem", Why::Own),
                ("/mnt/loop", lookup(libc::ELOOP)),
                ("/mnt/ro/file/below", lookup(libc::ENOTDIR)),
                ("/proc/sys", Why::Own),
                ("/mnt/none/at/all", Why::Missing),
            ]
        );
        assert_eq!(names("/mnt"), ["absolute", "relative", "ro", "rw"]);
        assert_eq!(fs::read_link(at("relative")).unwrap(), Path::new("ro"));
        assert_eq!(
            fs::read_link(at("absolute")).unwrap(),
            Path::new("/mnt/ro/../rw")
        );
        assert_eq!(fs::read(at("relative/file")).unwrap(), b"ro/file");
        assert_eq!(
            fs::read(at("absolute/inner/file")).unwrap(),
            b"rw/inner/file"
        );
        assert_eq!(names("/mnt/rw"), ["inner"]);
        assert_eq!(writing("/proc/self/comm"), libc::EROFS);
    });
}

#[test]
fn the_longest_rule_decides() {
    on_hosts(|_| {
        let files = [
            ("/mnt/rw", CHANGE),
            ("/mnt/rw/inner", READ),
            ("/mnt/rw/inner/deep", CHANGE),
            // The same as what lies on the way, by another name.
            ("/mnt/relative", READ),
            ("/mnt/ro", CHANGE),
            ("/mnt/relative/inner", FileAccess::Hidden),
        ];
        enter(&rules(&files), ROOT);
        assert_eq!(writing(at("rw/file")), 0);
        assert_eq!(writing(at("rw/inner/file")), libc::EROFS);
        assert_eq!(writing(at("rw/inner/deep/file")), 0);
        assert_eq!(writing(at("ro/file")), 0, "a name counts more than a link");
        assert_eq!(reading(at("ro/inner/file")), libc::ENOENT);
    });
}

#[test]
fn what_is_open_without_a_rule_is_told() {
    on_hosts(|_| {
        let files = [
            ("/mnt/rw", CHANGE),
            ("/mnt/rw/none", READ),
            ("/mnt/rw/nothing", FileAccess::Hidden),
            ("/mnt/rw/more", CHANGE),
            ("/mnt/ro/none", FileAccess::Hidden),
            ("/dev/mem", FileAccess::Hidden),
            ("/dev/null", FileAccess::Hidden),
        ];
        let mut rules = rules(&files);
        rules.devices = vec![Device::Null];
        let report = enter(&rules, ROOT);
        let mut skipped: Vec<_> = report
            .skipped
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.is_open))
            .collect();
        skipped.sort_unstable();
        assert_eq!(
            skipped,
            [
                ("/dev/null", true),
                // There is nothing above it.
                ("/mnt/ro/none", false),
                ("/mnt/rw/more", false),
                ("/mnt/rw/none", true),
                ("/mnt/rw/nothing", true),
            ]
        );
    });
}

/// The host as it is, but for some of it.
fn whole() -> Rules {
    let files = [
        ("/", READ),
        ("/mnt/rw", CHANGE),
        ("/mnt/secret", FileAccess::Hidden),
        ("/mnt/secret/open", READ),
        ("/mnt/shut", FileAccess::Hidden),
        ("/mnt/key", FileAccess::Hidden),
        ("/mnt/none", FileAccess::Hidden),
        ("/proc/cmdline", FileAccess::Hidden),
        ("/mnt/tmp", FileAccess::Tmpfs),
        ("/mnt/unmade", FileAccess::Tmpfs),
    ];
    let mut rules = rules(&files);
    rules.devices = vec![Device::Null, Device::Full, Device::Pts, Device::Shm];
    rules
}

#[test]
fn what_is_hidden_of_the_host_is_not_there() {
    on_hosts(|_| {
        let before = names("/");
        let report = enter(&whole(), ROOT.with(Layer::Rights));
        let skipped: Vec<_> = report
            .skipped
            .iter()
            .map(|one| (one.path.to_str().unwrap(), one.why, one.is_open))
            .collect();
        // One could only be made among the host's files, and what comes to be at the other's name is not hidden.
        assert_eq!(
            skipped,
            [
                ("/mnt/none", Why::Missing, true),
                ("/mnt/unmade", Why::NoPlace, true)
            ]
        );
        assert_eq!(names("/"), before);
        assert_eq!(reading(at("ro/file")), 0);
        assert_eq!(writing(at("ro/file")), libc::EROFS);
        assert_eq!(writing(at("rw/file")), 0);
        assert_eq!(names(at("secret")), ["open"]);
        assert_eq!(
            fs::read(at("secret/open/file")).unwrap(),
            b"secret/open/file"
        );
        assert_eq!(errno(fs::create_dir(at("secret/new"))), libc::EROFS);
        assert_eq!(errno(fs::read_dir(at("shut"))), libc::EACCES);
        assert_eq!(reading(at("shut/key")), libc::EACCES);
        for path in [at("shut"), at("key"), "/proc/cmdline".into()] {
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!(
                metadata.permissions().mode() & 0o7777,
                0,
                "{}",
                path.display()
            );
            assert!(
                metadata.is_dir() || metadata.len() == 0,
                "{}",
                path.display()
            );
            let changed = fs::set_permissions(&path, PermissionsExt::from_mode(0o777));
            assert_eq!(errno(changed), libc::EROFS, "{}", path.display());
        }
        assert_eq!(reading(at("key")), libc::EACCES);
    });
}

#[test]
fn there_are_only_the_devices_that_are_named() {
    on_hosts(|_| {
        let mut few = rules(&[("/mnt/ro", READ)]);
        few.devices = whole().devices;
        for rules in [whole(), few] {
            let (status, said) = forked(|| {
                enter(&rules, ROOT);
                look_at_devices();
            });
            assert_eq!((status, &*said), (0, ""));
        }
    });
}

fn look_at_devices() {
    let own = [
        "fd", "full", "null", "ptmx", "pts", "shm", "stderr", "stdin", "stdout",
    ];
    assert_eq!(names("/dev"), own);
    fs::write("/dev/null", "gone").unwrap();
    let full = fs::OpenOptions::new().write(true).open("/dev/full");
    assert_eq!(errno(full.unwrap().write_all(b"x")), libc::ENOSPC);
    let changed = fs::set_permissions("/dev/null", PermissionsExt::from_mode(0o600));
    assert_eq!(errno(changed), libc::EROFS);
    assert_eq!(names("/dev/pts"), ["ptmx"], "terminals of the host's");
    let master = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/ptmx")
        .unwrap();
    assert_eq!(names("/dev/pts"), ["0", "ptmx"]);
    drop(master);
    fs::write("/dev/shm/new", "new").unwrap();
    assert_eq!(names("/dev/shm"), ["new"]);
    assert_eq!(executing("/dev/shm/new"), libc::EPERM);
    assert_eq!(errno(fs::create_dir("/dev/new")), libc::EROFS);
    let file = fs::File::open("/proc/self/status").unwrap();
    assert_eq!(reading(format!("/dev/fd/{}", file.as_raw_fd())), 0);
}

#[test]
fn directories_in_memory_go_with_the_task() {
    on_hosts(|_| {
        let (status, said) = forked(|| {
            let files = [
                ("/mnt/tmp", FileAccess::Tmpfs),
                ("/mnt/tmp/made/here", READ),
                ("/made", FileAccess::Tmpfs),
            ];
            let mut rules = rules(&files);
            rules.limits.memory = Some(1 << 20);
            let report = enter(&rules, ROOT);
            assert_eq!(report.skipped.len(), 1, "what the host has not is not made");
            fs::write(at("tmp/new"), "new").unwrap();
            assert_eq!(
                fs::metadata(at("tmp")).unwrap().permissions().mode() & 0o7777,
                0o1777
            );
            let much = vec![0; 2 << 20];
            assert_eq!(errno(fs::write(at("tmp/much"), much)), libc::ENOSPC);
            fs::write("/made/new", "new").unwrap();
            assert_eq!(executing(at("tmp/new")), libc::EPERM);
            assert_eq!(executing("/made/new"), libc::EPERM);
        });
        assert_eq!((status, &*said), (0, ""));
        assert_eq!(names(at("tmp")), [""; 0]);
        assert!(!Path::new("/made").exists());
    });
}

#[test]
fn what_is_written_is_executed_only_with_jit() {
    on_hosts(|_| {
        let change = FileAccess::Host {
            execute: true,
            write: uvisor::profile::Write::Through,
        };
        for (jit, expected) in [(false, libc::EPERM), (true, 0)] {
            for layers in [ROOT, Layers::ALL] {
                let (status, said) = forked(|| {
                    let files = [("/mnt/tmp", FileAccess::Tmpfs), ("/mnt/rw", change)];
                    let mut rules = rules(&files);
                    rules.jit = jit;
                    rules.devices = vec![Device::Shm];
                    enter(&rules, layers);
                    for path in ["/mnt/tmp/new", "/mnt/rw/file", "/dev/shm/new"] {
                        fs::write(path, "new").unwrap();
                        let got = executing(path);
                        // The filter lets nothing be mapped so, whatever it is.
                        let expected = if layers == ROOT {
                            expected
                        } else {
                            libc::EPERM
                        };
                        assert_eq!(got, expected, "{path} {jit}");
                    }
                });
                assert_eq!((status, &*said), (0, ""));
            }
        }
    });
}

#[test]
fn places_are_made_in_memory_but_not_among_the_hosts_files() {
    on_hosts(|_| {
        fs::create_dir_all(at("tmp/deep/er")).unwrap();
        let files = [("/mnt/tmp", FileAccess::Tmpfs), ("/mnt/tmp/deep/er", READ)];
        enter(&rules(&files), ROOT);
        assert_eq!(names(at("tmp")), ["deep"]);
        assert_eq!(errno(fs::create_dir(at("tmp/deep/er/new"))), libc::EROFS);
        fs::create_dir(at("tmp/new")).unwrap();
    });
}

#[test]
fn the_working_directory_stays_if_it_is_there() {
    for (directory, content) in [
        ("/mnt/ro/inner", &["deep", "file"][..]),
        // There is nothing of the host's in it, and nothing can be made there.
        ("/mnt/secret/open", &[]),
        ("/mnt", &["ro"]),
    ] {
        on_hosts(|_| {
            std::env::set_current_dir(directory).unwrap();
            enter(&rules(&[("/mnt/ro", READ)]), ROOT);
            assert_eq!(std::env::current_dir().unwrap(), Path::new(directory));
            let there = fs::metadata(".").unwrap();
            let same = fs::metadata(directory).unwrap();
            assert_eq!((there.dev(), there.ino()), (same.dev(), same.ino()));
            assert_eq!(names("."), content);
            assert_eq!(errno(fs::write("new", "new")), libc::EROFS);
        });
    }
}
