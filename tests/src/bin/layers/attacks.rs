// SPDX-License-Identifier: GPL-2.0

//! What a hostile program tries. Each attack says whether it got what it was after, or what stopped it.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Error, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, FileExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use crate::memory;
use crate::world::{World, ABSTRACT, SECRET, SHM, VARIABLE};

/// What stopped an attack.
pub type Outcome = Result<(), String>;

/// Something to try.
pub struct Attack {
    /// What it is called.
    pub name: &'static str,
    /// What it tries.
    pub what: &'static str,
    /// Tries it.
    pub run: fn(&World) -> Outcome,
}

/// A list of attacks, each by the name of its function.
macro_rules! attacks {
    ($(#[$doc:meta])* $list:ident: $($name:ident: $what:literal;)*) => {
        $(#[$doc])*
        pub const $list: &[Attack] = &[$(Attack {
            name: stringify!($name),
            what: $what,
            run: $name,
        }),*];
    };
}
pub(crate) use attacks;

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    ATTACKS.iter().chain(memory::ATTACKS)
}

attacks! {
    /// Those that are made by system calls.
    ATTACKS:
    read_secret: "read a file that it was not given";
    read_by_parent: "the same by `..` from a directory that it was given";
    read_by_link: "by a symbolic link that it makes";
    read_by_root: "by `/proc/self/root`";
    read_by_others_root: "by the root of a process outside";
    read_by_hard_link: "by giving the file another name";
    read_by_rename: "by moving its directory to where it may read";
    read_by_handle: "by a handle of the file system's (`open_by_handle_at`)";
    read_inherited: "from a descriptor that was open by accident";
    list_secret: "list a directory that it was not given";
    write_readable: "write a file that it may read";
    truncate_readable: "cut it";
    mode_readable: "change its mode";
    remove_readable: "remove it";
    make_setuid: "leave a setuid program behind";
    make_device: "make a device of its own";
    execute_readable: "execute a file that it may read and not execute";
    map_readable: "map that file to be executed";
    exchange_mapped: "map it while its descriptor is exchanged for one that it may execute, and make that executable";
    probe_file: "find out whether a file exists that it was not given";
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

/// What a call of C's comes to that returns -1 for an error.
pub fn check(value: i64) -> Result<i64, String> {
    match value {
        -1 => Err(name(&Error::last_os_error())),
        value => Ok(value),
    }
}

/// The name of an error.
pub fn name(error: &Error) -> String {
    let number = error.raw_os_error();
    let errno = number.map(|number| uvisor::errno::Errno::from(Error::from_raw_os_error(number)));
    match errno.and_then(|errno| errno.name()) {
        Some(name) => name.to_owned(),
        None => error.to_string(),
    }
}

/// A system call with numbers, and addresses of memory of the caller's.
pub fn syscall(number: i64, args: [u64; 6]) -> Result<i64, String> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: The callers pass numbers, and addresses of memory of theirs that is large enough.
    check(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("a path of ours has no NUL")
}

/// Whether the secret can be read at a path.
fn read_at(path: &Path) -> Outcome {
    let text = fs::read_to_string(path).map_err(|error| name(&error))?;
    match text == SECRET {
        true => Ok(()),
        false => Err("something else".into()),
    }
}

fn read_secret(world: &World) -> Outcome {
    read_at(&world.secret())
}

fn read_by_parent(world: &World) -> Outcome {
    std::env::set_current_dir(world.work()).map_err(|error| name(&error))?;
    read_at(Path::new("../secret/file"))
}

fn read_by_link(world: &World) -> Outcome {
    let link = world.work().join("link");
    let _ = fs::remove_file(&link);
    symlink("../secret/file", &link).map_err(|error| name(&error))?;
    read_at(&link)
}

/// The path of the secret below another root.
fn below(root: &str, world: &World) -> std::path::PathBuf {
    let secret = world.secret();
    Path::new(root).join(secret.strip_prefix("/").unwrap_or(&secret))
}

fn read_by_root(world: &World) -> Outcome {
    read_at(&below("/proc/self/root", world))
}

fn read_by_others_root(world: &World) -> Outcome {
    read_at(&below(&format!("/proc/{}/root", world.pid), world))
}

fn read_by_hard_link(world: &World) -> Outcome {
    let link = world.work().join("hard");
    let _ = fs::remove_file(&link);
    fs::hard_link(world.secret(), &link).map_err(|error| name(&error))?;
    let result = read_at(&link);
    let _ = fs::remove_file(&link);
    result
}

fn read_by_rename(world: &World) -> Outcome {
    let (from, to) = (world.base.join("secret"), world.work().join("moved"));
    fs::rename(&from, &to).map_err(|error| name(&error))?;
    let result = read_at(&to.join("file"));
    let _ = fs::rename(&to, &from);
    result
}

fn read_by_handle(world: &World) -> Outcome {
    let (path, mut handle, mut mount) = (c_string(&world.secret()), [0u32; 34], 0i32);
    handle[0] = 128;
    syscall(
        libc::SYS_name_to_handle_at,
        [
            libc::AT_FDCWD as u64,
            path.as_ptr() as u64,
            handle.as_mut_ptr() as u64,
            &raw mut mount as u64,
            0,
            0,
        ],
    )?;
    let place = File::open(world.work()).map_err(|error| name(&error))?;
    let fd = syscall(
        libc::SYS_open_by_handle_at,
        [
            place.as_raw_fd() as u64,
            handle.as_mut_ptr() as u64,
            libc::O_RDONLY as u64,
            0,
            0,
            0,
        ],
    )?;
    read_from(fd as i32)
}

/// Whether a descriptor that this process has just got has the secret behind it.
fn read_from(fd: i32) -> Outcome {
    // SAFETY: Nobody else uses this number; if it is not open, reading says so.
    let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    let mut text = [0; SECRET.len()];
    // Whoever else has it may have read it already.
    let read = file.read_exact_at(&mut text, 0);
    read.map_err(|error| name(&error))?;
    match text == *SECRET.as_bytes() {
        true => Ok(()),
        false => Err("something else".into()),
    }
}

fn read_inherited(world: &World) -> Outcome {
    read_from(world.open)
}

fn list_secret(world: &World) -> Outcome {
    let entries = fs::read_dir(world.base.join("secret")).map_err(|error| name(&error))?;
    match entries.count() {
        0 => Err("nothing in it".into()),
        _ => Ok(()),
    }
}

fn write_readable(world: &World) -> Outcome {
    let file = OpenOptions::new().write(true).open(world.readable());
    file.map(drop).map_err(|error| name(&error))
}

fn truncate_readable(world: &World) -> Outcome {
    let path = c_string(&world.readable());
    syscall(libc::SYS_truncate, [path.as_ptr() as u64, 5, 0, 0, 0, 0]).map(drop)
}

fn mode_readable(world: &World) -> Outcome {
    let mode = fs::Permissions::from_mode(0o666);
    fs::set_permissions(world.readable(), mode).map_err(|error| name(&error))
}

fn remove_readable(world: &World) -> Outcome {
    let path = world.readable();
    let before = fs::read(&path).map_err(|error| name(&error))?;
    fs::remove_file(&path).map_err(|error| name(&error))?;
    // For the next one.
    fs::write(&path, before).map_err(|error| name(&error))
}

fn make_setuid(world: &World) -> Outcome {
    let path = world.work().join("setuid");
    fs::write(&path, "x").map_err(|error| name(&error))?;
    let mode = fs::Permissions::from_mode(0o4755);
    let set = fs::set_permissions(&path, mode);
    let result = set
        .and_then(|()| path.metadata())
        .map_err(|error| name(&error));
    let _ = fs::remove_file(&path);
    match result?.permissions().mode() & 0o4000 {
        0 => Err("without the bit".into()),
        _ => Ok(()),
    }
}

fn make_device(world: &World) -> Outcome {
    let path = c_string(&world.work().join("device"));
    let (mode, device) = (libc::S_IFCHR | 0o600, libc::makedev(1, 1));
    syscall(
        libc::SYS_mknod,
        [path.as_ptr() as u64, mode.into(), device, 0, 0, 0],
    )?;
    let _ = fs::remove_file(world.work().join("device"));
    Ok(())
}

fn execute_readable(world: &World) -> Outcome {
    let path = c_string(&world.tool());
    let argv = [path.as_ptr(), std::ptr::null()];
    let none: [*const libc::c_char; 1] = [std::ptr::null()];
    // This is a process for one attack; the program that takes its place ends with status 0, as who succeeds does.
    syscall(
        libc::SYS_execve,
        [
            path.as_ptr() as u64,
            argv.as_ptr() as u64,
            none.as_ptr() as u64,
            0,
            0,
            0,
        ],
    )
    .map(drop)
}

/// Maps something; where.
pub fn map(prot: i32, flags: i32, fd: i32) -> Result<u64, String> {
    let address = syscall(
        libc::SYS_mmap,
        [0, 4096, prot as u64, flags as u64, fd as i64 as u64, 0],
    )?;
    Ok(address as u64)
}

fn map_readable(world: &World) -> Outcome {
    let file = File::open(world.tool()).map_err(|error| name(&error))?;
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    map(prot, libc::MAP_PRIVATE, file.as_raw_fd()).map(drop)
}

/// A file that it may execute.
fn executable() -> Result<File, String> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|error| name(&error))?;
    let path = maps.lines().find_map(|line| {
        let path = line.get(line.find('/')?..)?;
        path.contains("libc.so").then_some(path)
    });
    let path = path.ok_or("no library is mapped")?;
    File::open(path).map_err(|error| name(&error))
}

