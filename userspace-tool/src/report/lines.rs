// SPDX-License-Identifier: GPL-2.0

//! Lines of a stream that may be anything: long ones are not kept.

use std::io::{self, BufRead};

/// The longest line that is read; an event is much shorter.
pub(super) const LONGEST: usize = 1 << 20;

/// What was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A line.
    Whole,
    /// What is behind the last newline.
    Last,
    /// One that is too long, of which nothing is there.
    TooLong,
}

/// Reads the next line into `line`, without its newline; `None` at the end.
pub(super) fn next(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Option<Line>> {
    line.clear();
    let mut too_long = false;
    let mut any = false;
    loop {
        let bytes = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        let newline = bytes.iter().position(|&byte| byte == b'\n');
        let part = &bytes[..newline.unwrap_or(bytes.len())];
        let ended = bytes.is_empty();
        any |= !ended;
        if too_long || part.len() > LONGEST - line.len() {
            too_long = true;
            line.clear();
        } else {
            line.extend_from_slice(part);
        }
        let used = part.len() + usize::from(newline.is_some());
        input.consume(used);
        if newline.is_some() || ended {
            return Ok(match (any, too_long, ended) {
                (false, ..) => None,
                (_, true, _) => Some(Line::TooLong),
                (_, _, true) => Some(Line::Last),
                (_, _, false) => Some(Line::Whole),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<(Line, usize)> {
        // Of a small buffer, so that lines are in pieces.
        let mut input = BufReader::with_capacity(7, bytes);
        let mut line = Vec::new();
        let mut lines = Vec::new();
        while let Some(kind) = next(&mut input, &mut line).unwrap() {
            lines.push((kind, line.len()));
        }
        lines
    }

    #[test]
    fn lines_are_read_to_the_end() {
        assert_eq!(all(b""), []);
        assert_eq!(all(b"\n"), [(Line::Whole, 0)]);
        assert_eq!(
            all(b"ab\n123456789\n"),
            [(Line::Whole, 2), (Line::Whole, 9)]
        );
        assert_eq!(all(b"ab\ncut"), [(Line::Whole, 2), (Line::Last, 3)]);
    }

    #[test]
    fn long_ones_are_not_kept() {
        let mut bytes = vec![b'x'; 3 * LONGEST];
        bytes.extend_from_slice(b"\nab\n");
        assert_eq!(all(&bytes), [(Line::TooLong, 0), (Line::Whole, 2)]);
        let exact = vec![b'x'; LONGEST];
        assert_eq!(all(&exact), [(Line::Last, LONGEST)]);
        assert_eq!(all(&vec![b'x'; LONGEST + 1]), [(Line::TooLong, 0)]);
    }
}
