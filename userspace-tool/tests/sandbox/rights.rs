// SPDX-License-Identifier: GPL-2.0

//! What a confined broker has given up.

use std::fs;
use std::time::Duration;

use uvisor::sandbox::{Layer, Layers};

use crate::common::*;

/// A line of this process's status.
fn status(name: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

#[test]
fn there_are_no_capabilities_and_none_come_back() {
    on_hosts(|who| {
        let layers = Layers::only(Layer::Root).with(Layer::Rights);
        enter(&rules(&[("/mnt/ro", READ)]), layers);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status(set), 16), Ok(0), "{set}");
        }
        assert_eq!(status("NoNewPrivs"), "1");
        let bits = call(
            libc::SYS_prctl,
            [libc::PR_GET_SECUREBITS.into(), 0, 0, 0, 0, 0],
        );
        assert_eq!(bits, 0xef);
        let (uid, refused) = match who {
            Who::Root => (0, libc::EPERM),
            // Others do not exist in a user namespace of one user.
            Who::User => (NOBODY, libc::EINVAL),
        };
        // SAFETY: It takes nothing.
        assert_eq!(unsafe { libc::getuid() }, uid);
        let user = call(libc::SYS_setuid, [1, 0, 0, 0, 0, 0]);
        assert_eq!(user, -i64::from(refused));
        let root = c"/mnt/ro".as_ptr() as i64;
        let chroot = call(libc::SYS_chroot, [root, 0, 0, 0, 0, 0]);
        assert_eq!(chroot, -i64::from(libc::EPERM));
        // Its own descriptors are still to be found.
        assert!(!names("/proc/self/fd").is_empty());
    });
}

#[test]
fn limits_are_set() {
    on_hosts(|_| {
        let mut rules = rules(&[]);
        rules.limits.cpu = Some(Duration::from_millis(1500));
        enter(&rules, Layers::only(Layer::Rights));
        let limit = |resource| {
            let limit = rustix::process::getrlimit(resource);
            (limit.current, limit.maximum)
        };
        assert_eq!(limit(rustix::process::Resource::Cpu), (Some(2), Some(3)));
    });
}
