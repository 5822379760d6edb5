// SPDX-License-Identifier: GPL-2.0

//! A program with sockets: a part of `sockets.sh`, run natively and in a micro-VM.
//!
//! `ticks` prints what opening sockets takes, `many` sends and receives several messages by one call,
//! `hostile` makes calls that must fail, and says how they did.

use std::io::Error;
use std::mem::{size_of, MaybeUninit};

use libc::{c_int, c_long, cmsghdr, iovec, mmsghdr, msghdr};

/// Makes a system call; what it returns, or its error.
fn call(number: c_long, args: [usize; 6]) -> Result<usize, Error> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: The callers pass numbers, and addresses of memory that is theirs or nobody's.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(Error::last_os_error()),
        value => Ok(value as usize),
    }
}

/// Opens a socket.
fn socket(domain: c_int, kind: c_int) -> usize {
    let args = [domain as usize, kind as usize, 0, 0, 0, 0];
    call(libc::SYS_socket, args).expect("a socket")
}

/// Opens a pair.
fn pair(kind: c_int) -> [usize; 2] {
    let mut fds = [0; 2];
    // SAFETY: There is room for two.
    let result = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) };
    assert_eq!(result, 0, "a pair");
    fds.map(|fd: c_int| fd as usize)
}

/// A header, or several, of zeroes.
fn zeroed<T: Copy>() -> T {
    // SAFETY: Used for structures of C that may be zero throughout.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

fn ticks() {
    let now = || {
        // SAFETY: Reading the counter has no conditions.
        unsafe { std::arch::x86_64::_rdtsc() }
    };
    for name in ["first", "second", "third"] {
        let start = now();
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM);
        println!("{name} {} (descriptor {fd})", now() - start);
    }
}

fn many() {
    let [one, two] = pair(libc::SOCK_DGRAM);
    let mut data = [*b"abcd", *b"efgh", *b"ijkl"];
    let mut vectors: [iovec; 3] = zeroed();
    let mut messages: [mmsghdr; 5] = zeroed();
    for (index, bytes) in data.iter_mut().enumerate() {
        vectors[index].iov_base = bytes.as_mut_ptr().cast();
        vectors[index].iov_len = index + 2;
        messages[index].msg_hdr.msg_iov = &mut vectors[index];
        messages[index].msg_hdr.msg_iovlen = 1;
    }
    let array = messages.as_mut_ptr() as usize;
    let sent = call(libc::SYS_sendmmsg, [one, array, 3, 0, 0, 0]);
    println!(
        "sent {sent:?} {:?}",
        messages.map(|message| message.msg_len)
    );
    let sent = call(libc::SYS_sendmmsg, [one, array, 0, 0, 0, 0]);
    println!("sent {sent:?}");
    // The second fails, so one is sent.
    vectors[1].iov_base = 1 as *mut _;
    let sent = call(libc::SYS_sendmmsg, [one, array, 2, 0, 0, 0]);
    println!("sent {sent:?}");
    let mut room = [[0u8; 8]; 5];
    let mut vectors: [iovec; 5] = zeroed();
    for (index, bytes) in room.iter_mut().enumerate() {
        vectors[index].iov_base = bytes.as_mut_ptr().cast();
        vectors[index].iov_len = 3;
        messages[index] = zeroed();
        messages[index].msg_hdr.msg_iov = &mut vectors[index];
        messages[index].msg_hdr.msg_iovlen = 1;
    }
    let receive = |flags: c_int, time: usize| {
        call(libc::SYS_recvmmsg, [two, array, 5, flags as usize, time, 0])
    };
    let mut time = [0u64, 0];
    let got = receive(0, time.as_mut_ptr() as usize);
    println!("no time {got:?} {time:?}");
    let got = receive(libc::MSG_WAITFORONE, 0);
    let told = messages.map(|message| (message.msg_len, message.msg_hdr.msg_flags));
    println!("received {got:?} {told:?} {room:?}");
    println!("none {:?}", receive(libc::MSG_DONTWAIT, 0));
    let bad = [0, 1_000_000_000];
    println!("bad time {:?}", receive(0, bad.as_ptr() as usize));
}

