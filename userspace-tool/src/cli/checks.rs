// SPDX-License-Identifier: GPL-2.0

//! What `uvctl doctor` looks at.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use uvisor::{Device, Error, Features, Info, Mitigations};

use super::info;

/// How good what was found is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Micro-VMs run, with less speed, or safety, or comfort.
    Warn,
    /// Micro-VMs cannot run.
    Fail,
}

impl Level {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }

    /// Its colour, as an SGR code.
    pub(crate) fn colour(self) -> u8 {
        match self {
            Self::Ok => 32,
            Self::Warn => 33,
            Self::Fail => 31,
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    pub(crate) found: String,
    pub(crate) advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, level: Level, found: impl Into<String>) -> Self {
        Self {
            name,
            level,
            found: found.into(),
            advice: None,
        }
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// Looks at everything.
pub(crate) fn all() -> Vec<Check> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let device = Device::open();
    let info = device.as_ref().ok().and_then(|device| device.info().ok());
    let mut checks = vec![vtx(&cpuinfo, cpuid_vmx(), virtualised(&cpuinfo))];
    checks.extend(firmware(feature_control()));
    checks.push(ept(&cpuinfo));
    checks.push(fred(&cpuinfo));
    let loaded = Path::new("/sys/module/uvisor").exists() || device.is_ok();
    checks.push(kernel_rust(loaded, config().as_deref()));
    checks.push(lockdown(
        fs::read_to_string("/sys/kernel/security/lockdown")
            .ok()
            .as_deref(),
        secure_boot(),
    ));
    checks.push(kvm(
        Path::new("/sys/module/kvm_intel").exists(),
        Path::new("/dev/kvm").exists(),
    ));
    checks.push(module(loaded));
    checks.push(node(device.as_ref().err(), device_group().as_deref()));
    checks.push(paths_of_sockets());
    checks.push(sandbox(super::trial::lacks()));
    checks.extend(info.as_ref().map(speed));
    checks.push(cgroup(super::cgroup::missing()));
    checks.push(vulnerabilities(&read_vulnerabilities(), info.as_ref()));
    checks
}

/// The words of the first line of `/proc/cpuinfo` with this name.
fn words<'a>(cpuinfo: &'a str, name: &str) -> Vec<&'a str> {
    let line = cpuinfo
        .lines()
        .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
    let value = line.and_then(|line| line.split(':').nth(1));
    value.map_or_else(Vec::new, |value| value.split_whitespace().collect())
}

/// Whether CPUID says that there is VT-x.
fn cpuid_vmx() -> bool {
    // SAFETY: Every x86-64 CPU has CPUID and this leaf.
    let leaf = unsafe { std::arch::x86_64::__cpuid(1) };
    leaf.ecx & (1 << 5) != 0
}

/// Whether the machine is a virtual one.
fn virtualised(cpuinfo: &str) -> bool {
    words(cpuinfo, "flags").contains(&"hypervisor")
}

