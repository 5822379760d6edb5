// SPDX-License-Identifier: GPL-2.0

//! Profiles by name or path, with those that they include.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{ProfileError, Source};
use super::said::Said;
use super::{Rules, Surroundings};

/// How deep profiles include others.
const DEPTH: usize = 8;

/// The longest profile: more is something else.
const LONGEST: u64 = 1 << 20;

/// Those that are part of the program.
const BUILT_IN: &[(&str, &str)] = &[
    ("compiler", include_str!("../../profiles/compiler.toml")),
    ("default", include_str!("../../profiles/default.toml")),
    ("document", include_str!("../../profiles/document.toml")),
    ("filter", include_str!("../../profiles/filter.toml")),
    ("host", include_str!("../../profiles/host.toml")),
    ("image", include_str!("../../profiles/image.toml")),
    ("python", include_str!("../../profiles/python.toml")),
    ("shell", include_str!("../../profiles/shell.toml")),
];

/// A profile, with what it includes.
#[derive(Clone, Debug)]
pub struct Profile {
    /// What it is for, if it says so.
    pub description: Option<String>,
    /// What it allows.
    pub rules: Rules,
}

/// A profile that there is.
#[derive(Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Where it is; if it cannot be read, its error says that.
    pub place: Option<Place>,
    /// What it says, or what is wrong with it.
    pub profile: Result<Profile, ProfileError>,
}

/// Where a profile is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// In the program.
    BuiltIn(&'static str),
}

/// What errors and origins call it.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::BuiltIn(name) => write!(f, "{name}.toml"),
        }
    }
}

impl Profile {
    /// The profile with a name; or at a path, which has a `/` in it.
    pub fn load(name: &str, surroundings: &Surroundings) -> Result<Self, ProfileError> {
        let (place, text) = find(name, None, surroundings)?;
        load(name, &place, &text, surroundings, &mut Vec::new())
    }

    /// The text of a profile, and where it is.
    pub fn text(name: &str, surroundings: &Surroundings) -> Result<(Place, String), ProfileError> {
        find(name, None, surroundings)
    }

    /// All that have names, by name. Of several with the same one that is listed which would be found.
    pub fn list(surroundings: &Surroundings) -> Vec<Listed> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        for directory in directories(surroundings) {
            // Those that cannot be listed have nothing to show; whoever asks for one by name gets the error.
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let file = entry.file_name();
                let name = file.to_str().and_then(|file| file.strip_suffix(".toml"));
                names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
            }
        }
        names.extend(BUILT_IN.iter().map(|(name, _)| (*name).to_owned()));
        let listed = names.into_iter().map(|name| {
            let place = by_name(&name, surroundings).map(|(place, _)| place);
            Listed {
                profile: Self::load(&name, surroundings),
                place: place.ok(),
                name,
            }
        });
        listed.collect()
    }
}

/// Where profiles with names are looked for, in this order.
fn directories(surroundings: &Surroundings) -> impl Iterator<Item = &Path> {
    let own = surroundings.profiles.as_deref();
    own.into_iter().chain([&*surroundings.system_profiles])
}

/// Whether a text can be the name of a profile.
fn is_name(text: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !text.is_empty() && !text.starts_with('.') && text.bytes().all(letter)
}

/// Finds a profile; `from` is the directory of the one that includes it.
fn find(
    name: &str,
    from: Option<&Path>,
    surroundings: &Surroundings,
) -> Result<(Place, String), ProfileError> {
    if !name.contains('/') {
        return by_name(name, surroundings);
    }
    let path = match (name.strip_prefix("~/"), &surroundings.home, from) {
        // A shell has done that on the command line.
        (Some(rest), Some(home), Some(_)) => home.join(rest),
        (_, _, Some(from)) => from.join(name.strip_prefix("./").unwrap_or(name)),
        (_, _, None) => name.into(),
    };
    let text = read(&path).map_err(|error| match error {
        ProfileError::Read { path, source } if source.kind() == io::ErrorKind::NotFound => {
            ProfileError::NotFound(format!("there is no profile {}", path.display()))
        }
        other => other,
    })?;
    Ok((Place::File(path), text))
}

/// Finds a profile with a name.
fn by_name(name: &str, surroundings: &Surroundings) -> Result<(Place, String), ProfileError> {
    if !is_name(name) {
        return Err(ProfileError::NotFound(format!(
            "`{}` is no name of a profile: those have letters, digits, `-`, `_` and `.`; a path has a `/` in it",
            name.escape_debug()
        )));
    }
    for directory in directories(surroundings) {
        let path = directory.join(format!("{name}.toml"));
        match read(&path) {
            Ok(text) => return Ok((Place::File(path), text)),
            // The next one could be wider than what is here and cannot be read: only what is not there is passed by.
            Err(ProfileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    match built_in {
        Some((name, text)) => Ok((Place::BuiltIn(name), (*text).to_owned())),
        None => Err(ProfileError::NotFound(not_found(name, surroundings))),
    }
}

/// What to do about a name that is nobody's.
fn not_found(name: &str, surroundings: &Surroundings) -> String {
    let directories: Vec<_> = directories(surroundings)
        .map(|directory| directory.display().to_string())
        .collect();
    let hint = match name.ends_with(".toml") {
        true => format!("write ./{name} for a file that is here"),
        false => "`uvctl profile list` lists those that there are".to_owned(),
    };
    format!(
        "there is no profile `{name}`, neither in {} nor built in: {hint}",
        directories.join(" nor in ")
    )
}

/// Reads a file.
fn read(path: &Path) -> Result<String, ProfileError> {
    let unreadable = |source| ProfileError::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    let no_text = |what| ProfileError::NoText {
        path: path.to_owned(),
        what,
    };
    if bytes.len() as u64 > LONGEST {
        return Err(no_text("it has more than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| no_text("it is not text in UTF-8"))
}

/// The rules of a text, with what it includes; `chain` are those that include it.
fn load(
    name: &str,
    place: &Place,
    text: &str,
    surroundings: &Surroundings,
    chain: &mut Vec<Place>,
) -> Result<Profile, ProfileError> {
    let shown = place.to_string();
    let source = Source { name: &shown, text };
    let said = Said::read(source, surroundings)?;
    chain.push(place.clone());
    let from = match place {
        Place::File(path) => path.parent().unwrap_or(Path::new("")),
        Place::BuiltIn(_) => &surroundings.directory,
    };
    let mut base: Option<Rules> = None;
    for include in &said.include {
        let wrong = |what: String| source.wrong(include.span(), what);
        let (place, text) = find(include.get(), Some(from), surroundings)
            .map_err(|error| wrong(error.to_string()))?;
        let chained = || {
            let names = chain.iter().chain([&place]).map(Place::to_string);
            names.collect::<Vec<_>>().join(" -> ")
        };
        if chain.contains(&place) {
            return Err(wrong(format!(
                "profiles include each other in a circle: {}; remove one of these",
                chained()
            )));
        }
        if chain.len() >= DEPTH {
            return Err(wrong(format!(
                "profiles include each other more than {DEPTH} deep: {}; include them directly",
                chained()
            )));
        }
        let rules = load(include.get(), &place, &text, surroundings, chain)?.rules;
        base = Some(match base {
            Some(base) => base.narrow(&rules),
            None => rules,
        });
    }
    chain.pop();
    Ok(Profile {
        description: said.description.clone(),
        rules: said.rules(name.to_owned(), base, source),
    })
}

#[cfg(test)]
mod tests;
