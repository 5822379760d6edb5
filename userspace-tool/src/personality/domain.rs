// SPDX-License-Identifier: GPL-2.0

//! Unix sockets with paths: which of them a task can make and reach.
//!
//! A path leads to a socket by whatever lies on it at that moment, so the broker cannot decide about one before the
//! kernel looks it up. It has the kernel decide: by a Landlock domain that all brokers of a task are in, and the
//! process that opens its sockets. In it, sockets are made only where the task may change files; and of those that
//! have paths only such can be reached as were opened in the same domain, which are the task's own. Where the
//! kernel cannot do both, a task has no sockets with paths.

use std::os::fd::{AsRawFd, OwnedFd};

use super::writable::Access;
use crate::device::new_fd;
use crate::errno::SysResult;
use crate::pass;

/// Renaming and linking from one directory to another, which a domain refuses unless it is told not to.
const REFER: u64 = 1 << 13;
/// Making sockets.
const MAKE_SOCK: u64 = 1 << 9;
/// Reaching sockets by their paths that were not opened in the domain.
const RESOLVE_UNIX: u64 = 1 << 16;

/// What rules are about: directories, with all below them.
const PATH_BENEATH: i32 = 1;

/// Refusals are not noted in the machine's log: a task could fill it.
const LOG_SAME_EXEC_OFF: i32 = 1;

/// Reaching abstract sockets, and sending signals, outside of the domain.
const SCOPES: u64 = 1 << 1 | 1;

/// Keeps the calling thread, and all that it starts from now on, from sending signals to others and from reaching their
/// sockets without paths, if the kernel can: a second wall, behind the broker's own decisions.
pub(super) fn enter_scopes() -> SysResult<()> {
    let mut attributes = [0; 24];
    attributes[16..].copy_from_slice(&SCOPES.to_le_bytes());
    let rules = new_fd(pass!(LANDLOCK_CREATE_RULESET, &mut attributes, 24, 0)? as i32);
    restrict(&rules)
}

/// Obeys rules from now on.
fn restrict(rules: &OwnedFd) -> SysResult<()> {
    // It executes nothing that could gain by it.
    pass!(PRCTL, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)?;
    pass!(LANDLOCK_RESTRICT_SELF, rules.as_raw_fd(), LOG_SAME_EXEC_OFF).map(drop)
}

/// Whether the kernel can keep sockets with paths apart.
pub fn keeps_socket_paths_apart() -> bool {
    rules().is_ok()
}

/// A set of rules that allows nothing yet.
fn rules() -> SysResult<OwnedFd> {
    let mut handled = (REFER | MAKE_SOCK | RESOLVE_UNIX).to_le_bytes();
    let rules = pass!(LANDLOCK_CREATE_RULESET, &mut handled, 8, 0)?;
    Ok(new_fd(rules as i32))
}

/// Confines the calling thread, and all that it starts from now on, to sockets where `access` lets files be changed.
/// An error says that the kernel cannot, and that nothing has changed.
pub(super) fn enter(access: &Access) -> SysResult<()> {
    let rules = rules()?;
    let allow = |directory: i32, what: u64| {
        let mut rule = [0; 12];
        rule[..8].copy_from_slice(&what.to_le_bytes());
        rule[8..].copy_from_slice(&directory.to_le_bytes());
        pass!(
            LANDLOCK_ADD_RULE,
            rules.as_raw_fd(),
            PATH_BENEATH,
            &mut rule,
            0
        )
        .map(drop)
    };
    // Where files may go the broker decides.
    allow(std::fs::File::open("/")?.as_raw_fd(), REFER)?;
    for directory in access.directories()? {
        allow(directory.as_raw_fd(), MAKE_SOCK)?;
    }
    restrict(&rules)
}
