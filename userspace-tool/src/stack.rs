// SPDX-License-Identifier: GPL-2.0

//! The stack that a program starts with: argument count, arguments, environment, auxiliary vector.

use thiserror::Error;

use crate::layout::Initial;

/// Entries of the auxiliary vector, in the order in which they are written.
pub type Auxv = Vec<(u64, u64)>;

/// What a program is started with.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Its arguments, its name first.
    pub arguments: Vec<Vec<u8>>,
    /// Its environment, as `NAME=value`.
    pub environment: Vec<Vec<u8>>,
    /// The path it was found at (`AT_EXECFN`).
    pub path: Vec<u8>,
    /// Random bytes (`AT_RANDOM`).
    pub random: [u8; 16],
    /// The rest of the auxiliary vector.
    pub auxv: Auxv,
}

/// The bytes of a new stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stack {
    /// The stack pointer, which is also where the bytes begin.
    pub pointer: u64,
    /// The bytes up to the end of the stack.
    pub bytes: Vec<u8>,
    /// Where the random bytes are (`AT_RANDOM`).
    pub random: u64,
    /// Where the rest is that programs look for.
    pub initial: Initial,
}

/// Why a stack cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StackError {
    /// More than a quarter of the stack.
    #[error("the arguments and the environment take {size} bytes; {max} is the most")]
    TooLong {
        /// What they take.
        size: u64,
        /// What they may take.
        max: u64,
    },
    /// A string with a NUL in it.
    #[error("an argument or environment string contains a NUL byte")]
    Nul,
}

/// `AT_PLATFORM`.
const PLATFORM: &[u8] = b"x86_64";

/// Builds the stack for `start` at the end of a region of `size` bytes that ends at `top`.
pub fn build(start: &Start, top: u64, size: u64) -> Result<Stack, StackError> {
    let strings = start.arguments.iter().chain(&start.environment);
    let text: u64 = strings
        .chain([&start.path])
        .map(|string| string.len() as u64 + 1)
        .sum();
    let words = (start.arguments.len() + start.environment.len() + 3) as u64
        + 2 * (start.auxv.len() as u64 + 4);
    let total = text + words * 8 + 64;
    let max = size / 4;
    if total > max {
        return Err(StackError::TooLong { size: total, max });
    }

    // From the top down: a null word, the path, the environment, the arguments; then the platform
    // and the random bytes; then, 16-byte aligned, the words.
    let mut strings = Strings {
        at: top - 8,
        bytes: vec![0; 8],
    };
    let path = strings.push(&start.path)?;
    let environment_end = strings.at;
    let environment = strings.push_all(&start.environment)?;
    let arguments_end = strings.at;
    let arguments = strings.push_all(&start.arguments)?;
    let arguments_start = strings.at;
    let platform = strings.push(PLATFORM)?;
    strings.align(16);
    let random = strings.push_bytes(&start.random);

    let mut words = vec![arguments.len() as u64];
    words.extend(&arguments);
    words.push(0);
    words.extend(&environment);
    words.push(0);
    let own = [
        (libc::AT_RANDOM, random),
        (libc::AT_EXECFN, path),
        (libc::AT_PLATFORM, platform),
        (libc::AT_NULL, 0),
    ];
    for &(key, value) in start.auxv.iter().chain(&own) {
        words.extend([key, value]);
    }
    // The stack pointer is a multiple of 16.
    if words.len() % 2 == 1 {
        strings.push_bytes(&[0; 8]);
    }
    for word in words.iter().rev() {
        strings.push_bytes(&word.to_le_bytes());
    }
    strings.bytes.reverse();
    let vector = strings.at + 8 * (arguments.len() + environment.len() + 3) as u64;
    let pairs = (start.auxv.len() + own.len()) as u64;
    Ok(Stack {
        initial: Initial {
            arguments: (arguments_start, arguments_end),
            environment: (arguments_end, environment_end),
            auxv: (vector, vector + 16 * pairs),
        },
        pointer: strings.at,
        bytes: strings.bytes,
        random,
    })
}

/// Bytes that grow downwards; kept in reverse.
struct Strings {
    at: u64,
    bytes: Vec<u8>,
}

impl Strings {
    /// Puts `bytes` below what is there; returns their address.
    fn push_bytes(&mut self, bytes: &[u8]) -> u64 {
        self.bytes.extend(bytes.iter().rev());
        self.at -= bytes.len() as u64;
        self.at
    }

    /// Puts a string with its NUL below what is there; returns its address.
    fn push(&mut self, string: &[u8]) -> Result<u64, StackError> {
        if string.contains(&0) {
            return Err(StackError::Nul);
        }
        self.push_bytes(&[0]);
        Ok(self.push_bytes(string))
    }

