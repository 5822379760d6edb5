// SPDX-License-Identifier: GPL-2.0

//! What a hostile program tries with all else that is outside of it: processes, the kernel, and the network.

use std::fs::{self, OpenOptions};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::attacks::{attacks, c_string, check, name, syscall, Attack, Outcome};
use crate::files::{asked, differ, read_at};
use crate::world::{World, ABSTRACT, SECRET, SHM, VARIABLE};

attacks! {
    /// Those that are made on processes, the kernel and the network.
    ATTACKS:
    probe_process: "find out whether a process exists outside";
    kernel_log: "read the kernel's log (`/dev/kmsg`)";
    kernel_memory: "open the machine's memory (`/dev/mem`)";
    kernel_setting: "change a setting of the kernel's";
    host_shm: "read shared memory of the host's (`/dev/shm`)";
    signal: "send a signal to a process outside";
    trace: "trace a process outside";
    read_memory: "read its memory (`process_vm_readv`)";
    read_environment: "read its environment (`/proc`)";
    take_descriptor: "take a descriptor out of it (`pidfd_getfd`)";
    enter_namespace: "enter its namespaces";
    limit_other: "change its limits";
    renice_other: "change its priority";
    move_other: "bind it to a CPU";
    new_user_namespace: "make namespaces of its own";
    mount_something: "mount something";
    change_root: "change its root";
    load_bpf: "make a BPF map";
    add_key: "put a key into a keyring";
    count_events: "count events of the machine's (`perf_event_open`)";
    ring: "make an io_uring";
    catch_faults: "make a userfaultfd";
    name_host: "name the host";
    shared_segment: "make a System V segment";
    connect_tcp: "connect to a service of the host's on the loopback";
    connect_abstract: "connect to an abstract Unix socket of the host's";
    connect_path: "connect to a Unix socket of the host's in its own directory";
    raw_socket: "open a raw socket";
    packet_socket: "open a packet socket";
    events_socket: "listen to the kernel's events";
    read_variable: "read a variable of the environment that it was not given";
}

fn probe_process(world: &World) -> Outcome {
    // No kernel gives a process this number by itself.
    let told = |pid: u64| {
        let mut told = Vec::new();
        for name in ["", "/exe", "/stat"] {
            let path = format!("/proc/{pid}{name}");
            told.extend(asked(world, Path::new(&path)));
        }
        for call in [libc::SYS_kill, libc::SYS_getpgid, libc::SYS_pidfd_open] {
            told.push(
                syscall(call, [pid, 0, 0, 0, 0, 0]).map_or_else(|why| why, |_| "it is".into()),
            );
        }
        told
    };
    differ(&told(world.pid), &told(4_194_303))
}

fn open(path: &str, write: bool) -> Outcome {
    let file = OpenOptions::new().read(!write).write(write).open(path);
    file.map(drop).map_err(|error| name(&error))
}

fn kernel_log(_: &World) -> Outcome {
    open("/dev/kmsg", false)
}

fn kernel_memory(_: &World) -> Outcome {
    open("/dev/mem", false)
}

fn kernel_setting(_: &World) -> Outcome {
    open("/proc/sys/kernel/printk", true)
}

fn host_shm(_: &World) -> Outcome {
    read_at(Path::new(SHM))
}

fn signal(world: &World) -> Outcome {
    syscall(libc::SYS_kill, [world.pid, 0, 0, 0, 0, 0]).map(drop)
}

fn trace(world: &World) -> Outcome {
    let seize = libc::PTRACE_SEIZE.into();
    syscall(libc::SYS_ptrace, [seize, world.pid, 0, 0, 0, 0])?;
    Ok(())
}

fn read_memory(world: &World) -> Outcome {
    let mut bytes = [0u8; 8];
    let local = [bytes.as_mut_ptr() as u64, 8];
    let remote = [world.address, 8];
    let read = syscall(
        libc::SYS_process_vm_readv,
        [
            world.pid,
            local.as_ptr() as u64,
            1,
            remote.as_ptr() as u64,
            1,
            0,
        ],
    )?;
    match read {
        8 => Ok(()),
        _ => Err("nothing".into()),
    }
}

fn read_environment(world: &World) -> Outcome {
    let text = fs::read(format!("/proc/{}/environ", world.pid)).map_err(|error| name(&error))?;
    match text.is_empty() {
        true => Err("nothing".into()),
        false => Ok(()),
    }
}

/// A handle on the process outside.
fn pidfd(world: &World) -> Result<OwnedFd, String> {
    let fd = syscall(libc::SYS_pidfd_open, [world.pid, 0, 0, 0, 0, 0])?;
    // SAFETY: The kernel has just made it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn take_descriptor(world: &World) -> Outcome {
    let process = pidfd(world)?;
    let args = [process.as_raw_fd() as u64, 0, 0, 0, 0, 0];
    syscall(libc::SYS_pidfd_getfd, args).map(drop)
}

fn enter_namespace(world: &World) -> Outcome {
    let process = pidfd(world)?;
    let kind = libc::CLONE_NEWNET as u64;
    let args = [process.as_raw_fd() as u64, kind, 0, 0, 0, 0];
    syscall(libc::SYS_setns, args).map(drop)
}

