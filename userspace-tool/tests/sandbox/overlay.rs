// SPDX-License-Identifier: GPL-2.0

//! Overlays in the root of a sandbox: what is changed is seen, and is not the host's.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::mount::{mount, MountFlags};
use uvisor::profile::{FileAccess, Write};
use uvisor::sandbox::{self, Kept, Layer, Layers, Options};

use crate::common::*;

const ROOT: Layers = Layers::only(Layer::Root);

/// The host's files, of which a task changes copies.
const OVERLAY: FileAccess = FileAccess::Host {
    execute: false,
    write: Write::Overlay,
};

/// A file by a descriptor of a directory, wherever that is by now.
fn by(directory: &File, name: &str) -> PathBuf {
    use std::os::fd::AsRawFd;
    Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name)
}

/// Why there is no sandbox with these files.
fn refused(files: &[(&str, FileAccess)]) -> String {
    let options = Options {
        layers: ROOT,
        ..Options::default()
    };
    let entered = sandbox::enter(&rules(files), &options);
    entered.map_or_else(|error| error.to_string(), |_| "nothing".into())
}

#[test]
fn changes_are_not_the_hosts() {
    on_hosts(|who| {
        let host = File::open(at("rw")).unwrap();
        enter(
            &rules(&[("/mnt/rw", OVERLAY), ("/mnt/rw/inner/deep", READ)]),
            ROOT,
        );
        fs::write(at("rw/file"), "new").unwrap();
        fs::write(at("rw/inner/new"), "new").unwrap();
        fs::remove_file(at("rw/inner/file")).unwrap();
        fs::set_permissions(at("rw/inner"), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(names(at("rw/inner")), ["deep", "new"]);
        assert_eq!(
            writing(at("rw/inner/deep/file")),
            libc::EROFS,
            "another rule's"
        );
        let devices = File::options().write(true).open(at("rw/null"));
        assert_eq!(errno(devices), libc::EACCES, "a device of the host's");
        let flags = rustix::fs::statvfs(at("rw")).unwrap().f_flag;
        for flag in [
            rustix::fs::StatVfsMountFlags::NOSUID,
            rustix::fs::StatVfsMountFlags::NODEV,
            rustix::fs::StatVfsMountFlags::NOEXEC,
        ] {
            assert!(flags.contains(flag), "{flags:?}");
        }
        assert_eq!(
            fs::metadata(at("rw")).unwrap().mode() & 0o7777,
            0o777,
            "as {who:?}"
        );
        assert_eq!(fs::read(by(&host, "file")).unwrap(), b"rw/file");
        assert_eq!(names(by(&host, "inner")), ["deep", "file"]);
        assert_eq!(
            fs::metadata(by(&host, "inner")).unwrap().mode() & 0o7777,
            0o777
        );
    });
}

#[test]
fn changes_are_kept_where_they_should_be() {
    on_hosts(|_| {
        for name in ["upper", "work"] {
            let path = at("tmp/kept").join(name);
            fs::create_dir_all(path).unwrap();
        }
        let upper = File::open(at("tmp/kept/upper")).unwrap();
        let kept = [Kept {
            path: "/mnt/rw".into(),
            directory: "/mnt/tmp/kept".into(),
        }];
        let options = Options {
            layers: ROOT,
            kept: &kept,
            ..Options::default()
        };
        enter_with(&rules(&[("/mnt/rw", OVERLAY)]), &options);
        fs::write(at("rw/file"), "new").unwrap();
        fs::write(at("rw/new"), "new").unwrap();
        fs::remove_file(at("rw/inner/file")).unwrap();
        assert_eq!(reading(at("tmp/kept/upper/file")), libc::ENOENT);
        assert_eq!(fs::read(by(&upper, "file")).unwrap(), b"new");
        // What the rest of the project takes it for.
        let gone = fs::symlink_metadata(by(&upper, "inner/file")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let note = |name: &str| {
            let mut value = [0; 256];
            rustix::fs::getxattr(by(&upper, name), "user.overlay.origin", &mut value[..]).is_ok()
        };
        assert!(note("file") && !note("new"));
    });
}

#[test]
fn what_cannot_have_an_overlay_is_an_error() {
    on_host(Who::Root, || {
        mount("below", "/mnt/rw/inner", "tmpfs", MountFlags::empty(), None).unwrap();
        let error = refused(&[("/mnt/rw", OVERLAY)]);
        assert!(
            error.contains("mounted below it, at /mnt/rw/inner"),
            "{error}"
        );
    });
    on_host(Who::Root, || {
        mount("below", "/mnt/rw/inner", "tmpfs", MountFlags::empty(), None).unwrap();
        enter(
            &rules(&[("/mnt/rw", OVERLAY), ("/mnt/rw/inner", CHANGE)]),
            ROOT,
        );
        fs::write(at("rw/new"), "new").unwrap();
        assert_eq!(names(at("rw/inner")), [""; 0]);
    });
    for who in BOTH {
        for (path, why) in [
            ("/mnt/rw/file", "it is no directory"),
            ("/mnt/nowhere", "it does not exist"),
        ] {
            on_host(who, || {
                let error = refused(&[(path, OVERLAY)]);
                assert!(error.contains(why), "{error}");
            });
        }
    }
}
