// SPDX-License-Identifier: GPL-2.0

//! What options of the command line, and the program itself, add to rules.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::str::FromStr;

use super::{
    clean, EnvironmentRules, FileAccess, FileRule, LimitRules, NetworkRule, NetworkRules, Origin,
    PathError, Rules, Write, HOSTS, HOST_CONF,
};

impl Rules {
    /// Says what is done with a path and all below it, whatever was said about that path before; longer paths
    /// stay as they are. That is `--ro`, `--rw`, `--overlay`, `--hide` and `--tmpfs`.
    pub fn allow_path(
        &mut self,
        path: &Path,
        access: FileAccess,
        origin: Origin,
    ) -> Result<(), PathError> {
        let rule = FileRule { access, origin };
        self.files.0.insert(clean(path)?, rule);
        Ok(())
    }

    /// Lets a program be started again by what it becomes.
    pub fn allow_start(&mut self, path: &Path) -> Result<(), PathError> {
        if let Some(programs) = &mut self.programs {
            programs.0.insert(clean(path)?, Origin::Program);
        }
        Ok(())
    }

    /// Lets a file be executed that is the program, or what the kernel starts for it.
    pub fn allow_program(&mut self, path: &Path) -> Result<(), PathError> {
        let path = clean(path)?;
        // What a task may write is not code, unless it may execute what it wrote.
        let write = match self.files.decide(&path).map(|(_, rule)| rule.access) {
            Some(FileAccess::Host { execute, write }) if self.jit || write == Write::No => {
                if execute {
                    return Ok(());
                }
                match write {
                    // Only directories have overlays.
                    Write::Overlay => Write::No,
                    write => write,
                }
            }
            _ => Write::No,
        };
        let access = FileAccess::Host {
            execute: true,
            write,
        };
        self.allow_path(&path, access, Origin::Program)
    }

    /// Allows a network in addition, or takes it all away. That is `--net`.
    pub fn allow_network(&mut self, more: NetworkRules) {
        match (&mut self.network, more) {
            (NetworkRules::Only(rules), NetworkRules::Only(more)) => {
                let all = rules.drain(..).chain(more).collect();
                self.network = NetworkRules::only(all);
            }
            (NetworkRules::Host, NetworkRules::Only(_)) => {}
            (network, more) => *network = more,
        }
    }

    /// Lets variables through (`NAME`, or `NAME*` for all that start so), or sets one (`NAME=VALUE`). That is `--env`.
    pub fn allow_variable(&mut self, text: &OsStr) -> Result<(), String> {
        let bytes = text.as_encoded_bytes();
        match bytes.iter().position(|&byte| byte == b'=') {
            None => {
                let name = text.to_str().ok_or("a variable's name is text in UTF-8")?;
                self.environment.keep(name)
            }
            Some(at) => {
                use std::os::unix::ffi::OsStrExt;
                let (name, value) = (&bytes[..at], &bytes[at + 1..]);
                self.environment
                    .set(OsStr::from_bytes(name), OsStr::from_bytes(value))
            }
        }
    }

    /// Lets the files be read that have the names of hosts, if there are any that were looked up and nothing hides them.
    pub fn allow_hosts(&mut self) {
        let Some(first) = self.pinned.first() else {
            return;
        };
        let rule = FileRule {
            access: FileAccess::Host {
                execute: false,
                write: Write::No,
            },
            origin: first.origin.clone(),
        };
        for path in [HOSTS, HOST_CONF].map(Path::new) {
            let hidden = |there: &FileRule| there.access == FileAccess::Hidden;
            if !self.files.0.get(path).is_some_and(hidden) {
                self.files.0.insert(path.into(), rule.clone());
            } else if path == Path::new(HOSTS) {
                self.pinned.clear();
                return;
            }
        }
    }

