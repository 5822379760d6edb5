// SPDX-License-Identifier: GPL-2.0

//! What the calls are about: a file, a directory, pipes, sockets, a terminal.

use crate::call::{call, exit, must};

/// Descriptors that are open all the time.
pub struct World {
    pub file: u64,
    pub directory: u64,
    pub read: u64,
    pub write: u64,
    /// Two that are connected, for datagrams.
    pub one: u64,
    pub two: u64,
    /// One that waits for connections, with its address.
    pub listener: u64,
    pub address: Vec<u8>,
    pub datagram: u64,
    pub epoll: u64,
    pub timer: u64,
    pub inotify: u64,
    pub terminal: u64,
    pub pidfd: u64,
    /// A timer's number.
    pub posix_timer: u64,
    pub pid: u64,
    /// The first descriptor that is none of them.
    end: u64,
}

const NONBLOCK: u64 = libc::O_NONBLOCK as u64;

/// Two descriptors from `make`.
fn pair(make: impl FnOnce(u64)) -> [u64; 2] {
    let mut pair = [0i32; 2];
    make(&raw mut pair as u64);
    pair.map(|fd| fd as u64)
}

fn open(path: &str, flags: i32) -> u64 {
    let path = format!("{path}\0");
    must(libc::SYS_open, &[path.as_ptr() as u64, flags as u64, 0o644])
}

