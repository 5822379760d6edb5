// SPDX-License-Identifier: GPL-2.0

//! Which system calls a confined broker can make.

use std::arch::asm;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uvisor::profile::NetworkRules;
use uvisor::sandbox::{Filter, Layer, Layers, Options, Sockets, Unlisted};

use crate::common::*;

const ALL: [i64; 6] = [-1; 6];
const EPERM: i64 = -(libc::EPERM as i64);
const ENOSYS: i64 = -(libc::ENOSYS as i64);
const EBADF: i64 = -(libc::EBADF as i64);

/// Enters a filter alone.
fn filter(network: NetworkRules, sockets: Sockets, unlisted: Unlisted, fork: bool) {
    let mut rules = rules(&[]);
    rules.network = network;
    rules.fork = fork;
    let options = Options {
        layers: Layers::only(Layer::Filter),
        sockets,
        unlisted,
        ..Options::default()
    };
    enter_with(&rules, &options);
}

/// The usual one.
fn usual() {
    filter(NetworkRules::None, Sockets::Ready, Unlisted::Refuse, true);
}

/// Calls that a broker never makes, in forms that do nothing without the filter either.
const NEVER: &[(&str, libc::c_long)] = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("process_vm_writev", libc::SYS_process_vm_writev),
    ("process_madvise", libc::SYS_process_madvise),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("fsopen", libc::SYS_fsopen),
    ("fsmount", libc::SYS_fsmount),
    ("open_tree", libc::SYS_open_tree),
    ("move_mount", libc::SYS_move_mount),
    ("mount_setattr", libc::SYS_mount_setattr),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("setns", libc::SYS_setns),
    ("bpf", libc::SYS_bpf),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("io_uring_enter", libc::SYS_io_uring_enter),
    ("keyctl", libc::SYS_keyctl),
    ("add_key", libc::SYS_add_key),
    ("request_key", libc::SYS_request_key),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("kexec_load", libc::SYS_kexec_load),
    ("init_module", libc::SYS_init_module),
    ("finit_module", libc::SYS_finit_module),
    ("delete_module", libc::SYS_delete_module),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("name_to_handle_at", libc::SYS_name_to_handle_at),
    ("personality", libc::SYS_personality),
    ("seccomp", libc::SYS_seccomp),
    ("clone3", libc::SYS_clone3),
    ("arch_prctl", libc::SYS_arch_prctl),
    ("iopl", libc::SYS_iopl),
    ("swapon", libc::SYS_swapon),
    ("syslog", libc::SYS_syslog),
    ("setuid", libc::SYS_setuid),
    ("setgid", libc::SYS_setgid),
    ("setresuid", libc::SYS_setresuid),
    ("pkey_mprotect", libc::SYS_pkey_mprotect),
    ("migrate_pages", libc::SYS_migrate_pages),
    ("msgget", libc::SYS_msgget),
    ("no such call", 100_000),
];

#[test]
fn what_a_broker_never_does_is_not_there() {
    on_host(Who::User, || {
        // Without the filter each fails in its own way, or says that this kernel has none.
        let before: Vec<_> = NEVER.iter().map(|(_, number)| call(*number, ALL)).collect();
        usual();
        let mut lacking = 0;
        for ((name, number), before) in NEVER.iter().zip(before) {
            assert_eq!(call(*number, ALL), ENOSYS, "{name}");
            lacking += usize::from(before == ENOSYS);
        }
        assert!(lacking < NEVER.len() / 4, "{lacking} are not there anyway");
    });
}

