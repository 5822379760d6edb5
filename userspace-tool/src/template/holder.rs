// SPDX-License-Identifier: GPL-2.0

//! The process that a template lives in: it does nothing but answer those who ask for it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::sockopt::{set_socket_timeout, socket_peercred, Timeout};
use rustix::net::{accept_with, socketpair, AddressFamily, SocketFlags, SocketType};
use rustix::process::geteuid;

use super::directory::{Directory, Name, Published};
use super::socket::{be_patient, from_io, receive, send, tell, Message};
use super::{During, Result, Template, TemplateError};
use crate::pass;

/// How often a holder looks whether anybody can still find it.
const LOOK: Duration = Duration::from_secs(10);

/// A process that is to hold a template, started before there is one: who makes that cannot start any more by then.
#[derive(Debug)]
pub struct Holder(OwnedFd);

impl Holder {
    /// Starts it; `arguments` and the name make this program call [`hold`] with its standard input, in a process that
    /// is nobody's child. It ends by itself if it gets no template.
    pub fn start(name: &Name, arguments: &[&str]) -> Result<Self> {
        let starting = "cannot start the process that holds the template";
        let flags = SocketFlags::CLOEXEC;
        let (ours, its) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).during(starting)?;
        be_patient(ours.as_fd()).during(starting)?;
        // What is open here is not for the holder: it would keep open what others wait for the end of.
        let flags = libc::CLOSE_RANGE_CLOEXEC as i32;
        pass!(CLOSE_RANGE, 3, u64::from(u32::MAX), flags).during(starting)?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("uvctl")
            .args(arguments)
            .arg(name.as_str())
            .stdin(Stdio::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear();
        if let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR") {
            command.env("XDG_RUNTIME_DIR", directory);
        }
        let status = command.status().map_err(from_io(starting))?;
        match status.success() {
            true => Ok(Self(ours)),
            false => Err(TemplateError::Message("its holder has ended")),
        }
    }

    /// Where it waits for the template.
    pub fn socket(&mut self) -> &mut OwnedFd {
        &mut self.0
    }

    /// Has it hold `template`. Returns when others can find that.
    pub fn hold(self, template: Template) -> Result<()> {
        let told = tell(self.0.as_fd(), &template.into_message()?)
            .and_then(|()| receive(self.0.as_fd()).during("the template's holder does not answer"));
        match told? {
            Some(Message::Done) => Ok(()),
            Some(Message::Failed(text)) => Err(TemplateError::Holder(text)),
            _ => Err(TemplateError::Message("its holder has ended")),
        }
    }
}

/// Holds the template that comes from `creator` under `name`, until somebody removes it.
pub fn hold(creator: OwnedFd, name: &Name) -> Result<()> {
    let prepared = prepare(creator.as_fd(), name);
    let (message, directory, published) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            // It may have ended meanwhile; then there is nobody to tell.
            let _ = send(creator.as_fd(), &Message::Failed(error.to_string()));
            return Err(error);
        }
    };
    let told = send(creator.as_fd(), &Message::Done);
    drop(creator);
    if told.is_err() {
        // It was ended before it could say that there is a template.
        return directory.withdraw(name, &published);
    }
    loop {
        match accept_with(&published.socket, SocketFlags::CLOEXEC) {
            Ok(client) => {
                if serve(client.as_fd(), &message) {
                    directory.withdraw(name, &published)?;
                    // The micro-VM goes before the answer, so that who asked sees it gone.
                    drop(message);
                    let _ = send(client.as_fd(), &Message::Done);
                    return Ok(());
                }
            }
            Err(_) if !directory.is_ours(name, &published) => return Ok(()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            // Such as no room for a descriptor: not at once again.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Takes the template over, and the name.
fn prepare(creator: BorrowedFd<'_>, name: &Name) -> Result<(Message, Directory, Published)> {
    let detaching = "cannot become a process of its own";
    detach().during(detaching)?;
    rustix::process::setsid().during(detaching)?;
    rustix::process::chdir("/").during(detaching)?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // What the program ignored, its holder must not ignore.
    // SAFETY: The default action runs no code of this process.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_DFL) };
    let directory = Directory::open()?;
    // Who made the template may have been taken over by what is in it.
    crate::sandbox::holder::enter(directory.as_fd())?;
    let received = receive(creator).during("no template came")?;
    let Some(Message::Template(fds)) = received else {
        return Err(TemplateError::Message("no template"));
    };
    // Before the name is taken: whoever finds it can use it.
    let message = Template::from_descriptors(fds)?.settle()?.into_message()?;
    let published = directory.publish(name)?;
    set_socket_timeout(&published.socket, Timeout::Recv, Some(LOOK)).during(detaching)?;
    Ok((message, directory, published))
}

/// Goes on in a process that is nobody's child: the program that becomes the template would find it among its own.
fn detach() -> rustix::io::Result<()> {
    // SAFETY: This process has one thread, so its copy is whole; the original ends without touching anything.
    match unsafe { libc::fork() } {
        -1 => Err(
            rustix::io::Errno::from_io_error(&std::io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::AGAIN),
        ),
        0 => Ok(()),
        // SAFETY: As above.
        _ => unsafe { libc::_exit(0) },
    }
}

impl Template {
    /// The same in a micro-VM that this process has made, which is whose it is for those who list them.
    fn settle(self) -> Result<Self> {
        let vm = self.vm.share(self.state.memory_limit)?;
        let vcpu = vm.create_vcpu_from(&self.vcpu)?;
        vm.freeze()?;
        Ok(Self { vm, vcpu, ..self })
    }
}

/// Answers whoever has connected; true if it wants the holder to end.
fn serve(client: BorrowedFd<'_>, template: &Message) -> bool {
    // The directory keeps others out already.
    match socket_peercred(client) {
        Ok(peer) if peer.uid == geteuid() || peer.uid.is_root() => {}
        _ => return false,
    }
    if be_patient(client).is_err() {
        return false;
    }
    match receive(client) {
        Ok(Some(Message::Get)) => {
            // If it has gone, it does not need it.
            let _ = send(client, template);
            false
        }
        Ok(Some(Message::Remove)) => true,
        _ => false,
    }
}