    /// Takes those limits that are given instead of its own.
    pub fn limit(&mut self, limits: LimitRules) {
        let own = self.limits;
        self.limits = LimitRules {
            memory: limits.memory.or(own.memory),
            cpu: limits.cpu.or(own.cpu),
            time: limits.time.or(own.time),
            pids: limits.pids.or(own.pids),
            fds: limits.fds.or(own.fds),
            exits: limits.exits.or(own.exits),
        };
    }
}

impl NetworkRules {
    /// These rules, of which there may be none; what another one allows as well is not said again.
    pub fn only(mut rules: Vec<NetworkRule>) -> Self {
        // Of some that allow the same, the one whose origin is the first comes first, and stays.
        rules.sort_unstable();
        let needed: Vec<NetworkRule> = rules
            .iter()
            .enumerate()
            .filter(|(place, rule)| {
                let others = rules.iter().enumerate();
                let mut wider = others.filter(|(_, other)| other.allows(rule));
                wider.all(|(other_place, other)| rule.allows(other) && *place <= other_place)
            })
            .map(|(_, rule)| rule.clone())
            .collect();
        match needed.is_empty() {
            true => Self::None,
            false => Self::Only(needed),
        }
    }
}

/// As `--net` has it: `none`, `host` or a rule.
impl FromStr for NetworkRules {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "host" => Ok(Self::Host),
            _ => match text.contains(':') {
                true => Ok(Self::Only(vec![text.parse()?])),
                false => Err("it is `none`, `host` or a rule such as tcp:192.0.2.1:443".into()),
            },
        }
    }
}

impl EnvironmentRules {
    /// Lets a variable through, or with `*` at the end all that start so.
    pub(super) fn keep(&mut self, name: &str) -> Result<(), String> {
        let start = name.strip_suffix('*').unwrap_or(name);
        if start.contains('*') {
            return Err(format!(
                "`{name}` has a `*` that is not at the end: only there it stands for anything"
            ));
        }
        if name.is_empty() || start.contains(['=', '\0']) {
            return Err(format!(
                "no variable is called `{}`: write its name only",
                name.escape_debug()
            ));
        }
        if let Err(place) = self.keep.binary_search_by(|kept| kept.as_str().cmp(name)) {
            self.keep.insert(place, name.to_owned());
        }
        Ok(())
    }

