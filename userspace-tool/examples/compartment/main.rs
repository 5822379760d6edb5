// SPDX-License-Identifier: GPL-2.0

//! What views are for: a parser that cannot read the key that its own task signs with.
//!
//! Run it where the module is inserted. `gate.rs` has the two compartments.

mod gate;

use std::fs::File;
use std::hash::Hasher;
use std::io::Write;
use std::os::fd::FromRawFd;

use uvisor::{Device, Exit};

use gate::{Compartments, KEY};

/// A parser that an attacker took over: it reads the key.
const HOSTILE: [u8; 11] = [
    0xbf, 0, 0, 0x60, 0, // mov $KEY, %edi
    0x48, 0x8b, 0x17, // mov (%rdi), %rdx
    0x0f, 0x01, 0xc1, // vmcall
];

/// A memory file with `bytes`.
fn file(bytes: &[u8]) -> File {
    // SAFETY: The name is a C string.
    let fd = unsafe { libc::memfd_create(c"compartment".as_ptr(), libc::MFD_CLOEXEC) };
    assert!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: The descriptor is new and ours.
    let mut file = unsafe { File::from_raw_fd(fd) };
    file.write_all(bytes).expect("write");
    file
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::open()?;
    let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
    let message = b"a message that came from outside";
    #[allow(deprecated)] // SipHash-2-4 is what the gate computes.
    let mut expected = std::hash::SipHasher::new_with_keys(key[0], key[1]);
    expected.write(message);

    let mut task = Compartments::new(&device, gate::parser(), key, file)?;
    task.set_message(message)?;
    let exit = task.vcpu.run()?;
    let signature = task.vcpu.regs().rdx;
    println!("the parser has its message signed: {signature:#018x}");
    if !matches!(exit, Exit::Hypercall { .. }) || signature != expected.finish() {
        return Err(format!("that is wrong: {exit:x?}, not {:#x}", expected.finish()).into());
    }

    let mut task = Compartments::new(&device, &HOSTILE, key, file)?;
    task.set_message(message)?;
    let exit = task.vcpu.run()?;
    println!("a parser that was taken over reads the key: {exit:x?}");
    println!("in view {}, where that page is not", task.vcpu.regs().view);
    match exit {
        Exit::Memory { gpa: KEY, .. } if task.vcpu.regs().rdx == 0 => Ok(()),
        other => Err(format!("it was not stopped: {other:x?}").into()),
    }
}
