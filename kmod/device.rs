// SPDX-License-Identifier: GPL-2.0

//! `/dev/uvisor`.

use core::sync::atomic::Ordering::Relaxed;

use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    prelude::*,
    sync::{
        global_lock,
        Arc, //
    }, //
};

use uvisor_uapi::{
    self as uapi,
    Info, //
};

use crate::{
    args,
    hardware::Hardware,
    memory::MAX_REGIONS,
    sys::cpu,
    vm::{
        Vm,
        MAX_VCPUS, //
    }, //
};

global_lock! {
    // SAFETY: Initialised by `Published::new` before anything can lock it.
    unsafe(uninit) static HARDWARE: Mutex<Option<Arc<Hardware>>> = None;
}

/// [`HARDWARE`] is set while this lives.
pub(crate) struct Published(());

impl Published {
    /// Sets it.
    ///
    /// # Safety
    ///
    /// Once per load of the module, before anything else uses [`HARDWARE`].
    pub(crate) unsafe fn new(hardware: Arc<Hardware>) -> Self {
        // SAFETY: By the caller's promise.
        unsafe { HARDWARE.init() };
        *HARDWARE.lock() = Some(hardware);
        Self(())
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        *HARDWARE.lock() = None;
    }
}

/// An open `/dev/uvisor`.
pub(crate) struct Device {
    hardware: Arc<Hardware>,
}

#[vtable]
impl MiscDevice for Device {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let hardware = HARDWARE.lock().clone().ok_or(ENODEV)?;
        Ok(KBox::new(Self { hardware }, GFP_KERNEL_ACCOUNT)?)
    }

    fn ioctl(device: &Self, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::INFO => {
                let (_, place) = args::read::<Info>(arg)?;
                place.write(&device.info())?;
                Ok(0)
            }
            uapi::VM_CREATE => Vm::create(device.hardware.clone(), arg),
            _ => Err(ENOTTY),
        }
    }
}

impl Device {
    /// `INFO`.
    fn info(&self) -> Info {
        let hardware = &*self.hardware;
        let mut info = Info::new();
        info.abi_version = uapi::ABI_VERSION;
        info.gpa_bits = hardware.gpa_bits;
        info.features = hardware.features().bits();
        info.mitigations = hardware.mitigations.bits();
        // CAST: Both are small constants.
        info.max_vcpus = MAX_VCPUS as u32;
        info.max_regions = MAX_REGIONS as u32;
        info.vms = hardware.vms.load(Relaxed);
        info.memory = hardware.pages.load(Relaxed).saturating_mul(uapi::PAGE_SIZE);
        info.xcr0 = hardware.fpu.guest_xcr0;
        info.tsc_khz = cpu::tsc_khz().into();
        info
    }
}
