// SPDX-License-Identifier: GPL-2.0

//! Finding a program and loading it into a micro-VM.

pub mod elf;
mod find;
pub mod plan;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use uvisor_uapi::Prot;

use self::elf::{Elf, ElfError, Source};
pub use self::find::Look;
use self::plan::Step;
use crate::errno::Errno;
use crate::layout::Layout;
use crate::memory::Memory;
use crate::pass;
use crate::space::{Area, Backing, NamedFile, Space};
use crate::stack::{Auxv, StackError};

/// The bit of `AT_HWCAP2` for RDFSBASE and its kin.
const HWCAP2_FSGSBASE: u64 = 1 << 1;

/// As many scripts as may be each other's interpreters.
const MAX_SCRIPTS: usize = 5;

/// Why a program cannot be run.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum LoadError {
    #[error("{}: no such program{}", .0.display(), on_path(.0))]
    NotFound(PathBuf),
    #[error("{}: permission denied: the file must be readable and executable", .0.display())]
    Permission(PathBuf),
    #[error("{}: not a program but a {what}", path.display())]
    NotFile { path: PathBuf, what: &'static str },
    #[error("{}: {error}", path.display())]
    Elf { path: PathBuf, error: ElfError },
    #[error("{}: its interpreter {} does not exist; install the package that has it", path.display(), interpreter.display())]
    NoInterpreter { path: PathBuf, interpreter: PathBuf },
    #[error("{}: the first line of the script names no interpreter", .0.display())]
    Script(PathBuf),
    #[error("{}: too many scripts are each other's interpreters", .0.display())]
    ScriptLoop(PathBuf),
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("{}: there is no room for it in the address space of a micro-VM", .0.display())]
    NoRoom(PathBuf),
    #[error("{}: cannot load it: {error}", path.display())]
    Load { path: PathBuf, error: Errno },
    #[error(transparent)]
    Stack(#[from] StackError),
    #[error(transparent)]
    Vm(#[from] crate::Error),
}

/// Says where a program was looked for, if it was.
fn on_path(name: &Path) -> &'static str {
    if name.as_os_str().as_bytes().contains(&b'/') {
        ""
    } else {
        " in any directory of PATH"
    }
}

impl LoadError {
    /// The exit status of `uvctl run` for it, as shells have it.
    pub fn status(&self) -> u8 {
        match self {
            Self::NotFound(_) | Self::NoInterpreter { .. } => 127,
            Self::Permission(_)
            | Self::NotFile { .. }
            | Self::Elf { .. }
            | Self::Script(_)
            | Self::ScriptLoop(_)
            | Self::Open { .. }
            | Self::NoRoom(_)
            | Self::Load { .. }
            | Self::Stack(_) => 126,
            Self::Vm(_) => 125,
        }
    }
}

/// A file with its length, to parse.
struct Opened<'a> {
    file: &'a File,
    len: u64,
}

impl Source for Opened<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ElfError> {
        self.file
            .read_exact_at(bytes, offset)
            .map_err(|error| ElfError::Read(error.to_string()))
    }
}

/// An executable file.
#[derive(Debug)]
struct Image {
    path: PathBuf,
    file: File,
    elf: Elf,
}

/// A program that was found and can be loaded.
#[derive(Debug)]
pub struct Program {
    image: Image,
    interpreter: Option<Image>,
    /// The scripts that led to it.
    scripts: Vec<(PathBuf, File)>,
    /// Its arguments; a script's are those of its interpreter.
    pub arguments: Vec<Vec<u8>>,
    /// The path that the caller meant (`AT_EXECFN`).
    pub name: PathBuf,
}

/// A program in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Where it starts: in its interpreter, if it has one.
    pub entry: u64,
    /// What the program must know.
    pub auxv: Auxv,
    /// Where the heap starts.
    pub heap: u64,
    /// Whether its stack is executable.
    pub executable_stack: bool,
}

impl Program {
    /// Finds the program that `execve` names: at `path`, with all its `arguments`.
    pub fn at(path: &Path, arguments: &[Vec<u8>]) -> Result<Self, LoadError> {
        Self::looked_up(path, arguments, &find::look)
    }

    /// The same, but nothing is opened that `look` does not give a handle on.
    pub fn looked_up(
        path: &Path,
        arguments: &[Vec<u8>],
        look: Look<'_>,
    ) -> Result<Self, LoadError> {
        // Without a slash a path is relative, and not to be looked for.
        let named = match path.as_os_str().as_bytes().contains(&b'/') {
            true => path.to_path_buf(),
            false => Path::new(".").join(path),
        };
        let rest = arguments.get(1..).unwrap_or(&[]);
        let mut program = Self::read(named.as_os_str(), named.clone(), rest, look)?;
        // A script's own name is not passed on.
        if program.arguments.len() == rest.len() + 1 {
            if let Some(name) = arguments.first() {
                program.arguments[0].clone_from(name);
            }
        }
        program.name = path.to_path_buf();
        Ok(program)
    }