impl World {
    /// Makes it, in the current directory.
    pub fn new() -> Self {
        let file = open("file", libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC);
        must(libc::SYS_write, &[file, [b'f'; 64].as_ptr() as u64, 64]);
        let made = c"directory".as_ptr() as u64;
        call(libc::SYS_mkdir, &[made, 0o755]);
        let directory = open(".", libc::O_RDONLY);
        let [read, write] = pair(|at| {
            must(libc::SYS_pipe2, &[at, NONBLOCK]);
        });
        let kind = |kind: i32| (kind | libc::SOCK_NONBLOCK) as u64;
        let [one, two] = pair(|at| {
            must(libc::SYS_socketpair, &[1, kind(libc::SOCK_DGRAM), 0, at]);
        });
        let listener = must(libc::SYS_socket, &[1, kind(libc::SOCK_STREAM), 0]);
        // The kernel chooses a name.
        let family = [1u8, 0];
        must(libc::SYS_bind, &[listener, family.as_ptr() as u64, 2]);
        must(libc::SYS_listen, &[listener, 100]);
        let mut address = vec![0u8; 110];
        let mut len = 110u32;
        let (at, len_at) = (address.as_mut_ptr() as u64, &raw mut len as u64);
        must(libc::SYS_getsockname, &[listener, at, len_at]);
        address.truncate(len as usize);
        let datagram = must(libc::SYS_socket, &[2, kind(libc::SOCK_DGRAM), 0]);
        let local = [2u8, 0, 0, 0, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        must(libc::SYS_bind, &[datagram, local.as_ptr() as u64, 16]);
        let epoll = must(libc::SYS_epoll_create1, &[0]);
        let event = [4u64, 7];
        let event = event.as_ptr() as u64;
        must(libc::SYS_epoll_ctl, &[epoll, 1, write, event]);
        let timer = must(libc::SYS_timerfd_create, &[1, 0]);
        let inotify = must(libc::SYS_inotify_init1, &[NONBLOCK]);
        let terminal = open("/dev/ptmx", libc::O_RDWR | libc::O_NOCTTY);
        let pid = must(libc::SYS_getpid, &[]);
        let pidfd = must(libc::SYS_pidfd_open, &[pid, 0]);
        let mut event = [0u32; 16];
        event[3] = libc::SIGEV_NONE as u32;
        let mut posix_timer = 0u32;
        let (event, number) = (event.as_ptr() as u64, &raw mut posix_timer as u64);
        must(libc::SYS_timer_create, &[1, event, number]);
        // Signals that are waited for wait to be taken.
        let mask = (1u64 << (libc::SIGUSR1 - 1)).to_le_bytes();
        must(libc::SYS_rt_sigprocmask, &[0, mask.as_ptr() as u64, 0, 8]);
        handle(libc::SIGUSR1);
        let end = must(libc::SYS_dup, &[0]);
        must(libc::SYS_close, &[end]);
        Self {
            file,
            directory,
            read,
            write,
            one,
            two,
            listener,
            address,
            datagram,
            epoll,
            timer,
            inotify,
            terminal,
            pidfd,
            posix_timer: posix_timer.into(),
            pid,
            end,
        }
    }

    /// The number that a descriptor gets which is opened now.
    pub fn next(&self) -> u64 {
        self.end
    }

    /// Makes it as it was.
    pub fn refresh(&self) {
        let mut room = [0u8; 256];
        let room = room.as_mut_ptr() as u64;
        while call(libc::SYS_read, &[self.read, room, 256]) > 0 {}
        must(
            libc::SYS_write,
            &[self.write, [b'p'; 64].as_ptr() as u64, 64],
        );
        while call(libc::SYS_read, &[self.two, room, 256]) >= 0 {}
        must(libc::SYS_write, &[self.one, [b's'; 8].as_ptr() as u64, 8]);
        must(libc::SYS_lseek, &[self.file, 0, 0]);
        must(libc::SYS_lseek, &[self.directory, 0, 0]);
    }

    /// Takes away what a call has left.
    pub fn clean(&self) {
        must(libc::SYS_close_range, &[self.end, u64::from(u32::MAX), 0]);
        while call(libc::SYS_wait4, &[u64::MAX, 0, 1, 0]) > 0 {}
    }
}

extern "C" fn nothing(_: i32) {}

/// Gives a signal a handler that does nothing.
fn handle(signal: i32) {
    // SAFETY: The handler does nothing.
    unsafe { libc::signal(signal, nothing as *const () as usize) };
}

/// The name `new` is free.
pub fn nothing_new(_: &World) {
    for number in [libc::SYS_unlink, libc::SYS_rmdir] {
        call(number, &[c"new".as_ptr() as u64]);
    }
}

/// There is a file `old`, and nothing `new`.
pub fn something_old(world: &World) {
    nothing_new(world);
    let flags = libc::O_CREAT | libc::O_WRONLY;
    let fd = call(
        libc::SYS_open,
        &[c"old".as_ptr() as u64, flags as u64, 0o644],
    );
    call(libc::SYS_close, &[fd as u64]);
}

/// There is a link `link`, to nothing.
pub fn link(_: &World) {
    let (to, name) = (c"target".as_ptr() as u64, c"link".as_ptr() as u64);
    call(libc::SYS_symlink, &[to, name]);
}

/// The file has an attribute `user.a`.
pub fn attribute(_: &World) {
    let (file, name) = (c"file".as_ptr() as u64, c"user.a".as_ptr() as u64);
    call(
        libc::SYS_setxattr,
        &[file, name, c"1234".as_ptr() as u64, 4, 0],
    );
}

/// Somebody wants to be connected.
pub fn knock(world: &World) {
    let mut address = world.address.clone();
    // Whoever was not let in before is gone.
    loop {
        let fd = call(libc::SYS_accept, &[world.listener, 0, 0]);
        if fd < 0 {
            break;
        }
        call(libc::SYS_close, &[fd as u64]);
    }
    let client = must(libc::SYS_socket, &[1, 1, 0]);
    let (at, len) = (address.as_mut_ptr() as u64, address.len() as u64);
    must(libc::SYS_connect, &[client, at, len]);
}

/// A child has ended.
pub fn zombie(_: &World) {
    let pid = call(libc::SYS_fork, &[]);
    if pid == 0 {
        exit(3);
    }
    let mut info = [0u64; 16];
    let info = info.as_mut_ptr() as u64;
    // Waited for, but left.
    call(libc::SYS_waitid, &[1, pid as u64, info, 0x0100_0004, 0]);
}

/// SIGUSR1 waits to be taken.
pub fn pending(world: &World) {
    must(libc::SYS_kill, &[world.pid, libc::SIGUSR1 as u64]);
}

/// The epoll has nothing of `read`.
pub fn unwatched(world: &World) {
    call(libc::SYS_epoll_ctl, &[world.epoll, 2, world.read, 0]);
}

/// The file is empty of locks.
pub fn unlocked(world: &World) {
    let lock = [2u64, 0, 0, 0];
    call(
        libc::SYS_fcntl,
        &[world.file, libc::F_SETLK as u64, lock.as_ptr() as u64],
    );
}

/// A datagram has come.
pub fn datagram(world: &World) {
    let mut address = [0u8; 16];
    let mut len = 16u32;
    let (at, len_at) = (address.as_mut_ptr() as u64, &raw mut len as u64);
    let mut room = [0u8; 64];
    while call(
        libc::SYS_read,
        &[world.datagram, room.as_mut_ptr() as u64, 64],
    ) >= 0
    {}
    must(libc::SYS_getsockname, &[world.datagram, at, len_at]);
    let data = c"data".as_ptr() as u64;
    must(libc::SYS_sendto, &[world.datagram, data, 4, 0, at, 16]);
}
