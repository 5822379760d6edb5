// SPDX-License-Identifier: GPL-2.0

//! What two sets of rules both allow: what a profile allows that includes others.
//!
//! Nothing is allowed that one of the two refuses. A rule of the result has the origin of the side that it is from;
//! where both say the same, that of the one that is first by name and line, so that it is no matter which one is asked.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use super::network::mask;
use super::{
    EnvironmentRules, FileAccess, FileRule, FileRules, Host, LimitRules, NetworkRule, NetworkRules,
    Origin, ProgramRules, Rules, SyscallRules,
};

impl Rules {
    /// What both allow, under this one's name.
    pub fn narrow(&self, other: &Self) -> Self {
        let both = other
            .devices
            .iter()
            .filter(|one| self.devices.contains(one));
        let mut devices: Vec<_> = both.copied().collect();
        devices.sort_unstable();
        Self {
            name: self.name.clone(),
            files: self.files.narrow(&other.files),
            network: self.network.narrow(&other.network),
            fork: self.fork && other.fork,
            programs: match (&self.programs, &other.programs) {
                (Some(own), Some(others)) => Some(own.narrow(others)),
                (one, two) => one.as_ref().or(two.as_ref()).cloned(),
            },
            jit: self.jit && other.jit,
            // That takes something away.
            execute_only: self.execute_only || other.execute_only,
            precise_clock: self.precise_clock && other.precise_clock,
            syscalls: self.syscalls.narrow(&other.syscalls),
            devices,
            environment: self.environment.narrow(&other.environment),
            limits: self.limits.narrow(other.limits),
            // Nothing was looked up yet.
            pinned: Vec::new(),
        }
    }
}

impl FileAccess {
    /// What both allow.
    pub fn narrow(self, other: Self) -> Self {
        match (self, other) {
            (
                Self::Host { execute, write },
                Self::Host {
                    execute: others_execute,
                    write: others_write,
                },
            ) => Self::Host {
                execute: execute && others_execute,
                write: write.min(others_write),
            },
            // Nothing, then an empty directory, then the host's files: that is how they are sorted.
            _ => self.min(other),
        }
    }
}

impl FileRules {
    /// What both allow.
    pub fn narrow(&self, other: &Self) -> Self {
        let paths: BTreeSet<&Path> = self
            .0
            .keys()
            .chain(other.0.keys())
            .map(|path| &**path)
            .collect();
        let both = paths.into_iter().filter_map(|path| {
            // Where one of them has nothing at a path, it has nothing above it either: no rule is needed.
            let (_, own) = self.decide(path)?;
            let (_, others) = other.decide(path)?;
            let access = own.access.narrow(others.access);
            let origin = origin(
                (access == own.access, &own.origin),
                (access == others.access, &others.origin),
            );
            Some((path.to_owned(), FileRule { access, origin }))
        });
        Self(both.collect())
    }
}

impl ProgramRules {
    /// What both allow.
    fn narrow(&self, other: &Self) -> Self {
        let all = self.0.iter().chain(&other.0);
        let both = all.filter(|(path, _)| self.has(path) && other.has(path));
        let mut narrowed = Self::default();
        for (path, origin) in both {
            let place = narrowed.0.entry(path.clone());
            let place = place.or_insert_with(|| origin.clone());
            if origin < place {
                place.clone_from(origin);
            }
        }
        narrowed
    }
}

/// The origin of what is narrowed: that of the side that says it.
fn origin((own, one): (bool, &Origin), (others, two): (bool, &Origin)) -> Origin {
    match (own, others) {
        (true, false) => one,
        (false, true) => two,
        _ => one.min(two),
    }
    .clone()
}

impl NetworkRules {
    /// What both allow.
    pub fn narrow(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::None, _) | (_, Self::None) => Self::None,
            (Self::Host, narrower) | (narrower, Self::Host) => narrower.clone(),
            (Self::Only(own), Self::Only(others)) => {
                let pairs = own
                    .iter()
                    .flat_map(|one| others.iter().map(move |two| one.narrow(two)));
                Self::only(pairs.flatten().collect())
            }
        }
    }
}

