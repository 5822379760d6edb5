// SPDX-License-Identifier: GPL-2.0

//! A directory with an overlay, as a task would have it: filled, changed above, looked at and committed.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{mknodat, setxattr, FileType, Mode, XattrFlags, CWD};

use crate::changes::{remove, Change, Committed, Kept, Name, Store};

/// A directory with an overlay, and what is kept of it.
pub(super) struct World {
    pub(super) top: PathBuf,
    pub(super) host: PathBuf,
    pub(super) upper: PathBuf,
    pub(super) store: Store,
    pub(super) name: Name,
}

impl Drop for World {
    fn drop(&mut self) {
        let directory = fs::File::open(&self.top).unwrap();
        remove::empty(directory.as_fd()).unwrap();
        fs::remove_dir(&self.top).unwrap();
    }
}

impl World {
    /// One whose task has started behind what `fill` makes in the directory.
    pub(super) fn new(name: &str, fill: impl FnOnce(&Path)) -> Self {
        let top = std::env::temp_dir();
        let top = top.join(format!("uvisor-changes-{}-{name}", crate::process::id()));
        fs::create_dir(&top).unwrap();
        let top = top.canonicalize().unwrap();
        let (host, state) = (top.join("host"), top.join("state"));
        fs::create_dir(&host).unwrap();
        fs::create_dir(&state).unwrap();
        fill(&host);
        let store = Store::at(&state).unwrap();
        let name: Name = "x".parse().unwrap();
        let made = store.make(&name, vec!["sh".into()], &[host.clone()]);
        drop(made.unwrap());
        let upper = store.path().join("x/0/upper");
        Self {
            top,
            host,
            upper,
            store,
            name,
        }
    }

    /// Something that the task has from the host, as the kernel copies it before it is changed.
    pub(super) fn copy_up(&self, path: &str) -> PathBuf {
        let (from, to) = (self.host.join(path), self.upper.join(path));
        let _ = fs::create_dir_all(to.parent().unwrap());
        fs::copy(from, &to).unwrap();
        note(&to, "origin", b"");
        to
    }

    pub(super) fn whiteout(&self, path: &str) {
        let path = self.upper.join(path);
        let mode = Mode::empty();
        mknodat(CWD, &path, FileType::CharacterDevice, mode, 0).unwrap();
    }

    pub(super) fn kept(&self) -> Kept {
        self.store.get(&self.name).unwrap()
    }

    /// The changes, a line each: what, where, and why not.
    pub(super) fn lines(&self) -> Vec<String> {
        let kept = self.kept();
        let all = kept.changes().unwrap();
        let mut lines: Vec<String> = (all[0].found.changes.iter()).map(line).collect();
        lines.sort();
        lines
    }

    pub(super) fn commit(&self, paths: &[&str]) -> Committed {
        let kept = self.kept();
        let lock = kept.lock(Duration::ZERO).unwrap();
        let paths: Vec<PathBuf> = paths.iter().map(|path| self.host.join(path)).collect();
        kept.commit(&lock, &paths).unwrap()
    }

    /// Commits all, which works; nothing is left of it.
    pub(super) fn commit_all(&self) {
        let committed = self.commit(&[]);
        assert_eq!(committed.refused, []);
        assert_eq!(self.lines(), [""; 0]);
        self.assert_clean();
    }

    /// Nothing is left of what a commit makes meanwhile.
    pub(super) fn assert_clean(&self) {
        let mut all = vec![self.host.clone()];
        while let Some(path) = all.pop() {
            assert!(!path.to_string_lossy().contains(".uvctl-"), "{path:?}");
            if path.symlink_metadata().unwrap().is_dir() {
                all.extend(
                    fs::read_dir(path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            }
        }
    }
}

fn line(change: &Change) -> String {
    let what = match (&change.before, &change.after) {
        (None, None) => "?",
        (None, Some(_)) => "A",
        (Some(_), None) => "D",
        (Some(before), Some(after)) if before.kind != after.kind => "T",
        _ => "M",
    };
    let refusal = change.refusal.as_ref();
    let refusal = refusal.map_or(String::new(), |refusal| format!(": {refusal:?}"));
    format!("{what} {}{refusal}", change.path.display())
}

pub(super) fn note(path: &Path, name: &str, value: &[u8]) {
    set(path, &format!("overlay.{name}"), value);
}

pub(super) fn set(path: &Path, name: &str, value: &[u8]) {
    setxattr(path, format!("user.{name}"), value, XattrFlags::empty()).unwrap();
}

pub(super) fn get(path: &Path, name: &str) -> Vec<u8> {
    let mut value = [0; 100];
    let length = rustix::fs::getxattr(path, format!("user.{name}"), &mut value[..]);
    length.map_or(Vec::new(), |length| value[..length].to_vec())
}

pub(super) fn read(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

pub(super) fn mode(path: PathBuf) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

pub(super) fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
