// SPDX-License-Identifier: GPL-2.0

//! Unix sockets with paths: which of them a task can make and reach.
//!
//! A path leads to a socket by whatever lies on it at that moment, so the broker cannot decide about one before the
//! kernel looks it up. It has the kernel decide: by a Landlock domain that all brokers of a task are in, and the
//! process that opens its sockets. In it, sockets are made only where the task may change files; and of those that
//! have paths only such can be reached as were opened in the same domain, which are the task's own. Where the
//! kernel cannot do both, a task has no sockets with paths.

use std::os::fd::{AsRawFd, OwnedFd};

use super::access::Access;
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
    let rules = rules_for(REFER, SCOPES)?;
    allow_moves(&rules)?;
    restrict(&rules)
}

/// Lets names move from one directory to another: where to, the broker decides.
fn allow_moves(rules: &OwnedFd) -> SysResult<()> {
    allow(rules, std::fs::File::open("/")?.as_raw_fd(), REFER)
}

/// Allows something in a directory and below.
fn allow(rules: &OwnedFd, directory: i32, what: u64) -> SysResult<()> {
    let mut rule = [0; 12];
    rule[..8].copy_from_slice(&what.to_le_bytes());
    rule[8..].copy_from_slice(&directory.to_le_bytes());
    let rules = rules.as_raw_fd();
    pass!(LANDLOCK_ADD_RULE, rules, PATH_BENEATH, &mut rule, 0).map(drop)
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

/// A set of rules that allows nothing yet of what it is about, and nothing outside of the domain that is in `scopes`.
fn rules_for(handled: u64, scopes: u64) -> SysResult<OwnedFd> {
    let mut attributes = [0; 24];
    attributes[..8].copy_from_slice(&handled.to_le_bytes());
    attributes[16..].copy_from_slice(&scopes.to_le_bytes());
    let len = attributes.len() as u64;
    let rules = pass!(LANDLOCK_CREATE_RULESET, &mut attributes, len, 0)?;
    Ok(new_fd(rules as i32))
}

/// The rules about sockets with paths, which allow none yet; what knows them knows the scopes.
fn rules() -> SysResult<OwnedFd> {
    rules_for(REFER | MAKE_SOCK | RESOLVE_UNIX, SCOPES)
}

/// Confines the calling thread, and all that it starts from now on, to sockets where `access` lets files be changed,
/// and as [`enter_scopes`] does. An error says that the kernel cannot, and that nothing has changed.
pub(super) fn enter(access: &Access) -> SysResult<()> {
    let rules = rules()?;
    allow_moves(&rules)?;
    for directory in access.directories()? {
        allow(&rules, directory.as_raw_fd(), MAKE_SOCK)?;
    }
    restrict(&rules)
}
