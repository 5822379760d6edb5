// SPDX-License-Identifier: GPL-2.0

//! What can go wrong between user space and the module, and what to do about it.

use std::io;

use thiserror::Error;
use uvisor_uapi::DEVICE;

/// The result of a call to the module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to the module failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The device node does not exist.
    #[error(
        "there is no {DEVICE}: the uvisor module is not loaded; load it with `insmod uvisor.ko` \
         (if that is refused, `dmesg` says why)"
    )]
    NoDevice,
    /// The device node may not be opened by this user.
    #[error(
        "no permission to open {DEVICE}: run as root, or become a member of the group that owns \
         it (`ls -l {DEVICE}`)"
    )]
    NoPermission,
    /// The module speaks another version of the interface.
    #[error(
        "the module speaks version {found} of the interface and this program version {expected}: \
         load the module that belongs to this program"
    )]
    Version {
        /// The module's version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// The CPU refused to enter the guest: registers or controls that it does not accept.
    #[error(
        "the CPU refused to enter the guest (exit reason {reason}, VM-instruction error {error})"
    )]
    EntryFailed {
        /// The SDM's exit reason (33, 34, 41), or 0 for VMfail.
        reason: u64,
        /// The VM-instruction error of VMfail.
        error: u64,
    },
    /// The module reported an exit that this program does not know.
    #[error("the module reported the unknown exit reason {0}: it is newer than this program")]
    UnknownExit(u32),
    /// A call failed.
    #[error("{call} failed: {source}{}", hint(call, source))]
    Call {
        /// The call, as the interface names it.
        call: &'static str,
        /// The error number.
        source: io::Error,
    },
}

impl Error {
    /// The error that the last system call left, as that of `call`.
    pub(crate) fn last(call: &'static str) -> Self {
        Self::Call {
            call,
            source: io::Error::last_os_error(),
        }
    }

    /// The error number `errno` as that of `call`.
    pub(crate) fn errno_of(call: &'static str, errno: i32) -> Self {
        Self::Call {
            call,
            source: io::Error::from_raw_os_error(errno),
        }
    }

    /// The error number that the kernel gave, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NoDevice => Some(libc::ENOENT),
            Self::NoPermission => Some(libc::EACCES),
            Self::EntryFailed { .. } => Some(libc::EIO),
            Self::Call { source, .. } => source.raw_os_error(),
            Self::Version { .. } | Self::UnknownExit(_) => None,
        }
    }
}

/// What to do about a failed call, for the cases where the error number alone does not say it.
fn hint(call: &str, source: &io::Error) -> &'static str {
    match (call, source.raw_os_error()) {
        ("MAP" | "UNMAP" | "PROTECT", Some(libc::ENOSPC)) => {
            " (the micro-VM has as many regions as it may)"
        }
        ("MAP", Some(libc::EEXIST)) => " (a part of the range is mapped: UNMAP it first)",
        ("MAP", Some(libc::ENODEV)) => " (the file's pages cannot be shared: copy it to memory)",
        ("PROTECT", Some(libc::ENOMEM)) => " (a part of the range is not mapped)",
        ("VCPU_CREATE", Some(libc::ENOSPC)) => " (the micro-VM has as many vCPUs as it may)",
        ("RUN", Some(libc::EBUSY)) => {
            " (another thread runs this vCPU, or another hypervisor left VMX half-enabled)"
        }
        ("RUN", Some(libc::ENODEV)) => " (VMX was taken from the module: see `dmesg`)",
        ("RUN", Some(libc::EINVAL)) => {
            " (registers that no guest can have, or a thread with FS or GS selectors)"
        }
        _ => "",
    }
}
