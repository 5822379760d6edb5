// SPDX-License-Identifier: GPL-2.0

//! A Landlock domain: the rules about files by the files' own identities, whatever becomes of mounts, ports, and
//! signals and sockets for the task's own processes only.
//!
//! Where it knows sockets with paths, the personality needs no domain of its own for them.
//! A domain can only give, so what is closed below something open is so by the root alone.

use std::fs::OpenOptions;
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use landlock::{
    Access, AccessFs, AccessNet, BitFlags, LandlockStatus, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope, ABI,
};
use rustix::fs::{fcntl_getfl, OFlags};

use super::devices::describe;
use super::mount::kind;
use super::Sockets;
use crate::profile::{Device, FileAccess, NetworkRules, Protocol, Rules, Write};

/// The newest version of the interface that this knows.
pub(super) const NEWEST: ABI = ABI::V10;

/// The first version that knows sockets with paths.
pub const WITH_SOCKET_PATHS: i32 = 9;

/// More ports than these are not listed one by one.
const PORTS: usize = 1024;

/// What is in force.
#[derive(Debug)]
pub struct Entered {
    /// The version of the interface that is used; none if there is no domain.
    pub version: Option<i32>,
    /// What the kernel lacks.
    pub lacks: Vec<String>,
}

/// What the versions of the interface brought that matters here.
const VERSIONS: [(ABI, &str); 7] = [
    (ABI::V2, "renaming between directories"),
    (ABI::V3, "truncating files"),
    (ABI::V4, "TCP ports"),
    (ABI::V5, "requests to devices"),
    (ABI::V6, "signals and abstract sockets"),
    (ABI::V9, "sockets with paths"),
    (ABI::V10, "UDP ports"),
];

/// What may be done with files that are only read.
fn reading(execute: bool) -> BitFlags<AccessFs> {
    let mut access = AccessFs::ReadFile | AccessFs::ReadDir;
    if execute {
        access |= AccessFs::Execute;
    }
    access
}

/// What may be done with files that may be changed: anything but to make devices, and to reach sockets that are not
/// the task's own.
fn changing() -> BitFlags<AccessFs> {
    let not = AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev | AccessFs::ResolveUnix;
    AccessFs::from_write(NEWEST) & !not
}

/// What may be done with a device.
fn device(device: Device, jit: bool) -> BitFlags<AccessFs> {
    let both = AccessFs::ReadFile | AccessFs::WriteFile;
    match device {
        Device::Null | Device::Zero | Device::Full | Device::Random | Device::Urandom => both,
        Device::Tty => both | AccessFs::IoctlDev,
        Device::Pts => both | AccessFs::IoctlDev | AccessFs::ReadDir,
        Device::Shm => reading(FileAccess::Tmpfs.executes(jit)) | changing(),
    }
}

/// The rules about a path.
fn file(access: FileAccess, jit: bool) -> Option<BitFlags<AccessFs>> {
    let reading = reading(access.executes(jit));
    match access {
        FileAccess::Hidden => None,
        FileAccess::Host {
            write: Write::No, ..
        } => Some(reading),
        FileAccess::Tmpfs
        | FileAccess::Host {
            write: Write::Overlay | Write::Through,
            ..
        } => Some(reading | changing()),
    }
}

/// Opens a path without using it, if it is there.
fn handle(path: &Path) -> Option<OwnedFd> {
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.ok().map(OwnedFd::from)
}

/// Allows something to be done with a file, or with a directory and all below.
fn allow(
    ruleset: RulesetCreated,
    file: BorrowedFd<'_>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let access = match kind(file) {
        Ok((libc::S_IFDIR, _)) => access,
        _ => access & AccessFs::from_file(NEWEST),
    };
    ruleset.add_rule(PathBeneath::new(file, access))
}

/// What the task was started with may be opened once more by its descriptor's name, in the way in which it is open.
fn inherited(file: BorrowedFd<'_>) -> Option<BitFlags<AccessFs>> {
    let (kind, _) = kind(file).ok()?;
    if !matches!(kind, libc::S_IFREG | libc::S_IFCHR) {
        // Pipes and sockets are not in any directory, and a directory would be more than what is open.
        return None;
    }
    let flags = fcntl_getfl(file).ok()?;
    let write = AccessFs::WriteFile | AccessFs::Truncate;
    let access = match flags & OFlags::RWMODE {
        OFlags::RDONLY => AccessFs::ReadFile.into(),
        OFlags::WRONLY => write,
        _ => write | AccessFs::ReadFile,
    };
    Some(match file.is_terminal() {
        true => access | AccessFs::IoctlDev,
        false => access,
    })
}

