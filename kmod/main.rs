// SPDX-License-Identifier: GPL-2.0

//! uvisor: micro-VMs for single tasks, next to the host kernel.
//!
//! [`hardware`] finds out what the machine has; [`device`], [`vm`] and [`vcpu`] are what user space
//! holds; [`memory`] is what a guest sees; [`run`] executes it, in a [`window`] of VMX operation.
//! Everything that touches C or the CPU's own registers is in [`sys`].

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

mod access;
mod args;
mod cpuid;
mod device;
mod events;
mod hardware;
mod host;
mod memory;
mod mitigations;
mod pages;
mod run;
mod sys;
mod vcpu;
mod vm;
mod vmcs;
mod window;

module! {
    type: Uvisor,
    name: "uvisor",
    authors: ["The uvisor developers"],
    description: "Micro-VMs for single tasks",
    license: "GPL",
}

/// The loaded module.
#[pin_data(PinnedDrop)]
struct Uvisor {
    #[pin]
    _device: MiscDeviceRegistration<device::Device>,
}

impl kernel::InPlaceModule for Uvisor {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _device <- {
                // SAFETY: Once per load, before the device exists.
                unsafe { device::HARDWARE.init() };
                *device::HARDWARE.lock() = Some(hardware::Hardware::probe()?);
                MiscDeviceRegistration::register(MiscDeviceOptions { name: c"uvisor" })
            },
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Uvisor {
    fn drop(self: Pin<&mut Self>) {
        // No file is open, since each pins the module: this is the last reference.
        *device::HARDWARE.lock() = None;
    }
}
