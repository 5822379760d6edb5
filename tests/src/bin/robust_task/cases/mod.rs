// SPDX-License-Identifier: GPL-2.0

//! A call, or several, of every system call that takes pointers: what it is made with when nothing is wrong.

mod files;
mod numbers;
mod processes;
mod sockets;
mod special;
mod world;

pub use numbers::{NUMBERS, SPECIAL};
pub use special::special;
pub use world::World;

/// An argument, or a field of a structure.
#[derive(Clone)]
pub enum Arg {
    /// A number.
    Number(u64),
    /// The address of bytes that are read, and maybe written.
    In(Vec<u8>),
    /// The address of so many bytes that are written.
    Out(usize),
    /// An address that is neither read nor written, of something of that length.
    At(usize),
    /// The address of a structure with further arguments at some offsets.
    With(Vec<u8>, Vec<(usize, Arg)>),
}

/// What is to be seen of a call.
#[derive(Clone, Copy)]
pub enum How {
    /// Its error.
    Plain,
    /// Its result, too.
    Value,
    /// How a child that makes it ends.
    Child,
    /// It makes a child, which ends at once.
    Forks,
    /// It changes what is mapped.
    Maps,
}

/// A call.
pub struct Case {
    pub number: i64,
    what: &'static str,
    pub args: Vec<Arg>,
    pub how: How,
    /// What is done before it.
    pub before: fn(&World),
    /// An argument that makes it wait for ever if it is null.
    pub needed: Option<usize>,
}

impl Case {
    /// What it is called.
    pub fn name(&self) -> String {
        let number = self.number as u64;
        let name = uvisor::personality::table::find(number).map_or("?", |call| call.name);
        match self.what {
            "" => name.to_owned(),
            what => format!("{name}({what})"),
        }
    }

    /// Whether an argument is a pointer.
    pub fn has_pointer(&self, index: usize) -> bool {
        !matches!(self.args.get(index), None | Some(Arg::Number(_)))
    }

    fn how(mut self, how: How) -> Self {
        self.how = how;
        self
    }

    fn what(mut self, what: &'static str) -> Self {
        self.what = what;
        self
    }

    fn needs(mut self, argument: usize) -> Self {
        self.needed = Some(argument);
        self
    }

    fn before(mut self, before: fn(&World)) -> Self {
        self.before = before;
        self
    }
}

fn c<const N: usize>(number: i64, args: [Arg; N]) -> Case {
    Case {
        number,
        what: "",
        args: args.into(),
        how: How::Plain,
        before: |_| {},
        needed: None,
    }
}

/// A call whose result matters.
fn v<const N: usize>(number: i64, args: [Arg; N]) -> Case {
    c(number, args).how(How::Value)
}

fn n(number: impl TryInto<i128>) -> Arg {
    Arg::Number(number.try_into().unwrap_or_default() as u64)
}

/// A string.
fn s(text: &str) -> Arg {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Arg::In(bytes)
}

/// Words that are read.
fn words(words: &[u64]) -> Arg {
    Arg::In(bytes(words))
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Bytes that are read.
fn zeros(len: usize) -> Arg {
    Arg::In(vec![0; len])
}

fn out(len: usize) -> Arg {
    Arg::Out(len)
}

/// A page of addresses.
fn page() -> Arg {
    Arg::At(4096)
}

/// A structure of words with arguments at some offsets.
fn with(words: &[u64], inner: Vec<(usize, Arg)>) -> Arg {
    Arg::With(bytes(words), inner)
}

/// All of them.
pub fn all(world: &World) -> Vec<Case> {
    let mut cases = Vec::new();
    files::add(world, &mut cases);
    files::add_open(world, &mut cases);
    processes::add(world, &mut cases);
    processes::add_memory(world, &mut cases);
    sockets::add(world, &mut cases);
    cases
}