/// Control data with one message.
fn control(len: usize, level: c_int, kind: c_int, data: [i32; 2]) -> [usize; 4] {
    let words = data.map(|word| word as u32 as usize);
    let kinds = level as u32 as usize | (kind as u32 as usize) << 32;
    [len, kinds, words[0] | words[1] << 32, 0]
}

fn hostile() {
    // Of the kernel's half, and of nobody's.
    let (kernel, nobody) = (0xffff_8000_0000_0000usize, 0x10usize);
    let [one, two] = pair(libc::SOCK_DGRAM);
    let header = |vectors: usize, count: usize, name: (usize, i32), control: (usize, usize)| {
        let mut header: msghdr = zeroed();
        header.msg_iov = vectors as *mut iovec;
        header.msg_iovlen = count;
        header.msg_name = name.0 as *mut _;
        header.msg_namelen = name.1 as u32;
        header.msg_control = control.0 as *mut _;
        header.msg_controllen = control.1;
        header
    };
    let print = |what: &str, result: Result<usize, Error>| {
        let result = result.map_err(|error| error.raw_os_error());
        println!("{what}: {result:?}");
    };
    let send = |what: &str, header: msghdr| {
        let address = &header as *const msghdr as usize;
        print(what, call(libc::SYS_sendmsg, [one, address, 0, 0, 0, 0]));
        // Whatever came through is taken away again.
        let mut rest = [0u8; 256];
        let (rest, flags) = (rest.as_mut_ptr() as usize, libc::MSG_DONTWAIT as usize);
        while call(libc::SYS_recvfrom, [two, rest, 256, flags, 0, 0]).is_ok() {}
    };
    for address in [0, nobody, kernel, usize::MAX - 8] {
        for number in [libc::SYS_sendmsg, libc::SYS_recvmsg] {
            let flags = libc::MSG_DONTWAIT as usize;
            print("header", call(number, [one, address, flags, 0, 0, 0]));
        }
    }
    let byte = b"x";
    let good: [iovec; 1] = [iovec {
        iov_base: byte.as_ptr() as *mut _,
        iov_len: 1,
    }];
    let good = (good.as_ptr() as usize, 1);
    send("good", header(good.0, good.1, (0, 0), (0, 0)));
    for count in [1025, 1 << 40, usize::MAX] {
        send("count", header(good.0, count, (0, 0), (0, 0)));
    }
    send("vectors", header(nobody, 1, (0, 0), (0, 0)));
    send("vectors", header(kernel, 1, (0, 0), (0, 0)));
    for (base, len) in [(nobody, 1), (kernel, 1), (good.0, usize::MAX), (kernel, 0)] {
        let iov_base = base as *mut _;
        let vectors = [iovec {
            iov_base,
            iov_len: len,
        }];
        if (base, len) != (kernel, 0) {
            let address = vectors.as_ptr() as usize;
            send("vector", header(address, 1, (0, 0), (0, 0)));
        }
    }
    send("name", header(good.0, 1, (0, -1), (0, 0)));
    send("name", header(good.0, 1, (good.0, -1), (0, 0)));
    send("name", header(good.0, 1, (nobody, 16), (0, 0)));
    send("name", header(good.0, 1, (kernel, 16), (0, 0)));
    for len in [1 << 22, 1 << 31, 1 << 40, usize::MAX] {
        send("control", header(good.0, 1, (0, 0), (good.0, len)));
    }
    send("control", header(good.0, 1, (0, 0), (kernel, 24)));
    send("control", header(good.0, 1, (0, 0), (nobody, 24)));
    let (socket_level, rights) = (libc::SOL_SOCKET, libc::SCM_RIGHTS);
    for (len, kind, data, total) in [
        (20, rights, [0, 0], 20),
        (20, rights, [0, 0], 15),
        (24, rights, [0, 1], 24),
        (24, rights, [0, 1], 23),
        (16, rights, [0, 0], 16),
        (0, rights, [0, 0], 32),
        (15, rights, [0, 0], 32),
        (33, rights, [0, 0], 32),
        (usize::MAX, rights, [0, 0], 32),
        (usize::MAX - 6, rights, [0, 0], 32),
        (1 << 32, rights, [0, 0], 32),
        (20, rights, [-1, 0], 32),
        (24, rights, [0, -1], 24),
        (20, rights, [1 << 20, 0], 20),
        (20, rights, [i32::MIN, 0], 20),
        (24, 99, [0, 0], 24),
        (24, libc::SCM_CREDENTIALS, [0, 0], 24),
    ] {
        let control = control(len, socket_level, kind, data);
        let control = (control.as_ptr() as usize, total);
        let name = format!("control of {len} in {total}, kind {kind}, {data:?}");
        send(&name, header(good.0, 1, (0, 0), control));
    }
    assert_eq!(size_of::<cmsghdr>(), 16);

    let numbers = [("bind", libc::SYS_bind), ("connect", libc::SYS_connect)];
    let inet = socket(libc::AF_INET, libc::SOCK_DGRAM);
    let unix = socket(libc::AF_UNIX, libc::SOCK_STREAM);
    for (name, number) in numbers {
        for fd in [inet, unix] {
            for (address, len) in [
                (good.0, 129),
                (good.0, usize::MAX),
                (0, 16),
                (kernel, 16),
                (nobody, 16),
            ] {
                print(name, call(number, [fd, address, len, 0, 0, 0]));
            }
        }
        let short = [libc::AF_INET as u16; 1];
        print(
            name,
            call(number, [inet, short.as_ptr() as usize, 2, 0, 0, 0]),
        );
        print(name, call(number, [1 << 20, good.0, 16, 0, 0, 0]));
        print(name, call(number, [0, good.0, 16, 0, 0, 0]));
    }
    let mut len = [-1i32; 1];
    let len = len.as_mut_ptr() as usize;
    let mut value = [0u64; 8];
    let value = value.as_mut_ptr() as usize;
    for (number, fd, name) in [
        (libc::SYS_getsockname, inet, "getsockname"),
        (libc::SYS_getsockname, 0, "getsockname"),
        (libc::SYS_getpeername, inet, "getpeername"),
    ] {
        print(name, call(number, [fd, value, len, 0, 0, 0]));
        print(name, call(number, [fd, value, kernel, 0, 0, 0]));
    }
    let (level, kind) = (libc::SOL_SOCKET as usize, libc::SO_RCVBUF as usize);
    for (value, len) in [(value, usize::MAX), (kernel, 4), (nobody, 4), (value, 3)] {
        let args = [inet, level, kind, value, len, 0];
        print("setsockopt", call(libc::SYS_setsockopt, args));
    }
    for (value, len) in [(value, len), (value, kernel), (value, 0)] {
        let args = [inet, level, kind, value, len, 0];
        print("getsockopt", call(libc::SYS_getsockopt, args));
    }
    let flags = libc::SOCK_CLOEXEC as usize | 1;
    let args = [inet, 0, 0, flags, 0, 0];
    print("accept4", call(libc::SYS_accept4, args));
    print("listen", call(libc::SYS_listen, [inet, 1, 0, 0, 0, 0]));
    print("listen", call(libc::SYS_listen, [0, 1, 0, 0, 0, 0]));
    print("shutdown", call(libc::SYS_shutdown, [inet, 3, 0, 0, 0, 0]));
    for (domain, kind) in [(2, 11), (2, 0x101), (46, 1), (usize::MAX, 1), (1, 6)] {
        let args = [domain, kind, 0, 0, 0, 0];
        print("socket", call(libc::SYS_socket, args));
        let args = [domain, kind, 0, value, 0, 0];
        print("socketpair", call(libc::SYS_socketpair, args));
    }
    print(
        "socketpair",
        call(libc::SYS_socketpair, [1, 1, 0, kernel, 0, 0]),
    );
    print(
        "socketpair",
        call(libc::SYS_socketpair, [2, 1, 0, value, 0, 0]),
    );
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("ticks") => ticks(),
        Some("many") => many(),
        Some("hostile") => hostile(),
        _ => panic!("ticks, many or hostile"),
    }
}
