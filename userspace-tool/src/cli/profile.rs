// SPDX-License-Identifier: GPL-2.0

//! `uvctl profile`.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{json, Value};
use uvisor::profile::{schema, Listed, Place, Profile, Surroundings};

use super::{style, Output};

/// Look at profiles: what tasks may touch.
///
/// A profile is a file in TOML. What it does not mention is refused. One with a name is NAME.toml in
/// $XDG_CONFIG_HOME/uvisor/profiles (or ~/.config/uvisor/profiles), in /etc/uvisor/profiles, or built into uvctl; the
/// first one found in this order is taken.
#[derive(Debug, Args)]
pub(crate) struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[command(after_help = "A profile, in which every key may be left out:
  description = \"My web thing.\"
  include = [\"default\"]               # narrowed by what each of these allows
  [files]                             # / or ~/, or ./ for the directory that uvctl is started in
  read = [\"/etc/ssl\"]                 # seen and read, with all that is below
  execute = [\"/usr/lib\"]              # read, and executed or mapped as code
  change = [\"~/out\"]                  # read and changed: the host's own files
  overlay = [\"~/src\"]               # read and changed, but only in an overlay: see `uvctl run --keep`
  hide = [\"/usr/lib/private\"]         # not there, even below something that is
  tmpfs = [\"/tmp\"]                    # an empty directory in memory
  [network]
  reach = [\"tcp:example.org:443\"]     # or \"none\" or \"host\"; PROTOCOL:HOST:PORTS
  listen = [\"tcp:8080\"]
  [processes]
  fork = true                         # threads are allowed in any case
  [memory]
  jit = false                         # what could be written never becomes executable
  [syscalls]
  base = \"standard\"                   # or \"minimal\"
  allow = []                          # some that the base refuses
  refuse = [\"bind\"]
  [devices]
  allow = [\"null\", \"urandom\"]         # zero, full, random, tty, pts, shm
  [environment]
  keep = [\"PATH\", \"LC_*\"]
  set = { LANG = \"C.UTF-8\" }
  [limits]
  memory = \"64M\"
  cpu = \"10s\"
  time = \"1m\"
  pids = 8
  fds = 64

Paths that the machine does not have are no mistakes: they are simply not there.

Exit status: 0, or 125 with a reason on standard error.

Examples:
  uvctl profile list
  uvctl profile show default >web.toml      start from one that there is,
  uvctl explain --diff default ./web.toml   and see what that changes
  uvctl profile schema >profile.schema.json")]
enum Command {
    /// List the profiles that have names.
    List(Output),
    /// Print the text of a profile.
    Show {
        /// The profile: a name, or a path with a `/` in it.
        profile: String,
    },
    /// Print the JSON schema of profiles, such as for an editor.
    Schema,
}

/// Does what the command line says.
pub(crate) fn main(line: &Line) -> Result<(), String> {
    let surroundings = Surroundings::of_this_process();
    let text = match &line.command {
        Command::List(output) => {
            let list = Profile::list(&surroundings);
            match output.json {
                true => format!("{:#}\n", list.iter().map(value).collect::<Value>()),
                false => table(&list, style::colours()),
            }
        }
        Command::Show { profile } => {
            let text = Profile::text(profile, &surroundings);
            let (_, text) = text.map_err(|error| style::printable(&error.to_string()))?;
            text
        }
        Command::Schema => format!("{:#}\n", schema()),
    };
    style::print(&text).map_err(|error| error.to_string())
}

/// Where a profile is.
fn place(listed: &Listed) -> String {
    match &listed.place {
        Some(Place::File(path)) => path.display().to_string(),
        Some(Place::BuiltIn(_)) => "built in".into(),
        None => "?".into(),
    }
}

/// A profile for a program.
fn value(listed: &Listed) -> Value {
    let (description, error) = match &listed.profile {
        Ok(profile) => (profile.description.clone(), None),
        Err(error) => (None, Some(error.to_string())),
    };
    json!({
        "name": listed.name,
        "built_in": matches!(listed.place, Some(Place::BuiltIn(_))),
        "path": match &listed.place {
            Some(Place::File(path)) => Some(path.to_string_lossy()),
            _ => None,
        },
        "description": description,
        "error": error,
    })
}

/// Profiles for a person.
fn table(list: &[Listed], colours: bool) -> String {
    const RED: u8 = 31;
    let place = |listed| style::printable(&place(listed));
    let name_width = list
        .iter()
        .map(|listed| listed.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let widths = list.iter().map(|listed| place(listed).chars().count());
    let place_width = widths.max().unwrap_or(0).max(5);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:<name_width$}  {:<place_width$}  DESCRIPTION",
        "NAME", "PLACE"
    );
    for listed in list {
        let last = match &listed.profile {
            Ok(profile) => style::printable(profile.description.as_deref().unwrap_or_default()),
            Err(error) => style::paint(&style::printable(&error.to_string()), RED, colours),
        };
        let line = format!(
            "{:<name_width$}  {:<place_width$}  {last}",
            listed.name,
            place(listed)
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> Vec<Listed> {
        Profile::list(&Surroundings {
            system_profiles: "/nonexistent".into(),
            ..Surroundings::default()
        })
    }

    #[test]
    fn all_are_listed_in_columns() {
        let list = list();
        let text = table(&list, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + list.len());
        let at = lines[0].find("DESCRIPTION").unwrap();
        for (line, listed) in lines[1..].iter().zip(&list) {
            assert!(line.starts_with(&listed.name));
            let description = listed.profile.as_ref().unwrap().description.as_deref();
            assert_eq!(&line[at..], description.unwrap());
            assert!(line.contains("  built in  "));
        }
    }

    #[test]
    fn json_tells_mistakes() {
        let broken = Listed {
            name: "x".into(),
            place: Some(Place::File("/x.toml".into())),
            profile: Profile::load("no such", &Surroundings::default()),
        };
        let value = value(&broken);
        assert_eq!(value["path"], "/x.toml");
        assert_eq!(value["built_in"], false);
        assert!(value["error"].as_str().unwrap().contains("no such"));
        assert!(table(&[broken], true).contains("\x1b[31m"));
    }

    #[test]
    fn the_help_shows_a_profile_that_is_right() {
        use clap::CommandFactory;
        let mut command = super::super::Cli::command();
        command.build();
        let help = command.find_subcommand("profile").unwrap().clone();
        let help = help.get_after_help().unwrap().to_string();
        let example: Vec<&str> = help
            .lines()
            .skip(1)
            .take_while(|line| !line.is_empty())
            .map(str::trim_start)
            .collect();
        let path = std::env::temp_dir().join(format!("uvctl-help-{}.toml", std::process::id()));
        std::fs::write(&path, example.join("\n")).unwrap();
        let surroundings = Surroundings {
            home: Some("/home/u".into()),
            directory: "/work".into(),
            system_profiles: "/nonexistent".into(),
            profiles: None,
        };
        let loaded = Profile::load(path.to_str().unwrap(), &surroundings);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(loaded.unwrap().description.unwrap(), "My web thing.");
    }
}
