// SPDX-License-Identifier: GPL-2.0

//! The sandbox that a broker confines itself to, each time in a process of its own. It needs user 0, to make the host
//! that is looked at; what a user may do is tested as one.

mod common;
mod escape;
mod filter;
mod landlock;
mod overlay;
mod rights;
mod root;
