// SPDX-License-Identifier: GPL-2.0

//! `/dev/uvisor`.

use core::sync::atomic::Ordering::Relaxed;

use kernel::{
    fs::File,
    miscdevice::{
        MiscDevice,
        MiscDeviceRegistration, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        global_lock,
        Arc, //
    }, //
};

use uvisor_uapi::{
    self as uapi,
    Info,
    List,
    ListEntry, //
};

use crate::{
    args,
    hardware::Hardware,
    memory::MAX_REGIONS,
    registry::Viewer,
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
            uapi::LIST => {
                let (mut list, place) = args::read::<List>(arg)?;
                fill(&mut list)?;
                place.write(&list)?;
                Ok(0)
            }
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

/// `LIST`.
fn fill(list: &mut List) -> Result {
    let (room, size) = (list.count, list.entry_size);
    if size < ListEntry::MIN_SIZE || size % 8 != 0 {
        return Err(EINVAL);
    }
    // CAST: A 32-bit number fits.
    if size as usize > PAGE_SIZE {
        return Err(E2BIG);
    }
    list.count = 0;
    list.total = 0;
    let mut at = list.entries;
    Viewer::current().for_each(|seen| {
        list.total = list.total.saturating_add(1);
        if list.count < room {
            // CAST: As above.
            args::write_sized(at, size as usize, seen.describe()?)?;
            list.count = list.count.saturating_add(1);
            // OVERFLOW: Where nothing is mapped, nothing is written.
            at = at.wrapping_add(size.into());
        }
        Ok(())
    })
}
