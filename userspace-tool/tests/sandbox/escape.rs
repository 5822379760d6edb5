// SPDX-License-Identifier: GPL-2.0

//! Ways out of the root. Descriptors of the host's that are open before are ways out, too, so the broker is to have
//! none: nothing here can take them away.

use std::fs;
use std::path::Path;

use uvisor::profile::{FileAccess, Rules};
use uvisor::sandbox::{Layer, Layers};

use crate::common::*;

fn some() -> Rules {
    rules(&[
        ("/mnt/ro", READ),
        ("/mnt/rw", CHANGE),
        ("/mnt/tmp", FileAccess::Tmpfs),
        ("/mnt/secret", FileAccess::Hidden),
        ("/mnt/shut", FileAccess::Hidden),
    ])
}

#[test]
fn paths_do_not_lead_out() {
    on_hosts(|_| {
        std::os::unix::fs::symlink("../../../../mnt/secret/key", at("rw/out")).unwrap();
        std::os::unix::fs::symlink("/mnt/secret/key", at("rw/there")).unwrap();
        enter(&some(), Layers::ALL);
        let up = "../".repeat(40);
        for path in [
            "/mnt/secret/key".to_owned(),
            format!("{up}mnt/secret/key"),
            format!("/proc/self/root/{up}mnt/secret/key"),
            format!("/proc/self/cwd/{up}mnt/secret/key"),
            format!("/mnt/ro/{up}mnt/secret/key"),
            "/mnt/rw/out".to_owned(),
            "/mnt/rw/there".to_owned(),
            "/proc/thread-self/root/mnt/secret/key".to_owned(),
        ] {
            assert_eq!(reading(&path), libc::ENOENT, "{path}");
        }
        let parent = std::os::unix::process::parent_id();
        for pid in [1, parent] {
            for name in [
                "root/mnt/secret/key",
                "cwd/mnt/secret/key",
                "environ",
                "mem",
            ] {
                let got = reading(format!("/proc/{pid}/{name}"));
                assert!(
                    matches!(got, libc::ENOENT | libc::EACCES | libc::EPERM),
                    "{pid} {name} {got}"
                );
            }
            assert_ne!(errno(fs::read_dir(format!("/proc/{pid}/fd"))), 0);
        }
        assert_eq!(names("/"), ["dev", "mnt", "proc"]);
    });
}

#[test]
fn processes_of_others_are_not_seen_by_user_0() {
    on_host(Who::Root, || {
        // SAFETY: It takes nothing.
        let parent = unsafe { libc::getppid() };
        enter(&some(), Layers::only(Layer::Root).with(Layer::Rights));
        for pid in [1, parent] {
            assert_eq!(
                errno(fs::metadata(format!("/proc/{pid}"))),
                libc::ENOENT,
                "{pid}"
            );
        }
        let (status, said) = forked(|| {
            // Of the same task.
            // SAFETY: It takes nothing.
            let broker = unsafe { libc::getppid() };
            fs::metadata(format!("/proc/{broker}/status")).unwrap();
        });
        assert_eq!((status, &*said), (0, ""));
    });
}

#[test]
fn the_old_root_is_gone() {
    on_hosts(|_| {
        enter(&some(), Layers::only(Layer::Root));
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts: Vec<_> = text
            .lines()
            .map(|line| line.split(' ').nth(4).unwrap())
            .collect();
        for mount in &mounts {
            let own = ["/", "/dev", "/mnt/ro", "/mnt/rw", "/mnt/tmp"];
            assert!(
                own.contains(mount) || mount.starts_with("/proc"),
                "{mount} in {mounts:?}"
            );
        }
        // Mounts that hide something cannot be seen below, even with all capabilities here.
        let unmount = c"/".as_ptr() as i64;
        let unmounted = call(
            libc::SYS_umount2,
            [unmount, libc::MNT_DETACH.into(), 0, 0, 0, 0],
        );
        assert!(unmounted < 0 || names("/").is_empty() || !Path::new("/etc").exists());
        assert!(!Path::new("/mnt/secret").exists());
    });
}

