// SPDX-License-Identifier: GPL-2.0

//! Files, and what is read from and written to descriptors.

use libc::*;

use super::world::{attribute, link, nothing_new, something_old, unlocked, unwatched};
use super::{c, n, out, s, v, with, words, zeros, Arg, Case, World};

/// The current directory.
const HERE: i32 = AT_FDCWD;

/// Vectors of two pieces.
fn vectors(one: Arg, two: Arg) -> Arg {
    with(&[0, 8, 0, 8], vec![(0, one), (16, two)])
}

/// What acts on names.
pub(super) fn add(w: &World, all: &mut Vec<Case>) {
    let d = || n(w.directory);
    let f = || s("file");
    all.extend([
        c(SYS_open, [f(), n(O_RDONLY), n(0)]),
        c(SYS_openat, [d(), f(), n(O_RDONLY), n(0)]),
        c(
            SYS_openat,
            [n(HERE), s("new"), n(O_CREAT | O_WRONLY), n(0o644)],
        )
        .what("new")
        .before(nothing_new),
        c(SYS_openat2, [d(), f(), words(&[0, 0, 0]), n(24)]),
        c(SYS_openat2, [d(), f(), zeros(40), n(40)]).what("longer"),
        c(SYS_creat, [s("new"), n(0o644)]).before(nothing_new),
        c(SYS_stat, [f(), out(144)]),
        c(SYS_lstat, [f(), out(144)]),
        c(SYS_newfstatat, [d(), f(), out(144), n(0)]),
        c(
            SYS_newfstatat,
            [n(w.file), s(""), out(144), n(AT_EMPTY_PATH)],
        )
        .what("empty"),
        c(SYS_statx, [d(), f(), n(0), n(0x7ff), out(256)]),
        c(SYS_statfs, [f(), out(120)]),
        c(SYS_access, [f(), n(4)]),
        c(SYS_faccessat, [d(), f(), n(4)]),
        c(SYS_faccessat2, [d(), f(), n(4), n(0)]),
        v(SYS_readlink, [s("link"), out(64), n(64)]).before(link),
        v(SYS_readlinkat, [d(), s("link"), out(64), n(64)]).before(link),
        c(SYS_getcwd, [out(4096), n(4096)]),
        c(SYS_chdir, [s(".")]),
        c(SYS_truncate, [f(), n(64)]),
        c(SYS_rename, [s("old"), s("new")]).before(something_old),
        c(SYS_renameat, [d(), s("old"), d(), s("new")]).before(something_old),
        c(SYS_renameat2, [d(), s("old"), d(), s("new"), n(0)]).before(something_old),
        c(SYS_mkdir, [s("new"), n(0o755)]).before(nothing_new),
        c(SYS_mkdirat, [d(), s("new"), n(0o755)]).before(nothing_new),
        c(SYS_mknod, [s("new"), n(S_IFIFO | 0o644), n(0)]).before(nothing_new),
        c(SYS_mknodat, [d(), s("new"), n(S_IFIFO | 0o644), n(0)]).before(nothing_new),
        c(SYS_rmdir, [s("nothing")]),
        c(SYS_unlink, [s("old")]).before(something_old),
        c(SYS_unlinkat, [d(), s("old"), n(0)]).before(something_old),
        c(SYS_link, [s("old"), s("new")]).before(something_old),
        c(SYS_linkat, [d(), s("old"), d(), s("new"), n(0)]).before(something_old),
        c(SYS_symlink, [s("old"), s("new")]).before(nothing_new),
        c(SYS_symlinkat, [s("old"), d(), s("new")]).before(nothing_new),
        c(SYS_chmod, [f(), n(0o644)]),
        c(SYS_fchmodat, [d(), f(), n(0o644)]),
        c(SYS_fchmodat2, [d(), f(), n(0o644), n(0)]),
        c(SYS_chown, [f(), n(-1), n(-1)]),
        c(SYS_lchown, [f(), n(-1), n(-1)]),
        c(SYS_fchownat, [d(), f(), n(-1), n(-1), n(0)]),
        c(SYS_utime, [f(), words(&[1, 2])]),
        c(SYS_utimes, [f(), words(&[1, 2, 3, 4])]),
        c(SYS_futimesat, [d(), f(), words(&[1, 2, 3, 4])]),
        c(SYS_utimensat, [d(), f(), words(&[1, 2, 3, 4]), n(0)]),
        c(SYS_utimensat, [n(w.file), n(0), words(&[1, 2, 3, 4]), n(0)]).what("descriptor"),
    ]);
    let args = |value: Arg, len: u64| with(&[0, len], vec![(0, value)]);
    let value = || Arg::In(b"1234".to_vec());
    let name = || s("user.a");
    all.extend([
        c(SYS_setxattr, [f(), name(), value(), n(4), n(0)]),
        c(SYS_lsetxattr, [f(), name(), value(), n(4), n(0)]),
        c(SYS_fsetxattr, [n(w.file), name(), value(), n(4), n(0)]),
        c(463, [d(), f(), n(0), name(), args(value(), 4), n(16)]),
        v(SYS_getxattr, [f(), name(), out(4), n(4)]).before(attribute),
        v(SYS_lgetxattr, [f(), name(), out(4), n(4)]).before(attribute),
        v(SYS_fgetxattr, [n(w.file), name(), out(4), n(4)]).before(attribute),
        v(464, [d(), f(), n(0), name(), args(out(4), 4), n(16)]).before(attribute),
        v(SYS_listxattr, [f(), out(64), n(64)]).before(attribute),
        v(SYS_llistxattr, [f(), out(64), n(64)]).before(attribute),
        v(SYS_flistxattr, [n(w.file), out(64), n(64)]).before(attribute),
        v(465, [d(), f(), n(0), out(64), n(64)]).before(attribute),
        c(SYS_removexattr, [f(), name()]).before(attribute),
        c(SYS_lremovexattr, [f(), name()]).before(attribute),
        c(SYS_fremovexattr, [n(w.file), name()]).before(attribute),
        c(466, [d(), f(), n(0), name()]).before(attribute),
        c(468, [d(), f(), out(24), n(24), n(0)]),
        c(SYS_inotify_add_watch, [n(w.inotify), f(), n(IN_MODIFY)]),
        c(SYS_memfd_create, [s("memory"), n(0)]),
    ]);
}

