// SPDX-License-Identifier: GPL-2.0

//! What can be wrong with a profile, and where.

use std::io;
use std::ops::Range;
use std::path::PathBuf;

use thiserror::Error;

/// Why a profile cannot be used.
#[derive(Debug, Error)]
pub enum ProfileError {
    /// A place in it is wrong.
    #[error("{profile}:{line}:{column}: {what}")]
    Wrong {
        /// The profile's name or path.
        profile: String,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// What is wrong there, and what to do.
        what: String,
    },
    /// There is none of that name.
    #[error("{0}")]
    NotFound(String),
    /// It cannot be read.
    #[error("cannot read the profile {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no text, or too long for a profile.
    #[error("{path} is no profile: {what}")]
    NoText {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
}

/// A profile's text and what it is called, to tell where something is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    /// What errors and origins call it.
    pub(super) name: &'a str,
    /// All of it.
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The line and the column, both from 1, of a byte.
    pub(super) fn position(&self, byte: usize) -> (usize, usize) {
        // What the parser says is a border between characters; if it once is not, the start of the text is.
        let before = self.text.get(..byte).unwrap_or_default();
        let column = before.rsplit('\n').next().unwrap_or_default();
        (self.line(byte), column.chars().count() + 1)
    }

    /// The line of a byte, from 1.
    pub(super) fn line(&self, byte: usize) -> usize {
        let before = self.text.as_bytes().get(..byte).unwrap_or_default();
        let ends = before.iter().filter(|byte| **byte == b'\n');
        ends.count() + 1
    }

    /// That something is wrong there.
    pub(super) fn wrong(&self, span: Range<usize>, what: impl Into<String>) -> ProfileError {
        let (line, column) = self.position(span.start);
        ProfileError::Wrong {
            profile: self.name.to_owned(),
            line,
            column,
            what: what.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let source = Source {
            name: "x.toml",
            text: "a = 1\n\u{e4}\u{f6} = 2\n",
        };
        assert_eq!(source.position(0), (1, 1));
        assert_eq!(source.position(5), (1, 6));
        assert_eq!(source.position(6), (2, 1));
        assert_eq!(source.position(10), (2, 3));
        assert_eq!(source.position(99), (1, 1));
        let error = source.wrong(6..7, "it is wrong");
        assert_eq!(error.to_string(), "x.toml:2:1: it is wrong");
    }
}
