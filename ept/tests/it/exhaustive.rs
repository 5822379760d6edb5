// SPDX-License-Identifier: GPL-2.0

//! All sequences of steps up to a bound, in a tiny universe: three pages at places that have tables of
//! different levels in common, and two or three spaces. Each allocation of each step also fails.
//!
//! Sequences that lead to the same state (see [`state`](crate::state)) go on in the same way, so only the
//! first of them is gone on with; with all others they are counted, and printed with `--nocapture`.

use std::collections::HashMap;

use uvisor_ept::Perm;

use crate::effort::Effort;
use crate::family::Family;
use crate::host::{Failure, What};
use crate::model::{segment, SEGMENTS};
use crate::state;
use crate::step::{do_step, is_told, Rules, Step};

mod files;

const RW: Perm = Perm::from_bits_truncate(3);

/// Three pages, by their segments in ascending order.
type Pages = [usize; 3];

/// Two in a leaf table and one in the next; in three leaf tables, of which one is all in the range from
/// the first to the last, and two directories; and below two entries of the root.
const PLACES: [[u64; 3]; 3] = [
    [(1 << 9) - 2, (1 << 9) - 1, 1 << 9],
    [(1 << 9) - 1, 1 << 9, 1 << 18],
    [(1 << 27) - 1, 1 << 27, (1 << 27) + 1],
];

/// What is explored, for all of [`PLACES`].
struct Play {
    name: &'static str,
    rules: Rules,
    /// What was done before.
    before: fn(Pages) -> Vec<Step>,
    /// All steps that a member may do; a write leaves the last number.
    steps: fn(Pages, usize, u64) -> Vec<Step>,
    /// How many steps follow, by [`Effort`].
    depths: [usize; 3],
}

/// All steps that a member may do; a write leaves `content`.
fn steps_of([a, b, c]: Pages, member: usize, content: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::Clone(member),
        Step::Reset(member),
        Step::Destroy(member),
    ];
    for page in [a, b, c] {
        steps.push(Step::Access(member, 0, page, Perm::W, content));
        steps.push(Step::Access(member, 0, page, Perm::R, 0));
    }
    for segments in [(a, a), (b, b), (a, c)] {
        steps.push(Step::Map(member, segments, RW, What::Zeros));
        steps.push(Step::Map(member, segments, RW, What::File(0)));
        steps.push(Step::Unmap(member, segments));
        steps.push(Step::Protect(member, segments, Perm::R));
        steps.push(Step::Protect(member, segments, RW));
        steps.push(Step::Discard(member, segments));
    }
    steps
}

/// Steps of a member that has views; a write leaves `content`.
fn steps_with_views([a, b, c]: Pages, member: usize, content: u64) -> Vec<Step> {
    let mut steps = vec![
        Step::Clone(member),
        Step::Reset(member),
        Step::Destroy(member),
        Step::AddView(member, Perm::all()),
        Step::RemoveView(member, 1),
        Step::Unmap(member, (a, c)),
        Step::Discard(member, (b, b)),
        Step::GiveBack(member, 1),
        Step::GiveBackCommon(member, 1, false),
        Step::Protect(member, (a, b), Perm::R),
        Step::Seal(member, (b, b)),
    ];
    for view in 0..2 {
        for page in [a, b] {
            steps.push(Step::Access(member, view, page, Perm::W, content));
            steps.push(Step::Access(member, view, page, Perm::R, 0));
        }
    }
    for perm in [Perm::empty(), Perm::R, RW] {
        steps.push(Step::ProtectView(member, 1, (b, c), perm));
    }
    steps
}

/// A step that was done, and which of its allocations failed.
#[derive(Clone, Copy)]
struct Done {
    /// Its number in the steps of all members.
    step: usize,
    fail: Option<usize>,
}

/// A state and how it was first reached.
struct Found {
    from: usize,
    done: Done,
}

/// Steps and which of their allocations fail, printed if one of them panics.
struct Trace(Vec<(Step, Option<usize>)>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("after {:#?}", self.0);
        }
    }
}