/// The ports that rules allow in one direction; none if they are too many, and with them all of them.
fn ports(network: &NetworkRules, protocol: Protocol, listen: bool) -> Option<Vec<u16>> {
    let mut ports = Vec::new();
    let NetworkRules::Only(rules) = network else {
        return Some(ports);
    };
    let rules = rules.iter();
    for rule in rules.filter(|rule| rule.protocol == protocol && rule.listen == listen) {
        let (from, to) = rule.ports;
        if usize::from(to.saturating_sub(from)) + ports.len() >= PORTS {
            return None;
        }
        ports.extend(from..=to);
    }
    Some(ports)
}

/// What is handled of networks, with the ports that are allowed; what has too many is told in `open`.
fn network(
    rules: &NetworkRules,
    sockets: Sockets,
    open: &mut Vec<String>,
) -> Vec<(AccessNet, Vec<u16>)> {
    // A port is one of any network's, so those of the loopback of the task's own cannot be told from the host's.
    let whole = match rules {
        NetworkRules::None => sockets != Sockets::None,
        NetworkRules::Host => true,
        NetworkRules::Only(_) => false,
    };
    if whole {
        return Vec::new();
    }
    // Binding is how a socket of UDP gets answers, so that is not refused.
    let accesses = [
        (AccessNet::BindTcp, Protocol::Tcp, true),
        (AccessNet::ConnectTcp, Protocol::Tcp, false),
        (AccessNet::ConnectSendUdp, Protocol::Udp, false),
    ];
    let mut handled = Vec::new();
    for (access, protocol, listen) in accesses {
        match ports(rules, protocol, listen) {
            Some(ports) => handled.push((access, ports)),
            None => open.push(format!(
                "rules for more than {PORTS} ports, so all are open ({access:?})"
            )),
        }
    }
    handled
}

/// Enters the domain. With a root of its own, all directories may be listed, as there is nothing in them but what
/// the task may see, and the names on the way to that.
pub fn enter(rules: &Rules, sockets: Sockets, has_root: bool) -> Result<Entered, RulesetError> {
    let mut lacks = Vec::new();
    let network = network(&rules.network, sockets, &mut lacks);
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    for (access, _) in &network {
        ruleset = ruleset.handle_access(*access)?;
    }
    let mut ruleset = ruleset.create()?;
    let mut paths = vec![(Path::new("/proc"), reading(false))];
    if has_root {
        paths.push((Path::new("/"), AccessFs::ReadDir.into()));
    }
    for (path, rule) in &rules.files.0 {
        if rule.access == FileAccess::Tmpfs && !has_root {
            // What is there is the host's.
            continue;
        }
        paths.extend(file(rule.access, rules.jit).map(|access| (path.as_path(), access)));
    }
    for one in &rules.devices {
        if matches!(one, Device::Pts | Device::Shm) && !has_root {
            continue;
        }
        paths.push((Path::new(describe(*one).0), device(*one, rules.jit)));
        if *one == Device::Pts {
            // Where this is no link into the directory.
            paths.push((Path::new("/dev/ptmx"), device(*one, rules.jit)));
        }
    }
    for (path, access) in paths {
        if let Some(file) = handle(path) {
            ruleset = allow(ruleset, file.as_fd(), access)?;
        }
    }
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for file in [input.as_fd(), output.as_fd(), errors.as_fd()] {
        if let Some(access) = inherited(file) {
            ruleset = allow(ruleset, file, access)?;
        }
    }
    for (access, ports) in network {
        for port in ports {
            ruleset = ruleset.add_rule(NetPort::new(port, access))?;
        }
    }
    // What is refused is not noted in the machine's log, which a task could fill.
    let status = ruleset.log_same_exec(false)?.restrict_self()?;
    let version = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => {
            let newer = VERSIONS
                .iter()
                .filter(|(version, _)| *version > effective_abi);
            lacks.extend(newer.map(|(version, what)| {
                format!("{what} (version {} of Landlock)", *version as i32)
            }));
            Some(effective_abi as i32)
        }
        LandlockStatus::NotEnabled => {
            lacks.push("Landlock is not enabled in this kernel".to_owned());
            None
        }
        LandlockStatus::NotImplemented => {
            lacks.push("this kernel is built without Landlock".to_owned());
            None
        }
    };
    Ok(Entered { version, lacks })
}
