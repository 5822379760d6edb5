// SPDX-License-Identifier: GPL-2.0

//! Micro-VMs from user space.
//!
//! [`Device`], [`Vm`] and [`Vcpu`] are safe handles on the file descriptors of the uvisor module;
//! closing the last handle of each frees what it stands for, in any order. The structures and
//! constants of the ioctl interface itself are in [`uapi`].
//!
//! ```no_run
//! use uvisor::{Device, Exit, Prot};
//!
//! # fn main() -> uvisor::Result<()> {
//! let device = Device::open()?;
//! let vm = device.create_vm(0)?;
//! vm.map_anonymous(0x1000, 0x1000, Prot::READ | Prot::EXEC)?;
//! // ... page tables and code are written with `write_at` ...
//! let mut vcpu = vm.create_vcpu(0x1000, 0, 0)?;
//! vcpu.regs_mut().rip = 0x1000;
//! match vcpu.run()? {
//!     Exit::Hypercall { ring } => println!("a hypercall from ring {ring}"),
//!     other => println!("{other:?}"),
//! }
//! # Ok(())
//! # }
//! ```

pub mod audit;
pub mod changes;
pub mod confine;
mod device;
pub mod errno;
mod error;
mod frame;
pub mod guest;
pub mod host;
mod inherited;
pub mod layout;
pub mod learn;
pub mod loader;
mod map;
pub mod memory;
mod named;
mod parts;
pub mod personality;
mod process;
pub mod profile;
pub mod quote;
pub mod report;
pub mod sandbox;
mod signal;
pub mod space;
pub mod stack;
mod stubs;
mod sync;
pub mod task;
pub mod template;
mod user;
mod vcpu;
mod vdso;
mod views;
mod vm;

pub use device::Device;
pub use error::{Error, Result};
pub use inherited::InheritedError;
pub use map::Mapping;
pub use personality::keeps_socket_paths_apart;
pub use process::{fork_unseen, gaps};
pub use vcpu::{Exit, ExitFlag, Kicker, Vcpu};
pub use vm::{GuestMemory, Vm};

pub use uvisor_uapi as uapi;
pub use uvisor_uapi::{
    CloneFlags, Event, Features, Info, ListEntry, ListFlags, MemoryCause, Mitigations, Prot, Regs,
    RunFlags, Stats, ViewCause, ViewFlags, VmFlags, DEVICE, HYPERCALL_LEN, HYPERCALL_SWITCH_VIEW,
    PAGE_SIZE,
};