    /// Finds `name` as `execvp` does, with `arguments` after it.
    pub fn find(name: &OsStr, arguments: &[Vec<u8>]) -> Result<Self, LoadError> {
        Self::read(name, find::search(name)?, arguments, &find::look)
    }

    /// Reads what is at `path`, and what that names.
    fn read(
        name: &OsStr,
        mut path: PathBuf,
        arguments: &[Vec<u8>],
        look: Look<'_>,
    ) -> Result<Self, LoadError> {
        let limit = Layout::MAX_LIMIT;
        let found = path.clone();
        let mut arguments: Vec<Vec<u8>> = [name.as_bytes().to_vec()]
            .into_iter()
            .chain(arguments.iter().cloned())
            .collect();
        let mut scripts: Vec<(PathBuf, File)> = Vec::new();
        for _ in 0..=MAX_SCRIPTS {
            let file = match (find::open(&path, look), scripts.last()) {
                (Err(LoadError::NotFound(interpreter)), Some((script, _))) => {
                    return Err(LoadError::NoInterpreter {
                        path: PathBuf::clone(script),
                        interpreter,
                    })
                }
                (file, _) => file?,
            };
            let Some((interpreter, argument)) = find::script(&file, &path)? else {
                let image = parse(path, file, limit)?;
                let interpreter = interpreter(&image, limit, look)?;
                return Ok(Self {
                    image,
                    interpreter,
                    scripts,
                    arguments,
                    name: found,
                });
            };
            // The script's path takes the place of its name, behind the interpreter.
            arguments[0] = path.as_os_str().as_bytes().to_vec();
            let front = [Some(interpreter.clone()), argument];
            arguments.splice(0..0, front.into_iter().flatten());
            let next = PathBuf::from(OsStr::from_bytes(&interpreter));
            scripts.push((std::mem::replace(&mut path, next), file));
        }
        Err(LoadError::ScriptLoop(found))
    }

    /// All files that are executed for it, each with the path that it was opened by: scripts, the program, and what
    /// loads that.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &File)> {
        let loader = self.interpreter.iter();
        self.started()
            .chain(loader.map(|image| (image.path.as_path(), &image.file)))
    }

    /// Those of them that are programs, or scripts, and not what loads a program.
    pub fn started(&self) -> impl Iterator<Item = (&Path, &File)> {
        let scripts = self
            .scripts
            .iter()
            .map(|(path, file)| (path.as_path(), file));
        scripts.chain([(self.image.path.as_path(), &self.image.file)])
    }

    /// The executable file's path.
    pub fn path(&self) -> &Path {
        &self.image.path
    }

    /// Loads it into `memory` as `layout` says, and notes its areas in `space`; `hidden` says that its code is not to be
    /// read.
    pub fn load(
        &self,
        memory: &Memory,
        space: &mut Space,
        layout: &Layout,
        hidden: bool,
    ) -> Result<Loaded, LoadError> {
        let elf = &self.image.elf;
        let bias = match elf.relocatable {
            true => place(elf, layout.program_base),
            false => Some(0),
        };
        let no_room = || LoadError::NoRoom(self.image.path.clone());
        let bias = bias.ok_or_else(no_room)?;
        let end = self.image.load(memory, space, bias, hidden)?;
        let (base, entry) = match &self.interpreter {
            None => (0, elf.entry + bias),
            Some(image) => {
                let (start, end) = image.elf.span();
                let size = (end - start)
                    .checked_add(image.elf.align)
                    .ok_or_else(no_room)?;
                let at = space
                    .find(size, crate::layout::MMAP_MIN, layout.mmap_top)
                    .ok_or_else(no_room)?;
                let bias = if image.elf.relocatable {
                    // To the top of what was found, where the alignment allows it.
                    let slack = size - (end - start);
                    let at = (at + slack) & !(image.elf.align - 1);
                    at.checked_sub(start & !(image.elf.align - 1))
                        .ok_or_else(no_room)?
                } else {
                    0
                };
                image.load(memory, space, bias, hidden)?;
                (bias, image.elf.entry + bias)
            }
        };
        let heap = end.checked_add(layout.heap_gap).ok_or_else(no_room)?;
        Ok(Loaded {
            entry,
            auxv: auxv(elf, bias, base),
            heap,
            executable_stack: elf.executable_stack,
        })
    }
}

/// The permission of memory whose code is not to be read if it is `hidden`; what is written stays readable.
pub(crate) fn of_code(prot: Prot, hidden: bool) -> Prot {
    match hidden && prot.contains(Prot::EXEC) && !prot.contains(Prot::WRITE) {
        true => Prot::EXEC,
        false => prot,
    }
}

/// The bias that puts `elf` at `base`, or above it for its alignment.
fn place(elf: &Elf, base: u64) -> Option<u64> {
    let aligned = base.checked_add(elf.align - 1)? & !(elf.align - 1);
    aligned.checked_sub(elf.span().0 & !(elf.align - 1))
}

