// SPDX-License-Identifier: GPL-2.0

//! Where the sockets of a user's templates are: in a directory that is the user's alone.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{
    flock, fstat, mkdirat, open, statat, unlinkat, AtFlags, FlockOperation, Mode, OFlags, Stat, CWD,
};
use rustix::io::Errno as Os;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    bind, connect, listen, socket_with, AddressFamily, SocketAddrUnix, SocketFlags, SocketType,
};
use rustix::process::geteuid;

use super::socket::{be_patient, receive, tell, Message};
use super::{During, Result, Template, TemplateError};

/// The name of a template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self> {
        let first = text.bytes().next();
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if text.len() <= 64
            && first.is_some_and(|byte| byte.is_ascii_alphanumeric())
            && text.bytes().all(known)
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(TemplateError::Name(text.to_owned()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is behind a name.
#[derive(Debug)]
pub enum Found {
    /// A template, and the process that holds it.
    Template(Box<Template>, u32),
    /// A socket whose process has ended.
    Dead,
}

/// The directory.
#[derive(Debug)]
pub struct Directory {
    fd: OwnedFd,
    path: PathBuf,
}

/// The lock of a directory, until it is dropped. Whoever removes or makes names has it.
struct Lock<'a>(&'a Directory);

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        // If that fails, it goes with the directory's descriptor.
        let _ = flock(&self.0.fd, FlockOperation::Unlock);
    }
}