    /// Puts strings so that they are in order; returns their addresses.
    fn push_all(&mut self, strings: &[Vec<u8>]) -> Result<Vec<u64>, StackError> {
        let mut addresses = Vec::with_capacity(strings.len());
        for string in strings.iter().rev() {
            addresses.push(self.push(string)?);
        }
        addresses.reverse();
        Ok(addresses)
    }

    /// Aligns the end downwards.
    fn align(&mut self, to: u64) {
        while self.at % to != 0 {
            self.push_bytes(&[0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOP: u64 = 0x7f_c000_0000;
    const SIZE: u64 = 8 << 20;

    /// Reads a stack as a program does.
    struct Reader<'a>(&'a Stack);

    impl Reader<'_> {
        fn word(&self, at: u64) -> u64 {
            let offset = (at - self.0.pointer) as usize;
            u64::from_le_bytes(self.0.bytes[offset..offset + 8].try_into().unwrap())
        }

        fn string(&self, at: u64) -> Vec<u8> {
            let rest = &self.0.bytes[(at - self.0.pointer) as usize..];
            rest[..rest.iter().position(|&b| b == 0).unwrap()].to_vec()
        }

        /// Null-terminated strings at `at`, and where the words after them are.
        fn strings(&self, mut at: u64) -> (Vec<Vec<u8>>, u64) {
            let mut strings = Vec::new();
            while self.word(at) != 0 {
                strings.push(self.string(self.word(at)));
                at += 8;
            }
            (strings, at + 8)
        }
    }

    fn check(start: &Start) {
        let stack = build(start, TOP, SIZE).unwrap();
        assert_eq!(stack.pointer % 16, 0);
        assert_eq!(stack.pointer + stack.bytes.len() as u64, TOP);
        let reader = Reader(&stack);
        assert_eq!(reader.word(stack.pointer), start.arguments.len() as u64);
        let (arguments, at) = reader.strings(stack.pointer + 8);
        assert_eq!(arguments, start.arguments);
        let (environment, mut at) = reader.strings(at);
        assert_eq!(environment, start.environment);
        let initial = stack.initial;
        assert_eq!(initial.auxv.0, at);
        let mut auxv = Vec::new();
        while reader.word(at) != libc::AT_NULL {
            auxv.push((reader.word(at), reader.word(at + 8)));
            at += 16;
        }
        assert_eq!(initial.auxv.1, at + 16);
        let text = |(from, to): (u64, u64)| {
            let [from, to] = [from, to].map(|at| (at - stack.pointer) as usize);
            stack.bytes[from..to].to_vec()
        };
        let joined = |strings: &[Vec<u8>]| {
            let with_nul = strings.iter().map(|string| [string, &b"\0"[..]].concat());
            with_nul.collect::<Vec<_>>().concat()
        };
        assert_eq!(text(initial.arguments), joined(&start.arguments));
        assert_eq!(text(initial.environment), joined(&start.environment));
        assert_eq!(auxv[..start.auxv.len()], start.auxv);
        let value = |key| auxv.iter().find(|(k, _)| *k == key).unwrap().1;
        assert_eq!(reader.string(value(libc::AT_EXECFN)), start.path);
        assert_eq!(reader.string(value(libc::AT_PLATFORM)), PLATFORM);
        let random = value(libc::AT_RANDOM);
        assert_eq!(random % 16, 0);
        assert_eq!(random, stack.random);
        let offset = (random - stack.pointer) as usize;
        assert_eq!(stack.bytes[offset..offset + 16], start.random);
    }

    #[test]
    fn empty() {
        check(&Start::default());
    }

    #[test]
    fn too_long() {
        let start = Start {
            arguments: vec![vec![b'x'; (SIZE / 4) as usize]],
            ..Start::default()
        };
        let error = build(&start, TOP, SIZE).unwrap_err();
        assert!(matches!(error, StackError::TooLong { .. }));
    }

    #[test]
    fn nul() {
        let start = Start {
            arguments: vec![b"a\0b".to_vec()],
            ..Start::default()
        };
        assert_eq!(build(&start, TOP, SIZE), Err(StackError::Nul));
    }

    fn strings() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(1u8.., 0..40), 0..12)
    }

    proptest! {
        #[test]
        fn reads_back(
            arguments in strings(), environment in strings(), random in any::<[u8; 16]>(),
            auxv in proptest::collection::vec((1u64..9, any::<u64>()), 0..9),
        ) {
            let path = b"/usr/bin/true".to_vec();
            check(&Start { arguments, environment, path, random, auxv });
        }
    }
}
