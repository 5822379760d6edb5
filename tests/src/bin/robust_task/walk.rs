// SPDX-License-Identifier: GPL-2.0

//! Bad pointers in every argument of every system call that is served.

use uvisor::personality::table::TABLE;
use uvisor::personality::Fate;

use crate::arena::{Arena, Bad};
use crate::call::{call, exit, in_child, outcome, wait};
use crate::cases::{self, Arg, Case, How, World};

/// Where a pointer is: the number of the argument, and the offsets in the structures on the way.
type Place = Vec<usize>;

/// Finds all pointers in `arg`, which is at `place`.
fn pointers(arg: &Arg, place: Place, all: &mut Vec<Place>) {
    if let Arg::With(_, inner) = arg {
        for (offset, arg) in inner {
            let mut place = place.clone();
            place.push(*offset);
            pointers(arg, place, all);
        }
    }
    if !matches!(arg, Arg::Number(_)) {
        all.push(place);
    }
}

/// Places what an argument is, all of it well but for what is at `bad`.
fn place(arena: &mut Arena, arg: &Arg, bad: Option<(&[usize], Bad)>) -> u64 {
    let put = |arena: &mut Arena, bytes: &[u8]| match bad {
        Some(([], bad)) => arena.place_badly(bytes, bad),
        _ => arena.place(bytes),
    };
    match arg {
        Arg::Number(number) => *number,
        Arg::In(bytes) => put(arena, bytes),
        Arg::Out(len) | Arg::At(len) => put(arena, &vec![0; *len]),
        Arg::With(bytes, inner) => {
            let mut bytes = bytes.clone();
            for (offset, arg) in inner {
                let bad = match bad {
                    Some(([first, rest @ ..], bad)) if first == offset => Some((rest, bad)),
                    _ => None,
                };
                let address = place(arena, arg, bad);
                bytes[*offset..*offset + 8].copy_from_slice(&address.to_le_bytes());
            }
            put(arena, &bytes)
        }
    }
}

/// Makes the call of a case; what comes of it.
fn probe(world: &World, arena: &mut Arena, case: &Case, bad: Option<(&Place, Bad)>) -> String {
    arena.clear();
    world.refresh();
    (case.before)(world);
    let args: Vec<u64> = case
        .args
        .iter()
        .enumerate()
        .map(|(index, arg)| {
            let bad = bad.filter(|(place, _)| place[0] == index);
            place(arena, arg, bad.map(|(place, bad)| (&place[1..], bad)))
        })
        .collect();
    let number = case.number;
    let text = match case.how {
        How::Plain => outcome(call(number, &args), false),
        How::Value => outcome(call(number, &args), true),
        How::Child => in_child(|| match call(number, &args) {
            error @ -255..=-1 => -error as u64,
            _ => 0,
        }),
        How::Forks => match call(number, &args) {
            0 => exit(0),
            pid @ 1.. => format!("ok, {}", wait(pid)),
            error => outcome(error, false),
        },
        How::Maps => {
            let result = call(number, &args);
            if result > 0 {
                call(libc::SYS_munmap, &[result as u64, 4096]);
            }
            arena.restore();
            outcome(result, false)
        }
    };
    world.clean();
    text
}

/// What is missing in the cases: arguments that may be pointers.
fn missing(cases: &[Case]) -> Vec<String> {
    let served = TABLE
        .iter()
        .filter(|entry| matches!(entry.fate, Fate::Served(_)))
        .filter(|entry| !cases::SPECIAL.contains(&entry.name));
    served
        .flat_map(|entry| {
            let (shape, _) = entry.shape.split_once('>').unwrap_or((entry.shape, ""));
            shape
                .chars()
                .enumerate()
                .filter(|(index, kind)| {
                    let mut own = cases
                        .iter()
                        .filter(|case| case.number == i64::from(entry.number));
                    let is_number = cases::NUMBERS
                        .iter()
                        .any(|(name, all)| *name == entry.name && all.contains(index));
                    "xs".contains(*kind) && !is_number && !own.any(|case| case.has_pointer(*index))
                })
                .map(|(index, _)| format!("{} argument {index}", entry.name))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Walks all cases.
pub fn main() -> Result<(), String> {
    // The runtime of the language has handlers for these.
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        // SAFETY: That is what signals do by default.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // What waits for ever is a failure.
    call(libc::SYS_alarm, &[600]);
    let world = World::new();
    let cases = cases::all(&world);
    let missing = missing(&cases);
    if !missing.is_empty() {
        return Err(format!("not covered: {}", missing.join(", ")));
    }
    let mut arena = Arena::new();
    for case in &cases {
        let name = case.name();
        println!("{name} good: {}", probe(&world, &mut arena, case, None));
        let mut places = Vec::new();
        for (index, arg) in case.args.iter().enumerate() {
            pointers(arg, vec![index], &mut places);
        }
        for place in &places {
            let text: Vec<String> = place.iter().map(usize::to_string).collect();
            for bad in Bad::ALL {
                if bad == Bad::Null && case.needed == Some(place[0]) {
                    continue;
                }
                let result = probe(&world, &mut arena, case, Some((place, bad)));
                println!("{name} {} {bad:?}: {result}", text.join("."));
            }
        }
    }
    cases::special(&mut arena);
    println!("walked {} cases", cases.len());
    Ok(())
}