/// What acts on descriptors.
pub(super) fn add_open(w: &World, all: &mut Vec<Case>) {
    let (file, read, write) = (|| n(w.file), || n(w.read), || n(w.write));
    let data = || Arg::In(b"abcdefgh".to_vec());
    all.extend([
        v(SYS_read, [read(), out(8), n(8)]),
        v(SYS_read, [file(), out(8), n(8)]).what("file"),
        v(SYS_read, [file(), out(8), n(0)]).what("nothing"),
        v(SYS_write, [write(), data(), n(8)]),
        v(SYS_write, [file(), data(), n(8)]).what("file"),
        v(SYS_pread64, [file(), out(8), n(8), n(0)]),
        v(SYS_pwrite64, [file(), data(), n(8), n(0)]),
        v(SYS_readv, [read(), vectors(out(8), out(8)), n(2)]),
        v(SYS_readv, [file(), vectors(out(8), out(8)), n(2)]).what("file"),
        v(SYS_writev, [write(), vectors(data(), data()), n(2)]),
        v(SYS_writev, [file(), vectors(data(), data()), n(2)]).what("file"),
        v(
            SYS_preadv,
            [file(), vectors(out(8), out(8)), n(2), n(0), n(0)],
        ),
        v(
            SYS_pwritev,
            [file(), vectors(data(), data()), n(2), n(0), n(0)],
        ),
        v(
            SYS_preadv2,
            [file(), vectors(out(8), out(8)), n(2), n(0), n(0), n(0)],
        ),
        v(
            SYS_pwritev2,
            [file(), vectors(data(), data()), n(2), n(0), n(0), n(0)],
        ),
        v(SYS_vmsplice, [write(), vectors(data(), data()), n(2), n(0)]),
        v(SYS_sendfile, [write(), file(), words(&[0]), n(8)]),
        v(SYS_splice, [file(), words(&[0]), write(), n(0), n(8), n(0)]),
        v(SYS_splice, [read(), n(0), file(), words(&[64]), n(8), n(0)]).what("to a file"),
        v(
            SYS_copy_file_range,
            [file(), words(&[0]), file(), words(&[128]), n(8), n(0)],
        ),
        c(SYS_fstat, [file(), out(144)]),
        c(SYS_fstatfs, [file(), out(120)]),
        v(SYS_getdents, [n(w.directory), out(256), n(256)]),
        v(SYS_getdents64, [n(w.directory), out(256), n(256)]),
        c(451, [file(), words(&[0, 64]), out(40), n(0)]),
        c(SYS_pipe, [out(8)]),
        c(SYS_pipe2, [out(8), n(0)]),
        v(SYS_getrandom, [out(16), n(16), n(0)]),
    ]);
    for (what, command, lock) in [
        ("F_GETLK", F_GETLK, [0, 0, 0, 0]),
        ("F_SETLK", F_SETLK, [0, 0, 0, 0]),
        ("F_SETLKW", F_SETLKW, [0, 0, 0, 0]),
        ("F_OFD_GETLK", F_OFD_GETLK, [0, 0, 0, 0]),
        ("F_OFD_SETLK", F_OFD_SETLK, [0, 0, 0, 0]),
        ("F_OFD_SETLKW", F_OFD_SETLKW, [0, 0, 0, 0]),
    ] {
        let case = c(SYS_fcntl, [file(), n(command), words(&lock)]);
        all.push(case.what(what).before(unlocked));
    }
    let terminal = || n(w.terminal);
    let ioctl = |what, fd, request: u64, arg| c(SYS_ioctl, [fd, n(request), arg]).what(what);
    all.extend([
        ioctl("FIONREAD", read(), FIONREAD, out(4)),
        ioctl("FIONBIO", read(), FIONBIO, words(&[1])),
        ioctl("FS_IOC_GETFLAGS", file(), 0x8008_6601, out(4)),
        ioctl("TCGETS", terminal(), TCGETS, out(36)),
        ioctl("TCGETS2", terminal(), 0x802c_542a, out(44)),
        ioctl("TCSETS", terminal(), TCSETS, zeros(36)),
        ioctl("TCSETSW", terminal(), TCSETSW, zeros(36)),
        ioctl("TCSETSF", terminal(), TCSETSF, zeros(36)),
        ioctl("TIOCGWINSZ", terminal(), TIOCGWINSZ, out(8)),
        ioctl("TIOCSWINSZ", terminal(), TIOCSWINSZ, zeros(8)),
        ioctl("TIOCSPTLCK", terminal(), TIOCSPTLCK, zeros(4)),
        ioctl("TIOCGPTLCK", terminal(), TIOCGPTLCK, out(4)),
        ioctl("TIOCPKT", terminal(), TIOCPKT, zeros(4)),
        ioctl("TIOCGPKT", terminal(), TIOCGPKT, out(4)),
        ioctl("TIOCGPTN", terminal(), TIOCGPTN, out(4)),
        ioctl("TIOCGEXCL", terminal(), TIOCGEXCL, out(4)),
        ioctl("TIOCGETD", terminal(), TIOCGETD, out(4)),
        ioctl("TIOCOUTQ", terminal(), TIOCOUTQ, out(4)),
        ioctl("TIOCGPGRP", terminal(), TIOCGPGRP, out(4)),
        ioctl("TIOCGSID", terminal(), TIOCGSID, out(4)),
    ]);
    let time = || words(&[0, 0]);
    // That blocks nothing more than is.
    let mask = || words(&[1 << (SIGUSR1 - 1)]);
    let poll = || words(&[w.write | 4 << 32]);
    let set = || {
        let mut bytes = vec![0u8; 128];
        bytes[(w.write / 8) as usize] |= 1 << (w.write % 8);
        Arg::In(bytes)
    };
    let count = || n(w.write + 1);
    let pair = || with(&[0, 8], vec![(0, mask())]);
    all.extend([
        v(SYS_poll, [poll(), n(1), n(0)]),
        v(SYS_ppoll, [poll(), n(1), time(), mask(), n(8)]),
        v(SYS_select, [count(), set(), set(), set(), time()]),
        v(SYS_pselect6, [count(), set(), set(), set(), time(), pair()]),
        c(SYS_epoll_ctl, [n(w.epoll), n(1), read(), zeros(12)]).before(unwatched),
        v(SYS_epoll_wait, [n(w.epoll), out(24), n(2), n(0)]),
        v(
            SYS_epoll_pwait,
            [n(w.epoll), out(24), n(2), n(0), mask(), n(8)],
        ),
        v(
            SYS_epoll_pwait2,
            [n(w.epoll), out(24), n(2), time(), mask(), n(8)],
        ),
        c(SYS_signalfd, [n(-1), mask(), n(8)]),
        c(SYS_signalfd4, [n(-1), mask(), n(8), n(0)]),
        c(SYS_timerfd_settime, [n(w.timer), n(0), zeros(32), out(32)]),
        c(SYS_timerfd_gettime, [n(w.timer), out(32)]),
    ]);
}
