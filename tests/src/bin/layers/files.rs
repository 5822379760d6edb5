// SPDX-License-Identifier: GPL-2.0

//! What a hostile program tries with files: to read, change or execute those that it may not, and to learn which there are.

use std::fs::{self, File, OpenOptions};
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{symlink, FileExt, PermissionsExt};
use std::path::Path;

use crate::attacks::{attacks, c_string, map, name, syscall, Attack, Outcome};
use crate::world::{World, SECRET};

attacks! {
    /// Those that are made with files.
    ATTACKS:
    read_secret: "read a file that it was not given";
    read_by_parent: "the same by `..` from a directory that it was given";
    read_by_link: "by a symbolic link that it makes";
    read_by_root: "by `/proc/self/root`";
    read_by_others_root: "by the root of a process outside";
    read_by_hard_link: "by giving the file another name";
    read_by_rename: "by moving its directory to where it may read";
    read_by_handle: "by a handle of the file system's (`open_by_handle_at`)";
    read_inherited: "from a descriptor that was open by accident";
    list_secret: "list a directory that it was not given";
    write_readable: "write a file that it may read";
    truncate_readable: "cut it";
    mode_readable: "change its mode";
    remove_readable: "remove it";
    make_setuid: "leave a setuid program behind";
    make_device: "make a device of its own";
    execute_readable: "execute a file that it may read and not execute";
    map_readable: "map that file to be executed";
    exchange_mapped: "map it while its descriptor is exchanged for one that it may execute, and make that executable";
    probe_file: "find out whether a file exists that it was not given";
}

/// Whether the secret can be read at a path.
pub fn read_at(path: &Path) -> Outcome {
    let text = fs::read_to_string(path).map_err(|error| name(&error))?;
    match text == SECRET {
        true => Ok(()),
        false => Err("something else".into()),
    }
}

fn read_secret(world: &World) -> Outcome {
    read_at(&world.secret())
}

fn read_by_parent(world: &World) -> Outcome {
    std::env::set_current_dir(world.work()).map_err(|error| name(&error))?;
    read_at(Path::new("../secret/file"))
}

fn read_by_link(world: &World) -> Outcome {
    let link = world.work().join("link");
    let _ = fs::remove_file(&link);
    symlink("../secret/file", &link).map_err(|error| name(&error))?;
    read_at(&link)
}

/// The path of the secret below another root.
fn below(root: &str, world: &World) -> std::path::PathBuf {
    let secret = world.secret();
    Path::new(root).join(secret.strip_prefix("/").unwrap_or(&secret))
}

fn read_by_root(world: &World) -> Outcome {
    read_at(&below("/proc/self/root", world))
}

fn read_by_others_root(world: &World) -> Outcome {
    read_at(&below(&format!("/proc/{}/root", world.pid), world))
}

fn read_by_hard_link(world: &World) -> Outcome {
    let link = world.work().join("hard");
    let _ = fs::remove_file(&link);
    fs::hard_link(world.secret(), &link).map_err(|error| name(&error))?;
    let result = read_at(&link);
    let _ = fs::remove_file(&link);
    result
}

fn read_by_rename(world: &World) -> Outcome {
    let (from, to) = (world.base.join("secret"), world.work().join("moved"));
    fs::rename(&from, &to).map_err(|error| name(&error))?;
    let result = read_at(&to.join("file"));
    let _ = fs::rename(&to, &from);
    result
}

fn read_by_handle(world: &World) -> Outcome {
    let (path, mut handle, mut mount) = (c_string(&world.secret()), [0u32; 34], 0i32);
    handle[0] = 128;
    syscall(
        libc::SYS_name_to_handle_at,
        [
            libc::AT_FDCWD as u64,
            path.as_ptr() as u64,
            handle.as_mut_ptr() as u64,
            &raw mut mount as u64,
            0,
            0,
        ],
    )?;
    let place = File::open(world.work()).map_err(|error| name(&error))?;
    let fd = syscall(
        libc::SYS_open_by_handle_at,
        [
            place.as_raw_fd() as u64,
            handle.as_mut_ptr() as u64,
            libc::O_RDONLY as u64,
            0,
            0,
            0,
        ],
    )?;
    read_from(fd as i32)
}

