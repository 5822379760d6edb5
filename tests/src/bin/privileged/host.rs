// SPDX-License-Identifier: GPL-2.0

//! What is looked at in the host before and after.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// MSRs of the host that a guest might have changed.
const MSRS: &[(&str, u64)] = &[
    ("STAR", 0xc000_0081),
    ("LSTAR", 0xc000_0082),
    ("CSTAR", 0xc000_0083),
    ("FMASK", 0xc000_0084),
    ("EFER", 0xc000_0080),
    ("PAT", 0x277),
    ("APIC_BASE", 0x1b),
    ("FEATURE_CONTROL", 0x3a),
    ("SYSENTER_CS", 0x174),
    ("SYSENTER_EIP", 0x176),
    ("SYSENTER_ESP", 0x175),
    ("DEBUGCTL", 0x1d9),
    ("MISC_ENABLE", 0x1a0),
    ("TSC_AUX", 0xc000_0103),
    ("GS_BASE", 0xc000_0101),
];

/// The MSRs of the first CPU, as many as can be read.
pub(crate) fn host_msrs() -> Result<Vec<(&'static str, u64)>, String> {
    let file = File::open("/dev/cpu/0/msr").map_err(|e| format!("/dev/cpu/0/msr: {e}"))?;
    let read = |&(name, number): &(&'static str, u64)| {
        let mut value = [0; 8];
        file.read_exact_at(&mut value, number).ok()?;
        Some((name, u64::from_le_bytes(value)))
    };
    Ok(MSRS.iter().filter_map(read).collect())
}

/// The kernel's messages of level warning and worse so far.
pub(crate) fn warnings() -> Result<Vec<String>, String> {
    let mut options = std::fs::OpenOptions::new();
    let mut log = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .map_err(|e| e.to_string())?;
    let mut lines = vec![];
    let mut record = [0; 8192];
    while let Ok(n) = log.read(&mut record) {
        let text = String::from_utf8_lossy(&record[..n]).into_owned();
        let level = text.split(',').next().and_then(|n| n.parse::<u32>().ok());
        if level.is_some_and(|level| level & 7 <= 4) {
            lines.push(text);
        }
    }
    Ok(lines)
}
