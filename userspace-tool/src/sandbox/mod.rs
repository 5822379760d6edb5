// SPDX-License-Identifier: GPL-2.0

//! The broker confines itself, before the first instruction of its guest.
//!
//! The personality decides about each system call of a guest's. This is the second wall, independent of it: who took
//! the broker over by an error in the personality has what the task's [`Rules`] give it and no more, by the kernel's
//! own means. There are four layers, each of use without the others:
//!
//! * [`root`]: a root directory in which only what the task may see exists;
//! * [`rights`]: no capabilities, no new ones, and limits;
//! * [`landlock`]: the same rules about files once more, by the files' own identities and not by mounts, and signals
//!   and sockets for the task's own processes only;
//! * [`filter`]: the system calls that the broker makes, and no others.
//!
//! What the host lacks is told, and is for the caller to judge; what goes wrong half-way is an error, after which
//! there must be no guest.

mod devices;
pub mod filter;
pub(crate) mod holder;
mod hosts;
pub mod landlock;
mod mount;
mod namespaces;
mod overlay;
mod place;
pub mod rights;
pub mod root;

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::errno::Errno;
use crate::profile::Rules;

pub use filter::{Filter, Unlisted};
pub use landlock::WITH_SOCKET_PATHS;
pub use overlay::Kept;
pub(crate) use overlay::{imitate, DIRECTORY};

/// One of the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// [`root`].
    Root,
    /// [`rights`].
    Rights,
    /// [`landlock`].
    Landlock,
    /// [`filter`].
    Filter,
}

impl Layer {
    /// All, in the order in which they are entered: each needs what the next ones take away.
    pub const ALL: [Self; 4] = [Self::Root, Self::Rights, Self::Landlock, Self::Filter];
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Rights => "rights",
            Self::Landlock => "landlock",
            Self::Filter => "filter",
        })
    }
}

/// A set of layers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Layers(u8);

impl Layers {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(0b1111);

    /// Only one.
    pub const fn only(layer: Layer) -> Self {
        Self(1 << layer as u8)
    }

    /// These and one more.
    pub const fn with(self, layer: Layer) -> Self {
        Self(self.0 | Self::only(layer).0)
    }

    /// These but one.
    pub const fn without(self, layer: Layer) -> Self {
        Self(self.0 & !Self::only(layer).0)
    }

    /// Whether one is among them.
    pub const fn has(self, layer: Layer) -> bool {
        self.0 & Self::only(layer).0 != 0
    }
}

impl Default for Layers {
    fn default() -> Self {
        Self::ALL
    }
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(Layer::ALL.into_iter().filter(|layer| self.has(*layer)))
            .finish()
    }
}

/// How the task's sockets come to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// There are none but pairs, and what the task was started with.
    None,
    /// The process that opens them in a network of the task's own is there before the filter, so the confined broker may
    /// open none but of the host's network, if the task has that.
    #[default]
    Ready,
}

/// How to confine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// What to enter. Entering some now and others in a second call is fine, in the order of [`Layer::ALL`].
    pub layers: Layers,
    /// How the task's sockets come to be.
    pub sockets: Sockets,
    /// What becomes of a system call that the filter does not know.
    pub unlisted: Unlisted,
    /// Where the changes in overlays go; those of others are in memory.
    pub kept: &'a [Kept],
}

/// Something that was not done, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The layer that it belongs to.
    pub layer: Layer,
    /// What the host lacks.
    pub what: String,
}

/// A rule about a path that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The path, as the rule has it.
    pub path: PathBuf,
    /// Why.
    pub why: Why,
    /// Whether the task may have more there for that than the rule says.
    pub is_open: bool,
}

/// Why a rule has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Why {
    /// There is nothing.
    #[error("it does not exist on the host")]
    Missing,
    /// The host's kernel does not let it be looked up.
    #[error("it cannot be looked up: {0}")]
    Lookup(Errno),
    /// `/proc` and `/dev` are made, and not the host's.
    #[error("the sandbox has its own")]
    Own,
    /// A place for it would have to be made among the host's files.
    #[error("there is no place for it in what is visible")]
    NoPlace,
}

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The layers that were entered, as far as the host has them.
    pub entered: Layers,
    /// What the host lacks of them.
    pub lacks: Vec<Lack>,
    /// Rules without an effect.
    pub skipped: Vec<Skipped>,
    /// The version of Landlock's interface that is used, if it is.
    pub landlock: Option<i32>,
    /// How many instructions the filter has, if there is one.
    pub filter: Option<usize>,
}

impl Report {
    /// Notes what is lacking.
    fn lack(&mut self, layer: Layer, lacks: impl IntoIterator<Item = String>) {
        let lacks = lacks.into_iter().map(|what| Lack { layer, what });
        self.lacks.extend(lacks);
    }
}

impl Report {
    /// What is in force when another layer was entered behind these.
    pub fn and(mut self, more: Self) -> Self {
        let layers = Layer::ALL.into_iter();
        let entered = layers.filter(|layer| more.entered.has(*layer));
        self.entered = entered.fold(self.entered, Layers::with);
        self.lacks.extend(more.lacks);
        self.skipped.extend(more.skipped);
        self.landlock = self.landlock.or(more.landlock);
        self.filter = self.filter.or(more.filter);
        self
    }
}

/// Why the broker could not confine itself.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The root directory.
    #[error("the sandbox's root: {0}")]
    Root(#[from] root::RootError),
    /// Capabilities and limits.
    #[error("the sandbox's rights: {0}")]
    Rights(#[from] rights::RightsError),
    /// Landlock.
    #[error("the sandbox's Landlock domain: {0}")]
    Landlock(#[from] ::landlock::RulesetError),
    /// The filter.
    #[error("the sandbox's filter of system calls: {0}")]
    Filter(#[from] filter::FilterError),
}

/// Confines the calling process, which has one thread, and all that it starts from now on; for ever.
///
/// What is open stays open, so what the task must not have is to be closed before. Paths mean what they mean in the
/// new root from here on, and the working directory is the one of the same path, or `/` if there is none.
pub fn enter(rules: &Rules, options: &Options<'_>) -> Result<Report, SandboxError> {
    let mut report = Report {
        entered: Layers::NONE,
        ..Report::default()
    };
    if options.layers.has(Layer::Root) {
        match root::enter(rules, options.kept)? {
            root::Entered::Yes { skipped, lacks } => {
                report.entered = report.entered.with(Layer::Root);
                report.skipped = skipped;
                report.lack(Layer::Root, lacks);
            }
            root::Entered::No(what) => report.lack(Layer::Root, [what]),
        }
    }
    if options.layers.has(Layer::Rights) {
        rights::limit(&rules.limits)?;
        rights::drop_all()?;
        report.entered = report.entered.with(Layer::Rights);
    }
    if options.layers.has(Layer::Landlock) {
        let entered = landlock::enter(rules, options.sockets, report.entered.has(Layer::Root))?;
        report.lack(Layer::Landlock, entered.lacks);
        report.landlock = entered.version;
        if entered.version.is_some() {
            report.entered = report.entered.with(Layer::Landlock);
        }
    }
    if options.layers.has(Layer::Filter) {
        let filter = Filter::new(rules, options.sockets, options.unlisted)?;
        report.filter = Some(filter.len());
        filter.install()?;
        report.entered = report.entered.with(Layer::Filter);
    }
    Ok(report)
}
