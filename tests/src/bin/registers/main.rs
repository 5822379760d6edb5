// SPDX-License-Identifier: GPL-2.0

//! The registers of the guest and of the host's thread: each keeps its own.

mod guest_state;
mod keeping;
mod live;
mod thread_state;

use uvisor::{Device, PAGE_SIZE};
use uvisor_tests::host::pin_to_cpu;
use uvisor_tests::tap::Outcome;
use uvisor_tests::{Guest, Tap, DATA};

/// A guest of `code` with room for an XSAVE area.
fn guest(code: &[u8]) -> Result<Guest, String> {
    let guest = Guest::new(code);
    let prot = uvisor::Prot::READ | uvisor::Prot::WRITE;
    let more = guest.vm.map_anonymous(DATA + PAGE_SIZE, PAGE_SIZE, prot);
    more.map_err(|e| e.to_string())?;
    Ok(guest)
}

fn read(guest: &Guest, offset: u64, bytes: &mut [u8]) -> Outcome {
    let result = guest.vm.read_at(DATA + offset, bytes);
    result.map_err(|e| e.to_string())
}

fn main() {
    let mut tap = Tap::new();
    pin_to_cpu(0);
    let xcr0 = Device::open().and_then(|d| d.info()).map_or(0, |i| i.xcr0);
    let keys = std::arch::is_x86_feature_detected!("xsave") && has_protection_keys();
    let preempted_name = "guests and host threads keep their registers when they take turns";
    tap.test(preempted_name, keeping::preempted);
    for vectors in &live::ALL {
        let name = format!("{}, under signals and rescheduling", vectors.name);
        if xcr0 & vectors.xcr0 == vectors.xcr0 {
            tap.test(&name, || live::calculates(vectors));
        } else {
            tap.skip(&name, "the CPU does not have them");
        }
    }
    tap.test(
        "what the guest loads does not reach the host's thread",
        thread_state::spoiled,
    );
    tap.test(
        "the initial state of a vCPU, and RESET_FPU",
        guest_state::initial,
    );
    for (name, code, len, bits) in [
        (
            "YMM of two vCPUs",
            guest_state::ymm as fn() -> &'static [u8],
            32,
            0b100,
        ),
        (
            "ZMM and mask registers of two vCPUs",
            guest_state::zmm,
            64,
            0xe0,
        ),
    ] {
        if xcr0 & bits == bits {
            tap.test(name, || guest_state::wide(code(), len));
        } else {
            tap.skip(name, "the CPU does not have them");
        }
    }
    if keys {
        tap.test("PKRU of the host's thread", thread_state::pkru);
    } else {
        tap.skip(
            "PKRU of the host's thread",
            "the kernel uses no protection keys",
        );
    }
    tap.test("flags", guest_state::flags_kept);
    tap.test("single steps", guest_state::single_steps);
    match thread_state::ldt_kept() {
        Ok(Some(why)) => tap.skip("LDT and ES of the host's thread", why),
        other => tap.test("LDT and ES of the host's thread", || other.map(drop)),
    }
    tap.test(
        "a hardware breakpoint in the host's thread",
        thread_state::breakpoint,
    );
    tap.finish();
}

/// Whether the kernel turned protection keys on.
fn has_protection_keys() -> bool {
    // SAFETY: Every CPU with VT-x has CPUID.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
    leaf.ecx >> 4 & 1 != 0
}