/// An exploration.
struct Search {
    rules: Rules,
    before: Vec<Step>,
    pages: Pages,
    steps_of: fn(Pages, usize, u64) -> Vec<Step>,
    found: Vec<Found>,
    by_state: HashMap<u128, usize>,
    /// For each state that was gone on with, where each step from it leads, unless these were the last.
    edges: Vec<Vec<usize>>,
    /// For each of them, how many steps there are.
    steps: Vec<u128>,
    /// How many steps were done.
    tried: u64,
}

impl Search {
    fn new(play: &Play, places: [u64; 3]) -> Self {
        let pages = places.map(|page| {
            let found = (0..SEGMENTS).find(|&number| segment(number).0 == page);
            found.expect("a segment begins there")
        });
        Self {
            rules: play.rules,
            before: (play.before)(pages),
            pages,
            steps_of: play.steps,
            found: Vec::new(),
            by_state: HashMap::new(),
            edges: Vec::new(),
            steps: Vec::new(),
            tried: 0,
        }
    }

    /// The step of a number and the member that does it; `position` makes its content new.
    fn step(&self, number: usize, position: usize) -> (usize, Step) {
        let steps = |member| (self.steps_of)(self.pages, member, position as u64 + 1);
        let (member, number) = (number / steps(0).len(), number % steps(0).len());
        (member, steps(member).swap_remove(number))
    }

    /// The steps that lead to a state.
    fn path(&self, mut state: usize) -> Vec<(Step, Option<usize>)> {
        let mut path = Vec::new();
        while state != 0 {
            path.push(self.found[state].done);
            state = self.found[state].from;
        }
        path.reverse();
        let before = self.before.iter().map(|step| (step.clone(), None));
        let path = path.iter().enumerate();
        before
            .chain(path.map(|(position, done)| (self.step(done.step, position).1, done.fail)))
            .collect()
    }

    /// A family that did `path`, which was compared when it was found.
    fn replay(&self, path: &[(Step, Option<usize>)], failure: &Failure) -> Family {
        failure.after(None);
        let mut family = Family::new(failure).unwrap();
        family.watched.clear();
        for (step, fail) in path {
            failure.after(*fail);
            let no_memory = do_step(&mut family, step, self.rules);
            assert_eq!(no_memory, is_told(step, failure, *fail), "{step:?}");
            failure.after(None);
        }
        family
    }

    /// The number of the state of a family, which is noted if it is new.
    fn note(&mut self, family: &Family, from: usize, done: Done) -> usize {
        let next = self.found.len();
        let number = *self.by_state.entry(state::of(family)).or_insert(next);
        if number == next {
            self.found.push(Found { from, done });
        }
        number
    }

    /// Does all steps that are possible in a state; `is_last` if their states are not wanted.
    fn go_on(&mut self, state: usize, is_last: bool) {
        let failure = Failure::default();
        let mut path = Trace(self.path(state));
        let position = path.0.len() - self.before.len();
        let mut edges = Vec::new();
        let before = self.tried;
        'steps: for step in 0.. {
            let (member, what) = self.step(step, position);
            for allocation in 0.. {
                let mut family = self.replay(&path.0, &failure);
                if member >= family.members.len() {
                    break 'steps;
                }
                path.0.push((what.clone(), Some(allocation)));
                family.watched.extend(self.pages);
                failure.after(Some(allocation));
                let no_memory = do_step(&mut family, &what, self.rules);
                let failed = !failure.is_pending();
                let told = is_told(&what, &failure, Some(allocation));
                failure.after(None);
                assert_eq!(no_memory, told, "{what:?}");
                self.tried += 1;
                if !is_last {
                    let fail = failed.then_some(allocation);
                    edges.push(self.note(&family, state, Done { step, fail }));
                }
                family.watched.clear();
                family.end();
                path.0.pop();
                if !failed {
                    break;
                }
            }
        }
        self.edges.push(edges);
        self.steps.push((self.tried - before).into());
    }

    /// Explores to a depth.
    fn run(&mut self, depth: usize) {
        let start = self.replay(&self.path(0), &Failure::default());
        let none = Done {
            step: 0,
            fail: None,
        };
        self.note(&start, 0, none);
        start.end();
        let mut at = 0;
        for level in 1..=depth {
            let end = self.found.len();
            while at < end {
                self.go_on(at, level == depth);
                at += 1;
            }
        }
    }

    /// How many sequences of so many steps there are.
    fn sequences(&self, depth: usize) -> u128 {
        let mut ways = vec![0u128; self.found.len()];
        ways[0] = 1;
        for _ in 1..depth {
            let mut next = vec![0; ways.len()];
            for (edges, count) in self.edges.iter().zip(&ways) {
                for &to in edges {
                    next[to] += count;
                }
            }
            ways = next;
        }
        let last = self.steps.iter().zip(&ways);
        last.map(|(steps, count)| steps * count).sum()
    }
}