#[test]
fn mounts_stay_what_they_are() {
    on_hosts(|_| {
        enter(&some(), Layers::only(Layer::Root).with(Layer::Rights));
        let ro = c"/mnt/ro".as_ptr() as i64;
        let flags = (libc::MS_REMOUNT | libc::MS_BIND) as i64;
        let attempts = [
            call(libc::SYS_umount2, [ro, libc::MNT_DETACH.into(), 0, 0, 0, 0]),
            call(libc::SYS_mount, [0, ro, 0, flags, 0, 0]),
            call(libc::SYS_unshare, [libc::CLONE_NEWNS.into(), 0, 0, 0, 0, 0]),
            call(libc::SYS_chroot, [ro, 0, 0, 0, 0, 0]),
            call(libc::SYS_pivot_root, [ro, ro, 0, 0, 0, 0]),
        ];
        assert_eq!(attempts, [-i64::from(libc::EPERM); 5]);
        assert_eq!(writing(at("ro/file")), libc::EROFS);
    });
}

#[test]
fn a_user_namespace_within_does_not_open_anything() {
    on_hosts(|_| {
        enter(
            &some(),
            Layers::ALL.without(Layer::Filter).without(Layer::Landlock),
        );
        let own = libc::CLONE_NEWNS | libc::CLONE_NEWUSER;
        let unshared = call(libc::SYS_unshare, [own.into(), 0, 0, 0, 0, 0]);
        if unshared == 0 {
            // The mounts came from where there are more rights, so they are locked together.
            let ro = c"/mnt/ro".as_ptr() as i64;
            let flags = (libc::MS_REMOUNT | libc::MS_BIND) as i64;
            assert!(call(libc::SYS_umount2, [ro, libc::MNT_DETACH.into(), 0, 0, 0, 0]) < 0);
            assert!(call(libc::SYS_mount, [0, ro, 0, flags, 0, 0]) < 0);
        }
        assert_eq!(writing(at("ro/file")), libc::EROFS);
        assert_eq!(reading(at("secret/key")), libc::ENOENT);
    });
    // With Landlock there are no mounts at all, with the filter no such namespace.
    on_hosts(|_| {
        enter(&some(), Layers::ALL.without(Layer::Filter));
        let own = libc::CLONE_NEWNS | libc::CLONE_NEWUSER;
        if call(libc::SYS_unshare, [own.into(), 0, 0, 0, 0, 0]) == 0 {
            let flags = libc::MS_BIND as i64;
            let (from, to) = (c"/mnt/rw".as_ptr() as i64, c"/mnt/ro".as_ptr() as i64);
            let bound = call(libc::SYS_mount, [from, to, 0, flags, 0, 0]);
            assert_eq!(bound, -i64::from(libc::EPERM));
        }
    });
}

#[test]
fn names_and_queues_are_its_own() {
    on_hosts(|_| {
        let spaces = ["ipc", "uts", "mnt"];
        let links = || spaces.map(|name| fs::read_link(format!("/proc/self/ns/{name}")).unwrap());
        let before = links();
        enter(&some(), Layers::only(Layer::Root));
        for (before, after) in before.iter().zip(links()) {
            assert_ne!(*before, after);
        }
    });
}

#[test]
fn layers_may_be_entered_one_after_the_other() {
    on_hosts(|_| {
        let report = enter(&some(), Layers::ALL.without(Layer::Filter));
        assert_eq!(report.filter, None);
        // This is when something may be started that the filter would not let start.
        let none = call(libc::SYS_chroot, [-1; 6]);
        assert_ne!(none, -i64::from(libc::ENOSYS));
        enter(&some(), Layers::only(Layer::Filter));
        assert_eq!(call(libc::SYS_chroot, [-1; 6]), -i64::from(libc::ENOSYS));
        assert_eq!(reading(at("ro/file")), 0);
    });
}
