// SPDX-License-Identifier: GPL-2.0

//! `uvctl doctor`.

use std::process::ExitCode;

use serde_json::json;

use super::checks::{self, Check, Level};
use super::{style, Output};

/// Prints what the machine offers and what to do about what it lacks.
pub(crate) fn main(output: Output) -> ExitCode {
    let checks = checks::all();
    let able = checks.iter().all(|check| check.level != Level::Fail);
    if output.json {
        let list: Vec<_> = checks
            .iter()
            .map(|check| {
                json!({
                    "check": check.name,
                    "level": check.level.name(),
                    "found": check.found,
                    "advice": check.advice,
                })
            })
            .collect();
        println!("{:#}", json!({ "able": able, "checks": list }));
    } else {
        print(&checks, able);
    }
    ExitCode::from(u8::from(!able))
}

/// Prints the checks for a person.
fn print(checks: &[Check], able: bool) {
    let colours = style::colours();
    for check in checks {
        let level = style::paint(check.level.name(), check.level.colour(), colours);
        println!("{level:<4}  {:<16} {}", check.name, check.found);
        if let Some(advice) = &check.advice {
            println!("      {:<16} -> {advice}", "");
        }
    }
    println!(
        "\n{}",
        match able {
            true => "This machine can run micro-VMs.",
            false => "This machine cannot run micro-VMs yet.",
        }
    );
}
