// SPDX-License-Identifier: GPL-2.0

//! Templates: programs that were started once, to go on from there any number of times.
//!
//! A program runs in a micro-VM until a [`Point`]. There the micro-VM is frozen; together with its vCPU,
//! what the broker knows about the task ([`State`]), and the files that it has open, it is a [`Template`].
//! Each run of it is a clone in a process of its own.
//!
//! A micro-VM lives as long as its file is open, so a template is held by a process ([`holder`]) that
//! gives it to those who ask at its socket ([`directory`]).

pub mod directory;
mod files;
pub mod holder;
mod point;
mod resume;
mod socket;
mod state;
pub mod verify;

use std::os::fd::OwnedFd;

use thiserror::Error;

pub use files::Stdio;
pub use point::Point;
pub use resume::Resume;
pub use state::{About, OpenFile, State};

use crate::errno::Errno;
use crate::sandbox::SandboxError;
use crate::task::TaskError;
use crate::{Vcpu, Vm};

/// The most files that a template can have open: as many as one message takes, less the template's own.
pub const FILES_MAX: usize = 240;

/// A program that does not run, and can be gone on with.
#[derive(Debug)]
pub struct Template {
    /// What the broker knows about it.
    pub state: State,
    /// The micro-VM.
    pub vm: Vm,
    /// Its vCPU.
    pub vcpu: Vcpu,
    /// The directory that the program is in.
    cwd: OwnedFd,
    /// The files that it has open, in the order of those in the state that need one.
    files: Vec<OwnedFd>,
}

/// Why there is no template, or it cannot be used.
#[derive(Debug, Error)]
pub enum TemplateError {
    /// A name that is none.
    #[error(
        "{0:?} is no name for a template: names are 1 to 64 letters, digits, dots, dashes and \
         underscores, and begin with a letter or a digit"
    )]
    Name(String),
    /// There is one of this name.
    #[error("there is a template {0} already: remove it with `uvctl template rm {0}`, or take another name")]
    Exists(String),
    /// There is none of this name.
    #[error("there is no template {0}: `uvctl template list` shows those that there are")]
    Missing(String),
    /// The process that held it has ended.
    #[error("the template {0} is gone, since the process that held it has ended: create it again")]
    Dead(String),
    /// The process that holds it does not answer.
    #[error("process {pid}, which holds the template {name}, does not answer: {error}")]
    Silent {
        /// The template.
        name: String,
        /// Its holder.
        pid: u32,
        /// What went wrong.
        error: Errno,
    },
    /// Somebody else's socket.
    #[error("the socket of the template {name} belongs to process {pid} of user {uid}, not to us: not using it")]
    Foreign {
        /// The template.
        name: String,
        /// Who has it.
        pid: u32,
        /// Whose that is.
        uid: u32,
    },
    /// The directory of sockets cannot be used.
    #[error("cannot use {path} for the sockets of templates: {why}")]
    Directory {
        /// The directory.
        path: String,
        /// What is wrong, and what to do about it.
        why: String,
    },
    /// An open file that a template cannot have.
    #[error("the program has {what} open as descriptor {fd}, which no template can carry over: let it close that before")]
    OpenFile {
        /// The descriptor.
        fd: i32,
        /// What it is.
        what: String,
    },
    /// A program with several threads.
    #[error("the program has {0} threads, and a template can have but one: stop it before it starts them")]
    Threads(usize),
    /// A program with children.
    #[error(
        "the program has children, which no template can carry over: let it wait for them before"
    )]
    Children,
    /// A program with memory that others may have.
    #[error("the program has shared memory (MAP_SHARED), which would be a channel between all runs of a template: let it unmap that before")]
    SharedMemory,
    /// More open files than a message takes.
    #[error(
        "the program has more than {FILES_MAX} files open, which is as many as a template can have"
    )]
    TooManyFiles,
    /// A file cannot be opened again.
    #[error("cannot open the template's file {path} again, its descriptor {fd}: {error}")]
    Reopen {
        /// The descriptor.
        fd: i32,
        /// The path that it had.
        path: String,
        /// Why not.
        error: Errno,
    },
    /// A run may do less than the micro-VM of the template lets it.
    #[error(
        "the template may {0}, and so would this run, whose profile does not let it: give the run a profile that does \
         (--profile), or create the template under this one"
    )]
    Rules(&'static str),
    /// An open file that the run is not given.
    #[error(
        "the template has {path} open, as descriptor {fd}, which this run is not given: add --ro {path}, or take a profile \
         that gives it"
    )]
    NotGiven {
        /// The descriptor.
        fd: i32,
        /// The path that it had.
        path: String,
    },
    /// A template of another version of the program.
    #[error("the template was made by another version of uvctl ({0}): create it again")]
    Version(String),
    /// Arguments for a program that cannot get any.
    #[error(
        "the program of this template has started already, and gets no arguments: give it its input on \
         standard input (only a template made with `--until checkpoint` takes arguments)"
    )]
    Arguments,
    /// A message that is not what it should be.
    #[error("what the template's holder sent makes no sense ({0})")]
    Message(&'static str),
    /// The holder could not take the template.
    #[error("{0}")]
    Holder(String),
    /// A program that became another one.
    #[error(
        "the program executed another program, in a micro-VM that has nothing of the template"
    )]
    Executed,
    /// Its holder cannot confine itself.
    #[error("cannot confine the process that holds the template: {0}")]
    Sandbox(#[from] SandboxError),
    /// A call to the module failed.
    #[error(transparent)]
    Module(#[from] crate::Error),
    /// A system call failed.
    #[error("{what}: {error}")]
    Call {
        /// What was to be done.
        what: &'static str,
        /// Why it failed.
        error: Errno,
    },
    /// The task cannot go on.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl TemplateError {
    /// The exit status of `uvctl` for it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Task(error) => error.status(),
            _ => 125,
        }
    }
}

/// The result of what is done with templates.
pub type Result<T, E = TemplateError> = std::result::Result<T, E>;

/// Makes an error say what was to be done.
trait During<T> {
    fn during(self, what: &'static str) -> Result<T>;
}

impl<T> During<T> for Result<T, Errno> {
    fn during(self, what: &'static str) -> Result<T> {
        self.map_err(|error| TemplateError::Call { what, error })
    }
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, what: &'static str) -> Result<T> {
        self.map_err(|error| TemplateError::Call {
            what,
            error: error.into(),
        })
    }
}
