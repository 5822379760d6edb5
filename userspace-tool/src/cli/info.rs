// SPDX-License-Identifier: GPL-2.0

//! `uvctl info`.

use serde_json::json;
use uvisor::{Device, Features, Info, Mitigations};

use super::Output;

/// The names of features, in the order of their bits.
const FEATURES: [(Features, &str); 9] = [
    (Features::EXEC_ONLY, "execute-only pages"),
    (Features::EPT_2M, "2 MiB pages in EPT"),
    (Features::EPT_1G, "1 GiB pages in EPT"),
    (Features::EPT_AD, "accessed and dirty bits in EPT"),
    (Features::VMFUNC, "views switched by VMFUNC"),
    (Features::VPID, "tagged translations (VPID)"),
    (Features::PREEMPTION_TIMER, "VMX-preemption timer"),
    (Features::BORROWED, "VMX shared with another hypervisor"),
    (Features::GUEST_1G, "1 GiB pages"),
];

/// The names of mitigations, in the order of their bits.
const MITIGATIONS: [(Mitigations, &str); 6] = [
    (Mitigations::L1D_FLUSH, "L1 data cache flush"),
    (Mitigations::VERW, "CPU buffer clearing (VERW)"),
    (Mitigations::RSB, "return stack buffer filling"),
    (Mitigations::BHB, "branch history clearing"),
    (Mitigations::IBPB, "branch prediction barrier (IBPB)"),
    (Mitigations::IBRS, "IBRS"),
];

/// The features in `info`.
pub(crate) fn features(info: &Info) -> Vec<&'static str> {
    let set = Features::from_bits_truncate(info.features);
    let has = FEATURES.into_iter().filter(|(flag, _)| set.contains(*flag));
    has.map(|(_, name)| name).collect()
}

/// The mitigations in `info`.
pub(crate) fn mitigations(info: &Info) -> Vec<&'static str> {
    let set = Mitigations::from_bits_truncate(info.mitigations);
    let has = MITIGATIONS
        .into_iter()
        .filter(|(flag, _)| set.contains(*flag));
    has.map(|(_, name)| name).collect()
}

/// Prints what the module offers.
pub(crate) fn main(output: Output) -> Result<(), String> {
    let info = Device::open()
        .and_then(|device| device.info())
        .map_err(|error| error.to_string())?;
    if output.json {
        let value = json!({
            "abi_version": info.abi_version,
            "gpa_bits": info.gpa_bits,
            "features": features(&info),
            "mitigations": mitigations(&info),
            "max_vcpus": info.max_vcpus,
            "max_regions": info.max_regions,
            "vms": info.vms,
            "memory": info.memory,
            "xcr0": info.xcr0,
            "tsc_khz": info.tsc_khz,
        });
        println!("{value:#}");
        return Ok(());
    }
    let list = |names: Vec<&str>| match names.as_slice() {
        [] => "none".to_owned(),
        names => names.join(", "),
    };
    for (name, value) in [
        ("interface version", info.abi_version.to_string()),
        ("address bits", info.gpa_bits.to_string()),
        ("features", list(features(&info))),
        ("mitigations", list(mitigations(&info))),
        ("vCPUs per micro-VM", info.max_vcpus.to_string()),
        ("regions per micro-VM", info.max_regions.to_string()),
        ("micro-VMs now", info.vms.to_string()),
        ("memory now", format!("{} bytes", info.memory)),
        ("extended state", format!("{:#x}", info.xcr0)),
        ("TSC", format!("{} kHz", info.tsc_khz)),
    ] {
        println!("{name:<21} {value}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_has_a_name() {
        let info = Info {
            features: Features::all().bits(),
            mitigations: Mitigations::all().bits(),
            ..Info::new()
        };
        assert_eq!(features(&info).len() as u32, info.features.count_ones());
        assert_eq!(
            mitigations(&info).len() as u32,
            info.mitigations.count_ones()
        );
    }
}
