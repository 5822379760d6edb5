// SPDX-License-Identifier: GPL-2.0

//! The options that say what a task may touch, for all commands that start one.

use std::ffi::OsString;
use std::net::ToSocketAddrs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use uvisor::loader::Program;
use uvisor::profile::{
    self, FileAccess, Host, LimitRules, NetworkRule, NetworkRules, Origin, Pinned, Profile, Rules,
    Surroundings, Write,
};

/// The profile, as an option.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// The profile, by name or as a file (with a `/` in it); `uvctl profile list` lists those that there are.
    #[arg(
        long,
        value_name = "PROFILE",
        env = "UVCTL_PROFILE",
        default_value = "default"
    )]
    profile: OsString,
}

impl Named {
    /// Its rules.
    pub(super) fn rules(&self) -> Result<Rules, String> {
        let name = self.profile.to_str();
        let name = name.ok_or("the name of a profile is text in UTF-8")?;
        let profile = Profile::load(name, &Surroundings::of_this_process());
        Ok(profile.map_err(|error| error.to_string())?.rules)
    }
}

/// What the task may touch.
#[derive(Debug, Args)]
#[command(next_help_heading = "What the program may touch")]
pub(super) struct Privileges {
    #[command(flatten)]
    named: Named,
    /// Let the program read and execute PATH: a file, or a directory and all below it; may be given several times.
    #[arg(long, value_name = "PATH")]
    ro: Vec<PathBuf>,
    /// Let the program change PATH: a file, or a directory and all below it; may be given several times.
    #[arg(
        long,
        value_name = "PATH",
        long_help = "Let the program change PATH: a file, or a directory and all below it; may be given several times.

It can do there what the user who runs uvctl can: write, make, remove, rename and link files, and change their modes, \
times and user.* attributes. It cannot make programs that are setuid or setgid, or devices, or give files to others, \
and it cannot change anything of /proc, /sys and /dev, whatever PATH is. It executes nothing there unless the profile \
lets it execute what it wrote (memory.jit)."
    )]
    rw: Vec<PathBuf>,
    /// Let the program read, execute and change the directory PATH and all below it, without changing the host's files:
    /// what it changes goes to an overlay, which is thrown away when it ends unless --keep or --commit is given.
    #[arg(long, value_name = "PATH")]
    overlay: Vec<PathBuf>,
    /// Keep PATH, and what is below it, from the program.
    #[arg(long, value_name = "PATH")]
    hide: Vec<PathBuf>,
    /// Give the program an empty directory of its own at PATH, which is gone when it ends.
    #[arg(long, value_name = "PATH")]
    tmpfs: Vec<PathBuf>,
    /// Which network the program has: none (a loopback of its own), host, or one address more, as tcp:192.0.2.1:443,
    /// udp:192.0.2.0/24:53, tcp:*:80 or tcp:example.org:443.
    #[arg(long, value_name = "RULE")]
    net: Vec<String>,
    /// Let a variable of the environment through (NAME, or START* for several), or set it (NAME=VALUE).
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,
    /// Limit the memory of all processes of the program together to SIZE bytes; K, M and G are understood.
    #[arg(long, value_name = "SIZE", value_parser = profile::size)]
    pub(super) memory: Option<u64>,
    /// Limit the CPU time of the program (ms, s, m, h): of each of its processes, and where there can be a cgroup of all
    /// together.
    #[arg(long, value_name = "TIME", value_parser = profile::time)]
    cpu: Option<Duration>,
    /// Kill the program when it has run for so long (ms, s, m, h).
    #[arg(long, value_name = "TIME", value_parser = profile::time)]
    time: Option<Duration>,
    /// Limit how many processes and threads there are at a time; more fail with EAGAIN.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pids: Option<u32>,
    /// Limit how many files each process of the program has open.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(3..))]
    fds: Option<u32>,
    /// Kill the program when it, and all its processes together, have made N system calls, or faults that are served
    /// as one; those that need not leave the micro-VM (the time, its own number) do not count.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    exits: Option<u64>,
    /// Fail rather than run the program with less confinement than there could be.
    #[arg(long)]
    pub(super) require: bool,
}