fn vtx(cpuinfo: &str, cpuid: bool, virtualised: bool) -> Check {
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
fn feature_control() -> Option<u64> {
    const IA32_FEATURE_CONTROL: u64 = 0x3a;
    let mut bytes = [0; 8];
    let file = File::open("/dev/cpu/0/msr").ok()?;
    file.read_exact_at(&mut bytes, IA32_FEATURE_CONTROL).ok()?;
    Some(u64::from_le_bytes(bytes))
}

fn firmware(feature_control: Option<u64>) -> Option<Check> {
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

fn ept(cpuinfo: &str) -> Check {
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

fn fred(cpuinfo: &str) -> Check {
    let name = "FRED";
    match words(cpuinfo, "flags").contains(&"fred") {
        false => Check::new(name, Level::Ok, "not in use"),
        true => Check::new(name, Level::Fail, "in use; uvisor does not know it yet")
            .advise("boot with fred=off"),
    }
}

/// The kernel's configuration, if it can be read.
fn config() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    if let Ok(text) = fs::read_to_string(format!("/boot/config-{}", release.trim())) {
        return Some(text);
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(File::open("/proc/config.gz").ok()?)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

fn kernel_rust(loaded: bool, config: Option<&str>) -> Check {
    let name = "kernel";
    if loaded {
        return Check::new(name, Level::Ok, "it has loaded the module");
    }
    match config.map(|config| config.lines().any(|line| line == "CONFIG_RUST=y")) {
        Some(true) => Check::new(name, Level::Ok, "built with support for Rust"),
        Some(false) => Check::new(name, Level::Fail, "built without support for Rust")
            .advise("run a kernel with CONFIG_RUST=y, such as Debian's 7.3"),
        None => Check::new(name, Level::Warn, "its configuration cannot be read")
            .advise("it needs CONFIG_RUST=y"),
    }
}

fn cgroup(missing: Option<String>) -> Check {
    let name = "cgroup";
    match missing {
        None => Check::new(
            name,
            Level::Ok,
            "--memory and --cpu count all that a task holds and uses",
        ),
        Some(why) => Check::new(name, Level::Warn, why).advise(
            "--memory then counts what micro-VMs hold, but no memory files and sockets' buffers, and --cpu counts each \
             process alone; --require fails with limits; run uvctl in a cgroup of its own, as `systemd-run --scope -p Delegate=yes` makes one",
        ),
    }
}

/// Whether Secure Boot is on, where the firmware tells.
fn secure_boot() -> Option<bool> {
    let path = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    fs::read(path).ok()?.get(4).map(|&value| value == 1)
}

fn lockdown(lockdown: Option<&str>, secure_boot: Option<bool>) -> Check {
    let name = "lockdown";
    // The mode in force is in brackets.
    let mode = lockdown
        .and_then(|text| text.split('[').nth(1))
        .and_then(|text| text.split(']').next())
        .unwrap_or("none");
    let boot = match secure_boot {
        Some(true) => "Secure Boot on",
        Some(false) => "Secure Boot off",
        None => "no Secure Boot",
    };
    let found = format!("{mode}; {boot}");
    match mode {
        "none" => Check::new(name, Level::Ok, found),
        _ => Check::new(name, Level::Warn, found).advise(
            "only signed modules load: sign uvisor.ko with a key that the firmware knows \
             (mokutil), or turn Secure Boot off",
        ),
    }
}

fn kvm(loaded: bool, node: bool) -> Check {
    let found = match (loaded, node) {
        (true, _) => "kvm_intel is loaded; micro-VMs and KVM guests run side by side",
        (false, true) => "another KVM module is loaded",
        (false, false) => "not loaded; it is not needed",
    };
    Check::new("KVM", Level::Ok, found)
}

fn module(loaded: bool) -> Check {
    match loaded {
        true => Check::new("module", Level::Ok, "loaded"),
        false => Check::new("module", Level::Fail, "not loaded")
            .advise("insmod uvisor.ko; if that is refused, `dmesg` says why"),
    }
}

/// The group that may use the device, if it is another one than root's: by its name, or its number.
fn device_group() -> Option<String> {
    let metadata = fs::metadata(uvisor::DEVICE).ok()?;
    let may = metadata.mode() & 0o060 == 0o060 && metadata.gid() != 0;
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    may.then(|| group_name(&groups, metadata.gid()))
}

/// What a group is called in the text of `/etc/group`.
fn group_name(groups: &str, gid: u32) -> String {
    let number = gid.to_string();
    let mut lines = groups.lines().map(|line| line.split(':'));
    let found = lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1) == Some(&number)).then(|| name.to_owned())
    });
    found.unwrap_or(number)
}

/// What who may not open the device can do.
fn advice_to_open(group: Option<&str>) -> String {
    match group {
        Some(group) => format!(
            "join the group that may: `usermod -aG {group} \"$USER\"` as root, and log in anew"
        ),
        None => "run as root; or have root let a group use it: `groupadd -r uvisor`, \
                 scripts/60-uvisor.rules into /etc/udev/rules.d, `udevadm control --reload`, \
                 `udevadm trigger /dev/uvisor`, `usermod -aG uvisor \"$USER\"`"
            .into(),
    }
}

/// Whether tasks can have Unix sockets with paths.
fn paths_of_sockets() -> Check {
    let name = "Unix sockets";
    match uvisor::keeps_socket_paths_apart() {
        true => Check::new(name, Level::Ok, "with paths as well, by Landlock"),
        false => Check::new(name, Level::Warn, "with paths there are none for tasks")
            .advise("boot with Landlock (lsm=landlock,...), as of Linux 7.1"),
    }
}

