// SPDX-License-Identifier: GPL-2.0

//! `uvctl`: runs programs in micro-VMs.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