impl Privileges {
    /// The rules, without those about the program itself.
    pub(super) fn rules(&self) -> Result<Rules, String> {
        let mut rules = self.named.rules()?;
        let host = |write| FileAccess::Host {
            execute: true,
            write,
        };
        for (option, paths, access) in [
            ("--ro", &self.ro, host(Write::No)),
            ("--rw", &self.rw, host(Write::Through)),
            ("--overlay", &self.overlay, host(Write::Overlay)),
            ("--tmpfs", &self.tmpfs, FileAccess::Tmpfs),
            ("--hide", &self.hide, FileAccess::Hidden),
        ] {
            for path in paths {
                let failed = |why: String| format!("{option} {}: {why}", path.display());
                let place = place(path).map_err(|error| failed(error.to_string()))?;
                if option != "--hide" && option != "--tmpfs" {
                    let found = place.symlink_metadata();
                    found.map_err(|error| failed(error.to_string()))?;
                }
                if option == "--overlay" && !place.is_dir() {
                    return Err(failed(
                        "it is no directory, and only those have overlays".into(),
                    ));
                }
                let origin = Origin::Option(option);
                let allowed = rules.allow_path(&place, access, origin);
                allowed.map_err(|error| failed(error.to_string()))?;
            }
        }
        for rule in &self.net {
            let net = rule.parse::<NetworkRules>();
            rules.allow_network(net.map_err(|error| format!("--net {rule}: {error}"))?);
        }
        for variable in &self.env {
            let allowed = rules.allow_variable(variable);
            allowed.map_err(|error| format!("--env {}: {error}", variable.to_string_lossy()))?;
        }
        rules.limit(LimitRules {
            memory: self.memory,
            cpu: self.cpu,
            time: self.time,
            pids: self.pids,
            fds: self.fds,
            exits: self.exits,
        });
        rules.pinned = resolve(&mut rules.network)?;
        Ok(rules)
    }
}

/// Where a path of the command line is.
fn place(path: &Path) -> std::io::Result<PathBuf> {
    use std::path::Component;
    match path.components().any(|part| part == Component::ParentDir) {
        // Where that leads the kernel knows.
        true => path.canonicalize(),
        false => std::path::absolute(path),
    }
}

/// Looks the names of hosts up: from now on their addresses are what the rules are about.
fn resolve(network: &mut NetworkRules) -> Result<Vec<Pinned>, String> {
    let mut names = Vec::new();
    let NetworkRules::Only(rules) = network else {
        return Ok(names);
    };
    let mut all = Vec::new();
    for rule in rules.drain(..) {
        let Host::Name(name) = &rule.host else {
            all.push(rule);
            continue;
        };
        let found = (name.as_str(), 0).to_socket_addrs();
        let found = found
            .map_err(|error| format!("{name}, of {}, cannot be looked up: {error}", rule.origin))?;
        for address in found {
            let ip = address.ip();
            let pinned = Pinned {
                name: name.clone(),
                address: ip,
                origin: rule.origin.clone(),
            };
            let is_new = |other: &Pinned| (&other.name, other.address) != (name, ip);
            if names.iter().all(is_new) {
                names.push(pinned);
            }
            all.push(NetworkRule {
                host: Host::Network(ip, if ip.is_ipv4() { 32 } else { 128 }),
                ..rule.clone()
            });
        }
    }
    *rules = all;
    Ok(names)
}

/// Lets a program be executed: it, scripts that lead to it, and what loads it.
pub(super) fn allow_program(rules: &mut Rules, program: &Program) -> Result<(), String> {
    for (path, _) in program.files() {
        let failed = |why: String| format!("{}: {why}", path.display());
        let path = place(path).map_err(|error| failed(error.to_string()))?;
        let allowed = rules.allow_program(&path);
        allowed.map_err(|error| failed(error.to_string()))?;
    }
    // What loads it could start anything.
    for (path, _) in program.started() {
        let failed = |why: String| format!("{}: {why}", path.display());
        let path = place(path).map_err(|error| failed(error.to_string()))?;
        let allowed = rules.allow_start(&path);
        allowed.map_err(|error| failed(error.to_string()))?;
    }
    Ok(())
}
