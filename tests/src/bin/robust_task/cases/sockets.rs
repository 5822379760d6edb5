// SPDX-License-Identifier: GPL-2.0

//! Sockets.

use libc::*;

use super::world::{datagram, knock};
use super::{c, n, out, v, with, words, Arg, Case, World};

/// A `struct msghdr`: name, vectors, control data.
fn message(name: Option<Arg>, data: Arg, control: Option<Arg>) -> Arg {
    let mut words = [0u64; 7];
    let vectors = with(&[0, 8], vec![(0, data)]);
    let mut inner = vec![(16, vectors)];
    words[3] = 1;
    if let Some(name) = name {
        words[1] = 16;
        inner.push((0, name));
    }
    if let Some(control) = control {
        words[5] = 24;
        inner.push((32, control));
    }
    with(&words, inner)
}

/// Two of them, each with the number of bytes behind it.
fn messages(one: Arg, two: Arg) -> Arg {
    let (Arg::With(mut bytes, mut inner), Arg::With(more, further)) = (one, two) else {
        unreachable!("messages are structures");
    };
    bytes.resize(64, 0);
    bytes.extend(more);
    bytes.resize(128, 0);
    inner.extend(further.into_iter().map(|(offset, arg)| (offset + 64, arg)));
    Arg::With(bytes, inner)
}

pub(super) fn add(w: &World, all: &mut Vec<Case>) {
    let (one, two, udp, listener) = (|| n(w.one), || n(w.two), || n(w.datagram), || n(w.listener));
    let data = || Arg::In(b"abcdefgh".to_vec());
    let loopback = || {
        // Port 9, which nobody has.
        Arg::In(vec![2, 0, 0, 9, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    };
    let len = || words(&[16]);
    // A descriptor.
    let rights = || words(&[20, 1 | 1 << 32, 0]);
    let inet = w.next();
    all.extend([
        c(SYS_socketpair, [n(1), n(SOCK_DGRAM), n(0), out(8)]),
        c(SYS_bind, [n(inet), loopback(), n(16)]).before(fresh),
        c(SYS_connect, [n(inet), loopback(), n(16)]).before(fresh),
        c(SYS_accept, [listener(), out(16), len()]).before(knock),
        c(SYS_accept4, [listener(), out(16), len(), n(0)]).before(knock),
        c(SYS_getsockname, [udp(), out(16), len()]),
        c(SYS_getpeername, [one(), out(16), len()]),
        c(
            SYS_setsockopt,
            [udp(), n(SOL_SOCKET), n(SO_KEEPALIVE), words(&[1]), n(4)],
        ),
        c(
            SYS_getsockopt,
            [udp(), n(SOL_SOCKET), n(SO_TYPE), out(4), words(&[4])],
        ),
        v(SYS_sendto, [one(), data(), n(8), n(0), n(0), n(0)]),
        v(SYS_sendto, [udp(), data(), n(8), n(0), loopback(), n(16)]).what("address"),
        v(SYS_recvfrom, [two(), out(8), n(8), n(0), n(0), n(0)]),
        v(SYS_recvfrom, [udp(), out(8), n(8), n(0), out(16), len()])
            .what("address")
            .before(datagram),
        v(
            SYS_sendmsg,
            [one(), message(None, data(), Some(rights())), n(0)],
        ),
        v(
            SYS_sendmsg,
            [udp(), message(Some(loopback()), data(), None), n(0)],
        )
        .what("address"),
        v(
            SYS_recvmsg,
            [two(), message(None, out(8), Some(out(24))), n(0)],
        ),
        v(
            SYS_recvmsg,
            [udp(), message(Some(out(16)), out(8), None), n(0)],
        )
        .what("address")
        .before(datagram),
        v(
            SYS_sendmmsg,
            [
                one(),
                messages(message(None, data(), None), message(None, data(), None)),
                n(2),
                n(0),
            ],
        ),
        v(
            SYS_recvmmsg,
            [
                two(),
                messages(message(None, out(8), None), message(None, out(8), None)),
                n(2),
                n(0),
                words(&[1, 0]),
            ],
        ),
    ]);
}

/// A socket that has no address yet, with the first number that is free.
fn fresh(_: &World) {
    crate::call::must(SYS_socket, &[2, (SOCK_DGRAM | SOCK_NONBLOCK) as u64, 0]);
}