impl Directory {
    /// The calling user's: `$XDG_RUNTIME_DIR/uvisor`, if that is set to a directory of this user, else
    /// `/run/uvisor/UID`; made if it is missing.
    pub fn open() -> Result<Self> {
        let uid = geteuid();
        let parent = std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            // Who runs us by sudo may have left us the directory of another user.
            .filter(|path| {
                statat(CWD, path, AtFlags::empty()).is_ok_and(|stat| stat.st_uid == uid.as_raw())
            });
        let path = match parent {
            Some(parent) => parent.join("uvisor"),
            None => {
                let shared = Path::new("/run/uvisor");
                make(shared, 0o755)?;
                let stat = statat(CWD, shared, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| refused(shared, error.to_string()))?;
                // Else its owner could put another directory in the place of ours.
                if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
                    let why =
                        "it must be root's, and nobody else may write to it: set XDG_RUNTIME_DIR \
                               to a directory of your own";
                    return Err(refused(shared, why));
                }
                shared.join(uid.as_raw().to_string())
            }
        };
        make(&path, 0o700)?;
        Self::at(path)
    }

    /// One that exists, if it is the user's alone.
    fn at(path: PathBuf) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            open(&path, flags, Mode::empty()).map_err(|error| refused(&path, error.to_string()))?;
        let stat = fstat(&fd).map_err(|error| refused(&path, error.to_string()))?;
        if stat.st_uid != geteuid().as_raw() {
            let why = format!("it belongs to user {}; remove it", stat.st_uid);
            return Err(refused(&path, why));
        }
        if stat.st_mode & 0o077 != 0 {
            let why = format!(
                "others may use it (mode {:o}): `chmod 700` it, after a look at what is in it",
                stat.st_mode & 0o7777
            );
            return Err(refused(&path, why));
        }
        Ok(Self { fd, path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A descriptor of it.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits for the lock.
    fn lock(&self) -> Result<Lock<'_>> {
        loop {
            match flock(&self.fd, FlockOperation::LockExclusive) {
                Err(Os::INTR) => {}
                result => {
                    result.map_err(|error| refused(&self.path, error.to_string()))?;
                    return Ok(Lock(self));
                }
            }
        }
    }

    /// The address of a name. By way of the descriptor, as a socket's path must be short.
    fn address(&self, name: &Name) -> Result<SocketAddrUnix> {
        let path = format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd());
        SocketAddrUnix::new(path).during("cannot name a socket")
    }

    /// Connects to the holder of a template; `None` if it has ended.
    fn connect(&self, name: &Name) -> Result<Option<(OwnedFd, u32)>> {
        let socket = socket().during("cannot make a socket")?;
        match connect(&socket, &self.address(name)?) {
            Ok(()) => {}
            Err(Os::CONNREFUSED) => return Ok(None),
            Err(Os::NOENT) => return Err(TemplateError::Missing(name.to_string())),
            Err(error) => return Err(error).during("cannot connect to the template's holder"),
        }
        let peer = socket_peercred(&socket).during("cannot ask who holds the template")?;
        let pid = peer.pid.as_raw_nonzero().get() as u32;
        if peer.uid != geteuid() {
            return Err(TemplateError::Foreign {
                name: name.to_string(),
                pid,
                uid: peer.uid.as_raw(),
            });
        }
        be_patient(socket.as_fd()).during("cannot set up a socket")?;
        Ok(Some((socket, pid)))
    }

    /// Asks the holder of a template something.
    fn ask(&self, name: &Name, question: &Message) -> Result<Option<(Message, u32)>> {
        let Some((socket, pid)) = self.connect(name)? else {
            return Ok(None);
        };
        tell(socket.as_fd(), question)?;
        match receive(socket.as_fd()) {
            Ok(Some(message)) => Ok(Some((message, pid))),
            Ok(None) => Err(TemplateError::Message("no answer")),
            Err(error) => Err(TemplateError::Silent {
                name: name.to_string(),
                pid,
                error: error.into(),
            }),
        }
    }

    /// What is behind a name.
    pub fn find(&self, name: &Name) -> Result<Found> {
        match self.ask(name, &Message::Get)? {
            None => Ok(Found::Dead),
            Some((Message::Template(fds), pid)) => {
                let template = Template::from_descriptors(fds)?;
                Ok(Found::Template(Box::new(template), pid))
            }
            Some((Message::Failed(text), _)) => Err(TemplateError::Holder(text)),
            Some(_) => Err(TemplateError::Message("another answer")),
        }
    }

    /// The template of a name.
    pub fn get(&self, name: &Name) -> Result<Template> {
        match self.find(name)? {
            Found::Template(template, _) => Ok(*template),
            Found::Dead => Err(TemplateError::Dead(name.to_string())),
        }
    }

    /// Fails if there is a template of this name.
    pub fn check_free(&self, name: &Name) -> Result<()> {
        match self.connect(name) {
            Ok(Some(_)) => Err(TemplateError::Exists(name.to_string())),
            Ok(None) | Err(TemplateError::Missing(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The names that there are, in order; some may be dead.
    pub fn names(&self) -> Result<Vec<Name>> {
        let listing = |error: std::io::Error| refused(&self.path, error.to_string());
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(listing)? {
            let name = entry.map_err(listing)?.file_name();
            // What has another name is not ours.
            names.extend(name.to_str().and_then(|name| name.parse::<Name>().ok()));
        }
        names.sort();
        Ok(names)
    }

    /// Removes a template: its holder ends. True if that had ended before.
    pub fn remove(&self, name: &Name) -> Result<bool> {
        match self.ask(name, &Message::Remove)? {
            None => self.clean(name).map(|_| true),
            Some((Message::Done, _)) => Ok(false),
            Some((Message::Failed(text), _)) => Err(TemplateError::Holder(text)),
            Some(_) => Err(TemplateError::Message("another answer")),
        }
    }

    /// Removes the socket of a holder that has ended; whether there was one.
    pub fn clean(&self, name: &Name) -> Result<bool> {
        let _lock = self.lock()?;
        // Under the lock: nobody puts a living one there between the look and the removal.
        match self.connect(name) {
            Ok(None) => {
                unlinkat(&self.fd, name.as_str(), AtFlags::empty())
                    .during("cannot remove a socket")?;
                Ok(true)
            }
            Ok(Some(_)) | Err(TemplateError::Missing(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes a name, with a socket that others can connect to from now on.
    pub(super) fn publish(&self, name: &Name) -> Result<Published> {
        let making = "cannot make the template's socket";
        let address = self.address(name)?;
        let socket = socket().during(making)?;
        let _lock = self.lock()?;
        match bind(&socket, &address) {
            Err(Os::ADDRINUSE) => {
                self.check_free(name)?;
                unlinkat(&self.fd, name.as_str(), AtFlags::empty()).during(making)?;
                bind(&socket, &address).during(making)?;
            }
            result => result.during(making)?,
        }
        // Before the lock goes, since a socket that does not listen looks like one of the dead.
        listen(&socket, 16).during(making)?;
        let stat = self.stat(name).during(making)?;
        Ok(Published {
            socket,
            file: (stat.st_dev, stat.st_ino),
        })
    }

    fn stat(&self, name: &Name) -> rustix::io::Result<Stat> {
        statat(&self.fd, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Whether a name still leads to our socket.
    pub(super) fn is_ours(&self, name: &Name, published: &Published) -> bool {
        self.stat(name)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == published.file)
    }

    /// Gives a name back.
    pub(super) fn withdraw(&self, name: &Name, published: &Published) -> Result<()> {
        let _lock = self.lock()?;
        if self.is_ours(name, published) {
            unlinkat(&self.fd, name.as_str(), AtFlags::empty())
                .during("cannot remove the socket")?;
        }
        Ok(())
    }
}

/// A socket that has a name.
pub(super) struct Published {
    pub(super) socket: OwnedFd,
    /// Device and inode of the name.
    file: (u64, u64),
}

/// A socket for messages.
fn socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

fn refused(path: &Path, why: impl Into<String>) -> TemplateError {
    TemplateError::Directory {
        path: path.display().to_string(),
        why: why.into(),
    }
}

/// Makes a directory, unless something of its name is there.
fn make(path: &Path, mode: u32) -> Result<()> {
    match mkdirat(CWD, path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Os::EXIST) => Ok(()),
        Err(error @ (Os::ACCESS | Os::PERM)) => {
            let why = format!("{error}; set XDG_RUNTIME_DIR to a directory of your own");
            Err(refused(path, why))
        }
        Err(error) => Err(refused(path, error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};

    /// A directory for one test.
    struct Temporary(PathBuf);

    impl Temporary {
        fn new(name: &str) -> Self {
            let name = format!("uvisor-test-{}-{name}", crate::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .unwrap();
            Self(path)
        }

        fn open(&self) -> Result<Directory> {
            Directory::at(self.0.clone())
        }
    }

    impl Drop for Temporary {
        fn drop(&mut self) {
            // What stays behind does no harm.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_plain() {
        for good in ["a", "sorter", "py3.11-json_x", "0", &"x".repeat(64)] {
            assert_eq!(name(good).as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".hidden",
            "-x",
            "a/b",
            "a b",
            "\u{e4}",
            "a\n",
            "a\0",
            &"x".repeat(65),
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_directory_is_the_users_alone() {
        let temporary = Temporary::new("mode");
        assert!(temporary.open().is_ok());
        std::fs::set_permissions(&temporary.0, std::fs::Permissions::from_mode(0o750)).unwrap();
        let text = temporary.open().unwrap_err().to_string();
        assert!(text.contains("mode 750"), "{text}");
        let link = temporary.0.join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(Directory::at(link).is_err());
        if !geteuid().is_root() {
            assert!(Directory::at("/".into()).is_err());
        }
    }

    #[test]
    fn one_name_is_taken_once() {
        let temporary = Temporary::new("taken");
        let directory = temporary.open().unwrap();
        let x = name("x");
        let missing = directory.find(&x).unwrap_err();
        assert!(matches!(missing, TemplateError::Missing(_)), "{missing}");
        let first = directory.publish(&x).unwrap();
        assert!(matches!(
            directory.publish(&x),
            Err(TemplateError::Exists(_))
        ));
        assert!(matches!(
            directory.check_free(&x),
            Err(TemplateError::Exists(_))
        ));
        assert!(!directory.clean(&x).unwrap());
        assert!(directory.is_ours(&x, &first));
        directory.withdraw(&x, &first).unwrap();
        assert!(!directory.is_ours(&x, &first));
        assert!(directory.names().unwrap().is_empty());
    }

    #[test]
    fn dead_sockets_are_recognised_and_replaced() {
        let temporary = Temporary::new("dead");
        let directory = temporary.open().unwrap();
        let x = name("x");
        let first = directory.publish(&x).unwrap();
        drop(first.socket);
        assert!(matches!(directory.find(&x), Ok(Found::Dead)));
        assert!(directory.check_free(&x).is_ok());
        assert_eq!(directory.names().unwrap(), [x.clone()]);
        let second = directory.publish(&x).unwrap();
        assert!(directory.is_ours(&x, &second));
        drop(second);
        assert!(directory.remove(&x).unwrap());
        assert!(directory.names().unwrap().is_empty());
        // A first holder that comes to its end late does not remove the name of a second.
        let old = directory.publish(&x).unwrap();
        let ghost = Published {
            socket: old.socket,
            file: (0, 0),
        };
        directory.withdraw(&x, &ghost).unwrap();
        assert_eq!(directory.names().unwrap(), [x]);
    }

    #[test]
    fn of_two_that_take_a_name_at_once_one_gets_it() {
        let temporary = Temporary::new("race");
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let directory = temporary.open().unwrap();
                std::thread::spawn(move || directory.publish(&name("x")).ok())
            })
            .collect();
        let all: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert_eq!(all.iter().flatten().count(), 1);
    }
}
