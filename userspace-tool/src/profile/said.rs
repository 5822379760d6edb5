// SPDX-License-Identifier: GPL-2.0

//! What a single document says, as rules: each axis on its own, and none where it is silent.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::document::{self, Base, Document, Reach, Spot, Texts};
use super::error::{ProfileError, Source};
use super::minimal::is_served;
use super::{
    size, time, Device, EnvironmentRules, FileAccess, FileRule, FileRules, LimitRules, NetworkRule,
    NetworkRules, Origin, ProgramRules, Rules, Surroundings, SyscallRules, Write,
};
use crate::personality::table::TABLE;
use crate::personality::Fate;

/// What a document says.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) description: Option<String>,
    pub(super) include: Texts,
    pub(super) files: Option<FileRules>,
    pub(super) network: Option<NetworkRules>,
    pub(super) fork: Option<bool>,
    pub(super) programs: Option<ProgramRules>,
    pub(super) jit: Option<bool>,
    pub(super) execute_only: Option<bool>,
    pub(super) precise_clock: Option<bool>,
    pub(super) syscalls: Option<SyscallRules>,
    pub(super) devices: Option<Vec<Device>>,
    pub(super) environment: Option<EnvironmentRules>,
    pub(super) limits: Option<LimitRules>,
}

impl Said {
    /// What a profile's text says.
    pub(super) fn read(source: Source<'_>, place: &Surroundings) -> Result<Self, ProfileError> {
        let document = Document::parse(source)?;
        let base = match document.include.is_empty() {
            true => Base::Minimal,
            false => Base::Standard,
        };
        Ok(Self {
            files: axis(document.files, |said| source.files(said, place))?,
            network: axis(document.network, |said| source.network(said))?,
            fork: document.processes.as_ref().map(|said| said.fork),
            programs: axis(document.processes.and_then(|said| said.exec), |said| {
                source.programs(&said, place)
            })?,
            jit: document.memory.as_ref().map(|said| said.jit),
            execute_only: document.memory.map(|said| said.execute_only),
            precise_clock: document.clock.map(|said| said.precise),
            syscalls: axis(document.syscalls, |said| source.syscalls(said, base))?,
            devices: document.devices.map(|said| devices(&said)),
            environment: axis(document.environment, |said| source.environment(said))?,
            limits: axis(document.limits, |said| source.limits(said))?,
            description: document.description,
            include: document.include,
        })
    }

    /// What is allowed by what is said and by `base`, what is included; what neither mentions is refused.
    pub(super) fn rules(self, name: String, base: Option<Rules>, source: Source<'_>) -> Rules {
        // Without system calls nothing runs.
        let syscalls = match (&self.syscalls, &base) {
            (None, None) => Some(Base::Minimal.rules(&source.silence())),
            _ => self.syscalls,
        };
        // What is included stands in for what is not said; narrowed by itself it is the same.
        let silent = base.clone().unwrap_or_default();
        let said = Rules {
            name,
            files: self.files.unwrap_or(silent.files),
            network: self.network.unwrap_or(silent.network),
            fork: self.fork.unwrap_or(silent.fork),
            programs: self.programs.or(silent.programs),
            jit: self.jit.unwrap_or(silent.jit),
            execute_only: self.execute_only.unwrap_or(silent.execute_only),
            precise_clock: self.precise_clock.unwrap_or(silent.precise_clock),
            syscalls: syscalls.unwrap_or(silent.syscalls),
            devices: self.devices.unwrap_or(silent.devices),
            environment: self.environment.unwrap_or(silent.environment),
            limits: self.limits.unwrap_or(silent.limits),
            pinned: Vec::new(),
        };
        match base {
            Some(base) => said.narrow(&base),
            None => said,
        }
    }
}

/// The rules of an axis that is mentioned.
fn axis<A, R>(
    said: Option<A>,
    rules: impl FnOnce(A) -> Result<R, ProfileError>,
) -> Result<Option<R>, ProfileError> {
    said.map(rules).transpose()
}

/// Devices, each once.
fn devices(said: &document::Devices) -> Vec<Device> {
    let mut devices: Vec<Device> = said.allow.iter().map(|device| *device.get()).collect();
    devices.sort_unstable();
    devices.dedup();
    devices
}

