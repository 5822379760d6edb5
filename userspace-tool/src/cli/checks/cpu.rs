// SPDX-License-Identifier: GPL-2.0

//! What `uvctl doctor` says of the CPU: what it has, whether the firmware leaves it on, and what is done about its faults.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use uvisor::{Info, Mitigations};

use super::{Check, Level};
use crate::cli::info;

/// The words of the first line of `/proc/cpuinfo` with this name.
fn words<'a>(cpuinfo: &'a str, name: &str) -> Vec<&'a str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
    let value = line.and_then(|line| line.split(':').nth(1));
    value.map_or_else(Vec::new, |value| value.split_whitespace().collect())
}

/// Whether CPUID says that there is VT-x.
pub(super) fn cpuid_vmx() -> bool {
    // SAFETY: Every x86-64 CPU has CPUID and this leaf.
    let leaf = unsafe { std::arch::x86_64::__cpuid(1) };
    leaf.ecx & (1 << 5) != 0
}

/// Whether the machine is a virtual one.
pub(super) fn virtualised(cpuinfo: &str) -> bool {
    words(cpuinfo, "flags").contains(&"hypervisor")
}

pub(super) fn vtx(cpuinfo: &str, cpuid: bool, virtualised: bool) -> Check {
    let vendor = words(cpuinfo, "vendor_id").join(" ");
    let place = if virtualised { ", virtualised" } else { "" };
    let name = "VT-x";
    if cpuid {
        return Check::new(name, Level::Ok, format!("the CPU has it{place}"));
    }
    let check = Check::new(name, Level::Fail, format!("the CPU has none{place}"));
    match (vendor.as_str(), virtualised) {
        ("AuthenticAMD" | "HygonGenuine", false) => {
            check.advise("this is an AMD CPU; uvisor needs an Intel one")
        }
        (_, true) => check.advise(
            "turn on nested virtualisation in the hypervisor below (KVM: kvm_intel.nested=1 and \
             `-cpu host`), on an Intel machine",
        ),
        _ => check.advise("turn on Intel Virtualization Technology in the firmware's setup"),
    }
}

/// IA32_FEATURE_CONTROL, if it can be read.
pub(super) fn feature_control() -> Option<u64> {
    const IA32_FEATURE_CONTROL: u64 = 0x3a;
    let mut bytes = [0; 8];
    let file = File::open("/dev/cpu/0/msr").ok()?;
    file.read_exact_at(&mut bytes, IA32_FEATURE_CONTROL).ok()?;
    Some(u64::from_le_bytes(bytes))
}

pub(super) fn firmware(feature_control: Option<u64>) -> Option<Check> {
    let name = "firmware";
    let value = feature_control?;
    let (locked, enabled) = (value & 1 != 0, value & (1 << 2) != 0);
    Some(match (locked, enabled) {
        (_, true) => Check::new(name, Level::Ok, "it leaves VT-x on"),
        (true, false) => Check::new(name, Level::Fail, "it has locked VT-x off")
            .advise("turn on Intel Virtualization Technology in its setup, and power-cycle"),
        (false, false) => Check::new(name, Level::Ok, "it has not locked VT-x off"),
    })
}

pub(super) fn ept(cpuinfo: &str) -> Check {
    let name = "EPT";
    let flags = words(cpuinfo, "vmx flags");
    if flags.is_empty() {
        return Check::new(name, Level::Warn, "the kernel does not say")
            .advise("load the module; `dmesg` says if something is missing");
    }
    let missing: Vec<&str> = ["ept", "vpid", "preemption_timer", "ept_ad", "ept_x_only"]
        .into_iter()
        .filter(|flag| !flags.contains(flag))
        .collect();
    match missing.as_slice() {
        [] => Check::new(
            name,
            Level::Ok,
            "with VPID, timer, A/D bits and execute-only",
        ),
        list if list.contains(&"ept") => Check::new(name, Level::Fail, "the CPU has none")
            .advise("a CPU of 2010 or later is needed"),
        list => Check::new(name, Level::Warn, format!("without {}", list.join(", "))),
    }
}

pub(super) fn fred(cpuinfo: &str) -> Check {
    let name = "FRED";
    match words(cpuinfo, "flags").contains(&"fred") {
        false => Check::new(name, Level::Ok, "not in use"),
        true => Check::new(name, Level::Fail, "in use; uvisor does not know it yet")
            .advise("boot with fred=off"),
    }
}

/// The kernel's word on each CPU vulnerability.
pub(super) fn read_vulnerabilities() -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else {
        return Vec::new();
    };
    let mut list: Vec<(String, String)> = entries
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path()).ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Some((name, text.trim().to_owned()))
        })
        .collect();
    list.sort();
    list
}

pub(super) fn vulnerabilities(list: &[(String, String)], info: Option<&Info>) -> Check {
    let name = "mitigations";
    let done = info.map(|info| Mitigations::from_bits_truncate(info.mitigations));
    // What an untrusted guest could use, and what the module does about it at each entry and exit.
    let ours = |name: &str| match name {
        "l1tf" => Some(Mitigations::L1D_FLUSH),
        "mds" | "tsx_async_abort" | "mmio_stale_data" => Some(Mitigations::VERW),
        "spectre_v2" => Some(Mitigations::IBPB),
        _ => None,
    };
    let open: Vec<&str> = list
        .iter()
        .filter(|(name, state)| {
            let affected = !state.starts_with("Not affected");
            let vulnerable = state.starts_with("Vulnerable");
            match (ours(name), done) {
                (Some(ours), Some(done)) => affected && !done.contains(ours),
                _ => vulnerable,
            }
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let applied = match info.map(info::mitigations) {
        None => "as the kernel says".to_owned(),
        Some(names) if names.is_empty() => "none are needed".to_owned(),
        Some(names) => names.join(", "),
    };
    match open.as_slice() {
        [] if list.is_empty() => Check::new(name, Level::Warn, "the kernel does not say"),
        [] => Check::new(name, Level::Ok, applied),
        open => Check::new(name, Level::Warn, format!("open: {}", open.join(", ")))
            .advise("update the microcode, and boot without mitigations=off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mitigations_are_compared_with_the_modules() {
        let list = |state: &str| vec![("mds".to_owned(), state.to_owned())];
        let mut info = Info::new();
        let level = |state, info: &Info| vulnerabilities(&list(state), Some(info)).level;
        assert_eq!(level("Not affected", &info), Level::Ok);
        assert_eq!(level("Mitigation: Clear CPU buffers", &info), Level::Warn);
        info.mitigations = Mitigations::VERW.bits();
        assert_eq!(level("Mitigation: Clear CPU buffers", &info), Level::Ok);
        assert_eq!(
            vulnerabilities(&list("Vulnerable"), None).level,
            Level::Warn
        );
    }
}