impl NetworkRule {
    /// What both allow, if that is anything.
    fn narrow(&self, other: &Self) -> Option<Self> {
        if (self.listen, self.protocol) != (other.listen, other.protocol) {
            return None;
        }
        let host = self.host.narrow(&other.host)?;
        let ports = (
            self.ports.0.max(other.ports.0),
            self.ports.1.min(other.ports.1),
        );
        let says = |rule: &Self| rule.host == host && rule.ports == ports;
        (ports.0 <= ports.1).then(|| Self {
            origin: origin((says(self), &self.origin), (says(other), &other.origin)),
            listen: self.listen,
            protocol: self.protocol,
            host: host.clone(),
            ports,
        })
    }

    /// Whether all that `other` allows is allowed.
    pub(super) fn allows(&self, other: &Self) -> bool {
        let narrowed = self.narrow(other);
        narrowed.is_some_and(|both| both.host == other.host && both.ports == other.ports)
    }
}

impl Host {
    /// The addresses that are of both, if there are any.
    fn narrow(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, narrower) | (narrower, Self::Any) => Some(narrower.clone()),
            (Self::Network(one, long), Self::Network(two, short)) => {
                let (one, long, two, short) = match long >= short {
                    true => (one, long, two, short),
                    false => (two, short, one, long),
                };
                let within = one.is_ipv4() == two.is_ipv4() && mask(*one, *short) == *two;
                within.then_some(Self::Network(*one, *long))
            }
            (Self::Name(one), Self::Name(two)) => (one == two).then(|| self.clone()),
            // Which addresses a name has is not known, so neither is whether they are of the network.
            (Self::Network(..), Self::Name(_)) | (Self::Name(_), Self::Network(..)) => None,
        }
    }
}

impl SyscallRules {
    /// What both allow.
    pub fn narrow(&self, other: &Self) -> Self {
        let mut refused = self.refused.clone();
        for (name, origin) in &other.refused {
            let place = refused.entry(name).or_insert_with(|| origin.clone());
            if origin < place {
                *place = origin.clone();
            }
        }
        Self { refused }
    }
}

impl EnvironmentRules {
    /// What both allow. Where both set a variable, it is the value that is allowed by both.
    pub fn narrow(&self, other: &Self) -> Self {
        let mut keep: Vec<String> = self
            .keep
            .iter()
            .flat_map(|one| other.keep.iter().map(move |two| narrow_name(one, two)))
            .flatten()
            .collect();
        keep.sort_unstable();
        keep.dedup();
        let all = keep.clone();
        keep.retain(|name| {
            let more = |other: &String| {
                other != name && narrow_name(other, name).is_some_and(|both| both == *name)
            };
            !all.iter().any(more)
        });
        let allows = |rules: &Self, name: &OsString, value: &OsString| {
            rules.keeps(name) || rules.set.get(name) == Some(value)
        };
        let own = self
            .set
            .iter()
            .filter(|(name, value)| allows(other, name, value));
        let others = other
            .set
            .iter()
            .filter(|(name, value)| allows(self, name, value));
        let mut narrowed = Self {
            keep,
            ..Self::default()
        };
        for (name, value) in own.chain(others) {
            // Either one does where both are allowed; it must only be the same one whichever side is asked.
            let place = narrowed.set.entry(name.clone());
            let place = place.or_insert_with(|| value.clone());
            if value < place {
                place.clone_from(value);
            }
        }
        narrowed
    }
}

/// The names that both patterns are for, as a pattern.
fn narrow_name(one: &str, two: &str) -> Option<String> {
    /// Whether all names of a pattern are of another one.
    fn has(pattern: &str, names: &str) -> bool {
        match (pattern.strip_suffix('*'), names.strip_suffix('*')) {
            (Some(start), names_start) => names_start.unwrap_or(names).starts_with(start),
            (None, _) => pattern == names,
        }
    }
    match (has(one, two), has(two, one)) {
        (true, _) => Some(two.to_owned()),
        (_, true) => Some(one.to_owned()),
        _ => None,
    }
}

impl LimitRules {
    /// The lower limit of each.
    pub fn narrow(self, other: Self) -> Self {
        fn least<T: Ord>(one: Option<T>, two: Option<T>) -> Option<T> {
            one.into_iter().chain(two).min()
        }
        Self {
            memory: least(self.memory, other.memory),
            cpu: least(self.cpu, other.cpu),
            time: least(self.time, other.time),
            pids: least(self.pids, other.pids),
            fds: least(self.fds, other.fds),
            exits: least(self.exits, other.exits),
        }
    }
}

#[cfg(test)]
mod tests;
