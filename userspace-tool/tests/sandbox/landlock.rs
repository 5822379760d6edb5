// SPDX-License-Identifier: GPL-2.0

//! What a Landlock domain refuses by itself, without a root.

use std::ffi::CStr;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use uvisor::profile::{Device, NetworkRule, NetworkRules, Origin, Protocol};
use uvisor::sandbox::{Layer, Layers, Options, Sockets};

use crate::common::*;

const LANDLOCK: Layers = Layers::only(Layer::Landlock);

/// Whether the interface is too old for a test, which is told.
fn is_older(version: Option<i32>, needed: i32) -> bool {
    let older = version < Some(needed);
    if older {
        eprintln!("this host has version {version:?} of Landlock, and {needed} is needed");
    }
    older
}

#[test]
fn files_are_refused_by_what_they_are() {
    on_hosts(|_| {
        let open = fs::File::open(at("secret/key")).unwrap();
        let mut rules = rules(&[("/mnt/ro", READ), ("/mnt/rw", CHANGE), ("/mnt/key", READ)]);
        rules.devices = vec![Device::Null];
        let report = enter(&rules, LANDLOCK);
        assert_eq!(reading(at("ro/file")), 0);
        assert_eq!(reading(at("key")), 0);
        assert_eq!(writing(at("ro/file")), libc::EACCES);
        assert_eq!(errno(fs::create_dir(at("ro/new"))), libc::EACCES);
        assert_eq!(reading(at("secret/key")), libc::EACCES);
        assert_eq!(errno(fs::read_dir("/")), libc::EACCES);
        assert_eq!(reading("/etc/passwd"), libc::EACCES);
        assert_eq!(reading("/proc/self/status"), 0);
        assert_eq!(writing("/proc/self/comm"), libc::EACCES);
        assert_eq!(writing("/dev/null"), 0);
        assert_eq!(reading("/dev/zero"), libc::EACCES);
        fs::write(at("rw/new"), "new").unwrap();
        fs::remove_file(at("rw/new")).unwrap();
        drop(open);
        if is_older(report.landlock, 3) {
            return;
        }
        let path = c"/mnt/ro/file".as_ptr() as i64;
        let cut = call(libc::SYS_truncate, [path, 0, 0, 0, 0, 0]);
        assert_eq!(cut, -i64::from(libc::EACCES));
        fs::rename(at("rw/file"), at("rw/inner/moved")).unwrap();
    });
}

#[test]
fn what_a_task_is_started_with_may_be_opened_again() {
    on_hosts(|_| {
        let file = fs::File::open(at("secret/key")).unwrap();
        rustix::stdio::dup2_stdin(&file).unwrap();
        enter(&rules(&[("/mnt/ro", READ)]), LANDLOCK);
        assert_eq!(fs::read("/proc/self/fd/0").unwrap(), b"secret/key");
        let write = writing("/proc/self/fd/0");
        assert_eq!(write, libc::EACCES);
        assert_eq!(reading(at("secret/open/file")), libc::EACCES);
    });
}

#[test]
fn others_get_no_signals() {
    on_hosts(|_| {
        // SAFETY: It takes nothing.
        let outside = unsafe { libc::getpid() };
        let kill = |pid: i32| call(libc::SYS_kill, [pid.into(), 0, 0, 0, 0, 0]);
        let (status, said) = forked(|| {
            assert_eq!(kill(outside), 0);
            let report = enter(&rules(&[]), LANDLOCK);
            if is_older(report.landlock, 6) {
                return;
            }
            assert_eq!(kill(outside), -i64::from(libc::EPERM));
            // SAFETY: It takes nothing.
            let own = unsafe { libc::getpid() };
            assert_eq!(kill(own), 0);
            let (status, said) = forked(|| assert_eq!(kill(own), 0));
            assert_eq!((status, &*said), (0, ""));
        });
        assert_eq!((status, &*said), (0, ""));
    });
}

