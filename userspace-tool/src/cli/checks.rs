// SPDX-License-Identifier: GPL-2.0

//! What `uvctl doctor` looks at.

mod cpu;

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use uvisor::{Device, Error, Features, Info};

use super::info;
use cpu::{
    cpuid_vmx, ept, feature_control, firmware, fred, read_vulnerabilities, virtualised, vtx,
    vulnerabilities,
};

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
}
