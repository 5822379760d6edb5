// SPDX-License-Identifier: GPL-2.0

//! Changes for people and for `patch`: in the format of git.
//!
//! Names and, on a terminal, content are a hostile task's: nothing of them writes to the terminal.

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use similar::{ChangeTag, TextDiff};
use uvisor::changes::{Change, Contents, Kept, Kind, Object, Tree};
use uvisor::quote::is_plain;

use super::super::style::{self, paint};

const RED: u8 = 31;
const GREEN: u8 = 32;
const YELLOW: u8 = 33;
const CYAN: u8 = 36;
const BOLD: u8 = 1;

/// Larger files are not compared line by line.
const LARGEST: u64 = 1 << 20;

/// How long the shortest difference between two files is looked for.
const TIME: Duration = Duration::from_millis(500);

/// What is looked at to tell text from something else, as git does.
const START: usize = 8000;

/// How something is printed.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    colours: bool,
    /// Content is shown rather than passed on.
    terminal: bool,
}

impl How {
    /// How it is for standard output.
    pub(super) fn of_this_process() -> Self {
        Self {
            colours: style::colours(),
            terminal: std::io::stdout().is_terminal(),
        }
    }
}

/// A name as it is, or as a string of C's if there is anything in it that is not to be printed.
pub(super) fn quoted(path: &Path) -> String {
    quote("", path)
}

fn quote(before: &str, path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let plain = |letter: char| is_plain(letter) && !matches!(letter, '"' | '\\');
    if let Some(text) = path.to_str().filter(|text| text.chars().all(plain)) {
        return format!("{before}{text}");
    }
    let mut text = format!("\"{before}");
    for byte in bytes {
        match byte {
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            0x20..=0x7e => text.push(char::from(*byte)),
            // Writing to a string cannot fail.
            _ => drop(write!(text, "\\{byte:03o}")),
        }
    }
    text.push('"');
    text
}

/// What of something is another, in a letter.
pub(super) fn letter(change: &Change) -> char {
    match (&change.before, &change.after) {
        (None, None) => '?',
        (None, Some(_)) => 'A',
        (Some(_), None) => 'D',
        (Some(before), Some(after)) if before.kind != after.kind => 'T',
        (Some(_), Some(_)) => 'M',
    }
}

/// A path in the directory that has the overlay; that of a directory ends with `/`.
fn name(change: &Change) -> String {
    let object = change.after.as_ref().or(change.before.as_ref());
    let slash = match object.is_some_and(Object::is_directory) {
        true => "/",
        false => "",
    };
    let path = match change.path.as_os_str().is_empty() {
        true => Path::new("."),
        false => &change.path,
    };
    let name = quoted(path);
    match name.strip_suffix('"') {
        Some(start) if name.starts_with('"') => format!("{start}{slash}\""),
        _ => name + slash,
    }
}

/// A change in a line.
pub(super) fn status(change: &Change, colours: bool) -> String {
    line(change, &name(change), colours)
}

/// The same, of something that is called `name`.
pub(super) fn line(change: &Change, name: &str, colours: bool) -> String {
    let letter = letter(change);
    let colour = match letter {
        'A' => GREEN,
        'D' => RED,
        _ => YELLOW,
    };
    let mut line = format!("{}\t{name}", paint(&letter.to_string(), colour, colours));
    if let Some(refusal) = &change.refusal {
        line += &paint(&format!("\t(refused: {refusal})"), RED, colours);
    }
    line.push('\n');
    line
}

/// What is in files before and behind a change, if it can be compared: of links where they lead.
pub(super) fn contents(kept: &Kept, tree: &Tree, change: &Change) -> Option<Contents> {
    let objects = [change.before.as_ref(), change.after.as_ref()];
    let is = |kind: Kind| {
        let mut objects = objects.iter().flatten();
        objects.all(|object| object.kind == kind)
    };
    if is(Kind::Link) {
        let target =
            |object: Option<&Object>| object.map_or(Vec::new(), |link| link.target.clone());
        return Some((target(objects[0]), target(objects[1])));
    }
    if !is(Kind::File) {
        return None;
    }
    // What cannot be read is told as what is too large.
    kept.contents(tree, change, LARGEST).ok().flatten()
}

fn is_binary(content: &[u8]) -> bool {
    content.iter().take(START).any(|byte| *byte == 0)
}

/// The lines of a text, with their ends.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}

/// A mode as git has it.
fn mode(object: &Object) -> String {
    let kind = match object.kind {
        Kind::Directory => 0o040_000,
        Kind::Link => return "120000".into(),
        Kind::File | Kind::Fifo | Kind::Socket | Kind::Device => 0o100_000,
    };
    format!("{:06o}", kind | object.mode)
}

