// SPDX-License-Identifier: GPL-2.0

//! Which measures against speculative execution are needed: what the kernel found and was told.
//!
//! RSB, BHB, IBRS and VERW are in `kmod/entry.S`, patched in by the same feature bits; the others
//! are done once per window.

use kernel::prelude::*;

use uvisor_uapi::Mitigations;

use crate::sys::cpu;

/// IA32_FLUSH_CMD.
const IA32_FLUSH_CMD: u32 = 0x10b;
/// IA32_PRED_CMD.
const IA32_PRED_CMD: u32 = 0x49;

/// What this machine needs; an error if the CPU lacks the means.
pub(crate) fn choose() -> Result<Mitigations> {
    let bugs = cpu::bugs();
    // With mitigations=off the kernel still reports the L1TF bug, but not the PTE inversion.
    let l1tf = bugs.l1tf && !cpu::mitigations_off();
    if l1tf && !bugs.flush_l1d {
        return Err(EOPNOTSUPP);
    }
    let mut m = Mitigations::empty();
    m.set(Mitigations::L1D_FLUSH, l1tf);
    m.set(Mitigations::VERW, bugs.verw);
    m.set(Mitigations::RSB, bugs.rsb);
    m.set(Mitigations::BHB, bugs.bhb);
    m.set(Mitigations::IBPB, bugs.ibpb && !cpu::mitigations_off());
    m.set(Mitigations::IBRS, bugs.ibrs);
    Ok(m)
}

/// Empties the L1 data cache, in which a guest could read the host's data by L1TF.
pub(crate) fn flush_l1d() {
    // SAFETY: `choose` saw that the CPU has the MSR; the write is a command.
    unsafe { cpu::wrmsr(IA32_FLUSH_CMD, 1) };
}

/// Forgets the branch predictions that another micro-VM left.
pub(crate) fn barrier() {
    // SAFETY: As above.
    unsafe { cpu::wrmsr(IA32_PRED_CMD, 1) };
}
