// SPDX-License-Identifier: GPL-2.0

//! A program that means no good: a part of `robust.sh` and others, run natively and in a micro-VM.
//!
//! `walk` makes every system call that is served with bad pointers in each argument, and prints what comes of it.
//! `forks`, `threads`, `descriptors`, `signals` and `memory` take all that there is of these.
//! `apart` tries to leave its task, `frames` goes back from handlers by what is no frame, `races` changes what calls use while they do, and `fuzz` makes calls at random.

mod apart;
mod arena;
mod call;
mod cases;
mod frames;
mod fuzz;
mod hogs;
mod races;
mod walk;

/// Does what the words say.
fn part(words: &[&str]) -> Result<(), String> {
    let number = |word: &str| word.parse().unwrap_or(0);
    match words {
        ["walk"] => return walk::main(),
        ["races", time] => return races::main(number(time)),
        ["fuzz", time, seed] => return fuzz::main(number(time), number(seed)),
        ["forks"] => hogs::forks(),
        ["apart"] => apart::main(),
        ["frames"] => frames::main(),
        ["threads"] => hogs::threads(),
        ["descriptors"] => hogs::descriptors(),
        ["signals"] => hogs::signals(),
        ["memory-file", mib] => hogs::memory_file(number(mib)),
        ["touch", fd, mib] => hogs::touch(number(fd), number(mib)),
        ["memory", children, mib, how] => {
            hogs::memory(number(children) as u32, number(mib), *how == "exec");
        }
        _ => return Err(format!("no such part: {words:?}")),
    }
    Ok(())
}

fn main() {
    // What the fuzzer starts it with need not be text.
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<String> = arguments
        .map(|word| word.to_string_lossy().into())
        .collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(text) = part(&words) {
        println!("{text}");
        std::process::exit(1);
    }
}
