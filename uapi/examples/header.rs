// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note

//! Prints `uvisor.h`, the C header of the ioctl interface.

use std::fmt::Write;
use std::path::Path;

use uvisor_uapi::{
    CloneFlags, Features, ListFlags, MapFlags, Mitigations, Prot, RunFlags, VcpuFlags, ViewFlags,
    VmFlags,
};

/// Appends `#define`s for the bits of a set of flags, named as in Rust.
macro_rules! flags {
    ($text:ident, $type:ty, $prefix:literal) => {
        for bit in 0..64 {
            let Some(flag) = 1u64
                .checked_shl(bit)
                .and_then(|bit| bit.try_into().ok())
                .and_then(<$type>::from_bits)
            else {
                continue;
            };
            writeln!($text, "#define UVISOR_{}_{flag:?} (1ULL << {bit})", $prefix)?;
        }
        writeln!($text)?;
    };
}

/// The whole header.
pub fn header() -> Result<String, Box<dyn std::error::Error>> {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut defines = String::new();
    flags!(defines, Features, "FEATURE");
    flags!(defines, Mitigations, "MITIGATION");
    flags!(defines, Prot, "PROT");
    flags!(defines, MapFlags, "MAP");
    flags!(defines, VmFlags, "VM");
    flags!(defines, CloneFlags, "CLONE");
    flags!(defines, VcpuFlags, "VCPU");
    flags!(defines, ViewFlags, "VIEW");
    flags!(defines, RunFlags, "RUN");
    flags!(defines, ListFlags, "LIST");

    let mut config = cbindgen::Config::from_file(crate_dir.join("cbindgen.toml"))?;
    config.trailer = Some(defines);
    let mut header = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(crate_dir.join("src/lib.rs"))
        .with_src(crate_dir.join("src/list.rs"))
        .with_src(crate_dir.join("src/run.rs"))
        .with_src(crate_dir.join("src/stats.rs"))
        .generate()?
        .write(&mut header);
    let header = String::from_utf8(header)?;
    // cbindgen has one prefix for types and for constants; those of C are in capitals.
    let lines = header.lines().map(|line| {
        if line.starts_with("#define uvisor_") {
            line.replace("uvisor_", "UVISOR_")
        } else {
            line.to_owned()
        }
    });
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

#[allow(dead_code)] // A test includes this file for `header`.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    print!("{}", header()?);
    Ok(())
}