/// A change in full.
pub(super) fn diff(change: &Change, contents: Option<&Contents>, how: How) -> Vec<u8> {
    let mut heads = vec![format!(
        "diff --git {} {}",
        quote("a/", &change.path),
        quote("b/", &change.path)
    )];
    let kind = |object: &Object| match object.kind {
        Kind::File => "file",
        kind => kind.name(),
    };
    match (&change.before, &change.after) {
        (None, None) => {}
        (None, Some(after)) => heads.push(format!("new {} mode {}", kind(after), mode(after))),
        (Some(before), None) => {
            heads.push(format!("deleted {} mode {}", kind(before), mode(before)));
        }
        (Some(before), Some(after)) => {
            if mode(before) != mode(after) {
                heads.push(format!("old mode {}", mode(before)));
                heads.push(format!("new mode {}", mode(after)));
            }
            if change.parts.owner {
                let ((uid, gid), (to, group)) = (before.owner, after.owner);
                heads.push(format!("owner {uid}:{gid} -> {to}:{group}"));
            }
        }
    }
    heads.extend(attributes(change));
    let mut text = Vec::new();
    for head in heads {
        text.extend_from_slice(paint(&head, BOLD, how.colours).as_bytes());
        text.push(b'\n');
    }
    if let Some(refusal) = &change.refusal {
        let refusal = format!("refused: {refusal}");
        text.extend_from_slice(paint(&refusal, RED, how.colours).as_bytes());
        text.push(b'\n');
    }
    text.extend(content(change, contents, how));
    text
}

/// Attributes that are others.
fn attributes(change: &Change) -> Vec<String> {
    let list = |object: &Option<Object>| {
        let object = object.as_ref();
        object.map_or(Vec::new(), |object| object.attributes.clone())
    };
    let (before, after) = (list(&change.before), list(&change.after));
    let find = |list: &[(Vec<u8>, Vec<u8>)], name: &[u8]| {
        let mut list = list.iter();
        list.find(|(other, _)| other == name)
            .map(|(_, value)| value.clone())
    };
    let show = |bytes: &[u8]| style::printable(&String::from_utf8_lossy(bytes));
    let mut lines = Vec::new();
    for (name, value) in &after {
        match find(&before, name) {
            Some(old) if old == *value => {}
            Some(old) => lines.push(format!(
                "attribute {}: {} -> {}",
                show(name),
                show(&old),
                show(value)
            )),
            None => lines.push(format!("new attribute {}: {}", show(name), show(value))),
        }
    }
    if change.after.is_some() {
        let gone = before
            .iter()
            .filter(|(name, _)| find(&after, name).is_none());
        lines.extend(gone.map(|(name, _)| format!("deleted attribute {}", show(name))));
    }
    lines
}

/// What is another in content.
fn content(change: &Change, contents: Option<&Contents>, how: How) -> Vec<u8> {
    let objects = [&change.before, &change.after];
    let has = |object: &Option<Object>| {
        let object = object.as_ref();
        object.is_some_and(|object| matches!(object.kind, Kind::File | Kind::Link))
    };
    let both = change.before.is_some() && change.after.is_some();
    if !objects.into_iter().any(has) || both && !change.parts.content {
        return Vec::new();
    }
    let side = |object: &Option<Object>, letter: &str| match has(object) {
        true => quote(letter, &change.path),
        false => "/dev/null".into(),
    };
    let (old, new) = (side(&change.before, "a/"), side(&change.after, "b/"));
    let texts = contents.filter(|(old, new)| !is_binary(old) && !is_binary(new));
    let Some((before, after)) = texts else {
        return format!("Binary files {old} and {new} differ\n").into_bytes();
    };
    let (before, after) = (lines(before), lines(after));
    let mut text = Vec::new();
    let difference = TextDiff::configure()
        .timeout(TIME)
        .diff_slices(&before, &after);
    for hunk in difference.unified_diff().context_radius(3).iter_hunks() {
        if text.is_empty() {
            for head in [format!("--- {old}"), format!("+++ {new}")] {
                text.extend_from_slice(paint(&head, BOLD, how.colours).as_bytes());
                text.push(b'\n');
            }
        }
        let header = hunk.header().to_string();
        text.extend_from_slice(paint(header.trim_end(), CYAN, how.colours).as_bytes());
        text.push(b'\n');
        for change in hunk.iter_changes() {
            let (sign, colour) = match change.tag() {
                ChangeTag::Equal => (b' ', None),
                ChangeTag::Delete => (b'-', Some(RED)),
                ChangeTag::Insert => (b'+', Some(GREEN)),
            };
            content_line(&mut text, sign, change.value(), colour, how);
        }
    }
    text
}

