// SPDX-License-Identifier: GPL-2.0

//! Names that mean something to who looks for an attack: where secrets are, where a program would stay, and which
//! system calls lead out of a sandbox.

/// Directories and files that are secrets wherever they are.
const SECRET_NAMES: &[&str] = &[
    ".aws",
    ".azure",
    ".bash_history",
    ".docker",
    ".env",
    ".git-credentials",
    ".gnupg",
    ".kube",
    ".local/share/keyrings",
    ".mozilla",
    ".netrc",
    ".npmrc",
    ".password-store",
    ".pgpass",
    ".pypirc",
    ".ssh",
    ".zsh_history",
    "gcloud",
    "google-chrome",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
];

/// Places with secrets of the machine's, and all below.
const SECRET_PLACES: &[&str] = &[
    "/dev/kmem",
    "/dev/kmsg",
    "/dev/mem",
    "/dev/port",
    "/etc/gshadow",
    "/etc/shadow",
    "/etc/ssh",
    "/etc/ssl/private",
    "/etc/sudoers",
    "/etc/sudoers.d",
    "/proc/kallsyms",
    "/proc/kcore",
    "/run/docker.sock",
    "/run/secrets",
    "/var/run/docker.sock",
    "/var/run/secrets",
];

/// What others have in `/proc/PID`.
const SECRET_OF_PROCESSES: &[&str] = &["environ", "maps", "mem", "root"];

/// Names of what is run later, without being asked for.
const LASTING_NAMES: &[&str] = &[
    ".bash_login",
    ".bash_logout",
    ".bash_profile",
    ".bashrc",
    ".config/autostart",
    ".config/systemd",
    ".git/hooks",
    ".profile",
    ".ssh",
    ".zshenv",
    ".zshrc",
];

/// Places of programs, and of what starts them.
const LASTING_PLACES: &[&str] = &[
    "/bin",
    "/boot",
    "/etc",
    "/lib",
    "/lib64",
    "/sbin",
    "/usr",
    "/var/spool/cron",
];

/// System calls with which programs get out of what confines them, and which few others need.
const LEADING_OUT: &[&str] = &[
    "add_key",
    "bpf",
    "chroot",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "name_to_handle_at",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "reboot",
    "request_key",
    "setns",
    "swapoff",
    "swapon",
    "umount2",
    "unshare",
    "userfaultfd",
];

/// Sockets that the C library looks for by itself.
const CUSTOMARY_SOCKETS: &[&str] = &[
    "/dev/log",
    "/run/nscd/socket",
    "/run/systemd/userdb",
    "/var/run/nscd/socket",
];

/// Whether a path is a place, or below it.
fn below(path: &str, place: &str) -> bool {
    path.strip_prefix(place)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether names, such as `.config/systemd`, are there as a whole in a path.
fn has(path: &str, names: &str) -> bool {
    path.match_indices(names).any(|(at, _)| {
        let before = path[..at].chars().next_back();
        let after = path[at + names.len()..].chars().next();
        before.is_none_or(|letter| letter == '/') && after.is_none_or(|letter| letter == '/')
    })
}

/// Whether there are secrets.
pub(super) fn is_secret(path: &str) -> bool {
    let of_process = path
        .strip_prefix("/proc/")
        .and_then(|rest| rest.split_once('/'))
        .filter(|(pid, _)| pid.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|(_, rest)| rest.split('/').next())
        .is_some_and(|name| SECRET_OF_PROCESSES.contains(&name));
    of_process
        || SECRET_PLACES.iter().any(|place| below(path, place))
        || SECRET_NAMES.iter().any(|names| has(path, names))
}

/// Whether what is there is run later by others.
pub(super) fn is_lasting(path: &str) -> bool {
    LASTING_PLACES.iter().any(|place| below(path, place))
        || LASTING_NAMES.iter().any(|names| has(path, names))
}

/// Whether an attempt there tells something, whatever it failed for.
pub(super) fn is_telling(path: &str) -> bool {
    is_secret(path) || is_lasting(path)
}

/// Whether a system call leads out.
pub(super) fn leads_out(name: &str) -> bool {
    LEADING_OUT.contains(&name)
}

/// Whether ordinary programs try to connect there.
pub(super) fn is_customary(address: &str) -> bool {
    CUSTOMARY_SOCKETS.iter().any(|place| below(address, place))
}

/// Whether an address is the machine's own: on its loopback, or none of a network.
pub(super) fn is_own(address: &str, protocol: &str) -> bool {
    if protocol == "unix" {
        return true;
    }
    let address = match address.parse::<std::net::SocketAddr>() {
        Ok(address) => address.ip(),
        Err(_) => return false,
    };
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_by_whole_names() {
        for path in [
            "/root/.ssh/id_ed25519",
            "/home/u/.ssh",
            "/etc/shadow",
            "/proc/12/environ",
            "/home/u/.config/gcloud/x",
        ] {
            assert!(is_secret(path), "{path}");
        }
        for path in [
            "/root/x.ssh/a",
            "/etc/shadowed",
            "/proc/self/maps",
            "/proc/12/status",
            "",
            "/",
        ] {
            assert!(!is_secret(path), "{path}");
        }
        assert!(is_lasting("/etc/cron.d/job") && is_lasting("/home/u/.bashrc"));
        assert!(is_lasting("/home/u/.config/systemd/user/x.service"));
        assert!(!is_lasting("/tmp/etc/x") && !is_lasting("/home/u/x.bashrc"));
    }

    #[test]
    fn addresses_of_the_machine_are_its_own() {
        assert!(is_own("127.0.0.1:80", "tcp") && is_own("[::1]:80", "udp"));
        assert!(is_own("[::ffff:127.0.0.1]:80", "tcp") && is_own("/run/x", "unix"));
        assert!(!is_own("192.0.2.1:443", "tcp") && !is_own("what", "tcp"));
        assert!(is_customary("/var/run/nscd/socket") && !is_customary("/run/docker.sock"));
    }

    #[test]
    fn system_calls_that_lead_out_exist() {
        use crate::personality::table::TABLE;
        for name in LEADING_OUT {
            assert!(TABLE.iter().any(|call| call.name == *name), "{name}");
        }
    }
}
