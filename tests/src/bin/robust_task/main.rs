// SPDX-License-Identifier: GPL-2.0

//! A program that means no good: a part of `robust.sh` and others, run natively and in a micro-VM.
//!
//! `walk` makes every system call that is served with bad pointers in each argument, and prints what comes of it.
//! `forks`, `threads`, `descriptors`, `signals` and `memory` take all that there is of these.
//! `races` changes what calls use while they do, and `fuzz` makes calls at random.

mod arena;
mod call;
mod cases;
mod fuzz;
mod hogs;
mod races;
mod walk;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse().unwrap_or(0);
    let result = match words.as_slice() {
        ["walk"] => walk::main(),
        ["forks"] => done(hogs::forks()),
        ["threads"] => done(hogs::threads()),
        ["descriptors"] => done(hogs::descriptors()),
        ["signals"] => done(hogs::signals()),
        ["memory-file", mib] => done(hogs::memory_file(number(mib))),
        ["touch", fd, mib] => done(hogs::touch(number(fd), number(mib))),
        ["memory", children, mib, how] => done(hogs::memory(
            number(children) as u32,
            number(mib),
            *how == "exec",
        )),
        ["races", time] => races::main(number(time)),
        ["fuzz", time, seed] => fuzz::main(number(time), number(seed)),
        _ => Err(format!("no such part: {words:?}")),
    };
    if let Err(text) = result {
        println!("{text}");
        std::process::exit(1);
    }
}

/// What cannot fail has not failed.
fn done((): ()) -> Result<(), String> {
    Ok(())
}
