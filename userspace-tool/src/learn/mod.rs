// SPDX-License-Identifier: GPL-2.0

//! Learning a profile from what a program did when it was let do nearly everything.
//!
//! The broker tells what each system call touched ([`Seen`]), [`Facts`] collects that, and makes of it the profile
//! that gives as much, and no more ([`Learned`]).

mod facts;
mod written;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use facts::Facts;
pub use written::Learned;

/// Something that a system call touched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// The call itself.
    Call {
        /// Its name.
        name: String,
    },
    /// A file, or a directory.
    Path {
        /// Where it is, from the root directory on; it may lead over links.
        path: Vec<u8>,
        /// What for.
        usage: Use,
    },
    /// A process was made.
    Fork,
    /// Memory that was no file's, or could be written, became executable.
    Code,
    /// Somebody was reached, or could be.
    Address {
        /// By TCP; else by UDP.
        tcp: bool,
        /// The address.
        ip: IpAddr,
        /// The port.
        port: u16,
        /// Whether it is an own one.
        listen: bool,
    },
}

/// What a file was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// Its attributes, or where a link leads.
    Look,
    /// To be read.
    Read,
    /// To be listed: it is a directory.
    List,
    /// To be executed, or mapped to be.
    Execute,
    /// To be changed, made or removed.
    Change,
}
