// SPDX-License-Identifier: GPL-2.0

//! What a broker does before it has a guest: it makes ready what it cannot make any more when it is confined, and
//! confines itself.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::process::{getrlimit, setrlimit, Resource, Rlimit};
use thiserror::Error;

use crate::errno::Errno;
use crate::inherited::{self, InheritedError};
use crate::personality::{Access, AccessError, Domain, Network};
use crate::profile::Rules;
use crate::sandbox::{self, Kept, Layer, Layers, Report, SandboxError, Sockets};

/// Why a broker cannot be made ready.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// A layer of the sandbox cannot be entered.
    #[error("cannot confine the process that serves the task: {0}")]
    Sandbox(#[from] SandboxError),
    /// What this process was started with.
    #[error("cannot give up what this process was started with: {0}")]
    Inherited(#[from] InheritedError),
    /// The files that rules are about.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Changes would be made to the host's own files.
    #[error("there can be no overlay at {}, which needs a root directory of the task's own: {lack}", path.display())]
    Overlay {
        /// Where one is wanted.
        path: PathBuf,
        /// What the host lacks.
        lack: String,
    },
    /// The limit of open files.
    #[error("cannot set the limit of open files: {0}")]
    Limit(Errno),
    /// The process that opens sockets.
    #[error("cannot start the process that opens the task's sockets: {0}")]
    Network(Errno),
}

/// What a broker begins with.
#[derive(Debug)]
pub struct Confined {
    /// What the personality asks whether the task may do something.
    pub access: Arc<Access>,
    /// Where the task's sockets come from.
    pub network: Network,
    /// What is in force, and what the host lacks.
    pub report: Report,
    /// The environment that the task is given.
    pub environment: Vec<(OsString, OsString)>,
}

/// Confines the calling process, which has one thread, and all that it starts from now on, for ever, by `layers` of the
/// sandbox.
///
/// Of what this process was started with, descriptors but standard input, output and error are closed, and variables that the
/// task is not given overwritten; what this program opened itself stays open.
///
/// The process that opens sockets is started under way: in the same Landlock domain, by which the kernel knows whose
/// they are, but while namespaces can be made. What the broker needs of the module is to be open before.
pub fn confine(mut rules: Rules, layers: Layers, kept: &[Kept]) -> Result<Confined, ConfineError> {
    crate::vdso::clock_is_tsc();
    inherited::close_descriptors()?;
    inherited::forget_variables(&rules.environment)?;
    let environment = rules.environment.of(std::env::vars_os());
    let has_sockets = !rules.syscalls.refused.contains_key("socket");
    let sockets = match has_sockets {
        true => Sockets::Ready,
        false => Sockets::None,
    };
    let enter = |rules: &Rules, wanted: [Layer; 2]| {
        let wanted = wanted.into_iter().filter(|layer| layers.has(*layer));
        let options = sandbox::Options {
            layers: wanted.fold(Layers::NONE, Layers::with),
            sockets,
            kept,
            ..sandbox::Options::default()
        };
        sandbox::enter(rules, &options)
    };
    // What is open for a moment counts, however few files the task may have open.
    let files = getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: files.maximum,
        ..files
    };
    let limit = |limit| setrlimit(Resource::Nofile, limit).map_err(|error| error.into());
    limit(most).map_err(ConfineError::Limit)?;
    let given = (!rules.pinned.is_empty()).then(|| rules.files.clone());
    rules.allow_hosts();
    let outer = enter(&rules, [Layer::Root, Layer::Landlock])?;
    let assembled = outer.entered.has(Layer::Root);
    if let (false, Some(path)) = (assembled, rules.files.overlays().next()) {
        let lack = outer
            .lacks
            .into_iter()
            .find(|lack| lack.layer == Layer::Root);
        return Err(ConfineError::Overlay {
            path: path.to_owned(),
            lack: lack.map_or_else(|| "there is to be none here".into(), |lack| lack.what),
        });
    }
    if let (false, Some(given)) = (assembled, given) {
        // The host's own file was not meant.
        rules.files = given;
    }
    let access = Access::new(rules, assembled)?;
    // Where Landlock knows sockets with paths, the domain that was entered keeps them apart already.
    let version = outer.landlock;
    let domain = match version.is_some_and(|version| version >= sandbox::WITH_SOCKET_PATHS) {
        true => Domain::Entered,
        false => Domain::Enter,
    };
    let network = Network::start(&access, has_sockets, domain);
    let network = network.map_err(ConfineError::Network)?;
    limit(files).map_err(ConfineError::Limit)?;
    let inner = enter(access.rules(), [Layer::Rights, Layer::Filter])?;
    Ok(Confined {
        access: Arc::new(access),
        network,
        report: outer.and(inner),
        environment,
    })
}

/// Makes a broker ready that is not confined, not even from sockets with paths: one that has to reach some itself when
/// its guest has stopped.
pub fn without(rules: Rules) -> Result<Confined, ConfineError> {
    let environment = rules.environment.of(std::env::vars_os());
    let access = Access::new(rules, false)?;
    let network = Network::start(&access, true, Domain::None);
    Ok(Confined {
        network: network.map_err(ConfineError::Network)?,
        access: Arc::new(access),
        report: Report::default(),
        environment,
    })
}
