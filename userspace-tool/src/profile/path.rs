// SPDX-License-Identifier: GPL-2.0

//! Paths in profiles: they become absolute, and only their text is looked at.
//!
//! Nothing is asked of the file system, where another one could be at a path by the time it is used: symbolic
//! links are followed where files are opened.

use std::path::{Component, Path, PathBuf};

use thiserror::Error;

/// Where the paths of profiles and profiles themselves are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The user's home, for `~/`, if it is known.
    pub home: Option<PathBuf>,
    /// The directory that `uvctl` is started in, for `./`.
    pub directory: PathBuf,
    /// Where the user has profiles, if that is known.
    pub profiles: Option<PathBuf>,
    /// Where the machine's profiles are.
    pub system_profiles: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_this_process() -> Self {
        // The specification has it that what is not absolute is as good as not set.
        let directory = |name| std::env::var_os(name).map(PathBuf::from);
        let directory = |name| directory(name).filter(|path| path.is_absolute());
        let home = directory("HOME");
        let config = directory("XDG_CONFIG_HOME");
        let config = config.or_else(|| home.as_ref().map(|home| home.join(".config")));
        Self {
            profiles: config.map(|config| config.join("uvisor/profiles")),
            home,
            // Without one, `./` is nowhere, which `absolute` says.
            directory: std::env::current_dir().unwrap_or_default(),
            system_profiles: "/etc/uvisor/profiles".into(),
        }
    }

    /// The absolute path that is meant by one in a profile.
    pub fn absolute(&self, text: &str) -> Result<PathBuf, PathError> {
        // Whoever expects more of them would hide less than they think.
        if text.contains(['*', '?', '[']) {
            return Err(PathError::Pattern);
        }
        let path = match text.split_once('/').unwrap_or((text, "")) {
            _ if text.is_empty() => return Err(PathError::Relative(String::new())),
            ("", _) => PathBuf::from(text),
            ("~", rest) => self
                .home
                .as_ref()
                .ok_or(PathError::NoHome)?
                .join(below(rest)),
            (".", _) if !self.directory.is_absolute() => return Err(PathError::NoDirectory),
            (".", rest) => self.directory.join(below(rest)),
            ("..", _) => return Err(PathError::Parent),
            (first, _) if first.starts_with('~') => return Err(PathError::OthersHome),
            _ => return Err(PathError::Relative(text.to_owned())),
        };
        clean(&path)
    }
}

/// What is behind `~/` or `./`, which stays below: an absolute one would take the place of what is before.
fn below(rest: &str) -> &str {
    rest.trim_start_matches('/')
}

/// An absolute path without `.` and double `/`.
pub fn clean(path: &Path) -> Result<PathBuf, PathError> {
    if !path.is_absolute() {
        return Err(PathError::Relative(path.to_string_lossy().into_owned()));
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return Err(PathError::Nul);
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(PathError::Parent);
    }
    // That is what the parts of a path are without.
    Ok(path.components().collect())
}

/// Why a path is none for a rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PathError {
    /// It starts nowhere.
    #[error(
        "a path starts with `/`, with `~/` for the home directory or with `./` for the directory that uvctl is \
         started in: write `./{0}` or `/{0}`"
    )]
    Relative(String),
    /// It has `..` in it.
    #[error("`..` may lead elsewhere where there are symbolic links: write the path without it")]
    Parent,
    /// Somebody else's home.
    #[error("`~` is only understood with `/` behind it: write the home directory of another user in full")]
    OthersHome,
    /// It is for a shell.
    #[error("`*`, `?` and `[` are no patterns in a path: name the directory; all that is below belongs to it")]
    Pattern,
    /// No file has such a name.
    #[error("no file has a name with a zero byte in it: remove that")]
    Nul,
    /// There is no home.
    #[error(
        "where `~` is, is not known: set HOME to an absolute path, or write the directory in full"
    )]
    NoHome,
    /// The current directory is gone.
    #[error("where `.` is, is not known: the directory that uvctl was started in is gone, or cannot be seen")]
    NoDirectory,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn absolute(text: &str) -> Result<PathBuf, PathError> {
        let surroundings = Surroundings {
            home: Some("/home/u".into()),
            directory: "/work/here".into(),
            ..Surroundings::default()
        };
        surroundings.absolute(text)
    }

    #[test]
    fn paths_become_absolute_and_clean() {
        for (text, path) in [
            ("/", "/"),
            ("/usr/lib", "/usr/lib"),
            ("//usr/./lib//x/", "/usr/lib/x"),
            ("~", "/home/u"),
            ("~/", "/home/u"),
            ("~//out", "/home/u/out"),
            (".", "/work/here"),
            ("./a b", "/work/here/a b"),
            ("./~", "/work/here/~"),
            ("/..x/x..", "/..x/x.."),
        ] {
            let found = absolute(text).unwrap();
            assert_eq!(found.as_os_str(), path, "{text}");
        }
    }

    #[test]
    fn what_is_unclear_is_refused() {
        for (text, error) in [
            ("", PathError::Relative(String::new())),
            ("usr/lib", PathError::Relative("usr/lib".into())),
            ("..", PathError::Parent),
            ("../x", PathError::Parent),
            ("./x/../y", PathError::Parent),
            ("/x/..", PathError::Parent),
            ("~root/x", PathError::OthersHome),
            ("/home/*/x", PathError::Pattern),
            ("/x\0y", PathError::Nul),
        ] {
            assert_eq!(absolute(text), Err(error), "{text}");
        }
        let nowhere = Surroundings::default();
        assert_eq!(nowhere.absolute("~/x"), Err(PathError::NoHome));
        assert_eq!(nowhere.absolute("./x"), Err(PathError::NoDirectory));
    }
}