/// Explores as far as this build and run should, and says how much that was.
fn explore(play: &Play) {
    let depth = play.depths[Effort::now() as usize];
    let (mut sequences, mut states, mut tried) = (0, 0, 0);
    for places in PLACES {
        let mut search = Search::new(play, places);
        search.run(depth);
        sequences += search.sequences(depth);
        states += search.edges.len();
        tried += search.tried;
    }
    println!(
        "{}: all {sequences} sequences of {depth} steps, by {tried} steps from {states} states",
        play.name
    );
}

/// A family whose first member has all pages, and a clone of it.
fn with_a_clone([a, b, c]: Pages) -> Vec<Step> {
    let mut steps = vec![Step::Map(0, (a, c), RW, What::File(0))];
    for page in [a, b, c] {
        steps.push(Step::Access(0, 0, page, Perm::W, 1000 + page as u64));
    }
    steps.push(Step::Clone(0));
    steps
}

#[test]
fn clones_from_nothing() {
    explore(&Play {
        name: "two clones, from nothing",
        rules: Rules {
            template: false,
            members: 2,
        },
        before: |_| Vec::new(),
        steps: steps_of,
        depths: [3, 5, 6],
    });
}

#[test]
fn template_from_nothing() {
    explore(&Play {
        name: "a template with two clones, from nothing",
        rules: Rules {
            template: true,
            members: 3,
        },
        before: |_| Vec::new(),
        steps: steps_of,
        depths: [3, 5, 6],
    });
}

#[test]
fn three_clones_with_all_pages() {
    explore(&Play {
        name: "three clones with all pages",
        rules: Rules {
            template: false,
            members: 3,
        },
        before: with_a_clone,
        steps: steps_of,
        depths: [1, 3, 4],
    });
}

#[test]
fn template_with_all_pages() {
    explore(&Play {
        name: "a template with two clones, with all pages",
        rules: Rules {
            template: true,
            members: 3,
        },
        before: with_a_clone,
        steps: steps_of,
        depths: [2, 4, 5],
    });
}

/// A family whose first member has all pages and a view that has seen one of them, and a clone of it.
fn with_a_view(pages: Pages) -> Vec<Step> {
    let mut steps = with_a_clone(pages);
    let clone = steps.pop();
    steps.push(Step::AddView(0, Perm::all()));
    steps.push(Step::Access(0, 1, pages[0], Perm::R, 0));
    steps.extend(clone);
    steps
}

#[test]
fn views_of_a_template() {
    explore(&Play {
        name: "a template with a view, and a clone",
        rules: Rules {
            template: true,
            members: 2,
        },
        before: with_a_view,
        steps: steps_with_views,
        depths: [2, 4, 5],
    });
}

#[test]
fn views_of_clones() {
    explore(&Play {
        name: "two clones with a view",
        rules: Rules {
            template: false,
            members: 2,
        },
        before: with_a_view,
        steps: steps_with_views,
        depths: [2, 3, 4],
    });
}
