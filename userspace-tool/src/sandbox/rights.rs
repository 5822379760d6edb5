// SPDX-License-Identifier: GPL-2.0

//! Rights that the broker gives up: capabilities, and what is left to use up of some resources.
//!
//! It stays dumpable: a process that is not has no `/proc` of its own that an unprivileged one may open, and the
//! brokers of one task look at each other there. Others are kept from its memory as from any process of its user's.

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use rustix::thread::{
    capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_capabilities_secure_bits, set_no_new_privs, CapabilitiesSecureBits,
    CapabilitySet, CapabilitySets,
};
use thiserror::Error;

use crate::errno::Errno;
use crate::profile::LimitRules;

/// Which step failed.
#[derive(Debug, Error)]
#[error("{step}: {source}")]
pub struct RightsError {
    step: &'static str,
    source: Errno,
}

/// Names the step that a result is of.
fn during<T>(step: &'static str, result: rustix::io::Result<T>) -> Result<T, RightsError> {
    result.map_err(|errno| RightsError {
        step,
        source: errno.into(),
    })
}

/// Sets the limits that are the kernel's to enforce: the time of CPUs. Core files the broker forgoes by itself, and
/// shows its guest the limit that there was. Descriptors are not limited here, as the broker has its own above those of the guest.
pub fn limit(limits: &LimitRules) -> Result<(), RightsError> {
    let Some(time) = limits.cpu else {
        return Ok(());
    };
    let now = getrlimit(Resource::Cpu);
    // The kernel counts whole seconds. At the first limit the task gets a signal, at the second one it ends.
    let soft = time.as_secs() + u64::from(time.subsec_nanos() != 0);
    let lower = |now: Option<u64>, new: u64| Some(now.map_or(new, |now| now.min(new)));
    let maximum = lower(now.maximum, soft.saturating_add(1));
    let new = Rlimit {
        current: lower(lower(now.current, soft), maximum.unwrap_or(soft)),
        maximum,
    };
    during("limiting the CPU's time", setrlimit(Resource::Cpu, new))
}

/// Gives all capabilities up, in a way that none comes back; user 0 stays user 0.
pub fn drop_all() -> Result<(), RightsError> {
    during("forgoing new privileges", set_no_new_privs(true))?;
    let sets = during("reading the capabilities", capabilities(None))?;
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        // Without that capability there is no way to raise one either, so these are for who has it.
        during(
            "locking the secure bits",
            set_capabilities_secure_bits(LOCKED),
        )?;
        for bit in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            match remove_capability_from_bounding_set(one) {
                // The kernel's last one was before.
                Err(rustix::io::Errno::INVAL) => break,
                result => during("emptying the bounding set", result)?,
            }
        }
    }
    during("emptying the ambient set", clear_ambient_capability_set())?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    during("dropping the capabilities", set_capabilities(None, none))
}

/// User 0 gets nothing for being that, whatever it executes or becomes, and nobody changes that.
const LOCKED: CapabilitiesSecureBits = CapabilitiesSecureBits::NO_ROOT
    .union(CapabilitiesSecureBits::NO_ROOT_LOCKED)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP)
    .union(CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED)
    .union(CapabilitiesSecureBits::KEEP_CAPS_LOCKED)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE)
    .union(CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED);