#[test]
fn arguments_are_looked_at() {
    on_host(Who::User, || {
        usual();
        let ioctl = |request: u64| call(libc::SYS_ioctl, [-1, request as i64, 0, 0, 0, 0]);
        for request in [
            libc::TIOCSTI,
            libc::TIOCLINUX,
            libc::TIOCCONS,
            libc::TIOCSETD,
        ] {
            assert_eq!(ioctl(request), EPERM, "{request:#x}");
            // The kernel does not look at the upper half.
            assert_eq!(ioctl(request | 1 << 40), EPERM, "{request:#x}");
        }
        // FIFREEZE, KVM_CREATE_VM, FIOSETOWN, BLKDISCARD.
        for request in [0xc004_5877, 0xae01, 0x8901, 0x1277] {
            assert_eq!(ioctl(request), EPERM, "{request:#x}");
        }
        let terminal = [
            libc::TCGETS,
            libc::TIOCGPTPEER,
            libc::TIOCSPTLCK,
            libc::FIONBIO,
            0x802c_542a,
        ];
        for request in terminal.into_iter().chain([0xb500, 0x8008_6601, 0x8913]) {
            assert_eq!(ioctl(request), EBADF, "{request:#x}");
        }
        let map = |prot: i32| {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            call(libc::SYS_mmap, [0, 4096, prot.into(), flags.into(), -1, 0])
        };
        let both = libc::PROT_READ | libc::PROT_WRITE;
        let base = map(both);
        assert!(base > 0);
        assert_eq!(map(both | libc::PROT_EXEC), EPERM);
        let protect = |prot: i32| call(libc::SYS_mprotect, [base, 4096, prot.into(), 0, 0, 0]);
        assert_eq!(protect(libc::PROT_EXEC), EPERM);
        assert_eq!(protect(libc::PROT_READ), 0);
        let limits = |pid: i64| call(libc::SYS_prlimit64, [pid, 0, 0, 0, 0, 0]);
        assert_eq!((limits(0), limits(1)), (0, EPERM));
        // Of the user's other processes none, nor their groups or all of them.
        let parent = rustix::process::getppid()
            .unwrap()
            .as_raw_nonzero()
            .get()
            .into();
        let nice =
            |which: u32, who: i64| call(libc::SYS_setpriority, [which.into(), who, 19, 0, 0, 0]);
        assert_eq!(nice(libc::PRIO_PROCESS, 0), 0);
        assert_eq!(nice(libc::PRIO_PROCESS, parent), EPERM);
        assert_eq!(
            (nice(libc::PRIO_PGRP, 0), nice(libc::PRIO_USER, 0)),
            (EPERM, EPERM)
        );
        let cpus = [u64::MAX; 16].as_ptr() as i64;
        let bind = |who: i64| call(libc::SYS_sched_setaffinity, [who, 128, cpus, 0, 0, 0]);
        assert_eq!((bind(0), bind(parent)), (0, EPERM));
        let option = |option: i32| call(libc::SYS_prctl, [option.into(), 0, 0, 0, 0, 0]);
        for not in [
            libc::PR_SET_DUMPABLE,
            libc::PR_SET_MM,
            libc::PR_SET_PTRACER,
            libc::PR_CAP_AMBIENT,
        ] {
            assert_eq!(option(not), EPERM, "{not}");
        }
        assert_eq!(option(libc::PR_SET_PDEATHSIG), 0);
        for flag in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID,
        ] {
            let flags = i64::from(flag) | i64::from(libc::SIGCHLD);
            assert_eq!(
                call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0]),
                EPERM,
                "{flag:#x}"
            );
        }
        for flags in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS | libc::CLONE_NEWUSER,
            libc::CLONE_NEWPID,
        ] {
            assert_eq!(
                call(libc::SYS_unshare, [flags.into(), 0, 0, 0, 0, 0]),
                ENOSYS
            );
        }
    });
}

/// What opening a socket returns: 0 for one.
fn socket(domain: i32, kind: i32, protocol: i32) -> i64 {
    let fd = call(
        libc::SYS_socket,
        [domain.into(), kind.into(), protocol.into(), 0, 0, 0],
    );
    if fd >= 0 {
        // SAFETY: It was just made.
        drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
    }
    fd.min(0)
}