/// Whether a descriptor that this process has just got has the secret behind it.
fn read_from(fd: i32) -> Outcome {
    // SAFETY: Nobody else uses this number; if it is not open, reading says so.
    let file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(fd) });
    let mut text = [0; SECRET.len()];
    // Whoever else has it may have read it already.
    let read = file.read_exact_at(&mut text, 0);
    read.map_err(|error| name(&error))?;
    match text == *SECRET.as_bytes() {
        true => Ok(()),
        false => Err("something else".into()),
    }
}

fn read_inherited(world: &World) -> Outcome {
    read_from(world.open)
}

fn list_secret(world: &World) -> Outcome {
    let entries = fs::read_dir(world.base.join("secret")).map_err(|error| name(&error))?;
    match entries.count() {
        0 => Err("nothing in it".into()),
        _ => Ok(()),
    }
}

fn write_readable(world: &World) -> Outcome {
    let file = OpenOptions::new().write(true).open(world.readable());
    file.map(drop).map_err(|error| name(&error))
}

fn truncate_readable(world: &World) -> Outcome {
    let path = c_string(&world.readable());
    syscall(libc::SYS_truncate, [path.as_ptr() as u64, 5, 0, 0, 0, 0]).map(drop)
}

fn mode_readable(world: &World) -> Outcome {
    let mode = fs::Permissions::from_mode(0o666);
    fs::set_permissions(world.readable(), mode).map_err(|error| name(&error))
}

fn remove_readable(world: &World) -> Outcome {
    let path = world.readable();
    let before = fs::read(&path).map_err(|error| name(&error))?;
    fs::remove_file(&path).map_err(|error| name(&error))?;
    // For the next one.
    fs::write(&path, before).map_err(|error| name(&error))
}

fn make_setuid(world: &World) -> Outcome {
    let path = world.work().join("setuid");
    fs::write(&path, "x").map_err(|error| name(&error))?;
    let mode = fs::Permissions::from_mode(0o4755);
    let set = fs::set_permissions(&path, mode);
    let result = set
        .and_then(|()| path.metadata())
        .map_err(|error| name(&error));
    let _ = fs::remove_file(&path);
    match result?.permissions().mode() & 0o4000 {
        0 => Err("without the bit".into()),
        _ => Ok(()),
    }
}

fn make_device(world: &World) -> Outcome {
    let path = c_string(&world.work().join("device"));
    let (mode, device) = (libc::S_IFCHR | 0o600, libc::makedev(1, 1));
    syscall(
        libc::SYS_mknod,
        [path.as_ptr() as u64, mode.into(), device, 0, 0, 0],
    )?;
    let _ = fs::remove_file(world.work().join("device"));
    Ok(())
}

fn execute_readable(world: &World) -> Outcome {
    let path = c_string(&world.tool());
    let argv = [path.as_ptr(), std::ptr::null()];
    let none: [*const libc::c_char; 1] = [std::ptr::null()];
    // This is a process for one attack; the program that takes its place ends with status 0, as who succeeds does.
    syscall(
        libc::SYS_execve,
        [
            path.as_ptr() as u64,
            argv.as_ptr() as u64,
            none.as_ptr() as u64,
            0,
            0,
            0,
        ],
    )
    .map(drop)
}

fn map_readable(world: &World) -> Outcome {
    let file = File::open(world.tool()).map_err(|error| name(&error))?;
    let prot = libc::PROT_READ | libc::PROT_EXEC;
    map(prot, libc::MAP_PRIVATE, file.as_raw_fd()).map(drop)
}

/// A file that it may execute.
fn executable() -> Result<File, String> {
    let maps = fs::read_to_string("/proc/self/maps").map_err(|error| name(&error))?;
    let path = maps.lines().find_map(|line| {
        let path = line.get(line.find('/')?..)?;
        path.contains("libc.so").then_some(path)
    });
    let path = path.ok_or("no library is mapped")?;
    File::open(path).map_err(|error| name(&error))
}

