// SPDX-License-Identifier: GPL-2.0

//! What a hostile program is after: files, sockets and a process outside of what it was given.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// What is in the secret file, in shared memory, and in the environment.
pub const SECRET: &str = "the secret";

/// An abstract socket of the host's.
pub const ABSTRACT: &str = "uvisor-layers";

/// Shared memory of the host's.
pub const SHM: &str = "/dev/shm/uvisor-layers";

/// A variable of the environment.
pub const VARIABLE: &str = "UVISOR_LAYERS_SECRET";

/// The descriptor by which the secret is open in who starts the hostile program.
const OPEN: i32 = 9;

/// Where things are.
pub struct World {
    /// The directory of all of it.
    pub base: PathBuf,
    /// A process outside.
    pub pid: u64,
    /// Where it has memory that can be read.
    pub address: u64,
    /// The port of a service on the loopback.
    pub port: u16,
    /// A descriptor of the secret.
    pub open: i32,
}

impl World {
    /// From the arguments that [`World::arguments`] makes.
    pub fn from_arguments(arguments: &[String]) -> Option<Self> {
        let [base, pid, address, port] = arguments else {
            return None;
        };
        Some(Self {
            base: base.into(),
            pid: pid.parse().ok()?,
            address: address.parse().ok()?,
            port: port.parse().ok()?,
            open: OPEN,
        })
    }

    /// For the hostile program.
    pub fn arguments(&self) -> [String; 4] {
        [
            self.base.display().to_string(),
            self.pid.to_string(),
            self.address.to_string(),
            self.port.to_string(),
        ]
    }

    /// The file that it must not read.
    pub fn secret(&self) -> PathBuf {
        self.base.join("secret/file")
    }

    /// The directory that it may change.
    pub fn work(&self) -> PathBuf {
        self.base.join("work")
    }

    /// A file that it may read.
    pub fn readable(&self) -> PathBuf {
        self.base.join("readable/file")
    }

    /// A program that it may read and not execute.
    pub fn tool(&self) -> PathBuf {
        self.base.join("readable/tool")
    }

    /// A socket of the host's, in the directory that it may change.
    pub fn socket(&self) -> PathBuf {
        self.work().join("host.socket")
    }

    /// A profile that lets everything be executed, but for what is written to memory.
    pub fn open_profile(&self) -> PathBuf {
        self.base.join("open.toml")
    }

    /// The profile that says all this.
    pub fn profile(&self) -> PathBuf {
        self.base.join("profile.toml")
    }
}

/// A [`World`] that exists as long as this does.
pub struct Made {
    pub world: World,
    outside: Child,
    _listeners: (TcpListener, UnixListener, UnixListener),
}

impl Made {
    /// Makes it.
    pub fn new() -> io::Result<Self> {
        let base = std::env::temp_dir().join(format!("uvisor-layers-{}", std::process::id()));
        for directory in ["secret", "readable", "work"] {
            fs::create_dir_all(base.join(directory))?;
        }
        let outside = Command::new("sleep")
            .arg("1000000")
            .stdin(Stdio::null())
            .spawn()?;
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let world = World {
            pid: outside.id().into(),
            address: readable_address(outside.id())?,
            port: tcp.local_addr()?.port(),
            open: OPEN,
            base,
        };
        fs::write(world.secret(), SECRET)?;
        fs::write(SHM, SECRET)?;
        fs::write(world.readable(), "0123456789")?;
        fs::copy("/bin/true", world.tool())?;
        fs::set_permissions(world.tool(), Permissions::from_mode(0o755))?;
        let name = SocketAddr::from_abstract_name(ABSTRACT)?;
        let unnamed = UnixListener::bind_addr(&name)?;
        let named = UnixListener::bind(world.socket())?;
        let [readable, work] = ["readable", "work"].map(|name| world.base.join(name));
        let profile = format!(
            "description = \"what a hostile program is given\"
[files]
execute = [\"/usr/lib\", \"/usr/lib64\", \"/lib\", \"/lib64\"]
read = [\"/etc/ld.so.cache\", {readable:?}]
change = [{work:?}]
[processes]
fork = true
[syscalls]
base = \"standard\"
[devices]
allow = [\"null\"]
[environment]
keep = [\"PATH\"]
"
        );
        fs::write(world.profile(), profile)?;
        let open = "description = \"every program\"
[files]
execute = [\"/\"]
[processes]
fork = true
[syscalls]
base = \"standard\"
[environment]
keep = [\"*\"]
";
        fs::write(world.open_profile(), open)?;
        // Open by accident in all that is started from here.
        let secret = File::open(world.secret())?;
        // SAFETY: The number is not in use in this program.
        if unsafe { libc::dup2(secret.as_raw_fd(), OPEN) } < 0 {
            return Err(io::Error::last_os_error());
        }
        std::env::set_var(VARIABLE, SECRET);
        Ok(Self {
            world,
            outside,
            _listeners: (tcp, unnamed, named),
        })
    }
}

/// The start of some memory of a process, when it has become the program that it was started as.
fn readable_address(pid: u32) -> io::Result<u64> {
    for _ in 0..1000 {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let line = maps.lines().find(|line| line.ends_with("[stack]"));
        let is_sleep = maps
            .lines()
            .any(|line| line.ends_with("/sleep") || line.ends_with("coreutils"));
        let start = line.and_then(|line| {
            // The upper end, where arguments are.
            let (_, end) = line.split(' ').next()?.split_once('-')?;
            u64::from_str_radix(end, 16).ok()
        });
        if let (Some(end), true) = (start, is_sleep) {
            return Ok(end - 4096);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Err(io::ErrorKind::TimedOut.into())
}

impl Drop for Made {
    fn drop(&mut self) {
        // What stays behind goes with the machine.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let _ = fs::remove_file(SHM);
        let _ = fs::remove_dir_all(&self.world.base);
    }
}