fn exchange_mapped(world: &World) -> Outcome {
    /// How often it is tried: natively, every second time comes to its aim.
    const TIMES: usize = 400;
    let tool = File::open(world.tool()).map_err(|error| name(&error))?;
    let other = executable()?;
    let mut wanted = [0; 4096];
    let read = tool.read_exact_at(&mut wanted, 0);
    read.map_err(|error| name(&error))?;
    let number = tool.try_clone().map_err(|error| name(&error))?;
    let fd = number.as_raw_fd();
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(relaxed) {
                for file in [&other, &tool] {
                    // SAFETY: The number is that of a file of this function's, which stays one.
                    unsafe { libc::dup2(file.as_raw_fd(), fd) };
                }
            }
        });
        let mut last = Err("always the other file".to_owned());
        for turn in 0..TIMES {
            match map_exchanged(fd, turn % 2 == 0, &wanted) {
                Ok(()) => {
                    last = Ok(());
                    break;
                }
                // An error says more than that it was the other file.
                Err(why) if !why.starts_with("always") => last = Err(why),
                Err(_) => {}
            }
        }
        over.store(true, relaxed);
        last
    })
}

/// Maps what a descriptor is at the moment, to be executed at once or later; whether it was what is `wanted`.
fn map_exchanged(fd: i32, at_once: bool, wanted: &[u8; 4096]) -> Outcome {
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    let prot = if at_once { executable } else { libc::PROT_READ };
    let address = map(prot, libc::MAP_PRIVATE, fd)?;
    let protected = match at_once {
        true => Ok(0),
        false => syscall(
            libc::SYS_mprotect,
            [address, 4096, executable as u64, 0, 0, 0],
        ),
    };
    // SAFETY: It was just mapped, to be read at least.
    let is_wanted = unsafe { *(address as *const [u8; 4096]) } == *wanted;
    syscall(libc::SYS_munmap, [address, 4096, 0, 0, 0, 0])?;
    protected?;
    match is_wanted {
        true => Ok(()),
        false => Err("always the other file".into()),
    }
}

