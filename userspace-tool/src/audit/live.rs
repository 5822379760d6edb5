// SPDX-License-Identifier: GPL-2.0

//! Reading the events of a task that runs: its brokers hold the other end of their socket as well, for who may look into
//! them as a debugger may.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{flock, FlockOperation};
use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{recv, AddressFamily, RecvFlags, SocketType};
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use thiserror::Error;

use super::page::{Page, NAME};
use super::Inlet;
use crate::personality::Fds;

/// Why the events of a task cannot be read.
#[derive(Debug, Error)]
pub enum LiveError {
    /// It is none that tells some.
    #[error("process {0} tells no events: it is not the process of a `uvctl run`")]
    None(i32),
    /// Who asks may not look into it.
    #[error("process {0} cannot be looked into: {1}; its user can, and root, unless kernel.yama.ptrace_scope forbids it")]
    Access(i32, io::Error),
    /// Its events go elsewhere.
    #[error("its events are written to a file (--audit): read that")]
    Audited,
    /// Somebody else reads them.
    #[error("somebody else traces it already")]
    Traced,
    /// What it says of itself makes no sense.
    #[error("process {0} says of its events what cannot be")]
    Broken(i32),
}

/// The hold on a task that is read from: it tells events for as long as this is renewed.
#[derive(Debug)]
pub(super) struct Live {
    page: Page,
    /// Locked, so that nobody else reads.
    _file: File,
}

impl Live {
    /// That the events are still read.
    pub(super) fn renew(&self) {
        self.page.lease();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.page.release();
    }
}

/// The file of the page of a process, of whose descriptors those from `least` on are no guest's: that could have one
/// of the same name.
fn find(pid: i32, least: i32) -> io::Result<Option<PathBuf>> {
    let start = format!("/memfd:{NAME} ");
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let number = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if number.is_none_or(|number: i32| number < least) {
            continue;
        }
        let path = entry.path();
        let link = std::fs::read_link(&path);
        let is_it = |link: &Path| link.as_os_str().as_bytes().starts_with(start.as_bytes());
        if link.is_ok_and(|link| is_it(&link)) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Begins to read the events of the task that a process belongs to.
pub(super) fn attach(pid: i32) -> Result<(Inlet, Live), LiveError> {
    let access = |error: io::Error| LiveError::Access(pid, error);
    let number = Pid::from_raw(pid).ok_or(LiveError::None(pid))?;
    let handle = pidfd_open(number, PidfdFlags::empty()).map_err(|error| access(error.into()))?;
    let least =
        Fds::end_of(pid).map_err(|errno| access(io::Error::from_raw_os_error(errno.number())))?;
    let path = find(pid, least)
        .map_err(access)?
        .ok_or(LiveError::None(pid))?;
    let file = File::options().read(true).write(true).open(path);
    let file = file.map_err(access)?;
    let page = Page::open(file.as_fd()).map_err(|_| LiveError::Broken(pid))?;
    if page.is_taken() {
        return Err(LiveError::Audited);
    }
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| LiveError::Traced)?;
    let inlet = i32::try_from(page.inlet()).ok();
    let inlet = inlet
        .filter(|inlet| *inlet >= least)
        .ok_or(LiveError::Broken(pid))?;
    let socket = pidfd_getfd(&handle, inlet, PidfdGetfdFlags::empty());
    let socket = socket.map_err(|error| access(error.into()))?;
    if !is_inlet(&socket) {
        return Err(LiveError::Broken(pid));
    }
    // What was left for somebody before.
    let mut bytes = [0; 1];
    while recv(
        &socket,
        &mut bytes[..],
        RecvFlags::DONTWAIT | RecvFlags::TRUNC,
    )
    .is_ok_and(|(_, len)| len > 0)
    {}
    page.lease();
    let live = Live {
        page: page.clone(),
        _file: file,
    };
    Ok((Inlet { socket, page }, live))
}

/// Whether a socket is of the kind that events come from.
fn is_inlet(socket: &OwnedFd) -> bool {
    socket_domain(socket) == Ok(AddressFamily::UNIX)
        && socket_type(socket) == Ok(SocketType::SEQPACKET)
}
