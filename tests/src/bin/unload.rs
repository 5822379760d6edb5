// SPDX-License-Identifier: GPL-2.0

//! The module cannot be unloaded while anything of it is open.

use std::os::fd::AsFd;

use uvisor::{Device, PAGE_SIZE};
use uvisor_tests::raw::{errno, mmap, munmap};
use uvisor_tests::tap::{equal, Outcome};
use uvisor_tests::{code, Guest, Tap};

code! { call: "vmcall" }

/// Asks the kernel to unload the module, which it must refuse; a test that fails takes the device
/// from those that follow.
fn refused(what: &str) -> Outcome {
    // SAFETY: A C string and flags; without O_TRUNC the kernel refuses what is in use.
    let result = unsafe {
        libc::syscall(
            libc::SYS_delete_module,
            c"uvisor".as_ptr(),
            libc::O_NONBLOCK,
        )
    };
    equal(what, (result, errno()), (-1, libc::EWOULDBLOCK))
}

fn main() {
    let mut tap = Tap::new();
    tap.test("with the device open", || {
        let device = Device::open().map_err(|e| e.to_string())?;
        refused("rmmod")?;
        device.info().map(drop).map_err(|e| e.to_string())
    });
    tap.test("with a micro-VM open", || {
        let Guest { device, vm, vcpu } = Guest::new(call());
        drop((device, vcpu));
        refused("rmmod")?;
        vm.stats().map(drop).map_err(|e| e.to_string())
    });
    tap.test("with a vCPU open", || {
        let Guest {
            device,
            vm,
            mut vcpu,
        } = Guest::new(call());
        drop((device, vm));
        refused("rmmod")?;
        vcpu.run().map(drop).map_err(|e| e.to_string())
    });
    for of_vcpu in [false, true] {
        let name = if of_vcpu {
            "a run page"
        } else {
            "guest memory"
        };
        tap.test(&format!("with {name} mapped"), || {
            let guest = Guest::new(call());
            let fd = if of_vcpu {
                guest.vcpu.as_fd()
            } else {
                guest.vm.as_fd()
            };
            let len = PAGE_SIZE as usize;
            let at = mmap(Some(&fd), len, libc::PROT_READ, libc::MAP_SHARED, 0);
            let at = at.map_err(|e| format!("mmap: {e}"))?;
            drop(guest);
            let result = refused("rmmod");
            munmap(at, len);
            result
        });
    }
    tap.finish();
}
