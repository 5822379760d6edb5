// SPDX-License-Identifier: GPL-2.0

//! The walls around the process that holds a template: it takes a template from the broker that made it, which may have been
//! taken over, and gives it to who asks. So it does that without capabilities, with no file but the directory of its name,
//! and with the system calls for that alone.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use landlock::{
    Access, AccessFs, AccessNet, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use seccompiler::{BackendError, SeccompRule};

use super::filter::{all, is, kind, masked, Filter, FilterError, Verdict};
use super::landlock::NEWEST;
use super::{rights, SandboxError, Unlisted};

/// The calls that it makes, whatever their arguments; those of others are in [`conditions`].
const CALLS: &[libc::c_long] = &[
    // Its socket, and those who ask.
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    // Its name in the directory.
    libc::SYS_flock,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    // What is known about the template, which is in memory.
    libc::SYS_memfd_create,
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_fstat,
    libc::SYS_fcntl,
    libc::SYS_close,
    // Memory, signals, time.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_geteuid,
    libc::SYS_getrandom,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The calls whose arguments are looked at.
fn conditions() -> Result<Vec<(libc::c_long, SeccompRule)>, BackendError> {
    let executable = libc::PROT_EXEC as u64;
    Ok(vec![
        (libc::SYS_socket, all(vec![is(0, libc::AF_UNIX as u64)?])?),
        (
            libc::SYS_ioctl,
            all(vec![kind(uvisor_uapi::IOCTL_TYPE.into())?])?,
        ),
        (libc::SYS_mmap, all(vec![masked(2, executable, 0)?])?),
        (libc::SYS_mprotect, all(vec![masked(2, executable, 0)?])?),
    ])
}

/// Enters them, for ever, in a process of one thread: `directory` is where its name is. What the kernel has no Landlock for
/// stays as it is.
pub fn enter(directory: BorrowedFd<'_>) -> Result<(), SandboxError> {
    rights::drop_all()?;
    let names = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ResolveUnix;
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rule(PathBeneath::new(directory, names))?
        .log_same_exec(false)?
        .restrict_self()?;
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    verdicts.extend(CALLS.iter().map(|call| (*call as u32, Verdict::Allow)));
    let conditions = conditions().map_err(FilterError::from)?;
    verdicts.extend(
        conditions
            .into_iter()
            .map(|(call, rule)| (call as u32, Verdict::If(vec![rule]))),
    );
    Ok(Filter::of(verdicts, Unlisted::Refuse)?.install()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;
    use std::os::fd::AsFd;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    /// What a call of C's comes to: 0, or an error's number.
    fn errno(value: libc::c_int) -> i32 {
        let error = std::io::Error::last_os_error();
        match value {
            -1 => error.raw_os_error().unwrap_or(-1),
            _ => 0,
        }
    }

    #[test]
    fn it_does_what_it_must_and_nothing_else() {
        let base = std::env::temp_dir().join(format!("uvisor-holder-{}", std::process::id()));
        std::fs::create_dir_all(base.join("own")).unwrap();
        let directory = std::fs::File::open(base.join("own")).unwrap();
        let outside = std::fs::File::open(&base).unwrap();
        std::fs::write(base.join("file"), "secret").unwrap();
        let at = |name: &str| SocketAddr::from_pathname(base.join(name)).unwrap();
        let (own, not) = (at("own/x"), at("y"));
        let file = c_string(&base.join("file"));
        // SAFETY: The copy has one thread, and of the other ones' locks needs only those of the allocator, which C's
        // library sees to.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let passed = std::panic::catch_unwind(|| {
                enter(directory.as_fd()).unwrap();
                // What it must.
                let listener = UnixListener::bind_addr(&own).unwrap();
                drop(UnixStream::connect_addr(&own).unwrap());
                listener.accept().unwrap();
                assert_eq!(errno(unlink(directory.as_fd(), c"x")), 0);
                // What it must not: files, names elsewhere, networks, processes.
                assert_eq!(errno(open(&file)), libc::ENOSYS);
                assert_ne!(errno(unlink(outside.as_fd(), c"file")), 0);
                assert!(UnixListener::bind_addr(&not).is_err());
                // SAFETY: They take numbers.
                unsafe {
                    assert_eq!(
                        errno(libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
                        libc::EPERM
                    );
                    assert_eq!(errno(libc::kill(libc::getpid(), 0)), libc::ENOSYS);
                    assert_eq!(errno(libc::fork()), libc::ENOSYS);
                }
            });
            // SAFETY: It ends the copy at once.
            unsafe { libc::_exit(i32::from(passed.is_err())) };
        }
        let mut status = 0;
        // SAFETY: The status is there for the writing.
        let ended = unsafe { libc::waitpid(child, &mut status, 0) };
        assert!(base.join("file").exists());
        std::fs::remove_dir_all(&base).unwrap();
        assert_eq!((ended, status), (child, 0));
    }

    fn c_string(path: &std::path::Path) -> std::ffi::CString {
        use std::os::unix::ffi::OsStrExt;
        std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap()
    }

    fn open(path: &CStr) -> libc::c_int {
        // SAFETY: The path is a string.
        unsafe { libc::open(path.as_ptr(), libc::O_RDONLY) }
    }

    fn unlink(directory: BorrowedFd<'_>, name: &CStr) -> libc::c_int {
        use std::os::fd::AsRawFd;
        // SAFETY: The name is a string.
        unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) }
    }
}