fn limit_other(world: &World) -> Outcome {
    let (resource, mut old) = (libc::RLIMIT_NOFILE.into(), [0u64; 2]);
    let address = old.as_mut_ptr() as u64;
    syscall(libc::SYS_prlimit64, [world.pid, resource, 0, address, 0, 0])?;
    let address = old.as_ptr() as u64;
    syscall(libc::SYS_prlimit64, [world.pid, resource, address, 0, 0, 0]).map(drop)
}

fn renice_other(world: &World) -> Outcome {
    syscall(libc::SYS_setpriority, [0, world.pid, 0, 0, 0, 0]).map(drop)
}

fn move_other(world: &World) -> Outcome {
    let all = [u64::MAX; 16];
    let args = [world.pid, 128, all.as_ptr() as u64, 0, 0, 0];
    syscall(libc::SYS_sched_setaffinity, args).map(drop)
}

fn new_user_namespace(_: &World) -> Outcome {
    let flags = (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as u64;
    syscall(libc::SYS_unshare, [flags, 0, 0, 0, 0, 0]).map(drop)
}

fn mount_something(world: &World) -> Outcome {
    let place = c_string(&world.work());
    let kind = c"tmpfs".as_ptr() as u64;
    syscall(
        libc::SYS_mount,
        [kind, place.as_ptr() as u64, kind, 0, 0, 0],
    )?;
    let _ = syscall(libc::SYS_umount2, [place.as_ptr() as u64, 2, 0, 0, 0, 0]);
    Ok(())
}

fn change_root(world: &World) -> Outcome {
    let place = c_string(&world.work());
    syscall(libc::SYS_chroot, [place.as_ptr() as u64, 0, 0, 0, 0, 0]).map(drop)
}

fn load_bpf(_: &World) -> Outcome {
    // BPF_MAP_CREATE: an array of one element of 4 bytes.
    let mut attributes = [0u32; 32];
    attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
    let args = [0, attributes.as_ptr() as u64, 128, 0, 0, 0];
    syscall(libc::SYS_bpf, args).map(drop)
}

fn add_key(_: &World) -> Outcome {
    let (kind, text) = (c"user".as_ptr() as u64, c"uvisor".as_ptr() as u64);
    // To the keyring of the session.
    let args = [kind, text, text, 6, -3i64 as u64, 0];
    syscall(libc::SYS_add_key, args).map(drop)
}

fn count_events(_: &World) -> Outcome {
    // A software event: the CPU's clock, of this process.
    let mut attributes = [0u64; 16];
    attributes[0] = 1 | 128 << 32;
    let args = [attributes.as_ptr() as u64, 0, u64::MAX, u64::MAX, 0, 0];
    syscall(libc::SYS_perf_event_open, args).map(drop)
}

fn ring(_: &World) -> Outcome {
    let parameters = [0u64; 15];
    let args = [1, parameters.as_ptr() as u64, 0, 0, 0, 0];
    syscall(libc::SYS_io_uring_setup, args).map(drop)
}

fn catch_faults(_: &World) -> Outcome {
    syscall(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]).map(drop)
}

fn name_host(_: &World) -> Outcome {
    let mut name = [0u8; 64];
    // SAFETY: There is room for 64 bytes.
    check(unsafe { libc::gethostname(name.as_mut_ptr().cast(), 64) }.into())?;
    let len = name.iter().position(|&byte| byte == 0).unwrap_or(64) as u64;
    let args = [name.as_ptr() as u64, len, 0, 0, 0, 0];
    syscall(libc::SYS_sethostname, args).map(drop)
}

fn shared_segment(_: &World) -> Outcome {
    let id = syscall(libc::SYS_shmget, [0, 4096, 0o1600, 0, 0, 0])?;
    let _ = syscall(libc::SYS_shmctl, [id as u64, 0, 0, 0, 0, 0]);
    Ok(())
}

fn connect_tcp(world: &World) -> Outcome {
    let address = ([127, 0, 0, 1], world.port).into();
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5));
    stream.map(drop).map_err(|error| name(&error))
}

fn connect_abstract(_: &World) -> Outcome {
    let address = SocketAddr::from_abstract_name(ABSTRACT).map_err(|error| name(&error))?;
    let stream = UnixStream::connect_addr(&address);
    stream.map(drop).map_err(|error| name(&error))
}

fn connect_path(world: &World) -> Outcome {
    let stream = UnixStream::connect(world.socket());
    stream.map(drop).map_err(|error| name(&error))
}

fn socket(domain: i32, kind: i32, protocol: i32) -> Outcome {
    let args = [domain as u64, kind as u64, protocol as u64, 0, 0, 0];
    syscall(libc::SYS_socket, args).map(drop)
}

fn raw_socket(_: &World) -> Outcome {
    socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)
}

fn packet_socket(_: &World) -> Outcome {
    socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)
}

fn events_socket(_: &World) -> Outcome {
    let (domain, kind) = (libc::AF_NETLINK, libc::NETLINK_KOBJECT_UEVENT);
    socket(domain, libc::SOCK_DGRAM, kind)
}

fn read_variable(_: &World) -> Outcome {
    if std::env::var(VARIABLE).is_ok_and(|value| value == SECRET) {
        return Ok(());
    }
    // Nobody else puts the two together.
    let text = [VARIABLE, "=", SECRET].concat().into_bytes();
    match fs::read("/proc/self/environ") {
        Ok(initial) if initial.windows(text.len()).any(|part| part == text) => Ok(()),
        _ => Err("not there".into()),
    }
}