fn exchange_mapped(world: &World) -> Outcome {
    /// How often it is tried: natively, every second time comes to its aim.
    const TIMES: usize = 400;
    let tool = File::open(world.tool()).map_err(|error| name(&error))?;
    let other = executable()?;
    let mut wanted = [0; 4096];
    let read = tool.read_exact_at(&mut wanted, 0);
    read.map_err(|error| name(&error))?;
    let number = tool.try_clone().map_err(|error| name(&error))?;
    let fd = number.as_raw_fd();
    let over = std::sync::atomic::AtomicBool::new(false);
    let relaxed = std::sync::atomic::Ordering::Relaxed;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(relaxed) {
                for file in [&other, &tool] {
                    // SAFETY: The number is that of a file of this function's, which stays one.
                    unsafe { libc::dup2(file.as_raw_fd(), fd) };
                }
            }
        });
        let mut last = Err("always the other file".to_owned());
        for turn in 0..TIMES {
            match map_exchanged(fd, turn % 2 == 0, &wanted) {
                Ok(()) => {
                    last = Ok(());
                    break;
                }
                // An error says more than that it was the other file.
                Err(why) if !why.starts_with("always") => last = Err(why),
                Err(_) => {}
            }
        }
        over.store(true, relaxed);
        last
    })
}

/// Maps what a descriptor is at the moment, to be executed at once or later; whether it was what is `wanted`.
fn map_exchanged(fd: i32, at_once: bool, wanted: &[u8; 4096]) -> Outcome {
    let executable = libc::PROT_READ | libc::PROT_EXEC;
    let prot = if at_once { executable } else { libc::PROT_READ };
    let address = map(prot, libc::MAP_PRIVATE, fd)?;
    let protected = match at_once {
        true => Ok(0),
        false => syscall(
            libc::SYS_mprotect,
            [address, 4096, executable as u64, 0, 0, 0],
        ),
    };
    // SAFETY: It was just mapped, to be read at least.
    let is_wanted = unsafe { *(address as *const [u8; 4096]) } == *wanted;
    syscall(libc::SYS_munmap, [address, 4096, 0, 0, 0, 0])?;
    protected?;
    match is_wanted {
        true => Ok(()),
        false => Err("always the other file".into()),
    }
}

/// What different ways to ask for a path tell.
pub fn asked(world: &World, path: &Path) -> Vec<String> {
    let link = world.work().join("probe");
    let _ = fs::remove_file(&link);
    // Where it can be made, it is one more way to ask.
    let _ = symlink(path, &link);
    let mut told = Vec::new();
    let below = [path.join("x"), path.join("../x"), link.join("x")];
    for path in [path, &link]
        .into_iter()
        .chain(below.iter().map(|path| &**path))
    {
        let text = |result: Result<(), Error>| {
            result.map_or_else(|error| name(&error), |()| "it is".into())
        };
        told.push(text(path.metadata().map(drop)));
        told.push(text(File::open(path).map(drop)));
        told.push(text(path.read_dir().map(drop)));
        told.push(text(std::env::set_current_dir(path)));
        told.push(text(OpenOptions::new().write(true).open(path).map(drop)));
        let path = c_string(path);
        let access = [path.as_ptr() as u64, 0, 0, 0, 0, 0];
        told.push(syscall(libc::SYS_access, access).map_or_else(|why| why, |_| "it is".into()));
    }
    told.push(
        path.read_link()
            .map_or_else(|error| name(&error), |_| "it is".into()),
    );
    let _ = fs::remove_file(&link);
    told
}

/// Whether what is told of two things differs.
pub fn differ(one: &[String], other: &[String]) -> Outcome {
    match one == other {
        false => Ok(()),
        true => Err(format!("always {}", one.first().map_or("", String::as_str))),
    }
}

fn probe_file(world: &World) -> Outcome {
    let none = world.base.join("secret/none");
    differ(&asked(world, &world.secret()), &asked(world, &none))
}
