// SPDX-License-Identifier: GPL-2.0

//! A tree that is written to as the module does it, in memory that several threads have in common.

use uvisor_ept::{Gpa, Host, Hpa, Leaf, Owner, Perm, Retired, Tree};

const RW: Perm = Perm::from_bits_truncate(3);

/// Where frames come from, and what is in them.
pub trait Frames: Host<Error = ()> {
    /// A frame with one reference.
    fn new_frame(&mut self) -> Hpa;
    /// What is in a frame.
    fn read(&self, frame: Hpa) -> u64;
    /// Writes to a frame.
    fn write(&self, frame: Hpa, value: u64);
}

/// Where a guest has a page.
fn gpa(page: u64) -> Gpa {
    let (leaf, table, directory) = (page % 8, page / 8 % 4, page / 32);
    Gpa((leaf + (table << 9) + (directory << 18)) << 12)
}

/// A tree and what must be in its pages; nothing is in those that were never written to, and no 0 in others.
pub struct Guest {
    pub tree: Tree,
    pub model: Vec<u64>,
}

impl Guest {
    /// One of so many pages.
    pub fn new(host: &mut impl Frames, pages: u64) -> Self {
        Self {
            tree: Tree::new(host).unwrap(),
            model: vec![0; pages as usize],
        }
    }

    /// Writes as the module does: own tables first, then an own frame.
    pub fn write(&mut self, host: &mut impl Frames, page: u64, value: u64) {
        let at = gpa(page);
        let mut retired = Retired::new();
        self.tree.unshare(host, at, &mut retired).unwrap();
        retired.give_back(host);
        let frame = match self.tree.get(host, at) {
            Some(leaf) if leaf.owner == Owner::Private => {
                assert!(leaf.perm.contains(Perm::W));
                let is_shared = host.is_frame_shared(leaf.frame);
                assert!(!is_shared, "two may write to one page");
                leaf.frame
            }
            Some(leaf) if !host.is_frame_shared(leaf.frame) => {
                let own = Leaf {
                    perm: RW,
                    owner: Owner::Private,
                    ..leaf
                };
                self.tree.replace(host, at, own).unwrap();
                leaf.frame
            }
            mapped => {
                let leaf = Leaf {
                    frame: host.new_frame(),
                    perm: RW,
                    owner: Owner::Private,
                };
                // Nobody sees the page before its content.
                let old = mapped.map_or(0, |from| host.read(from.frame));
                host.write(leaf.frame, old);
                match mapped {
                    Some(_) => {
                        let old = self.tree.replace(host, at, leaf).unwrap();
                        host.put_frame(old.frame, old.owner);
                    }
                    None => self.tree.insert(host, at, leaf).unwrap(),
                }
                leaf.frame
            }
        };
        let old = host.read(frame);
        assert_eq!(old, self.model[page as usize], "page {page}");
        host.write(frame, value);
        self.model[page as usize] = value;
    }

    /// Compares all pages.
    pub fn check(&self, host: &impl Frames) {
        for (page, wanted) in self.model.iter().enumerate() {
            let leaf = self.tree.get(host, gpa(page as u64));
            let found = leaf.map(|leaf| host.read(leaf.frame));
            assert_eq!(found.unwrap_or(0), *wanted, "page {page}");
        }
    }

    /// A clone, of which this one is the parent.
    pub fn clone(&mut self, host: &mut impl Frames) -> Self {
        let (tree, _) = self.tree.share(host).unwrap();
        Self {
            tree,
            model: self.model.clone(),
        }
    }
}
