// SPDX-License-Identifier: GPL-2.0

//! `/dev/uvisor`.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use uvisor_uapi::{self as uapi, Info, List, ListEntry, VmCreate, VmFlags, ABI_VERSION, DEVICE};

use crate::{Error, Result, Vm};

/// Calls `command` on `fd` with a structure of the interface; `call` names it in errors.
///
/// # Safety
///
/// `argument` points to the structure that `command` takes, which must be valid for writes if the
/// command has *out* fields; or `command` takes none.
pub(crate) unsafe fn ioctl<T>(
    fd: BorrowedFd<'_>,
    command: u32,
    call: &'static str,
    argument: *mut T,
) -> Result<i32> {
    // SAFETY: By the caller's promise.
    let value = unsafe { libc::ioctl(fd.as_raw_fd(), u64::from(command) as _, argument) };
    if value < 0 {
        return Err(Error::last(call));
    }
    Ok(value)
}

/// Takes the file descriptor that a successful ioctl returned.
pub(crate) fn new_fd(value: i32) -> OwnedFd {
    // SAFETY: The module just made this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(value as RawFd) }
}

/// What a micro-VM's page tables depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// How many bits a guest-physical address has.
    pub(crate) gpa_bits: u32,
    /// Whether guests have pages of 1 GiB.
    pub(crate) guest_1g: bool,
    /// Whether memory can be executed and not read.
    pub(crate) exec_only: bool,
    /// Thousands of ticks that the time-stamp counter has in a second.
    pub(crate) tsc_khz: u64,
}

/// The device: what micro-VMs are made from.
#[derive(Debug)]
pub struct Device {
    file: File,
    info: Info,
}

impl Device {
    /// Opens [`DEVICE`] and checks that the module speaks our version of the interface.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .map_err(|source| match source.kind() {
                ErrorKind::NotFound => Error::NoDevice,
                ErrorKind::PermissionDenied => Error::NoPermission,
                // A node that outlived its module.
                _ if matches!(source.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
                    Error::NoDevice
                }
                _ => Error::Call {
                    call: "open",
                    source,
                },
            })?;
        let info = read_info(file.as_fd())?;
        if info.abi_version != ABI_VERSION {
            return Err(Error::Version {
                found: info.abi_version,
                expected: ABI_VERSION,
            });
        }
        Ok(Self { file, info })
    }

    /// What the module and the CPU offer, as of now.
    pub fn info(&self) -> Result<Info> {
        read_info(self.as_fd())
    }

    /// What page tables of its micro-VMs depend on.
    pub(crate) fn machine(&self) -> Machine {
        let features = uapi::Features::from_bits_truncate(self.info.features);
        Machine {
            gpa_bits: self.info.gpa_bits,
            guest_1g: features.contains(uapi::Features::GUEST_1G),
            exec_only: features.contains(uapi::Features::EXEC_ONLY),
            tsc_khz: self.info.tsc_khz,
        }
    }

    /// Whether the CPU has memory that can be executed and not read.
    pub fn has_execute_only(&self) -> bool {
        self.machine().exec_only
    }

    /// How many bits a guest-physical address has.
    pub fn gpa_bits(&self) -> u32 {
        self.info.gpa_bits
    }

    /// Makes a micro-VM that may have `memory_limit` bytes of its own; 0 for no limit.
    pub fn create_vm(&self, memory_limit: u64) -> Result<Vm> {
        self.create_vm_with(memory_limit, VmFlags::empty())
    }

    /// Makes a micro-VM with a limit as [`Self::create_vm`] has, and `flags`.
    pub fn create_vm_with(&self, memory_limit: u64, flags: VmFlags) -> Result<Vm> {
        let mut argument = VmCreate {
            flags: flags.bits(),
            memory_limit,
            ..VmCreate::new()
        };
        // SAFETY: This is the structure of this command.
        let fd = unsafe { ioctl(self.as_fd(), uapi::VM_CREATE, "VM_CREATE", &mut argument) }?;
        Ok(Vm::new(new_fd(fd), self.info.gpa_bits))
    }

    /// The micro-VMs that the caller may see: those of its user, or all; in the order in which they were
    /// made.
    pub fn list(&self) -> Result<Vec<ListEntry>> {
        let mut entries = vec![ListEntry::default(); 64];
        loop {
            let mut argument = List {
                entries: entries.as_mut_ptr() as u64,
                count: entries.len().try_into().unwrap_or(u32::MAX),
                entry_size: size_of::<ListEntry>() as u32,
                ..List::new()
            };
            // SAFETY: This is the structure of this command, and the array has as many elements as it says.
            unsafe { ioctl(self.as_fd(), uapi::LIST, "LIST", &mut argument) }?;
            let total = usize::try_from(argument.total).unwrap_or(usize::MAX);
            if total <= entries.len() {
                entries.truncate(argument.count as usize);
                return Ok(entries);
            }
            // More may have come by then.
            entries.resize(total.saturating_add(64), ListEntry::default());
        }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Asks the device at `fd` what it offers.
fn read_info(fd: BorrowedFd<'_>) -> Result<Info> {
    let mut info = Info::new();
    // SAFETY: This is the structure of this command.
    unsafe { ioctl(fd, uapi::INFO, "INFO", &mut info) }?;
    Ok(info)
}