/// What the kernel tells a program of itself.
fn auxv(elf: &Elf, bias: u64, base: u64) -> Auxv {
    // SAFETY: It takes an integer, and answers 0 for what it does not know.
    let host = |key| unsafe { libc::getauxval(key) };
    let headers = match elf.headers {
        0 => 0,
        headers => headers + bias,
    };
    let id = |result: crate::errno::SysResult| result.unwrap_or(65534);
    vec![
        (libc::AT_HWCAP, host(libc::AT_HWCAP)),
        (libc::AT_PAGESZ, uvisor_uapi::PAGE_SIZE),
        (libc::AT_CLKTCK, host(libc::AT_CLKTCK)),
        (libc::AT_PHDR, headers),
        (libc::AT_PHENT, 56),
        (libc::AT_PHNUM, elf.header_count.into()),
        (libc::AT_BASE, base),
        (libc::AT_FLAGS, 0),
        (libc::AT_ENTRY, elf.entry + bias),
        (libc::AT_UID, id(pass!(GETUID))),
        (libc::AT_EUID, id(pass!(GETEUID))),
        (libc::AT_GID, id(pass!(GETGID))),
        (libc::AT_EGID, id(pass!(GETEGID))),
        (libc::AT_SECURE, 0),
        // RDFSBASE and its kin work in a micro-VM if they do outside; user-level MWAIT does not.
        (libc::AT_HWCAP2, host(libc::AT_HWCAP2) & HWCAP2_FSGSBASE),
        (libc::AT_MINSIGSTKSZ, host(libc::AT_MINSIGSTKSZ)),
    ]
}

impl Image {
    /// Loads the segments; returns the end of the last.
    fn load(
        &self,
        memory: &Memory,
        space: &mut Space,
        bias: u64,
        hidden: bool,
    ) -> Result<u64, LoadError> {
        let failed = |error| LoadError::Load {
            path: self.path.clone(),
            error,
        };
        let no_room = || LoadError::NoRoom(self.path.clone());
        let (start, end) = self.elf.span();
        let start = start.checked_add(bias).ok_or_else(no_room)?;
        let end = end.checked_add(bias).ok_or_else(no_room)?;
        if end > memory.limit() || !space.is_free(start, end) {
            return Err(no_room());
        }
        let named = NamedFile::of(self.file.as_raw_fd()).map_err(failed)?;
        let named = Arc::new(named);
        for step in plan::plan(&self.elf, bias).ok_or_else(no_room)? {
            match step {
                Step::File {
                    gpa,
                    len,
                    prot,
                    offset,
                } => {
                    let prot = of_code(prot, hidden);
                    memory
                        .vm()
                        .map_file(gpa, len, prot, self.file.as_fd(), offset)?;
                    let area = area(gpa, len, prot, Backing::PrivateFile);
                    space.insert_file(gpa, area, &named, offset);
                }
                Step::Anonymous { gpa, len, prot } => {
                    memory.vm().map_anonymous(gpa, len, prot)?;
                    space.insert(gpa, area(gpa, len, prot, Backing::Anonymous));
                }
                Step::Zero { gpa, len } => {
                    let zeros = vec![0; len as usize];
                    memory.write(gpa, &zeros).map_err(failed)?;
                }
            }
        }
        Ok(end)
    }
}

/// An area of `len` bytes.
fn area(start: u64, len: u64, prot: Prot, backing: Backing) -> Area {
    let end = start + len;
    Area { end, prot, backing }
}

/// Parses an executable file.
fn parse(path: PathBuf, file: File, limit: u64) -> Result<Image, LoadError> {
    let len = match file.metadata() {
        Ok(metadata) => metadata.len(),
        Err(source) => return Err(LoadError::Open { path, source }),
    };
    let source = Opened { file: &file, len };
    match Elf::parse(&source, limit) {
        Ok(elf) => Ok(Image { path, file, elf }),
        Err(error) => Err(LoadError::Elf { path, error }),
    }
}

/// Opens and parses the interpreter of `image`, if it has one.
fn interpreter(image: &Image, limit: u64, look: Look<'_>) -> Result<Option<Image>, LoadError> {
    let Some(name) = &image.elf.interpreter else {
        return Ok(None);
    };
    let path = PathBuf::from(OsStr::from_bytes(name));
    let file = match find::open(&path, look) {
        Err(LoadError::NotFound(interpreter)) => {
            return Err(LoadError::NoInterpreter {
                path: image.path.clone(),
                interpreter,
            })
        }
        file => file?,
    };
    parse(path, file, limit).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_programs_on_the_path() {
        let program = Program::find(OsStr::new("true"), &[]).unwrap();
        assert_eq!(program.arguments, [b"true"]);
        assert!(program.path().is_absolute());
        assert!(program.interpreter.is_some());
    }

    #[test]
    fn explains_what_is_no_program() {
        let find = |name: &str| Program::find(OsStr::new(name), &[]).unwrap_err();
        for (name, status, text) in [
            ("no-such-program", 127, "in any directory of PATH"),
            ("/no/such/program", 127, "no such program"),
            ("", 127, "no such program"),
            ("/usr", 126, "directory"),
            ("/dev/null", 126, "device"),
            ("/etc/passwd", 126, "executable"),
        ] {
            let error = find(name);
            assert_eq!(error.status(), status, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}
