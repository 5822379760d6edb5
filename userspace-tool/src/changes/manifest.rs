// SPDX-License-Identifier: GPL-2.0

//! What is known about changes that are kept.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::object::Time;
use super::ChangesError;

/// The version of what is written here.
const VERSION: u32 = 1;

/// The name of something that is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ChangesError;

    fn from_str(text: &str) -> Result<Self, ChangesError> {
        // The same ones as of templates.
        let name = text.parse::<crate::template::directory::Name>();
        let name = name.map_err(|_| ChangesError::Name(text.to_owned()))?;
        Ok(Self(name.as_str().to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = ChangesError;

    fn try_from(text: String) -> Result<Self, ChangesError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A directory that had an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// Where it is on the host, without links.
    pub host: PathBuf,
    /// Which inode it is there.
    pub inode: u64,
    /// What its changes are called in what is kept.
    pub number: usize,
}

/// What is known about what is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    version: u32,
    /// Its name.
    pub name: Name,
    /// When the task started: what the host changed from then on is newer than what the task saw.
    pub(super) started: Time,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The directories.
    pub trees: Vec<Tree>,
}

impl Manifest {
    /// One of changes that are yet to be made.
    pub(super) fn new(name: Name, command: Vec<String>) -> Self {
        Self {
            version: VERSION,
            name,
            started: (0, 0),
            command,
            trees: Vec::new(),
        }
    }

    /// Whether this version of the program understands it.
    pub(super) fn is_known(&self) -> bool {
        self.version == VERSION
    }

    /// When the task started, in seconds since 1970.
    pub fn seconds(&self) -> u64 {
        u64::try_from(self.started.0).unwrap_or(0)
    }
}
