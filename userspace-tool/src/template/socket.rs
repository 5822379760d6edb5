// SPDX-License-Identifier: GPL-2.0

//! What a template's holder and those who ask it say to each other: messages on a `SOCK_SEQPACKET` socket,
//! a letter first.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_timeout, Timeout};
use rustix::net::{
    recvmsg, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use super::{During, Result, State, Template, TemplateError, FILES_MAX};
use crate::guest::sealed_file;
use crate::{Vcpu, Vm};

/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// Descriptors of a template besides its files: state, micro-VM, vCPU, directory.
const OWN: usize = 4;

/// The longest text.
const TEXT_MAX: usize = 1024;

/// What is said.
#[derive(Debug)]
pub(super) enum Message {
    /// Asks for the template.
    Get,
    /// Asks the holder to end.
    Remove,
    /// The template, by its descriptors.
    Template(Vec<OwnedFd>),
    /// It is done.
    Done,
    /// It cannot be done, and why.
    Failed(String),
}

/// Bounds how long this side waits.
pub(super) fn be_patient(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    set_socket_timeout(socket, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(socket, Timeout::Send, Some(PATIENCE))
}

/// Sends a letter, text and descriptors.
fn send_raw(
    socket: BorrowedFd<'_>,
    letter: u8,
    text: &str,
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(super::FILES_MAX + OWN))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    let letter = [letter];
    let bytes = [IoSlice::new(&letter), IoSlice::new(text.as_bytes())];
    sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Says something that is no template.
pub(super) fn send(socket: BorrowedFd<'_>, message: &Message) -> rustix::io::Result<()> {
    match message {
        Message::Get => send_raw(socket, b'G', "", &[]),
        Message::Remove => send_raw(socket, b'R', "", &[]),
        Message::Done => send_raw(socket, b'D', "", &[]),
        Message::Failed(text) => {
            let mut end = text.len().min(TEXT_MAX);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            send_raw(socket, b'F', &text[..end], &[])
        }
        Message::Template(fds) => {
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            send_raw(socket, b'T', "", &fds)
        }
    }
}

/// Waits for what the other side says.
pub(super) fn receive(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<Message>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX + OWN))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; TEXT_MAX + 1];
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            result => break result?,
        }
    };
    // Taken first, so that they are closed if the message is none.
    let fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received
        .flags
        .intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC)
    {
        return Ok(None);
    }
    let text = bytes.get(1..received.bytes).unwrap_or_default();
    Ok(match bytes.first().filter(|_| received.bytes > 0) {
        Some(b'G') => Some(Message::Get),
        Some(b'R') => Some(Message::Remove),
        Some(b'D') => Some(Message::Done),
        Some(b'F') => Some(Message::Failed(String::from_utf8_lossy(text).into_owned())),
        Some(b'T') => Some(Message::Template(fds)),
        _ => None,
    })
}

impl Template {
    /// Its descriptors, to be sent as often as anybody asks.
    pub(super) fn into_message(self) -> Result<Message> {
        let state = sealed_file(c"uvisor-template", &self.state.to_bytes())?;
        let own = "cannot duplicate a descriptor";
        let mut fds = vec![
            state,
            self.vm.as_fd().try_clone_to_owned().map_err(from_io(own))?,
            self.vcpu
                .as_fd()
                .try_clone_to_owned()
                .map_err(from_io(own))?,
            self.cwd,
        ];
        fds.extend(self.files);
        Ok(Message::Template(fds))
    }

    /// The template behind descriptors.
    pub(super) fn from_descriptors(fds: Vec<OwnedFd>) -> Result<Self> {
        let missing = || TemplateError::Message("a descriptor is missing");
        let mut fds = fds.into_iter();
        let file = std::fs::File::from(fds.next().ok_or_else(missing)?);
        let reading = "cannot read the template's state";
        let len = file.metadata().map_err(from_io(reading))?.len();
        // It is the file's real length: a holder of the same user has no reason to send a huge one.
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)
            .map_err(from_io(reading))?;
        let state = State::from_bytes(&bytes)?;
        Ok(Self {
            vm: Vm::new(fds.next().ok_or_else(missing)?, state.gpa_bits),
            vcpu: Vcpu::new(fds.next().ok_or_else(missing)?)?,
            cwd: fds.next().ok_or_else(missing)?,
            files: fds.collect(),
            state,
        })
    }
}

/// Makes an I/O error one of ours.
pub(super) fn from_io(what: &'static str) -> impl Fn(std::io::Error) -> TemplateError {
    move |error| TemplateError::Call {
        what,
        error: error.into(),
    }
}

/// As [`send`], for those whose errors go to people.
pub(super) fn tell(socket: BorrowedFd<'_>, message: &Message) -> Result<()> {
    send(socket, message).during("cannot send to the template's holder")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{socketpair, AddressFamily, SocketFlags, SocketType};

    fn pair() -> (OwnedFd, OwnedFd) {
        let flags = SocketFlags::CLOEXEC;
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
    }

    #[test]
    fn messages_come_through() {
        let (a, b) = pair();
        send(a.as_fd(), &Message::Failed("no \u{e4}".into())).unwrap();
        let received = receive(b.as_fd()).unwrap();
        assert!(matches!(received, Some(Message::Failed(text)) if text == "no \u{e4}"));
        // A text that is too long is cut, between two letters.
        send(a.as_fd(), &Message::Failed("x\u{e4}".repeat(1000))).unwrap();
        let received = receive(b.as_fd()).unwrap();
        assert!(matches!(received, Some(Message::Failed(text)) if text.len() == TEXT_MAX));
        for message in [Message::Get, Message::Remove, Message::Done] {
            send(a.as_fd(), &message).unwrap();
            let received = receive(b.as_fd()).unwrap().unwrap();
            let kind = std::mem::discriminant(&message);
            assert_eq!(std::mem::discriminant(&received), kind);
        }
        drop(a);
        assert!(receive(b.as_fd()).unwrap().is_none());
    }

    #[test]
    fn as_many_descriptors_as_a_template_has_come_through() {
        let (a, b) = pair();
        let null = std::fs::File::open("/dev/null").unwrap();
        let fds = (0..FILES_MAX + OWN).map(|_| null.try_clone().unwrap().into());
        send(a.as_fd(), &Message::Template(fds.collect())).unwrap();
        let Some(Message::Template(fds)) = receive(b.as_fd()).unwrap() else {
            panic!("no template");
        };
        assert_eq!(fds.len(), FILES_MAX + OWN);
        let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn nonsense_is_no_message() {
        let (a, b) = pair();
        send_raw(a.as_fd(), b'?', "", &[]).unwrap();
        assert!(receive(b.as_fd()).unwrap().is_none());
        send_raw(a.as_fd(), b'F', &"x".repeat(TEXT_MAX + 1), &[]).unwrap();
        assert!(receive(b.as_fd()).unwrap().is_none());
        assert!(matches!(
            Template::from_descriptors(Vec::new()),
            Err(TemplateError::Message(_))
        ));
        let other = sealed_file(c"test", b"{\"format\":0}").unwrap();
        assert!(matches!(
            Template::from_descriptors(vec![other]),
            Err(TemplateError::Version(_))
        ));
    }
}
