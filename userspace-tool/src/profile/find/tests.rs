// SPDX-License-Identifier: GPL-2.0

//! Tests of profiles in files, and of those that are built in.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::{Device, FileAccess, NetworkRules, Origin, Write};
use super::*;
use crate::personality::table::TABLE;
use crate::personality::Fate;

/// Directories of a test, gone at its end.
struct Files(PathBuf);

impl Files {
    /// With files, each by its path and text.
    fn new(files: &[(&str, &str)]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("uvisor-profiles-{}-{count}", std::process::id());
        let made = Self(std::env::temp_dir().join(name));
        for (path, text) in files {
            let path = made.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        made
    }

    /// Where profiles are looked for.
    fn surroundings(&self) -> Surroundings {
        Surroundings {
            home: Some("/home/u".into()),
            directory: "/work".into(),
            profiles: Some(self.0.join("own")),
            system_profiles: self.0.join("system"),
        }
    }

    /// A path below.
    fn path(&self, path: &str) -> String {
        self.0.join(path).to_str().unwrap().to_owned()
    }

    fn load(&self, name: &str) -> Result<Profile, ProfileError> {
        Profile::load(name, &self.surroundings())
    }

    fn error(&self, name: &str) -> String {
        self.load(name)
            .map(|profile| profile.rules)
            .unwrap_err()
            .to_string()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // It need not be there.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn names_are_found_in_order() {
    let files = Files::new(&[
        ("own/a.toml", "description = \"own\""),
        ("system/a.toml", "description = \"system\""),
        ("system/b.toml", "description = \"system\""),
        ("system/filter.toml", "description = \"system\""),
        ("c.toml", "description = \"here\""),
        ("system/.x.toml", ""),
        ("system/README", ""),
    ]);
    let description = |name: &str| files.load(name).unwrap().description.unwrap();
    assert_eq!(description("a"), "own");
    assert_eq!(description("b"), "system");
    assert_eq!(description("filter"), "system");
    assert!(description("default").starts_with("Ordinary"));
    assert_eq!(description(&files.path("c.toml")), "here");

    let list = Profile::list(&files.surroundings());
    let names: Vec<&str> = list.iter().map(|listed| &*listed.name).collect();
    assert_eq!(
        names,
        [
            "a", "b", "compiler", "default", "document", "filter", "host", "image", "python",
            "shell"
        ]
    );
    let place = |at: usize| list[at].place.clone().unwrap();
    assert_eq!(place(0), Place::File(files.0.join("own/a.toml")));
    assert_eq!(place(3), Place::BuiltIn("default"));
    assert_eq!(place(5), Place::File(files.0.join("system/filter.toml")));

    let unknown = files.error("web");
    assert!(
        unknown.contains("no profile `web`, neither in "),
        "{unknown}"
    );
    assert!(files
        .error("web.toml")
        .ends_with("write ./web.toml for a file that is here"));
    assert!(files.error("a b").contains("is no name"));
    assert!(files
        .error(&files.path("d.toml"))
        .starts_with("there is no profile /"));
}

#[test]
fn what_cannot_be_read_is_not_passed_by() {
    let files = Files::new(&[("own/x", "")]);
    fs::create_dir_all(files.0.join("own/default.toml")).unwrap();
    fs::write(files.0.join("own/latin.toml"), b"# \xe4\n").unwrap();
    fs::write(files.0.join("own/long.toml"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert!(files
        .error("default")
        .starts_with("cannot read the profile /"));
    assert!(files.error("latin").ends_with("is not text in UTF-8"));
    assert!(files.error("long").ends_with("more than 1 MiB"));
    let list = Profile::list(&files.surroundings());
    let broken = list.iter().filter(|listed| listed.profile.is_err());
    assert_eq!(broken.count(), 3);
}

#[test]
fn what_is_included_narrows() {
    let files = Files::new(&[
        (
            "x/a.toml",
            "include = [\"./b.toml\", \"c\"]\n[files]\nread = [\"/usr\", \"/srv\"]\n[limits]\npids = 9\n",
        ),
        (
            "x/b.toml",
            "[files]\nexecute = [\"/usr/lib\"]\nread = [\"/srv\"]\n[network]\nreach = \"host\"\n[processes]\nfork = true\n\
             [syscalls]\nbase = \"standard\"\nrefuse = [\"bind\"]\n[devices]\nallow = [\"tty\", \"null\"]\n",
        ),
        (
            "system/c.toml",
            "[files]\nexecute = [\"/\"]\n[network]\nreach = [\"tcp:*:443\"]\n[processes]\nfork = true\n[memory]\njit = true\n\
             [syscalls]\nbase = \"standard\"\n[devices]\nallow = [\"null\"]\n[limits]\npids = 8\n",
        ),
    ]);
    let a = files.path("x/a.toml");
    let rules = files.load(&a).unwrap().rules;
    assert_eq!(rules.name, a);
    let read = FileAccess::Host {
        execute: false,
        write: Write::No,
    };
    let found: Vec<_> = rules.files.0.iter().collect();
    assert_eq!(found.len(), 2);
    for ((path, rule), (expected, line)) in found.into_iter().zip([("/srv", 3), ("/usr/lib", 3)]) {
        assert_eq!((path.as_path(), rule.access), (Path::new(expected), read));
        // Of two that say the same, the first one: they are in the same line of either file.
        assert!(matches!(&rule.origin, Origin::Profile { line: found, .. } if *found == line));
    }
    assert!(matches!(&rules.network, NetworkRules::Only(only) if only.len() == 1));
    // It is silent about these: what the others both allow.
    assert!(rules.fork && !rules.jit);
    assert_eq!(rules.devices, [Device::Null]);
    assert_eq!(rules.syscalls.refused.keys().collect::<Vec<_>>(), [&"bind"]);
    assert_eq!(rules.limits.pids, Some(8));
}

#[test]
fn what_nobody_mentions_is_refused() {
    let files = Files::new(&[("own/empty.toml", "")]);
    let rules = files.load("empty").unwrap().rules;
    assert!(rules.syscalls.refused.contains_key("socket"));
    let nothing = Rules {
        name: "empty".into(),
        syscalls: rules.syscalls.clone(),
        ..Rules::default()
    };
    assert_eq!(rules, nothing);
}

#[test]
fn circles_and_depths_are_errors() {
    let mut chain: Vec<(String, String)> = (1..8)
        .map(|at| {
            (
                format!("own/d{at}.toml"),
                format!("include = [\"d{}\"]", at + 1),
            )
        })
        .collect();
    chain.push(("own/d8.toml".into(), String::new()));
    chain.push((
        "own/d0.toml".into(),
        "\ninclude = [\"default\", \"d1\"]".into(),
    ));
    chain.push(("own/a.toml".into(), "include = [\"b\"]".into()));
    chain.push(("own/b.toml".into(), "include = [\"host\", \"a\"]".into()));
    chain.push(("own/lost.toml".into(), "include = [ \"web\"]".into()));
    let chain: Vec<(&str, &str)> = chain
        .iter()
        .map(|(path, text)| (&**path, &**text))
        .collect();
    let files = Files::new(&chain);
    let [a, b] = ["own/a.toml", "own/b.toml"].map(|path| files.path(path));
    assert_eq!(
        files.error("a"),
        format!("{b}:1:20: profiles include each other in a circle: {a} -> {b} -> {a}; remove one of these")
    );
    assert!(files.load("d1").is_ok(), "eight of them");
    let deep = files.error("d0");
    let last = files.path("own/d7.toml");
    assert!(
        deep.starts_with(&format!(
            "{last}:1:12: profiles include each other more than 8 deep"
        )),
        "{deep}"
    );
    let lost = files.error("lost");
    let place = files.path("own/lost.toml");
    assert!(
        lost.starts_with(&format!("{place}:1:13: there is no profile `web`")),
        "{lost}"
    );
}

#[test]
fn those_that_are_built_in_are_right() {
    let nowhere = Surroundings {
        system_profiles: "/nonexistent".into(),
        ..Surroundings::default()
    };
    let list = Profile::list(&nowhere);
    assert_eq!(list.len(), BUILT_IN.len());
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/profiles");
    assert_eq!(
        fs::read_dir(directory).unwrap().count(),
        BUILT_IN.len(),
        "one is not built in"
    );
    for Listed {
        name,
        place,
        profile,
    } in list
    {
        let profile = profile.unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(place, Some(Place::BuiltIn(_))), "{name}");
        assert!(profile.description.is_some(), "{name}");
        let rules = profile.rules;
        assert_eq!(rules.network, NetworkRules::None, "{name}");
        assert!(rules.limits.pids.is_some(), "{name}");
        assert_eq!(rules.jit, name == "host");
        // Nothing of the user's is changed unless the user says so.
        for (path, rule) in &rules.files.0 {
            let changes = matches!(
                rule.access,
                FileAccess::Host {
                    write: Write::Overlay | Write::Through,
                    ..
                }
            );
            assert!(!changes, "{name}: {}", path.display());
        }
        for refused in rules.syscalls.refused.keys() {
            let call = TABLE.iter().find(|call| call.name == *refused).unwrap();
            assert!(matches!(call.fate, Fate::Served(_)), "{name}: {refused}");
        }
        let library = Path::new("/usr/lib/x86_64-linux-gnu/libc.so.6");
        let (_, rule) = rules.files.decide(library).unwrap();
        let executes = matches!(rule.access, FileAccess::Host { execute: true, .. });
        assert!(executes, "{name}");
        if name != "host" {
            assert!(
                rules.files.decide(Path::new("/home/u/.ssh")).is_none(),
                "{name}"
            );
            assert!(
                !rules.environment.keeps("AWS_SECRET_ACCESS_KEY".as_ref()),
                "{name}"
            );
        }
    }
}

#[test]
fn the_host_is_all_there_was() {
    let rules = Files::new(&[]).load("host").unwrap().rules;
    assert!(rules.fork && rules.jit && rules.syscalls.refused.is_empty());
    assert_eq!(rules.devices, Device::ALL);
    assert!(rules.environment.keeps("ANYTHING".as_ref()));
    let read = FileAccess::Host {
        execute: true,
        write: Write::No,
    };
    let (path, rule) = rules.files.decide(Path::new("/etc/shadow")).unwrap();
    assert_eq!((path, rule.access), (Path::new("/"), read));
    let line = rule.origin.to_string();
    assert!(line.starts_with("host.toml:"), "{line}");
}