#[test]
fn others_sockets_are_out_of_reach() {
    on_hosts(|_| {
        let name = format!("uvisor-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let path = UnixListener::bind(at("rw/socket")).unwrap();
        let (status, said) = forked(|| {
            let report = enter(&rules(&[("/mnt/rw", CHANGE)]), LANDLOCK);
            if is_older(report.landlock, 6) {
                return;
            }
            assert_eq!(errno(UnixStream::connect_addr(&address)), libc::EPERM);
            if is_older(report.landlock, 9) {
                return;
            }
            assert_eq!(errno(UnixStream::connect(at("rw/socket"))), libc::EACCES);
            let _own = UnixListener::bind(at("rw/own")).unwrap();
            UnixStream::connect(at("rw/own")).unwrap();
        });
        assert_eq!((status, &*said), (0, ""));
        drop((listener, path));
    });
}

#[test]
fn ports_are_those_of_the_rules() {
    let port = || {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        free.local_addr().unwrap().port()
    };
    let bind = |port: u16| errno(TcpListener::bind(("127.0.0.1", port)));
    let (one, other) = (port(), port());
    on_hosts(|_| {
        let only = NetworkRules::Only(vec![NetworkRule {
            listen: true,
            protocol: Protocol::Tcp,
            host: uvisor::profile::Host::Any,
            ports: (one, one),
            origin: Origin::Option("--test"),
        }]);
        let cases = [
            (
                NetworkRules::None,
                Sockets::None,
                (libc::EACCES, libc::EACCES),
            ),
            // On a loopback of its own.
            (NetworkRules::None, Sockets::Ready, (0, 0)),
            (NetworkRules::Host, Sockets::Ready, (0, 0)),
            (only, Sockets::Ready, (0, libc::EACCES)),
        ];
        for (network, sockets, expected) in cases {
            let (status, said) = forked(|| {
                let mut rules = rules(&[]);
                rules.network = network.clone();
                let options = Options {
                    layers: LANDLOCK,
                    sockets,
                    ..Options::default()
                };
                let report = enter_with(&rules, &options);
                if !is_older(report.landlock, 4) {
                    assert_eq!(
                        (bind(one), bind(other)),
                        expected,
                        "{network:?} {sockets:?}"
                    );
                }
            });
            assert_eq!((status, &*said), (0, ""));
        }
    });
}

#[test]
fn another_domain_may_be_entered_within() {
    on_hosts(|_| {
        let layers = Layers::ALL;
        // Behind the filter there are no more of them.
        let (unix, stream) = (
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
        );
        let socket = rustix::net::socket(unix, stream, None).unwrap();
        enter(&rules(&[("/mnt/rw", CHANGE), ("/mnt/ro", READ)]), layers);
        // That is how the personality's is entered: moving is allowed from the root down, and making sockets nowhere.
        let attributes: [u64; 2] = [1 << 13 | 1 << 9, 0];
        let address = attributes.as_ptr() as i64;
        let ruleset = call(libc::SYS_landlock_create_ruleset, [address, 16, 0, 0, 0, 0]);
        assert!(ruleset >= 0, "{ruleset}");
        let flags = libc::O_PATH | libc::O_CLOEXEC;
        let root = call(
            libc::SYS_openat,
            [-100, c"/".as_ptr() as i64, flags.into(), 0, 0, 0],
        );
        let mut rule = [0; 12];
        rule[..8].copy_from_slice(&(1u64 << 13).to_le_bytes());
        rule[8..].copy_from_slice(&(root as i32).to_le_bytes());
        let rule = rule.as_ptr() as i64;
        assert_eq!(
            call(libc::SYS_landlock_add_rule, [ruleset, 1, rule, 0, 0, 0]),
            0
        );
        assert_eq!(
            call(libc::SYS_landlock_restrict_self, [ruleset, 0, 0, 0, 0, 0]),
            0
        );
        let rename = |from: &CStr, to: &CStr| {
            let (from, to) = (from.as_ptr() as i64, to.as_ptr() as i64);
            call(libc::SYS_renameat2, [-100, from, -100, to, 0, 0])
        };
        assert_eq!(rename(c"/mnt/rw/file", c"/mnt/rw/inner/moved"), 0);
        let address = rustix::net::SocketAddrUnix::new(at("rw/socket")).unwrap();
        let bound = rustix::net::bind(&socket, &address);
        assert_eq!(bound, Err(rustix::io::Errno::ACCESS));
        let moved = rename(c"/mnt/ro/file", c"/mnt/rw/other");
        assert_eq!(moved, -i64::from(libc::EXDEV));
    });
}
