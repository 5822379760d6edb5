// SPDX-License-Identifier: GPL-2.0

//! What a program did, as far as a profile has to do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::de::value::StrDeserializer;
use serde::de::IntoDeserializer;
use serde::Deserialize;

use super::{Seen, Use};
use crate::loader::Program;
use crate::profile::{clean, Device};

/// Directories that the sandbox makes, or answers for: no rule is about what is in them.
const MADE: [&str; 3] = ["/proc", "/dev", "/sys"];

/// Directories for what is temporary.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// What a program did.
#[derive(Debug, Default)]
pub struct Facts {
    /// Files and directories that exist on the host, by the names that were used, and the most that was done with each.
    pub(super) files: BTreeMap<PathBuf, Use>,
    /// Directories in which something was made, removed or renamed.
    pub(super) changed: BTreeSet<PathBuf>,
    /// Directories for what is temporary, if something was made there.
    pub(super) temporary: BTreeSet<PathBuf>,
    pub(super) devices: BTreeSet<Device>,
    pub(super) calls: BTreeSet<String>,
    pub(super) fork: bool,
    pub(super) code: bool,
    /// Addresses: whether by TCP, which, the port, and whether an own one.
    pub(super) addresses: BTreeSet<(bool, IpAddr, u16, bool)>,
}

impl Facts {
    /// Adds a line of what the broker told. What is none is not looked at.
    pub fn add(&mut self, line: &[u8]) {
        match serde_json::from_slice(line) {
            Ok(Seen::Call { name }) => {
                self.calls.insert(name);
            }
            Ok(Seen::Path { path, usage }) => {
                self.add_path(&PathBuf::from(OsString::from_vec(path)), usage);
            }
            Ok(Seen::Fork) => self.fork = true,
            Ok(Seen::Code) => self.code = true,
            Ok(Seen::Address {
                tcp,
                ip,
                port,
                listen,
            }) => {
                self.addresses.insert((tcp, ip, port, listen));
            }
            Err(_) => {}
        }
    }

    /// Whether nothing was told.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    fn add_path(&mut self, path: &Path, usage: Use) {
        if let Some(device) = device(path) {
            self.devices.insert(device);
            return;
        }
        if MADE.iter().any(|made| path.starts_with(made)) {
            return;
        }
        // Names are looked up on the host now, when all is over: what the program made is not there. A rule has the
        // name that was used, as the links on its way are needed as well.
        let used = clean(path).or_else(|_| path.canonicalize());
        match (path.canonicalize(), used) {
            (Ok(real), _) if MADE.iter().any(|made| real.starts_with(made)) => {}
            (Ok(_), Ok(used)) => {
                if usage == Use::Execute {
                    self.add_program(&used);
                }
                if usage == Use::Change {
                    self.add_change(&used);
                } else {
                    self.raise(used, usage);
                }
            }
            // A name that does not exist is no matter, unless it was made.
            (Err(_), Ok(used)) if usage == Use::Change => self.add_change(&used),
            _ => {}
        }
    }

    /// What was changed is what is at the name, and the directory that it is in.
    fn add_change(&mut self, path: &Path) {
        let directory = path
            .ancestors()
            .skip(1)
            .find_map(|above| above.canonicalize().ok());
        let Some(directory) = directory else {
            return;
        };
        let place = TEMPORARY.iter().find(|place| directory.starts_with(place));
        match place {
            // What is below was made as well, or it is the user's.
            Some(place) if Path::new(place) == directory && !path.exists() => {
                self.temporary.insert(place.into());
            }
            _ if path.is_file() => {
                self.raise(path.to_owned(), Use::Change);
                self.changed.insert(directory);
            }
            _ => {
                self.changed.insert(directory);
            }
        }
    }

    /// A program is executed with what loads it.
    fn add_program(&mut self, path: &Path) {
        let Ok(program) = Program::find(path.as_os_str(), &[]) else {
            return;
        };
        for (file, _) in program.files() {
            self.raise(file.to_owned(), Use::Execute);
        }
    }

    fn raise(&mut self, path: PathBuf, usage: Use) {
        let most = self.files.entry(path).or_insert(usage);
        *most = usage.max(*most);
    }
}

/// The device that is at a path.
fn device(path: &Path) -> Option<Device> {
    let name = path.strip_prefix("/dev").ok()?;
    let name = match name.components().next()?.as_os_str().to_str()? {
        "ptmx" => "pts",
        name => name,
    };
    // In profiles they have the names that they have there.
    let name: StrDeserializer<'_, serde::de::value::Error> = name.into_deserializer();
    Device::deserialize(name).ok()
}