/// Whether the process that serves a task confines itself with all that there is for it.
fn sandbox(lacks: Result<Vec<String>, String>) -> Check {
    let name = "sandbox";
    let all = "a root, no capabilities, Landlock, a filter of system calls";
    let check = match lacks {
        Ok(lacks) if lacks.is_empty() => return Check::new(name, Level::Ok, all),
        Ok(lacks) => Check::new(name, Level::Warn, lacks.join("; ")),
        // Then no task runs.
        Err(why) => Check::new(name, Level::Fail, why),
    };
    check.advise(
        "a task has but one wall then; `uvctl run --require` refuses that. User namespaces and Landlock are the \
         kernel's to give (kernel.unprivileged_userns_clone, lsm=landlock,...)",
    )
}

fn node(error: Option<&Error>, owner: Option<&str>) -> Check {
    let name = "device";
    match error {
        None => Check::new(name, Level::Ok, format!("{} can be opened", uvisor::DEVICE)),
        Some(Error::NoDevice) => {
            Check::new(name, Level::Fail, format!("there is no {}", uvisor::DEVICE))
                .advise("it comes with the module")
        }
        Some(Error::NoPermission) => Check::new(
            name,
            Level::Fail,
            format!("no permission to open {}", uvisor::DEVICE),
        )
        .advise(advice_to_open(owner)),
        Some(error) => Check::new(name, Level::Fail, error.to_string()),
    }
}

fn speed(info: &Info) -> Check {
    let name = "features";
    let set = Features::from_bits_truncate(info.features);
    let wanted = [
        (Features::VPID, "VPID"),
        (Features::EPT_2M, "2 MiB pages"),
        (Features::VMFUNC, "VMFUNC"),
        (Features::EXEC_ONLY, "execute-only pages"),
    ];
    let missing: Vec<&str> = wanted
        .into_iter()
        .filter(|(flag, _)| !set.contains(*flag))
        .map(|(_, name)| name)
        .collect();
    match missing.as_slice() {
        [] => Check::new(name, Level::Ok, info::features(info).join(", ")),
        list => Check::new(name, Level::Warn, format!("without {}", list.join(", ")))
            .advise("micro-VMs run, slower or with fewer kinds of permission"),
    }
}

/// The kernel's word on each CPU vulnerability.
fn read_vulnerabilities() -> Vec<(String, String)> {
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

fn vulnerabilities(list: &[(String, String)], info: Option<&Info>) -> Check {
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

    const CPUINFO: &str = "vendor_id\t: GenuineIntel\nflags\t\t: fpu vmx hypervisor\n\
        vmx flags\t: vnmi preemption_timer ept_x_only ept_ad ept vpid\n";

    #[test]
    fn a_good_machine() {
        assert_eq!(vtx(CPUINFO, true, true).level, Level::Ok);
        assert_eq!(ept(CPUINFO).level, Level::Ok);
        assert_eq!(fred(CPUINFO).level, Level::Ok);
        assert_eq!(firmware(Some(5)).unwrap().level, Level::Ok);
        assert_eq!(
            kernel_rust(false, Some("A=y\nCONFIG_RUST=y\n")).level,
            Level::Ok
        );
        assert_eq!(lockdown(Some("[none] integrity"), None).level, Level::Ok);
        assert_eq!(node(None, None).level, Level::Ok);
        assert!(virtualised(CPUINFO));
    }

    #[test]
    fn what_is_missing_comes_with_advice() {
        let amd = "vendor_id : AuthenticAMD\nflags : fpu svm\n";
        for check in [
            vtx(amd, false, false),
            vtx(amd, false, true),
            firmware(Some(1)).unwrap(),
            fred("flags : fred\n"),
            kernel_rust(false, Some("# CONFIG_RUST is not set\n")),
            module(false),
            node(Some(&Error::NoDevice), None),
            node(Some(&Error::NoPermission), None),
            node(Some(&Error::NoPermission), Some("uvisor")),
            ept("vmx flags : vpid\n"),
        ] {
            assert_eq!(check.level, Level::Fail, "{check:?}");
            assert!(check.advice.is_some(), "{check:?}");
        }
        assert_eq!(
            lockdown(Some("none [integrity]"), Some(true)).level,
            Level::Warn
        );
        assert_eq!(firmware(None), None);
    }

    #[test]
    fn who_may_not_open_the_device_is_told_what_to_do() {
        let groups = "root:x:0:\nkvm:x:104:me\nuvisor:x:998:\n";
        assert_eq!(group_name(groups, 998), "uvisor");
        assert_eq!(group_name(groups, 99), "99");
        assert_eq!(group_name("nonsense\n::\n", 0), "0");
        assert!(advice_to_open(Some("kvm")).contains("usermod -aG kvm"));
        assert!(advice_to_open(None).contains("60-uvisor.rules"));
    }

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
