// SPDX-License-Identifier: GPL-2.0

//! What a space keeps its regions and views in, which fails where it is told to; and a space of these.

use std::fmt;
use std::rc::Rc;

use uvisor_ept::{Region, Slots, Space, Store, View};

use crate::host::{Back, Failure, NoMemory, TestHost};

/// An array that can fail to grow, and that wants room to be reserved before each insertion.
pub struct TestStore<T> {
    /// The elements.
    elements: Rc<Vec<T>>,
    /// For how many there is room.
    room: usize,
    /// Which allocation fails.
    failure: Failure,
}

impl<T> TestStore<T> {
    /// An empty one.
    pub fn new(failure: &Failure) -> Self {
        Self {
            elements: Rc::new(Vec::new()),
            room: 0,
            failure: failure.clone(),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for TestStore<T> {
    /// With the address of the elements, which tells who has them in common, and without the room, which
    /// each change reserves.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestStore")
            .field("at", &Rc::as_ptr(&self.elements))
            .field("elements", &self.elements)
            .finish()
    }
}

impl<T> TestStore<T> {
    /// The elements, which must be this array's alone.
    fn own(&mut self) -> &mut Vec<T> {
        Rc::get_mut(&mut self.elements).expect("the elements are shared")
    }
}

impl<T: Clone> Store<T> for TestStore<T> {
    type Error = NoMemory;

    fn as_slice(&self) -> &[T] {
        &self.elements
    }

    fn as_mut_slice(&mut self) -> &mut [T] {
        self.own()
    }

    fn reserve(&mut self, additional: usize) -> Result<(), NoMemory> {
        let is_shared = Rc::strong_count(&self.elements) > 1;
        if is_shared || additional > 0 {
            self.failure.allocate()?;
        }
        Rc::make_mut(&mut self.elements);
        self.room = self.elements.len() + additional;
        Ok(())
    }

    fn share(&mut self) -> Result<Self, NoMemory> {
        self.failure.allocate()?;
        Ok(Self {
            elements: Rc::clone(&self.elements),
            room: 0,
            failure: self.failure.clone(),
        })
    }

    fn insert(&mut self, at: usize, value: T) {
        assert!(self.elements.len() < self.room, "no room was reserved");
        self.own().insert(at, value);
    }

    fn remove(&mut self, at: usize) -> Option<T> {
        (at < self.elements.len()).then(|| self.own().remove(at))
    }
}

/// Places for views, which can fail to become more.
#[derive(Debug)]
pub struct TestSlots<T>(Vec<Option<T>>, Failure);

impl<T> TestSlots<T> {
    /// None.
    pub fn new(failure: &Failure) -> Self {
        Self(Vec::new(), failure.clone())
    }
}

impl<T> Slots<T> for TestSlots<T> {
    type Error = NoMemory;

    fn as_slice(&self) -> &[Option<T>] {
        &self.0
    }

    fn as_mut_slice(&mut self) -> &mut [Option<T>] {
        &mut self.0
    }

    fn grow(&mut self) -> Result<(), NoMemory> {
        self.1.allocate()?;
        self.0.push(None);
        Ok(())
    }
}

/// Regions of a test.
pub type TestRegions = TestStore<Region<Back>>;
/// Views of a test.
pub type TestViews = TestSlots<View<Back, TestRegions>>;
/// A space of a test.
pub type TestSpace = Space<Back, TestRegions, TestViews>;

/// An empty space.
pub fn new_space(
    host: &mut TestHost,
    failure: &Failure,
    max_regions: usize,
) -> Result<TestSpace, NoMemory> {
    let (regions, views) = (TestStore::new(failure), TestSlots::new(failure));
    Space::new(host, regions, views, max_regions)
}
