// SPDX-License-Identifier: GPL-2.0

//! Views of a micro-VM's memory, and what is sealed in it.

use std::os::fd::AsFd;

use uvisor_uapi::{self as uapi, Prot, Unmap, ViewCreate, ViewDestroy, ViewFlags, ViewProtect};

use crate::device::ioctl;
use crate::{Result, Vm};

impl Vm {
    /// Adds a view in which everything is allowed that the regions and `prot` allow both; its number, from
    /// 1 on. With [`ViewFlags::GUEST`] the guest may switch to it by itself.
    pub fn create_view(&self, prot: Prot, flags: ViewFlags) -> Result<u32> {
        let mut argument = ViewCreate {
            flags: flags.bits(),
            prot: prot.bits(),
            ..ViewCreate::new()
        };
        // SAFETY: This is the structure of this command.
        let view = unsafe {
            ioctl(
                self.as_fd(),
                uapi::VIEW_CREATE,
                "VIEW_CREATE",
                &mut argument,
            )
        }?;
        Ok(view.unsigned_abs())
    }

    /// Lets a view allow at most `prot` in a range, whether or not anything is mapped there.
    pub fn protect_view(&self, view: u32, gpa: u64, len: u64, prot: Prot) -> Result<()> {
        let mut argument = ViewProtect {
            gpa,
            len,
            view,
            prot: prot.bits(),
            ..ViewProtect::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe {
            ioctl(
                self.as_fd(),
                uapi::VIEW_PROTECT,
                "VIEW_PROTECT",
                &mut argument,
            )
        }
        .map(drop)
    }

    /// Takes a view away; a vCPU in it meets [`crate::Exit::View`].
    pub fn destroy_view(&self, view: u32) -> Result<()> {
        let mut argument = ViewDestroy {
            view,
            ..ViewDestroy::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe {
            ioctl(
                self.as_fd(),
                uapi::VIEW_DESTROY,
                "VIEW_DESTROY",
                &mut argument,
            )
        }
        .map(drop)
    }

    /// Makes the permission and the content of a range, which must not be writable, final.
    pub fn seal(&self, gpa: u64, len: u64) -> Result<()> {
        let mut argument = Unmap {
            gpa,
            len,
            ..Unmap::new()
        };
        // SAFETY: This is the structure of this command.
        unsafe { ioctl(self.as_fd(), uapi::SEAL, "SEAL", &mut argument) }.map(drop)
    }
}