/// A line of content: as it is for a program, and as text for a person.
fn content_line(text: &mut Vec<u8>, sign: u8, line: &[u8], colour: Option<u8>, how: How) {
    let (line, end) = match line.strip_suffix(b"\n") {
        Some(line) => (line, true),
        None => (line, false),
    };
    if how.terminal {
        let shown: String = String::from_utf8_lossy(line)
            .chars()
            .map(|letter| match letter == '\t' || !letter.is_control() {
                true => letter.to_string(),
                false => letter.escape_default().to_string(),
            })
            .collect();
        let shown = format!("{}{shown}", char::from(sign));
        let colours = how.colours && colour.is_some();
        text.extend_from_slice(paint(&shown, colour.unwrap_or_default(), colours).as_bytes());
    } else {
        text.push(sign);
        text.extend_from_slice(line);
    }
    text.push(b'\n');
    if !end {
        text.extend_from_slice(b"\\ No newline at end of file\n");
    }
}

/// How much of a file is another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stat {
    name: String,
    /// Lines that were added and removed; none if it is no text.
    lines: Option<(usize, usize)>,
}

impl Stat {
    /// That of a change.
    pub(super) fn new(change: &Change, contents: Option<&Contents>) -> Self {
        let name = name(change);
        let texts = contents.filter(|(old, new)| !is_binary(old) && !is_binary(new));
        let lines = texts.map(|(before, after)| {
            let (before, after) = (lines(before), lines(after));
            let difference = TextDiff::configure()
                .timeout(TIME)
                .diff_slices(&before, &after);
            let changes = difference.iter_all_changes();
            changes.fold((0, 0), |(more, less), change| match change.tag() {
                ChangeTag::Equal => (more, less),
                ChangeTag::Insert => (more + 1, less),
                ChangeTag::Delete => (more, less + 1),
            })
        });
        let is_directory =
            |object: &Option<Object>| object.as_ref().is_none_or(Object::is_directory);
        let nothing = is_directory(&change.before) && is_directory(&change.after);
        Self {
            name,
            lines: if nothing { Some((0, 0)) } else { lines },
        }
    }
}

/// How much was changed, as `git diff --stat` has it.
pub(super) fn stat(all: &[Stat], colours: bool) -> String {
    const WIDTH: usize = 40;
    let width = all.iter().map(|stat| stat.name.chars().count()).max();
    let width = width.unwrap_or(0);
    let count = |stat: &Stat| stat.lines.map_or(0, |(more, less)| more + less);
    let most = all.iter().map(count).max().unwrap_or(0);
    let digits = most.to_string().len().max(3);
    let bar = |lines: usize| match most > WIDTH {
        true => (lines * WIDTH).div_ceil(most),
        false => lines,
    };
    let mut text = String::new();
    for one in all {
        let name = &one.name;
        let what = match one.lines {
            None => format!("{:>digits$}", "Bin"),
            Some((more, less)) => format!(
                "{:>digits$} {}{}",
                more + less,
                paint(&"+".repeat(bar(more)), GREEN, colours),
                paint(&"-".repeat(bar(less)), RED, colours)
            ),
        };
        text += format!(" {name:<width$} | {what}").trim_end();
        text.push('\n');
    }
    let lines = all.iter().filter_map(|stat| stat.lines);
    let (more, less) = lines.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    let of = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        " {} changed, {}(+), {}(-)",
        of(all.len(), "file"),
        of(more, "insertion"),
        of(less, "deletion")
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_write_to_the_terminal() {
        for (name, shown) in [
            ("a b", "a b"),
            ("\u{e4}", "\u{e4}"),
            ("a\nb", "\"a\\nb\""),
            ("\x1b[2J", "\"\\033[2J\""),
            ("a\"b\\", "\"a\\\"b\\\\\""),
            ("a\u{202e}b", "\"a\\342\\200\\256b\""),
        ] {
            assert_eq!(quoted(Path::new(name)), shown);
        }
        let name = std::ffi::OsStr::from_bytes(b"\xff");
        assert_eq!(quote("a/", Path::new(name)), "\"a/\\377\"");
    }

    #[test]
    fn content_is_passed_on_or_shown() {
        let print = |terminal| {
            let mut text = Vec::new();
            let colours = false;
            let how = How { colours, terminal };
            content_line(&mut text, b'+', b"a\tb\x1b[2J\xff", None, how);
            text
        };
        assert_eq!(
            print(false),
            b"+a\tb\x1b[2J\xff\n\\ No newline at end of file\n"
        );
        let shown = String::from_utf8(print(true)).unwrap();
        assert_eq!(
            shown,
            "+a\tb\\u{1b}[2J\u{fffd}\n\\ No newline at end of file\n"
        );
    }

    #[test]
    fn statistics_fit() {
        let stats = [
            Stat {
                name: "a".into(),
                lines: Some((1, 0)),
            },
            Stat {
                name: "long/name".into(),
                lines: Some((200, 100)),
            },
            Stat {
                name: "b".into(),
                lines: None,
            },
        ];
        let text = stat(&stats, false);
        let expected = [
            " a         |   1 +".to_owned(),
            format!(" long/name | 300 {}{}", "+".repeat(27), "-".repeat(14)),
            " b         | Bin".into(),
            " 3 files changed, 201 insertions(+), 100 deletions(-)".into(),
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
