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

/// Starts a process that holds `template` under `name`; `arguments` make this program call [`hold`] with its
/// standard input. Returns when others can find it.
pub fn spawn(template: Template, name: &Name, arguments: &[&str]) -> Result<()> {
    let starting = "cannot start the process that holds the template";
    let flags = SocketFlags::CLOEXEC;
    let (ours, its) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).during(starting)?;
    be_patient(ours.as_fd()).during(starting)?;
    // The program's descriptors are not for the holder: it would keep open what others wait for the end of.
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
    let mut child = command.spawn().map_err(from_io(starting))?;
    drop(command);
    let told = tell(ours.as_fd(), &template.into_message()?)
        .and_then(|()| receive(ours.as_fd()).during("the template's holder does not answer"));
    let result = match told {
        Ok(Some(Message::Done)) => return Ok(()),
        Ok(Some(Message::Failed(text))) => Err(TemplateError::Holder(text)),
        Ok(_) => Err(TemplateError::Message("its holder has ended")),
        Err(error) => Err(error),
    };
    // It ends by itself when it has failed, or its socket here is closed.
    drop(ours);
    let _ = child.wait();
    result
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
    rustix::process::setsid().during(detaching)?;
    rustix::process::chdir("/").during(detaching)?;
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // What the program ignored, its holder must not ignore.
    // SAFETY: The default action runs no code of this process.
    unsafe { libc::signal(libc::SIGTERM, libc::SIG_DFL) };
    let received = receive(creator).during("no template came")?;
    let Some(Message::Template(fds)) = received else {
        return Err(TemplateError::Message("no template"));
    };
    let directory = Directory::open()?;
    // Before the name is taken: whoever finds it can use it.
    let message = Template::from_descriptors(fds)?.settle()?.into_message()?;
    let published = directory.publish(name)?;
    set_socket_timeout(&published.socket, Timeout::Recv, Some(LOOK)).during(detaching)?;
    Ok((message, directory, published))
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