impl Source<'_> {
    /// That something is said at a place.
    fn origin<T>(&self, spot: &Spot<T>) -> Origin {
        Origin::Profile {
            name: self.name.to_owned(),
            line: self.line(spot.span().start),
        }
    }

    /// That something follows from what is not said.
    fn silence(&self) -> Origin {
        Origin::Profile {
            name: self.name.to_owned(),
            line: 0,
        }
    }

    /// Files and directories.
    fn files(
        &self,
        said: document::Files,
        place: &Surroundings,
    ) -> Result<FileRules, ProfileError> {
        let host = |execute, write| FileAccess::Host { execute, write };
        let keys = [
            (said.read, host(false, Write::No)),
            (said.execute, host(true, Write::No)),
            (said.change, host(false, Write::Through)),
            (said.overlay, host(false, Write::Overlay)),
            (said.hide, FileAccess::Hidden),
            (said.tmpfs, FileAccess::Tmpfs),
        ];
        let mut paths: Vec<(Spot<String>, FileAccess)> = Vec::new();
        for (texts, access) in keys {
            paths.extend(texts.into_iter().map(|text| (text, access)));
        }
        // As they are written, so that of two that are the same the second one is wrong.
        paths.sort_by_key(|(text, _)| text.span().start);
        let mut rules: BTreeMap<PathBuf, FileRule> = BTreeMap::new();
        for (text, access) in paths {
            let path = place.absolute(text.get());
            let path = path.map_err(|error| self.wrong(text.span(), error.to_string()))?;
            let origin = self.origin(&text);
            if let Some(other) = rules.get(&path) {
                let line = match &other.origin {
                    Origin::Profile { line, .. } => *line,
                    Origin::Option(_) | Origin::Program => 0,
                };
                let path = path.display();
                return Err(self.wrong(
                    text.span(),
                    format!("{path} is listed in line {line} already: keep one of the two"),
                ));
            }
            rules.insert(path, FileRule { access, origin });
        }
        Ok(FileRules(rules))
    }

    /// Programs that may be started.
    fn programs(&self, said: &Texts, place: &Surroundings) -> Result<ProgramRules, ProfileError> {
        let mut rules = ProgramRules::default();
        for text in said {
            let path = place.absolute(text.get());
            let path = path.map_err(|error| self.wrong(text.span(), error.to_string()))?;
            rules.0.entry(path).or_insert_with(|| self.origin(text));
        }
        Ok(rules)
    }

    /// Networks.
    fn network(&self, said: document::Network) -> Result<NetworkRules, ProfileError> {
        let reach = said.reach.as_ref().map(Spot::get);
        let listen = said.listen.as_ref();
        let mut rules = Vec::new();
        match (reach, listen) {
            (Some(Reach::Host), None) => return Ok(NetworkRules::Host),
            (Some(Reach::Host), Some(listen)) => {
                return Err(self.wrong(
                    listen.span(),
                    "with reach = \"host\" it is reached at every port: remove this, or list in `reach` what it \
                     reaches",
                ))
            }
            (Some(Reach::Only(texts)), _) => {
                for text in texts {
                    let rule = NetworkRule::reach(text.get(), self.origin(text));
                    rules.push(rule.map_err(|what| self.wrong(text.span(), what))?);
                }
            }
            (Some(Reach::None) | None, _) => {}
        }
        for text in listen.map(Spot::get).into_iter().flatten() {
            let rule = NetworkRule::listen(text.get(), self.origin(text));
            rules.push(rule.map_err(|what| self.wrong(text.span(), what))?);
        }
        Ok(NetworkRules::only(rules))
    }

    /// System calls; `silent` is the base where none is said.
    fn syscalls(
        &self,
        said: document::Syscalls,
        silent: Base,
    ) -> Result<SyscallRules, ProfileError> {
        let mut rules = match &said.base {
            Some(base) => base.get().rules(&self.origin(base)),
            None => silent.rules(&self.silence()),
        };
        let find = |text: &Spot<String>| {
            let name = text.get();
            let call = TABLE.iter().find(|call| call.name == name);
            call.ok_or_else(|| {
                let what = format!(
                    "there is no system call `{name}` on x86-64: `uvctl syscalls` lists them"
                );
                self.wrong(text.span(), what)
            })
        };
        for text in &said.allow {
            let call = find(text)?;
            if let Fate::Refused(_, why) = call.fate {
                let what = format!("no task has `{}`: {why}; remove it", call.name);
                return Err(self.wrong(text.span(), what));
            }
            rules.refused.remove(call.name);
        }
        for text in &said.refuse {
            let call = find(text)?;
            if said.allow.iter().any(|allowed| allowed.get() == text.get()) {
                let what = format!("`{}` is in `allow` as well: keep one of the two", call.name);
                return Err(self.wrong(text.span(), what));
            }
            // What is refused in any case keeps its error.
            if is_served(call) {
                rules.refused.insert(call.name, self.origin(text));
            }
        }
        Ok(rules)
    }

    /// Environment variables.
    fn environment(&self, said: document::Environment) -> Result<EnvironmentRules, ProfileError> {
        let mut rules = EnvironmentRules::default();
        for text in &said.keep {
            rules
                .keep(text.get())
                .map_err(|what| self.wrong(text.span(), what))?;
        }
        for (name, value) in &said.set {
            rules
                .set(name.get().as_ref(), value.get().as_ref())
                .map_err(|what| self.wrong(name.span(), what))?;
        }
        Ok(rules)
    }

    /// How much it may have.
    fn limits(&self, said: document::Limits) -> Result<LimitRules, ProfileError> {
        Ok(LimitRules {
            memory: self.amount(said.memory.as_ref(), size)?,
            cpu: self.amount(said.cpu.as_ref(), time)?,
            time: self.amount(said.time.as_ref(), time)?,
            pids: self.number(said.pids.as_ref(), 1..=4_194_304)?,
            fds: self.number(said.fds.as_ref(), 1..=1_048_576)?,
            exits: self.number(said.exits.as_ref(), 1..=i64::MAX as u64)?,
        })
    }

    /// What a text with a unit says.
    fn amount<A>(
        &self,
        text: Option<&Spot<String>>,
        read: fn(&str) -> Result<A, String>,
    ) -> Result<Option<A>, ProfileError> {
        let Some(text) = text else { return Ok(None) };
        let amount = read(text.get()).map_err(|what| self.wrong(text.span(), what))?;
        Ok(Some(amount))
    }

    /// A number in a range.
    fn number<N: TryFrom<i64> + PartialOrd + fmt::Display>(
        &self,
        number: Option<&Spot<i64>>,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, ProfileError> {
        let Some(spot) = number else { return Ok(None) };
        let number = N::try_from(*spot.get()).ok();
        match number.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let what = format!("it is {} to {}", range.start(), range.end());
                Err(self.wrong(spot.span(), what))
            }
        }
    }
}

#[cfg(test)]
mod tests;