/// What different ways to ask for a path tell.
fn asked(world: &World, path: &Path) -> Vec<String> {
    let link = world.work().join("probe");
    let _ = fs::remove_file(&link);
    // Where it can be made, it is one more way to ask.
    let _ = symlink(path, &link);
    let mut told = Vec::new();
    let below = [path.join("x"), path.join("../x"), link.join("x")];
    for path in [path, &link]
        .into_iter()
        .chain(below.iter().map(|path| &**path))
    {
        let text = |result: Result<(), Error>| {
            result.map_or_else(|error| name(&error), |()| "it is".into())
        };
        told.push(text(path.metadata().map(drop)));
        told.push(text(File::open(path).map(drop)));
        told.push(text(path.read_dir().map(drop)));
        told.push(text(std::env::set_current_dir(path)));
        told.push(text(OpenOptions::new().write(true).open(path).map(drop)));
        let path = c_string(path);
        let access = [path.as_ptr() as u64, 0, 0, 0, 0, 0];
        told.push(syscall(libc::SYS_access, access).map_or_else(|why| why, |_| "it is".into()));
    }
    told.push(
        path.read_link()
            .map_or_else(|error| name(&error), |_| "it is".into()),
    );
    let _ = fs::remove_file(&link);
    told
}

/// Whether what is told of two things differs.
fn differ(one: &[String], other: &[String]) -> Outcome {
    match one == other {
        false => Ok(()),
        true => Err(format!("always {}", one.first().map_or("", String::as_str))),
    }
}

fn probe_file(world: &World) -> Outcome {
    let none = world.base.join("secret/none");
    differ(&asked(world, &world.secret()), &asked(world, &none))
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

/// Tells an outcome on standard output.
pub fn tell(name: &str, outcome: &Outcome) {
    let text = match outcome {
        Ok(()) => "done",
        Err(why) => why,
    };
    let mut output = std::io::stdout();
    // Whoever reads it misses it otherwise.
    let _ = writeln!(output, "{name} {text}");
    let _ = output.flush();
}
