// SPDX-License-Identifier: GPL-2.0

//! What the host's kernel says of itself in /proc.

/// The number behind the word `name` in a file of /proc.
pub fn number(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).expect(file);
    let line = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("a number")
}
