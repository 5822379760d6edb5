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
mod backing;
mod cpuid;
mod device;
mod events;
mod exclusive;
mod hardware;
mod host;
mod memory;
mod mitigations;
mod page;
mod pages;
mod regions;
mod registry;
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
#[pin_data]
struct Uvisor {
    // Dropped first: no file can be opened from then on, and none is open, since each pins the module.
    #[pin]
    _device: MiscDeviceRegistration<device::Device>,
    _shrinker: sys::shrinker::Shrinker<registry::AllMemory>,
    _hardware: device::Published,
}

impl kernel::InPlaceModule for Uvisor {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        sys::frame::init();
        // SAFETY: Once per load, before the device exists.
        unsafe { registry::init() };
        try_pin_init!(Self {
            // SAFETY: Once per load, before the device exists.
            _hardware: unsafe { device::Published::new(hardware::Hardware::probe()?) },
            _shrinker: sys::shrinker::Shrinker::register()?,
            _device <- MiscDeviceRegistration::register(MiscDeviceOptions { name: c"uvisor" }),
        })
    }
}