    /// Sets a variable.
    pub(super) fn set(&mut self, name: &OsStr, value: &OsStr) -> Result<(), String> {
        let has = |text: &OsStr, byte| text.as_encoded_bytes().contains(&byte);
        if name.is_empty() || has(name, b'=') || has(name, 0) || has(value, 0) {
            return Err(format!(
                "no variable is called {name:?} and has the value {value:?}: a name has no `=`, and neither has a \
                 zero byte"
            ));
        }
        self.set.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Whether a variable is let through.
    pub fn keeps(&self, name: &OsStr) -> bool {
        let name = name.as_encoded_bytes();
        self.keep.iter().any(|kept| match kept.strip_suffix('*') {
            Some(start) => name.starts_with(start.as_bytes()),
            None => name == kept.as_bytes(),
        })
    }

    /// What is left of an environment, and what is set.
    pub fn of(
        &self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Vec<(OsString, OsString)> {
        let kept = variables
            .into_iter()
            .filter(|(name, _)| self.keeps(name) && !self.set.contains_key(name));
        let set = self.set.iter();
        let set = set.map(|(name, value)| (name.clone(), value.clone()));
        kept.chain(set).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_about_a_path_holds() {
        let mut rules = Rules::default();
        let host = |execute| FileAccess::Host {
            execute,
            write: Write::No,
        };
        let (x, deep) = (Path::new("/x"), Path::new("/x/y"));
        let option = Origin::Option("--ro");
        rules.allow_path(x, host(false), Origin::Program).unwrap();
        rules
            .allow_path(deep, FileAccess::Hidden, Origin::Program)
            .unwrap();
        rules
            .allow_path(Path::new("//x/."), host(true), option)
            .unwrap();
        assert_eq!(rules.files.decide(x).unwrap().1.access, host(true));
        assert_eq!(
            rules.files.decide(&deep.join("z")).unwrap().1.access,
            FileAccess::Hidden
        );
        let relative = rules.allow_path(Path::new("x"), host(true), Origin::Program);
        assert_eq!(relative, Err(PathError::Relative("x".into())));
    }

    #[test]
    fn the_program_is_executed_wherever_it_is() {
        let host = |execute, write| FileAccess::Host { execute, write };
        for (before, after) in [
            (None, host(true, Write::No)),
            (Some(FileAccess::Tmpfs), host(true, Write::No)),
            (
                Some(host(false, Write::Through)),
                host(true, Write::Through),
            ),
            (Some(host(true, Write::No)), host(true, Write::No)),
            (Some(host(true, Write::Overlay)), host(true, Write::Overlay)),
            (Some(host(false, Write::Overlay)), host(true, Write::No)),
        ] {
            let mut rules = Rules {
                jit: true,
                ..Rules::default()
            };
            let (directory, program) = (Path::new("/x"), Path::new("/x/y"));
            if let Some(access) = before {
                rules
                    .allow_path(directory, access, Origin::Option("--rw"))
                    .unwrap();
            }
            rules.allow_program(program).unwrap();
            let (path, rule) = rules.files.decide(program).unwrap();
            assert_eq!(rule.access, after);
            let is_needed = before != Some(after);
            assert_eq!(path == program, is_needed);
            let sibling = rules.files.decide(Path::new("/x/z"));
            assert_eq!(sibling.map(|(_, rule)| rule.access), before);
            // Without the right to execute what it wrote, it does not write what it executes.
            rules.jit = false;
            rules.allow_program(program).unwrap();
            let (_, rule) = rules.files.decide(program).unwrap();
            assert_eq!(rule.access, host(true, Write::No));
        }
    }

    #[test]
    fn networks_add_up() {
        let mut rules = Rules::default();
        let net = |text: &str| text.parse::<NetworkRules>().unwrap();
        rules.allow_network(net("tcp:192.0.2.1:1"));
        rules.allow_network(net("tcp:192.0.2.1:2"));
        rules.allow_network(net("tcp:192.0.2.1:2"));
        assert!(matches!(&rules.network, NetworkRules::Only(rules) if rules.len() == 2));
        rules.allow_network(net("host"));
        rules.allow_network(net("tcp:192.0.2.1:3"));
        assert_eq!(rules.network, NetworkRules::Host);
        rules.allow_network(net("none"));
        assert_eq!(rules.network, NetworkRules::None);
        for text in ["bridge", "", "tcp:x", "None"] {
            assert!(text.parse::<NetworkRules>().is_err(), "{text}");
        }
    }

    #[test]
    fn variables_are_kept_or_set() {
        let mut rules = Rules::default();
        for text in ["PATH", "LC_*", "A=b=c", "PATH", "EMPTY="] {
            rules.allow_variable(text.as_ref()).unwrap();
        }
        for text in ["", "=x", "A*B", "*A*"] {
            assert!(rules.allow_variable(text.as_ref()).is_err(), "{text}");
        }
        let own = [
            ("PATH", "/bin"),
            ("PATHS", "x"),
            ("LC_ALL", "C"),
            ("A", "x"),
        ];
        let own = own.map(|(name, value)| (name.into(), value.into()));
        let left = rules.environment.of(own);
        let expected = [
            ("PATH", "/bin"),
            ("LC_ALL", "C"),
            ("A", "b=c"),
            ("EMPTY", ""),
        ];
        assert_eq!(
            left,
            expected.map(|(name, value)| (name.into(), value.into()))
        );
    }

    #[test]
    fn limits_that_are_given_replace_others() {
        let mut rules = Rules::default();
        rules.limit(LimitRules {
            pids: Some(8),
            memory: Some(4096),
            ..LimitRules::default()
        });
        rules.limit(LimitRules {
            pids: Some(9),
            ..LimitRules::default()
        });
        assert_eq!(rules.limits.pids, Some(9));
        assert_eq!(rules.limits.memory, Some(4096));
    }
}