#[test]
fn sockets_are_those_that_the_task_may_have() {
    let stream = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    let cases = [
        (NetworkRules::None, Sockets::None, [ENOSYS; 4]),
        (NetworkRules::None, Sockets::Ready, [ENOSYS; 4]),
        (NetworkRules::Host, Sockets::Ready, [0, 0, 0, EPERM]),
    ];
    for (network, sockets, expected) in cases {
        on_host(Who::User, || {
            filter(network.clone(), sockets, Unlisted::Refuse, true);
            let got = [
                socket(libc::AF_INET, stream, 0),
                socket(libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
                socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE),
                socket(libc::AF_UNIX, stream, 0),
            ];
            assert_eq!(got, expected, "{network:?} {sockets:?}");
            let refused = if expected[0] == 0 { EPERM } else { ENOSYS };
            for (domain, kind, protocol) in [
                (libc::AF_INET, libc::SOCK_RAW, 1),
                // MPTCP, SCTP, ICMP, UDP-Lite: their ports or peers no rule is about.
                (libc::AF_INET, stream, 262),
                (libc::AF_INET6, stream, 132),
                (libc::AF_INET, libc::SOCK_DGRAM, 1),
                (libc::AF_INET, libc::SOCK_DGRAM, 136),
                // Without the filter this is ESOCKTNOSUPPORT, so it is not the kernel that refuses it.
                (libc::AF_INET, libc::SOCK_SEQPACKET, 0),
                (libc::AF_INET, 10, 0x300),
                (libc::AF_PACKET, libc::SOCK_RAW, 0x300),
                (libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER),
                (libc::AF_VSOCK, stream, 0),
                (libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            ] {
                assert_eq!(socket(domain, kind, protocol), refused, "{domain} {kind}");
            }
            std::os::unix::net::UnixStream::pair().unwrap();
            let unshare = call(
                libc::SYS_unshare,
                [libc::CLONE_NEWNET.into(), 0, 0, 0, 0, 0],
            );
            assert_eq!(unshare, ENOSYS);
        });
    }
}

#[test]
fn what_the_libraries_do_goes_on() {
    on_host(Who::User, || {
        // What is missing in the list ends this process.
        filter(NetworkRules::Host, Sockets::Ready, Unlisted::Kill, true);
        let named = std::thread::Builder::new().name("a thread".into());
        let thread = named.spawn(|| {
            std::thread::sleep(Duration::from_millis(1));
            std::thread::current().name().map(str::to_owned)
        });
        assert_eq!(thread.unwrap().join().unwrap().unwrap(), "a thread");
        let panicked = std::thread::spawn(|| std::panic::resume_unwind(Box::new(7)));
        assert!(panicked.join().is_err());
        assert_eq!(
            vec![1u8; 64 << 20]
                .iter()
                .map(|&byte| u64::from(byte))
                .sum::<u64>(),
            64 << 20
        );
        assert!(fs::read_to_string("/proc/self/status")
            .unwrap()
            .contains("Seccomp:\t2"));
        fs::write(at("rw/new"), "new").unwrap();
        assert!(fs::metadata(at("rw/new")).unwrap().is_file());
        assert!(fs::symlink_metadata(at("relative")).unwrap().is_symlink());
        assert_eq!(fs::read_link(at("relative")).unwrap().to_str(), Some("ro"));
        assert!(names(at("rw")).contains(&"new".to_owned()));
        std::env::set_current_dir(at("rw")).unwrap();
        std::env::current_dir().unwrap();
        std::thread::available_parallelism().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(b"x").unwrap();
        let (mut other, _) = listener.accept().unwrap();
        other.read_exact(&mut [0]).unwrap();
        handle_a_signal();
        let (status, said) = forked(|| drop(fs::read("/proc/self/comm").unwrap()));
        assert_eq!((status, &*said), (0, ""));
        let (status, _) = forked(|| std::process::abort());
        assert_eq!(libc::WTERMSIG(status), libc::SIGABRT);
    });
}

fn handle_a_signal() {
    static SEEN: AtomicBool = AtomicBool::new(false);
    extern "C" fn handler(_: libc::c_int) {
        SEEN.store(true, Ordering::Relaxed);
    }
    // SAFETY: The handler only stores a word.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t);
        libc::raise(libc::SIGUSR1);
    }
    assert!(SEEN.load(Ordering::Relaxed));
}

#[test]
fn who_asks_for_it_is_killed() {
    on_host(Who::User, || {
        let killed = |body: fn()| {
            let (status, _) = forked(|| {
                filter(NetworkRules::None, Sockets::None, Unlisted::Kill, true);
                body();
            });
            libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
        };
        assert_eq!(killed(|| ()), None);
        assert_eq!(
            killed(|| assert!(call(libc::SYS_chroot, ALL) < 0)),
            Some(libc::SIGSYS)
        );
        let ioctl = || {
            let words = [-1, libc::TIOCSTI as i64, 0, 0, 0, 0];
            assert!(call(libc::SYS_ioctl, words) < 0);
        };
        assert_eq!(killed(ioctl), Some(libc::SIGSYS));
    });
}

#[test]
fn calls_of_another_architecture_kill() {
    on_host(Who::User, || {
        // The number of getpid there, which is that of writev here.
        let old = || {
            let number: i32;
            // SAFETY: It is a system call that only returns a number.
            unsafe {
                asm!("int 0x80", inlateout("eax") 20 => number, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
            };
            number
        };
        let (without, _) = forked(|| assert!(old() > 0));
        if without != 0 {
            eprintln!("this host has no calls of 32 bits");
            return;
        }
        let (status, _) = forked(|| {
            usual();
            old();
        });
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS);
    });
}

#[test]
fn a_task_that_may_not_fork_has_threads() {
    on_host(Who::User, || {
        filter(NetworkRules::None, Sockets::None, Unlisted::Refuse, false);
        // SAFETY: The child ends at once, if there is one.
        match unsafe { libc::fork() } {
            // SAFETY: As above.
            0 => unsafe { libc::_exit(0) },
            pid => assert_eq!(pid, -1),
        }
        assert_eq!(
            std::io::Error::last_os_error().raw_os_error(),
            Some(libc::EPERM)
        );
        std::thread::spawn(|| ()).join().unwrap();
    });
}

#[test]
fn it_is_short() {
    let len = Filter::new(&rules(&[]), Sockets::Ready, Unlisted::Refuse)
        .unwrap()
        .len();
    println!("the filter has {len} instructions");
    assert!(len < 300, "{len}");
}
